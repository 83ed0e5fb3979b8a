/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps as bytes, for ranks in other processes: no pointers, a fixed order, every array at a multiple of 8 bytes.
 *
 *   head:    parts u32, reserved u32, step u64
 *   parts:   each rows, seqs, logits, tokens per page, width of the block table, most rows of a sequence, longest context,
 *            first logits row of the step (u32 each), biases u64, history u64
 *   arrays:  part by part: tokens, positions, row_seq, row_slot, first_row, context, prompt_len, block_table, logits_row,
 *            sample, bias_ids, bias_values, history (tenon/batch.h)
 *
 * Little-endian, as all machines that Tenon runs on.
 */
#ifndef CORE_LOOP_WIRE_H
#define CORE_LOOP_WIRE_H

#include "loop/parts.h"

/* What a step may hold at most; a receiver refuses more. */
struct wire_limits {
    uint32_t rows, seqs, logits, block_tokens, n_pages, vocab, max_context;
};

/* Appends the step to *buffer (grown with mem_grow). */
int32_t wire_write(const struct step_parts *p, uint8_t **buffer, size_t *capacity, size_t *bytes,
                   tn_err *err);

/* Makes `out` a step whose arrays lie in `data`, which outlives its use and is aligned to 8 bytes. Every count and every index
 * is checked: TN_E_FORMAT tells which is wrong. */
int32_t wire_read(const uint8_t *data, size_t bytes, const struct wire_limits *limits,
                  struct step_parts *out, tn_err *err);

#endif
