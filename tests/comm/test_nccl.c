/* SPDX-License-Identifier: Apache-2.0 */
/* The comm plugin "nccl" over a false libnccl (shim_nccl.h) and a false CUDA driver: the contract for several ranks, and what
 * becomes of every call that fails: a typed error that names it, a group in which nothing works any more, nothing left behind. */
#include <dlfcn.h>
#include <pthread.h>

#include "check_util.h"
#include "comm/contract.h"
#include "comm/shim_nccl.h"
#include "cuda/fake_driver.h"
#include "plugin/registry.h"
#include "tenon/float.h"

enum { MAX = 4 };
enum { CUDA = 1, SYSTEM = 2, INTERNAL = 3, ARGUMENT = 4, USAGE = 5, REMOTE = 6 };

static struct {
    const struct shim_api *shim;
    const struct fake_api *driver;
    struct registry *registry;
    const struct registry_view *view;
    const tn_comm_backend *backend;
    const tn_device_api *api;
    void *instance, *device_instance;
    uint32_t n;
    uint8_t id[TN_COMM_ID_BYTES];
    pthread_barrier_t all;
    tn_err err;
    const char *shim_path; /* NULL: SHIM */
    bool asymmetric;
    tn_kv nccl[2];
} t;

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    static const tn_kv cuda = {"driver", FAKE_DRIVER};

    (void)arg;
    t.nccl[0] = (tn_kv){"library", t.shim_path ? t.shim_path : SHIM};
    t.nccl[1] = (tn_kv){"symmetric", t.asymmetric ? "false" : "true"};
    *items = strcmp(plugin, "cuda") == 0 ? &cuda : t.nccl;
    return strcmp(plugin, "cuda") == 0 ? 1 : strcmp(plugin, "nccl") == 0 ? 2 : 0;
}

static void *symbol(const char *path, const char *name)
{
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL), *p;

    ck_assert_msg(file != NULL, "%s", dlerror());
    p = dlsym(file, name);
    ck_assert_ptr_nonnull(p);
    return p;
}

static int32_t open_plugins(uint32_t n)
{
    static const char *const paths[] = {PLUGIN_DIR, CUDA_PLUGIN_DIR};
    uint32_t apart = strcmp(paths[0], paths[1]) != 0;
    struct registry_options o = {.paths = paths, .n_paths = 1 + apart, .config = config};

    t.err = (tn_err)TN_ERR_INIT;
    t.n = n;
    t.driver->set_devices((int)n);
    pthread_barrier_init(&t.all, NULL, n);
    ck_assert_ok(registry_open(&o, &t.registry, &t.err), &t.err);
    t.view = registry_acquire(t.registry);
    ck_assert_ok(registry_device(t.view, "cuda", &t.api, &t.device_instance, &t.err), &t.err);
    return registry_comm(t.view, "nccl", &t.backend, &t.instance, &t.err);
}

static void close_plugins(void)
{
    registry_release(t.view);
    registry_close(t.registry);
    pthread_barrier_destroy(&t.all);
}

static void setup(void)
{
    t.shim = symbol(SHIM, "shim_api");
    t.driver = symbol(FAKE_DRIVER, "fake_api");
    t.shim->reset();
    t.driver->reset();
}

struct rank {
    pthread_t thread;
    uint32_t rank;
    uint64_t join_ms, call_ms;
    int32_t (*work)(struct rank *r);
    int32_t rc;
    tn_err err;
    tn_device *device;
    tn_device_info info;
    tn_stream *stream;
    tn_comm_group *group;
    void *memory;
};

static int32_t join(struct rank *r)
{
    static const uint32_t numbers[MAX] = {0, 1, 2, 3}, here[MAX];
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = t.id,
                        .rank = r->rank,
                        .n_ranks = t.n,
                        .members = numbers,
                        .processes = here,
                        .api = t.api,
                        .timeout_ns = r->join_ms * 1000000,
                        .call_timeout_ns = r->call_ms * 1000000,
                        .info = &r->info};

    ck_assert_ok(t.api->open(t.device_instance, r->rank, 0, 1, &r->device, &r->err), &r->err);
    ck_assert_ok(t.api->stream_new(r->device, &r->stream, &r->err), &r->err);
    ck_assert_ok(t.api->mem_alloc(r->device, 4096, &r->memory, &r->err), &r->err);
    how.device = r->device;
    return t.backend->join(t.instance, &how, &r->group, &r->err);
}

