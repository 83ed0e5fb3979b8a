/* SPDX-License-Identifier: Apache-2.0 */
/* The plugins int4_g128 and fp8 given Hessians: what error feedback must win, the paper's own procedure beside it, and Hessians of which no
 * factor can be made. */
#include <math.h>
#include <stdbool.h>

#include "base/mem.h"
#include "base/rng.h"
#include "check_util.h"
#include "plugin/registry.h"
#include "tenon/float.h"
#include "tenon/quant.h"

#define MAX_ROWS 24
#define MAX_COLS 192

static struct registry *registry;
static const struct registry_view *view;
static const tn_quant_scheme *scheme;
static void *instance;

static float w[MAX_ROWS * MAX_COLS], made[MAX_ROWS * MAX_COLS];
static float scale[MAX_ROWS * MAX_COLS / 16];
static int8_t zero[MAX_ROWS * MAX_COLS / 16];
static uint8_t codes[MAX_ROWS * MAX_COLS / 2];
static double hessian[MAX_COLS * MAX_COLS];
static const char *op_name = "linear";
static uint64_t seen_rows = 100;
static float packed[MAX_COLS * (MAX_COLS + 1) / 2], moment[MAX_COLS];

static void set_up(void)
{
    const char *paths[] = {BUILD_DIR "/lib/tenon/plugins"};
    struct registry_options o = {.paths = paths, .n_paths = 1};
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(registry_open(&o, &registry, &err), &err);
    view = registry_acquire(registry);
    ck_assert_ok(registry_quant(view, "int4_g128", &scheme, &instance, &err), &err);
}

static void tear_down(void)
{
    registry_release(view);
    registry_close(registry);
}

static float normal(struct rng *r)
{
    float sum = -6.0f;

    for (int i = 0; i < 12; i++)
        sum += rng_unit(r);
    return sum;
}

/* Weights, and the Hessian of `n` inputs that have much in common; channel 5 and 9 are always 0. */
static void fill(uint64_t rows, uint64_t cols, uint64_t n)
{
    static float mix[MAX_COLS * 12];
    struct rng r = {.state = 11};

    memset(hessian, 0, sizeof hessian);
    for (uint64_t i = 0; i < rows * cols; i++)
        w[i] = normal(&r);
    for (uint64_t i = 0; i < cols * 12; i++)
        mix[i] = normal(&r) * (i / 12 % 7 == 2 ? 6.0f : 1.0f);
    for (uint64_t t = 0; t < n; t++) {
        float latent[12], x[MAX_COLS];
        for (int i = 0; i < 12; i++)
            latent[i] = normal(&r);
        for (uint64_t k = 0; k < cols; k++) {
            x[k] = normal(&r);
            for (int i = 0; i < 12; i++)
                x[k] += mix[k * 12 + (uint64_t)i] * latent[i];
            x[k] = k == 5 || k == 9 ? 0.0f : x[k];
        }
        for (uint64_t i = 0; i < cols * cols; i++)
            hessian[i] += (double)x[i / cols] * (double)x[i % cols] / (double)n;
    }
}

static void pack(uint64_t cols)
{
    for (uint64_t i = 0; i < cols; i++) {
        for (uint64_t j = 0; j <= i; j++)
            packed[i * (i + 1) / 2 + j] = (float)hessian[i * cols + j];
        moment[i] = fabsf((float)hessian[i * cols + i]);
    }
}

static int code_at(uint64_t i)
{
    int code = codes[i / 2] >> (i % 2 * 4) & 15;

    return code > 7 ? code - 16 : code;
}

/* Quantizes w to `made`; with the Hessian or the second moments alone. Returns the length of a group. */
static uint64_t quantize(uint64_t rows, uint64_t cols, const char *zeros, bool feedback)
{
    const tn_weight weight = {
        .h = TN_HDR(tn_weight), .name = "w", .dtype = TN_DT_F32, .n_dims = 2, .dims = {rows, cols}};
    const tn_weight *const weights[] = {&weight};
    const tn_op op = {.h = TN_HDR(tn_op), .name = op_name, .n_weights = 1, .weights = weights};
    const tn_kv options[] = {{"zero", zeros}};
    tn_quant_stats stats = {.h = TN_HDR(tn_quant_stats),
                            .n_channels = cols,
                            .n_rows = 100,
                            .second_moment = moment,
                            .hessian = feedback ? packed : NULL,
                            .n_hessian_rows = feedback ? seen_rows : 0};
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    void *const out[] = {codes, scale, zero};
    uint32_t needs = scheme->needs;
    tn_err err = TN_ERR_INIT;
    void *build;

    pack(cols);
    memset(codes, 0, sizeof codes);
    memset(zero, 0, sizeof zero);
    ck_assert_ok(scheme->open(instance, options, 1, &build, &needs, &err), &err);
    ck_assert(needs & TN_QUANT_HESSIAN);
    ck_assert_ok(scheme->plan(build, &op, &stats, &plan, &err), &err);
    ck_assert_ok(scheme->quantize(build, &op, &stats, w, out, &err), &err);
    scheme->close(instance, build);
    for (uint64_t i = 0; i < rows * cols; i++) {
        uint64_t g = i / plan.tensors[1].group;
        ck_assert(isfinite(scale[g]));
        made[i] = scale[g] * (float)(code_at(i) - zero[g]);
    }
    return plan.tensors[1].group;
}

