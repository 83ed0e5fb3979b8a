/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Caches of float8_e4m3 that are stored with feedback, by what it is for: the error E = n' M n of a head that was stored is far
 * less than rounding to the nearest leaves. M has 1 on its diagonal and ALIKE elsewhere, so that E = (1 - ALIKE) sum n^2 +
 * ALIKE (sum n)^2; then L of M = L D L', by blocks of eight, is ALIKE / (1 - ALIKE + e ALIKE) in the columns of the run that ends
 * before element e.
 *
 * Numbers of few bits, whose products and sums are exact in any order and in float16, must become the reference set's bits, but for
 * keys that are rotated on the way: there one bit may differ, and feedback hands it on.
 */
#include <math.h>
#include <string.h>

#include "cases.h"
#include "compose.h"
#include "tenon/kv_feedback.h"

#define ALIKE 0.9

static double below(uint64_t row, uint64_t column)
{
    uint64_t end = (column / TN_KV_FEEDBACK_RUN + 1) * TN_KV_FEEDBACK_RUN;

    return row < end ? 0.0 : ALIKE / (1.0 - ALIKE + ALIKE * (double)end);
}

static void fill_tables(struct kit *k, tn_kv_layer *kv)
{
    uint64_t dim = kv->head_dim;
    float *table;

    kit_feedback(k, kv, true);
    table = (float *)kv->k_feedback; /* values' follow */
    for (uint64_t n = 0; n < 2 * (uint64_t)kv->n_kv_heads; n++)
        for (uint64_t i = 0; i < dim; i++)
            for (uint64_t j = 0; j < dim; j++)
                *table++ = (float)(i == j ? 1.0 : i < j ? ALIKE : below(i, j));
}

/* Element `i` of head `h` (keys', then values') of a row's slot. */
static double stored(const tn_kv_layer *kv, int64_t slot, uint32_t h, uint32_t i)
{
    tn_value element = {.dtype = kv->dtype};
    uint64_t tokens = kv->block_tokens, at = (h * tokens + (uint64_t)slot % tokens) * kv->head_dim;
    const char *page = (const char *)kv->base + (uint64_t)slot / tokens * kv->block_bytes;

    return (double)value_at(&element, page, at + i);
}

/* E of all rows; `exact` has their keys and values in float32. */
static double weighted_error(const tn_kv_layer *kv, const tn_kv_layer *exact, const tn_batch *b)
{
    double all = 0.0;

    for (uint32_t t = 0; t < b->n_rows; t++)
        for (uint32_t h = 0; b->host->row_slot[t] >= 0 && h < 2 * kv->n_kv_heads; h++) {
            double scale =
                (double)(h < kv->n_kv_heads ? kv->k_scale[h] : kv->v_scale[h - kv->n_kv_heads]);
            double squares = 0.0, sum = 0.0;
            for (uint32_t i = 0; i < kv->head_dim; i++) {
                double x = stored(exact, b->host->row_slot[t], h, i);
                if (h < kv->n_kv_heads)
                    x -= (double)kv->k_center[h * kv->head_dim + i];
                x = stored(kv, b->host->row_slot[t], h, i) - x / scale;
                squares += x * x;
                sum += x;
            }
            all += (1.0 - ALIKE) * squares + ALIKE * sum * sum;
        }
    return all;
}

static void shaped_case(const struct subject *s, const struct shape *x, const uint32_t *rows,
                        uint64_t seed)
{
    static const uint32_t contexts[] = {300, 70, 64, 213};
    struct kit k;
    struct env got = {.kv = NULL}, nearest = got, exact = got;
    double is, was;

    kit_init(&k, seed);
    tn_batch *b = kit_batch(&k, 4, rows, contexts, 16, 50, false);
    const tn_op *op = compose(&k, s->v, x);
    got.kv = kit_kv(&k, b, x->kv_heads, x->head_dim, TN_DT_F8E4M3);
    nearest.kv = kit_kv_copy(&k, got.kv);
    exact.kv = kit_kv(&k, b, x->kv_heads, x->head_dim, TN_DT_F32);
    for (uint32_t i = 0; i < 2 * x->kv_heads; i++) /* so that nothing is clipped */
        ((float *)got.kv->k_scale)[i] = 0.0625f;
    fill_tables(&k, got.kv);
    for (uint32_t i = 0; i < op->n_in; i++) {
        env_fill(&k, &got, op->in[i], b, 3.0f, false);
        nearest.data[op->in[i]->id] = exact.data[op->in[i]->id] = got.data[op->in[i]->id];
    }
    (*s->ran)++;
    run_variant(&k, s->plug, s->v, op, b, &got);
    run_reference(&k, s->reference, op, b, &nearest);
    run_reference(&k, s->reference, op, b, &exact);
    is = weighted_error(got.kv, exact.kv, b);
    was = weighted_error(nearest.kv, exact.kv, b);
    expect(is < 0.5 * was, "%s: errors of %u elements weigh %g with feedback, %g without",
           s->v->name, x->head_dim, is, was);
    kit_free(&k);
}

