/* SPDX-License-Identifier: Apache-2.0 */
/* Element types of a checkpoint to those of an engine: exact where widening, rounded once where narrowing. */
#include "build/convert.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "check_util.h"
#include "tenon/dtype.h"
#include "tenon/float.h"

#define N 65536

START_TEST(pairs_that_are_known)
{
    static const uint32_t from[] = {TN_DT_F64, TN_DT_F32, TN_DT_F16, TN_DT_BF16};
    static const uint32_t to[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16};
    int known = 0;

    for (uint32_t a = 0; a < 300; a++)
        for (uint32_t b = 0; b < 300; b++)
            known += convert_known(a, b);
    ck_assert_int_eq(known, 12);
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 3; b++)
            ck_assert(convert_known(from[a], to[b]));
    ck_assert(!convert_known(TN_DT_I8, TN_DT_F32));
    ck_assert(!convert_known(UINT32_MAX, TN_DT_F32));
    ck_assert(!convert_known(TN_DT_F8E4M3, TN_DT_F8E4M3));
}
END_TEST

START_TEST(widening_is_exact_for_every_value)
{
    static uint16_t src[N];
    static float dst[N];

    for (int i = 0; i < N; i++)
        src[i] = (uint16_t)i;
    ck_assert_uint_eq(convert_elements(src, TN_DT_F16, dst, TN_DT_F32, N), N);
    for (int i = 0; i < N; i++)
        if (tn_f32_bits(dst[i]) != tn_f32_bits(tn_f16_to_f32(src[i])))
            ck_abort_msg("float16 0x%04x", i);
    ck_assert_uint_eq(convert_elements(src, TN_DT_BF16, dst, TN_DT_F32, N), N);
    for (int i = 0; i < N; i++)
        if (tn_f32_bits(dst[i]) != (uint32_t)i << 16)
            ck_abort_msg("bfloat16 0x%04x", i);
}
END_TEST

START_TEST(narrowing_agrees_with_the_sdk)
{
    struct rng r = {1};
    static float src[N];
    static uint16_t half[N], brain[N];

    for (int i = 0; i < N; i++)
        src[i] = tn_bits_f32((uint32_t)rng_u64(&r));
    convert_elements(src, TN_DT_F32, half, TN_DT_F16, N);
    convert_elements(src, TN_DT_F32, brain, TN_DT_BF16, N);
    for (int i = 0; i < N; i++)
        if (half[i] != tn_f32_to_f16(src[i]) || brain[i] != tn_f32_to_bf16(src[i]))
            ck_abort_msg("float32 0x%08x", tn_f32_bits(src[i]));
}
END_TEST

static float widen(uint32_t dtype, uint16_t h)
{
    return dtype == TN_DT_F16 ? tn_f16_to_f32(h) : tn_bf16_to_f32(h);
}

/* The value of `dtype` nearest to d, ties to even, found by looking at the neighbours. */
static uint16_t nearest(uint32_t dtype, double d, uint16_t guess)
{
    uint16_t best = guess;

    for (int k = -1; k <= 1; k++) {
        uint16_t h = (uint16_t)(guess + k);
        double off = fabs(widen(dtype, h) - d), least = fabs(widen(dtype, best) - d);
        if (off < least || (off == least && !(h & 1)))
            best = h;
    }
    return best;
}

START_TEST(doubles_are_rounded_once)
{
    static const uint32_t types[] = {TN_DT_F16, TN_DT_BF16};
    struct rng r = {2};

    for (int t = 0; t < 2; t++)
        for (int i = 0; i < 200000; i++) {
            /* Near the middle of two neighbours, off by less than half a float. */
            uint16_t h = (uint16_t)(0x1000 + rng_below(&r, 0x5000)), got;
            double low = widen(types[t], h), high = widen(types[t], (uint16_t)(h + 1));
            double d = (low + high) / 2 * (1.0 + ((double)rng_below(&r, 5) - 2) * 0x1p-40);
            ck_assert_uint_eq(convert_elements(&d, TN_DT_F64, &got, types[t], 1), 1);
            if (got != nearest(types[t], d, h))
                ck_abort_msg("%a became 0x%04x", d, got);
        }
}
END_TEST

