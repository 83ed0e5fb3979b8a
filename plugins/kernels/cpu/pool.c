/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workers of a cpu device. pool_run may be called from any thread; see pool.h for two at once.
 *
 * Both waits (a worker for the next generation, the caller for the last worker) follow one protocol:
 * spin on an atomic; then announce oneself asleep, look once more, and sleep on a condition. The other side
 * changes the atomic, then looks whether anyone announced itself. Both steps are sequentially consistent, so
 * one of the two sees the other (Dekker), and no wake-up is lost.
 */
#include "pool.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX() ((void)0)
#endif

/* Pauses between two looks at the clock: a look costs about as much as one pause. */
#define PAUSES_PER_LOOK 16

#define CACHE_LINE 64

struct worker {
    struct pool *pool;
    tn_thread *thread;
    uint32_t index;
};

struct pool {
    const tn_host *host;
    uint64_t spin_ns;
    uint32_t n; /* workers, the caller included */
    uint32_t n_started;
    atomic_uint busy; /* a pool_run is in progress */

    /* The job; written before `generation` is raised, read after. fn NULL: return. */
    tn_parallel_fn fn;
    void *arg;

    alignas(CACHE_LINE) atomic_uint generation; /* number of jobs so far */
    alignas(CACHE_LINE) atomic_uint pending;    /* workers that have not finished the job */
    alignas(CACHE_LINE) atomic_uint sleepers;   /* workers asleep, or about to be */
    atomic_uint caller_sleeps;
    pthread_mutex_t lock; /* for the two conditions only */
    pthread_cond_t work;  /* generation was raised */
    pthread_cond_t done;  /* pending fell to 0 */

    struct worker workers[];
};

/* Spins until *word differs from `was` (differ) or equals it; 0 if spin_ns passed first. */
static int spin(const struct pool *p, atomic_uint *word, uint32_t value, int differ)
{
    uint64_t start = 0;

    for (;;) {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if ((atomic_load_explicit(word, memory_order_acquire) != value) == differ)
                return 1;
            RELAX();
        }
        uint64_t now = p->host->now_ns(p->host->ctx);
        if (start == 0)
            start = now;
        if (now - start >= p->spin_ns)
            return 0;
    }
}

static void wait_for_work(struct pool *p, uint32_t seen)
{
    if (spin(p, &p->generation, seen, 1))
        return;
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->generation) == seen)
        pthread_cond_wait(&p->work, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void wait_for_workers(struct pool *p)
{
    if (spin(p, &p->pending, 0, 0))
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, 1);
    while (atomic_load(&p->pending) != 0)
        pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->caller_sleeps, 0);
    pthread_mutex_unlock(&p->lock);
}

static void signal_if(struct pool *p, atomic_uint *asleep, pthread_cond_t *cond)
{
    if (atomic_load(asleep) == 0)
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(cond);
    pthread_mutex_unlock(&p->lock);
}

static void work(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;

    for (uint32_t seen = 0;; seen++) {
        wait_for_work(p, seen);
        if (!p->fn)
            return;
        p->fn(p->arg, w->index, p->n);
        if (atomic_fetch_sub(&p->pending, 1) == 1)
            signal_if(p, &p->caller_sleeps, &p->done);
    }
}

static void publish(struct pool *p, tn_parallel_fn fn, void *arg)
{
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->pending, p->n_started);
    atomic_fetch_add(&p->generation, 1);
    signal_if(p, &p->sleepers, &p->work);
}

void pool_run(struct pool *p, tn_parallel_fn fn, void *arg)
{
    if (p->n == 1 || atomic_exchange(&p->busy, 1)) {
        fn(arg, 0, 1);
        return;
    }
    publish(p, fn, arg);
    fn(arg, 0, p->n);
    wait_for_workers(p);
    atomic_store(&p->busy, 0);
}

int32_t pool_open(const tn_host *host, const struct cpu_settings *settings, uint32_t share,
                  uint32_t n_shares, struct pool **out, tn_err *err)
{
    uint32_t begin = (uint32_t)((uint64_t)settings->threads * share / n_shares);
    uint32_t end = (uint32_t)((uint64_t)settings->threads * (share + 1) / n_shares);
    uint32_t n = end > begin ? end - begin : 1;
    uint64_t bytes = sizeof(struct pool) + n * sizeof(struct worker);
    struct pool *p = host->alloc(host->ctx, bytes, CACHE_LINE);
    int32_t rc = TN_OK;

    if (!p)
        return tn_err_set(err, TN_E_NOMEM, "cpu: no memory for %u workers", n);
    p->host = host;
    p->spin_ns = (uint64_t)settings->spin_us * 1000;
    p->n = n;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    for (uint32_t i = 1; i < n && !rc; i++) {
        struct worker *w = &p->workers[i];
        char name[16];
        snprintf(name, sizeof name, "cpu/%u", i);
        w->pool = p;
        w->index = i;
        rc = host->thread_spawn(host->ctx, name, settings->pin ? (int32_t)(begin + i) : -1, work, w,
                                &w->thread, err);
        p->n_started += !rc;
    }
    if (rc) {
        pool_close(p);
        return rc;
    }
    *out = p;
    return TN_OK;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    publish(p, NULL, NULL);
    for (uint32_t i = 1; i <= p->n_started; i++)
        p->host->thread_join(p->host->ctx, p->workers[i].thread);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    p->host->free(p->host->ctx, p);
}

uint32_t pool_size(const struct pool *p)
{
    return p->n;
}
