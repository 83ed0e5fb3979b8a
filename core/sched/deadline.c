/* SPDX-License-Identifier: Apache-2.0 */
/* A binary min-heap of requests by deadline (Williams 1964). Called by the thread that owns the
 * scheduler. */
#include "sched/deadline.h"

#include <stddef.h>

#include "sched/state.h"

struct request *deadline_first(const struct deadline_heap *h)
{
    return h->count ? h->items[0] : NULL;
}

static void put(struct deadline_heap *h, uint32_t at, struct request *r)
{
    h->items[at] = r;
    r->heap_at = at + 1;
}

static void sift_up(struct deadline_heap *h, uint32_t at)
{
    struct request *r = h->items[at];

    while (at > 0 && h->items[(at - 1) / 2]->heap_key > r->heap_key) {
        put(h, at, h->items[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(h, at, r);
}

static void sift_down(struct deadline_heap *h, uint32_t at)
{
    struct request *r = h->items[at];

    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < h->count && h->items[child + 1]->heap_key < h->items[child]->heap_key)
            child++;
        if (child >= h->count || h->items[child]->heap_key >= r->heap_key)
            break;
        put(h, at, h->items[child]);
        at = child;
    }
    put(h, at, r);
}

static void take_out(struct deadline_heap *h, struct request *r)
{
    uint32_t at = r->heap_at - 1;
    struct request *last = h->items[--h->count];

    r->heap_at = 0;
    if (last == r)
        return;
    put(h, at, last);
    sift_up(h, at);
    sift_down(h, last->heap_at - 1);
}

void deadline_set(struct deadline_heap *h, struct request *r, uint64_t deadline_ns)
{
    if (r->heap_at)
        take_out(h, r);
    r->heap_key = deadline_ns;
    if (deadline_ns == DEADLINE_NONE)
        return;
    put(h, h->count++, r);
    sift_up(h, h->count - 1);
}
