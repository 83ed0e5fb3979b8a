/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The portable kernel set for NVIDIA GPUs (compute capability 7.5 and up): what its files share.
 *
 * can_run, cost_ns and workspace may be called from any thread, attach and detach by the thread that binds a plan, launch by
 * the one that runs the steps of l->device.
 */
#ifndef PLUGINS_KERNELS_CUDA_SET_H
#define PLUGINS_KERNELS_CUDA_SET_H

#include "../common/cuda_host.h"
#include "args.h"
#include "gemm.h"
#include "tenon/host.h"

/* -- Kernels ------------------------------------------------------------------------------------------- */

/* X(name): one kernel. F(name): one per dtype of rows, in the order of cuda_float_index. */
#define ROWS_ENTRIES(X, F)                                                                         \
    F(map)                                                                                         \
    X(map_any)                                                                                     \
    F(rms_norm)                                                                                    \
    F(layer_norm)                                                                                  \
    F(reduce_rms_norm)                                                                             \
    F(reduce_layer_norm)                                                                           \
    F(table)                                                                                       \
    F(table8)                                                                                      \
    F(rope) F(shape) X(feed) X(gather) X(stream_read) F(hadamard) X(dummy_weight) F(reorder)
#define ATTENTION_ENTRIES(X, F) F(attention)
/* Per dtype of rows, then of weights. */
#define LINEAR_ENTRIES(X, F)                                                                       \
    F(linear_f32)                                                                                  \
    F(linear_f16)                                                                                  \
    F(linear_bf16) F(logits_f32) F(logits_f16) F(logits_bf16) X(finish)
#define QUANT_ENTRIES(X, F)                                                                        \
    X(quantize_gate_i8_f16)                                                                        \
    X(quantize_gate_i8_bf16)                                                                       \
    X(quantize_gate_f8_f16)                                                                        \
    X(quantize_gate_f8_bf16)                                                                       \
    F(quantize_i8)                                                                                 \
    F(quantize_f8)                                                                                 \
    F(finish_i32)                                                                                  \
    F(finish_f32)                                                                                  \
    F(widen_f8)                                                                                    \
    F(widen_i4)                                                                                    \
    F(few_i4_1)                                                                                    \
    F(few_i4_4)                                                                                    \
    F(few_i8_1)                                                                                    \
    F(few_i8_4)                                                                                    \
    F(few_i8_8) F(product_i8) F(product_f8) F(product_f8_wide) F(product_i4)
#define MOE_ENTRIES(X, F)                                                                          \
    F(moe_up_f32)                                                                                  \
    F(moe_up_f16)                                                                                  \
    F(moe_up_bf16)                                                                                 \
    F(moe_down_f32)                                                                                \
    F(moe_down_f16)                                                                                \
    F(moe_down_bf16)                                                                               \
    F(route)                                                                                       \
    F(moe_up_i8) F(moe_up_f8) F(moe_up_i4) F(moe_down_i8) F(moe_down_f8) F(moe_down_i4)
#define SAMPLE_ENTRIES(X, F) X(sample) X(sample_best) X(sample_shared)

/* X(image, its entries) */
#define IMAGES(X)                                                                                  \
    X(rows, ROWS_ENTRIES)                                                                          \
    X(attention, ATTENTION_ENTRIES)                                                                \
    X(linear, LINEAR_ENTRIES)                                                                      \
    X(quant, QUANT_ENTRIES) X(moe, MOE_ENTRIES) X(sample, SAMPLE_ENTRIES)

#define ENTRY_ONE(name) ENTRY_##name,
#define ENTRY_THREE(name) ENTRY_##name, ENTRY_##name##_f16_, ENTRY_##name##_bf16_,
#define ENTRY_ENUM(image, entries)                                                                 \
    enum image##_entry{entries(ENTRY_ONE, ENTRY_THREE) N_##image##_entries};
IMAGES(ENTRY_ENUM)

#define IMAGE_ENUM(image, entries) IMAGE_##image,
enum image { IMAGES(IMAGE_ENUM) N_IMAGES };

/* -- State --------------------------------------------------------------------------------------------- */

