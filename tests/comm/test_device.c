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
    tn_kv shadow[2], pcie[1];
} t;

static const char *kind(void)
{
    const char *name = getenv("TENON_TEST_DEVICE");

    return name ? name : "shadow";
}

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    (void)arg;
    *items = strcmp(plugin, "shadow") == 0 ? t.shadow : t.pcie;
    return strcmp(plugin, "shadow") == 0 ? 2 : strcmp(plugin, "pcie") == 0 ? 1 : 0;
}

static void open_plugins(const struct setup *s)
{
    static const char *const paths[] = {PLUGIN_DIR, SHADOW_DIR};
    struct registry_options o = {.paths = paths, .n_paths = 2, .config = config};
    tn_err err = TN_ERR_INIT;

    t.shadow[0] = (tn_kv){"devices", s->devices};
    t.shadow[1] = (tn_kv){"islands", s->islands};
    t.pcie[0] = (tn_kv){"staged", s->staged};
    ck_assert_ok(registry_open(&o, &t.registry, &err), &err);
    t.view = registry_acquire(t.registry);
    ck_assert_ok(registry_comm(t.view, s->backend, &t.backend, &t.instance, &err), &err);
    ck_assert_ok(registry_device(t.view, kind(), &t.api, &t.device_instance, &err), &err);
    ck_assert_ok(t.api->count(t.device_instance, &t.n_devices, &err), &err);
    ck_assert_uint_gt(t.n_devices, 0);
    t.n = s->n;
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
                        .call_timeout_ns = UINT64_C(20000000000),
                        .max_bytes = 1u << 20,
                        .info = &r->info};
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

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    struct contract_memory memory;

    r->rc = begin(r);
    memory = (struct contract_memory){t.api, r->device, r->stream};
    if (r->rc == TN_OK)
        r->rc = contract_run(t.backend, r->group, r->rank, t.n, &memory, &r->err);
    pthread_barrier_wait(&t.all); /* as tenon/comm.h asks: all are through */
    if (r->group)
        t.backend->leave(r->group);
    if (r->stream)
        t.api->stream_free(r->device, r->stream);
    if (r->device)
        t.api->close(r->device);
    return NULL;
}

static void run(const struct setup *s)
{
    static struct rank ranks[MAX];
    tn_err err = TN_ERR_INIT;

    open_plugins(s);
    ck_assert_ok(t.backend->can_join(t.instance, t.n, t.n, NULL, &err), &err);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &err), &err);
    for (uint32_t i = 0; i < t.n; i++) {
        ranks[i] = (struct rank){.rank = i, .err = TN_ERR_INIT};
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < t.n; i++)
        pthread_join(ranks[i].thread, NULL);
    close_plugins();
    for (uint32_t i = 0; i < t.n; i++)
        ck_assert_ok(ranks[i].rc, &ranks[i].err);
}

static const struct setup setups[] = {
    {"local", "1", "false", "false", 1}, {"local", "1", "false", "false", 2},
    {"local", "3", "false", "false", 3}, {"local", "2", "false", "false", 8},
    {"pcie", "1", "false", "false", 2},  {"pcie", "1", "false", "true", 2},
    {"pcie", "2", "true", "false", 3},   {"pcie", "4", "true", "false", 4},
    {"pcie", "1", "false", "false", 4},  {"pcie", "1", "false", "true", 8},
};

START_TEST(every_call_gives_what_one_rank_computes)
{
    run(&setups[_i]);
}
END_TEST

/* On islands there is no way for the plugin local, and it says so instead of reading what it cannot. */
START_TEST(devices_out_of_reach_are_refused)
{
    static struct rank ranks[2];
    const struct setup s = {"local", "2", "true", "false", 2};
    tn_err err = TN_ERR_INIT;

    if (strcmp(kind(), "shadow") != 0)
        return;
    open_plugins(&s);
    ck_assert_ok(t.backend->make_id(t.instance, t.id, &err), &err);
    for (uint32_t i = 0; i < 2; i++) {
        ranks[i] = (struct rank){.rank = i, .err = TN_ERR_INIT};
        ck_assert_int_eq(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        pthread_join(ranks[i].thread, NULL);
        ck_assert_int_eq(ranks[i].rc, TN_E_UNSUPPORTED);
        ck_assert_err_has(&ranks[i].err, "does not reach that of rank");
    }
    close_plugins();
}
END_TEST

/* NCCL wants a GPU of its own for every rank: one, and all that there are. */
START_TEST(nccl_gives_the_same)
{
    struct setup s = {"nccl", "1", "false", "false", 1};

    if (strcmp(kind(), "cuda") != 0)
        return;
    open_plugins(&s);
    if (_i == 1)
        s.n = t.n_devices < MAX ? t.n_devices : MAX;
    close_plugins();
    run(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("comm_device");
    TCase *c = tcase_create("device memory");

    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, every_call_gives_what_one_rank_computes, 0,
                        sizeof setups / sizeof *setups);
    tcase_add_test(c, devices_out_of_reach_are_refused);
    tcase_add_loop_test(c, nccl_gives_the_same, 0, 2);
    suite_add_tcase(s, c);
    return run_suite(s);
}
