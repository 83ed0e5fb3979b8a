/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file noise.h
 * Dummy weights (`tenon build --load-format dummy`): numbers that are the same on every machine, and never zeros, which run
 * faster than real data on some hardware. Element i of a weight hangs on its seed, its role and i alone, so that any part
 * of it can be made anywhere; the op `dummy` (ops.h) makes them on a device.
 */
#ifndef TENON_NOISE_H
#define TENON_NOISE_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/** How the functions are declared; code for a device may define it before. */
#ifndef TN_NOISE_FUNCTION
#define TN_NOISE_FUNCTION static inline
#endif

/** Word k of a counter-based stream (the SplitMix64 finaliser of the counter): elements 4k to 4k + 3, low bits first. */
TN_NOISE_FUNCTION uint64_t tn_noise_word(uint64_t seed, uint64_t k)
{
    uint64_t z = seed + (k + 1) * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/** The 16 random bits of element i. */
TN_NOISE_FUNCTION uint16_t tn_noise_bits(uint64_t seed, uint64_t i)
{
    return (uint16_t)(tn_noise_word(seed, i / 4) >> (16 * (i % 4)));
}

/** Weights in FP8 are the numbers of float weights times this. */
#define TN_NOISE_FP8 3500.0f

/** The number of a float weight of that ::tn_role with those bits: matrices get a standard deviation of 0.02, norms 1, biases a
 *  little noise. Integers are the bits themselves. */
TN_NOISE_FUNCTION float tn_noise_value(uint32_t role, uint16_t bits)
{
    float u = ((float)bits - 32767.5f) / 32768.0f; /* uniform in (-1, 1): deviation 1 / sqrt 3 */

    switch (role) {
    case TN_ROLE_NORM: return 1.0f;
    case TN_ROLE_BIAS: return 0.01f * u;
    case TN_ROLE_SCALE: /* times 8 bits, as above: about a matrix's deviation. In double: contracted or not, it rounds alike */
        return (float)(3e-4 + 1e-4 * (double)u);
    default: return 0.0346410161f * u; /* 0.02 * sqrt 3 */
    }
}

#ifdef __cplusplus
}
#endif

#endif