/* The squared error of an output. */
static double row_loss(uint64_t r, uint64_t cols)
{
    double sum = 0.0;

    for (uint64_t i = 0; i < cols; i++)
        for (uint64_t j = 0; j < cols; j++)
            sum += ((double)w[r * cols + i] - (double)made[r * cols + i]) * hessian[i * cols + j] *
                   ((double)w[r * cols + j] - (double)made[r * cols + j]);
    return sum;
}

static double loss(uint64_t rows, uint64_t cols)
{
    double sum = 0.0;

    for (uint64_t r = 0; r < rows; r++)
        sum += row_loss(r, cols);
    return sum;
}

static const char *const switches[] = {"off", "on"};

START_TEST(feedback_lowers_the_error_of_outputs)
{
    static const uint64_t shapes[][2] = {{11, 192}, {13, 80}, {5, 32}, {8, 128}};
    uint64_t rows = shapes[_i / 2][0], cols = shapes[_i / 2][1];
    double nearest, feedback;

    fill(rows, cols, 240);
    quantize(rows, cols, switches[_i % 2], false);
    nearest = loss(rows, cols);
    quantize(rows, cols, switches[_i % 2], true);
    feedback = loss(rows, cols);
    ck_assert_msg(feedback < 0.8 * nearest, "%g after %g", feedback, nearest);
}
END_TEST

/* Of an expert: of one row, as without it; of many, as of any linear. */
START_TEST(hessians_of_experts_count_as_far_as_they_have_rows)
{
    static float plain[MAX_ROWS * MAX_COLS];
    const uint64_t rows = 16, cols = 128;
    double nearest;
    size_t apart = 0;

    fill(rows, cols, 240);
    quantize(rows, cols, "on", false);
    nearest = loss(rows, cols);
    memcpy(plain, made, sizeof plain);
    op_name = "moe_mlp";
    seen_rows = 1;
    quantize(rows, cols, "on", true);
    for (size_t i = 0; i < rows * cols; i++)
        apart += made[i] != plain[i];
    seen_rows = 4000 * cols;
    quantize(rows, cols, "on", true);
    op_name = "linear";
    seen_rows = 100;
    ck_assert_uint_le(apart, rows * cols / 50);
    ck_assert_double_lt(loss(rows, cols), 0.8 * nearest);
}
END_TEST

/* -- FP8 ---------------------------------------------------------------------------------------------------- */

static void quantize_fp8(uint64_t rows, uint64_t cols, const char *feedback, uint64_t n_rows)
{
    static uint8_t bytes[MAX_ROWS * MAX_COLS];
    const tn_weight weight = {
        .h = TN_HDR(tn_weight), .name = "w", .dtype = TN_DT_F32, .n_dims = 2, .dims = {rows, cols}};
    const tn_weight *const weights[] = {&weight};
    const tn_op op = {.h = TN_HDR(tn_op), .name = "linear", .n_weights = 1, .weights = weights};
    const tn_kv options[] = {{"feedback", feedback}};
    tn_quant_stats stats = {.h = TN_HDR(tn_quant_stats),
                            .n_channels = cols,
                            .n_rows = 100,
                            .absmax = 3.0f,
                            .hessian = packed,
                            .n_hessian_rows = n_rows};
    void *const out[] = {bytes, scale};
    const tn_quant_scheme *fp8;
    tn_err err = TN_ERR_INIT;
    void *build, *own;
    uint32_t needs;

    pack(cols);
    memset(bytes, 0, sizeof bytes);
    ck_assert_ok(registry_quant(view, "fp8", &fp8, &own, &err), &err);
    needs = fp8->needs;
    ck_assert_ok(fp8->open(own, options, 1, &build, &needs, &err), &err);
    ck_assert_int_eq((needs & TN_QUANT_HESSIAN) != 0, strcmp(feedback, "on") == 0);
    ck_assert_ok(fp8->quantize(build, &op, &stats, w, out, &err), &err);
    fp8->close(own, build);
    for (uint64_t i = 0; i < rows * cols; i++)
        made[i] = scale[i / cols] * tn_f8e4m3_to_f32(bytes[i]);
}