/* The set on one device. */
struct set_device {
    tn_device *device; /* NULL: free */
    struct cuda_code code[N_IMAGES];
    struct gemm gemm;
    const tn_host *host; /* gave the memory of gemm.plans */
};

/* Part of the plugin's instance. */
struct set_state {
    char cublaslt[256]; /* path of the library; "": by its usual names */
    struct set_device devices[CUDA_MAX_DEVICES];
};

extern const tn_kernel_set cuda_kernel_set;

/* The set on the device of `l`, which it is attached to. */
const struct set_device *set_device_of(void *instance, const tn_device *device);

/* Any device that the set is attached to; NULL: none yet. What can_run and cost_ns speak of. */
const struct set_device *set_any_device(void *instance);

/* Launches a kernel of `image`. */
static inline int32_t set_launch(const struct set_device *d, const tn_launch *l, enum image image,
                                 uint32_t entry, struct cuda_grid g, void *args, tn_err *err)
{
    return code_launch(&d->code[image], l->stream, entry, g, args, err);
}

/* A time for moving `bytes` and computing `flops` at `flops_per_ns`, with one launch. */
double set_time_ns(double bytes, double flops, double flops_per_ns);

/* -- Ops ------------------------------------------------------------------------------------------------ */

/* X(id, op, composition or NULL, dtypes of its matrices, dtypes of the cache): for each there are id_can_run and id_launch;
 * WORKSPACE ops have id_workspace, too. */
#define ROWS_OPS(X)                                                                                \
    X(position, TN_OP_POSITION, NULL, CUDA_FLOATS, 0)                                              \
    X(rms_norm, TN_OP_RMS_NORM, NULL, 0, 0)                                                        \
    X(add_rms_norm, TN_FUSED_ADD_RMS_NORM, TN_FUSED_ADD_RMS_NORM_TEXT, 0, 0)                       \
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
    X(hadamard, TN_OP_HADAMARD, NULL, 0, 0)                                                        \
    X(reorder, TN_OP_REORDER, NULL, 0, 0)                                                          \
    X(silu_mul, "cuda.silu_mul", "(g, u) -> (y): s = silu(g); y = mul(s, u)", 0, 0)                \
    X(gelu_mul, "cuda.gelu_mul", "(g, u) -> (y): s = gelu(g); y = mul(s, u)", 0, 0)                \
    X(gelu_tanh_mul, "cuda.gelu_tanh_mul", "(g, u) -> (y): s = gelu_tanh(g); y = mul(s, u)", 0, 0) \
    X(rope, TN_OP_ROPE, NULL, 0, 0)                                                                \
    X(kv_append, TN_OP_KV_APPEND, NULL, 0, CUDA_CACHES)                                            \
    X(rope_append, TN_FUSED_ROPE_APPEND, TN_FUSED_ROPE_APPEND_TEXT, 0, CUDA_CACHES)                \
    X(feed, TN_OP_FEED, NULL, 0, 0)                                                                \
    X(dummy, TN_OP_DUMMY, NULL, 0, 0)                                                              \
    X(read, TN_OP_READ, NULL, 0, 0)                                                                \
    X(attention, TN_OP_ATTENTION, NULL, 0, CUDA_CACHES)                                            \
    X(linear, TN_OP_LINEAR, NULL, CUDA_FLOATS, 0)                                                  \
    X(linear_int4, TN_OP_LINEAR_INT4, NULL, TN_DT_BIT(TN_DT_I4), 0)                                \
    X(logits, TN_OP_LOGITS, NULL, CUDA_FLOATS, 0)                                                  \
    X(moe_route, TN_OP_MOE_ROUTE, NULL, 0, 0)

/* The same, of TN_VARIANT_FEEDS. */
#define FEEDS_OPS(X)                                                                               \
    X(embedding, TN_OP_EMBEDDING, NULL, CUDA_FLOATS, 0)                                            \
    X(embedding_int8, TN_OP_EMBEDDING_INT8, NULL, TN_DT_BIT(TN_DT_I8), 0)

