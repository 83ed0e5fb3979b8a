/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix index: which full block of tokens, after which prefix, lies in which page. A block's
 * name is (its tokens, the node of the block before it); the first block of a sequence hangs on a
 * root, which stands for a tenant's salt. Hashes only find candidates: a hit needs equal tokens and
 * the very same parent node, by induction the very same prefix, so that a collision costs time and
 * never mixes two contexts (CVE-2025-25183).
 *
 * Nodes are numbered by a serial that is never used again: a child whose parent was evicted cannot
 * be found any more, and ages out. Memory is fixed at creation; a lookup walks at most
 * PREFIX_WALK_MAX nodes, also when somebody succeeds in making hashes collide. One thread at a
 * time.
 */
#ifndef CORE_KV_PREFIX_H
#define CORE_KV_PREFIX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define PREFIX_WALK_MAX 64

/* Identity of what a block hangs on: a root (mark is odd) or a node (mark is 0). */
struct prefix_parent {
    uint64_t serial; /* of the node, or 64 bits of the root's digest */
    uint64_t mark;   /* 0, or 64 more bits of the digest, made odd */
};

struct prefix_node {
    uint64_t hash;
    uint64_t serial; /* 0: this block is not in the index */
    struct prefix_parent parent;
    int32_t next; /* in the bucket, or -1 */
};

struct prefix {
    uint32_t n_blocks;
    uint32_t block_tokens;
    uint32_t n_nodes;
    uint64_t last_serial;
    uint64_t bucket_mask;
    int32_t *buckets;          /* first block of each chain, or -1 */
    struct prefix_node *nodes; /* [n_blocks], by block id */
    int32_t *tokens;           /* [n_blocks][block_tokens] */
};

/* Nothing indexed. TN_E_NOMEM leaves `x` zeroed. */
int32_t prefix_init(struct prefix *x, uint32_t n_blocks, uint32_t block_tokens, tn_err *err);
void prefix_release(struct prefix *x); /* a zeroed index is allowed */

/* The block with these tokens after this parent, or -1. */
int32_t prefix_find(const struct prefix *x, uint64_t hash, struct prefix_parent parent,
                    const int32_t *tokens);

/* Enters a block that is not in the index; its tokens are copied. False, and nothing happens, if
 * the bucket is as long as a lookup may walk. */
bool prefix_add(struct prefix *x, int32_t block, uint64_t hash, struct prefix_parent parent,
                const int32_t *tokens);

/* Takes a block out; one that is not in is left alone. */
void prefix_remove(struct prefix *x, int32_t block);

static inline bool prefix_has(const struct prefix *x, int32_t block)
{
    return x->nodes[block].serial != 0;
}

/* What a child of this indexed block hangs on. */
static inline struct prefix_parent prefix_as_parent(const struct prefix *x, int32_t block)
{
    return (struct prefix_parent){.serial = x->nodes[block].serial, .mark = 0};
}

/* Checks chains and counts, O(n_blocks). TN_E_INTERNAL names the first block that is wrong. */
int32_t prefix_audit(const struct prefix *x, tn_err *err);

#endif
