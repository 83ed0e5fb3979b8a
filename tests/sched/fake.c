/* SPDX-License-Identifier: Apache-2.0 */
/* The fake device and the oracle; see the header. */
#include "fake.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

static uint64_t mix(uint64_t a, uint64_t b)
{
    struct rng r = {a ^ (b * UINT64_C(0xd6e8feb86659fd93) + UINT64_C(0x2545f4914f6cdd1d))};

    return rng_u64(&r);
}

/* The value of a position: what a model's keys and values are a function of. */
static uint64_t value_of(uint64_t before, int32_t token, uint32_t pos, uint64_t klass)
{
    return mix(mix(before, (uint64_t)(uint32_t)token << 32 | pos), klass);
}

static uint64_t mix_f(uint64_t h, float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return mix(h, bits);
}

/* The choice: every field of the row counts, and bans are obeyed. */
static int32_t choose(uint64_t state, const tn_sample_row *row, const int32_t *ids,
                      const float *values, const int32_t *history, uint32_t vocab)
{
    uint64_t h = mix(mix(state, row->seed), row->position);
    int32_t token;

    h = mix_f(mix_f(mix_f(h, row->temperature), row->top_p), row->min_p);
    h = mix_f(mix_f(h, row->repetition_penalty), row->presence_penalty);
    h = mix(mix(mix_f(h, row->frequency_penalty), row->top_k), row->prompt_len);
    for (uint32_t i = 0; i < row->history_len; i++)
        h = mix(h, (uint32_t)history[i]);
    for (uint32_t i = 0; i < row->n_bias; i++)
        if (isfinite(values[i]))
            h = mix_f(mix(h, (uint32_t)ids[i]), values[i]);
    token = (int32_t)(h % vocab);
    for (uint32_t i = 0; i < row->n_bias; i++) {
        if (!isfinite(values[i]) && ids[i] == token) {
            token = (token + 1) % (int32_t)vocab;
            i = UINT32_MAX; /* from the start again */
        }
    }
    return token;
}

/* -- The device -------------------------------------------------------------------------------- */

static void *array(uint64_t n, size_t size)
{
    void *p = mem_zarray(n, size);

    assert(p);
    return p;
}

void fake_init(struct fake_device *d, const struct sched *s, uint32_t n_blocks,
               uint32_t block_tokens, fake_class class_of, void *class_arg)
{
    struct batch_capacity cap = batch_capacity(s);

    *d = (struct fake_device){.sched = s,
                              .class_of = class_of,
                              .class_arg = class_arg,
                              .vocab = sched_get_config(s)->vocab,
                              .block_tokens = block_tokens};
    d->slots = array((uint64_t)n_blocks * block_tokens, sizeof *d->slots);
    for (uint64_t i = 0; i < (uint64_t)n_blocks * block_tokens; i++)
        d->slots[i] = mix(i, 0xdead);
    for (uint32_t i = 0; i < SCHED_IN_FLIGHT_MAX; i++) {
        struct fake_job *j = &d->jobs[i];
        j->buf = (struct batch_buffers){
            .tokens = array(cap.rows, sizeof(int32_t)),
            .positions = array(cap.rows, sizeof(int32_t)),
            .row_seq = array(cap.rows, sizeof(int32_t)),
            .row_slot = array(cap.rows, sizeof(int64_t)),
            .token_row = array(cap.rows, sizeof(int32_t)),
            .first_row = array(cap.seqs + 1, sizeof(int32_t)),
            .context = array(cap.seqs, sizeof(int32_t)),
            .prompt_len = array(cap.seqs, sizeof(int32_t)),
            .block_table = array(cap.blocks, sizeof(int32_t)),
            .logits_row = array(cap.logits, sizeof(int32_t)),
            .sample = array(cap.logits, sizeof(tn_sample_row)),
            .bias_ids = array(cap.bias, sizeof(int32_t)),
            .bias_values = array(cap.bias, sizeof(float)),
            .history = array(cap.history, sizeof(int32_t)),
        };
        j->sampled = array(cap.logits, sizeof(int32_t));
        j->logprob = array(cap.logits, sizeof(float));
        j->seq_status = array(cap.seqs, sizeof(int32_t));
        j->nan = array(cap.seqs, 1);
    }
}

void fake_release(struct fake_device *d)
{
    for (uint32_t i = 0; i < SCHED_IN_FLIGHT_MAX; i++) {
        struct fake_job *j = &d->jobs[i];
        void *all[] = {j->buf.tokens,      j->buf.positions,  j->buf.row_seq,
                       j->buf.row_slot,    j->buf.token_row,  j->buf.first_row,
                       j->buf.context,     j->buf.prompt_len, j->buf.block_table,
                       j->buf.logits_row,  j->buf.sample,     j->buf.bias_ids,
                       j->buf.bias_values, j->buf.history,    j->sampled,
                       j->logprob,         j->seq_status,     j->nan};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            mem_free(all[k]);
    }
    mem_free(d->slots);
    *d = (struct fake_device){0};
}

struct fake_job *fake_launch(struct fake_device *d, const struct sched_step *step,
                             uint32_t min_stride)
{
    struct fake_job *j = &d->jobs[(d->first + d->count) % SCHED_IN_FLIGHT_MAX];
    uint32_t n_unknown = 0, want_unknown = 0;

    assert(d->count < SCHED_IN_FLIGHT_MAX);
    j->step = step;
    j->status = TN_OK;
    j->ran = false;
    memset(j->seq_status, 0, step->n_seqs * sizeof *j->seq_status);
    memset(j->nan, 0, step->n_seqs);
    n_unknown = batch_fill(d->sched, step, min_stride, &j->buf, &j->arrays, &j->batch);
    for (uint32_t i = 0; i < step->n_rows; i++)
        want_unknown += j->buf.token_row[i] != SCHED_TOKEN_KNOWN;
    assert(n_unknown == want_unknown);
    d->count++;
    return j;
}

