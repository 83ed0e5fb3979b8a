/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference set against formulas of its own: values worked out by hand, and the text of ops.h written once
 * more, in double, over whole arrays. What is wrong here would be wrong in every set that is measured by it.
 */
#include <math.h>

#include "cases.h"
#include "members.h"
#include "tenon/fusions.h"

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

/* A batch of one sequence: rows at positions first .. first + n - 1. */
static tn_batch *rows_at(uint32_t first, uint32_t n)
{
    uint32_t context = first + n;

    return kit_batch(&k, 1, &n, &context, 4, 50, true);
}

static float *floats(struct env *e, const tn_value *v)
{
    return e->data[v->id];
}

static double at(const tn_value *v, const struct env *e, uint64_t row, uint64_t col)
{
    return (double)value_at(v, e->data[v->id], row * v->width + col);
}

static double weight_at(const tn_weight *w, uint64_t row, uint64_t col)
{
    tn_value element = {.dtype = w->dtype};
    const char *p = (const char *)w->data + row * w->stride0;

    return w->dtype == TN_DT_I8 ? ((const int8_t *)p)[col] : (double)value_at(&element, p, col);
}

static void near(double got, double want, double tolerance, const char *what)
{
    expect(fabs(got - want) <= tolerance * (1.0 + fabs(want)), "%s is %.9g, not %.9g", what, got,
           want);
}

/* How far a value of `dtype` may be from the exact one: a rounding, and float32 sums. */
static double tolerance(uint32_t dtype)
{
    return dtype == TN_DT_F32 ? 3e-6 : dtype == TN_DT_F16 ? 0x1p-10 : 0x1p-7;
}

static const uint32_t dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16};

/* -- By hand --------------------------------------------------------------------------------------- */

START_TEST(norms_of_small_rows)
{
    struct shape s = {.in_width = {2}, .bias = true};
    tn_batch *b = rows_at(0, 1);
    struct env e = {.kv = NULL};
    tn_op *op = compose_basic(&k, TN_OP_RMS_NORM, &s);

    /* x = (3, 4): mean square 12.5; with eps 1e-5, 1 / sqrt(12.50001) = 0.28284260 */
    env_fill(&k, &e, op->in[0], b, 1.0f, false);
    floats(&e, op->in[0])[0] = 3.0f;
    floats(&e, op->in[0])[1] = 4.0f;
    ((float *)op->weights[0]->data)[0] = 1.0f;
    ((float *)op->weights[0]->data)[1] = -2.0f;
    run_reference(&k, &reference, op, b, &e);
    near(at(op->out[0], &e, 0, 0), 0.8485278, 1e-6, "rms_norm");
    near(at(op->out[0], &e, 0, 1), -2.2627408, 1e-6, "rms_norm");

    /* x = (1, 3): mean 2, variance 1; (-1, 1) / sqrt(1.00001) * w + b */
    op = compose_basic(&k, TN_OP_LAYER_NORM, &s);
    env_fill(&k, &e, op->in[0], b, 1.0f, false);
    floats(&e, op->in[0])[0] = 1.0f;
    floats(&e, op->in[0])[1] = 3.0f;
    for (int i = 0; i < 2; i++) {
        ((float *)op->weights[0]->data)[i] = 2.0f;
        ((float *)op->weights[1]->data)[i] = 0.5f;
    }
    run_reference(&k, &reference, op, b, &e);
    near(at(op->out[0], &e, 0, 0), -1.49999, 1e-6, "layer_norm");
    near(at(op->out[0], &e, 0, 1), 2.49999, 1e-6, "layer_norm");
}
END_TEST

START_TEST(int8_rounds_ties_to_even)
{
    static const float x[4] = {127.0f, -63.5f, 0.5f, 1.5f}; /* step 1; q = 127, -64, 0, 2 */
    struct shape s = {.in_width = {4}, .linear_width = {2}, .matrix = TN_DT_I8};
    tn_batch *b = rows_at(0, 2);
    struct env e = {.kv = NULL};
    tn_op *op = compose_basic(&k, TN_OP_LINEAR_INT8, &s);

    env_fill(&k, &e, op->in[0], b, 1.0f, false);
    memcpy(floats(&e, op->in[0]), x, sizeof x);
    memset(floats(&e, op->in[0]) + 4, 0, sizeof x); /* a row of zeros */
    for (int i = 0; i < 4; i++) {
        ((int8_t *)op->weights[0]->data)[i] = 1;
        ((int8_t *)op->weights[0]->data)[4 + i] = (int8_t)(i == 1 ? -128 : i);
    }
    ((float *)op->weights[1]->data)[0] = 0.5f;
    ((float *)op->weights[1]->data)[1] = 0.25f;
    run_reference(&k, &reference, op, b, &e);
    ck_assert(at(op->out[0], &e, 0, 0) == 32.5);                      /* 0.5 * 65 */
    ck_assert(at(op->out[0], &e, 0, 1) == 0.25 * (8192 + 0 * 2 + 6)); /* -64 * -128, 2 * 3 */
    ck_assert(at(op->out[0], &e, 1, 0) == 0.0);
}
END_TEST

