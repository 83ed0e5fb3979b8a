/* SPDX-License-Identifier: Apache-2.0 */
#include "watch.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "tenon/error.h"

#define FIRST_WORD_S 10 /* the others at 20, 40, 80 ... */

static void say(const struct watch *w, unsigned seconds)
{
    char msg[240];

    snprintf(
        msg, sizeof msg,
        "%s has not returned for %u s: not all processes have come to it, or they cannot reach "
        "each other (Open MPI: --mca btl_tcp_if_include and oob_tcp_if_include name the networks)",
        w->call, seconds);
    w->host->log(w->host->ctx, TN_LOG_WARN, msg);
}

static void watch_main(void *arg)
{
    struct watch *w = arg;
    struct timespec until;
    unsigned seconds = FIRST_WORD_S;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        if (pthread_cond_timedwait(&w->changed, &w->lock, &until) != ETIMEDOUT || w->over)
            continue;
        say(w, seconds);
        until.tv_sec += seconds;
        seconds *= 2;
    }
    pthread_mutex_unlock(&w->lock);
}

void watch_begin(struct watch *w, const tn_host *host, const char *call)
{
    pthread_condattr_t attr;

    *w = (struct watch){.host = host, .call = call};
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (host->thread_spawn(host->ctx, "mpi/watch", -1, watch_main, w, &w->thread, NULL) != TN_OK)
        w->thread = NULL;
}

void watch_end(struct watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->over = 1;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->thread)
        w->host->thread_join(w->host->ctx, w->thread);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
}