/* Of eighths, and mostly zeros, so that errors are small multiples of the smallest number; elements are stored once. */
static void fill_exactly(struct kit *k, tn_kv_layer *kv)
{
    uint64_t dim = kv->head_dim, n = 2 * kv->n_kv_heads * dim * dim;
    float *table;

    kit_feedback(k, kv, false);
    table = (float *)kv->k_feedback; /* values' follow */
    for (uint64_t i = 0; i < n; i++) /* the diagonal is zero */
        table[i] = fabsf(table[i]) <= 0.0f || random_below(&k->random, 16)
                       ? 0.0f
                       : copysignf(0.125f, table[i]);
    for (uint32_t i = 0; i < 2 * kv->n_kv_heads; i++)
        ((float *)kv->k_scale)[i] = i % 2 ? 0.0625f : 0.5f;
    for (uint64_t i = 0; i < kv->n_kv_heads * dim; i++)
        ((float *)kv->k_center)[i] = rintf(kv->k_center[i] * 8.0f) / 8.0f;
}

static void same_bits(const struct subject *s, const tn_kv_layer *got, const tn_kv_layer *want,
                      const tn_batch *b, uint32_t first_head)
{
    for (uint32_t t = 0; t < b->n_rows; t++)
        for (uint32_t h = first_head; b->host->row_slot[t] >= 0 && h < 2 * want->n_kv_heads; h++)
            for (uint32_t i = 0; i < want->head_dim; i++) {
                double x = stored(got, b->host->row_slot[t], h, i);
                double y = stored(want, b->host->row_slot[t], h, i);
                expect(!(x < y || x > y), "%s: row %u, head %u, element %u of %u is %g, not %g",
                       s->v->name, t, h, i, want->head_dim, x, y);
            }
}

static void exact_case(const struct subject *s, const struct shape *x, const uint32_t *rows,
                       uint64_t seed)
{
    static const uint32_t contexts[] = {300, 70, 64, 213};
    struct kit k;
    struct env got = {.kv = NULL}, want = got;

    kit_init(&k, seed);
    tn_batch *b = kit_batch(&k, 4, rows, contexts, 16, 50, false);
    const tn_op *op = compose(&k, s->v, x);
    got.kv = kit_kv(&k, b, x->kv_heads, x->head_dim, TN_DT_F8E4M3);
    fill_exactly(&k, got.kv);
    want.kv = kit_kv_copy(&k, got.kv);
    for (uint32_t i = 0; i < op->n_in; i++) {
        const tn_value *v = op->in[i];
        env_fill(&k, &got, v, b, 3.0f, false);
        want.data[v->id] = got.data[v->id];
        for (uint64_t n = value_rows(v, b) * v->width; n-- > 0 && v->kind != TN_VALUE_KV;)
            value_put(v, got.data[v->id], n, rintf(value_at(v, got.data[v->id], n) * 8.0f) / 8.0f);
    }
    (*s->ran)++;
    run_variant(&k, s->plug, s->v, op, b, &got);
    run_reference(&k, s->reference, op, b, &want);
    same_bits(s, got.kv, want.kv, b, s->v->equals ? x->kv_heads : 0);
    kit_free(&k);
}

void shaped_cases(const struct subject *s)
{
    static const uint32_t dims[] = {64, 128, 80, 256}, single[] = {1, 1, 1, 1};
    static const uint32_t prompts[] = {1, 70, 3, 40};

    for (uint32_t i = 0; i < 8; i++) {
        struct shape x = {.act = s->act,
                          .heads = 6,
                          .kv_heads = 3,
                          .head_dim = dims[i / 2],
                          .rotary = dims[i / 2]};
        struct kit k;
        bool takes;
        x.in_width[0] = (s->v->equals ? 6ull : 3ull) * x.head_dim;
        x.in_width[1] = x.in_width[2] = 3ull * x.head_dim;
        kit_init(&k, i);
        takes = subject_takes(s, compose(&k, s->v, &x),
                              kit_batch(&k, 4, single, single, 16, 50, false));
        kit_free(&k);
        if (!takes)
            continue;
        shaped_case(s, &x, i % 2 ? prompts : single, 300 + i);
        exact_case(s, &x, i % 2 ? prompts : single, 400 + i);
    }
}