/* A weight of these bytes. */
static tn_weight *weight_of(uint32_t dtype, uint64_t d0, uint64_t d1, const void *data, size_t n)
{
    tn_weight *w = kit_alloc(&k, sizeof *w);
    void *copy = kit_alloc(&k, n);

    memcpy(copy, data, n);
    *w = (tn_weight){.h = TN_HDR(tn_weight),
                     .name = "w",
                     .dtype = dtype,
                     .n_dims = d1 ? 2 : 1,
                     .dims = {d0, d1},
                     .data = copy,
                     .stride0 = n / d0};
    return w;
}

/* Two rows of four columns in groups of two, with and without zero points and bias. */
START_TEST(int4_has_scales_and_zero_points_by_group)
{
    static const float x[4] = {1.0f, 2.0f, 3.0f, -4.0f};
    static const uint8_t w[4] = {0x87, 0xF1, 0x20, 0x39}; /* {7, -8, 1, -1}, {0, 2, -7, 3} */
    static const float scale[4] = {0.5f, 2.0f, 1.0f, 0.25f}, bias[2] = {10.0f, -1.0f};
    static const int8_t zero[4] = {-1, 1, 8, 0};
    /* Without zero points: 0.5 * (7 - 16) + 2 * (3 + 4), 1 * 4 + 0.25 * (-21 - 12). With them each is less the sum of the
     * group's inputs (3 and -1) times scale and zero point. */
    static const double plain[2] = {9.5, -4.25}, shifted[2] = {9.5 + 1.5 + 2.0, -4.25 - 24.0};
    tn_batch *b = rows_at(0, 1);

    for (int form = 0; form < 4; form++) {
        bool zeros = form & 1, biased = form & 2;
        tn_op *op = kit_op(&k, TN_OP_LINEAR_INT4);
        struct env e = {.kv = NULL};
        op_in(op, kit_value(&k, TN_VALUE_ROWS, TN_DT_F32, 4));
        op_out(op, kit_value(&k, TN_VALUE_ROWS, TN_DT_F32, 2));
        op_weight(op, weight_of(TN_DT_I4, 2, 4, w, sizeof w));
        op_weight(op, weight_of(TN_DT_F32, 2, 2, scale, sizeof scale));
        if (zeros)
            op_weight(op, weight_of(TN_DT_I8, 2, 2, zero, sizeof zero));
        if (biased)
            op_weight(op, weight_of(TN_DT_F32, 2, 0, bias, sizeof bias));
        op_int(op, "group", 2);
        op_int(op, "zero", zeros);
        env_fill(&k, &e, op->in[0], b, 1.0f, false);
        memcpy(floats(&e, op->in[0]), x, sizeof x);
        run_reference(&k, &reference, op, b, &e);
        for (uint64_t n = 0; n < 2; n++)
            near(at(op->out[0], &e, 0, n),
                 (zeros ? shifted[n] : plain[n]) + (biased ? (double)bias[n] : 0.0), 1e-6, "int4");
    }
}
END_TEST

START_TEST(outputs_are_rounded_once_to_even)
{
    struct shape s = {.in_width = {2, 2}, .act = TN_DT_BF16};
    tn_batch *b = rows_at(0, 1);
    struct env e = {.kv = NULL};
    tn_op *op = compose_basic(&k, TN_OP_ADD, &s);
    uint16_t *x, *y;

    env_fill(&k, &e, op->in[0], b, 1.0f, false);
    env_fill(&k, &e, op->in[1], b, 1.0f, false);
    x = e.data[op->in[0]->id];
    y = e.data[op->in[1]->id];
    x[0] = x[1] = 0x3f80; /* 1 */
    y[0] = 0x3b80;        /* 2^-8: a tie, to even: 1 */
    y[1] = 0x3c40;        /* 3 * 2^-8: a tie, to even: 1 + 2^-6 */
    run_reference(&k, &reference, op, b, &e);
    ck_assert_uint_eq(((uint16_t *)e.data[op->out[0]->id])[0], 0x3f80);
    ck_assert_uint_eq(((uint16_t *)e.data[op->out[0]->id])[1], 0x3f82);
}
END_TEST

