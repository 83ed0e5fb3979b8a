/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/tune_batch.h"

#include "base/checked.h"
#include "base/mem.h"

#define ALIGN 256
#define DECODE_CONTEXT 1024 /* tokens: what the product's own figures are stated for */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Rows of a sequence in a step of that many rows. */
static uint32_t rows_each(const struct tune_batch_options *o, uint32_t rows)
{
    return rows <= o->max_seqs ? 1 : least(rows, o->max_context);
}

static uint32_t context_of(const struct tune_batch_options *o, uint32_t rows)
{
    return rows <= o->max_seqs ? least(DECODE_CONTEXT, o->max_context) : rows_each(o, rows);
}

static uint32_t blocks_of(const struct tune_batch_options *o, uint32_t rows)
{
    return (uint32_t)ceil_div(context_of(o, rows), o->block_tokens);
}

static uint32_t seqs_of(const struct tune_batch_options *o, uint32_t rows)
{
    return (uint32_t)ceil_div(rows, rows_each(o, rows));
}

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t max_blocks(const struct tune_batch_options *o)
{
    return most(blocks_of(o, 1), blocks_of(o, o->max_rows));
}

/* Sequences of any step: decode steps have most, unless there is no room for as many rows. */
static uint32_t max_seqs(const struct tune_batch_options *o)
{
    return most(least(o->max_seqs, o->max_rows), seqs_of(o, o->max_rows));
}

uint64_t tune_batch_pages(const struct tune_batch_options *o)
{
    return (uint64_t)max_seqs(o) * max_blocks(o);
}

/* Points the arrays into a block at `base` (NULL: measures it), and says how long it is. */
static uint64_t lay_out(const struct tune_batch_options *o, uint8_t *base, tn_batch_arrays *a)
{
    uint64_t rows = (uint64_t)o->max_rows + 1, seqs = (uint64_t)max_seqs(o) + 1, at = 0;
    const struct {
        void *to; /* a pointer to one of the arrays */
        uint64_t bytes;
    } arrays[] = {
        {&a->tokens, rows * sizeof *a->tokens},
        {&a->positions, rows * sizeof *a->positions},
        {&a->row_seq, rows * sizeof *a->row_seq},
        {&a->row_slot, rows * sizeof *a->row_slot},
        {&a->first_row, seqs * sizeof *a->first_row},
        {&a->context, seqs * sizeof *a->context},
        {&a->prompt_len, seqs * sizeof *a->prompt_len},
        {&a->block_table, seqs * max_blocks(o) * sizeof *a->block_table},
        {&a->logits_row, rows * sizeof *a->logits_row},
        {&a->sample, rows * sizeof *a->sample},
        {&a->sampled, rows * sizeof *a->sampled},
        {&a->logprob, rows * sizeof *a->logprob},
        {&a->token_row, rows * sizeof *a->token_row},
        {&a->counts, sizeof *a->counts},
    };

    *a = (tn_batch_arrays){.h = TN_HDR(tn_batch_arrays)};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        const uint8_t *here = base ? base + at : NULL;
        memcpy(arrays[i].to, &here, sizeof here);
        at += align_up(arrays[i].bytes, ALIGN);
    }
    return at;
}

int32_t tune_batch_init(struct tune_batch *t, const struct tune_batch_options *o, tn_err *err)
{
    *t = (struct tune_batch){.o = *o};
    t->bytes = lay_out(o, NULL, &t->host);
    t->block = mem_aligned((size_t)t->bytes, 64);
    if (!t->block)
        return err_nomem(err, "measuring kernels");
    lay_out(o, t->block, &t->host);
    return TN_OK;
}

void tune_batch_release(struct tune_batch *t)
{
    mem_free(t->block);
    *t = (struct tune_batch){.block = NULL};
}

void tune_batch_place(struct tune_batch *t, void *device_block)
{
    lay_out(&t->o, device_block, &t->dev);
}

/* The block is ours; its arrays are const to kernels alone. */
#define MUTABLE(type, p) ((type *)(uintptr_t)(p))

static void fill_rows(struct tune_batch *t, uint32_t rows)
{
    const struct tune_batch_options *o = &t->o;
    uint32_t each = rows_each(o, rows), context = context_of(o, rows), state = 12345;

    for (uint32_t i = 0; i < rows; i++) {
        uint32_t seq = i / each, position = context - each + i % each;
        uint64_t page = (uint64_t)seq * max_blocks(o) + position / o->block_tokens;
        state = state * 1664525 + 1013904223; /* any will do (Numerical Recipes) */
        MUTABLE(int32_t, t->host.tokens)[i] = (int32_t)(state % (o->vocab ? o->vocab : 1));
        MUTABLE(int32_t, t->host.positions)[i] = (int32_t)position;
        MUTABLE(int32_t, t->host.row_seq)[i] = (int32_t)seq;
        MUTABLE(int64_t, t->host.row_slot)
        [i] = o->n_pages
                  ? (int64_t)(page % o->n_pages * o->block_tokens + position % o->block_tokens)
                  : -1;
        MUTABLE(int32_t, t->host.logits_row)[i] = (int32_t)i;
        MUTABLE(int32_t, t->host.token_row)[i] = -1;
        MUTABLE(tn_sample_row, t->host.sample)
        [i] = (tn_sample_row){.temperature = 0.8f,
                              .top_p = 0.95f,
                              .top_k = 50,
                              .repetition_penalty = 1.0f,
                              .seed = i,
                              .position = position};
    }
}

static void fill_seqs(struct tune_batch *t, uint32_t rows)
{
    const struct tune_batch_options *o = &t->o;
    uint32_t each = rows_each(o, rows), n = seqs_of(o, rows), width = max_blocks(o);

    for (uint32_t s = 0; s < n; s++) {
        uint32_t first = s * each, own = least(each, rows - first);
        uint32_t context = each == 1 ? context_of(o, rows) : own;
        MUTABLE(int32_t, t->host.first_row)[s] = (int32_t)first;
        MUTABLE(int32_t, t->host.context)[s] = (int32_t)context;
        MUTABLE(int32_t, t->host.prompt_len)[s] = (int32_t)context;
        for (uint32_t i = 0; i < width; i++)
            MUTABLE(int32_t, t->host.block_table)
        [(uint64_t)s * width + i] = o->n_pages && i < ceil_div(context, o->block_tokens)
                                        ? (int32_t)(((uint64_t)s * width + i) % o->n_pages)
                                        : TN_NO_BLOCK;
    }
    MUTABLE(int32_t, t->host.first_row)[n] = (int32_t)rows;
}

void tune_batch_rows(struct tune_batch *t, uint32_t rows)
{
    const struct tune_batch_options *o = &t->o;
    uint32_t n = seqs_of(o, rows), each = rows_each(o, rows), context = context_of(o, rows);

    memset(t->block, 0, (size_t)t->bytes);
    fill_rows(t, rows);
    fill_seqs(t, rows);
    *MUTABLE(tn_batch_counts, t->host.counts) =
        (tn_batch_counts){.n_rows = rows,
                          .n_seqs = n,
                          .n_logits = rows,
                          .max_rows_per_seq = each,
                          .max_context = context,
                          .sum_context = each == 1 ? (uint64_t)n * context : rows};
    t->batch = (tn_batch){.h = TN_HDR(tn_batch),
                          .n_rows = rows,
                          .n_seqs = n,
                          .n_logits = rows,
                          .block_tokens = o->block_tokens,
                          .max_blocks = max_blocks(o),
                          .max_rows_per_seq = each,
                          .max_context = context,
                          .host = &t->host,
                          .dev = &t->dev};
}
