/* SPDX-License-Identifier: Apache-2.0 */
/* What the can_run functions of the set share. */
#ifndef CPU_CHECK_H
#define CPU_CHECK_H

#include "cpu.h"

/* TN_OK if `holds`, else TN_E_UNSUPPORTED with `why`. */
static inline int32_t check_require(const tn_op *op, int holds, const char *why, tn_err *err)
{
    return holds ? TN_OK : tn_err_set(err, TN_E_UNSUPPORTED, "%s: %s", op->name, why);
}

/* Nonzero if `v` holds rows (or logits) of float32, or of a dtype that is not bound yet. */
static inline int check_f32(const tn_value *v)
{
    return v->kind != TN_VALUE_KV && (v->dtype == TN_DT_F32 || v->dtype == TN_DT_ACT);
}

/* Nonzero if `op` has these numbers of inputs, outputs and weights, and all its rows are float32. */
static inline int check_form(const tn_op *op, uint32_t n_in, uint32_t n_out, uint32_t min_weights,
                             uint32_t max_weights)
{
    int fits = op->n_in == n_in && op->n_out == n_out && op->n_weights >= min_weights &&
               op->n_weights <= max_weights;

    for (uint32_t i = 0; fits && i < n_in; i++)
        fits = op->in[i]->kind == TN_VALUE_KV || check_f32(op->in[i]);
    for (uint32_t i = 0; fits && i < n_out; i++)
        fits = op->out[i]->kind == TN_VALUE_KV || check_f32(op->out[i]);
    return fits;
}

/* Nonzero if `w` is a vector of `n` floats of any width. */
static inline int check_vector(const tn_weight *w, uint64_t n)
{
    return w->n_dims == 1 && w->dims[0] == n &&
           (w->dtype == TN_DT_F32 || w->dtype == TN_DT_F16 || w->dtype == TN_DT_BF16);
}

#endif
