/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over ranks, block by block: a block of float32 stays in the first-level cache while the sources pass by. Pure;
 * any thread. */
#include "sum.h"

#include <string.h>

#include "tenon/float.h"

#define BLOCK 1024

static void widen(float *x, const void *src, uint64_t first, uint32_t n, uint32_t dtype)
{
    const uint16_t *half = (const uint16_t *)src + first;

    for (uint32_t i = 0; i < n; i++)
        x[i] = dtype == TN_DT_F16 ? tn_f16_to_f32(half[i]) : tn_bf16_to_f32(half[i]);
}

static void add_half(float *acc, const void *src, uint64_t first, uint32_t n, uint32_t dtype)
{
    float x[BLOCK];

    widen(x, src, first, n, dtype);
    for (uint32_t i = 0; i < n; i++)
        acc[i] += x[i];
}

static void sum_half(void *dst, const void *const *src, uint32_t ranks, uint64_t first, uint32_t n,
                     uint32_t dtype)
{
    uint16_t *out = (uint16_t *)dst + first;
    float acc[BLOCK];

    widen(acc, src[0], first, n, dtype);
    for (uint32_t r = 1; r < ranks; r++)
        add_half(acc, src[r], first, n, dtype);
    for (uint32_t i = 0; i < n; i++)
        out[i] = dtype == TN_DT_F16 ? tn_f32_to_f16(acc[i]) : tn_f32_to_bf16(acc[i]);
}

static void sum_float(float *dst, const void *const *src, uint32_t ranks, uint64_t first,
                      uint32_t n)
{
    float acc[BLOCK];

    memcpy(acc, (const float *)src[0] + first, n * sizeof *acc);
    for (uint32_t r = 1; r < ranks; r++) {
        const float *x = (const float *)src[r] + first;
        for (uint32_t i = 0; i < n; i++)
            acc[i] += x[i];
    }
    memcpy(dst + first, acc, n * sizeof *acc);
}

/* Wraps around, as unsigned numbers do. */
static void sum_int(uint32_t *dst, const void *const *src, uint32_t ranks, uint64_t first,
                    uint32_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        uint32_t acc = 0;
        for (uint32_t r = 0; r < ranks; r++)
            acc += ((const uint32_t *)src[r])[i];
        dst[i] = acc;
    }
}

void comm_sum(void *dst, const void *const *src, uint32_t n, uint64_t count, uint32_t dtype)
{
    for (uint64_t first = 0; first < count; first += BLOCK) {
        uint32_t some = count - first < BLOCK ? (uint32_t)(count - first) : BLOCK;
        if (dtype == TN_DT_F32)
            sum_float(dst, src, n, first, some);
        else if (dtype == TN_DT_I32)
            sum_int(dst, src, n, first, some);
        else
            sum_half(dst, src, n, first, some, dtype);
    }
}
