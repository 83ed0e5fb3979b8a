/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the reference kernel set share: access to elements of any dtype, and the table of
 * functions that plugin.c turns into variants.
 *
 * Everything is written to be read: one element at a time, float32 arithmetic, plain loops in the
 * order of the formulas of ops.h. All functions may be called from any thread.
 */
#ifndef REFERENCE_REF_H
#define REFERENCE_REF_H

#include <math.h>
#include <stddef.h>

#include "tenon/float.h"
#include "tenon/kernels.h"
#include "tenon/ops.h"

/* -- Elements ---------------------------------------------------------------------------------- */

/* Rows of a value or of a weight, in whatever dtype they are stored. A weight with one dimension is a
 * matrix with one column. */
struct ref_matrix {
    unsigned char *data;
    uint32_t dtype;
    uint64_t stride; /* bytes between rows */
};

/* Input `i`, output `i` and weight `i` of the op that `l` launches. */
struct ref_matrix ref_in(const tn_launch *l, uint32_t i);
struct ref_matrix ref_out(const tn_launch *l, uint32_t i);
struct ref_matrix ref_weight(const tn_launch *l, uint32_t i);
/* Entry `e` of a stack of matrices [E, rows, cols]; of a stack of vectors [E, rows] a matrix with one column. */
struct ref_matrix ref_stacked(const tn_launch *l, uint32_t i, uint64_t e);

/* Element `i` at `p`, widened exactly to float32. */
static inline float ref_load(const void *p, uint32_t dtype, uint64_t i)
{
    switch (dtype) {
    case TN_DT_F16: return tn_f16_to_f32(((const uint16_t *)p)[i]);
    case TN_DT_BF16: return tn_bf16_to_f32(((const uint16_t *)p)[i]);
    case TN_DT_I8: return (float)((const int8_t *)p)[i];
    case TN_DT_F8E4M3: return tn_f8e4m3_to_f32(((const uint8_t *)p)[i]);
    case TN_DT_I4: { /* two per byte, the even one in the low nibble; -8 to 7 */
        uint32_t nibble = (uint32_t)((const uint8_t *)p)[i / 2] >> (i % 2 * 4) & 15u;
        return (float)(int32_t)(nibble ^ 8u) - 8.0f;
    }
    default: return ((const float *)p)[i];
    }
}

/* Stores `f` as element `i` at `p`, rounded to nearest, ties to even. */
static inline void ref_store(void *p, uint32_t dtype, uint64_t i, float f)
{
    switch (dtype) {
    case TN_DT_F16: ((uint16_t *)p)[i] = tn_f32_to_f16(f); break;
    case TN_DT_BF16: ((uint16_t *)p)[i] = tn_f32_to_bf16(f); break;
    case TN_DT_F8E4M3: ((uint8_t *)p)[i] = tn_f32_to_f8e4m3(f); break;
    case TN_DT_I8: /* NaN has no place among integers; it becomes 0 */
        ((int8_t *)p)[i] = isnan(f) ? 0 : (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(f)));
        break;
    default: ((float *)p)[i] = f; break;
    }
}

static inline float ref_get(struct ref_matrix m, uint64_t row, uint64_t col)
{
    return ref_load(m.data + row * m.stride, m.dtype, col);
}

static inline void ref_set(struct ref_matrix m, uint64_t row, uint64_t col, float f)
{
    ref_store(m.data + row * m.stride, m.dtype, col, f);
}

/* -- Checks ------------------------------------------------------------------------------------ */

/* TN_OK if `holds`, else TN_E_UNSUPPORTED with `why`. */
static inline int32_t ref_require(const tn_op *op, int holds, const char *why, tn_err *err)
{
    return holds ? TN_OK : tn_err_set(err, TN_E_UNSUPPORTED, "%s: %s", op->name, why);
}

/* TN_OK if `op` has these numbers of inputs, outputs and (at least, at most) weights, every ROWS or
 * LOGITS value is of a float dtype, and so is every weight. */
int32_t ref_check(const tn_op *op, uint32_t n_in, uint32_t n_out, uint32_t min_weights,
                  uint32_t max_weights, tn_err *err);

/* Nonzero if value `v` is of a float dtype (or not bound to one yet). */
static inline int ref_is_float(uint32_t dtype)
{
    return dtype == TN_DT_F32 || dtype == TN_DT_F16 || dtype == TN_DT_BF16 || dtype == TN_DT_ACT;
}

