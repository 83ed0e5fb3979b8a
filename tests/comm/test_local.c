/* SPDX-License-Identifier: Apache-2.0 */
/* The comm plugin "local": the contract for 1 to 8 ranks, and every way in which a rank can fail its group. No group may
 * hang, and the rank at fault must be named. */
#include <pthread.h>

#include "check_util.h"
#include "comm/contract.h"
#include "plugin/registry.h"

enum { MAX = 8 };

static struct registry *registry;
static const struct registry_view *view;
static const tn_comm_backend *backend;
static void *instance;
static const char *name = "local";

/* How long calls wait. A test that waits for it to pass makes it short; for the others it is but a way out. */
static const uint64_t LONG = UINT64_C(60000000000), SHORT = UINT64_C(1000000000);
static uint64_t patience[MAX];

static tn_kv settings[8];
static uint32_t n_settings;

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    (void)arg;
    *items = settings;
    return strcmp(plugin, "local") == 0 ? n_settings : 0;
}

static void be_impatient(void)
{
    for (uint32_t i = 0; i < MAX; i++)
        patience[i] = SHORT;
}

static void set(const char *key, const char *value)
{
    settings[n_settings++] = (tn_kv){key, value};
}

static int32_t open_plugin(tn_err *err)
{
    const char *path = BUILD_DIR "/lib/tenon/plugins";
    struct registry_options o = {.paths = &path, .n_paths = 1, .config = config};
    int32_t rc = registry_open(&o, &registry, err);

    if (rc != TN_OK)
        return rc;
    view = registry_acquire(registry);
    return registry_comm(view, name, &backend, &instance, err);
}

static void close_plugin(void)
{
    registry_release(view);
    registry_close(registry);
    registry = NULL;
    n_settings = 0;
}

struct rank {
    pthread_t thread;
    const uint8_t *id;
    uint32_t rank, n;
    void (*work)(struct rank *r);
    tn_comm_group *group;
    int32_t rc;
    tn_err err;
};

static const uint32_t members[MAX + 1] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

static tn_comm_join join_of(const uint8_t *id, uint32_t rank, uint32_t n)
{
    return (tn_comm_join){.h = TN_HDR(tn_comm_join),
                          .id = id,
                          .rank = rank,
                          .n_ranks = n,
                          .members = members,
                          .timeout_ns = UINT64_C(20000000000),
                          .call_timeout_ns = patience[rank] ? patience[rank] : LONG};
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    tn_comm_join how = join_of(r->id, r->rank, r->n);

    r->rc = backend->join(instance, &how, &r->group, &r->err);
    if (r->rc != TN_OK)
        return NULL;
    r->work(r);
    backend->leave(r->group);
    return NULL;
}

static struct rank ranks[MAX];

/* `n` ranks do `work`; how it went stands in ranks[]. */
static void run(uint32_t n, void (*work)(struct rank *r))
{
    tn_err err = TN_ERR_INIT;
    uint8_t id[TN_COMM_ID_BYTES];

    if (!registry)
        ck_assert_ok(open_plugin(&err), &err);
    ck_assert_ok(backend->can_join(instance, n, n, NULL, &err), &err);
    ck_assert_ok(backend->make_id(instance, id, &err), &err);
    for (uint32_t i = 0; i < n; i++) {
        ranks[i] = (struct rank){.id = id, .rank = i, .n = n, .work = work, .err = TN_ERR_INIT};
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++)
        pthread_join(ranks[i].thread, NULL);
}

static void expect(uint32_t first, uint32_t end, int32_t rc, const char *text)
{
    for (uint32_t i = first; i < end; i++) {
        ck_assert_msg(ranks[i].rc == rc, "rank %u: %d: %s", i, (int)ranks[i].rc, ranks[i].err.msg);
        if (text)
            ck_assert_err_has(&ranks[i].err, text);
    }
}

static void contract(struct rank *r)
{
    r->rc = contract_run(backend, r->group, r->rank, r->n, NULL, &r->err);
}

START_TEST(every_call_gives_what_one_rank_computes)
{
    uint32_t n = (uint32_t)_i;

    run(n, contract);
    expect(0, n, TN_OK, NULL);
    close_plugin();
}
END_TEST

