/* SPDX-License-Identifier: Apache-2.0 */
/* Time of an all-reduce between ranks that are threads of this process, beside memcpy of the same bytes by as many threads:
 *
 *     bench_comm [RANKS [BACKEND [KIND [SETTING VALUE]]]]      (2, local, none)
 *
 * A rank must copy its part to where others see it, and read everybody's: RANKS + 1 times the bytes, at best.
 *
 * With a KIND of devices ("cuda") in their memory, rank i on device i modulo their number, in memory of the group if it has any. The
 * copy is then one from the next rank's memory, and sums that can be captured are timed in a graph, too. */
#define _GNU_SOURCE /* threads stay on processors of their own: sched_setaffinity */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "plugin/registry.h"

enum {
    MAX_RANKS = 16,
    MAX_BYTES = 4 << 20,
    DEVICE_BYTES = 64 << 20,
    ROUNDS = 40,
    DEVICE_CALLS = 20
};

static const tn_comm_backend *backend;
static void *instance;
static uint8_t id[TN_COMM_ID_BYTES];
static uint32_t n_ranks = 2;
static pthread_barrier_t gate;
static _Atomic int failed;
static const tn_device_api *api; /* NULL: host memory */
static void *device_instance;
static uint32_t n_devices;

struct rank {
    pthread_t thread;
    uint32_t rank;
    double reduce_ns, copy_ns; /* per call, of the size at hand */
    tn_device *device;
    tn_device_info info;
    tn_stream *stream;
    void *send, *recv; /* of the device: what is copied from a peer */
    void *from, *to;   /* what is summed: the same, or memory of the group */
};

static struct rank ranks[MAX_RANKS];

static tn_kv setting; /* of the backend; key NULL: none */
static const char *name = "local";

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    (void)arg;
    *items = &setting;
    return setting.key && strcmp(plugin, name) == 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Of rounds of `calls` calls each, one that only a tenth are faster than: others on the machine disturb the rest. */
static double time_calls(tn_comm_group *g, char *send, char *recv, size_t bytes, uint32_t calls)
{
    double t[ROUNDS];
    tn_err err = TN_ERR_INIT;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t begin;
        pthread_barrier_wait(&gate);
        begin = clock_ns();
        for (uint32_t k = 0; k < calls; k++) {
            if (!g)
                memcpy(recv, send, bytes);
            else if (backend->all_reduce(g, send, recv, bytes / 4, TN_DT_F32, NULL, &err) != TN_OK)
                failed = 1;
            __asm__ volatile("" : : "r"(recv) : "memory"); /* every copy is made */
        }
        t[i] = (double)(clock_ns() - begin) / calls;
    }
    qsort(t, ROUNDS, sizeof *t, by_value);
    return t[ROUNDS / 10];
}

static void *rank_main(void *arg)
{
    static const uint32_t members[MAX_RANKS] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    struct rank *r = arg;
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = id,
                        .rank = r->rank,
                        .n_ranks = n_ranks,
                        .members = members,
                        .timeout_ns = 10 * NS_PER_S,
                        .call_timeout_ns = 10 * NS_PER_S};
    char *send = calloc(1, MAX_BYTES), *recv = calloc(1, MAX_BYTES);
    tn_comm_group *g = NULL;
    tn_err err = TN_ERR_INIT;
    cpu_set_t own;

    CPU_ZERO(&own);
    CPU_SET(r->rank, &own);
    sched_setaffinity(0, sizeof own, &own); /* if there are so many */
    if (!send || !recv || backend->join(instance, &how, &g, &err) != TN_OK) {
        fprintf(stderr, "bench_comm: %s\n", err.msg);
        exit(1);
    }
    for (size_t bytes = 4096; bytes <= MAX_BYTES; bytes *= 4) {
        uint32_t calls = (uint32_t)((4u << 20) / bytes);
        calls = calls > 100 ? 100 : calls;
        r->copy_ns = time_calls(NULL, send, recv, bytes, calls);
        r->reduce_ns = time_calls(g, send, recv, bytes, calls);
        pthread_barrier_wait(&gate);
        if (r->rank == 0)
            printf("%9zu %12.2f %12.2f %8.1f\n", bytes, r->copy_ns / 1e3, r->reduce_ns / 1e3,
                   r->reduce_ns / r->copy_ns);
    }
    backend->leave(g);
    free(send);
    free(recv);
    return NULL;
}