/* The same, of TN_VARIANT_PARTS. */
#define PARTS_OPS(X)                                                                               \
    X(reduce_add_rms_norm, TN_FUSED_REDUCE_ADD_RMS_NORM, TN_FUSED_REDUCE_ADD_RMS_NORM_TEXT, 0, 0)  \
    X(reduce_add_layer_norm, TN_FUSED_REDUCE_ADD_LAYER_NORM, TN_FUSED_REDUCE_ADD_LAYER_NORM_TEXT,  \
      0, 0)

#define WORKSPACE_OPS(X)                                                                           \
    X(linear_int8, TN_OP_LINEAR_INT8, NULL, TN_DT_BIT(TN_DT_I8), 0)                                \
    X(linear_fp8, TN_OP_LINEAR_FP8, NULL, TN_DT_BIT(TN_DT_F8E4M3), 0)                              \
    X(logits_int8, TN_OP_LOGITS_INT8, NULL, TN_DT_BIT(TN_DT_I8), 0)                                \
    X(moe_mlp, TN_OP_MOE_MLP, NULL,                                                                \
      CUDA_FLOATS | TN_DT_BIT(TN_DT_I8) | TN_DT_BIT(TN_DT_F8E4M3) | TN_DT_BIT(TN_DT_I4), 0)        \
    X(sample, TN_OP_SAMPLE, NULL, 0, 0)

#define OP_DECLARE(id, op_name, equals, weights, kv)                                               \
    int32_t id##_can_run(void *instance, const tn_op *op, tn_err *err);                            \
    double id##_cost_ns(void *instance, const tn_op *op, uint32_t rows);                           \
    int32_t id##_launch(void *instance, const tn_launch *l, tn_err *err);
#define OP_DECLARE_WORKSPACE(id, op_name, equals, weights, kv)                                     \
    OP_DECLARE(id, op_name, equals, weights, kv)                                                   \
    int32_t id##_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,  \
                           uint32_t max_context, uint64_t *bytes, tn_err *err);
ROWS_OPS(OP_DECLARE)
FEEDS_OPS(OP_DECLARE)
PARTS_OPS(OP_DECLARE)
WORKSPACE_OPS(OP_DECLARE_WORKSPACE)

/* X(id, op, composition or NULL): products through cuBLASLt, launched by gemm_id_launch. */
#define GEMM_OPS(X)                                                                                \
    X(linear, TN_OP_LINEAR, NULL)                                                                  \
    X(logits, TN_OP_LOGITS, NULL)                                                                  \
    X(qkv, TN_FUSED_QKV, TN_FUSED_QKV_TEXT)                                                        \
    X(linear_add, TN_FUSED_LINEAR_ADD, TN_FUSED_LINEAR_ADD_TEXT)                                   \
    X(gate_silu, TN_FUSED_GATE_SILU, TN_FUSED_GATE_SILU_TEXT)                                      \
    X(gate_gelu, TN_FUSED_GATE_GELU, TN_FUSED_GATE_GELU_TEXT)                                      \
    X(gate_gelu_tanh, TN_FUSED_GATE_GELU_TANH, TN_FUSED_GATE_GELU_TANH_TEXT)

#define GEMM_DECLARE(id, op_name, equals)                                                          \
    int32_t gemm_##id##_launch(void *instance, const tn_launch *l, tn_err *err);
GEMM_OPS(GEMM_DECLARE)
int32_t gemm_can_run(void *instance, const tn_op *op, tn_err *err);
double gemm_cost_ns(void *instance, const tn_op *op, uint32_t rows);
int32_t gemm_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                       uint32_t max_context, uint64_t *bytes, tn_err *err);

/* Sustained operations per nanosecond on tensor cores (float32: without) of the chip of `d`, roughly, by the dtype of the
 * operands. */
double gemm_flops_per_ns(const tn_device *d, uint32_t dtype);

/* X(id, op, way, dtype of the matrix, flags): quantized products through cuBLASLt. way: "quant" rounds rows, "wide" widens the
 * matrix to their dtype; fp8_wide is for GPUs without e4m3, fp8_short for short rows on others. */
