/* SPDX-License-Identifier: Apache-2.0 */
/* Comm backends on device memory: the contract for ranks that share a device and for ranks that have one each. Devices are those
 * of the plugin shadow (loop/shadow.h); with TENON_TEST_DEVICE=cuda those of this machine, as far as there are any. */
#include <pthread.h>

#include "check_util.h"
#include "comm/contract.h"
#include "plugin/registry.h"

enum { MAX = 8 };

struct setup {
    const char *backend, *devices, *islands, *staged;
    uint32_t n;
    bool by_threads; /* though devices could meet by themselves */
    bool shared;     /* with ranks of other groups, as they are told */
};

static struct {
    struct registry *registry;
    const struct registry_view *view;
    const tn_comm_backend *backend;
    const tn_device_api *api;
    void *instance, *device_instance;
    uint32_t n_devices, n;
    uint8_t id[TN_COMM_ID_BYTES];
    pthread_barrier_t all;
    tn_kv shadow[2], pcie[1], local[1], nccl[1];
    bool shared;
} t;

static const char *kind(void)
{
    const char *name = getenv("TENON_TEST_DEVICE");

    return name ? name : "shadow";
}

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    (void)arg;
    *items = strcmp(plugin, "shadow") == 0 ? t.shadow
             : strcmp(plugin, "pcie") == 0 ? t.pcie
             : strcmp(plugin, "nccl") == 0 ? t.nccl
                                           : t.local;
    return strcmp(plugin, "shadow") == 0
               ? 2
               : strcmp(plugin, "pcie") == 0 || strcmp(plugin, "nccl") == 0 ||
                     strcmp(plugin, "local") == 0;
}

static void open_plugins(const struct setup *s)
{
    static const char *const paths[] = {PLUGIN_DIR, SHADOW_DIR};
    struct registry_options o = {.paths = paths, .n_paths = 2, .config = config};
    tn_err err = TN_ERR_INIT;

    t.shadow[0] = (tn_kv){"devices", s->devices};
    t.shadow[1] = (tn_kv){"islands", s->islands};
    t.pcie[0] = (tn_kv){"staged", s->staged};
    t.nccl[0] = (tn_kv){"symmetric", "true"};
    t.local[0] = (tn_kv){"devices_meet", s->by_threads ? "false" : "true"};
    ck_assert_ok(registry_open(&o, &t.registry, &err), &err);
    t.view = registry_acquire(t.registry);
    ck_assert_ok(registry_comm(t.view, s->backend, &t.backend, &t.instance, &err), &err);
    ck_assert_ok(registry_device(t.view, kind(), &t.api, &t.device_instance, &err), &err);
    ck_assert_ok(t.api->count(t.device_instance, &t.n_devices, &err), &err);
    ck_assert_uint_gt(t.n_devices, 0);
    t.n = s->n;
    t.shared = s->shared;
    pthread_barrier_init(&t.all, NULL, t.n);
}

static void close_plugins(void)
{
    pthread_barrier_destroy(&t.all);
    registry_release(t.view);
    registry_close(t.registry);
}

struct rank {
    pthread_t thread;
    uint32_t rank;
    int32_t rc;
    tn_err err;
    tn_device *device;
    tn_device_info info;
    tn_stream *stream;
    tn_comm_group *group;
    int32_t (*work)(struct rank *r);
    uint64_t call_ms;
    uint64_t flags; /* of its join */
};

static int32_t begin(struct rank *r)
{
    static const uint32_t numbers[MAX] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const uint32_t here[MAX];
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = t.id,
                        .rank = r->rank,
                        .n_ranks = t.n,
                        .members = numbers,
                        .processes = here,
                        .api = t.api,
                        .timeout_ns = UINT64_C(60000000000),
                        .call_timeout_ns = r->call_ms * 1000000,
                        .max_bytes = 1u << 20,
                        .info = &r->info,
                        .flags = r->flags};
    uint32_t index = r->rank % t.n_devices;
    int32_t rc;

    r->info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    if ((rc = t.api->info(t.device_instance, index, &r->info, &r->err)) != TN_OK ||
        (rc = t.api->open(t.device_instance, index, 0, 1, &r->device, &r->err)) != TN_OK ||
        (rc = t.api->stream_new(r->device, &r->stream, &r->err)) != TN_OK)
        return rc;
    how.device = r->device;
    return t.backend->join(t.instance, &how, &r->group, &r->err);
}

