/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a step to the ragged batch that kernels read (tenon/batch.h). The arrays are the caller's,
 * allocated once; batch_capacity tells how large they must be.
 */
#ifndef CORE_SCHED_BATCH_H
#define CORE_SCHED_BATCH_H

#include <stdint.h>

#include "sched/sched.h"
#include "tenon/batch.h"

/* Elements of each array, enough for any step of a scheduler. */
struct batch_capacity {
    uint64_t rows;    /* tokens, positions, row_seq, row_slot, token_row */
    uint64_t seqs;    /* context, prompt_len; first_row has one more */
    uint64_t blocks;  /* block_table: seqs * widest table, for a stride up to that width */
    uint64_t logits;  /* logits_row, sample */
    uint64_t bias;    /* bias_ids, bias_values */
    uint64_t history; /* history */
};

struct batch_capacity batch_capacity(const struct sched *s);

/* Host memory that batch_fill writes. */
struct batch_buffers {
    int32_t *tokens;
    int32_t *positions;
    int32_t *row_seq;
    int64_t *row_slot;
    int32_t *first_row;
    int32_t *context;
    int32_t *prompt_len;
    int32_t *block_table;
    int32_t *logits_row;
    tn_sample_row *sample;
    int32_t *bias_ids;
    float *bias_values;
    int32_t *history;
    /* [rows] logits row of the previous step whose token this row takes, SCHED_TOKEN_KNOWN for the
     * others, whose token stands in tokens[]; rows of the former have token 0 there. NULL allowed
     * with max_in_flight 1. */
    int32_t *token_row;
};

/*
 * Writes the arrays of a step that is not committed yet. `min_stride` widens the rows of the block
 * table beyond the longest one (0: no wish), so that a captured graph sees few strides; it is
 * capped at the widest table. `batch` and `arrays` get headers, counts and pointers; batch->host is
 * `arrays`; batch->dev, arrays->sampled and arrays->logprob are left for the caller. Returns the
 * number of rows whose token comes from a step in flight. Allocates nothing; reads the requests of
 * the step.
 */
uint32_t batch_fill(const struct sched *s, const struct sched_step *step, uint32_t min_stride,
                    const struct batch_buffers *buffers, tn_batch_arrays *arrays, tn_batch *batch);

#endif
