/* SPDX-License-Identifier: Apache-2.0 */
/* Rows inside of experts, beside sums in double: sizes that leave remainders of lanes, and dtypes of engines. */
#include "build/hidden.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "check_util.h"
#include "tenon/dtype.h"
#include "tenon/float.h"

#define MOST_WIDTH 40
#define MOST_INNER 29

static float gate[MOST_INNER * MOST_WIDTH], up[MOST_INNER * MOST_WIDTH];
static uint16_t narrow[MOST_INNER * MOST_WIDTH];
static float x[HIDDEN_ROWS * MOST_WIDTH], out[HIDDEN_ROWS * MOST_INNER];

static void fill(float *to, size_t n, uint64_t seed)
{
    struct rng r = {.state = seed};

    for (size_t i = 0; i < n; i++)
        to[i] = tn_bf16_to_f32(tn_f32_to_bf16(rng_unit(&r) - 0.5f));
}

static double dot(const float *a, const float *b, uint64_t n)
{
    double sum = 0.0;

    for (uint64_t k = 0; k < n; k++)
        sum += (double)a[k] * (double)b[k];
    return sum;
}

static void compare(uint64_t width, uint64_t inner, uint64_t rows)
{
    struct hidden_expert e = {
        narrow, up, TN_DT_BF16, TN_DT_F32, width, inner, hidden_activation("silu")};
    tn_err err = TN_ERR_INIT;

    for (uint64_t i = 0; i < inner * width; i++)
        narrow[i] = tn_f32_to_bf16(gate[i]);
    memset(out, 0xff, sizeof out);
    ck_assert_ok(hidden_rows(&e, x, rows, out, &err), &err);
    for (uint64_t t = 0; t < rows; t++)
        for (uint64_t i = 0; i < inner; i++) {
            double g = dot(gate + i * width, x + t * width, width);
            double want = g / (1.0 + exp(-g)) * dot(up + i * width, x + t * width, width);
            ck_assert_msg(fabs((double)out[t * inner + i] - want) < 1e-5, "row %d, %d: %g not %g",
                          (int)t, (int)i, (double)out[t * inner + i], want);
        }
}

START_TEST(remainders_are_not_left_out)
{
    static const uint64_t sizes[][3] = {{40, 29, 1},  {40, 29, 8},   {40, 24, 9},
                                        {1, 1, 1},    {7, 8, 23},    {33, 9, HIDDEN_ROWS},
                                        {16, 16, 16}, {39, 28, 255}, {8, 3, 100}};

    fill(gate, sizeof gate / sizeof *gate, 1);
    fill(up, sizeof up / sizeof *up, 2);
    fill(x, sizeof x / sizeof *x, 3);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        compare(sizes[i][0], sizes[i][1], sizes[i][2]);
}
END_TEST

START_TEST(activations_are_known_by_their_ops_names)
{
    ck_assert(!hidden_activation("softmax"));
    ck_assert(fabsf(hidden_activation("silu")(1.0f) - 0.73105858f) < 1e-6f);
    ck_assert(fabsf(hidden_activation("gelu")(1.0f) - 0.84134475f) < 1e-6f);
    ck_assert(fabsf(hidden_activation("gelu_tanh")(1.0f) - 0.84119199f) < 1e-6f);
    ck_assert(hidden_activation("relu")(-1.0f) == 0.0f);
    ck_assert(hidden_activation("relu2")(3.0f) == 9.0f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hidden");
    TCase *t = tcase_create("hidden");

    tcase_add_test(t, remainders_are_not_left_out);
    tcase_add_test(t, activations_are_known_by_their_ops_names);
    suite_add_tcase(s, t);
    return run_suite(s);
}