static void leave(struct rank *r)
{
    if (r->group)
        t.backend->leave(r->group);
    t.api->mem_free(r->device, r->memory);
    t.api->stream_free(r->device, r->stream);
    t.api->close(r->device);
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;

    r->rc = join(r);
    if (r->rc == TN_OK)
        r->rc = r->work(r);
    pthread_barrier_wait(&t.all);
    leave(r);
    return NULL;
}

static struct rank ranks[MAX];

static struct rank fresh(uint32_t rank)
{
    return (struct rank){.rank = rank, .join_ms = 20000, .call_ms = 20000, .err = TN_ERR_INIT};
}

static void run(uint32_t n, int32_t (*work)(struct rank *r), uint64_t call_ms)
{
    ck_assert_ok(open_plugins(n), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    for (uint32_t i = 0; i < n; i++) {
        ranks[i] = fresh(i);
        ranks[i].work = work;
        ranks[i].call_ms = call_ms;
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++)
        pthread_join(ranks[i].thread, NULL);
    close_plugins();
    ck_assert_int_eq(t.shim->live(), 0);
    ck_assert_int_eq(t.shim->windows(), 0);
    ck_assert_int_eq(t.shim->memory(), 0);
    ck_assert_int_eq(t.driver->live(), 0);
}

/* -- All is well -------------------------------------------------------------------------------------------- */

static int32_t contract(struct rank *r)
{
    struct contract_memory memory = {t.api, r->device, r->stream, true};

    return contract_run(t.backend, r->group, r->rank, t.n, &memory, &r->err);
}

START_TEST(every_call_gives_what_one_rank_computes)
{
    static const uint32_t n[] = {1, 2, 4};

    t.asymmetric = true;
    run(n[_i], contract, 20000);
    t.asymmetric = false;
    for (uint32_t i = 0; i < n[_i]; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
    ck_assert_int_eq(t.shim->calls("ncclCommAbort"), 0);
    ck_assert_int_eq(t.shim->calls("ncclCommDestroy"), (int)n[_i]);
}
END_TEST

/* Calls of a rank that is alone, in their order. */
static int32_t call(struct rank *r, int which)
{
    const tn_comm_backend *b = t.backend;

    switch (which) {
    case 0: return b->all_reduce(r->group, r->memory, r->memory, 8, TN_DT_F32, r->stream, &r->err);
    case 1: return b->all_gather(r->group, r->memory, r->memory, 8, TN_DT_F32, r->stream, &r->err);
    case 2:
        return b->reduce_scatter(r->group, r->memory, r->memory, 8, TN_DT_BF16, r->stream, &r->err);
    case 3: return b->broadcast(r->group, r->memory, 64, 0, r->stream, &r->err);
    default: return b->barrier(r->group, r->stream, &r->err);
    }
}

/* -- Symmetric memory --------------------------------------------------------------------------------------- */

enum how { OFFERED, OLD_LIBRARY, TURNED_OFF, LAYOUTS_DIFFER, NO_MEMORY, HOWS };

static enum how how;

/* Memory if all is well, else none; and in either case the contract holds afterwards, in more of it where there is any. */
static int32_t symmetric(struct rank *r)
{
    void *p = &t, *q = NULL;
    int32_t rc =
        t.backend->memory(r->group, 5000, how == LAYOUTS_DIFFER ? r->rank : 7, &p, &r->err);

    if (rc == TN_OK && (p != NULL) != (how == OFFERED))
        return tn_err_set(&r->err, TN_E_INTERNAL, "%s", p ? "there is memory" : "there is none");
    if (rc == TN_OK && p)
        rc = t.backend->memory(r->group, 100, 8, &q, &r->err);
    if (rc == TN_OK && p && (!q || p == q))
        return tn_err_set(&r->err, TN_E_INTERNAL, "no second block");
    if (rc == TN_OK && p)
        rc = t.backend->all_reduce(r->group, p, p, 1000, TN_DT_I32, r->stream, &r->err);
    return rc == TN_OK ? contract(r) : rc;
}

START_TEST(symmetric_memory_is_used_by_all_ranks_or_none)
{
    static const int n_blocks[HOWS] = {[OFFERED] = 3, [LAYOUTS_DIFFER] = 1, [NO_MEMORY] = 1};

    how = (enum how)_i;
    t.shim_path = how == OLD_LIBRARY ? OLD_SHIM : NULL;
    t.asymmetric = how == TURNED_OFF;
    if (how == OLD_LIBRARY)
        t.shim = symbol(OLD_SHIM, "shim_api");
    t.shim->reset();
    if (how == NO_MEMORY) /* of one rank */
        t.shim->arrange("ncclMemAlloc", 1, CUDA);
    run(2, symmetric, 20000);
    t.shim_path = NULL;
    t.asymmetric = false;
    for (uint32_t i = 0; i < 2; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
    ck_assert_int_eq(t.shim->calls("ncclCommWindowDeregister"), 2 * n_blocks[how]);
    ck_assert_int_eq(t.shim->calls("ncclCommDestroy"), 2);
}
END_TEST

/* -- What some versions get wrong (library.h) --------------------------------------------------------------- */

/* Two sums and two gathers in windows, one sum outside, and a scatter whose parts have 6 bytes. */
static int32_t some_calls(struct rank *r)
{
    const tn_comm_backend *b = t.backend;
    char *p = NULL;
    int32_t rc = b->memory(r->group, 5000, 7, (void **)&p, &r->err);

    if (rc != TN_OK || !p)
        return rc != TN_OK ? rc : TN_E_INTERNAL;
    for (int i = 0; i < 20; i++)
        p[i] = (char)(i + 100 * (int)r->rank);
    if ((rc = b->all_gather(r->group, p, p + 1024, 10, TN_DT_BF16, r->stream, &r->err)) != TN_OK ||
        (rc = b->all_gather(r->group, p, p + 2048, 8, TN_DT_BF16, r->stream, &r->err)) != TN_OK)
        return rc;
    for (int i = 0; i < 40; i++)
        if (p[1024 + i] != (char)(i % 20 + 100 * (i / 20)))
            return tn_err_set(&r->err, TN_E_INTERNAL, "gathered byte %d is %d", i, p[1024 + i]);
    for (int i = 0; i < 6; i++)
        ((uint16_t *)(void *)p)[i] = tn_f32_to_bf16((float)(i + 1));
    if ((rc = b->reduce_scatter(r->group, p, p + 512, 3, TN_DT_BF16, r->stream, &r->err)) != TN_OK)
        return rc;
    for (int i = 0; i < 3; i++)
        if (tn_bf16_to_f32(((uint16_t *)(void *)(p + 512))[i]) !=
            2.0f * (float)(i + 1 + 3 * (int)r->rank))
            return tn_err_set(&r->err, TN_E_INTERNAL, "scattered element %d is wrong", i);
    if ((rc = b->all_reduce(r->group, p, p, 100, TN_DT_F32, r->stream, &r->err)) != TN_OK ||
        (rc = b->all_reduce(r->group, r->memory, p, 100, TN_DT_F32, r->stream, &r->err)) != TN_OK)
        return rc;
    return b->all_reduce(r->group, r->memory, r->memory, 100, TN_DT_F32, r->stream, &r->err);
}

START_TEST(versions_that_do_not_wait_or_misalign_are_helped)
{
    static const struct {
        int version, fills, broadcasts, reduces; /* of each rank */
    } cases[] = {{22707, 0, 2, 2}, {22803, 3, 2, 2}, {22809, 3, 2, 2}, {22907, 3, 2, 2},
                 {23003, 5, 0, 0}, {23006, 5, 0, 0}, {23007, 0, 0, 0}};

    t.shim->set_version(cases[_i].version);
    run(2, some_calls, 20000);
    for (uint32_t i = 0; i < 2; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
    ck_assert_int_eq(t.driver->calls("cuMemsetD8Async"), 2 * cases[_i].fills);
    ck_assert_int_eq(t.shim->calls("ncclBroadcast"), 2 * cases[_i].broadcasts);
    ck_assert_int_eq(t.shim->calls("ncclReduce"), 2 * cases[_i].reduces);
}
END_TEST

/* Where no window is used, nothing is helped. */
START_TEST(without_windows_calls_go_as_they_come)
{
    struct rank r = fresh(0);

    t.shim->set_version(22803);
    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    ck_assert_ok(join(&r), &r.err);
    ck_assert_ok(
        t.backend->all_gather(r.group, r.memory, r.memory, 3, TN_DT_BF16, r.stream, &r.err),
        &r.err);
    ck_assert_ok(call(&r, 0), &r.err);
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->calls("ncclAllGather"), 1);
    ck_assert_int_eq(t.driver->calls("cuMemsetD8Async"), 0);
}
END_TEST

/* Alone, since a rank whose registration fails leaves the others of the shim waiting. */
START_TEST(memory_that_cannot_be_registered_is_not_used)
{
    void *p = &t;
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    ck_assert_ok(join(&r), &r.err);
    t.shim->arrange("ncclCommWindowRegister", 1, USAGE);
    ck_assert_ok(t.backend->memory(r.group, 5000, 7, &p, &r.err), &r.err);
    ck_assert_ptr_null(p);
    ck_assert_ok(call(&r, 0), &r.err);
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->memory(), 0);
    ck_assert_int_eq(t.shim->calls("ncclCommDestroy"), 1);
}
END_TEST

/* An abort takes windows along; they are not given back one by one, which all ranks would have to do. */
START_TEST(an_abort_takes_windows_along)
{
    void *p = NULL;
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    ck_assert_ok(join(&r), &r.err);
    ck_assert_ok(t.backend->memory(r.group, 5000, 7, &p, &r.err), &r.err);
    ck_assert_ptr_nonnull(p);
    t.backend->abort(r.group);
    ck_assert_int_eq(t.shim->windows(), 0);
    ck_assert_int_eq(t.shim->memory(), 1); /* others may still be at it, until the group is left */
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->memory(), 0);
    ck_assert_int_eq(t.shim->calls("ncclCommWindowDeregister"), 0);
    ck_assert_int_eq(t.driver->live(), 0);
}
END_TEST

START_TEST(what_was_found_is_told)
{
    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_str_eq(t.backend->describe(t.instance), "NCCL 2.28.9, symmetric memory");
    close_plugins();
}
END_TEST

/* -- Libraries that will not do ----------------------------------------------------------------------------- */

START_TEST(a_library_that_will_not_do_is_refused_with_the_reason)
{
    static const char *const texts[] = {"2.10.3", "3.0.0", "asking for its version"};

    if (_i < 2)
        t.shim->set_version(_i ? 30000 : 21003);
    else
        t.shim->arrange("ncclGetVersion", 1, INTERNAL);
    ck_assert_int_eq(open_plugins(1), TN_E_NOTFOUND);
    for (uint32_t i = 0; i < registry_count(t.registry); i++) {
        struct registry_info info;
        registry_info(t.registry, i, &info);
        if (strcmp(info.name, "nccl") != 0)
            continue;
        ck_assert_int_eq(info.state, REGISTRY_REFUSED);
        ck_assert_err_has(info.err, texts[_i]);
    }
    close_plugins();
}
END_TEST

/* -- Calls that fail ---------------------------------------------------------------------------------------- */

START_TEST(a_call_that_fails_breaks_the_group_and_says_why)
{
    static const char *const functions[] = {"ncclAllReduce", "ncclAllGather", "ncclReduceScatter",
                                            "ncclBroadcast", "ncclAllReduce"};
    static const char *const names[] = {"all_reduce", "all_gather", "reduce_scatter", "broadcast",
                                        "all_reduce"};
    static const struct {
        int result;
        int32_t status;
    } kinds[] = {{CUDA, TN_E_DEVICE},      {SYSTEM, TN_E_COMM},   {INTERNAL, TN_E_COMM},
                 {ARGUMENT, TN_E_INVALID}, {USAGE, TN_E_INVALID}, {REMOTE, TN_E_COMM}};
    int which = _i / 6, kind = _i % 6;
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    ck_assert_ok(join(&r), &r.err);
    t.shim->arrange(functions[which], 1, kinds[kind].result);
    ck_assert_int_eq(call(&r, which), kinds[kind].status);
    ck_assert_err_has(&r.err, names[which]);
    ck_assert_err_has(&r.err, "the shim's last words");
    ck_assert_int_eq(r.err.native, kinds[kind].result);
    /* Nothing works any more, and the first reason is the one that is told. */
    ck_assert_int_eq(call(&r, (which + 1) % 5), kinds[kind].status);
    ck_assert_err_has(&r.err, names[which]);
    ck_assert_int_eq(t.backend->async_error(r.group, &r.err), kinds[kind].status);
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->live(), 0);
    ck_assert_int_eq(t.shim->calls("ncclCommDestroy"), 0); /* what is broken is torn down */
    ck_assert_int_eq(t.driver->live(), 0);
}
END_TEST