static int32_t contract(struct rank *r)
{
    struct contract_memory memory = {t.api, r->device, r->stream, true};

    return contract_run(t.backend, r->group, r->rank, t.n, &memory, &r->err);
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;

    r->rc = begin(r);
    if (r->rc == TN_OK)
        r->rc = r->work(r);
    pthread_barrier_wait(&t.all); /* as tenon/comm.h asks: all are through */
    if (r->group)
        t.backend->leave(r->group);
    if (r->stream)
        t.api->stream_free(r->device, r->stream);
    if (r->device)
        t.api->close(r->device);
    return NULL;
}

static struct rank ranks[MAX];

static void run_ranks(int32_t (*work)(struct rank *r), uint64_t call_ms)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(t.backend->can_join(t.instance, t.n, t.n, NULL, &err), &err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &err), &err);
    for (uint32_t i = 0; i < t.n; i++) {
        ranks[i] = (struct rank){.rank = i,
                                 .err = TN_ERR_INIT,
                                 .work = work,
                                 .call_ms = call_ms,
                                 .flags = t.shared && i == 0 ? TN_COMM_JOIN_SHARED : 0};
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < t.n; i++)
        pthread_join(ranks[i].thread, NULL);
}

static void run(const struct setup *s)
{
    open_plugins(s);
    run_ranks(contract, 20000);
    close_plugins();
    for (uint32_t i = 0; i < t.n; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
}

static const struct setup setups[] = {
    {"local", "1", "false", "false", 1, false, false},
    {"local", "1", "false", "false", 2, false, false},
    {"local", "2", "false", "false", 2, false, false},
    {"local", "2", "false", "false", 2, true, false},
    {"local", "3", "false", "false", 3, false, false},
    {"local", "2", "false", "false", 8, false, false},
    {"pcie", "1", "false", "false", 2, false, false},
    {"pcie", "1", "false", "true", 2, false, false},
    {"pcie", "2", "true", "false", 3, false, false},
    {"pcie", "4", "true", "false", 4, false, false},
    {"pcie", "1", "false", "false", 4, false, false},
    {"pcie", "1", "false", "true", 8, false, false},
};

START_TEST(every_call_gives_what_one_rank_computes)
{
    run(&setups[_i]);
}
END_TEST

/* On islands there is no way for the plugin local, and it says so instead of reading what it cannot. */
START_TEST(devices_out_of_reach_are_refused)
{
    const struct setup s = {"local", "2", "true", "false", 2, false, false};

    if (strcmp(kind(), "shadow") != 0)
        return;
    open_plugins(&s);
    run_ranks(contract, 20000);
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_int_eq(ranks[i].rc, TN_E_UNSUPPORTED);
        ck_assert_err_has(&ranks[i].err, "does not reach that of rank");
    }
    close_plugins();
}
END_TEST

/* -- Devices that meet by themselves ------------------------------------------------------------------------- */

enum { COUNT = 3000, MANY = 300000, TURNS = 5 }; /* one shot, two shots, replays */

struct buffers {
    float *host;        /* [3 * MANY] */
    float *x, *y, *all; /* [MANY], [MANY], [n * COUNT] */
};

static int32_t make_buffers(struct rank *r, struct buffers *b)
{
    void *p[3] = {NULL};
    uint64_t bytes[3] = {MANY * sizeof(float), MANY * sizeof(float), MAX * COUNT * sizeof(float)};
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < 3 && rc == TN_OK; i++)
        rc = t.api->mem_alloc(r->device, bytes[i], &p[i], &r->err);
    *b = (struct buffers){malloc(3 * MANY * sizeof(float)), p[0], p[1], p[2]};
    return rc;
}

static void drop_buffers(struct rank *r, struct buffers *b)
{
    t.api->stream_sync(r->device, r->stream, NULL);
    t.api->mem_free(r->device, b->x);
    t.api->mem_free(r->device, b->y);
    t.api->mem_free(r->device, b->all);
    free(b->host);
}

/* A step as a model has them: sums of both kinds, one in place, and a gather. */
static int32_t enqueue_step(struct rank *r, const struct buffers *b)
{
    const tn_comm_backend *c = t.backend;
    int32_t rc = c->all_reduce(r->group, b->x, b->y, COUNT, TN_DT_F32, r->stream, &r->err);

    if (rc == TN_OK)
        rc = c->all_reduce(r->group, b->y, b->y, COUNT, TN_DT_F32, r->stream, &r->err);
    if (rc == TN_OK)
        rc = c->all_gather(r->group, b->y, b->all, COUNT, TN_DT_F32, r->stream, &r->err);
    return rc == TN_OK ? c->all_reduce(r->group, b->x, b->y, MANY, TN_DT_F32, r->stream, &r->err)
                       : rc;
}