/* The same over connections. */
START_TEST(tcp_gives_the_same)
{
    uint32_t n = (uint32_t)_i;

    name = "tcp";
    run(n, contract);
    expect(0, n, TN_OK, NULL);
    close_plugin();
}
END_TEST

START_TEST(checked_contributions_pass_when_nothing_is_wrong)
{
    set("verify", "true");
    run(3, contract);
    expect(0, 3, TN_OK, NULL);
    close_plugin();
}
END_TEST

static void sum_in_order(struct rank *r)
{
    static const float x[4] = {1.0f, 1e-8f, -1.0f, 3e-8f};
    float got = 0;

    r->rc = backend->all_reduce(r->group, &x[r->rank], &got, 1, TN_DT_F32, NULL, &r->err);
    if (r->rc == TN_OK && got != ((x[0] + x[1]) + x[2]) + x[3])
        r->rc = TN_E_INTERNAL;
}

START_TEST(sums_go_in_the_order_of_ranks)
{
    for (int i = 0; i < 50; i++) {
        run(4, sum_in_order);
        expect(0, 4, TN_OK, NULL);
    }
    close_plugin();
}
END_TEST

/* -- Faults ------------------------------------------------------------------------------------------------- */

static void three_of_each(struct rank *r)
{
    char buf[64] = {0}, all[8 * 64];

    for (int i = 0; i < 3 && r->rc == TN_OK; i++) {
        r->rc = backend->all_reduce(r->group, buf, buf, 16, TN_DT_F32, NULL, &r->err);
        if (r->rc == TN_OK)
            r->rc = backend->all_gather(r->group, buf, all, 16, TN_DT_F32, NULL, &r->err);
        if (r->rc == TN_OK)
            r->rc = backend->reduce_scatter(r->group, all, buf, 2, TN_DT_F32, NULL, &r->err);
        if (r->rc == TN_OK)
            r->rc = backend->broadcast(r->group, buf, 64, 0, NULL, &r->err);
        if (r->rc == TN_OK && r->rank > 0)
            r->rc = backend->recv(r->group, buf, 64, r->rank - 1, NULL, &r->err);
        if (r->rc == TN_OK && r->rank + 1 < r->n)
            r->rc = backend->send(r->group, buf, 64, r->rank + 1, NULL, &r->err);
        if (r->rc == TN_OK)
            r->rc = backend->barrier(r->group, NULL, &r->err);
    }
}

static const char *const calls[] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast",
                                    "send",       "recv",       "barrier"};

START_TEST(a_rank_that_stalls_is_named_with_its_call)
{
    be_impatient();
    set("fault", "stall");
    set("fault_rank", "1");
    set("fault_call", calls[_i]);
    set("fault_at", "1");
    run(3, three_of_each);
    /* Whoever waited gave up after the deadline; the stalled rank was let go. */
    expect(0, 3, TN_E_TIMEOUT, "rank 1");
    close_plugin();
}
END_TEST

START_TEST(a_dead_rank_fails_and_the_others_name_it)
{
    be_impatient();
    set("fault", "dead");
    set("fault_rank", "2");
    set("fault_call", calls[_i]);
    run(4, three_of_each);
    expect(2, 3, TN_E_COMM, "dead");
    for (uint32_t i = 0; i < 4; i++)
        if (i != 2)
            expect(i, i + 1, TN_E_TIMEOUT, "rank 2");
    close_plugin();
}
END_TEST

static void wait_in_a_row(struct rank *r)
{
    char c = 0;

    if (r->rank == 0)
        r->rc = backend->barrier(r->group, NULL, &r->err);
    else if (r->rank < 3)
        r->rc = backend->recv(r->group, &c, 1, r->rank + 1, NULL, &r->err);
    else
        r->rc = backend->broadcast(r->group, &c, 1, 3, NULL, &r->err);
}

/* Rank 0 waits for rank 1, which waits for rank 2, which waits for rank 3, which stalls. Whoever loses patience first, it
 * is rank 3 that is named. */