#define GEMM_QUANT_OPS(X)                                                                          \
    X(linear_int8, TN_OP_LINEAR_INT8, quant, TN_DT_I8, 0)                                          \
    X(logits_int8, TN_OP_LOGITS_INT8, quant, TN_DT_I8, 0)                                          \
    X(linear_fp8, TN_OP_LINEAR_FP8, quant, TN_DT_F8E4M3, 0)                                        \
    X(linear_fp8_wide, TN_OP_LINEAR_FP8, wide, TN_DT_F8E4M3,                                       \
      TN_VARIANT_FALLBACK | TN_VARIANT_WIDE_ROWS)                                                  \
    X(linear_fp8_short, TN_OP_LINEAR_FP8, wide, TN_DT_F8E4M3, TN_VARIANT_WIDE_ROWS)                \
    X(linear_int4, TN_OP_LINEAR_INT4, wide, TN_DT_I4, 0)

#define GEMM_QUANT_DECLARE(id, op_name, way, dtype, more)                                          \
    int32_t gemm_##id##_can_run(void *instance, const tn_op *op, tn_err *err);
GEMM_QUANT_OPS(GEMM_QUANT_DECLARE)

#define GEMM_WAY_DECLARE(way)                                                                      \
    double gemm_##way##_cost_ns(void *instance, const tn_op *op, uint32_t rows);                   \
    int32_t gemm_##way##_workspace(void *instance, const tn_op *op, uint32_t max_rows,             \
                                   uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,       \
                                   tn_err *err);                                                   \
    int32_t gemm_##way##_launch(void *instance, const tn_launch *l, tn_err *err);
GEMM_WAY_DECLARE(quant)
GEMM_WAY_DECLARE(wide)

/* X(act, scheme, op, dtype of the matrix): the same that round rows, behind a gate that is computed as they are rounded. For sets
 * whose products have no gates: where some have, they go before. */
#define GATE_QUANT_OPS(X)                                                                          \
    X(silu, int8, TN_OP_LINEAR_INT8, TN_DT_I8)                                                     \
    X(gelu, int8, TN_OP_LINEAR_INT8, TN_DT_I8)                                                     \
    X(gelu_tanh, int8, TN_OP_LINEAR_INT8, TN_DT_I8)                                                \
    X(silu, fp8, TN_OP_LINEAR_FP8, TN_DT_F8E4M3)                                                   \
    X(gelu, fp8, TN_OP_LINEAR_FP8, TN_DT_F8E4M3)                                                   \
    X(gelu_tanh, fp8, TN_OP_LINEAR_FP8, TN_DT_F8E4M3)
int32_t gate_quant_can_run(void *instance, const tn_op *op, tn_err *err);
double gate_quant_cost_ns(void *instance, const tn_op *op, uint32_t rows);

/* linear.fp8 of short rows, which stay as they are, where there is no cuBLASLt or it has nothing for their shape. */
int32_t short_fp8_can_run(void *instance, const tn_op *op, tn_err *err);
double short_fp8_cost_ns(void *instance, const tn_op *op, uint32_t rows);
int32_t short_fp8_launch(void *instance, const tn_launch *l, tn_err *err);

/* linear.int4 for up to 16 rows: the weights are read as they are, by CUDA cores. */
int32_t few_int4_can_run(void *instance, const tn_op *op, tn_err *err);
double few_int4_cost_ns(void *instance, const tn_op *op, uint32_t rows);
int32_t few_int4_launch(void *instance, const tn_launch *l, tn_err *err);

/* What a launch tells the kernels of the cache. */
static inline struct kv_args set_kv(const tn_kv_layer *kv)
{
    return (struct kv_args){.base = kv->base,
                            .k_scale = kv->k_scale,
                            .v_scale = kv->v_scale,
                            .k_center = kv->k_center,
                            .k_feedback = kv->k_feedback_f16,
                            .v_feedback = kv->v_feedback_f16,
                            .block_bytes = kv->block_bytes,
                            .block_tokens = kv->block_tokens,
                            .kv_heads = kv->n_kv_heads,
                            .head_dim = kv->head_dim,
                            .dtype = kv->dtype};
}

#endif
