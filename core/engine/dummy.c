/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/dummy.h"

#include "tenon/float.h"

/* Word k of a counter-based stream (the SplitMix64 finaliser of the counter). */
static uint64_t word(uint64_t seed, uint64_t k)
{
    uint64_t z = seed + (k + 1) * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Element i takes 16 bits of word i / 4. */
static uint16_t noise(uint64_t seed, uint64_t i)
{
    return (uint16_t)(word(seed, i / 4) >> (16 * (i % 4)));
}

static float value_of(uint32_t role, uint16_t r)
{
    float u = ((float)r - 32767.5f) / 32768.0f; /* uniform in (-1, 1): deviation 1 / sqrt 3 */

    switch (role) {
    case TN_ROLE_NORM: return 1.0f;
    case TN_ROLE_BIAS: return 0.01f * u;
    case TN_ROLE_SCALE:
        return 3e-4f + 1e-4f * u;      /* times 8 bits as below: about a matrix's deviation */
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
    case TN_DT_F8E4M3: bytes[i] = tn_f32_to_f8e4m3(f * 3500.0f); break;
    case TN_DT_F8E5M2: bytes[i] = (uint8_t)(tn_f32_to_f16(f * 3500.0f) >> 8); break;
    case TN_DT_I64: ((int64_t *)dst)[i] = (int16_t)r; break;
    case TN_DT_I32: ((int32_t *)dst)[i] = (int16_t)r; break;
    case TN_DT_I4: bytes[i / 2] = (uint8_t)(i % 2 ? bytes[i / 2] | (r & 15) << 4 : r & 15); break;
    default: bytes[i] = (uint8_t)r; break;
    }
}

static void fill_plainly(const struct plan_weight *w, uint64_t seed, uint64_t begin, uint64_t n,
                         void *dst)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t r = noise(seed, begin + i);
        store(w->dtype, dst, i, value_of(w->role, r), r);
    }
}

/* The same for elements of 8 or 16 bits, three times as fast: what the 65,536 numbers become is looked up. begin and n are
 * multiples of 4. */
static void fill_by_table(const struct plan_weight *w, uint64_t seed, uint64_t begin, uint64_t n,
                          void *dst)
{
    uint16_t table[1 << 16];
    uint8_t *bytes = dst, *small = (uint8_t *)table;
    uint16_t *halves = dst;

    for (uint32_t r = 0; r < 1 << 16; r++)
        store(w->dtype, table, r, value_of(w->role, (uint16_t)r), (uint16_t)r);
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t z = word(seed, (begin + i) / 4);
        for (uint32_t j = 0; j < 4; j++, z >>= 16) {
            if (tn_dtype_bits(w->dtype) == 8)
                bytes[i + j] = small[(uint16_t)z];
            else
                halves[i + j] = table[(uint16_t)z];
        }
    }
}

#define TABLE_FROM (1 << 18) /* elements for which making the table pays */

void dummy_fill(const struct plan_weight *w, uint64_t seed, uint64_t begin, uint64_t n, void *dst)
{
    uint32_t bits = tn_dtype_bits(w->dtype);
    uint64_t fast = 0;

    if ((bits == 8 || bits == 16) && begin % 4 == 0 && n >= TABLE_FROM) {
        fast = n / 4 * 4;
        fill_by_table(w, seed, begin, fast, dst);
        dst = (uint8_t *)dst + fast * bits / 8;
    }
    fill_plainly(w, seed, begin + fast, n - fast, dst);
}