static double difference(uint64_t rows, uint64_t cols)
{
    double sum = 0.0;

    for (uint64_t i = 0; i < rows * cols; i++)
        sum += ((double)w[i] - (double)made[i]) * ((double)w[i] - (double)made[i]);
    return sum;
}

/* Narrow rows have the scale of eight with which feedback misses least: rows of the same numbers, all of them a little larger, which
 * a scale would follow, lose alike much if the plain scale is taken, and a sixth less by the best. */
START_TEST(narrow_rows_of_fp8_take_the_best_scale)
{
    const uint64_t rows = 16, cols = 96;
    double worst = 0.0, best = INFINITY;

    fill(rows, cols, 400);
    for (uint64_t i = cols; i < rows * cols; i++)
        w[i] = w[i % cols] * exp2f((float)(i / cols) / 16.0f);
    quantize_fp8(rows, cols, "on", 16 * cols);
    for (uint64_t r = 0; r < rows; r++) {
        double size = exp2((double)r / 8.0), e = row_loss(r, cols) / size;
        worst = fmax(worst, e);
        best = fmin(best, e);
        ck_assert(scale[r] >= scale[0] * exp2f((float)r / 16.0f) / 2.01f);
    }
    ck_assert_msg(worst < 1.2 * best, "%g and %g", best, worst);
}
END_TEST

/* Also of rows that are all zeros; of an odd number of columns no factor is made. */
START_TEST(feedback_lowers_the_error_of_fp8)
{
    static const uint64_t shapes[][2] = {{11, 192}, {13, 86}, {5, 33}};
    uint64_t rows = shapes[_i][0], cols = shapes[_i][1];
    double nearest, feedback, squares;

    fill(rows, cols, 400);
    memset(w + cols, 0, cols * sizeof *w);
    quantize_fp8(rows, cols, "off", 1000);
    for (uint64_t i = 0; i < rows * cols; i++)
        ck_assert_float_le(fabsf(made[i] - w[i]), fabsf(w[i]) / 16.0f + scale[i / cols] / 1024.0f);
    nearest = loss(rows, cols);
    squares = difference(rows, cols);
    quantize_fp8(rows, cols, "on",
                 16 * cols - 1); /* too few to go by: the best scale, and to the nearest */
    ck_assert_double_lt(difference(rows, cols), 0.95 * squares);
    for (uint64_t i = 0; i < rows * cols; i++)
        ck_assert_float_le(fabsf(made[i] - w[i]), fabsf(w[i]) / 16.0f + scale[i / cols] / 1024.0f);
    squares = difference(rows, cols);
    quantize_fp8(rows, cols, "on", 16 * cols);
    for (uint64_t k = 0; k < cols; k++)
        ck_assert_float_eq(made[cols + k], 0.0f);
    feedback = loss(rows, cols);
    if (cols % 2 == 0)
        ck_assert_msg(feedback < 0.8 * nearest, "%g after %g", feedback, nearest);
    else
        ck_assert_double_eq(difference(rows, cols), squares);
}
END_TEST

/* -- The paper's procedure ------------------------------------------------------------------------------- */

static double inverse[MAX_COLS * MAX_COLS];

/* Gauss and Jordan, of a positive definite matrix. */
static void invert(double *a, uint64_t n)
{
    for (uint64_t i = 0; i < n * n; i++)
        inverse[i] = i / n == i % n ? 1.0 : 0.0;
    for (uint64_t p = 0; p < n; p++) {
        double by = 1.0 / a[p * n + p];
        for (uint64_t k = 0; k < n; k++) {
            a[p * n + k] *= by;
            inverse[p * n + k] *= by;
        }
        for (uint64_t i = 0; i < n; i++) {
            double f = a[i * n + p];
            for (uint64_t k = 0; k < n && i != p; k++) {
                a[i * n + k] -= f * a[p * n + k];
                inverse[i * n + k] -= f * inverse[p * n + k];
            }
        }
    }
}

/* The column that is next: of those left the one with the largest second moment, the last of equals. */
static uint64_t next_column(const bool *done, uint64_t cols)
{
    uint64_t best = cols;

    for (uint64_t k = 0; k < cols; k++)
        if (!done[k] && (best == cols || moment[k] >= moment[best]))
            best = k;
    return best;
}

/* Rounds one column and takes its error out of those that are left (Frantar et al. 2022, equations 2 and 3). Returns
 * how many codes are others than the plugin's. */