START_TEST(whoever_waits_is_not_to_blame)
{
    set("fault", "stall");
    set("fault_rank", "3");
    patience[_i] = SHORT / 2;
    run(4, wait_in_a_row);
    expect(0, 4, TN_E_TIMEOUT, "rank 3 has not come");
    if (_i < 2)
        ck_assert_err_has(&ranks[0].err, "waits for it");
    close_plugin();
}
END_TEST

START_TEST(a_dropped_contribution_is_noticed)
{
    be_impatient();
    set("fault", "drop");
    set("fault_rank", "1");
    set("fault_call", calls[_i]);
    set("fault_count", "1");
    run(3, three_of_each);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_msg(ranks[i].rc == TN_E_COMM || ranks[i].rc == TN_E_TIMEOUT, "%s: rank %u: %d",
                      calls[_i], i, (int)ranks[i].rc);
    close_plugin();
}
END_TEST

START_TEST(a_flipped_bit_is_found_where_contributions_are_checked)
{
    set("verify", "true");
    set("fault", "flip");
    set("fault_rank", "0");
    set("fault_call", calls[_i]);
    run(2, three_of_each);
    expect(0, 2, TN_E_COMM, "rank 0");
    close_plugin();
}
END_TEST

START_TEST(a_late_rank_is_waited_for)
{
    set("fault", "delay");
    set("fault_rank", "1");
    set("fault_ms", "5");
    run(3, three_of_each);
    expect(0, 3, TN_OK, NULL);
    close_plugin();
}
END_TEST

static void rank_1_goes_early(struct rank *r)
{
    float x = 0;

    if (r->rank != 1)
        r->rc = backend->all_reduce(r->group, &x, &x, 1, TN_DT_F32, NULL, &r->err);
}

static void rank_1_sleeps(struct rank *r)
{
    float x = 0;
    char c;

    if (r->rank == 1) /* nobody sends: it is late for the others, and gives up itself */
        r->rc = backend->recv(r->group, &c, 1, 0, NULL, &r->err);
    else
        r->rc = backend->all_reduce(r->group, &x, &x, 1, TN_DT_F32, NULL, &r->err);
}

START_TEST(tcp_never_hangs)
{
    name = "tcp";
    run(3, rank_1_goes_early);
    expect(0, 1, TN_E_COMM, "is gone");
    expect(2, 3, TN_E_COMM, "is gone");
    be_impatient();
    run(3, rank_1_sleeps);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_msg(ranks[i].rc == TN_E_COMM || ranks[i].rc == TN_E_TIMEOUT, "rank %u: %d", i,
                      (int)ranks[i].rc);
    close_plugin();
}
END_TEST

/* -- Misuse ------------------------------------------------------------------------------------------------- */

static void rank_0_aborts(struct rank *r)
{
    char c = 0;

    if (r->rank == 0)
        backend->abort(r->group);
    else
        r->rc = backend->recv(r->group, &c, 1, 0, NULL, &r->err);
    if (r->rank == 0)
        r->rc = backend->async_error(r->group, &r->err);
}

static void sizes_differ(struct rank *r)
{
    char buf[8] = {0};

    r->rc = backend->broadcast(r->group, buf, 4 + r->rank % 2, 0, NULL, &r->err);
}

static void calls_differ(struct rank *r)
{
    float x = 0, all[4];

    r->rc = r->rank == 1 ? backend->all_gather(r->group, &x, all, 1, TN_DT_F32, NULL, &r->err)
                         : backend->all_reduce(r->group, &x, &x, 1, TN_DT_F32, NULL, &r->err);
}

START_TEST(abort_and_disagreement_end_everybodys_calls)
{
    run(4, rank_0_aborts);
    expect(0, 4, TN_E_CANCELED, NULL);
    run(4, sizes_differ);
    expect(0, 4, TN_E_COMM, "another size");
    run(4, calls_differ);
    expect(0, 4, TN_E_COMM, "another call");
    close_plugin();
}
END_TEST

