/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The batches that variants are measured on: up to max_seqs rows are a decode step, one row per sequence over a context of
 * 1,024 tokens (or as many as there may be); more rows are prompts. All arrays of a step are there, in one block, with
 * random tokens, so that ops that read ids or the cache can be measured like any other. One thread.
 */
#ifndef CORE_LOOP_TUNE_BATCH_H
#define CORE_LOOP_TUNE_BATCH_H

#include <stdbool.h>

#include "base/err.h"
#include "tenon/batch.h"

struct tune_batch_options {
    uint32_t max_rows, max_seqs;
    uint32_t max_context, block_tokens;
    uint32_t
        n_pages; /* of the cache; sequences share them if there are few. 0: there is none, and no row has a slot */
    uint32_t vocab; /* tokens are below it */
};

struct tune_batch {
    struct tune_batch_options o;
    uint8_t *block; /* host memory, `bytes` of it: what the device gets a copy of */
    uint64_t bytes;
    tn_batch_arrays host, dev;
    tn_batch batch;
};

/* Makes the block in host memory. */
int32_t tune_batch_init(struct tune_batch *t, const struct tune_batch_options *o, tn_err *err);
void tune_batch_release(struct tune_batch *t); /* of zeroed memory: nothing */

/* Where the device's copy of the block lies. */
void tune_batch_place(struct tune_batch *t, void *device_block);

/* Fills the block for a step of `rows` rows, 1 to max_rows; the caller copies it to the device. */
void tune_batch_rows(struct tune_batch *t, uint32_t rows);

/* Pages that a cache needs for no two sequences of any step to share one. */
uint64_t tune_batch_pages(const struct tune_batch_options *o);

#endif
