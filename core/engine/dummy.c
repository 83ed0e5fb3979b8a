/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/dummy.h"

#include "tenon/float.h"

/* Element i takes 16 bits of word i / 4 of a counter-based stream (the SplitMix64 finaliser of the counter). */
static uint16_t noise(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i / 4 + 1) * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (uint16_t)(z >> (16 * (i % 4)));
}

static float value_of(uint32_t role, uint16_t r)
{
    float u = ((float)r - 32767.5f) / 32768.0f; /* uniform in (-1, 1): deviation 1 / sqrt 3 */

    switch (role) {
    case TN_ROLE_NORM: return 1.0f;
    case TN_ROLE_BIAS: return 0.01f * u;
    case TN_ROLE_SCALE:
        return 3e-4f + 1e-4f * u;      /* times 8 random bits: about a matrix's deviation */
    default: return 0.0346410161f * u; /* 0.02 * sqrt 3 */
    }
}

/* Stores element i; of int4, whose pairs share a byte, the even one clears the byte. */
static void store(uint32_t dtype, void *dst, uint64_t i, float f, uint16_t r)
{
    uint8_t *bytes = dst;

    switch (dtype) {
    case TN_DT_F64: ((double *)dst)[i] = (double)f; break;
    case TN_DT_F32: ((float *)dst)[i] = f; break;
    case TN_DT_F16: ((uint16_t *)dst)[i] = tn_f32_to_f16(f); break;
    case TN_DT_BF16: ((uint16_t *)dst)[i] = tn_f32_to_bf16(f); break;
    case TN_DT_F8E4M3: bytes[i] = tn_f32_to_f8e4m3(f * 1000.0f); break;
    case TN_DT_F8E5M2: bytes[i] = (uint8_t)(tn_f32_to_f16(f * 1000.0f) >> 8); break;
    case TN_DT_I64: ((int64_t *)dst)[i] = (int16_t)r; break;
    case TN_DT_I32: ((int32_t *)dst)[i] = (int16_t)r; break;
    case TN_DT_I4: bytes[i / 2] = (uint8_t)(i % 2 ? bytes[i / 2] | (r & 15) << 4 : r & 15); break;
    default: bytes[i] = (uint8_t)r; break;
    }
}

void dummy_fill(const struct plan_weight *w, uint64_t seed, uint64_t begin, uint64_t n, void *dst)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t r = noise(seed, begin + i);
        store(w->dtype, dst, i, value_of(w->role, r), r);
    }
}