/* x = what this rank has in turn `turn`; then either the graph or the calls themselves. */
static int32_t one_turn(struct rank *r, const struct buffers *b, uint32_t turn, tn_graph *g)
{
    int32_t rc;

    for (uint32_t i = 0; i < MANY; i++)
        b->host[i] = (float)((r->rank + 1) * (turn + 1) + i % 7);
    rc = t.api->copy(r->device, r->stream, b->x, b->host, MANY * sizeof(float),
                     TN_COPY_HOST_TO_DEVICE, &r->err);
    if (rc == TN_OK)
        rc = g ? t.api->graph_launch(r->device, g, r->stream, &r->err) : enqueue_step(r, b);
    if (rc == TN_OK)
        rc = t.api->copy(r->device, r->stream, b->host + MANY, b->y, MANY * sizeof(float),
                         TN_COPY_DEVICE_TO_HOST, &r->err);
    if (rc == TN_OK)
        rc = t.api->copy(r->device, r->stream, b->host + 2 * MANY, b->all,
                         t.n * COUNT * sizeof(float), TN_COPY_DEVICE_TO_HOST, &r->err);
    return rc == TN_OK ? t.api->stream_sync(r->device, r->stream, &r->err) : rc;
}

static int32_t look(struct rank *r, const struct buffers *b, uint32_t turn)
{
    float ranks_sum = (float)(t.n * (t.n + 1) / 2 * (turn + 1)), n = (float)t.n;

    for (uint32_t i = 0; i < MANY; i++)
        if (b->host[MANY + i] != ranks_sum + n * (float)(i % 7))
            return tn_err_set(&r->err, TN_E_INTERNAL, "turn %u: element %u is %g", (unsigned)turn,
                              (unsigned)i, (double)b->host[MANY + i]);
    for (uint32_t i = 0; i < t.n * COUNT; i++)
        if (b->host[2 * MANY + i] != n * (ranks_sum + n * (float)(i % COUNT % 7)))
            return tn_err_set(&r->err, TN_E_INTERNAL, "turn %u: gathered element %u is %g",
                              (unsigned)turn, (unsigned)i, (double)b->host[2 * MANY + i]);
    return TN_OK;
}

/* Rank 0 replays while the others make their calls one by one, in every second turn, which must come to the same. */
static int32_t replays(struct rank *r)
{
    struct buffers b;
    tn_graph *g = NULL;
    int32_t rc = make_buffers(r, &b);

    if (rc == TN_OK)
        rc = one_turn(r, &b, 0, NULL);
    if (rc == TN_OK)
        rc = t.backend->barrier(r->group, r->stream, &r->err);
    if (rc == TN_OK)
        rc = t.api->capture_begin(r->device, r->stream, &r->err);
    if (rc == TN_OK)
        rc = enqueue_step(r, &b);
    if (rc == TN_OK)
        rc = t.api->capture_end(r->device, r->stream, &g, &r->err);
    if (rc == TN_OK)
        rc = t.backend->barrier(r->group, r->stream, &r->err);
    for (uint32_t turn = 0; turn < TURNS && rc == TN_OK; turn++) {
        rc = one_turn(r, &b, turn, turn % 2 && r->rank > 0 ? NULL : g);
        if (rc == TN_OK)
            rc = look(r, &b, turn);
    }
    if (rc == TN_OK)
        rc = t.backend->async_error(r->group, &r->err);
    t.api->graph_free(r->device, g);
    drop_buffers(r, &b);
    return rc;
}

/* Opens the plugins for ranks with a device each; false: there are none here. */
static bool open_apart(uint32_t n)
{
    const struct setup s = {"local", n == 2 ? "2" : "3", "false", "false", n, false, false};

    open_plugins(&s);
    if (t.n_devices >= n)
        return true;
    close_plugins();
    return false;
}

