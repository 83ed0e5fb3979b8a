/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the schemes of this directory share: the tensors of a plan, options, and the largest elements of rows and
 * columns. Header only; each plugin is one file. Any thread.
 */
#ifndef QUANT_COMMON_SCHEME_H
#define QUANT_COMMON_SCHEME_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/ops.h"
#include "tenon/quant.h"

static inline uint64_t scheme_rows(const tn_op *op)
{
    return op->weights[0]->dims[0];
}

static inline uint64_t scheme_cols(const tn_op *op)
{
    return op->weights[0]->dims[1];
}

/* TN_OK if the op is a linear with a matrix of two dimensions. */
static inline int32_t scheme_check(const tn_op *op, tn_err *err)
{
    if (op->n_weights >= 1 && op->weights[0]->n_dims == 2)
        return TN_OK;
    return tn_err_set(err, TN_E_UNSUPPORTED, "%s has no matrix", op->name);
}

/* Whether what multiplies with the matrix may round its rows: for experts it never does. */
static inline int scheme_rounds_rows(const tn_op *op)
{
    return strcmp(op->name, TN_OP_MOE_MLP) != 0;
}

/* A matrix of `dtype` in the shape of the original, and a float32 scale per row. */
static inline void scheme_by_row(const tn_op *op, const char *name, uint32_t dtype,
                                 tn_quant_plan *out)
{
    out->op = name;
    out->n_tensors = 2;
    out->tensors[0] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                        .suffix = ".qweight",
                                        .dtype = dtype,
                                        .n_dims = 2,
                                        .dims = {scheme_rows(op), scheme_cols(op)},
                                        .rows = 1};
    out->tensors[1] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                        .suffix = ".scale",
                                        .dtype = TN_DT_F32,
                                        .n_dims = 1,
                                        .dims = {scheme_rows(op)},
                                        .rows = 1};
}

/* max |w| of a row; NaN if an element is not finite. */
static inline float scheme_absmax(const float *w, uint64_t n)
{
    float most = 0.0f;

    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(w[i]))
            return NAN;
        most = fmaxf(most, fabsf(w[i]));
    }
    return most;
}

static inline int32_t scheme_not_finite(const tn_op *op, uint64_t row, tn_err *err)
{
    return tn_err_set(err, TN_E_NAN, "row %llu of %s has NaN or infinity", (unsigned long long)row,
                      op->weights[0]->name);
}

/* -- Options ------------------------------------------------------------------------------------------ */

/* The index of `value` in `choices` (ends with NULL). */
static inline int32_t scheme_choice(const tn_kv *kv, const char *const *choices, uint32_t *out,
                                    tn_err *err)
{
    char list[128] = "";

    for (uint32_t i = 0; choices[i]; i++) {
        size_t n = strlen(list);
        if (strcmp(kv->value, choices[i]) == 0) {
            *out = i;
            return TN_OK;
        }
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", choices[i]);
    }
    return tn_err_set(err, TN_E_CONFIG, "option %s is \"%s\", but must be one of %s", kv->key,
                      kv->value, list);
}

static inline int32_t scheme_unknown(const tn_kv *kv, const char *known, tn_err *err)
{
    return tn_err_set(err, TN_E_CONFIG, "there is no option \"%s\"; known are %s", kv->key, known);
}

/* -- Channels ------------------------------------------------------------------------------------------ */

/* The number of the channel that stands for channel k and those tied to it. */
static inline uint64_t scheme_tie(const tn_quant_group *g, uint64_t k)
{
    return g->tie ? g->tie[k] : k;
}

/* out[k] = max |w| of column k over all matrices of the group. */
static inline void scheme_column_absmax(const tn_quant_group *g, float *out)
{
    memset(out, 0, g->n_channels * sizeof *out);
    for (uint32_t i = 0; i < g->n_ops; i++)
        for (uint64_t n = 0; n < scheme_rows(g->ops[i]); n++)
            for (uint64_t k = 0; k < g->n_channels; k++)
                out[k] = fmaxf(out[k], fabsf(g->weights[i][n * g->n_channels + k]));
}

/* Each channel gets the largest of those tied to it. `scratch` has room for n_channels. */
static inline void scheme_tie_largest(const tn_quant_group *g, float *v, float *scratch)
{
    if (!g->tie)
        return;
    memset(scratch, 0, g->n_channels * sizeof *scratch);
    for (uint64_t k = 0; k < g->n_channels; k++)
        scratch[g->tie[k]] = fmaxf(scratch[g->tie[k]], v[k]);
    for (uint64_t k = 0; k < g->n_channels; k++)
        v[k] = scratch[g->tie[k]];
}

#endif
