/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of calibration: percentiles from histograms beside those of sorted numbers, and the file. */
#include "build/calibration.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "check_util.h"

#define CHANNELS 24
#define ROWS 3000

static struct calibration *calibration;
static struct calibration_input *input;
static float *rows; /* [ROWS, CHANNELS] */

static void begin(void)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(calibration_new(&calibration, &err), &err);
    ck_assert_ok(calibration_add(calibration, "x", CHANNELS,
                                 CALIBRATION_SAMPLES | CALIBRATION_HISTOGRAM, 1, &input, &err),
                 &err);
    rows = mem_zarray((size_t)ROWS * CHANNELS, sizeof *rows);
    ck_assert_ptr_nonnull(rows);
}

static void end(void)
{
    calibration_free(calibration);
    mem_free(rows);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Of the numbers themselves. */
static float exact(const float *divide, double part)
{
    size_t n = (size_t)ROWS * CHANNELS;
    float *all = mem_array(n, sizeof *all), v;

    for (size_t i = 0; i < n; i++)
        all[i] = fabsf(rows[i]) / (divide ? divide[i % CHANNELS] : 1.0f);
    qsort(all, n, sizeof *all, ascending);
    v = all[(size_t)((double)(n - 1) * part)];
    mem_free(all);
    return v;
}

static double uniform(struct rng *r)
{
    return ((double)rng_below(r, 1u << 30) + 0.5) / (double)(1u << 30);
}

/* Distributions that activations have: normal, heavy tails, channels that are a hundred times as large, tiny ones, and one whose
 * largest elements come last. */
static float draw(struct rng *r, int kind, size_t t, size_t k)
{
    double u = uniform(r), v = uniform(r), n = sqrt(-2.0 * log(u)) * cos(6.283185307 * v);

    switch (kind) {
    case 0: return (float)n;
    case 1: return (float)(n / sqrt(uniform(r)));
    case 2: return (float)(n * (k % 7 == 3 ? 100.0 : 1.0));
    case 3: return (float)(n * 1e-30);
    default: return (float)(n * exp2((double)t / 100.0));
    }
}

static void fill_rows(int kind)
{
    struct rng r = {.state = 7};

    for (size_t i = 0; i < (size_t)ROWS * CHANNELS; i++)
        rows[i] = draw(&r, kind, i / CHANNELS, i % CHANNELS);
    for (size_t t = 0; t < ROWS; t++)
        ck_assert(calibration_take(input, rows + t * CHANNELS));
}

static void compare(const float *divide, double part)
{
    tn_err err = TN_ERR_INIT;
    float got = 0.0f, want = exact(divide, part);

    ck_assert_ok(histogram_percentile(&input->histogram, divide, part, &got, &err), &err);
    ck_assert_msg(got > want / 1.125f && got < want * 1.125f, "%g instead of %g", (double)got,
                  (double)want);
}

START_TEST(percentiles_are_within_a_bucket_of_the_numbers_own)
{
    float divide[CHANNELS];

    fill_rows(_i);
    for (size_t k = 0; k < CHANNELS; k++)
        divide[k] = exp2f((float)k / 3.0f - 4.0f);
    for (double part = 0.9; part < 0.9999; part = 1.0 - (1.0 - part) / 10.0) {
        compare(NULL, part);
        compare(divide, part);
    }
}
END_TEST

START_TEST(zeros_and_no_data_have_a_percentile_too)
{
    tn_err err = TN_ERR_INIT;
    float got = -1.0f;

    ck_assert_ok(histogram_percentile(&input->histogram, NULL, 0.999, &got, &err), &err);
    ck_assert(got == 0.0f);
    for (size_t t = 0; t < 10; t++)
        ck_assert(calibration_take(input, rows));
    ck_assert_ok(histogram_percentile(&input->histogram, NULL, 0.999, &got, &err), &err);
    ck_assert(got < 1e-30f);
    rows[3] = INFINITY;
    ck_assert(!calibration_take(input, rows));
    ck_assert_uint_eq(input->n_rows, 10);
}
END_TEST

START_TEST(memory_is_that_of_the_channels_however_long_the_data)
{
    ck_assert_uint_eq(calibration_bytes(CHANNELS, 0), CHANNELS * 20);
    ck_assert_uint_eq(calibration_bytes(CHANNELS, CALIBRATION_SAMPLES), CHANNELS * (20 + 256));
    ck_assert_uint_eq(calibration_bytes(CHANNELS, CALIBRATION_SAMPLES | CALIBRATION_HISTOGRAM),
                      CHANNELS * (20 + 256 + 512));
    mem_fail_nth(1, true); /* nothing is allocated from here on */
    fill_rows(4);
    mem_fail_nth(0, false);
    ck_assert_uint_eq(input->n_rows, ROWS);
}
END_TEST

/* Heads of 4 channels, three to a group. */
START_TEST(products_are_those_of_the_heads_of_a_group)
{
    struct calibration_input *in = input;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(calibration_add_products(calibration, in, 2, 4, &err), &err);
    fill_rows(0);
    for (size_t g = 0; g < 2; g++)
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j <= i; j++) {
                double want = 0.0;
                for (size_t t = 0; t < ROWS; t++)
                    for (size_t h = 3 * g; h < 3 * g + 3; h++)
                        want += (double)rows[t * CHANNELS + h * 4 + i] *
                                (double)rows[t * CHANNELS + h * 4 + j];
                ck_assert_double_eq_tol(in->products[(g * 4 + i) * 4 + j], want, 1e-6);
            }
    ck_assert_uint_eq(calibration_products_bytes(2, 4), 2 * 4 * 4 * sizeof(double));
}
END_TEST

