/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block pool: which page is free, held, or parked. It manages ids 0 .. n_blocks - 1 only; the
 * memory of the pages belongs to whoever runs the steps. A block is in one of three states:
 *
 *   free    nobody holds it and its content is worthless            on the free stack
 *   held    refs > 0 holders                                        on no list
 *   parked  nobody holds it but its content may be used again       on the list of the parked, by age
 *
 * Every operation is O(1) and allocates nothing. One thread at a time; no locks. These are
 * mechanics for kv/cache.h, which decides what is parked and what is evicted.
 */
#ifndef CORE_KV_POOL_H
#define CORE_KV_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* A count that would pass this is refused: a block has no more holders than there are sequences. */
#define POOL_REFS_MAX UINT16_MAX

#define POOL_NONE (-1)

struct pool_link {
    int32_t older, newer;
};

struct pool {
    uint32_t n_blocks;
    uint32_t n_free;
    uint32_t n_parked;
    uint16_t *refs;          /* [n_blocks] holders of each block */
    uint8_t *parked;         /* [n_blocks] 1: on the list below */
    int32_t *free_stack;     /* [n_blocks] the first n_free are the free ids, last freed on top */
    struct pool_link *links; /* [n_blocks] list of parked blocks */
    int32_t oldest, newest;  /* its ends, or POOL_NONE */
    uint64_t faults;         /* operations refused because the caller miscounted; always 0 */
};

/* All blocks free. n_blocks is in 1 .. LIMIT_KV_BLOCKS (the caller checked). TN_E_NOMEM leaves `p`
 * zeroed. */
int32_t pool_init(struct pool *p, uint32_t n_blocks, tn_err *err);
void pool_release(struct pool *p); /* a zeroed pool is allowed */

/* A free block, now held once; POOL_NONE if none is free. */
int32_t pool_take(struct pool *p);

/* One more holder, of a held or a parked block (which then leaves the list). False, and nothing
 * happens, if the count is at its maximum or the block is free. */
bool pool_ref(struct pool *p, int32_t block);

/* One holder less. True if that was the last one: the block is then in no state, and the caller
 * gives it to pool_give or pool_park at once. A block without holders is refused: counted in
 * `faults`, false. */
bool pool_unref(struct pool *p, int32_t block);

/* After the last pool_unref: content dropped, or kept as the newest of the parked. */
void pool_give(struct pool *p, int32_t block);
void pool_park(struct pool *p, int32_t block);

/* Takes a parked block off the list and frees it. */
void pool_drop(struct pool *p, int32_t block);

/* Blocks that pool_take could return now or after dropping parked ones. */
static inline uint32_t pool_available(const struct pool *p)
{
    return p->n_free + p->n_parked;
}

/* Checks lists, states and counts against each other, O(n_blocks). `mark` has n_blocks bytes of
 * scratch. TN_E_INTERNAL names the first block that is wrong. */
int32_t pool_audit(const struct pool *p, uint8_t *mark, tn_err *err);

#endif
