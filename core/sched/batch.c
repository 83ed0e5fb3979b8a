/* SPDX-License-Identifier: Apache-2.0 */
/* Filling the ragged batch of tenon/batch.h from a step. On the path between two steps: plain loops
 * over preallocated arrays. Called by the thread that owns the scheduler. */
#include "sched/batch.h"

#include <string.h>

#include "sched/state.h"

struct batch_capacity batch_capacity(const struct sched *s)
{
    const struct sched_config *c = &s->config;

    return (struct batch_capacity){.rows = c->max_num_tokens,
                                   .seqs = c->max_batch_size,
                                   .blocks = (uint64_t)c->max_batch_size * s->max_blocks,
                                   .logits = c->max_logits,
                                   .bias = c->max_step_bias,
                                   .history = c->max_step_history};
}

/* What is written so far of the arrays whose length is not known beforehand. */
struct cursor {
    uint64_t bias, history;
    uint32_t n_unknown;
};

static void fill_rows(const struct sched *s, const struct sched_seq *q, uint32_t seq,
                      const struct batch_buffers *b, struct cursor *at)
{
    uint32_t first = q->context - q->n_rows, mask = s->block_tokens - 1;

    for (uint32_t i = 0; i < q->n_rows; i++) {
        uint32_t row = q->first_row + i, pos = first + i;
        int64_t page = q->blocks[pos / s->block_tokens];
        b->positions[row] = (int32_t)pos;
        b->row_seq[row] = (int32_t)seq;
        b->row_slot[row] = page * s->block_tokens + (pos & mask);
    }
    if (b->token_row)
        for (uint32_t i = 0; i < q->n_rows; i++)
            b->token_row[q->first_row + i] = q->token_row;
    if (q->token_row == SCHED_TOKEN_KNOWN) {
        memcpy(b->tokens + q->first_row, q->tokens, q->n_rows * sizeof *b->tokens);
    } else {
        b->tokens[q->first_row] = 0;
        at->n_unknown++;
    }
}

static void fill_table(const struct sched_seq *q, int32_t *row, uint32_t stride)
{
    memcpy(row, q->blocks, q->n_blocks * sizeof *row);
    for (uint32_t i = q->n_blocks; i < stride; i++)
        row[i] = TN_NO_BLOCK;
}

/* The row that chooses the next token of a sequence. */
static void fill_sample(const struct sched_seq *q, const struct batch_buffers *b, struct cursor *at)
{
    const struct request *r = q->request;
    const struct request_sampling *p = &r->sampling;
    /* The token's place in the output decides: by now it is pending, and was not when the step was
     * built. */
    uint32_t n_bias = r->n_bias + (q->context - r->n_prompt < r->min_new ? r->n_ban : 0);
    tn_sample_row *row = &b->sample[q->first_logits];

    *row = (tn_sample_row){.temperature = p->temperature,
                           .top_p = p->top_p,
                           .min_p = p->min_p,
                           .repetition_penalty = p->repetition_penalty,
                           .presence_penalty = p->presence_penalty,
                           .frequency_penalty = p->frequency_penalty,
                           .top_k = p->top_k,
                           .n_bias = n_bias,
                           .first_bias = at->bias,
                           .seed = p->seed,
                           .position = q->context,
                           .first_history = at->history,
                           .prompt_len = r->n_prompt};
    if (n_bias) {
        memcpy(b->bias_ids + at->bias, r->bias_ids, n_bias * sizeof *r->bias_ids);
        memcpy(b->bias_values + at->bias, r->bias_values, n_bias * sizeof *r->bias_values);
        at->bias += n_bias;
    }
    if (r->penalized) { /* never pipelined, so all tokens of its context are known */
        row->history_len = q->context;
        memcpy(b->history + at->history, r->tokens, q->context * sizeof *r->tokens);
        at->history += q->context;
    }
}

static void fill_logits(const struct sched_seq *q, const struct batch_buffers *b, struct cursor *at)
{
    uint32_t first = q->first_row + q->n_rows - q->n_logits;

    for (uint32_t i = 0; i < q->n_logits; i++)
        b->logits_row[q->first_logits + i] = (int32_t)(first + i);
    if (q->samples) {
        fill_sample(q, b, at);
        return;
    }
    for (uint32_t i = 0; i < q->n_logits;
         i++) /* the logits are wanted, not a token: the cheapest */
        b->sample[q->first_logits + i] =
            (tn_sample_row){.top_p = 1,
                            .repetition_penalty = 1,
                            .first_bias = at->bias,
                            .position = q->context - q->n_logits + i + 1,
                            .first_history = at->history,
                            .prompt_len = q->prompt_len};
}

uint32_t batch_fill(const struct sched *s, const struct sched_step *step, uint32_t min_stride,
                    const struct batch_buffers *buffers, tn_batch_arrays *arrays, tn_batch *batch)
{
    uint32_t stride = min_stride < s->max_blocks ? min_stride : s->max_blocks;
    struct cursor at = {0, 0, 0};

    if (stride < step->max_blocks)
        stride = step->max_blocks;
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        const struct sched_seq *q = &step->seqs[i];
        buffers->first_row[i] = (int32_t)q->first_row;
        buffers->context[i] = (int32_t)q->context;
        buffers->prompt_len[i] = (int32_t)q->prompt_len;
        fill_rows(s, q, i, buffers, &at);
        fill_table(q, buffers->block_table + (size_t)i * stride, stride);
        fill_logits(q, buffers, &at);
    }
    buffers->first_row[step->n_seqs] = (int32_t)step->n_rows;
    *arrays = (tn_batch_arrays){.h = TN_HDR(tn_batch_arrays),
                                .tokens = buffers->tokens,
                                .positions = buffers->positions,
                                .row_seq = buffers->row_seq,
                                .row_slot = buffers->row_slot,
                                .first_row = buffers->first_row,
                                .context = buffers->context,
                                .prompt_len = buffers->prompt_len,
                                .block_table = buffers->block_table,
                                .logits_row = buffers->logits_row,
                                .sample = buffers->sample,
                                .bias_ids = buffers->bias_ids,
                                .bias_values = buffers->bias_values,
                                .history = buffers->history};
    *batch = (tn_batch){.h = TN_HDR(tn_batch),
                        .n_rows = step->n_rows,
                        .n_seqs = step->n_seqs,
                        .n_logits = step->n_logits,
                        .block_tokens = s->block_tokens,
                        .max_blocks = stride,
                        .max_rows_per_seq = step->max_rows_per_seq,
                        .max_context = step->max_context,
                        .step = step->number,
                        .host = arrays};
    return at.n_unknown;
}
