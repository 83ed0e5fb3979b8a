/* SPDX-License-Identifier: Apache-2.0 */
/* The block pool: a stack of free ids, a count of holders per block, and a doubly linked list of
 * parked blocks whose links lie in an array, so that every move is O(1). Called by the thread that
 * owns the cache. */
#include "kv/pool.h"

#include <assert.h>

#include "base/mem.h"

int32_t pool_init(struct pool *p, uint32_t n_blocks, tn_err *err)
{
    *p = (struct pool){.n_blocks = n_blocks, .oldest = POOL_NONE, .newest = POOL_NONE};
    p->refs = mem_zarray(n_blocks, sizeof *p->refs);
    p->parked = mem_zarray(n_blocks, sizeof *p->parked);
    p->free_stack = mem_array(n_blocks, sizeof *p->free_stack);
    p->links = mem_array(n_blocks, sizeof *p->links);
    if (!p->refs || !p->parked || !p->free_stack || !p->links) {
        pool_release(p);
        return err_nomem(err, "the block pool");
    }
    /* Block 0 on top: a young pool hands out ascending ids, which reads well in traces. */
    for (uint32_t i = 0; i < n_blocks; i++)
        p->free_stack[i] = (int32_t)(n_blocks - 1 - i);
    p->n_free = n_blocks;
    return TN_OK;
}

void pool_release(struct pool *p)
{
    mem_free(p->refs);
    mem_free(p->parked);
    mem_free(p->free_stack);
    mem_free(p->links);
    *p = (struct pool){0};
}

int32_t pool_take(struct pool *p)
{
    int32_t block;

    if (p->n_free == 0)
        return POOL_NONE;
    block = p->free_stack[--p->n_free];
    assert(p->refs[block] == 0 && !p->parked[block]);
    p->refs[block] = 1;
    return block;
}

static void unlink_parked(struct pool *p, int32_t block)
{
    struct pool_link *l = &p->links[block];

    if (l->older == POOL_NONE)
        p->oldest = l->newer;
    else
        p->links[l->older].newer = l->newer;
    if (l->newer == POOL_NONE)
        p->newest = l->older;
    else
        p->links[l->newer].older = l->older;
    p->parked[block] = 0;
    p->n_parked--;
}

bool pool_ref(struct pool *p, int32_t block)
{
    if (p->parked[block]) {
        unlink_parked(p, block);
    } else if (p->refs[block] == 0) {
        p->faults++;
        return false;
    } else if (p->refs[block] == POOL_REFS_MAX) {
        return false;
    }
    p->refs[block]++;
    return true;
}

bool pool_unref(struct pool *p, int32_t block)
{
    if (p->refs[block] == 0) {
        p->faults++;
        return false;
    }
    return --p->refs[block] == 0;
}

void pool_give(struct pool *p, int32_t block)
{
    assert(p->refs[block] == 0 && !p->parked[block] && p->n_free < p->n_blocks);
    p->free_stack[p->n_free++] = block;
}

void pool_park(struct pool *p, int32_t block)
{
    assert(p->refs[block] == 0 && !p->parked[block]);
    p->links[block] = (struct pool_link){.older = p->newest, .newer = POOL_NONE};
    if (p->newest == POOL_NONE)
        p->oldest = block;
    else
        p->links[p->newest].newer = block;
    p->newest = block;
    p->parked[block] = 1;
    p->n_parked++;
}

void pool_drop(struct pool *p, int32_t block)
{
    assert(p->parked[block]);
    unlink_parked(p, block);
    pool_give(p, block);
}

static int32_t wrong(tn_err *err, int64_t block, const char *what)
{
    return tn_err_set(err, TN_E_INTERNAL, "block pool: block %lld %s", (long long)block, what);
}

int32_t pool_audit(const struct pool *p, uint8_t *mark, tn_err *err)
{
    uint32_t n_parked = 0, n_held = 0;
    int32_t before = POOL_NONE;

    memset(mark, 0, p->n_blocks);
    for (uint32_t i = 0; i < p->n_free; i++) {
        int32_t b = p->free_stack[i];
        if (b < 0 || (uint32_t)b >= p->n_blocks || mark[b] || p->refs[b] || p->parked[b])
            return wrong(err, b, "is on the free stack twice, or is not free");
        mark[b] = 1;
    }
    for (int32_t b = p->oldest; b != POOL_NONE; b = p->links[b].newer) {
        if (b < 0 || (uint32_t)b >= p->n_blocks || mark[b] || p->refs[b] || !p->parked[b] ||
            p->links[b].older != before)
            return wrong(err, b, "is linked wrongly among the parked");
        mark[b] = 1;
        before = b;
        n_parked++;
    }
    if (before != p->newest || n_parked != p->n_parked)
        return wrong(err, before, "is not the end of the parked list, or their count is off");
    for (uint32_t b = 0; b < p->n_blocks; b++) {
        if ((p->refs[b] > 0) == (mark[b] == 1))
            return wrong(err, b, "is lost, or both held and listed");
        n_held += p->refs[b] > 0;
    }
    if (n_held + p->n_free + p->n_parked != p->n_blocks || p->faults)
        return wrong(err, p->n_blocks, "(all): states do not add up, or a holder miscounted");
    return TN_OK;
}
