/* SPDX-License-Identifier: Apache-2.0 */
/* The merging step of BPE: from symbols to tokens in n log n at worst. */
#ifndef TEXT_BPE_MERGE_H
#define TEXT_BPE_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bpe.h"

/* A queue of pair positions: lowest rank first, then leftmost. Positions of one rank mostly arrive in order, so
 * each rank has a list, and a heap for the latecomers. */
struct bpe_bucket {
    uint32_t rank;
    bool queued;
    uint32_t *items;
    size_t head, count, cap;
    uint32_t *late;
    size_t late_count, late_cap;
};

struct bpe_queue {
    struct bpe_bucket *buckets;
    size_t used, made, cap;
    uint32_t *slots; /* rank to bucket + 1, open addressing */
    size_t slot_cap;
    uint64_t *heap; /* rank << 32 | bucket */
    size_t heap_count, heap_cap;
};

struct bpe_symbol {
    uint32_t id, len; /* len 0: merged into its left neighbour */
    uint32_t prev, next;
    uint32_t rank, merged; /* of the pair with the next symbol; rank BPE_NONE: none */
};

/* Merges n symbols (id and len given) in place; returns how many remain, in order, at the front. SIZE_MAX without
 * memory. */
size_t bpe_merge(const struct bpe *b, struct bpe_queue *q, struct bpe_symbol *symbols, size_t n);

void bpe_queue_release(struct bpe_queue *q); /* zeroed is allowed */

/* The merge of a pair, or NULL. */
static inline const struct bpe_pair *bpe_find(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    size_t mask = b->pair_cap - 1;

    if (b->pair_cap == 0)
        return NULL;
    for (size_t i = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 24 & mask;; i = (i + 1) & mask) {
        if (b->pairs[i].key == key)
            return &b->pairs[i];
        if (b->pairs[i].key == BPE_EMPTY)
            return NULL;
    }
}

#endif
