/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with weights of 4 or 8 bits by mma.sync, for sets from compute capability 8.0 on: linear.int4, linear.fp8 and
 * linear.int8, and what is fused with them. narrow.c is the host's side, which every such set compiles; narrow.cuh is the device's. Weights are read as they are
 * stored. C and device code.
 */
#ifndef COMMON_NARROW_H
#define COMMON_NARROW_H

#include "cuda_product.h"

/* X(rows of the matrix, rows of x, stages of the ring): the kernels, by the rows that they are for. */
#define NARROW_SHAPES(X) X(16, 8, 3) X(32, 8, 3) X(32, 16, 3) X(64, 16, 4) X(64, 32, 3)

#ifndef __CUDACC__

#include "cuda_host.h"

/* Rows that variants take: with more, widening the matrix once costs less than widening it per tile. */
#define NARROW_MAX_ROWS 256
extern const tn_range narrow_rows[];

/* Names of the kernels by dtype of the rows, then by shape: "int4_f16_32x8", of int4.cu, and so on. */
#define NARROW_NAMES(scheme)                                                                       \
    scheme "_f16_16x8", scheme "_f16_32x8", scheme "_f16_32x16", scheme "_f16_64x16",              \
        scheme "_f16_64x32", scheme "_bf16_16x8", scheme "_bf16_32x8", scheme "_bf16_32x16",       \
        scheme "_bf16_64x16", scheme "_bf16_64x32"
#define N_NARROW_NAMES 10

/* The set's code for matrices of `dtype` on a device that it is attached to; every set that compiles narrow.c has this
 * function. */
const struct cuda_code *narrow_code(void *instance, const tn_device *device, uint32_t dtype);

/* Whether `op` is a form of linear.int4, linear.fp8 or linear.int8 that the kernels take. */
int32_t narrow_can_run(void *instance, const tn_op *op, tn_err *err);
double narrow_cost_ns(void *instance, const tn_op *op, uint32_t rows);
int32_t narrow_launch(void *instance, const tn_launch *l, tn_err *err);

/* The same for rows that lie at `x`, quantized with steps[rows]. */
int32_t narrow_multiply(void *instance, const tn_launch *l, const void *x, const float *steps,
                        tn_err *err);

/* The first of the ops that are products in `op`; *norm is the rms_norm ahead of them, or NULL. */
const tn_op *narrow_linear(const tn_op *op, const tn_op **norm);

/* The tn_variant called `id` for matrices of `type`. */
#define NARROW_VARIANT(id, variant_name, op_name, composition, type, more, targets, check, space,  \
                       start)                                                                      \
    const tn_variant id = {                                                                        \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = variant_name,                                                                      \
        .op = op_name,                                                                             \
        .equals = composition,                                                                     \
        .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | (more),                        \
        .act_dtypes = TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16),                                \
        .weight_dtypes = TN_DT_BIT(type),                                                          \
        .gpus = targets,                                                                           \
        .ranges = narrow_rows,                                                                     \
        .n_ranges = 1,                                                                             \
        .can_run = check,                                                                          \
        .cost_ns = narrow_cost_ns,                                                                 \
        .workspace = space,                                                                        \
        .launch = start,                                                                           \
    };

/* X(id, op, composition or NULL): the forms of scheme `q` ("int4"), whose linear op is `op`. */
#define NARROW_FORMS(X, q, op)                                                                     \
    X(linear, op, NULL)                                                                            \
    X(qkv, "qkv." q, TN_TEXT_QKV(op))                                                              \
    X(linear_add, "linear_add." q, TN_TEXT_LINEAR_ADD(op))                                         \
    X(gate_silu, "gate_silu." q, TN_TEXT_GATE(op, "silu"))                                         \
    X(gate_gelu, "gate_gelu." q, TN_TEXT_GATE(op, "gelu"))                                         \
    X(gate_gelu_tanh, "gate_gelu_tanh." q, TN_TEXT_GATE(op, "gelu_tanh"))

/* The same behind rms_norm. */
#define NARROW_NORM_FORMS(X, q, op)                                                                \
    X(norm_linear, "norm_linear." q, TN_TEXT_NORM_LINEAR(op))                                      \
    X(norm_qkv, "norm_qkv." q, TN_TEXT_NORM_QKV(op))                                               \
    X(norm_gate_silu, "norm_gate_silu." q, TN_TEXT_NORM_GATE(op, "silu"))                          \
    X(norm_gate_gelu, "norm_gate_gelu." q, TN_TEXT_NORM_GATE(op, "gelu"))                          \
    X(norm_gate_gelu_tanh, "norm_gate_gelu_tanh." q, TN_TEXT_NORM_GATE(op, "gelu_tanh"))

#endif
#endif