START_TEST(experts_tie_to_the_lower_index)
{
    static const float x[5] = {1.0f, 3.0f, 3.0f, -1.0f, 2.0f};
    static const char *const norms[] = {"softmax_topk", "softmax", "softmax_renorm"};
    tn_batch *b = rows_at(0, 1);
    double all = 0.0;

    for (int i = 0; i < 5; i++)
        all += exp((double)x[i] - 3.0);
    for (int n = 0; n < 3; n++) {
        struct shape s = {.in_width = {5}, .top_k = 3, .norm = norms[n]};
        struct env e = {.kv = NULL};
        tn_op *op = compose_basic(&k, TN_OP_MOE_ROUTE, &s);
        double sum = n == 1 ? all : 2.0 + exp(-1.0);
        env_fill(&k, &e, op->in[0], b, 1.0f, false);
        memcpy(floats(&e, op->in[0]), x, sizeof x);
        run_reference(&k, &reference, op, b, &e);
        const int32_t *chosen = e.data[op->out[0]->id];
        ck_assert(chosen[0] == 1 && chosen[1] == 2 && chosen[2] == 4);
        near(at(op->out[1], &e, 0, 0), 1.0 / sum, 1e-6, norms[n]);
        near(at(op->out[1], &e, 0, 2), exp(-1.0) / sum, 1e-6, norms[n]);
    }
}
END_TEST

/* -- In double --------------------------------------------------------------------------------------- */

START_TEST(activations_follow_their_formulas)
{
    static const char *const names[] = {"silu",  "gelu",  "gelu_tanh", "relu",
                                        "relu2", "scale", "softcap"};
    tn_batch *b = rows_at(0, 3);

    for (int n = 0; n < 7; n++) {
        struct shape s = {.in_width = {400}};
        struct env e = {.kv = NULL};
        tn_op *op = compose_basic(&k, names[n], &s);
        env_fill(&k, &e, op->in[0], b, 8.0f, false);
        run_reference(&k, &reference, op, b, &e);
        for (uint64_t i = 0; i < 1200; i++) {
            double x = at(op->in[0], &e, 0, i), want = 0.0;
            switch (n) {
            case 0: want = x / (1.0 + exp(-x)); break;
            case 1: want = 0.5 * x * (1.0 + erf(x / sqrt(2.0))); break;
            case 2:
                want = 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
                break;
            case 3: want = x > 0.0 ? x : 0.0; break;
            case 4: want = x > 0.0 ? x * x : 0.0; break;
            case 5: want = 0.37 * x; break;
            default: want = 1.5 * tanh(x / 1.5); break;
            }
            near(at(op->out[0], &e, 0, i), want, 1e-6, names[n]);
        }
    }
}
END_TEST

START_TEST(products_of_all_dtypes)
{
    for (int i = 0; i < 9; i++) {
        struct shape s = {.in_width = {60},
                          .linear_width = {33},
                          .act = dtypes[i / 3],
                          .matrix = dtypes[i % 3],
                          .vector = dtypes[(i + 1) % 3],
                          .bias = i % 2 == 0,
                          .gap = 8,
                          .softcap = i % 2 ? 2.0 : 0.0,
                          .scale = 0.5};
        for (int logits = 0; logits < 2; logits++) {
            tn_batch *b = rows_at(3, 5);
            struct env e = {.kv = NULL};
            tn_op *op = compose_basic(&k, logits ? TN_OP_LOGITS : TN_OP_LINEAR, &s);
            b->n_logits = 2;
            ((int32_t *)b->host->logits_row)[0] = 1;
            ((int32_t *)b->host->logits_row)[1] = 4;
            env_fill(&k, &e, op->in[0], b, 2.0f, false);
            run_reference(&k, &reference, op, b, &e);
            for (uint64_t t = 0; t < (logits ? 2 : 5); t++)
                for (uint64_t n = 0; n < 33; n++) {
                    double sum = s.bias ? weight_at(op->weights[1], n, 0) : 0.0;
                    for (uint64_t j = 0; j < 60; j++)
                        sum += at(op->in[0], &e, logits ? (t ? 4 : 1) : t, j) *
                               weight_at(op->weights[0], n, j);
                    if (logits)
                        sum = s.softcap > 0 ? 2.0 * tanh(0.5 * sum / 2.0) : 0.5 * sum;
                    near(at(op->out[0], &e, t, n), sum, tolerance(op->out[0]->dtype), "product");
                }
        }
    }
}
END_TEST

