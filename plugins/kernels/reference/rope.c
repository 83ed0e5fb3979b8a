/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rope: rotary position embedding (Su et al. 2021), with dynamic NTK scaling. hadamard: heads times a Hadamard
 * matrix. Any thread.
 * Angles are computed in float32 as Hugging Face does: float32(pos) * f[j], then cosf and sinf.
 */
#include "ref.h"
#include "tenon/hadamard.h"

int32_t ref_rope_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 1, 1, 1, 1, err);
    const char *style = tn_op_text(op, "style", "half");

    (void)instance;
    if (rc)
        return rc;
    int64_t heads = tn_op_int(op, "n_heads", 0), dim = tn_op_int(op, "head_dim", 0);
    int64_t rotary = tn_op_int(op, "rotary_dim", 0);
    if (heads <= 0 || dim <= 0 || (uint64_t)(heads * dim) != op->in[0]->width ||
        op->out[0]->width != op->in[0]->width)
        return ref_require(op, 0, "the width must be n_heads * head_dim", err);
    if (rotary <= 0 || rotary % 2 || rotary > dim || !ref_dims(op, 0, (uint64_t)rotary / 2, 0))
        return ref_require(op, 0, "needs an even rotary_dim and rotary_dim / 2 frequencies", err);
    return ref_require(op, strcmp(style, "half") == 0 || strcmp(style, "pairs") == 0,
                       "style must be \"half\" or \"pairs\"", err);
}

/* The base that replaces the table's when a sequence has outgrown max_position; 0: it has not. */
static float dynamic_base(const tn_launch *l, uint32_t t)
{
    const tn_op *op = l->op;
    const tn_batch_arrays *b = l->batch->dev;
    double limit = (double)tn_op_int(op, "max_position", 0);
    double rotary = (double)tn_op_int(op, "rotary_dim", 0);
    double factor = tn_op_real(op, "factor", 1.0);
    double n = fmax((double)b->prompt_len[b->row_seq[t]], (double)b->positions[t] + 1.0);

    if (limit <= 0.0 || n <= limit)
        return 0.0f;
    return (float)(tn_op_real(op, "base", 10000.0) *
                   pow(factor * n / limit - (factor - 1.0), rotary / (rotary - 2.0)));
}

/* Rotates the first rotary_dim elements of every head of x[T, heads*dim] by pos[t] * f[j]. */
int32_t ref_rope_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), f = ref_weight(l, 0), y = ref_out(l, 0);
    uint64_t dim = (uint64_t)tn_op_int(op, "head_dim", 1);
    uint64_t rotary = (uint64_t)tn_op_int(op, "rotary_dim", 0), half = rotary / 2;
    float mscale = (float)tn_op_real(op, "mscale", 1.0);
    int pairs = strcmp(tn_op_text(op, "style", "half"), "pairs") == 0;

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        float base = dynamic_base(l, t), pos = (float)l->batch->dev->positions[t];
        for (uint64_t head = 0; head < op->in[0]->width; head += dim) {
            for (uint64_t j = 0; j < half; j++) {
                float freq = base > 0.0f ? 1.0f / powf(base, (float)(2 * j) / (float)rotary)
                                         : ref_get(f, j, 0);
                float c = mscale * cosf(pos * freq), s = mscale * sinf(pos * freq);
                uint64_t first = head + (pairs ? 2 * j : j);
                uint64_t second = pairs ? first + 1 : first + half;
                float a = ref_get(x, t, first), b = ref_get(x, t, second);
                ref_set(y, t, first, a * c - b * s);
                ref_set(y, t, second, b * c + a * s);
            }
            for (uint64_t i = head + rotary; i < head + dim; i++)
                ref_set(y, t, i, ref_get(x, t, i));
        }
    }
    return TN_OK;
}

/* -- hadamard -------------------------------------------------------------------------------------- */

int32_t ref_hadamard_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 1, 1, 0, 0, err);
    int64_t heads = tn_op_int(op, "n_heads", 0), dim = tn_op_int(op, "head_dim", 0);

    (void)instance;
    if (rc)
        return rc;
    return ref_require(op,
                       heads > 0 && dim > 0 && (uint64_t)(heads * dim) == op->in[0]->width &&
                           op->out[0]->width == op->in[0]->width,
                       "the width must be n_heads * head_dim", err);
}

/* Element i of a run of x times row i of the matrix, which has elements of +-1. */
static float hadamard_sum(struct ref_matrix x, uint32_t t, uint64_t first, uint64_t i,
                          uint64_t order, const uint32_t *rows)
{
    uint64_t two = order / tn_hadamard_base((uint32_t)order); /* the power of two */
    float sum = 0.0f;

    for (uint64_t j = 0; j < order; j++) {
        uint32_t negative =
            (rows[i / two] >> j / two & 1) ^ (uint32_t)__builtin_parityll(i & j & (two - 1));
        sum += negative ? -ref_get(x, t, first + j) : ref_get(x, t, first + j);
    }
    return sum;
}

int32_t ref_hadamard_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct ref_matrix x = ref_in(l, 0), y = ref_out(l, 0);
    uint64_t order = tn_hadamard_order((uint32_t)tn_op_int(l->op, "head_dim", 1));
    uint32_t rows[TN_HADAMARD_MOST] = {0};
    float by = 1.0f / sqrtf((float)order);

    (void)instance;
    (void)err;
    tn_hadamard_rows(tn_hadamard_base((uint32_t)order), rows);
    for (uint32_t t = 0; t < l->batch->n_rows; t++)
        for (uint64_t i = 0; i < l->op->in[0]->width; i++) /* heads are whole runs */
            ref_set(y, t, i, by * hadamard_sum(x, t, i / order * order, i % order, order, rows));
    return TN_OK;
}