START_TEST(tiny_doubles_are_rounded_once)
{
    uint16_t got;
    double d = 0x1.8p-24 + 0x1p-70; /* just above the middle of 1 and 2 units of float16 */

    convert_elements(&d, TN_DT_F64, &got, TN_DT_F16, 1);
    ck_assert_uint_eq(got, 2);
    d = 0x1p-25 + 0x1p-70;
    convert_elements(&d, TN_DT_F64, &got, TN_DT_F16, 1);
    ck_assert_uint_eq(got, 1);
    d = -0x1p-25;
    convert_elements(&d, TN_DT_F64, &got, TN_DT_F16, 1);
    ck_assert_uint_eq(got, 0x8000);
    d = 0x1p-200; /* below every float: still not rounded up */
    convert_elements(&d, TN_DT_F64, &got, TN_DT_F16, 1);
    ck_assert_uint_eq(got, 0);
}
END_TEST

START_TEST(finite_values_that_overflow_are_reported)
{
    static const float big[] = {1.0f, 65504.0f, 65519.0f, 65520.0f, 7.0f};
    static const float infinite[] = {INFINITY, -INFINITY, NAN};
    double huge[] = {1e300, 3.5e38, 3.4e38, -1e39};
    uint16_t h[5];
    float f[4];

    ck_assert_uint_eq(convert_elements(big, TN_DT_F32, h, TN_DT_F16, 5), 3);
    ck_assert_uint_eq(convert_elements(big, TN_DT_F32, h, TN_DT_F16, 3), 3);
    ck_assert_uint_eq(convert_elements(big, TN_DT_F32, h, TN_DT_BF16, 5), 5);
    ck_assert_uint_eq(convert_elements(infinite, TN_DT_F32, h, TN_DT_F16, 3), 3);
    ck_assert_uint_eq(h[0], 0x7c00);
    ck_assert_uint_eq(h[1], 0xfc00);
    ck_assert(isnan(tn_f16_to_f32(h[2])));
    ck_assert_uint_eq(convert_elements(huge, TN_DT_F64, f, TN_DT_F32, 4), 0);
    ck_assert_uint_eq(convert_elements(huge + 2, TN_DT_F64, f, TN_DT_F32, 1), 1);
    ck_assert_uint_eq(convert_elements(huge + 3, TN_DT_F64, h, TN_DT_BF16, 1), 0);
}
END_TEST

START_TEST(equal_types_are_copied_bit_by_bit)
{
    static const uint32_t odd[] = {0x7fc00001, 0x7f800001, 0xffffffff, 0x80000000, 1};
    uint32_t out[5];

    ck_assert_uint_eq(convert_elements(odd, TN_DT_F32, out, TN_DT_F32, 5), 5);
    ck_assert_mem_eq(odd, out, sizeof odd);
}
END_TEST

START_TEST(transposing_in_blocks_equals_transposing_at_once)
{
    enum { ROWS = 37, COLS = 71 };
    static uint16_t src[ROWS][COLS], block[COLS * ROWS];

    for (int i = 0; i < ROWS * COLS; i++)
        src[i / COLS][i % COLS] = (uint16_t)i;
    for (size_t begin = 0; begin < COLS; begin += 9)
        for (size_t end = begin; end <= COLS; end += 11) {
            memset(block, 0xff, sizeof block);
            transpose_rows(src, block, ROWS, COLS, 2, begin, end);
            for (size_t c = begin; c < end; c++)
                for (size_t r = 0; r < ROWS; r++)
                    if (block[(c - begin) * ROWS + r] != src[r][c])
                        ck_abort_msg("row %zu, column %zu", r, c);
            ck_assert(end - begin == COLS || block[(end - begin) * ROWS] == 0xffff);
        }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_convert");
    TCase *t = tcase_create("convert");

    tcase_add_test(t, pairs_that_are_known);
    tcase_add_test(t, widening_is_exact_for_every_value);
    tcase_add_test(t, narrowing_agrees_with_the_sdk);
    tcase_add_test(t, doubles_are_rounded_once);
    tcase_add_test(t, tiny_doubles_are_rounded_once);
    tcase_add_test(t, finite_values_that_overflow_are_reported);
    tcase_add_test(t, equal_types_are_copied_bit_by_bit);
    tcase_add_test(t, transposing_in_blocks_equals_transposing_at_once);
    suite_add_tcase(s, t);
    return run_suite(s);
}