START_TEST(tables_are_gathered_and_scaled)
{
    struct shape s = {.linear_width = {17}, .matrix = TN_DT_BF16, .table = 12, .first = 20};
    tn_batch *b = rows_at(5, 40);
    struct env e = {.kv = NULL};
    tn_op *op;

    s.scale = 3.0;
    s.gap = 10;
    op = compose_basic(&k, TN_OP_EMBEDDING, &s);
    run_reference(&k, &reference, op, b, &e);
    for (uint32_t t = 0; t < 40; t++)
        for (uint32_t i = 0; i < 17; i++) {
            int32_t entry = b->host->tokens[t] - 20;
            double want = entry < 0 || entry >= 12
                              ? 0.0
                              : 3.0 * weight_at(op->weights[0], (uint64_t)entry, i);
            near(at(op->out[0], &e, t, i), want, 1e-7, "embedding");
        }
    s.table = 60;
    s.offset = 2;
    op = compose_basic(&k, TN_OP_POSITION, &s);
    run_reference(&k, &reference, op, b, &e);
    for (uint32_t t = 0; t < 40; t++)
        near(at(op->out[0], &e, t, 3), weight_at(op->weights[0], 5 + t + 2, 3), 1e-7, "position");
}
END_TEST

/* To the bit: other sets are held to what is multiplied with what, in which order. */
START_TEST(tables_of_int8_have_scales_and_factors)
{
    struct shape s = {.linear_width = {17}, .matrix = TN_DT_I8, .table = 12, .first = 20};
    tn_batch *b = rows_at(5, 40);
    struct env e = {.kv = NULL};

    s.scale = 19.6;
    s.gap = 10;
    tn_op *op = compose_basic(&k, TN_OP_EMBEDDING_INT8, &s);
    const float *scale = op->weights[1]->data, *by = op->weights[2]->data;
    run_reference(&k, &reference, op, b, &e);
    for (uint32_t t = 0; t < 40; t++)
        for (uint32_t i = 0; i < 17; i++) {
            int32_t v = b->host->tokens[t] - 20;
            float w = v < 0 || v >= 12 ? 0.0f : (float)weight_at(op->weights[0], (uint64_t)v, i);
            float want = v < 0 || v >= 12 ? 0.0f : 19.6f * scale[v] * w * by[i];
            ck_assert(at(op->out[0], &e, t, i) == (double)want);
        }
}
END_TEST

static double rope_frequency(const tn_op *op, uint32_t j, double n, int64_t limit)
{
    double rotary = (double)tn_op_int(op, "rotary_dim", 0), base = 10000.0;

    if (limit && n > (double)limit)
        base *= pow(2.0 * n / (double)limit - 1.0, rotary / (rotary - 2.0));
    return pow(base, -2.0 * j / rotary);
}

START_TEST(rope_turns_pairs_by_their_angles)
{
    for (int c = 0; c < 4; c++) {
        struct shape s = {.in_width = {3 * 16}, .head_dim = 16, .rotary = c == 1 ? 6 : 16};
        tn_batch *b = rows_at(90, 20);
        struct env e = {.kv = NULL};
        tn_op *op;
        s.pairs = c == 2;
        s.scale = c == 2 ? 1.3 : 0.0;
        s.max_position = c == 3 ? 100 : 0;
        op = compose_basic(&k, TN_OP_ROPE, &s);
        env_fill(&k, &e, op->in[0], b, 2.0f, false);
        run_reference(&k, &reference, op, b, &e);
        for (uint32_t t = 0; t < 20; t++)
            for (uint32_t h = 0; h < 48; h += 16) {
                for (uint32_t j = 0; j < s.rotary / 2; j++) {
                    /* the prompt had (90 + 20) / 2 = 55 tokens, so positions alone count */
                    double f = rope_frequency(op, j, 90 + t + 1, s.max_position);
                    double m = s.scale != 0.0 ? s.scale : 1.0;
                    double cosine = m * cos((90 + t) * f), sine = m * sin((90 + t) * f);
                    uint32_t p = h + (s.pairs ? 2 * j : j), q = s.pairs ? p + 1 : p + s.rotary / 2;
                    double x = at(op->in[0], &e, t, p), y = at(op->in[0], &e, t, q);
                    near(at(op->out[0], &e, t, p), x * cosine - y * sine, 2e-5, "rope");
                    near(at(op->out[0], &e, t, q), y * cosine + x * sine, 2e-5, "rope");
                }
                for (uint32_t i = s.rotary; i < 16; i++)
                    ck_assert(at(op->out[0], &e, t, h + i) == at(op->in[0], &e, t, h + i));
            }
    }
}
END_TEST