START_TEST(a_token_or_a_join_that_fails_leaves_nothing)
{
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(1), &t.err);
    t.shim->arrange("ncclGetUniqueId", 1, SYSTEM);
    ck_assert_int_eq(t.backend->make_id(t.instance, t.id, &t.err), TN_E_COMM);
    ck_assert_err_has(&t.err, "token");
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    if (_i == 0)
        t.shim->arrange("ncclCommInitRankConfig", 1, USAGE);
    else
        t.shim->arrange("ncclCommGetAsyncError", 1, INTERNAL);
    ck_assert_int_eq(join(&r), _i == 0 ? TN_E_INVALID : TN_E_COMM);
    ck_assert_err_has(&r.err, "joining");
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->live(), 0);
    ck_assert_int_eq(t.driver->live(), 0);
}
END_TEST

/* A rank that leaves badly is still gone afterwards. */
START_TEST(leaving_ends_whatever_fails)
{
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    ck_assert_ok(join(&r), &r.err);
    t.shim->arrange("ncclCommFinalize", 1, INTERNAL);
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->calls("ncclCommAbort"), 1);
    ck_assert_int_eq(t.shim->live(), 0);
}
END_TEST

START_TEST(errors_in_the_background_are_told)
{
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(1), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    ck_assert_ok(join(&r), &r.err);
    ck_assert_ok(t.backend->async_error(r.group, &r.err), &r.err);
    t.shim->strike(REMOTE);
    ck_assert_int_eq(t.backend->async_error(r.group, &r.err), TN_E_COMM);
    ck_assert_err_has(&r.err, "remote process exited");
    t.shim->strike(0); /* what struck once stays */
    ck_assert_int_eq(call(&r, 0), TN_E_COMM);
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->live(), 0);
}
END_TEST

