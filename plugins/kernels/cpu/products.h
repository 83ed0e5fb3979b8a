/* SPDX-License-Identifier: Apache-2.0 */
/* The variants that are matrix products: each kernel of gemm.h in each form of linear.h. */
#ifndef CPU_PRODUCTS_H
#define CPU_PRODUCTS_H

#include "linear.h"
#include "tenon/ops.h"

/* X(kernel, form, id, op, composition or NULL), where `linear` is the op whose compositions these are. */
#define FUSED_FORMS(X, kernel, linear)                                                             \
    X(kernel, FORM_QKV, qkv, "cpu.qkv",                                                            \
      "(x) -> (q, k, v): q = " linear "(x); k = " linear "(x); v = " linear "(x)")                 \
    X(kernel, FORM_GATE_SILU, gate_silu, "cpu.gate_silu",                                          \
      "(x) -> (y): g = " linear "(x); u = " linear "(x); s = silu(g); y = mul(s, u)")              \
    X(kernel, FORM_GATE_GELU, gate_gelu, "cpu.gate_gelu",                                          \
      "(x) -> (y): g = " linear "(x); u = " linear "(x); s = gelu(g); y = mul(s, u)")              \
    X(kernel, FORM_GATE_GELU_TANH, gate_gelu_tanh, "cpu.gate_gelu_tanh",                           \
      "(x) -> (y): g = " linear "(x); u = " linear "(x); s = gelu_tanh(g); y = mul(s, u)")         \
    X(kernel, FORM_ADD, add_linear, "cpu.add_linear",                                              \
      "(x, r) -> (y): h = " linear "(x); y = add(r, h)")                                           \
    X(kernel, FORM_ADD, linear_add, "cpu.linear_add",                                              \
      "(x, r) -> (y): h = " linear "(x); y = add(h, r)")

#define FLOAT_FORMS(X, kernel)                                                                     \
    X(kernel, FORM_LINEAR, linear, TN_OP_LINEAR, NULL)                                             \
    X(kernel, FORM_LOGITS, logits, TN_OP_LOGITS, NULL)                                             \
    FUSED_FORMS(X, kernel, "linear")

#define INT8_FORMS(X, kernel)                                                                      \
    X(kernel, FORM_LINEAR, linear, TN_OP_LINEAR_INT8, NULL)                                        \
    X(kernel, FORM_LOGITS, logits, TN_OP_LOGITS_INT8, NULL)                                        \
    FUSED_FORMS(X, kernel, "linear.int8")

/* Rows of x are not rounded to e4m3, for want of hardware: see linear.fp8 in ops.h. */
#define FP8_FORMS(X, kernel)                                                                       \
    X(kernel, FORM_LINEAR, linear, TN_OP_LINEAR_FP8, NULL)                                         \
    FUSED_FORMS(X, kernel, "linear.fp8")

#define INT4_FORMS(X, kernel)                                                                      \
    X(kernel, FORM_LINEAR, linear, TN_OP_LINEAR_INT4, NULL)                                        \
    FUSED_FORMS(X, kernel, "linear.int4")

#define PRODUCTS(X)                                                                                \
    FLOAT_FORMS(X, bf16_avx512bf16)                                                                \
    FLOAT_FORMS(X, f32_avx512)                                                                     \
    FLOAT_FORMS(X, f16_avx512)                                                                     \
    FLOAT_FORMS(X, bf16_avx512)                                                                    \
    FP8_FORMS(X, f8_avx512)                                                                        \
    INT8_FORMS(X, i8_avx512vnni)                                                                   \
    INT4_FORMS(X, i4_avx512vnni)                                                                   \
    INT4_FORMS(X, i4_avx512)                                                                       \
    FLOAT_FORMS(X, f32_avx2)                                                                       \
    FLOAT_FORMS(X, f16_avx2)                                                                       \
    FLOAT_FORMS(X, bf16_avx2)                                                                      \
    FP8_FORMS(X, f8_avx2)                                                                          \
    INT8_FORMS(X, i8_avxvnni)                                                                      \
    INT8_FORMS(X, i8_avx2)                                                                         \
    INT4_FORMS(X, i4_avxvnni)                                                                      \
    INT4_FORMS(X, i4_avx2)

#define PRODUCT_DECLARE(kernel, form, id, op, equals)                                              \
    extern const tn_variant product_##id##_##kernel;
PRODUCTS(PRODUCT_DECLARE)
#undef PRODUCT_DECLARE

#endif