/* Nonzero if weight `i` of `op` exists and has exactly the dims [rows, cols]; cols 0: one dimension. */
static inline int ref_dims(const tn_op *op, uint32_t i, uint64_t rows, uint64_t cols)
{
    const tn_weight *w = op->weights[i];

    return w->dims[0] == rows && w->n_dims == (cols ? 2u : 1u) && (!cols || w->dims[1] == cols);
}

/* -- Activations, by name ---------------------------------------------------------------------- */

typedef float (*ref_function)(float x);

float ref_silu(float x);
float ref_gelu(float x);
float ref_gelu_tanh(float x);
float ref_relu(float x);
float ref_relu2(float x);

/* The activation called `name`, or NULL. */
ref_function ref_activation(const char *name);

/* -- The ops ----------------------------------------------------------------------------------- */

/*
 * X(id, name of the op, dtypes of its matrices, dtypes of the cache). For each there are
 * ref_ID_check (tn_variant::can_run) and ref_ID_launch.
 */
#define REF_FLOATS (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))
#define REF_CACHE (REF_FLOATS | TN_DT_BIT(TN_DT_F8E4M3) | TN_DT_BIT(TN_DT_I8))
#define REF_OPS(X)                                                                                 \
    X(embedding, TN_OP_EMBEDDING, REF_FLOATS, 0)                                                   \
    X(embedding_int8, TN_OP_EMBEDDING_INT8, TN_DT_BIT(TN_DT_I8), 0)                                \
    X(position, TN_OP_POSITION, REF_FLOATS, 0)                                                     \
    X(rms_norm, TN_OP_RMS_NORM, 0, 0)                                                              \
    X(layer_norm, TN_OP_LAYER_NORM, 0, 0)                                                          \
    X(linear, TN_OP_LINEAR, REF_FLOATS, 0)                                                         \
    X(rope, TN_OP_ROPE, 0, 0)                                                                      \
    X(hadamard, TN_OP_HADAMARD, 0, 0)                                                              \
    X(reorder, TN_OP_REORDER, 0, 0)                                                                \
    X(kv_append, TN_OP_KV_APPEND, 0, REF_CACHE)                                                    \
    X(attention, TN_OP_ATTENTION, 0, REF_CACHE)                                                    \
    X(add, TN_OP_ADD, 0, 0)                                                                        \
    X(mul, TN_OP_MUL, 0, 0)                                                                        \
    X(silu, TN_OP_SILU, 0, 0)                                                                      \
    X(gelu, TN_OP_GELU, 0, 0)                                                                      \
    X(gelu_tanh, TN_OP_GELU_TANH, 0, 0)                                                            \
    X(relu, TN_OP_RELU, 0, 0)                                                                      \
    X(relu2, TN_OP_RELU2, 0, 0)                                                                    \
    X(scale, TN_OP_SCALE, 0, 0)                                                                    \
    X(softcap, TN_OP_SOFTCAP, 0, 0)                                                                \
    X(moe_route, TN_OP_MOE_ROUTE, 0, 0)                                                            \
    X(moe_mlp, TN_OP_MOE_MLP,                                                                      \
      REF_FLOATS | TN_DT_BIT(TN_DT_I8) | TN_DT_BIT(TN_DT_F8E4M3) | TN_DT_BIT(TN_DT_I4), 0)         \
    X(logits, TN_OP_LOGITS, REF_FLOATS, 0)                                                         \
    X(sample, TN_OP_SAMPLE, 0, 0)                                                                  \
    X(logits_int8, TN_OP_LOGITS_INT8, TN_DT_BIT(TN_DT_I8), 0)                                      \
    X(linear_int8, TN_OP_LINEAR_INT8, TN_DT_BIT(TN_DT_I8), 0)                                      \
    X(linear_fp8, TN_OP_LINEAR_FP8, TN_DT_BIT(TN_DT_F8E4M3), 0)                                    \
    X(linear_int4, TN_OP_LINEAR_INT4, TN_DT_BIT(TN_DT_I4), 0)

#define REF_DECLARE(id, name, weights, kv)                                                         \
    int32_t ref_##id##_check(void *instance, const tn_op *op, tn_err *err);                        \
    int32_t ref_##id##_launch(void *instance, const tn_launch *l, tn_err *err);
REF_OPS(REF_DECLARE)
#undef REF_DECLARE

/* Of a row of the op's outputs W x + b: softcap(scale * ...) in place. */
void ref_finish_logits(const tn_launch *l, uint64_t row);

/* Workspace that an op needs; see tn_variant::workspace. */
int32_t ref_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                      uint32_t max_context, uint64_t *bytes, tn_err *err);

#endif
