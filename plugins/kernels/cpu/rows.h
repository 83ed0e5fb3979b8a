/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ops that go row by row: embedding, norms, element-wise ops, rope and the cache. For each `id` there
 * are id_can_run and id_launch, with the contracts of tn_variant; none needs workspace.
 */
#ifndef CPU_ROWS_H
#define CPU_ROWS_H

#include "isa.h"
#include "tenon/fusions.h"

#define ROWS_FLOATS (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))

#define ROWS_CACHE (ROWS_FLOATS | TN_DT_BIT(TN_DT_F8E4M3) | TN_DT_BIT(TN_DT_I8))

/* X(id, op, composition or NULL, dtypes of its matrices, dtypes of the cache) */
#define ROWS_OPS(X)                                                                                \
    X(embedding, TN_OP_EMBEDDING, NULL, ROWS_FLOATS, 0)                                            \
    X(embedding_int8, TN_OP_EMBEDDING_INT8, NULL, TN_DT_BIT(TN_DT_I8), 0)                          \
    X(position, TN_OP_POSITION, NULL, ROWS_FLOATS, 0)                                              \
    X(rms_norm, TN_OP_RMS_NORM, NULL, 0, 0)                                                        \
    X(add_rms_norm, "cpu.add_rms_norm", "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)", 0, 0)  \
    X(layer_norm, TN_OP_LAYER_NORM, NULL, 0, 0)                                                    \
    X(add, TN_OP_ADD, NULL, 0, 0)                                                                  \
    X(mul, TN_OP_MUL, NULL, 0, 0)                                                                  \
    X(silu, TN_OP_SILU, NULL, 0, 0)                                                                \
    X(gelu, TN_OP_GELU, NULL, 0, 0)                                                                \
    X(gelu_tanh, TN_OP_GELU_TANH, NULL, 0, 0)                                                      \
    X(relu, TN_OP_RELU, NULL, 0, 0)                                                                \
    X(relu2, TN_OP_RELU2, NULL, 0, 0)                                                              \
    X(scale, TN_OP_SCALE, NULL, 0, 0)                                                              \
    X(softcap, TN_OP_SOFTCAP, NULL, 0, 0)                                                          \
    X(silu_mul, "cpu.silu_mul", "(g, u) -> (y): s = silu(g); y = mul(s, u)", 0, 0)                 \
    X(gelu_mul, "cpu.gelu_mul", "(g, u) -> (y): s = gelu(g); y = mul(s, u)", 0, 0)                 \
    X(gelu_tanh_mul, "cpu.gelu_tanh_mul", "(g, u) -> (y): s = gelu_tanh(g); y = mul(s, u)", 0, 0)  \
    X(rope, TN_OP_ROPE, NULL, 0, 0)                                                                \
    X(hadamard, TN_OP_HADAMARD, NULL, 0, 0)                                                        \
    X(reorder, TN_OP_REORDER, NULL, 0, 0)                                                          \
    X(kv_append, TN_OP_KV_APPEND, NULL, 0, ROWS_CACHE)                                             \
    X(rope_append, "cpu.rope_append",                                                              \
      "(q, k, v) -> (y, kv): y = rope(q); r = rope(k); kv = kv_append(r, v)", 0, ROWS_CACHE)

/* The same, of TN_VARIANT_PARTS. */
#define ROWS_PARTS(X)                                                                              \
    X(reduce_add_rms_norm, TN_FUSED_REDUCE_ADD_RMS_NORM, TN_FUSED_REDUCE_ADD_RMS_NORM_TEXT, 0, 0)  \
    X(reduce_add_layer_norm, TN_FUSED_REDUCE_ADD_LAYER_NORM, TN_FUSED_REDUCE_ADD_LAYER_NORM_TEXT,  \
      0, 0)

#define ROWS_DECLARE(id, op, equals, weights, kv)                                                  \
    int32_t id##_can_run(void *instance, const tn_op *op_, tn_err *err);                           \
    int32_t id##_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,  \
                        tn_err *err);
ROWS_OPS(ROWS_DECLARE)
ROWS_PARTS(ROWS_DECLARE)
#undef ROWS_DECLARE

#endif
