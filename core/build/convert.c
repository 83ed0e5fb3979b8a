/* SPDX-License-Identifier: Apache-2.0 */
#include "build/convert.h"

#include <math.h>
#include <string.h>

#include "tenon/dtype.h"
#include "tenon/float.h"

bool convert_known(uint32_t from, uint32_t to)
{
    uint32_t sources =
        TN_DT_BIT(TN_DT_F64) | TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16);
    uint32_t targets = TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16);

    return from < TN_DT_COUNT && to < TN_DT_COUNT && (sources & TN_DT_BIT(from)) &&
           (targets & TN_DT_BIT(to));
}

/* The double rounded to odd: to the float with an odd last bit where it lies between two. Rounding that once more, to a
 * type narrower by two bits or more, gives what rounding the double itself would (Boldo and Melquiond 2008). */
static float to_odd(double d)
{
    float f = (float)d;
    uint32_t bits;

    if ((double)f == d || isnan(d) || isinf(f))
        return f;
    bits = tn_f32_bits(f);
    if (fabs((double)f) > fabs(d))
        bits--; /* towards zero */
    return tn_bits_f32(bits | 1u);
}

/* Element i as a float from which `store` rounds to `to`. */
static float load(const unsigned char *src, uint32_t dtype, uint32_t to, size_t i)
{
    uint16_t h;
    float f;
    double d;

    switch (dtype) {
    case TN_DT_F64: memcpy(&d, src + 8 * i, 8); return to == TN_DT_F32 ? (float)d : to_odd(d);
    case TN_DT_F32: memcpy(&f, src + 4 * i, 4); return f;
    case TN_DT_F16: memcpy(&h, src + 2 * i, 2); return tn_f16_to_f32(h);
    default: memcpy(&h, src + 2 * i, 2); return tn_bf16_to_f32(h);
    }
}

/* Stores and returns what was stored, widened again, to see overflow. */
static float store(unsigned char *dst, uint32_t dtype, size_t i, float f)
{
    uint16_t h;

    switch (dtype) {
    case TN_DT_F32: memcpy(dst + 4 * i, &f, 4); return f;
    case TN_DT_F16:
        h = tn_f32_to_f16(f);
        memcpy(dst + 2 * i, &h, 2);
        return tn_f16_to_f32(h);
    default:
        h = tn_f32_to_bf16(f);
        memcpy(dst + 2 * i, &h, 2);
        return tn_bf16_to_f32(h);
    }
}

static bool source_finite(const unsigned char *src, uint32_t dtype, size_t i)
{
    double d;

    if (dtype != TN_DT_F64)
        return isfinite(load(src, dtype, dtype, i));
    memcpy(&d, src + 8 * i, 8);
    return isfinite(d);
}

size_t convert_elements(const void *src, uint32_t from, void *dst, uint32_t to, size_t n)
{
    size_t first = n;

    if (from == to) {
        memcpy(dst, src, n * tn_dtype_bits(to) / 8);
        return n;
    }
    for (size_t i = 0; i < n; i++)
        if (isinf(store(dst, to, i, load(src, from, to, i))) && first == n &&
            source_finite(src, from, i))
            first = i;
    return first;
}

void transpose_rows(const void *src, void *dst, size_t rows, size_t cols, size_t size, size_t begin,
                    size_t end)
{
    enum { TILE = 32 };
    const unsigned char *s = src;
    unsigned char *d = dst;

    for (size_t c0 = begin; c0 < end; c0 += TILE)
        for (size_t r0 = 0; r0 < rows; r0 += TILE)
            for (size_t c = c0; c < end && c < c0 + TILE; c++)
                for (size_t r = r0; r < rows && r < r0 + TILE; r++)
                    memcpy(d + ((c - begin) * rows + r) * size, s + (r * cols + c) * size, size);
}
