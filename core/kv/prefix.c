/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix index: a chained hash table whose nodes are the blocks themselves, so that its memory
 * is fixed by the size of the pool. Called by the thread that owns the cache. */
#include "kv/prefix.h"

#include <assert.h>

#include "base/mem.h"

int32_t prefix_init(struct prefix *x, uint32_t n_blocks, uint32_t block_tokens, tn_err *err)
{
    uint64_t n_buckets = 1;

    while (n_buckets < (uint64_t)n_blocks * 2)
        n_buckets *= 2;
    *x = (struct prefix){
        .n_blocks = n_blocks, .block_tokens = block_tokens, .bucket_mask = n_buckets - 1};
    x->buckets = mem_array(n_buckets, sizeof *x->buckets);
    x->nodes = mem_zarray(n_blocks, sizeof *x->nodes);
    x->tokens = mem_array((size_t)n_blocks * block_tokens, sizeof *x->tokens);
    if (!x->buckets || !x->nodes || !x->tokens) {
        prefix_release(x);
        return err_nomem(err, "the prefix index");
    }
    for (uint64_t i = 0; i < n_buckets; i++)
        x->buckets[i] = -1;
    return TN_OK;
}

void prefix_release(struct prefix *x)
{
    mem_free(x->buckets);
    mem_free(x->nodes);
    mem_free(x->tokens);
    *x = (struct prefix){0};
}

static int32_t *tokens_of(const struct prefix *x, int32_t block)
{
    return x->tokens + (size_t)block * x->block_tokens;
}

int32_t prefix_find(const struct prefix *x, uint64_t hash, struct prefix_parent parent,
                    const int32_t *tokens)
{
    int32_t block = x->buckets[hash & x->bucket_mask];

    for (; block != -1; block = x->nodes[block].next) {
        const struct prefix_node *n = &x->nodes[block];
        if (n->hash == hash && n->parent.serial == parent.serial && n->parent.mark == parent.mark &&
            memcmp(tokens_of(x, block), tokens, x->block_tokens * sizeof *tokens) == 0)
            return block;
    }
    return -1;
}

bool prefix_add(struct prefix *x, int32_t block, uint64_t hash, struct prefix_parent parent,
                const int32_t *tokens)
{
    struct prefix_node *n = &x->nodes[block];
    int32_t *bucket = &x->buckets[hash & x->bucket_mask];
    uint32_t length = 0;

    assert(n->serial == 0);
    for (int32_t b = *bucket; b != -1; b = x->nodes[b].next)
        length++;
    if (length >= PREFIX_WALK_MAX)
        return false;
    *n = (struct prefix_node){
        .hash = hash, .serial = ++x->last_serial, .parent = parent, .next = *bucket};
    memcpy(tokens_of(x, block), tokens, x->block_tokens * sizeof *tokens);
    *bucket = block;
    x->n_nodes++;
    return true;
}

void prefix_remove(struct prefix *x, int32_t block)
{
    struct prefix_node *n = &x->nodes[block];
    int32_t *at;

    if (n->serial == 0)
        return;
    at = &x->buckets[n->hash & x->bucket_mask];
    while (*at != block)
        at = &x->nodes[*at].next;
    *at = n->next;
    *n = (struct prefix_node){0};
    x->n_nodes--;
}

int32_t prefix_audit(const struct prefix *x, tn_err *err)
{
    uint32_t n_nodes = 0, n_linked = 0;

    for (uint32_t b = 0; b < x->n_blocks; b++) {
        const struct prefix_node *n = &x->nodes[b];
        if (n->serial > x->last_serial || (n->serial && !n->parent.mark && !n->parent.serial))
            return tn_err_set(err, TN_E_INTERNAL, "prefix index: block %u has no parent", b);
        n_nodes += n->serial != 0;
    }
    for (uint64_t i = 0; i <= x->bucket_mask; i++) {
        for (int32_t b = x->buckets[i]; b != -1; b = x->nodes[b].next) {
            if (!prefix_has(x, b) || (x->nodes[b].hash & x->bucket_mask) != i)
                return tn_err_set(err, TN_E_INTERNAL, "prefix index: block %d in a wrong chain", b);
            if (++n_linked > n_nodes)
                return tn_err_set(err, TN_E_INTERNAL, "prefix index: a chain has a loop at %d", b);
        }
    }
    if (n_nodes != x->n_nodes || n_linked != n_nodes)
        return tn_err_set(err, TN_E_INTERNAL, "prefix index: %u nodes, %u linked, %u counted",
                          n_nodes, n_linked, x->n_nodes);
    return TN_OK;
}
