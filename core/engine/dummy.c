/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/dummy.h"

#include "tenon/float.h"
#include "tenon/noise.h"

/* Stores element i; of int4, whose pairs share a byte, the even one clears the byte. */
static void store(uint32_t dtype, void *dst, uint64_t i, float f, uint16_t r)
{
    uint8_t *bytes = dst;

    switch (dtype) {
    case TN_DT_F64: ((double *)dst)[i] = (double)f; break;
    case TN_DT_F32: ((float *)dst)[i] = f; break;
    case TN_DT_F16: ((uint16_t *)dst)[i] = tn_f32_to_f16(f); break;
    case TN_DT_BF16: ((uint16_t *)dst)[i] = tn_f32_to_bf16(f); break;
    case TN_DT_F8E4M3: bytes[i] = tn_f32_to_f8e4m3(f * TN_NOISE_FP8); break;
    case TN_DT_F8E5M2: bytes[i] = (uint8_t)(tn_f32_to_f16(f * TN_NOISE_FP8) >> 8); break;
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
        uint16_t r = tn_noise_bits(seed, begin + i);
        store(w->dtype, dst, i, tn_noise_value(w->role, r), r);
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
        store(w->dtype, table, r, tn_noise_value(w->role, (uint16_t)r), (uint16_t)r);
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t z = tn_noise_word(seed, (begin + i) / 4);
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
