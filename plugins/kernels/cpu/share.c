/* SPDX-License-Identifier: Apache-2.0 */
/* Handing out items; see share.h. Any thread; the state of a job lives on its caller's stack. */
#include "share.h"

#include <stdatomic.h>

/* Waking the workers and meeting again costs about a microsecond; below this the caller is quicker alone. */
#define ALONE_NS 3000.0

struct job {
    share_fn fn;
    void *arg;
    uint32_t n;
    atomic_uint next;
};

static void work(void *arg, uint32_t index, uint32_t count)
{
    struct job *job = arg;
    uint32_t first = atomic_load_explicit(&job->next, memory_order_relaxed);

    while (first < job->n) {
        uint32_t run = (job->n - first) / (2 * count);
        uint32_t last = first + (run ? run : 1);
        if (!atomic_compare_exchange_weak_explicit(&job->next, &first, last, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        job->fn(job->arg, first, last, index);
        first = atomic_load_explicit(&job->next, memory_order_relaxed);
    }
}

void share_on(const struct cpu_instance *in, tn_device *device, share_fn fn, void *arg, uint32_t n,
              double ns)
{
    struct job job = {.fn = fn, .arg = arg, .n = n};

    if (!device || !in->api->parallel || n < 2 || ns < ALONE_NS) {
        if (n)
            fn(arg, 0, n, 0);
        return;
    }
    atomic_init(&job.next, 0);
    in->api->parallel(device, work, &job);
}

void share_items(const struct cpu_instance *in, const tn_launch *l, share_fn fn, void *arg,
                 uint32_t n, double ns)
{
    share_on(in, l->device ? l->device : in->attached[0], fn, arg, n, ns);
}

uint32_t share_workers(const struct cpu_instance *in)
{
    uint32_t most = 1;

    for (uint32_t i = 0; i < CPU_MAX_ATTACHED; i++) {
        uint32_t n =
            in->attached[i] && in->api->n_workers ? in->api->n_workers(in->attached[i]) : 1;
        if (n > most)
            most = n;
    }
    return most;
}