/* The rows of one sequence. A failing sequence leaves garbage in its slots, as a broken kernel
 * would. */
static void run_seq(struct fake_device *d, struct fake_job *j, uint32_t seq)
{
    const tn_batch_arrays *a = j->batch.host;
    const struct sched_seq *q = &j->step->seqs[seq];
    uint64_t klass = d->class_of(d->class_arg, q->user);
    const int32_t *table = a->block_table + (size_t)seq * j->batch.max_blocks;
    bool broken = j->status || j->seq_status[seq] || j->nan[seq];
    uint32_t logits = q->first_logits;

    for (int32_t row = a->first_row[seq]; row < a->first_row[seq + 1]; row++) {
        uint32_t pos = (uint32_t)a->positions[row], bt = d->block_tokens;
        int32_t token = j->buf.token_row[row] == SCHED_TOKEN_KNOWN
                            ? a->tokens[row]
                            : d->last_sampled[j->buf.token_row[row]];
        uint64_t state = 0;
        for (uint32_t p = 0; p < pos; p++)
            state = mix(state, d->slots[(uint64_t)table[p / bt] * bt + p % bt]);
        d->slots[a->row_slot[row]] = value_of(state, token, pos, klass) ^ (broken ? 0xbad : 0);
        state = mix(state, d->slots[(uint64_t)table[pos / bt] * bt + pos % bt]);
        if (logits >= q->first_logits + q->n_logits || a->logits_row[logits] != row)
            continue;
        j->sampled[logits] =
            choose(state, &a->sample[logits], a->bias_ids + a->sample[logits].first_bias,
                   a->bias_values + a->sample[logits].first_bias,
                   a->history + a->sample[logits].first_history, d->vocab);
        j->logprob[logits] = -(float)j->sampled[logits];
        if (j->nan[seq])
            j->sampled[logits] = TN_SAMPLE_NAN;
        logits++;
    }
    assert(logits == q->first_logits + q->n_logits);
}

static void run(struct fake_device *d, struct fake_job *j)
{
    /* Youngest first: a sequence that relied on a page written in the same step would read a stale
     * one. */
    for (uint32_t i = j->batch.n_seqs; i-- > 0;)
        run_seq(d, j, i);
    d->last_sampled = j->sampled;
    j->ran = true;
}

void fake_run(struct fake_device *d)
{
    for (uint32_t i = 0; i < d->count; i++) {
        struct fake_job *j = &d->jobs[(d->first + i) % SCHED_IN_FLIGHT_MAX];
        if (!j->ran)
            run(d, j);
    }
}

struct fake_job *fake_oldest(struct fake_device *d)
{
    struct fake_job *j = &d->jobs[d->first];

    if (d->count == 0)
        return NULL;
    if (!j->ran)
        run(d, j);
    return j;
}

void fake_pop(struct fake_device *d)
{
    d->first = (d->first + 1) % SCHED_IN_FLIGHT_MAX;
    d->count--;
}

void fake_clear(struct fake_device *d)
{
    d->first = d->count = 0;
}

/* -- The oracle -------------------------------------------------------------------------------- */

void oracle_init(struct oracle *o, const struct request_spec *spec, uint64_t klass, uint32_t vocab)
{
    *o = (struct oracle){.spec = spec, .klass = klass, .vocab = vocab};
}

void oracle_push(struct oracle *o, int32_t token)
{
    o->state = mix(o->state, value_of(o->state, token, o->n, o->klass));
    o->n++;
}

int32_t oracle_next(const struct oracle *o, const int32_t *tokens)
{
    const struct request_spec *spec = o->spec;
    const struct request_sampling *p = &spec->sampling;
    bool history =
        p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
    int32_t ids[64];
    float values[64];
    tn_sample_row row = {.temperature = p->temperature,
                         .top_p = p->top_p,
                         .min_p = p->min_p,
                         .repetition_penalty = p->repetition_penalty,
                         .presence_penalty = p->presence_penalty,
                         .frequency_penalty = p->frequency_penalty,
                         .top_k = p->top_k,
                         .seed = p->seed,
                         .position = o->n,
                         .prompt_len = spec->n_prompt,
                         .history_len = history ? o->n : 0};

    for (uint32_t i = 0; i < spec->n_bias; i++, row.n_bias++) {
        ids[row.n_bias] = spec->bias_ids[i];
        values[row.n_bias] = spec->bias_values[i];
    }
    if (o->n - spec->n_prompt < spec->min_new_tokens) {
        for (uint32_t i = 0; i < spec->n_eos_ids && !spec->ignore_eos; i++, row.n_bias++) {
            ids[row.n_bias] = spec->eos_ids[i];
            values[row.n_bias] = -INFINITY;
        }
        for (uint32_t i = 0; i < spec->n_stop_ids; i++, row.n_bias++) {
            ids[row.n_bias] = spec->stop_ids[i];
            values[row.n_bias] = -INFINITY;
        }
    }
    return choose(o->state, &row, ids, values, tokens, o->vocab);
}

int32_t oracle_logits(const struct oracle *o)
{
    tn_sample_row row = {
        .top_p = 1, .repetition_penalty = 1, .position = o->n, .prompt_len = o->spec->n_prompt};

    return choose(o->state, &row, NULL, NULL, NULL, o->vocab);
}
