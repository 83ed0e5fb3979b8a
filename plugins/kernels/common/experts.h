/* SPDX-License-Identifier: Apache-2.0 */
/* The form of moe_mlp (tenon/ops.h), for the sets that compute it: stacks of matrices, and what stands beside those of few bits. */
#ifndef COMMON_EXPERTS_H
#define COMMON_EXPERTS_H

#include "tenon/op.h"

/* Nonzero for int8, float8_e4m3 and int4, whose matrices have scales. */
static inline int experts_scaled(uint32_t dtype)
{
    return dtype == TN_DT_I8 || dtype == TN_DT_F8E4M3 || dtype == TN_DT_I4;
}

/* How many scales a row of stack `i` has. */
static inline uint64_t experts_groups(const tn_op *op, uint32_t i)
{
    return op->n_weights > 3 && op->weights[i + 3]->n_dims > 2 ? op->weights[i + 3]->dims[2] : 1;
}

/* Nonzero if scales, and zero points if there are any, fit stack `i`: [E,N], or [E,N,groups] of int4. */
static inline int experts_scales_fit(const tn_op *op, uint32_t i)
{
    const tn_weight *w = op->weights[i];
    uint32_t n_dims = w->dtype == TN_DT_I4 ? 3 : 2;

    for (uint32_t at = i + 3; at < op->n_weights; at += 3) {
        const tn_weight *s = op->weights[at];
        if (s->dtype != (at < 6 ? TN_DT_F32 : TN_DT_I8) || s->n_dims != n_dims ||
            s->dims[0] != w->dims[0] || s->dims[1] != w->dims[1])
            return 0;
        if (n_dims == 3 && (s->dims[2] == 0 || w->dims[2] % s->dims[2] != 0 ||
                            s->dims[2] != experts_groups(op, i)))
            return 0;
    }
    return 1;
}

/* Nonzero if inputs and matrices are as the op says, whatever the dtypes of rows and weights. */
static inline int experts_shaped(const tn_op *op)
{
    const tn_weight *const *w = op->weights;
    uint64_t width, inner;

    if (op->n_in != 3 || op->n_out != 1 || op->n_weights < 3 || op->in[1]->dtype != TN_DT_I32 ||
        op->in[2]->dtype != TN_DT_F32 || op->in[1]->width != op->in[2]->width)
        return 0;
    width = op->in[0]->width;
    inner = w[0]->dims[1];
    for (uint32_t i = 0; i < 3; i++)
        if (w[i]->n_dims != 3 || w[i]->dims[0] != w[0]->dims[0] ||
            w[i]->dims[1] != (i < 2 ? inner : width) || w[i]->dims[2] != (i < 2 ? width : inner))
            return 0;
    return op->out[0]->width == width;
}

/* Why the op is not what its definition says; NULL if it is. What dtypes of floats there may be is for the set to say. */
static inline const char *experts_fault(const tn_op *op)
{
    uint32_t dtype, n = op->n_weights;

    if (!experts_shaped(op))
        return "needs rows, int32 experts, float32 probabilities, and weights [E,I,H], [E,I,H] and "
               "[E,H,I]";
    dtype = op->weights[0]->dtype;
    if (experts_scaled(dtype) ? n != 6 && !(dtype == TN_DT_I4 && n == 9) : n != 3)
        return "experts of 8 or 4 bits, and only these, need scales";
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t other = op->weights[i]->dtype;
        if (experts_scaled(dtype) || experts_scaled(other) ? other != dtype : 0)
            return "experts of 8 or 4 bits must be of one dtype";
        if (!experts_scales_fit(op, i))
            return "scales and zero points must fit the matrices";
    }
    return NULL;
}

#endif