/* For the one input there is. */
static int32_t give_hessian(void *arg, size_t i, const struct hessian **out, tn_err *err)
{
    (void)err;
    ck_assert_uint_eq(i, 0);
    *out = arg;
    return TN_OK;
}

START_TEST(what_is_saved_is_what_is_read)
{
    struct calibration *back = NULL;
    struct hessian h, h2;
    struct calibration_input *in;
    tn_err err = TN_ERR_INIT;
    char dir[64], path[128];

    ck_assert_ok(calibration_add_products(calibration, input, 3, 2, &err), &err);
    fill_rows(2);
    ck_assert_ok(hessian_init(&h, CHANNELS, &err), &err);
    ck_assert_ok(hessian_take(&h, rows, 100, &err), &err);
    input->keeps_hessian = true;
    memset(calibration->data_sha256, 'a', SHA256_HEX - 1);
    calibration->n_tokens = ROWS;
    calibration->n_first = 2;
    calibration->first[1] = 77;
    temp_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/stats.safetensors", dir);
    ck_assert_ok(calibration_save(calibration, path, give_hessian, &h, &err), &err);
    ck_assert_ok(calibration_load(path, NULL, &back, &err), &err);
    in = calibration_find(back, "x");
    ck_assert_ptr_nonnull(in);
    ck_assert_uint_eq(back->n_first, 2);
    ck_assert_int_eq(back->first[1], 77);
    ck_assert_uint_eq(in->n_rows, ROWS);
    ck_assert_int_eq(in->histogram.base, input->histogram.base);
    ck_assert_mem_eq(in->histogram.counts, input->histogram.counts,
                     (size_t)CHANNELS * HISTOGRAM_BUCKETS * sizeof(uint32_t));
    ck_assert_mem_eq(in->sample, input->sample,
                     (size_t)CALIBRATION_SAMPLE * CHANNELS * sizeof(float));
    ck_assert_uint_eq(in->n_groups, 3);
    ck_assert_uint_eq(in->dim, 2);
    ck_assert_mem_eq(in->products, input->products, 3 * 2 * 2 * sizeof(double));
    ck_assert_mem_eq(in->absmax, input->absmax, CHANNELS * sizeof(float));
    ck_assert(in->keeps_hessian);
    ck_assert_ok(calibration_read_hessian(back, in, &h2, &err), &err);
    ck_assert_uint_eq(h2.n_rows, 100);
    ck_assert(!h2.finished);
    ck_assert_mem_eq(h2.sum, h.sum, (size_t)hessian_bytes(CHANNELS));
    hessian_release(&h2);
    hessian_release(&h);
    calibration_free(back);
    ck_assert_ok(dir_remove(dir, &err), &err);
}
END_TEST

/* Of rows that come in pieces, with channels that are no multiple of anything. */
START_TEST(hessians_are_means_of_products)
{
    static const uint64_t pieces[] = {1, 300, 7, 256, 36};
    const uint64_t n = 43, n_rows = 600;
    struct hessian h;
    tn_err err = TN_ERR_INIT;
    float divide[43];
    uint64_t at = 0;

    ck_assert_ok(hessian_init(&h, n, &err), &err);
    for (size_t i = 0; i < n_rows * n; i++)
        rows[i] = (float)((int)(i * 7919 % 101) - 50) / 16.0f;
    for (size_t i = 0; i < 5; at += pieces[i++])
        ck_assert_ok(hessian_take(&h, rows + at * n, pieces[i], &err), &err);
    ck_assert_uint_eq(h.n_rows, n_rows);
    for (uint64_t k = 0; k < n; k++)
        divide[k] = exp2f((float)(k % 5) - 2.0f);
    hessian_finish(&h, divide);
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t j = 0; j <= i; j++) {
            double sum = 0.0;
            for (uint64_t t = 0; t < n_rows; t++)
                sum += (double)rows[t * n + i] * (double)rows[t * n + j] / (double)n_rows;
            sum /= (double)divide[i] * (double)divide[j];
            ck_assert_double_eq_tol((double)h.sum[i * (i + 1) / 2 + j], sum, 1e-4);
        }
    hessian_release(&h);
    ck_assert_uint_eq(hessian_bytes(4), 40);
    ck_assert_uint_eq(hessian_bytes(UINT64_C(1) << 40), UINT64_MAX);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_calibration");
    TCase *t = tcase_create("all");

    tcase_add_checked_fixture(t, begin, end);
    tcase_add_loop_test(t, percentiles_are_within_a_bucket_of_the_numbers_own, 0, 5);
    tcase_add_test(t, zeros_and_no_data_have_a_percentile_too);
    tcase_add_test(t, memory_is_that_of_the_channels_however_long_the_data);
    tcase_add_test(t, products_are_those_of_the_heads_of_a_group);
    tcase_add_test(t, what_is_saved_is_what_is_read);
    tcase_add_test(t, hessians_are_means_of_products);
    suite_add_tcase(s, t);
    return run_suite(s);
}
