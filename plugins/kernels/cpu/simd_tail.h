/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors at the end of a row, and of any dtype, in terms of simd_avx2.h or simd_avx512.h. */
#ifndef CPU_SIMD_TAIL_H
#define CPU_SIMD_TAIL_H

#include <string.h>

/* The next vector of a row that has `left` > 0 elements left; lanes beyond it are 0. */
static inline vf v_load_some(const float *p, uint64_t left)
{
    return left >= LANES ? v_load(p) : v_load_n(p, left);
}

static inline void v_store_some(float *p, vf a, uint64_t left)
{
    if (left >= LANES)
        v_store(p, a);
    else
        v_store_n(p, a, left);
}

/* Likewise from elements of float8_e4m3 or int8. */
static inline vf v_widen_bytes(const uint8_t *p, uint32_t dtype, uint64_t left)
{
    uint8_t last[LANES] = {0};

    if (left < LANES) {
        memcpy(last, p, left);
        p = last;
    }
    if (dtype == TN_DT_I8)
        return v_load_i8((const int8_t *)p);
    return v_mul(v_set1(256.0f), v_load_f8_nan(p)); /* which loads 1/256 of it */
}

/* Likewise from elements of any float dtype, float8_e4m3 or int8, starting at element `at` of `p`. */
static inline vf v_widen_some(const void *p, uint32_t dtype, uint64_t at, uint64_t left)
{
    const uint16_t *half = (const uint16_t *)p + at;
    uint16_t last[LANES] = {0};

    if (dtype == TN_DT_F32)
        return v_load_some((const float *)p + at, left);
    if (dtype == TN_DT_I8 || dtype == TN_DT_F8E4M3)
        return v_widen_bytes((const uint8_t *)p + at, dtype, left);
    if (left < LANES) {
        memcpy(last, half, left * sizeof *last);
        half = last;
    }
    return dtype == TN_DT_BF16 ? v_load_bf16(half) : v_load_f16(half);
}

static inline void v_narrow_some(void *p, uint32_t dtype, uint64_t at, vf a, uint64_t left)
{
    uint16_t last[LANES], *half = left >= LANES ? (uint16_t *)p + at : last;

    if (dtype == TN_DT_F32) {
        v_store_some((float *)p + at, a, left);
        return;
    }
    if (dtype == TN_DT_BF16)
        v_store_bf16(half, a);
    else
        v_store_f16(half, a);
    if (left < LANES)
        memcpy((uint16_t *)p + at, last, left * sizeof *last);
}

#endif