static uint64_t round_column(double *left, uint64_t rows, uint64_t cols, uint64_t group, uint64_t c)
{
    uint64_t differ = 0;
    double pivot = inverse[c * cols + c];

    for (uint64_t r = 0; r < rows; r++) {
        uint64_t g = r * (cols / group) + c / group;
        double s = (double)scale[g], at = left[r * cols + c];
        double q = fmax(-8.0, fmin(7.0, rint(at / s) + zero[g])), e = at - s * (q - zero[g]);
        differ += (int)q != code_at(r * cols + c);
        for (uint64_t k = 0; k < cols; k++)
            left[r * cols + k] -= e * inverse[c * cols + k] / pivot;
    }
    for (uint64_t i = 0; i < cols; i++) {
        double f = inverse[i * cols + c] / pivot;
        for (uint64_t k = 0; k < cols && i != c; k++)
            inverse[i * cols + k] -= f * inverse[c * cols + k];
    }
    return differ;
}

START_TEST(it_is_what_the_paper_does)
{
    static double damped[MAX_COLS * MAX_COLS], left[MAX_ROWS * MAX_COLS];
    const uint64_t rows = 16, cols = 80;
    bool done[80] = {false};
    uint64_t group, differ = 0;
    double mean = 0.0;

    fill(rows, cols, 300);
    group = quantize(rows, cols, switches[_i], true);
    for (uint64_t k = 0; k < cols; k++)
        mean += hessian[k * cols + k] / (double)cols;
    for (uint64_t i = 0; i < cols * cols; i++)
        damped[i] = hessian[i] + (i / cols == i % cols ? 0.01 * mean : 0.0);
    for (uint64_t i = 0; i < rows * cols; i++)
        left[i] = (double)w[i];
    invert(damped, cols);
    for (uint64_t k = 0; k < cols; k++) {
        uint64_t c = next_column(done, cols);
        done[c] = true;
        differ += round_column(left, rows, cols, group, c);
    }
    /* Digits of float32 turn a tie now and then, and what follows it in its row. */
    ck_assert_msg(differ <= rows * cols / 50, "%d codes of %d differ", (int)differ,
                  (int)(rows * cols));
}
END_TEST

/* -- Hessians that are hardly any ------------------------------------------------------------------------ */

START_TEST(a_diagonal_hessian_rounds_to_nearest)
{
    static uint8_t nearest[sizeof codes];

    fill(8, 128, 50);
    for (uint64_t i = 0; i < 128 * 128; i++)
        hessian[i] = i / 128 == i % 128 ? 1.0 + (double)(i % 128) : 0.0;
    quantize(8, 128, "on", false);
    memcpy(nearest, codes, sizeof codes);
    quantize(8, 128, "on", true);
    ck_assert_mem_eq(nearest, codes, sizeof codes);
}
END_TEST

START_TEST(fewer_rows_than_columns_are_better_than_none)
{
    double nearest;

    fill(16, 192, 8);
    quantize(16, 192, "on", false);
    nearest = loss(16, 192);
    quantize(16, 192, "on", true);
    ck_assert_double_lt(loss(16, 192), 0.5 * nearest);
}
END_TEST

START_TEST(no_factor_no_feedback)
{
    static uint8_t nearest[sizeof codes];

    fill(8, 128, 50);
    for (uint64_t i = 0; i < 128 * 128; i++) /* nothing seen; of no sign; not a number */
        hessian[i] = _i == 0 ? 0.0 : _i == 1 ? (i / 128 == i % 128 ? 1.0 : -50.0) : (double)NAN;
    quantize(8, 128, "on", true);
    memcpy(nearest, codes, sizeof codes);
    quantize(8, 128, "on", false);
    ck_assert_mem_eq(nearest, codes, sizeof codes);
    for (uint64_t i = 0; i < 8 * 128; i++)
        ck_assert(isfinite(made[i]) && fabsf(made[i] - w[i]) < 2.0f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quant_rounding");
    TCase *t = tcase_create("all");

    tcase_set_timeout(t, 60.0);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, hessians_of_experts_count_as_far_as_they_have_rows);
    tcase_add_loop_test(t, feedback_lowers_the_error_of_outputs, 0, 8);
    tcase_add_test(t, narrow_rows_of_fp8_take_the_best_scale);
    tcase_add_loop_test(t, feedback_lowers_the_error_of_fp8, 0, 3);
    tcase_add_loop_test(t, it_is_what_the_paper_does, 0, 2);
    tcase_add_test(t, a_diagonal_hessian_rounds_to_nearest);
    tcase_add_test(t, fewer_rows_than_columns_are_better_than_none);
    tcase_add_loop_test(t, no_factor_no_feedback, 0, 3);
    suite_add_tcase(s, t);
    return run_suite(s);
}
