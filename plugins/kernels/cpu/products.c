/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The variants that are matrix products. Any thread.
 *
 * The functions of a tn_variant are not told which variant they are called for, so each pair of kernel and form
 * gets its own: they only add the pair's constants to a call of linear.h.
 */
#include "products.h"

/* Of each kernel: CPU features, dtype of the weights, packed layout ("k2x32": 2 consecutive k of each of 32
 * columns lie together), and the end of its variants' names. */
#define NEEDS_bf16_avx512bf16 (TN_CPU_X86_AVX512 | TN_CPU(AVX512BF16))
#define DTYPE_bf16_avx512bf16 TN_DT_BF16
#define LAYOUT_bf16_avx512bf16 "bf16.k2x32"
#define NAME_bf16_avx512bf16 ".bf16.avx512bf16"

#define NEEDS_f32_avx512 TN_CPU_X86_AVX512
#define DTYPE_f32_avx512 TN_DT_F32
#define LAYOUT_f32_avx512 "f32.k1x32"
#define NAME_f32_avx512 ".f32.avx512"

#define NEEDS_f16_avx512 TN_CPU_X86_AVX512
#define DTYPE_f16_avx512 TN_DT_F16
#define LAYOUT_f16_avx512 "f16.k1x32"
#define NAME_f16_avx512 ".f16.avx512"

#define NEEDS_bf16_avx512 TN_CPU_X86_AVX512
#define DTYPE_bf16_avx512 TN_DT_BF16
#define LAYOUT_bf16_avx512 "bf16.k1x32"
#define NAME_bf16_avx512 ".bf16.avx512"

#define NEEDS_i8_avx512vnni (TN_CPU_X86_AVX512 | TN_CPU(AVX512VNNI))
#define DTYPE_i8_avx512vnni TN_DT_I8
#define LAYOUT_i8_avx512vnni "i8u.k4x32"
#define NAME_i8_avx512vnni ".i8.avx512vnni"

#define NEEDS_f8_avx512 TN_CPU_X86_AVX512
#define DTYPE_f8_avx512 TN_DT_F8E4M3
#define LAYOUT_f8_avx512 "f8.k1x32"
#define NAME_f8_avx512 ".f8.avx512"

#define NEEDS_f8_avx2 TN_CPU_X86_AVX2
#define DTYPE_f8_avx2 TN_DT_F8E4M3
#define LAYOUT_f8_avx2 "f8.k1x16"
#define NAME_f8_avx2 ".f8.avx2"

#define NEEDS_f32_avx2 TN_CPU_X86_AVX2
#define DTYPE_f32_avx2 TN_DT_F32
#define LAYOUT_f32_avx2 "f32.k1x16"
#define NAME_f32_avx2 ".f32.avx2"

#define NEEDS_f16_avx2 TN_CPU_X86_AVX2
#define DTYPE_f16_avx2 TN_DT_F16
#define LAYOUT_f16_avx2 "f16.k1x16"
#define NAME_f16_avx2 ".f16.avx2"

#define NEEDS_bf16_avx2 TN_CPU_X86_AVX2
#define DTYPE_bf16_avx2 TN_DT_BF16
#define LAYOUT_bf16_avx2 "bf16.k1x16"
#define NAME_bf16_avx2 ".bf16.avx2"

#define NEEDS_i8_avxvnni (TN_CPU_X86_AVX2 | TN_CPU(AVXVNNI))
#define DTYPE_i8_avxvnni TN_DT_I8
#define LAYOUT_i8_avxvnni "i8u.k4x16"
#define NAME_i8_avxvnni ".i8.avxvnni"

#define NEEDS_i8_avx2 TN_CPU_X86_AVX2
#define DTYPE_i8_avx2 TN_DT_I8
#define LAYOUT_i8_avx2 "i8s.k4x16"
#define NAME_i8_avx2 ".i8.avx2"

#define NEEDS_i4_avx512vnni (TN_CPU_X86_AVX512 | TN_CPU(AVX512VNNI))
#define DTYPE_i4_avx512vnni TN_DT_I4
#define LAYOUT_i4_avx512vnni "i4.k4x32"
#define NAME_i4_avx512vnni ".i4.avx512vnni"

