/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: one token per logits row (batch.h, tn_sample_row), rows shared among workers. Any thread.
 *
 * top_k and top_p need the best tokens, not their order. Both are "take tokens in order of rank until an
 * amount is reached": k tokens, or top_p of the mass. So tokens are counted into 4096 buckets by the leading
 * bits of their value; whole buckets are taken from the top, and only the one on the edge is sorted. Where the
 * procedure leaves something open the reference set decides; sums are in double, as there.
 */
#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "share.h"

#define BUCKETS 4096 /* by sign, exponent and 3 bits of mantissa */

struct ranked {
    float value;
    int32_t id;
};

/* What one worker works in. */
struct scratch {
    double amount[BUCKETS];
    float *x;             /* [V] the row, adjusted */
    float *weight;        /* [V] exp((x - max) / temperature) */
    int32_t *count;       /* [V] for penalties */
    struct ranked *rank;  /* [V] candidates */
    struct ranked *spare; /* [V] */
};

struct job {
    const tn_launch *l;
    const struct isa *isa;
    uint64_t vocab;
    unsigned char *scratch;
};

int32_t sample_can_run(const tn_op *op, tn_err *err)
{
    return check_require(op,
                         op->n_in == 1 && op->n_out == 1 && op->n_weights == 0 &&
                             op->in[0]->dtype == TN_DT_F32 && op->in[0]->width > 0 &&
                             op->out[0]->dtype == TN_DT_I32 && op->out[0]->width == 1,
                         "needs float32 logits and an int32 output of width 1", err);
}

double sample_cost_ns(const struct cpu_instance *in, const tn_op *op, uint32_t rows)
{
    return 1000.0 + (double)rows * (double)op->in[0]->width * 2.0 / share_workers(in);
}

static uint64_t scratch_bytes(uint64_t vocab)
{
    uint64_t bytes =
        sizeof(struct scratch) + vocab * (3 * sizeof(float) + 2 * sizeof(struct ranked));

    return (bytes + 63) / 64 * 64;
}

uint64_t sample_workspace(const struct cpu_instance *in, const tn_op *op)
{
    return share_workers(in) * scratch_bytes(op->in[0]->width) + 64;
}

static struct scratch *scratch_of(const struct job *job, uint32_t worker)
{
    struct scratch *s = (struct scratch *)(job->scratch + worker * scratch_bytes(job->vocab));

    s->x = (float *)(s + 1);
    s->weight = s->x + job->vocab;
    s->count = (int32_t *)(s->weight + job->vocab);
    s->rank = (struct ranked *)(s->count + job->vocab);
    s->spare = s->rank + job->vocab;
    return s;
}

/* -- Steps 1 to 3 -------------------------------------------------------------------------------- */

/* Subtracts, for each token of the output, what its occurrences cost. */
static void penalise_output(const tn_sample_row *r, const int32_t *output, uint32_t n,
                            const struct scratch *s, uint64_t vocab)
{
    memset(s->count, 0, vocab * sizeof *s->count);
    for (uint32_t i = 0; i < n; i++)
        if ((uint64_t)output[i] < vocab)
            s->count[output[i]]++;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = (uint64_t)output[i];
        if (id >= vocab || s->count[id] == 0)
            continue;
        s->x[id] -= (float)s->count[id] * r->frequency_penalty + r->presence_penalty;
        s->count[id] = 0; /* once per token */
    }
}

static void penalise_repetition(const tn_sample_row *r, const int32_t *history,
                                const struct scratch *s, uint64_t vocab)
{
    memset(s->count, 0, vocab * sizeof *s->count);
    for (uint32_t i = 0; i < r->history_len; i++) {
        uint64_t id = (uint64_t)history[i];
        if (id >= vocab || s->count[id]++)
            continue;
        s->x[id] =
            s->x[id] > 0.0f ? s->x[id] / r->repetition_penalty : s->x[id] * r->repetition_penalty;
    }
}

/* The row after biases and penalties: `row` itself if there are none. */
static const float *adjust(const struct job *job, const tn_sample_row *r, const float *row,
                           const struct scratch *s)
{
    const tn_batch_arrays *b = job->l->batch->dev;
    const int32_t *history = r->history_len ? b->history + r->first_history : NULL;
    uint32_t prompt = r->prompt_len < r->history_len ? r->prompt_len : r->history_len;

    if (r->n_bias == 0 && r->history_len == 0)
        return row;
    memcpy(s->x, row, job->vocab * sizeof *row);
    for (uint32_t i = 0; i < r->n_bias; i++) {
        uint64_t id = (uint64_t)b->bias_ids[r->first_bias + i];
        if (id < job->vocab)
            s->x[id] += b->bias_values[r->first_bias + i];
    }
    if (r->history_len && r->repetition_penalty != 1.0f)
        penalise_repetition(r, history, s, job->vocab);
    if (r->history_len > prompt && (r->frequency_penalty != 0.0f || r->presence_penalty != 0.0f))
        penalise_output(r, history + prompt, r->history_len - prompt, s, job->vocab);
    return s->x;
}

/* -- Steps 5 to 7 -------------------------------------------------------------------------------- */

/* The value's bucket, in ascending order of value. */
static uint32_t bucket_of(float value)
{
    uint32_t u = tn_f32_bits(value == 0.0f ? 0.0f : value); /* -0 ranks as 0 */

    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return u >> 20;
}

