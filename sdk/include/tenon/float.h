/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file float.h
 * Conversions between float32 and the narrow formats, exact in widening and round-to-nearest-even
 * in narrowing (IEEE 754-2019, section 4.3.1; OCP 8-bit Floating Point Specification 1.0 for FP8).
 */
#ifndef TENON_FLOAT_H
#define TENON_FLOAT_H

#include <string.h>

#include "abi.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline uint32_t tn_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float tn_bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float tn_bf16_to_f32(uint16_t b)
{
    return tn_bits_f32((uint32_t)b << 16);
}

/** NaN stays NaN (quieted); overflow goes to infinity. */
static inline uint16_t tn_f32_to_bf16(float f)
{
    uint32_t u = tn_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float tn_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exp = (h >> 10) & 0x1fu;
    uint32_t man = h & 0x3ffu;
    if (exp == 0x1f)
        return tn_bits_f32(sign | 0x7f800000u | (man << 13));
    if (exp == 0) {
        float f = (float)man * 5.9604644775390625e-8f; /* 2^-24: exact, subnormals included */
        return sign ? -f : f;
    }
    return tn_bits_f32(sign | ((exp + 112u) << 23) | (man << 13));
}

/** NaN stays NaN; overflow goes to infinity; subnormals are rounded correctly. */
static inline uint16_t tn_f32_to_f16(float f)
{
    uint32_t u = tn_f32_bits(f);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t abs = u & 0x7fffffffu;
    if (abs > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (abs >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (abs < 0x38800000u) { /* below 2^-14: let the adder round at bit 2^-24 */
        float r = tn_bits_f32(abs) + 0.5f;
        return (uint16_t)(sign | (tn_f32_bits(r) - 0x3f000000u));
    }
    abs += 0xfffu + ((abs >> 13) & 1u);
    return (uint16_t)(sign | ((abs - 0x38000000u) >> 13));
}

static inline float tn_f8e4m3_to_f32(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80u) << 24;
    uint32_t exp = (b >> 3) & 0xfu;
    uint32_t man = b & 7u;
    if (exp == 0xf && man == 7)
        return tn_bits_f32(sign | 0x7fc00000u);
    if (exp == 0) {
        float f = (float)man * 0.001953125f; /* 2^-9 */
        return sign ? -f : f;
    }
    return tn_bits_f32(sign | ((exp + 120u) << 23) | (man << 20));
}

/** Saturates to +-448; NaN becomes S.1111.111. */
static inline uint8_t tn_f32_to_f8e4m3(float f)
{
    uint32_t u = tn_f32_bits(f);
    uint32_t sign = (u >> 24) & 0x80u;
    uint32_t abs = u & 0x7fffffffu;
    if (abs > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (abs >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (abs < 0x3c800000u) { /* below 2^-6: round at bit 2^-9 */
        float r = tn_bits_f32(abs) + 16384.0f;
        return (uint8_t)(sign | (tn_f32_bits(r) - 0x46800000u));
    }
    abs += 0x7ffffu + ((abs >> 20) & 1u);
    return (uint8_t)(sign | ((abs - 0x3c000000u) >> 20));
}

/** What a row whose largest magnitude is `largest` (finite, not negative) is divided by before it is rounded to e4m3: the
 *  smallest power of two that is at least largest / 448 and at least 2^-126; 0 if `largest` is 0. */
static inline float tn_f8e4m3_step(float largest)
{
    uint32_t exponent = (tn_f32_bits(largest) + 0x1fffffu) >> 23; /* one more above 1.75 */
    return largest > 0.0f ? tn_bits_f32((exponent > 9 ? exponent - 8 : 1) << 23) : 0.0f;
}

#ifdef __cplusplus
}
#endif
#endif
