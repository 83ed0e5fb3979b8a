/* SPDX-License-Identifier: Apache-2.0 */
/* Byte pair encoding as its definition has it, to hold the fast one against: tests and the fuzz target. */
#ifndef TESTS_TEXT_NAIVE_BPE_H
#define TESTS_TEXT_NAIVE_BPE_H

#include <stddef.h>
#include <stdint.h>

struct naive_merge {
    uint32_t left, right,
        id; /* the rank is the place in the list; a later entry of a pair counts, as in the library */
};

/* Merges n ids in place, always the pair of lowest rank, leftmost first; returns how many remain. */
static inline size_t naive_bpe(const struct naive_merge *merges, size_t merge_count, uint32_t *ids,
                               size_t n)
{
    for (;;) {
        size_t best = merge_count, at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            size_t rank = merge_count;
            for (size_t m = merge_count; m-- > 0 && rank == merge_count;)
                if (merges[m].left == ids[i] && merges[m].right == ids[i + 1])
                    rank = m;
            if (rank < best) {
                best = rank;
                at = i;
            }
        }
        if (best == merge_count)
            return n;
        ids[at] = merges[best].id;
        for (size_t i = at + 1; i + 1 < n; i++)
            ids[i] = ids[i + 1];
        n--;
    }
}

#endif
