/* SPDX-License-Identifier: Apache-2.0 */
/* Where the rows of values and weights lie, and the checks that all ops share. Any thread. */
#include "ref.h"

static struct ref_matrix rows_of(const void *data, uint32_t dtype, uint64_t width)
{
    /* Inputs and outputs share one type for the reader's sake; inputs are never written. */
    struct ref_matrix m = {(unsigned char *)data, dtype, width * tn_dtype_bits(dtype) / 8};

    return m;
}

struct ref_matrix ref_in(const tn_launch *l, uint32_t i)
{
    return rows_of(l->in[i], l->op->in[i]->dtype, l->op->in[i]->width);
}

struct ref_matrix ref_out(const tn_launch *l, uint32_t i)
{
    return rows_of(l->out[i], l->op->out[i]->dtype, l->op->out[i]->width);
}

struct ref_matrix ref_weight(const tn_launch *l, uint32_t i)
{
    struct ref_matrix m = rows_of(l->weights[i], l->op->weights[i]->dtype, 0);

    m.stride = l->op->weights[i]->stride0;
    return m;
}

struct ref_matrix ref_stacked(const tn_launch *l, uint32_t i, uint64_t e)
{
    const tn_weight *w = l->op->weights[i];
    struct ref_matrix m = rows_of(l->weights[i], w->dtype, w->n_dims > 2 ? w->dims[2] : 1);

    m.data += e * w->stride0;
    return m;
}

int32_t ref_check(const tn_op *op, uint32_t n_in, uint32_t n_out, uint32_t min_weights,
                  uint32_t max_weights, tn_err *err)
{
    if (op->n_in != n_in || op->n_out != n_out)
        return ref_require(op, 0, "wrong number of inputs or outputs", err);
    if (op->n_weights < min_weights || op->n_weights > max_weights)
        return ref_require(op, 0, "wrong number of weights", err);
    for (uint32_t i = 0; i < n_in; i++)
        if (op->in[i]->kind != TN_VALUE_KV && !ref_is_float(op->in[i]->dtype))
            return ref_require(op, 0, "an input is not of a float dtype", err);
    for (uint32_t i = 0; i < n_out; i++)
        if (op->out[i]->kind != TN_VALUE_KV && !ref_is_float(op->out[i]->dtype))
            return ref_require(op, 0, "an output is not of a float dtype", err);
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (!ref_is_float(op->weights[i]->dtype))
            return ref_require(op, 0, "a weight is not of a float dtype", err);
    return TN_OK;
}
