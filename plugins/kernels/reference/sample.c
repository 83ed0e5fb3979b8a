/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: chooses a token per logits row by the procedure of tn_sample_row (batch.h), step by step.
 *
 * Two things that the procedure leaves open are settled here. The largest logit is subtracted before the
 * division by the temperature, so that a tiny temperature stays finite. Sums of probabilities are taken in
 * double, so that "reaches top_p" does not hang on the order of a long float32 sum. Any thread.
 */
#include <stdlib.h>

#include "ref.h"

struct ranked {
    float weight; /* exp of the scaled logit, so proportional to p */
    int32_t id;
};

/* The workspace, cut into its arrays of V entries. */
struct scratch {
    float *x;
    int32_t *count; /* occurrences in prompt and output */
    int32_t *output_count;
    struct ranked *rank;
};

int32_t ref_sample_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (op->n_in != 1 || op->n_out != 1 || op->n_weights != 0 || op->in[0]->width == 0)
        return ref_require(op, 0, "wrong number of inputs, outputs or weights", err);
    return ref_require(op,
                       op->in[0]->dtype == TN_DT_F32 && op->out[0]->dtype == TN_DT_I32 &&
                           op->out[0]->width == 1,
                       "needs float32 logits and an int32 output of width 1", err);
}

/* Steps 1 to 3: biases and penalties. */
static void adjust(const tn_sample_row *r, const tn_batch_arrays *b, const struct scratch *s,
                   uint64_t vocab)
{
    for (uint32_t i = 0; i < r->n_bias; i++) {
        uint64_t id = (uint64_t)b->bias_ids[r->first_bias + i];
        if (id < vocab)
            s->x[id] += b->bias_values[r->first_bias + i];
    }
    if (r->history_len == 0)
        return;
    memset(s->count, 0, vocab * sizeof *s->count);
    memset(s->output_count, 0, vocab * sizeof *s->output_count);
    for (uint32_t i = 0; i < r->history_len; i++) {
        uint64_t id = (uint64_t)b->history[r->first_history + i];
        if (id >= vocab)
            continue;
        s->count[id]++;
        s->output_count[id] += i >= r->prompt_len;
    }
    for (uint64_t id = 0; id < vocab; id++) {
        if (s->count[id] && r->repetition_penalty != 1.0f)
            s->x[id] = s->x[id] > 0.0f ? s->x[id] / r->repetition_penalty
                                       : s->x[id] * r->repetition_penalty;
        if (s->output_count[id])
            s->x[id] -= (float)s->output_count[id] * r->frequency_penalty + r->presence_penalty;
    }
}

/* The id of the largest x, the lowest on ties; TN_SAMPLE_NAN for NaN, +inf, or nothing finite. */
static int32_t largest(const float *x, uint64_t vocab)
{
    uint64_t best = 0;

    for (uint64_t id = 0; id < vocab; id++) {
        if (isnan(x[id]) || x[id] == INFINITY)
            return TN_SAMPLE_NAN;
        if (x[id] > x[best])
            best = id;
    }
    return isinf(x[best]) ? TN_SAMPLE_NAN : (int32_t)best;
}

static int by_rank(const void *a, const void *b)
{
    const struct ranked *p = a, *q = b;

    if (p->weight != q->weight)
        return p->weight > q->weight ? -1 : 1;
    return p->id < q->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct ranked *)a)->id < ((const struct ranked *)b)->id ? -1 : 1;
}

static double total(const struct ranked *rank, uint64_t n)
{
    double sum = 0.0;

    for (uint64_t i = 0; i < n; i++)
        sum += (double)rank[i].weight;
    return sum;
}

/* Steps 5 to 7: the tokens that stay, most probable first; returns how many. */
static uint64_t keep(const tn_sample_row *r, const struct scratch *s, uint64_t vocab, float max)
{
    struct ranked *rank = s->rank;
    uint64_t n = r->top_k && r->top_k < vocab ? r->top_k : vocab, kept = 0;

    for (uint64_t id = 0; id < vocab; id++)
        rank[id] = (struct ranked){(s->x[id] - max) / r->temperature, (int32_t)id};
    qsort(rank, vocab, sizeof *rank, by_rank);
    for (uint64_t i = 0; i < n; i++)
        rank[i].weight = expf(rank[i].weight);
    qsort(rank, n, sizeof *rank, by_rank); /* exp can make ties of neighbours */
    if (r->top_p < 1.0f) {
        double sum = 0.0, enough = (double)r->top_p * total(rank, n);
        do
            sum += (double)rank[kept++].weight;
        while (kept < n && sum < enough);
        n = kept;
    }
    while (n > 1 && rank[n - 1].weight < r->min_p * rank[0].weight)
        n--;
    return n;
}

/* Step 8: walks the kept tokens in ascending order of id until the running sum exceeds u * total. */
static int32_t draw(const tn_sample_row *r, struct ranked *rank, uint64_t n)
{
    double u = (double)(tn_philox_word0(r->seed, r->position) >> 8) * 0x1p-24;
    double sum = 0.0, until = u * total(rank, n);
    int32_t id = -1;

    qsort(rank, n, sizeof *rank, by_id);
    for (uint64_t i = 0; i < n; i++) {
        if (rank[i].weight > 0.0f)
            id = rank[i].id; /* a token of probability 0 is never "the last" */
        sum += (double)rank[i].weight;
        if (sum > until)
            break;
    }
    return id;
}

/* log softmax of the unmodified row at `id`. */
static float log_probability(const float *row, uint64_t vocab, int32_t id)
{
    float max = -INFINITY;
    double sum = 0.0;

    for (uint64_t i = 0; i < vocab; i++)
        max = fmaxf(max, row[i]);
    for (uint64_t i = 0; i < vocab; i++)
        sum += (double)expf(row[i] - max);
    return row[id] - max - (float)log(sum);
}

/* i[L,1] of x[L,V]; also batch->sampled and batch->logprob where the core wants them. */
int32_t ref_sample_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_batch_arrays *b = l->batch->dev;
    uint64_t vocab = l->op->in[0]->width;
    struct scratch s;

    (void)instance;
    (void)err;
    s.x = l->workspace;
    s.rank = (struct ranked *)(s.x + vocab);
    s.count = (int32_t *)(s.rank + vocab);
    s.output_count = s.count + vocab;
    for (uint32_t i = 0; i < l->batch->n_logits; i++) {
        const tn_sample_row *r = &b->sample[i];
        const float *row = (const float *)l->in[0] + i * vocab;
        memcpy(s.x, row, vocab * sizeof *row);
        adjust(r, b, &s, vocab);
        int32_t id = largest(s.x, vocab);
        if (id != TN_SAMPLE_NAN && r->temperature > 0.0f)
            id = draw(r, s.rank, keep(r, &s, vocab, s.x[id]));
        ((int32_t *)l->out[0])[i] = id;
        if (b->sampled)
            b->sampled[i] = id;
        if (b->logprob)
            b->logprob[i] = id == TN_SAMPLE_NAN ? NAN : log_probability(row, vocab, id);
    }
    return TN_OK;
}
