/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: what it takes, what it costs, how contexts are split, how it is launched. Threads: set.h. */
#include "set.h"

#define TOKENS 64  /* of a tile of the decode kernel */
#define BLOCKS 264 /* that decoding aims at: two per multiprocessor of a large chip */
#define MOST_SPLITS 64
#define GUESSED_CONTEXT 1024 /* tokens, for costs: they are not told */

int32_t attention_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int64_t heads = tn_op_int(op, "n_heads", 0), kv_heads = tn_op_int(op, "n_kv_heads", 0);
    int64_t dim = tn_op_int(op, "head_dim", 0);

    (void)instance;
    if (!cuda_form(op, 2, 1, 0, 0) || op->in[0]->dtype != op->out[0]->dtype)
        return cuda_require(op, 0, "needs queries and an output of one float dtype", err);
    if (heads <= 0 || kv_heads <= 0 || heads % kv_heads || kv_heads > 65535)
        return cuda_require(op, 0, "n_heads must be a multiple of n_kv_heads", err);
    if (dim <= 0 || dim > 256 || dim % 8)
        return cuda_require(op, 0, "takes head sizes that are multiples of 8, up to 256", err);
    return cuda_require(op,
                        op->in[0]->width == (uint64_t)(heads * dim) &&
                            op->out[0]->width == (uint64_t)(heads * dim),
                        "query and output must be n_heads * head_dim wide", err);
}

/* Cells are copied sixteen at a time. */
int32_t attention8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    if (tn_op_int(op, "head_dim", 0) % 16)
        return cuda_require(op, 0, "takes head sizes that are multiples of 16, up to 256", err);
    return attention_can_run(instance, op, err);
}

/* `element`: bytes of one of the cache. */
static double cost_of(const tn_op *op, uint32_t rows, double element)
{
    double kv = (double)tn_op_int(op, "n_kv_heads", 1) * (double)tn_op_int(op, "head_dim", 64);
    double bytes = 2.0 * element * kv * GUESSED_CONTEXT * (double)rows;
    double flops = 4.0 * (double)op->in[0]->width * GUESSED_CONTEXT * (double)rows;

    return 5000.0 + bytes / 1.5e3 + flops / 1.5e5;
}

double attention_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return cost_of(op, rows, 2.0);
}

double attention8_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return cost_of(op, rows, 1.0);
}

/* Blocks that share the context of a sequence and kv head. */
static uint32_t splits_for(uint32_t seqs, uint32_t kv_heads, uint32_t max_context)
{
    uint32_t groups = seqs * kv_heads, tiles = cuda_div_up(max_context, TOKENS);
    uint32_t splits = groups && groups < BLOCKS ? BLOCKS / groups : 1;

    splits = splits < MOST_SPLITS ? splits : MOST_SPLITS;
    splits = splits < tiles ? splits : tiles;
    return splits && groups <= ARRIVALS ? splits : 1;
}

/* Partial sums exist only where contexts are split, and then of at most BLOCKS blocks. */
int32_t attention_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                            uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    uint64_t dim = (uint64_t)tn_op_int(op, "head_dim", 0);

    (void)instance;
    (void)max_rows;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = BLOCKS * DECODE_ROWS * (dim + 2) * sizeof(float);
    return TN_OK;
}

static uint32_t log2_of(uint32_t n)
{
    uint32_t shift = 0;

    while ((1u << shift) < n)
        shift++;
    return shift;
}

static void set_args(const struct set_device *d, const tn_launch *l, struct attend_args *a)
{
    const tn_batch_arrays *b = l->batch->dev;
    const tn_op *op = l->op;
    int64_t window = tn_op_int(op, "window", 0);

    *a = (struct attend_args){.q = l->in[0],
                              .y = l->out[0],
                              .cache = l->kv->base,
                              .k_scale = l->kv->k_scale,
                              .v_scale = l->kv->v_scale,
                              .first_row = b->first_row,
                              .context = b->context,
                              .block_table = b->block_table,
                              .partial = l->workspace,
                              .arrivals = d->arrivals,
                              .block_bytes = l->kv->block_bytes,
                              .block_shift = log2_of(l->kv->block_tokens),
                              .max_blocks = l->batch->max_blocks,
                              .n_seqs = l->batch->n_seqs,
                              .heads = (uint32_t)tn_op_int(op, "n_heads", 1),
                              .kv_heads = l->kv->n_kv_heads,
                              .head_dim = l->kv->head_dim,
                              .window = window < INT32_MAX ? (int32_t)window : 0,
                              .scale = (float)tn_op_real(op, "scale", 1.0),
                              .softcap = (float)tn_op_real(op, "softcap", 0.0)};
    a->splits = splits_for(a->n_seqs, a->kv_heads, l->batch->max_context);
}

int32_t attention_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const struct set_device *d = ampere_device(instance, l->device);
    uint32_t half = l->op->in[0]->dtype == TN_DT_BF16 ? 1 : 0, group, width, kind;
    uint32_t element = tn_dtype_bits(l->kv->dtype) / 8, cells = element == 1;
    const struct cuda_code *code = cells ? &d->attention8 : &d->attention;
    struct cuda_grid g = {.threads = 128};
    struct attend_args a;
    int32_t rc;

    set_args(d, l, &a);
    group = a.heads / a.kv_heads;
    width = a.head_dim <= 64 ? 64 : a.head_dim <= 128 ? 128 : 256;
    kind = 2 * log2_of(width / 64) + half + (l->kv->dtype == TN_DT_I8 ? 6 : 0);
    g.x = a.n_seqs ? a.kv_heads : 0;
    g.y = a.n_seqs;
    g.z = a.splits;
    g.shared_bytes =
        DECODE_ROWS * width * 2 + (width * element > 256 ? 1 : 2) * 2 * TOKENS * width * element;
    rc = code_launch(code, l->stream, (cells ? ENTRY_DECODE8 : ENTRY_DECODE) + kind, g, &a, err);
    if (rc != TN_OK || (uint64_t)l->batch->max_rows_per_seq * group <= DECODE_ROWS)
        return rc;
    g.x = cuda_div_up((uint64_t)l->batch->n_rows * group, PREFILL_ROWS) + a.n_seqs;
    g.y = a.kv_heads;
    g.z = 1;
    g.shared_bytes = PREFILL_ROWS * width * 2 + 2 * 2 * (width > 128 ? 32 : 64) * width * element;
    return code_launch(code, l->stream, (cells ? ENTRY_PREFILL8 : ENTRY_PREFILL) + kind, g, &a,
                       err);
}