/* -- Ranks that do not come --------------------------------------------------------------------------------- */

START_TEST(a_group_that_does_not_fill_is_given_up)
{
    struct rank r = fresh(0);

    ck_assert_ok(open_plugins(2), &t.err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &t.err), &t.err);
    r.join_ms = 30;
    ck_assert_int_eq(join(&r), TN_E_TIMEOUT);
    ck_assert_err_has(&r.err, "has not joined within 30 ms");
    leave(&r);
    close_plugins();
    ck_assert_int_eq(t.shim->live(), 0);
}
END_TEST

/* Rank 1 never makes the call. */
static int32_t alone(struct rank *r)
{
    return r->rank == 1 ? TN_OK : call(r, 0);
}

START_TEST(a_call_that_nobody_answers_ends_at_its_deadline)
{
    run(2, alone, 50);
    ck_assert_int_eq(ranks[0].rc, TN_E_TIMEOUT);
    ck_assert_err_has(&ranks[0].err, "all_reduce");
}
END_TEST

/* Rank 1 plays the watchdog: it aborts rank 0, which waits without a deadline. */
static int32_t aborted(struct rank *r)
{
    if (r->rank == 0)
        return call(r, 0);
    while (t.shim->calls("ncclAllReduce") == 0)
        sched_yield();
    t.backend->abort(ranks[0].group);
    t.backend->abort(ranks[0].group); /* twice is once */
    return TN_OK;
}

