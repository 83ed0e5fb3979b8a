/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte pair encoding: a word begins as characters (or bytes), and of all neighbouring pairs that a merge joins, the one of
 * lowest rank is merged, leftmost first, until none is left.
 */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "sink.h"
#include "vocab.h"
#include "wordcache.h"

struct bpe_pair {
    uint64_t key; /* left << 32 | right; BPE_EMPTY: free */
    uint32_t rank, id;
};

#define BPE_EMPTY UINT64_MAX
#define BPE_NONE UINT32_MAX
#define BPE_BIGRAM_BITS (UINT32_C(1) << 20)

struct bpe {
    const struct vocab *vocab;
    struct bpe_pair *pairs;
    size_t pair_cap, pair_count;
    uint32_t
        single[256]; /* the token of one byte (ASCII character, if keys are texts), or BPE_NONE */
    uint32_t fallback[256]; /* of "<0xNN>", or BPE_NONE */
    uint32_t unk;           /* BPE_NONE: unknown characters vanish */
    bool
        unk_named; /* the file names an unknown token; if unk is BPE_NONE that is an error when met */
    bool fuse_unk, byte_fallback, ignore_merges;
    /* A bit per id: words that are tokens as they stand. NULL: all if `ignore_merges`, else none. Owned. */
    uint64_t *whole;
    char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL: none; owned */
    size_t prefix_len, suffix_len;
    uint64_t *
        bigrams; /* which pairs of characters stand side by side in a token, by hash; NULL: not used */
};

/* Memory to split words with. */
struct bpe_work;
int32_t bpe_work_new(struct bpe_work **out, tn_err *err);
void bpe_work_free(struct bpe_work *w); /* NULL is allowed */

void bpe_release(struct bpe *b); /* zeroed is allowed */

/* Room for n merges. False without memory. */
bool bpe_reserve(struct bpe *b, size_t n);

/* Adds a merge; the same pair again replaces the earlier one. False without memory. */
bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);

/* Fills the tables once vocab, merges and options are set. */
int32_t bpe_finish(struct bpe *b, tn_err *err);

/* Splits a piece of text (raw bytes if the vocabulary's keys are bytes) into tokens. */
int32_t bpe_encode(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                   const struct sink *s, tn_err *err);

#endif
