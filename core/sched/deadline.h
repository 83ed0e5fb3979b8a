/* SPDX-License-Identifier: Apache-2.0 */
/* The deadlines of all requests, as a binary heap in memory taken once: the earliest is found in
 * O(1), any is changed in O(log n). Requests know their place in it. */
#ifndef CORE_SCHED_DEADLINE_H
#define CORE_SCHED_DEADLINE_H

#include <stdint.h>

struct request;

#define DEADLINE_NONE UINT64_MAX

struct deadline_heap {
    struct request **items; /* [cap] */
    uint32_t count;
};

/* The request whose deadline is earliest; NULL if none has one. */
struct request *deadline_first(const struct deadline_heap *h);

/* Sets the deadline of a request; DEADLINE_NONE takes it out. */
void deadline_set(struct deadline_heap *h, struct request *r, uint64_t deadline_ns);

#endif
