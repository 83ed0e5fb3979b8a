/* SPDX-License-Identifier: Apache-2.0 */
/* The reference set's hadamard against Paley's matrices and Sylvester's, worked out here once more. */
#include <math.h>

#include "cases.h"

static struct plug reference;
static struct kit k;

static void setup(void)
{
    plug_load(&reference, "reference", NULL);
    kit_init(&k, 5);
}

static void teardown(void)
{
    kit_free(&k);
    plug_unload(&reference);
}

static void near(double got, double want, double tolerance, const char *what)
{
    expect(fabs(got - want) <= tolerance, "%s is %.9g, not %.9g", what, got, want);
}

/* Of a field of nine, whose elements 3 a + b stand for a i + b, i i = -1. */
static uint32_t nine_square(uint32_t x)
{
    uint32_t a = x / 3, b = x % 3;

    return 2 * a * b % 3 * 3 + (b * b + 2 * a * a) % 3;
}

static uint32_t nine_less(uint32_t x, uint32_t y)
{
    return (x / 3 + 3 - y / 3) % 3 * 3 + (x % 3 + 3 - y % 3) % 3;
}

/* The sign of (i, j) in Paley's matrix of order 2 q + 2, q a prime or nine, as his paper has it. */
static int paley(uint32_t q, uint32_t i, uint32_t j)
{
    uint32_t a = i / 2, b = j / 2, squares = 0, less;
    int c = 1;

    for (uint32_t x = 1; x < q; x++)
        squares |= 1u << (q == 9 ? nine_square(x) : x * x % q);
    if (a == b)
        return i % 2 || j % 2 ? -1 : 1;
    if (a > 0 && b > 0) {
        less = q == 9 ? nine_less(a - 1, b - 1) : (a + q - b) % q;
        c = squares >> less & 1 ? 1 : -1;
    }
    return i % 2 && j % 2 ? -c : c;
}

/* What an element of the first row's second head, 4 and all else 0, becomes: each element of a head in turn. */
static void spread(uint32_t dim, uint32_t order, uint32_t q)
{
    struct shape s = {.in_width = {2 * dim}, .head_dim = dim};
    uint32_t two = order / (q ? 2 * q + 2 : 1), width = 2 * dim;
    uint32_t rows = 3, context = 3;
    tn_batch *b = kit_batch(&k, 1, &rows, &context, 4, 50, true);
    struct env e = {.kv = NULL};
    tn_op *op = compose_basic(&k, TN_OP_HADAMARD, &s);
    float x[3 * 2 * 80], *in;
    const float *result;

    env_fill(&k, &e, op->in[0], b, 2.0f, false);
    in = e.data[op->in[0]->id];
    memcpy(x, in, 3 * width * sizeof *x);
    for (uint32_t from = 0; from < dim; from++) {
        memset(x, 0, width * sizeof *x);
        x[dim + from] = 4.0f;
        memcpy(in, x, 3 * width * sizeof *x);
        run_reference(&k, &reference, op, b, &e);
        result = e.data[op->out[0]->id];
        for (uint32_t i = 0; i < width; i++) {
            uint32_t to = i - dim, r = to % order, c = from % order;
            double sign = __builtin_parity(r % two & c % two) ? -1.0 : 1.0;
            double want = i >= dim && to / order == from / order ? 4.0 / sqrt(order) : 0.0;
            near((double)result[i], want * sign * (q ? paley(q, r / two, c / two) : 1), 1e-6,
                 "hadamard");
        }
        memcpy(in, result, 3 * width * sizeof *x);
        run_reference(&k, &reference, op, b, &e);
        result = e.data[op->out[0]->id];
        for (uint32_t i = 0; i < 3 * width; i++)
            near((double)result[i], (double)x[i], 2e-6, "hadamard, twice");
    }
}

START_TEST(hadamard_spreads_each_channel_and_is_its_own_inverse)
{
    static const struct {
        uint32_t dim, order, q;
    } cases[] = {{8, 8, 0},   {10, 2, 0},  {7, 1, 0},   {12, 12, 5},  {48, 48, 5},
                 {36, 12, 5}, {20, 20, 9}, {80, 80, 9}, {28, 28, 13}, {56, 56, 13}};

    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
        spread(cases[i].dim, cases[i].order, cases[i].q);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels_hadamard");
    TCase *c = tcase_create("hadamard");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, hadamard_spreads_each_channel_and_is_its_own_inverse);
    suite_add_tcase(s, c);
    return run_suite(s);
}
