/* SPDX-License-Identifier: Apache-2.0 */
/* A doubly linked list of requests, threaded through them: those waiting, those running. Every
 * operation is O(1). */
#ifndef CORE_SCHED_QUEUE_H
#define CORE_SCHED_QUEUE_H

#include <stdint.h>

struct request;

struct queue {
    struct request *first, *last;
    uint32_t count;
};

void queue_append(struct queue *q, struct request *r);
void queue_prepend(struct queue *q, struct request *r);
void queue_remove(struct queue *q, struct request *r);

#endif
