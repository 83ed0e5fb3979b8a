/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches a thread that goes where it may never come back from: into a device and its plugins. When it makes no progress there
 * for too long it is given up: whoever watches takes over what the thread owned, and the thread, should it ever come
 * back, learns so and touches nothing any more.
 *
 * Time counts in short ticks, so that a process that was stopped and continued as a whole loses nobody.
 */
#ifndef CORE_LOOP_WATCH_H
#define CORE_LOOP_WATCH_H

#include <stdbool.h>

#include "base/err.h"

struct watch;

struct watch_options {
    uint64_t timeout_ns;
    uint64_t (*pulse)(
        void *arg); /* differs from what it was whenever there was progress; any thread */
    /* The watched thread is given up. On the watch's thread, which from now on owns what the other did. */
    void (*lost)(void *arg);
    void *arg;
};

/* Starts the watch's thread. */
int32_t watch_start(const struct watch_options *o, struct watch **out, tn_err *err);

/* The watched thread goes away, and is back. watch_back is false when it was given up meanwhile: it must return without
 * touching anything. NULL (nobody watches) is allowed. */
void watch_away(struct watch *w);
bool watch_back(struct watch *w);

/* Ends the watch and frees it. False if the watched thread was given up: then it stays, for the other may still come back. NULL
 * is allowed. */
bool watch_stop(struct watch *w);

#endif
