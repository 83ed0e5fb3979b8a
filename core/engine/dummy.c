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
    default: return 0.0346410161f * u; /* 0.02 * sqrt 3 */
    }
}

void dummy_fill(const struct plan_weight *w, uint64_t seed, uint64_t begin, uint64_t n, void *dst)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t r = noise(seed, begin + i);
        float f = value_of(w->role, r);
        switch (w->dtype) {
        case TN_DT_F32: ((float *)dst)[i] = f; break;
        case TN_DT_F16: ((uint16_t *)dst)[i] = tn_f32_to_f16(f); break;
        case TN_DT_BF16: ((uint16_t *)dst)[i] = tn_f32_to_bf16(f); break;
        case TN_DT_F8E4M3: ((uint8_t *)dst)[i] = tn_f32_to_f8e4m3(f * 1000.0f); break;
        default: ((uint8_t *)dst)[i] = (uint8_t)r; break;
        }
    }
}
