/* SPDX-License-Identifier: Apache-2.0 */
/* One lock guards where the watched thread is. The watch's thread wakes a few times per deadline and compares. */
#include "loop/watch.h"

#include <errno.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/mem.h"

enum where { HERE, AWAY, LOST };

struct watch {
    struct watch_options o;
    uint64_t tick_ns;
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    enum where where;
    uint64_t trips; /* times that it went away */
    bool ending;
};

/* Waits for a tick, or the end; with the lock held. */
static void wait_tick(struct watch *w)
{
    uint64_t until = clock_ns() + w->tick_ns;
    struct timespec t = {(time_t)(until / NS_PER_S), (long)(until % NS_PER_S)};

    while (!w->ending && clock_ns() < until)
        if (pthread_cond_timedwait(&w->changed, &w->lock, &t) == ETIMEDOUT)
            return;
}

static void *watch_main(void *arg)
{
    struct watch *w = arg;
    uint64_t pulse = 0, trip = 0, idle_ns = 0;

    pthread_mutex_lock(&w->lock);
    while (!w->ending && idle_ns < w->o.timeout_ns) {
        uint64_t now = w->o.pulse(w->o.arg);
        idle_ns = w->where == AWAY && w->trips == trip && now == pulse ? idle_ns + w->tick_ns : 0;
        trip = w->trips;
        pulse = now;
        if (idle_ns < w->o.timeout_ns)
            wait_tick(w);
    }
    if (w->ending) {
        pthread_mutex_unlock(&w->lock);
        return NULL;
    }
    w->where = LOST;
    pthread_mutex_unlock(&w->lock);
    w->o.lost(w->o.arg);
    return NULL;
}

int32_t watch_start(const struct watch_options *o, struct watch **out, tn_err *err)
{
    struct watch *w = mem_zalloc(sizeof *w);
    pthread_condattr_t attr;
    int e;

    if (!w)
        return err_nomem(err, "a watch");
    w->o = *o;
    w->tick_ns = o->timeout_ns / 8 < NS_PER_S ? o->timeout_ns / 8 + 1 : NS_PER_S;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attr);
    pthread_condattr_destroy(&attr);
    e = pthread_create(&w->thread, NULL, watch_main, w);
    if (e != 0) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        mem_free(w);
        return err_errno(err, "start a thread for", "a watch", e);
    }
    *out = w;
    return TN_OK;
}

void watch_away(struct watch *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->where = AWAY;
    w->trips++;
    pthread_mutex_unlock(&w->lock);
}

bool watch_back(struct watch *w)
{
    bool back;

    if (!w)
        return true;
    pthread_mutex_lock(&w->lock);
    back = w->where != LOST;
    if (back)
        w->where = HERE;
    pthread_mutex_unlock(&w->lock);
    return back;
}

bool watch_stop(struct watch *w)
{
    bool lost;

    if (!w)
        return true;
    pthread_mutex_lock(&w->lock);
    w->ending = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    lost = w->where == LOST;
    if (lost)
        return false;
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
    return true;
}
