/* SPDX-License-Identifier: Apache-2.0 */
/* A request as seen from outside the loop: a list of events with room for all there will ever be, so that the loop
 * never waits for a slow reader. Several owners (the caller, the mailbox, the loop); the last to let go frees it. */
#ifndef CORE_LOOP_TICKET_H
#define CORE_LOOP_TICKET_H

#include <pthread.h>
#include <stdbool.h>

#include "loop/loop.h"

struct mailbox;

/* What a ticket asks of the loop beside its submission. */
enum ticket_wish { WISH_NONE, WISH_CANCEL, WISH_STOP };

struct ticket {
    pthread_mutex_t lock; /* guards what follows, up to the next remark */
    pthread_cond_t arrived;
    uint32_t refs;
    struct ticket_event *events;
    uint32_t n_events, n_read, capacity;
    bool finished, finished_read;
    struct sched_usage usage;
    char message[256];
    /* Guarded by the mailbox's lock. */
    struct ticket *next;
    struct request *request;
    enum ticket_wish wish;
    bool posted;
    /* The loop's thread only. */
    uint64_t id; /* in the scheduler; 0: not there yet */
    bool ended;
    struct ticket *next_ended;
    struct ticket_event last;
    /* Set once. */
    struct mailbox *mailbox;
    loop_logits on_logits;
    void *arg;
    uint64_t submitted_ns;
};

/* One reference, the caller's. Takes its own reference to the mailbox. */
int32_t ticket_new(struct mailbox *m, uint32_t max_tokens, struct ticket **out, tn_err *err);
void ticket_ref(struct ticket *t);
void ticket_unref(struct ticket *t);

/* Appends an event and wakes the reader. The loop's thread. */
void ticket_post(struct ticket *t, const struct ticket_event *e);

/* The final account, before the last event is posted. `usage` may be NULL. */
void ticket_close(struct ticket *t, const struct sched_usage *usage, const char *message);

/* Appends the last event. */
void ticket_finish(struct ticket *t, const struct ticket_event *e);

#endif