START_TEST(captured_calls_of_devices_can_be_replayed)
{
    if (!open_apart((uint32_t)_i))
        return;
    run_ranks(replays, 20000);
    close_plugins();
    for (int i = 0; i < _i; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
}
END_TEST

static int32_t flags_only(struct rank *r)
{
    return (t.backend->group_flags(r->group) & TN_COMM_GRAPH_SUMS) ? TN_OK : TN_E_UNSUPPORTED;
}

/* Ranks that share a device would wait for each other for ever. */
START_TEST(only_devices_of_their_own_meet)
{
    static const struct {
        struct setup s;
        bool meet;
    } cases[] = {{{"local", "2", "false", "false", 2, false, false}, true},
                 {{"local", "2", "false", "false", 2, true, false}, false},
                 {{"local", "2", "false", "false", 2, false, true}, false},
                 {{"local", "1", "false", "false", 2, false, false}, false},
                 {{"local", "2", "false", "false", 3, false, false}, false}};

    if (strcmp(kind(), "shadow") != 0)
        return;
    open_plugins(&cases[_i].s);
    run_ranks(flags_only, 20000);
    close_plugins();
    for (uint32_t i = 0; i < cases[_i].s.n; i++)
        ck_assert_int_eq(ranks[i].rc == TN_OK, cases[_i].meet);
}
END_TEST

/* Rank 1 makes no call. The others' are enqueued, wait on their devices, and end: at their deadline, or when they are told to. */
static int32_t left_alone(struct rank *r)
{
    struct buffers b;
    int32_t rc = make_buffers(r, &b);

    pthread_barrier_wait(&t.all); /* all are in, and their groups known */
    if (rc == TN_OK && r->rank != 1)
        rc = enqueue_step(r, &b);
    if (rc == TN_OK && r->rank == 1 && r->call_ms == 0)
        for (uint32_t i = 0; i < t.n; i++)
            if (i != 1)
                t.backend->abort(ranks[i].group);
    if (rc == TN_OK)
        rc = t.api->stream_sync(r->device, r->stream, &r->err);
    if (rc == TN_OK)
        rc = t.backend->async_error(r->group, &r->err);
    drop_buffers(r, &b);
    return rc;
}

START_TEST(a_wait_on_a_device_ends_at_its_deadline)
{
    if (!open_apart(2))
        return;
    run_ranks(left_alone, 100);
    close_plugins();
    ck_assert_int_eq(ranks[0].rc, TN_E_TIMEOUT);
    ck_assert_err_has(&ranks[0].err, "rank 1 has not come within 100 ms, on its device");
}
END_TEST

START_TEST(an_abort_ends_a_wait_on_a_device)
{
    if (!open_apart(2))
        return;
    run_ranks(left_alone, 0);
    close_plugins();
    ck_assert_int_eq(ranks[0].rc, TN_E_CANCELED);
}
END_TEST

/* NCCL wants a GPU of its own for every rank: one, and all that there are. */
START_TEST(nccl_gives_the_same)
{
    struct setup s = {"nccl", "1", "false", "false", 1, false, false};

    if (strcmp(kind(), "cuda") != 0)
        return;
    open_plugins(&s);
    if (_i == 1)
        s.n = t.n_devices < MAX ? t.n_devices : MAX;
    close_plugins();
    run(&s);
}
END_TEST

#ifdef WITH_EARLY
/* -- A kernel ahead that lets others begin ------------------------------------------------------------------- */

extern const unsigned char tenon_image_early[]; /* early.cu */
extern const uint64_t tenon_image_early_bytes;

enum { CLOCKS = 300000 }; /* longer than a call takes to be enqueued */

struct early {
    tn_image *image;
    void *entry;
    float *x, *out; /* [MANY] of the group if it has memory, [TURNS * MANY] */
    bool own;
};

static int32_t early_open(struct rank *r, struct early *e)
{
    void *x = NULL, *out = NULL;
    int32_t rc = t.api->image_load(r->device, tenon_image_early, tenon_image_early_bytes, &e->image,
                                   &r->err);

    if (rc == TN_OK)
        rc = t.api->image_entry(r->device, e->image, "early_write", &e->entry, &r->err);
    if (rc == TN_OK && TN_HAS(tn_comm_backend, t.backend, memory) && t.backend->memory)
        rc = t.backend->memory(r->group, MANY * sizeof(float), 1, &x, &r->err);
    e->own = !x;
    if (rc == TN_OK && e->own)
        rc = t.api->mem_alloc(r->device, MANY * sizeof(float), &x, &r->err);
    if (rc == TN_OK)
        rc = t.api->mem_alloc(r->device, TURNS * MANY * sizeof(float), &out, &r->err);
    e->x = x;
    e->out = out;
    return rc;
}

static float early_value(uint32_t rank, uint32_t turn)
{
    return (float)(10 * turn + rank);
}

/* One sum behind such a kernel, and what came of it to where it stays. */
static int32_t early_turn(struct rank *r, const struct early *e, uint32_t turn, uint32_t count)
{
    float *x = e->x, value = early_value(r->rank, turn);
    int64_t clocks = CLOCKS;
    void *params[] = {&x, &count, &value, &clocks};
    const tn_kernel_launch k = {.h = TN_HDR(tn_kernel_launch),
                                .entry = e->entry,
                                .grid = {16, 1, 1},
                                .block = {256, 1, 1},
                                .flags = TN_LAUNCH_OVERLAP,
                                .params = params};
    int32_t rc = t.api->launch(r->device, r->stream, &k, &r->err);

    if (rc == TN_OK)
        rc = t.backend->all_reduce(r->group, x, x, count, TN_DT_F32, r->stream, &r->err);
    return rc == TN_OK ? t.api->copy(r->device, r->stream, e->out + (size_t)turn * MANY, x,
                                     count * sizeof(float), TN_COPY_DEVICE_TO_DEVICE, &r->err)
                       : rc;
}

static int32_t early_sums(struct rank *r, const struct early *e, uint32_t count)
{
    float *host = malloc(TURNS * MANY * sizeof *host), want;
    int32_t rc = host ? TN_OK : TN_E_NOMEM;

    for (uint32_t turn = 0; turn < TURNS && rc == TN_OK; turn++)
        rc = early_turn(r, e, turn, count);
    if (rc == TN_OK)
        rc = t.api->copy(r->device, r->stream, host, e->out, TURNS * MANY * sizeof *host,
                         TN_COPY_DEVICE_TO_HOST, &r->err);
    if (rc == TN_OK)
        rc = t.api->stream_sync(r->device, r->stream, &r->err);
    for (uint32_t i = 0; i < TURNS * count && rc == TN_OK; i++) {
        uint32_t turn = i / count, at = i % count;
        want = (float)t.n * (float)(at % 7);
        for (uint32_t rank = 0; rank < t.n; rank++)
            want += early_value(rank, turn);
        if (host[(size_t)turn * MANY + at] != want)
            rc = tn_err_set(&r->err, TN_E_INTERNAL, "sum %u of %u: element %u is %g, not %g",
                            (unsigned)turn, (unsigned)count, (unsigned)at,
                            (double)host[(size_t)turn * MANY + at], (double)want);
    }
    free(host);
    return rc;
}

static int32_t behind_early(struct rank *r)
{
    struct early e = {0};
    int32_t rc = early_open(r, &e);

    pthread_barrier_wait(&t.all); /* loading may wait for what runs, which waits for the loader */
    if (rc == TN_OK)
        rc = early_sums(r, &e, COUNT);
    if (rc == TN_OK)
        rc = early_sums(r, &e, MANY);
    t.api->stream_sync(r->device, r->stream, NULL);
    if (e.own)
        t.api->mem_free(r->device, e.x);
    t.api->mem_free(r->device, e.out);
    t.api->image_unload(r->device, e.image);
    return rc;
}

/* NCCL from 2.28 to 2.30.6 does not wait for such a kernel where memory is symmetric. */
START_TEST(what_the_kernel_ahead_writes_is_what_is_summed)
{
    static const char *const backends[] = {"local", "pcie", "nccl"};
    const struct setup s = {backends[_i], "2", "false", "false", 2, false, false};

    if (strcmp(kind(), "cuda") != 0)
        return;
    open_plugins(&s);
    if (t.n_devices >= 2)
        run_ranks(behind_early, 20000);
    for (uint32_t i = 0; i < 2 && t.n_devices >= 2; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
    close_plugins();
}
END_TEST
#endif

/* CK_RUN_CASE chooses one. */
static TCase *add_case(Suite *s, const char *name)
{
    TCase *c = tcase_create(name);

    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return c;
}

int main(void)
{
    Suite *s = suite_create("comm_device");
    TCase *c = add_case(s, "contract");

    tcase_add_loop_test(c, every_call_gives_what_one_rank_computes, 0,
                        sizeof setups / sizeof *setups);
    tcase_add_test(c, devices_out_of_reach_are_refused);
    c = add_case(s, "meeting");
    tcase_add_loop_test(c, captured_calls_of_devices_can_be_replayed, 2, 4);
    tcase_add_loop_test(c, only_devices_of_their_own_meet, 0, 5);
    tcase_add_test(c, a_wait_on_a_device_ends_at_its_deadline);
    tcase_add_test(c, an_abort_ends_a_wait_on_a_device);
#ifdef WITH_EARLY
    tcase_add_loop_test(add_case(s, "early"), what_the_kernel_ahead_writes_is_what_is_summed, 0, 3);
#endif
    tcase_add_loop_test(add_case(s, "nccl"), nccl_gives_the_same, 0, 2);
    return run_suite(s);
}
