/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file batch.h
 * The ragged batch of one step: the same for prefill, decode and any mixture.
 *
 * A step computes T token rows of B sequences. Sequence s owns rows [first_row[s], first_row[s+1])
 * and, counting them, has a context of context[s] tokens; its rows are therefore the positions
 * context[s] - n .. context[s] - 1. There is no padding, and a sequence with zero rows does not occur.
 * Kernels get every array twice: readable by the host (to plan a launch) and by the device.
 *
 * **Captured steps.** On a device with graphs the core captures steps in which every sequence has one row, once per
 * bucket of R rows, and replays them for any step of up to R sequences. Such a batch has ::TN_BATCH_CAPTURED in
 * its flags, and this contract; variants that keep it carry TN_VARIANT_GRAPH_SAFE:
 *
 *  - n_rows, n_seqs and n_logits are R, max_rows_per_seq is 1, max_context is the most that a sequence may ever
 *    have, max_blocks is the width of the table in every replay. Launches must serve all that these allow: a grid
 *    that grows with max_context should rather be sized by the device and loop over what there is.
 *  - Host arrays do not exist (batch->host is NULL): all that differs between steps is read on the device, when the
 *    kernel runs. Addresses in `dev` are the same in every replay of the graph, and so must be all other pointers.
 *  - Rows beyond the step's own are padding: each a sequence of one row (row_seq[r] = r, first_row[r] = r) with token
 *    0, position 0, row_slot -1, context 0, a block table of TN_NO_BLOCK, and greedy sampling. Kernels compute
 *    them like any other row, except that nothing is stored in the cache for a row_slot of -1, and that
 *    attention over a context of 0 reads no page and writes zeros. What they sample is ignored.
 *    dev->counts tells how many rows are real, for kernels that want to share out work.
 *  - A launch allocates nothing, waits for nothing, and keeps no state from one launch to the next, except in its
 *    workspace, where it must find any content acceptable (a counter that a kernel leaves at zero is not: the workspace
 *    is shared. Memory of the set's own, zeroed in `attach`, may hold such counters).
 *
 * **Kernels that overlap** (TN_LAUNCH_OVERLAP). Before the first kernel of a step begins, all earlier steps have ended and
 * the step's arrays are in place. So weights, the arrays but tokens, sampled and logprob, and what earlier steps
 * stored in the cache may be read before waiting for the kernel ahead.
 */
#ifndef TENON_BATCH_H
#define TENON_BATCH_H

#include "dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Never a valid block: padding of short block-table rows. */
#define TN_NO_BLOCK (-1)

/**
 * How to choose the token of one logits row. In this order, on a float32 copy x[V] of the row:
 *
 *  1. x[id] += bias for each of its logit biases.
 *  2. Repetition penalty r (Keskar et al. 2019): for each token id that occurs in prompt or output,
 *     x = x / r if x > 0, else x * r. Skipped if r is 1.
 *  3. For each token id that occurs c > 0 times in the output: x -= c * frequency + presence.
 *  4. temperature <= 0: the largest x, lowest id on ties. Done.
 *  5. x /= temperature. Keep the top_k largest (0: all; ties at the edge by lower id).
 *  6. p = softmax(x) over the kept. Nucleus (Holtzman et al. 2020): keep the smallest set of most probable
 *     tokens, lower id first on ties, whose sum reaches top_p (at least one; 1: all).
 *  7. Drop tokens with p < min_p * max p.
 *  8. u = uniform in [0, 1) from Philox4x32-10 (Salmon et al. 2011): key = seed (low word first),
 *     counter = (position low, position high, 0, 0), u = (word 0 >> 8) * 2^-24. Walking the kept ids in
 *     ascending order, choose the first whose running sum of p exceeds u * total; the last if none.
 *
 * Nothing here depends on the rest of the batch. A row with NaN or +inf, or with no finite entry,
 * yields TN_SAMPLE_NAN.
 */
typedef struct tn_sample_row {
    float temperature;        /**< <= 0: greedy */
    float top_p;              /**< (0, 1]; 1: off */
    float min_p;              /**< [0, 1]; 0: off */
    float repetition_penalty; /**< > 0; 1: off */
    float presence_penalty;
    float frequency_penalty;
    uint32_t top_k;      /**< 0: off */
    uint32_t n_bias;     /**< logit biases of this row */
    uint64_t first_bias; /**< index of its first in bias_ids and bias_values */
    uint64_t seed;
    uint64_t position;      /**< position that the chosen token will have in its sequence */
    uint64_t first_history; /**< index in `history` of the sequence's first prompt token */
    uint32_t prompt_len;    /**< tokens of history that are prompt */
    uint32_t history_len;   /**< prompt and output; 0 when no penalty is on */
} tn_sample_row;

TN_STATIC_ASSERT(sizeof(tn_sample_row) == 72, "tn_sample_row is frozen within major 1");

/** Token id that `sample` writes for a row whose logits are not numbers. */
#define TN_SAMPLE_NAN (-1)

/** How much of a step's arrays is real; differs from tn_batch in captured steps only. */
typedef struct tn_batch_counts {
    uint32_t n_rows, n_seqs, n_logits;
    uint32_t max_rows_per_seq;
    uint32_t max_context;
    uint32_t reserved0;
    uint64_t sum_context; /**< over the sequences */
} tn_batch_counts;

TN_STATIC_ASSERT(sizeof(tn_batch_counts) == 32, "tn_batch_counts is frozen within major 1");

/** The arrays of a step, in one address space. All are owned by the core and const to kernels,
 *  except sampled and logprob, which the `sample` op writes, and tokens, which `feed` (or an `embedding` that feeds) completes. */
typedef struct tn_batch_arrays {
    tn_hdr h;
    const int32_t *tokens;    /**< [T] token ids, each in [0, vocab) */
    const int32_t *positions; /**< [T] */
    const int32_t *row_seq;   /**< [T] sequence of each row */
    const int64_t *row_slot;  /**< [T] cache slot: block * block_tokens + position % block_tokens */
    const int32_t *first_row; /**< [B + 1] */
    const int32_t *context;   /**< [B] tokens of context, this step's rows included */
    const int32_t *prompt_len;   /**< [B] tokens of the sequence's original prompt */
    const int32_t *block_table;  /**< [B, max_blocks] page of each block, then TN_NO_BLOCK */
    const int32_t *logits_row;   /**< [L] rows that want logits, ascending: if L is T, all */
    const tn_sample_row *sample; /**< [L] */
    const int32_t *bias_ids;
    const float *bias_values;
    const int32_t *history; /**< tokens of the sequences that have a penalty on */
    int32_t *sampled;       /**< [L] out: chosen token or TN_SAMPLE_NAN */
    float *logprob;         /**< [L] out: log softmax of the unmodified row at the chosen token */
    /** [T] for `feed`: index in `sampled` of the step before, whose token this row takes, or -1: it stands in tokens */
    const int32_t *token_row;
    const tn_batch_counts *counts; /**< one */
} tn_batch_arrays;

enum tn_batch_flag {
    TN_BATCH_CAPTURED = 1 /**< this launch is being captured: see "Captured steps" */
};

typedef struct tn_batch {
    tn_hdr h;
    uint32_t n_rows;       /**< T */
    uint32_t n_seqs;       /**< B */
    uint32_t n_logits;     /**< L */
    uint32_t block_tokens; /**< tokens per page, a power of two */
    uint32_t max_blocks;   /**< width of block_table */
    uint32_t max_rows_per_seq;
    uint32_t max_context;
    uint32_t flags; /**< ::tn_batch_flag */
    uint64_t step;  /**< number of the step since the runtime started */
    const tn_batch_arrays
        *host; /**< NULL in a captured step; sampled and logprob are not filled in time */
    const tn_batch_arrays *dev; /**< equal to host on a device that computes in host memory */
} tn_batch;

/** Philox4x32-10, word 0 of the block with the given key and counter; the reference generator. */
static inline uint32_t tn_philox_word0(uint64_t key, uint64_t counter)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

#ifdef __cplusplus
}
#endif
#endif