static int by_rank(const void *a, const void *b)
{
    const struct ranked *p = a, *q = b;

    if (p->value != q->value)
        return p->value > q->value ? -1 : 1;
    return p->id < q->id ? -1 : 1;
}

/* Keeps in s->rank[n] the best whose amounts (1 each, or their values if `by_mass`) first reach `need`: by
 * value, ties by lower id, at least one. Returns how many; their order is lost. */
static uint64_t cut(struct scratch *s, uint64_t n, double need, int by_mass)
{
    struct ranked *edge = s->spare;
    uint64_t kept = 0, n_edge = 0;
    uint32_t b = BUCKETS - 1;
    double have = 0.0;

    memset(s->amount, 0, sizeof s->amount);
    for (uint64_t i = 0; i < n; i++)
        s->amount[bucket_of(s->rank[i].value)] += by_mass ? (double)s->rank[i].value : 1.0;
    while (b > 0 && have + s->amount[b] < need)
        have += s->amount[b--];
    for (uint64_t i = 0; i < n; i++) {
        uint32_t at = bucket_of(s->rank[i].value);
        if (at > b)
            s->rank[kept++] = s->rank[i];
        else if (at == b)
            edge[n_edge++] = s->rank[i];
    }
    qsort(edge, n_edge, sizeof *edge, by_rank);
    for (uint64_t i = 0; i < n_edge && (have < need || kept == 0); i++) {
        have += by_mass ? (double)edge[i].value : 1.0;
        s->rank[kept++] = edge[i];
    }
    return kept;
}

/* Sets s->weight to the probabilities (times some factor) of the tokens that stay and 0 elsewhere. */
static void filter(const struct job *job, const tn_sample_row *r, const float *x, float max,
                   struct scratch *s)
{
    uint64_t vocab = job->vocab, n = vocab;
    int top_k = r->top_k && r->top_k < vocab;
    double mass = job->isa->exp_sum(s->weight, x, vocab, max, r->temperature);

    if (!top_k && !(r->top_p < 1.0f) && !(r->min_p > 0.0f))
        return;
    for (uint64_t id = 0; id < vocab; id++)
        s->rank[id] = (struct ranked){top_k ? x[id] : s->weight[id], (int32_t)id};
    if (top_k) {
        n = cut(s, n, (double)r->top_k, 0);
        mass = 0.0;
        for (uint64_t i = 0; i < n; i++) {
            s->rank[i].value = s->weight[s->rank[i].id];
            mass += (double)s->rank[i].value;
        }
    }
    if (r->top_p < 1.0f)
        n = cut(s, n, (double)r->top_p * mass, 1);
    memset(s->weight, 0, vocab * sizeof *s->weight);
    for (uint64_t i = 0; i < n; i++)
        if (!(s->rank[i].value < r->min_p)) /* the largest weight is 1 */
            s->weight[s->rank[i].id] = s->rank[i].value;
}

/* -- Step 8, and the whole ------------------------------------------------------------------------- */

static int32_t draw(const tn_sample_row *r, const float *weight, uint64_t vocab)
{
    double u = (double)(tn_philox_word0(r->seed, r->position) >> 8) * 0x1p-24;
    double total = 0.0, sum = 0.0;
    int32_t last = -1;

    for (uint64_t id = 0; id < vocab; id++)
        total += (double)weight[id];
    for (uint64_t id = 0; id < vocab; id++) {
        sum += (double)weight[id];
        if (weight[id] > 0.0f)
            last = (int32_t)id;
        if (sum > u * total)
            break;
    }
    return last;
}

static int32_t choose(const struct job *job, const tn_sample_row *r, const float *row,
                      struct scratch *s)
{
    const float *x = adjust(job, r, row, s);
    float max = job->isa->largest(x, job->vocab);

    if (isnan(max) || isinf(max))
        return TN_SAMPLE_NAN;
    if (!(r->temperature > 0.0f))
        return (int32_t)job->isa->find(x, job->vocab, max);
    filter(job, r, x, max, s);
    return draw(r, s->weight, job->vocab);
}

static void sample_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_batch_arrays *b = job->l->batch->dev;
    struct scratch *s = scratch_of(job, worker);

    for (uint32_t i = first; i < last; i++) {
        const float *row = (const float *)job->l->in[0] + i * job->vocab;
        int32_t id = choose(job, &b->sample[i], row, s);
        ((int32_t *)job->l->out[0])[i] = id;
        if (b->sampled)
            b->sampled[i] = id;
        if (!b->logprob)
            continue;
        b->logprob[i] = NAN;
        if (id != TN_SAMPLE_NAN) {
            float max = job->isa->largest(row, job->vocab);
            double sum = job->isa->exp_sum(NULL, row, job->vocab, max, 1.0f);
            b->logprob[i] = row[id] - max - (float)log(sum);
        }
    }
}

void sample_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa)
{
    struct job job = {.l = l, .isa = isa, .vocab = l->op->in[0]->width};

    job.scratch = (unsigned char *)(((uintptr_t)l->workspace + 63) / 64 * 64);
    share_items(in, l, sample_rows, &job, l->batch->n_logits,
                (double)l->batch->n_logits * (double)job.vocab);
}
