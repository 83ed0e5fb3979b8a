/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file dtype.h
 * Element types of tensors. Numbers are stored in engine files and never change.
 */
#ifndef TENON_DTYPE_H
#define TENON_DTYPE_H

#include "abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/** X(name, number, bits, text). `text` is the spelling in configs, engines and on command lines. */
#define TN_DTYPE_LIST(X)                                                                           \
    X(F32, 1, 32, "float32")                                                                       \
    X(F16, 2, 16, "float16")                                                                       \
    X(BF16, 3, 16, "bfloat16")                                                                     \
    X(F8E4M3, 4, 8, "float8_e4m3") /* OCP FP8 E4M3 (FN: no infinity, S.1111.111 is NaN) */         \
    X(F8E5M2, 5, 8, "float8_e5m2")                                                                 \
    X(I8, 6, 8, "int8")                                                                            \
    X(U8, 7, 8, "uint8")                                                                           \
    X(I32, 8, 32, "int32")                                                                         \
    X(I64, 9, 64, "int64")                                                                         \
    X(I4, 10, 4, "int4") /* two per byte, first element in the low nibble */                       \
    X(F64, 11, 64, "float64")

enum tn_dtype {
    TN_DT_NONE = 0,
#define TN_DTYPE_ENUM(name, number, bits, text) TN_DT_##name = (number),
    TN_DTYPE_LIST(TN_DTYPE_ENUM)
#undef TN_DTYPE_ENUM
        TN_DT_COUNT = 12
};

/**
 * The dtype of activations in a plan: resolved when the plan is bound to a device, which may
 * compute in another type than the weights are stored in (a CPU computes in float32).
 */
#define TN_DT_ACT 255u

/** The bit of `dtype` in a mask of dtypes. */
#define TN_DT_BIT(dtype) (UINT32_C(1) << (dtype))

/** Bits per element, or 0 for an unknown dtype. */
static inline uint32_t tn_dtype_bits(uint32_t dtype)
{
    switch (dtype) {
#define TN_DTYPE_BITS(name, number, bits, text)                                                    \
    case number: return bits;
        TN_DTYPE_LIST(TN_DTYPE_BITS)
#undef TN_DTYPE_BITS
    default: return 0;
    }
}

/** The spelling of `dtype`: "float32", ...; "act" for ::TN_DT_ACT; "?" if unknown. Static. */
static inline const char *tn_dtype_name(uint32_t dtype)
{
    switch (dtype) {
#define TN_DTYPE_NAME(name, number, bits, text)                                                    \
    case number: return text;
        TN_DTYPE_LIST(TN_DTYPE_NAME)
#undef TN_DTYPE_NAME
    case TN_DT_ACT: return "act";
    default: return "?";
    }
}

#ifdef __cplusplus
}
#endif
#endif