START_TEST(reorder_takes_elements_from_where_its_order_says)
{
    struct shape s = {.in_width = {37}};
    tn_batch *b = rows_at(0, 3);
    struct env e = {.kv = NULL};
    tn_op *op = compose_basic(&k, TN_OP_REORDER, &s);
    const int32_t *order = op->weights[0]->data;

    env_fill(&k, &e, op->in[0], b, 2.0f, false);
    run_reference(&k, &reference, op, b, &e);
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t i = 0; i < 37; i++)
            ck_assert(at(op->out[0], &e, t, i) == at(op->in[0], &e, t, (uint64_t)order[i]));
}
END_TEST

/* Attention of row t, head h of the whole sequence, from keys and values that were never in a cache. */
static void attend_in_double(const struct shape *s, const struct env *e, const tn_value *q,
                             const tn_value *keys, const tn_value *values, uint32_t t, uint32_t h,
                             double *y)
{
    uint32_t d = s->head_dim, kv = h / (s->heads / s->kv_heads);
    uint32_t first = s->window && t + 1 > s->window ? t + 1 - (uint32_t)s->window : 0;
    double sum = 0.0;

    memset(y, 0, d * sizeof *y);
    for (uint32_t j = first; j <= t; j++) {
        double a = 0.0;
        for (uint32_t i = 0; i < d; i++)
            a += at(q, e, t, h * d + i) * at(keys, e, j, kv * d + i);
        a /= sqrt(d);
        a = exp(s->softcap > 0.0 ? s->softcap * tanh(a / s->softcap) : a);
        sum += a;
        for (uint32_t i = 0; i < d; i++)
            y[i] += a * at(values, e, j, kv * d + i);
    }
    for (uint32_t i = 0; i < d; i++)
        y[i] /= sum;
}

START_TEST(attention_sees_what_was_appended)
{
    for (int c = 0; c < 3; c++) {
        struct shape s = {.heads = 6, .kv_heads = 2, .head_dim = 20, .window = c == 1 ? 5 : 0};
        uint32_t rows = 23;
        tn_batch *b = rows_at(0, rows);
        struct env e = {.kv = NULL};
        tn_op *append, *attention;
        double want[20];
        s.softcap = c == 2 ? 1.5 : 0.0;
        s.in_width[0] = s.in_width[1] = 40;
        append = compose_basic(&k, TN_OP_KV_APPEND, &s);
        s.in_width[0] = 120;
        attention = compose_basic(&k, TN_OP_ATTENTION, &s);
        e.kv = kit_kv(&k, b, 2, 20, dtypes[c]);
        /* Numbers that every cache dtype holds exactly. */
        env_fill(&k, &e, append->in[0], b, 2.0f, TN_DT_BF16);
        env_fill(&k, &e, append->in[1], b, 2.0f, TN_DT_BF16);
        env_fill(&k, &e, attention->in[0], b, 2.0f, false);
        run_reference(&k, &reference, append, b, &e);
        run_reference(&k, &reference, attention, b, &e);
        for (uint32_t t = 0; t < rows; t++)
            for (uint32_t h = 0; h < 6; h++) {
                attend_in_double(&s, &e, attention->in[0], append->in[0], append->in[1], t, h,
                                 want);
                for (uint32_t i = 0; i < 20; i++)
                    near(at(attention->out[0], &e, t, h * 20 + i), want[i], 3e-6, "attention");
            }
    }
}
END_TEST