/* -- Devices ------------------------------------------------------------------------------------------------- */

static void must(int32_t rc, const tn_err *err)
{
    if (rc == TN_OK)
        return;
    fprintf(stderr, "bench_comm: %s\n", err->msg);
    exit(1);
}

static int32_t enqueue(struct rank *r, tn_comm_group *g, size_t bytes, tn_err *err)
{
    int32_t rc = TN_OK;

    for (int i = 0; i < DEVICE_CALLS && rc == TN_OK; i++)
        rc = g ? backend->all_reduce(g, r->from, r->to, bytes / 2, TN_DT_BF16, r->stream, err)
               : api->copy(r->device, r->stream, r->recv, ranks[(r->rank + 1) % n_ranks].send,
                           bytes, TN_COPY_DEVICE_TO_DEVICE, err);
    return rc;
}

/* Per call, of the round that a tenth are faster than, from before the first call until all is done. */
static double time_device(struct rank *r, tn_comm_group *g, tn_graph *graph, size_t bytes)
{
    double t[ROUNDS];
    tn_err err = TN_ERR_INIT;

    for (int i = -2; i < ROUNDS; i++) {
        uint64_t begin;
        pthread_barrier_wait(&gate);
        begin = clock_ns();
        must(graph ? api->graph_launch(r->device, graph, r->stream, &err)
                   : enqueue(r, g, bytes, &err),
             &err);
        must(api->stream_sync(r->device, r->stream, &err), &err);
        if (i >= 0)
            t[i] = (double)(clock_ns() - begin) / DEVICE_CALLS;
    }
    qsort(t, ROUNDS, sizeof *t, by_value);
    return t[ROUNDS / 10];
}

static void open_rank(struct rank *r, tn_comm_group **g)
{
    static const uint32_t members[MAX_RANKS] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                8, 9, 10, 11, 12, 13, 14, 15};
    static const uint32_t here[MAX_RANKS];
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = id,
                        .rank = r->rank,
                        .n_ranks = n_ranks,
                        .members = members,
                        .processes = here,
                        .api = api,
                        .timeout_ns = 20 * NS_PER_S,
                        .call_timeout_ns = 20 * NS_PER_S,
                        .max_bytes = DEVICE_BYTES,
                        .info = &r->info};
    tn_err err = TN_ERR_INIT;

    r->info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    must(api->info(device_instance, r->rank % n_devices, &r->info, &err), &err);
    must(api->open(device_instance, r->rank % n_devices, 0, 1, &r->device, &err), &err);
    must(api->stream_new(r->device, &r->stream, &err), &err);
    must(api->mem_alloc(r->device, DEVICE_BYTES, &r->send, &err), &err);
    must(api->mem_alloc(r->device, DEVICE_BYTES, &r->recv, &err), &err);
    must(api->fill(r->device, r->stream, r->send, 0, DEVICE_BYTES, &err), &err);
    must(api->stream_sync(r->device, r->stream, &err), &err);
    how.device = r->device;
    must(backend->join(instance, &how, g, &err), &err);
    r->from = NULL;
    if (TN_HAS(tn_comm_backend, backend, memory) && backend->memory)
        must(backend->memory(*g, 2u * DEVICE_BYTES, 1, &r->from, &err), &err);
    r->to = r->from ? (char *)r->from + DEVICE_BYTES : r->recv;
    r->from = r->from ? r->from : r->send;
}

