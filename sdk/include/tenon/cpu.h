/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cpu.h
 * CPU feature bits, as plugins require them and the host reports them. A bit is reported only if the
 * operating system saves the registers it needs (XCR0), not merely because CPUID shows it.
 */
#ifndef TENON_CPU_H
#define TENON_CPU_H

#include "abi.h"

/** X(name, bit, text). Bits 0-63 are x86-64; they go into word 0 of a feature set. */
#define TN_CPU_LIST(X)                                                                             \
    X(SSE42, 0, "sse4.2")                                                                          \
    X(AVX, 1, "avx")                                                                               \
    X(AVX2, 2, "avx2")                                                                             \
    X(FMA, 3, "fma")                                                                               \
    X(F16C, 4, "f16c")                                                                             \
    X(BMI2, 5, "bmi2")                                                                             \
    X(AVX512F, 6, "avx512f")                                                                       \
    X(AVX512BW, 7, "avx512bw")                                                                     \
    X(AVX512DQ, 8, "avx512dq")                                                                     \
    X(AVX512VL, 9, "avx512vl")                                                                     \
    X(AVX512VNNI, 10, "avx512vnni")                                                                \
    X(AVX512BF16, 11, "avx512bf16")                                                                \
    X(AVX512FP16, 12, "avx512fp16")                                                                \
    X(AVXVNNI, 13, "avxvnni")                                                                      \
    X(AMXTILE, 14, "amx-tile")                                                                     \
    X(AMXBF16, 15, "amx-bf16")                                                                     \
    X(AMXINT8, 16, "amx-int8")

enum tn_cpu_bit {
#define TN_CPU_ENUM(name, bit, text) TN_CPU_BIT_##name = (bit),
    TN_CPU_LIST(TN_CPU_ENUM)
#undef TN_CPU_ENUM
};

#define TN_CPU(name) (UINT64_C(1) << TN_CPU_BIT_##name)

/* The usual bundles. */
#define TN_CPU_X86_AVX2 (TN_CPU(AVX) | TN_CPU(AVX2) | TN_CPU(FMA) | TN_CPU(F16C) | TN_CPU(BMI2))
#define TN_CPU_X86_AVX512                                                                          \
    (TN_CPU_X86_AVX2 | TN_CPU(AVX512F) | TN_CPU(AVX512BW) | TN_CPU(AVX512DQ) | TN_CPU(AVX512VL))

#endif