/* By the first pass, which reads what is below the diagonal, or by the others alone: of the first run, or one element. */
START_TEST(feedback_leaves_of_a_sum_the_error_of_its_first_elements)
{
    struct shape s = {.kv_heads = 2, .head_dim = 20, .in_width = {40, 40}};
    uint32_t rows = 9;
    tn_batch *b = rows_at(0, rows);
    struct env e = {.kv = kit_kv(&k, b, 2, 20, TN_DT_F8E4M3)};
    tn_op *append = compose_basic(&k, TN_OP_KV_APPEND, &s);
    tn_kv_layer *kv = e.kv;

    kit_feedback(&k, kv, true);
    for (uint32_t i = 0; i < 2 * 2 * 20 * 20; i++) { /* keys, then values */
        uint32_t row = i / 20 % 20, column = i % 20;
        float first = row / 8 > column / 8 ? 0.125f : 0.0f, others = column >= row ? 1.0f : 0.0f;
        ((float *)kv->k_feedback)[i] = _i ? others : first;
    }
    for (uint32_t i = 0; i < 4; i++) /* so that nothing is clipped */
        ((float *)kv->k_scale)[i] = 0.0625f;
    env_fill(&k, &e, append->in[0], b, 2.0f, false);
    env_fill(&k, &e, append->in[1], b, 2.0f, false);
    run_reference(&k, &reference, append, b, &e);
    for (uint32_t t = 0; t < rows; t++)
        for (uint32_t h = 0; h < 4; h++) { /* heads of keys, then of values */
            uint64_t slot = (uint64_t)b->dev->row_slot[t];
            const uint8_t *stored = (const uint8_t *)kv->base +
                                    slot / b->block_tokens * kv->block_bytes +
                                    (h * b->block_tokens + slot % b->block_tokens) * 20;
            double sum = 0.0, first;
            for (uint32_t i = 0; i < 20; i++) {
                double x = at(append->in[h / 2], &e, t, h % 2 * 20 + i);
                double scale = (double)(h < 2 ? kv->k_scale : kv->v_scale)[h % 2];
                x -= h < 2 ? (double)kv->k_center[h * 20 + i] : 0.0;
                sum += (double)tn_f8e4m3_to_f32(stored[i]) - x / scale;
            }
            first = 0.0;
            for (uint32_t i = 0; i < (_i ? 1 : 8); i++)
                first += fabs((double)tn_f8e4m3_to_f32(stored[i]));
            ck_assert_msg(fabs(sum) <= first / 15.0 + 0x1p-6, "%g, of elements of %g", sum, first);
        }
}
END_TEST

START_TEST(experts_are_mixed)
{
    struct shape s = {.in_width = {24, 2, 2}, .linear_width = {10}, .experts = 3, .first = 2};
    uint32_t rows = 6;
    tn_batch *b = rows_at(0, rows);
    struct env e = {.kv = NULL};
    tn_op *op;

    s.matrix = TN_DT_F16;
    op = compose_basic(&k, TN_OP_MOE_MLP, &s);
    for (int i = 0; i < 3; i++)
        env_fill(&k, &e, op->in[i], b, 1.0f, false);
    for (uint32_t i = 0; i < 2 * rows; i++) /* experts 0 to 5; this rank holds 2 to 4 */
        ((int32_t *)e.data[op->in[1]->id])[i] = (int32_t)(i * 5 % 6);
    run_reference(&k, &reference, op, b, &e);
    for (uint32_t t = 0; t < rows; t++)
        for (uint32_t n = 0; n < 24; n++) {
            double want = 0.0;
            for (uint32_t j = 0; j < 2; j++) {
                int64_t x = (int64_t)at(op->in[1], &e, t, j) - 2;
                double sum = 0.0;
                for (uint32_t i = 0; x >= 0 && x < 3 && i < 10; i++) {
                    double g = 0.0, u = 0.0;
                    for (uint32_t c = 0; c < 24; c++) {
                        g += at(op->in[0], &e, t, c) *
                             weight_at(op->weights[0], (uint64_t)x, i * 24 + c);
                        u += at(op->in[0], &e, t, c) *
                             weight_at(op->weights[1], (uint64_t)x, i * 24 + c);
                    }
                    sum += g / (1.0 + exp(-g)) * u *
                           weight_at(op->weights[2], (uint64_t)x, n * 10 + i);
                }
                want += at(op->in[2], &e, t, j) * sum;
            }
            near(at(op->out[0], &e, t, n), want, 3e-6, "moe_mlp");
        }
}
END_TEST

/* Element [n][k] of stack `i`, as its scales and zero points say. */
static double expert_at(const tn_op *op, uint32_t i, uint64_t e, uint64_t n, uint64_t c)
{
    const tn_weight *w = op->weights[i], *s = op->weights[i + 3];
    uint64_t groups = s->n_dims > 2 ? s->dims[2] : 1, at = n * groups + c * groups / w->dims[2];
    double zero = op->n_weights > 6 ? weight_at(op->weights[i + 6], e, at) : 0.0;

    return weight_at(s, e, at) * (weight_at(w, e, n * w->dims[2] + c) - zero);
}