static void close_rank(struct rank *r, tn_comm_group *g)
{
    api->stream_sync(r->device, r->stream, NULL);
    pthread_barrier_wait(&gate);
    backend->leave(g);
    api->mem_free(r->device, r->send);
    api->mem_free(r->device, r->recv);
    api->stream_free(r->device, r->stream);
    api->close(r->device);
}

static void *device_main(void *arg)
{
    struct rank *r = arg;
    tn_comm_group *g = NULL;
    tn_err err = TN_ERR_INIT;
    uint32_t flags;

    open_rank(r, &g);
    flags = TN_HAS(tn_comm_backend, backend, group_flags) && backend->group_flags
                ? backend->group_flags(g)
                : backend->flags;
    for (size_t bytes = 8192; bytes <= DEVICE_BYTES; bytes *= bytes < (1u << 20) ? 2 : 4) {
        tn_graph *graph = NULL;
        double captured = 0;
        r->copy_ns = time_device(r, NULL, NULL, bytes);
        r->reduce_ns = time_device(r, g, NULL, bytes);
        if ((flags & (TN_COMM_GRAPH_SAFE | TN_COMM_GRAPH_SUMS)) && bytes <= MAX_BYTES) {
            must(api->capture_begin(r->device, r->stream, &err), &err);
            must(enqueue(r, g, bytes, &err), &err);
            must(api->capture_end(r->device, r->stream, &graph, &err), &err);
            captured = time_device(r, g, graph, bytes);
            api->graph_free(r->device, graph);
        }
        pthread_barrier_wait(&gate);
        if (r->rank == 0)
            printf("%9zu %12.2f %12.2f %8.1f %12.2f\n", bytes, r->copy_ns / 1e3, r->reduce_ns / 1e3,
                   r->reduce_ns / r->copy_ns, captured / 1e3);
    }
    close_rank(r, g);
    return NULL;
}

int main(int argc, char **argv)
{
    const char *path = PLUGIN_DIR;
    struct registry_options o = {.paths = &path, .n_paths = 1, .config = config};
    const struct registry_view *view;
    struct registry *registry = NULL;
    tn_err err = TN_ERR_INIT;

    name = argc > 2 ? argv[2] : name;
    if (argc > 5)
        setting = (tn_kv){argv[4], argv[5]};
    if (argc > 1)
        n_ranks = (uint32_t)strtoul(argv[1], NULL, 10);
    if (n_ranks < 1 || n_ranks > MAX_RANKS || argc > 6) {
        fprintf(stderr, "usage: bench_comm [RANKS up to %d [BACKEND [KIND [SETTING VALUE]]]]\n",
                MAX_RANKS);
        return 2;
    }
    log_set_level(TN_LOG_ERROR);
    if (registry_open(&o, &registry, &err) != TN_OK ||
        registry_comm(view = registry_acquire(registry), name, &backend, &instance, &err) !=
            TN_OK ||
        (argc > 3 && registry_device(view, argv[3], &api, &device_instance, &err) != TN_OK) ||
        (api && api->count(device_instance, &n_devices, &err) != TN_OK) ||
        backend->make_id(instance, id, &err) != TN_OK) {
        fprintf(stderr, "bench_comm: %s\n", err.msg);
        return 1;
    }
    pthread_barrier_init(&gate, NULL, n_ranks);
    printf("%s, %u ranks\n%9s %12s %12s %8s%s\n", name, (unsigned)n_ranks, "bytes", "memcpy us",
           "all_reduce", "ratio", api ? "     captured" : "");
    for (uint32_t i = 0; i < n_ranks; i++) {
        ranks[i].rank = i;
        if (pthread_create(&ranks[i].thread, NULL, api ? device_main : rank_main, &ranks[i]) != 0)
            return 1;
    }
    for (uint32_t i = 0; i < n_ranks; i++)
        pthread_join(ranks[i].thread, NULL);
    registry_release(view);
    registry_close(registry);
    return failed;
}