#define NEEDS_i4_avx512 TN_CPU_X86_AVX512
#define DTYPE_i4_avx512 TN_DT_I4
#define LAYOUT_i4_avx512 "i4.k4x32"
#define NAME_i4_avx512 ".i4.avx512"

#define NEEDS_i4_avxvnni (TN_CPU_X86_AVX2 | TN_CPU(AVXVNNI))
#define DTYPE_i4_avxvnni TN_DT_I4
#define LAYOUT_i4_avxvnni "i4.k4x16"
#define NAME_i4_avxvnni ".i4.avxvnni"

#define NEEDS_i4_avx2 TN_CPU_X86_AVX2
#define DTYPE_i4_avx2 TN_DT_I4
#define LAYOUT_i4_avx2 "i4.k4x16"
#define NAME_i4_avx2 ".i4.avx2"

#define DEFINE(kernel, form, id, op_name, composition)                                             \
    static int32_t can_run_##id##_##kernel(void *instance, const tn_op *op, tn_err *err)           \
    {                                                                                              \
        (void)instance;                                                                            \
        return linear_can_run(op, form, &gemm_##kernel, err);                                      \
    }                                                                                              \
    static double cost_ns_##id##_##kernel(void *instance, const tn_op *op, uint32_t rows)          \
    {                                                                                              \
        return linear_cost_ns(instance, op, form, &gemm_##kernel, rows);                           \
    }                                                                                              \
    static int32_t pack_size_##id##_##kernel(void *instance, const tn_op *op, uint64_t *bytes,     \
                                             tn_err *err)                                          \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)err;                                                                                 \
        *bytes = linear_pack_size(op, form, &gemm_##kernel);                                       \
        return TN_OK;                                                                              \
    }                                                                                              \
    static int32_t pack_##id##_##kernel(void *instance, const tn_op *op, void *packed,             \
                                        tn_stream *stream, tn_err *err)                            \
    {                                                                                              \
        (void)stream;                                                                              \
        (void)err;                                                                                 \
        linear_pack(instance, op, form, &gemm_##kernel, packed);                                   \
        return TN_OK;                                                                              \
    }                                                                                              \
    static int32_t workspace_##id##_##kernel(void *instance, const tn_op *op, uint32_t max_rows,   \
                                             uint32_t max_seqs, uint32_t max_context,              \
                                             uint64_t *bytes, tn_err *err)                         \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)max_seqs;                                                                            \
        (void)max_context;                                                                         \
        (void)err;                                                                                 \
        *bytes = linear_workspace(op, &gemm_##kernel, max_rows);                                   \
        return TN_OK;                                                                              \
    }                                                                                              \
    static int32_t launch_##id##_##kernel(void *instance, const tn_launch *l, tn_err *err)         \
    {                                                                                              \
        (void)err;                                                                                 \
        linear_launch(instance, l, form, &gemm_##kernel);                                          \
        return TN_OK;                                                                              \
    }                                                                                              \
    const tn_variant product_##id##_##kernel = {                                                   \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id NAME_##kernel,                                                                 \
        .op = op_name,                                                                             \
        .equals = composition,                                                                     \
        .flags =                                                                                   \
            TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT |                                \
            (DTYPE_##kernel == TN_DT_F8E4M3 ? TN_VARIANT_FALLBACK | TN_VARIANT_WIDE_ROWS : 0),     \
        .act_dtypes = TN_DT_BIT(TN_DT_F32),                                                        \
        .weight_dtypes = TN_DT_BIT(DTYPE_##kernel),                                                \
        .cpu = {NEEDS_##kernel, 0},                                                                \
        .pack_layout = LAYOUT_##kernel,                                                            \
        .can_run = can_run_##id##_##kernel,                                                        \
        .cost_ns = cost_ns_##id##_##kernel,                                                        \
        .pack_size = pack_size_##id##_##kernel,                                                    \
        .pack = pack_##id##_##kernel,                                                              \
        .workspace = workspace_##id##_##kernel,                                                    \
        .launch = launch_##id##_##kernel,                                                          \
    };
PRODUCTS(DEFINE)
