/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The paged KV cache as the scheduler sees it: sequences hold blocks, full blocks can be found
 * again by the tokens they hold, and what nobody holds is evicted when a block is needed, least
 * recently used first.
 *
 * Rules.
 *  1. Only full blocks are shared, and a full block is never written again; so no page has two
 *     writers.
 *  2. A block enters the index when its rows have been computed, not when they are scheduled.
 *  3. A sequence lets go of its last block first, so a prefix outlives what hangs on it.
 *  4. `available` counts blocks that nobody holds. Taking one lowers it by one; so does the first
 *     holder of a cached block. The scheduler's reservations rest on this.
 *
 * No function allocates except kv_new. All are for one thread at a time, except kv_root and
 * kv_hash, which read only what never changes and may be called from any thread.
 */
#ifndef CORE_KV_CACHE_H
#define CORE_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/prefix.h"

struct kv_cache;

struct kv_config {
    uint32_t n_blocks;     /* pages: 1 .. LIMIT_KV_BLOCKS */
    uint32_t block_tokens; /* tokens per page, a power of two, 1 .. LIMIT_BLOCK_TOKENS */
    bool prefix_reuse;     /* keep and find full blocks; off: every block is private */
    uint64_t secret;    /* key of the hashes; 0: drawn from the operating system. Tests set it. */
    uint64_t hash_mask; /* tests: bits of the hash to keep, so that all collide; 0: all bits */
};

/* TN_E_RANGE names the field; TN_E_NOMEM. The caller frees. */
int32_t kv_new(const struct kv_config *config, struct kv_cache **out, tn_err *err);
void kv_free(struct kv_cache *k); /* NULL is allowed */

uint32_t kv_n_blocks(const struct kv_cache *k);
uint32_t kv_block_tokens(const struct kv_cache *k);
/* Blocks that nobody holds. */
uint32_t kv_available(const struct kv_cache *k);

/* -- Names of blocks --------------------------------------------------------------------------- */

/* What the first block of a sequence hangs on. Sequences share blocks only under the same root. */
struct kv_root {
    struct prefix_parent parent;
    uint64_t hash;
};

/*
 * The root of a salt (bytes that name a tenant; may be empty) and a variant (0, or anything else
 * that the content of the pages depends on). SHA-256 over a per-process secret. Any thread.
 */
void kv_root(const struct kv_cache *k, const void *salt, size_t n, uint64_t variant,
             struct kv_root *out);

/*
 * Chain hashes of the full blocks among the first n_tokens of a sequence. hashes[0 .. *n_hashed)
 * are there already; the rest is added and *n_hashed raised. Any thread.
 */
void kv_hash(const struct kv_cache *k, const struct kv_root *root, const int32_t *tokens,
             uint32_t n_tokens, uint64_t *hashes, uint32_t *n_hashed);

/* -- Sequences --------------------------------------------------------------------------------- */

/* The blocks of one sequence. The arrays belong to the caller and outlive the sequence. */
struct kv_seq {
    int32_t *blocks; /* [cap] block table: page of each block of block_tokens positions */
    uint32_t cap;
    uint32_t n_blocks;  /* held */
    uint32_t n_indexed; /* leading blocks that stand in the index, here or in an equal block */
    bool unindexed;     /* no further block of it enters the index */
    struct prefix_parent parent; /* what block n_indexed hangs on */
};

/* An empty sequence. `blocks` has room for cap ids. */
void kv_seq_init(struct kv_seq *q, const struct kv_root *root, int32_t *blocks, uint32_t cap);

struct kv_match {
    uint32_t n_blocks; /* leading blocks found */
    uint32_t n_idle;   /* of these, held by nobody: adopting them lowers kv_available by so many */
};

/*
 * Looks up the longest cached prefix of at most max_blocks full blocks and writes their ids to
 * blocks[]. hashes[] has max_blocks entries (kv_hash). Changes nothing; valid until the cache is
 * next changed.
 */
struct kv_match kv_find(const struct kv_cache *k, const struct kv_root *root,
                        const uint64_t *hashes, const int32_t *tokens, uint32_t max_blocks,
                        int32_t *blocks);

/* Makes an empty sequence hold the m->n_blocks blocks that kv_find wrote to q->blocks. Counts the
 * n_tokens that were looked for as queried, and those found as hit. */
void kv_adopt(struct kv_cache *k, struct kv_seq *q, const struct kv_match *m, uint32_t n_tokens);

/* Blocks that kv_grow would take to cover the first n_tokens positions. */
uint32_t kv_growth(const struct kv_cache *k, const struct kv_seq *q, uint32_t n_tokens);

/* Makes the sequence hold blocks for its first n_tokens positions; evicts if it must. All or
 * nothing: false if too few blocks are available or the table is full. */
bool kv_grow(struct kv_cache *k, struct kv_seq *q, uint32_t n_tokens);

/* Enters the blocks that are full now that the first n_tokens positions are computed. hashes[]
 * covers them. */
void kv_index(struct kv_cache *k, struct kv_seq *q, const uint64_t *hashes, const int32_t *tokens,
              uint32_t n_tokens);

/* Takes the blocks of a sequence out of the index, because their content is not to be trusted (NaN,
 * device error). The sequence keeps holding them; holders of shared ones are not disturbed. */
void kv_forget(struct kv_cache *k, struct kv_seq *q);

/* Lets go of all blocks; indexed ones stay cached. The sequence is empty afterwards. */
void kv_seq_release(struct kv_cache *k, struct kv_seq *q);

/* -- Looking at it ----------------------------------------------------------------------------- */

struct kv_stats {
    uint32_t n_blocks;
    uint32_t n_held;   /* by sequences */
    uint32_t n_cached; /* by nobody, but can be found */
    uint32_t n_free;
    uint64_t query_tokens; /* since creation: tokens looked for */
    uint64_t hit_tokens;   /* and found */
    uint64_t taken;        /* blocks handed out */
    uint64_t evictions;
    uint64_t indexed; /* blocks entered */
    /* Full blocks that were not, because an equal one was there or the bucket was full. */
    uint64_t unindexed;
};

void kv_get_stats(const struct kv_cache *k, struct kv_stats *out);

/* Holders of a block; for tests and audits. */
uint32_t kv_refs(const struct kv_cache *k, int32_t block);

/* Drops every cached block that nobody holds. Returns how many. */
uint32_t kv_drop_cached(struct kv_cache *k);

/*
 * Checks every invariant, O(n_blocks): states and lists, index, and, if `owned` is not NULL, that
 * the holders of each block b are exactly owned[b], so that the sum of references is what sequences
 * own. TN_E_INTERNAL tells what is wrong. For tests and debug runs.
 */
int32_t kv_audit(struct kv_cache *k, const uint16_t *owned, tn_err *err);

#endif