START_TEST(an_abort_from_another_thread_ends_a_wait)
{
    run(2, aborted, 0);
    ck_assert_int_eq(ranks[0].rc, TN_E_CANCELED);
    ck_assert_err_has(&ranks[0].err, "aborted");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("comm_nccl");
    TCase *c = tcase_create("nccl");

    tcase_add_checked_fixture(c, setup, NULL);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, every_call_gives_what_one_rank_computes, 0, 3);
    tcase_add_loop_test(c, symmetric_memory_is_used_by_all_ranks_or_none, 0, HOWS);
    tcase_add_loop_test(c, versions_that_do_not_wait_or_misalign_are_helped, 0, 7);
    tcase_add_test(c, without_windows_calls_go_as_they_come);
    tcase_add_test(c, memory_that_cannot_be_registered_is_not_used);
    tcase_add_test(c, an_abort_takes_windows_along);
    tcase_add_test(c, what_was_found_is_told);
    tcase_add_loop_test(c, a_library_that_will_not_do_is_refused_with_the_reason, 0, 3);
    tcase_add_loop_test(c, a_call_that_fails_breaks_the_group_and_says_why, 0, 30);
    tcase_add_loop_test(c, a_token_or_a_join_that_fails_leaves_nothing, 0, 2);
    tcase_add_test(c, leaving_ends_whatever_fails);
    tcase_add_test(c, errors_in_the_background_are_told);
    tcase_add_test(c, a_group_that_does_not_fill_is_given_up);
    tcase_add_test(c, a_call_that_nobody_answers_ends_at_its_deadline);
    tcase_add_test(c, an_abort_from_another_thread_ends_a_wait);
    suite_add_tcase(s, c);
    return run_suite(s);
}
