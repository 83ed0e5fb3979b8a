/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of the step ahead: `feed`, and embeddings of tokens that it completed, or that they complete themselves. One thread. */
#include "cases.h"

static const int32_t from[] = {-1, 2, 0, -1, 1}, sampled[] = {40, TN_SAMPLE_NAN, 7, 999, -5};

#define ROWS 5 /* of one sequence */

static tn_batch *batch_of(struct kit *k)
{
    uint32_t rows[] = {ROWS}, context[] = {9};
    tn_batch *b = kit_batch(k, 1, rows, context, 16, 50, true);
    tn_batch_arrays *a = (tn_batch_arrays *)b->host;

    a->token_row = from;
    memcpy(a->sampled, sampled, sizeof sampled);
    return b;
}

/* Of tables that the variant takes. */
static uint32_t table_dtype(const tn_variant *v)
{
    return v->weight_dtypes & TN_DT_BIT(TN_DT_BF16) ? TN_DT_BF16 : TN_DT_I8;
}

/* Tokens count as they stand when the op runs: where they came from, if from the step before, is no business of it. */
static void fed_case(const struct subject *s, int64_t table, int64_t first)
{
    struct shape x = {.act = s->act,
                      .linear_width = {64},
                      .matrix = table_dtype(s->v),
                      .table = table,
                      .first = first};
    struct kit k;

    kit_init(&k, 4);
    tn_batch *b = batch_of(&k);
    ((int32_t *)b->host->tokens)[2] = sampled[0]; /* one that is what the step before sampled */
    case_compare(&k, s, compose(&k, s->v, &x), b, NULL, false, 0.0, 2e-6);
    kit_free(&k);
}

static void expect_completed(const int32_t *tokens, const int32_t *before)
{
    for (int i = 0; i < ROWS; i++) {
        int32_t token = from[i] < 0 ? before[i] : sampled[from[i]];
        ck_assert_int_eq(tokens[i], token > 0 ? token : 0);
    }
}

/* It completes the tokens, as `feed` would have, and gives the rows of these. */
static void feeding_case(const struct subject *s, uint64_t width, int64_t table, int64_t first)
{
    struct shape x = {.act = s->act,
                      .linear_width = {width},
                      .matrix = table_dtype(s->v),
                      .table = table,
                      .first = first};
    struct env got = {.feed = 1}, want = {.feed = 0};
    int32_t before[ROWS];
    struct kit k;

    kit_init(&k, 4);
    tn_batch *b = batch_of(&k);
    tn_op *op = compose(&k, s->v, &x);
    memcpy(before, b->host->tokens, sizeof before);
    run_variant(&k, s->plug, s->v, op, b, &got);
    expect_completed(b->host->tokens, before);
    run_reference(&k, s->reference, op, b, &want);
    expect_close(s->v, op, b, &got, &want, 0.0, 2e-6);
    (*s->ran)++;
    kit_free(&k);
}

void fed_cases(const struct subject *s)
{
    fed_case(s, 50, 0);
    fed_case(s, 20, 25); /* of a rank: some tokens are others' */
    if (!(s->v->flags & TN_VARIANT_FEEDS))
        return;
    feeding_case(s, 64, 50, 0);
    feeding_case(s, 37, 20, 25);
}

void feed_cases(const struct subject *s)
{
    struct env e = {.kv = NULL};
    int32_t before[ROWS];
    struct kit k;

    kit_init(&k, 3);
    tn_batch *b = batch_of(&k);
    memcpy(before, b->host->tokens, sizeof before);
    run_variant(&k, s->plug, s->v, kit_op(&k, TN_OP_FEED), b, &e);
    (*s->ran)++;
    expect_completed(b->host->tokens, before);
    kit_free(&k);
}