static double expert_value(const tn_op *op, struct env *e, uint64_t t, uint64_t expert, uint64_t n)
{
    double sum = 0.0;

    for (uint64_t i = 0; i < op->weights[0]->dims[1]; i++) {
        double g = 0.0, u = 0.0;
        for (uint64_t c = 0; c < op->in[0]->width; c++) {
            g += at(op->in[0], e, t, c) * expert_at(op, 0, expert, i, c);
            u += at(op->in[0], e, t, c) * expert_at(op, 1, expert, i, c);
        }
        sum += g / (1.0 + exp(-g)) * u * expert_at(op, 2, expert, n, i);
    }
    return sum;
}

START_TEST(experts_of_few_bits_have_scales)
{
    static const uint32_t matrices[] = {TN_DT_I8, TN_DT_F8E4M3, TN_DT_I4, TN_DT_I4};
    tn_batch *b = rows_at(0, 3);

    for (uint32_t m = 0; m < 4; m++) {
        struct shape s = {.in_width = {24, 2, 2},
                          .linear_width = {16},
                          .experts = 3,
                          .matrix = matrices[m],
                          .quant_group = 8,
                          .zero = m == 3};
        tn_op *op = compose_basic(&k, TN_OP_MOE_MLP, &s);
        struct env e = {.kv = NULL};
        for (int i = 0; i < 3; i++)
            env_fill(&k, &e, op->in[i], b, 1.0f, false);
        for (uint32_t i = 0; i < 6; i++)
            ((int32_t *)e.data[op->in[1]->id])[i] = (int32_t)(i * 5 % 3);
        run_reference(&k, &reference, op, b, &e);
        for (uint32_t t = 0; t < 3; t++)
            for (uint32_t n = 0; n < 24; n++) {
                double want = 0.0;
                for (uint32_t j = 0; j < 2; j++)
                    want += at(op->in[2], &e, t, j) *
                            expert_value(op, &e, t, (uint64_t)at(op->in[1], &e, t, j), n);
                near(at(op->out[0], &e, t, n), want, 3e-6, "moe_mlp of few bits");
            }
    }
}
END_TEST

START_TEST(experts_whose_scales_do_not_fit_are_declined)
{
    struct shape s = {
        .in_width = {24, 2, 2}, .linear_width = {16}, .experts = 3, .matrix = TN_DT_I4};
    const tn_variant *v = plug_variant(&reference, TN_OP_MOE_MLP);

    s.quant_group = 8;
    tn_op *op = compose_basic(&k, TN_OP_MOE_MLP, &s);
    tn_weight *scale = (tn_weight *)(uintptr_t)op->weights[4];
    ck_assert_int_eq(v->can_run(reference.instance, op, NULL), TN_OK);
    scale->dims[2] = 5;
    ck_assert_int_eq(v->can_run(reference.instance, op, NULL), TN_E_UNSUPPORTED);
    scale->dims[2] = 0;
    ck_assert_int_eq(v->can_run(reference.instance, op, NULL), TN_E_UNSUPPORTED);
    scale->dims[2] = 3;
    op->n_weights = 3;
    ck_assert_int_eq(v->can_run(reference.instance, op, NULL), TN_E_UNSUPPORTED);
}
END_TEST

/* -- Limits -------------------------------------------------------------------------------------------- */

START_TEST(every_op_but_collectives_is_there)
{
    static const char *const ops[] = {
        TN_OP_EMBEDDING,   TN_OP_POSITION,      TN_OP_RMS_NORM, TN_OP_LAYER_NORM,  TN_OP_LINEAR,
        TN_OP_REORDER,     TN_OP_HADAMARD,      TN_OP_ROPE,     TN_OP_KV_APPEND,   TN_OP_ATTENTION,
        TN_OP_ADD,         TN_OP_MUL,           TN_OP_SILU,     TN_OP_GELU,        TN_OP_GELU_TANH,
        TN_OP_RELU,        TN_OP_RELU2,         TN_OP_SCALE,    TN_OP_SOFTCAP,     TN_OP_MOE_ROUTE,
        TN_OP_MOE_MLP,     TN_OP_LOGITS,        TN_OP_SAMPLE,   TN_OP_LINEAR_INT8, TN_OP_LINEAR_FP8,
        TN_OP_LINEAR_INT4, TN_OP_EMBEDDING_INT8};

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const tn_variant *v = plug_variant(&reference, ops[i]);
        ck_assert_uint_eq(v->cpu[0] | v->cpu[1], 0);
        ck_assert(v->cost_ns(reference.instance, NULL, 1) >= 1e12);
    }
    ck_assert_str_eq(reference.set->kv_layouts[0]->name, TN_KV_LAYOUT_HND);
}
END_TEST

