/* SPDX-License-Identifier: Apache-2.0 */
/* Time of an all-reduce between ranks that are threads of this process, beside memcpy of the same bytes by as many threads:
 *
 *     bench_comm [RANKS [BACKEND]]      (2, local)
 *
 * A rank must copy its part to where others see it, and read everybody's: RANKS + 1 times the bytes, at best. */
#define _GNU_SOURCE /* threads stay on processors of their own: sched_setaffinity */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "plugin/registry.h"

enum { MAX_RANKS = 16, MAX_BYTES = 4 << 20, ROUNDS = 40 };

static const tn_comm_backend *backend;
static void *instance;
static uint8_t id[TN_COMM_ID_BYTES];
static uint32_t n_ranks = 2;
static pthread_barrier_t gate;
static _Atomic int failed;

struct rank {
    pthread_t thread;
    uint32_t rank;
    double reduce_ns, copy_ns; /* per call, of the size at hand */
};

static struct rank ranks[MAX_RANKS];

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    (void)arg;
    (void)plugin;
    (void)items;
    return 0;
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

int main(int argc, char **argv)
{
    const char *path = PLUGIN_DIR, *name = argc > 2 ? argv[2] : "local";
    struct registry_options o = {.paths = &path, .n_paths = 1, .config = config};
    const struct registry_view *view;
    struct registry *registry = NULL;
    tn_err err = TN_ERR_INIT;

    if (argc > 1)
        n_ranks = (uint32_t)strtoul(argv[1], NULL, 10);
    if (n_ranks < 1 || n_ranks > MAX_RANKS) {
        fprintf(stderr, "usage: bench_comm [RANKS up to %d [BACKEND]]\n", MAX_RANKS);
        return 2;
    }
    log_set_level(TN_LOG_ERROR);
    if (registry_open(&o, &registry, &err) != TN_OK ||
        registry_comm(view = registry_acquire(registry), name, &backend, &instance, &err) !=
            TN_OK ||
        backend->make_id(instance, id, &err) != TN_OK) {
        fprintf(stderr, "bench_comm: %s\n", err.msg);
        return 1;
    }
    pthread_barrier_init(&gate, NULL, n_ranks);
    printf("%s, %u ranks\n%9s %12s %12s %8s\n", name, (unsigned)n_ranks, "bytes", "memcpy us",
           "all_reduce", "ratio");
    for (uint32_t i = 0; i < n_ranks; i++) {
        ranks[i].rank = i;
        if (pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]) != 0)
            return 1;
    }
    for (uint32_t i = 0; i < n_ranks; i++)
        pthread_join(ranks[i].thread, NULL);
    registry_release(view);
    registry_close(registry);
    return failed;
}