static void *join_main(void *arg)
{
    struct rank *r = arg;
    tn_comm_join how = join_of(r->id, r->rank, r->n);

    r->rc = backend->join(instance, &how, &r->group, &r->err);
    if (r->rc == TN_OK)
        backend->leave(r->group);
    return NULL;
}

START_TEST(groups_that_cannot_be_complete_are_refused)
{
    struct rank a = {.rank = 0, .n = 2, .err = TN_ERR_INIT}, b = {.n = 3, .err = TN_ERR_INIT};
    uint8_t id[TN_COMM_ID_BYTES], other[TN_COMM_ID_BYTES] = {1};
    tn_comm_group *g = NULL;
    tn_err err = TN_ERR_INIT;
    tn_comm_join how = join_of(other, 0, 2);

    ck_assert_ok(open_plugin(&err), &err);
    ck_assert_int_eq(backend->join(instance, &how, &g, &err), TN_E_INVALID);
    ck_assert_int_eq(backend->can_join(instance, 4, 2, NULL, &err), TN_E_UNSUPPORTED);
    ck_assert_ok(backend->make_id(instance, id, &err), &err);
    how = join_of(id, 0, 2);
    how.timeout_ns = 1000;
    ck_assert_int_eq(backend->join(instance, &how, &g, &err), TN_E_TIMEOUT);
    ck_assert_err_has(&err, "rank 1 has not joined");
    /* Two sizes of world, and twice the same rank. */
    for (int twice = 0; twice < 2; twice++) {
        ck_assert_ok(backend->make_id(instance, id, &err), &err);
        a.id = b.id = id;
        b.n = twice ? 2 : 3;
        ck_assert_int_eq(pthread_create(&a.thread, NULL, join_main, &a), 0);
        ck_assert_int_eq(pthread_create(&b.thread, NULL, join_main, &b), 0);
        pthread_join(a.thread, NULL);
        pthread_join(b.thread, NULL);
        ck_assert_msg(a.rc == TN_E_COMM && b.rc == TN_E_COMM, "%d %d", (int)a.rc, (int)b.rc);
    }
    close_plugin();
}
END_TEST

START_TEST(unknown_settings_are_refused)
{
    static const char *const bad[][2] = {{"fault", "explode"}, {"fault_at", "-1"},
                                         {"verify", "maybe"},  {"spin_us", "x"},
                                         {"fault_rank", ""},   {"nonsense", "1"}};
    struct registry_info info = {0};
    tn_err err = TN_ERR_INIT;

    set(bad[_i][0], bad[_i][1]);
    ck_assert_int_eq(open_plugin(&err), TN_E_NOTFOUND);
    for (uint32_t i = 0; i < registry_count(registry); i++) {
        registry_info(registry, i, &info);
        if (strcmp(info.name, "local") == 0)
            ck_assert_err_has(info.err, bad[_i][0]);
    }
    close_plugin();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("local");
    TCase *t = tcase_create("local");

    tcase_add_loop_test(t, every_call_gives_what_one_rank_computes, 1, MAX + 1);
    tcase_add_loop_test(t, tcp_gives_the_same, 1, 5);
    tcase_add_test(t, tcp_never_hangs);
    tcase_add_test(t, checked_contributions_pass_when_nothing_is_wrong);
    tcase_add_test(t, sums_go_in_the_order_of_ranks);
    tcase_add_loop_test(t, a_rank_that_stalls_is_named_with_its_call, 0, 7);
    tcase_add_loop_test(t, a_dead_rank_fails_and_the_others_name_it, 0, 7);
    tcase_add_loop_test(t, whoever_waits_is_not_to_blame, 0, 3);
    tcase_add_loop_test(t, a_dropped_contribution_is_noticed, 0, 7);
    tcase_add_loop_test(t, a_flipped_bit_is_found_where_contributions_are_checked, 0, 5);
    tcase_add_test(t, a_late_rank_is_waited_for);
    tcase_add_test(t, abort_and_disagreement_end_everybodys_calls);
    tcase_add_test(t, groups_that_cannot_be_complete_are_refused);
    tcase_add_loop_test(t, unknown_settings_are_refused, 0, 6);
    suite_add_tcase(s, t);
    return run_suite(s);
}