START_TEST(not_a_number_goes_through)
{
    struct shape s = {.in_width = {8, 8}, .linear_width = {3}, .matrix = TN_DT_F32};
    static const char *const names[] = {TN_OP_LINEAR, TN_OP_RELU,        TN_OP_RMS_NORM,
                                        TN_OP_SILU,   TN_OP_LINEAR_INT8, TN_OP_ADD};
    tn_batch *b = rows_at(0, 1);

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct env e = {.kv = NULL};
        s.matrix = i == 4 ? TN_DT_I8 : TN_DT_F32;
        tn_op *op = compose_basic(&k, names[i], &s);
        for (uint32_t j = 0; j < op->n_in; j++)
            env_fill(&k, &e, op->in[j], b, 1.0f, false);
        floats(&e, op->in[0])[1] = NAN;
        run_reference(&k, &reference, op, b, &e);
        ck_assert_msg(isnan(at(op->out[0], &e, 0, 1)), "%s swallows NaN", names[i]);
    }
}
END_TEST

/* -- Whole layers ----------------------------------------------------------------------------------------- */

static int32_t run_member(void *arg, const tn_launch *l, tn_err *err)
{
    return plug_variant(arg, l->op->name)->launch(((struct plug *)arg)->instance, l, err);
}

/* Finds in its state how often it was launched. */
static int32_t launch_layer(void *instance, const tn_launch *l, tn_err *err)
{
    uint64_t *launches = l->state;

    (void)instance;
    ck_assert_uint_lt((*launches)++, STATE_LAUNCHES);
    return members_run(l, run_member, &reference, err);
}

static int32_t layer_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                               uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                               tn_err *err)
{
    (void)instance;
    (void)op;
    (void)max_rows;
    (void)max_seqs;
    (void)err;
    *bytes = max_context * sizeof(float) + 4096 * sizeof(float);
    return TN_OK;
}

/* The cases that whole layers of other sets are held against, and the state that launches share, by a layer that is made of the
 * set's own kernels. */
START_TEST(layers_are_their_members)
{
    static const char *const texts[] = {TN_TEXT_DECODER_LAYER(TN_OP_LINEAR),
                                        TN_TEXT_DECODER_LAYER_HADAMARD(TN_OP_LINEAR_FP8)};
    const tn_variant v = {.h = TN_HDR(tn_variant),
                          .name = "layer",
                          .op = "decoder_layer",
                          .equals = texts[_i],
                          .weight_dtypes = TN_DT_BIT(_i ? TN_DT_F8E4M3 : TN_DT_BF16),
                          .kv_dtypes = TN_DT_BIT(_i ? TN_DT_F8E4M3 : TN_DT_F32),
                          .workspace = layer_workspace,
                          .launch = launch_layer,
                          .state_bytes = sizeof(uint64_t)};
    uint32_t ran = 0;
    const struct subject s = {&reference, &reference, &v, TN_DT_F32, &ran};

    cases_of(&s);
    ck_assert_uint_eq(ran, 8);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels_reference");
    TCase *c = tcase_create("reference");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, norms_of_small_rows);
    tcase_add_test(c, int8_rounds_ties_to_even);
    tcase_add_test(c, int4_has_scales_and_zero_points_by_group);
    tcase_add_test(c, outputs_are_rounded_once_to_even);
    tcase_add_test(c, experts_tie_to_the_lower_index);
    tcase_add_test(c, activations_follow_their_formulas);
    tcase_add_test(c, products_of_all_dtypes);
    tcase_add_test(c, tables_are_gathered_and_scaled);
    tcase_add_test(c, tables_of_int8_have_scales_and_factors);
    tcase_add_test(c, rope_turns_pairs_by_their_angles);
    tcase_add_test(c, reorder_takes_elements_from_where_its_order_says);
    tcase_add_loop_test(c, feedback_leaves_of_a_sum_the_error_of_its_first_elements, 0, 2);
    tcase_add_test(c, attention_sees_what_was_appended);
    tcase_add_test(c, experts_are_mixed);
    tcase_add_test(c, experts_of_few_bits_have_scales);
    tcase_add_test(c, experts_whose_scales_do_not_fit_are_declined);
    tcase_add_test(c, every_op_but_collectives_is_there);
    tcase_add_test(c, not_a_number_goes_through);
    tcase_add_loop_test(c, layers_are_their_members, 0, 2);
    suite_add_tcase(s, c);
    return run_suite(s);
}
