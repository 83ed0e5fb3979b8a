/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MPI's own start and the making of communicators block for as long as the others take, and nothing ends them from here. So that
 * nobody waits in the dark, a thread says which call has not returned, and for how long.
 */
#ifndef MPI_WATCH_H
#define MPI_WATCH_H

#include <pthread.h>

#include "tenon/host.h"

struct watch {
    const tn_host *host;
    const char *call;  /* what is waited for; outlives the watch */
    tn_thread *thread; /* NULL: none could be started, and nothing will be said */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int over; /* guarded by lock */
};

/* Around one call, by one thread. The watch stays where it is in between. */
void watch_begin(struct watch *w, const tn_host *host, const char *call);
void watch_end(struct watch *w);

#endif
