/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive lists of requests. Called by the thread that owns the scheduler. */
#include "sched/queue.h"

#include <stddef.h>

#include "sched/state.h"

static void link_before(struct queue *q, struct request *r, struct request *next)
{
    struct request *prev = next ? next->prev : q->last;

    r->prev = prev;
    r->next = next;
    if (prev)
        prev->next = r;
    else
        q->first = r;
    if (next)
        next->prev = r;
    else
        q->last = r;
    q->count++;
}

void queue_append(struct queue *q, struct request *r)
{
    link_before(q, r, NULL);
}

void queue_prepend(struct queue *q, struct request *r)
{
    link_before(q, r, q->first);
}

void queue_remove(struct queue *q, struct request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        q->first = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        q->last = r->prev;
    r->prev = r->next = NULL;
    q->count--;
}
