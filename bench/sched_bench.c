/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host work per step: schedule, fill the batch, commit. With tokens from nowhere and no device, the
 * time is the scheduler's own. Prints one line per case, microseconds: median, 99th percentile and
 * worst over all steps.
 *
 *   bench_sched [SEQS [CONTEXT [STEPS]]]      default 256 sequences of 1024 tokens of context, 2000 steps
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "sched/batch.h"
#include "sched/sched.h"

#define VOCAB 32000
#define BLOCK_TOKENS 16

static void die(const tn_err *err)
{
    fprintf(stderr, "bench_sched: %s: %s\n", err->field, err->msg);
    exit(1);
}

static void *array(uint64_t n, size_t size)
{
    void *p = mem_zarray(n, size);

    if (!p) {
        fprintf(stderr, "bench_sched: out of memory\n");
        exit(1);
    }
    return p;
}

struct bench {
    struct kv_cache *kv;
    struct sched *s;
    struct batch_buffers buf;
    int32_t *sampled;
    uint64_t n_tokens;
    struct rng rng;
    uint32_t n_seqs, context, steps;
};

static void on_event(void *arg, const struct sched_event *e)
{
    struct bench *b = arg;

    b->n_tokens += e->kind == SCHED_EVENT_TOKEN;
}

static void open_bench(struct bench *b, uint32_t policy, uint32_t in_flight)
{
    struct kv_config kc = {.block_tokens = BLOCK_TOKENS, .prefix_reuse = true};
    struct sched_config c = SCHED_CONFIG_INIT;
    struct batch_capacity cap;
    tn_err err = TN_ERR_INIT;

    c.policy = policy;
    c.max_batch_size = b->n_seqs;
    c.max_num_tokens = b->n_seqs + 2048;
    c.max_seq_len = b->context + b->steps + 64;
    c.max_in_flight = in_flight;
    c.max_queued = LIMIT_QUEUED;
    c.vocab = VOCAB;
    kc.n_blocks = b->n_seqs * (c.max_seq_len / BLOCK_TOKENS + 2);
    if (kv_new(&kc, &b->kv, &err) || sched_new(&c, b->kv, on_event, b, &b->s, &err))
        die(&err);
    cap = batch_capacity(b->s);
    b->buf = (struct batch_buffers){
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
    b->sampled = array(cap.logits, sizeof *b->sampled);
}

static void close_bench(struct bench *b)
{
    void *all[] = {b->buf.tokens,      b->buf.positions,  b->buf.row_seq, b->buf.row_slot,
                   b->buf.token_row,   b->buf.first_row,  b->buf.context, b->buf.prompt_len,
                   b->buf.block_table, b->buf.logits_row, b->buf.sample,  b->buf.bias_ids,
                   b->buf.bias_values, b->buf.history,    b->sampled};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mem_free(all[i]);
    sched_free(b->s);
    kv_free(b->kv);
}

static void submit(struct bench *b, uint32_t n_prompt, uint32_t max_new, bool penalty)
{
    struct request_spec spec = REQUEST_SPEC_INIT;
    int32_t *prompt = array(n_prompt, sizeof *prompt);
    struct request *r = NULL;
    tn_err err = TN_ERR_INIT;
    uint64_t id;

    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)rng_below(&b->rng, VOCAB);
    spec.prompt = prompt;
    spec.n_prompt = n_prompt;
    spec.max_new_tokens = max_new;
    spec.sampling.temperature = 0.7f;
    spec.sampling.repetition_penalty = penalty ? 1.1f : 1.0f;
    if (request_new(b->s, &spec, &r, &err) || sched_submit(b->s, r, 0, &id, &err))
        die(&err);
    mem_free(prompt);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print(const char *name, const char *what, double *us, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += us[i];
    qsort(us, n, sizeof *us, ascending);
    printf("%-34s %-9s median %7.2f  p99 %7.2f  worst %8.2f  mean %7.2f us\n", name, what,
           us[n / 2], us[n * 99 / 100], us[n - 1], sum / n);
}

/* One step; tokens are random, so no prefix is shared by chance. */
static bool step_once(struct bench *b, uint64_t now, double us[3])
{
    const struct sched_step *step = NULL;
    struct sched_result result = {.sampled = b->sampled};
    tn_batch_arrays arrays;
    tn_batch batch;
    tn_err err = TN_ERR_INIT;
    uint64_t t0 = clock_ns(), t1, t2, t3;

    if (sched_schedule(b->s, now, &step, &err))
        die(&err);
    t1 = clock_ns();
    if (!step)
        return false;
    batch_fill(b->s, step, 0, &b->buf, &arrays, &batch);
    t2 = clock_ns();
    for (uint32_t i = 0; i < step->n_logits; i++)
        b->sampled[i] = (int32_t)rng_below(&b->rng, VOCAB);
    t3 = clock_ns();
    if (sched_commit(b->s, step, &result, now, &err))
        die(&err);
    us[0] = (double)(t1 - t0) / 1e3;
    us[1] = (double)(t2 - t1) / 1e3;
    us[2] = (double)(clock_ns() - t3) / 1e3;
    return true;
}

/* All sequences decode; `queued` more wait that cannot be admitted. */
static void decode_case(struct bench *b, const char *name, uint32_t policy, bool penalty,
                        uint32_t queued)
{
    static const char *const parts[] = {"schedule", "fill", "commit"};
    double *us[4], part[3];
    uint32_t n = 0;

    b->rng = (struct rng){1};
    open_bench(b, policy, 1);
    for (int k = 0; k < 4; k++)
        us[k] = array(b->steps, sizeof(double));
    for (uint32_t i = 0; i < b->n_seqs; i++)
        submit(b, b->context, b->steps + 32, penalty);
    for (struct sched_stats st = {0}; st.n_running < b->n_seqs || st.rows < 1;) {
        step_once(b, 0, part);
        sched_get_stats(b->s, &st);
    }
    step_once(b, 0, part); /* the last prompt's end */
    for (uint32_t i = 0; i < queued; i++)
        submit(b, b->context, 32, false);
    for (; n < b->steps && step_once(b, 0, part); n++) {
        for (int k = 0; k < 3; k++)
            us[k][n] = part[k];
        us[3][n] = part[0] + part[1] + part[2];
    }
    for (int k = 0; k < 3; k++)
        print(name, parts[k], us[k], n);
    print(name, "all", us[3], n);
    for (int k = 0; k < 4; k++)
        mem_free(us[k]);
    close_bench(b);
}

/* Short requests come and go: admissions, prefix look-ups and ends in every step. */
static void churn_case(struct bench *b, const char *name)
{
    double *us = array(b->steps, sizeof *us), part[3];
    uint32_t n = 0;

    b->rng = (struct rng){2};
    open_bench(b, SCHED_GUARANTEED_NO_EVICT, 1);
    for (; n < b->steps; n++) {
        struct sched_stats st;
        sched_get_stats(b->s, &st);
        for (uint32_t i = st.n_waiting; i < 8; i++)
            submit(b, 128 + (uint32_t)rng_below(&b->rng, 256),
                   64 + (uint32_t)rng_below(&b->rng, 128), false);
        if (!step_once(b, 0, part))
            break;
        us[n] = part[0] + part[1] + part[2];
    }
    print(name, "all", us, n);
    sched_abort(b->s, TN_E_CANCELED, 0);
    mem_free(us);
    close_bench(b);
}

static uint32_t number(int argc, char **argv, int i, uint32_t otherwise)
{
    return argc > i ? (uint32_t)strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    struct bench b = {.n_seqs = number(argc, argv, 1, 256),
                      .context = number(argc, argv, 2, 1024),
                      .steps = number(argc, argv, 3, 2000)};

    printf("%u sequences, %u tokens of context at the begin, %u steps\n", b.n_seqs, b.context,
           b.steps);
    decode_case(&b, "decode", SCHED_GUARANTEED_NO_EVICT, false, 0);
    decode_case(&b, "decode, 10000 queued", SCHED_GUARANTEED_NO_EVICT, false, 10000);
    decode_case(&b, "decode, max utilization", SCHED_MAX_UTILIZATION, false, 100);
    decode_case(&b, "decode, penalties", SCHED_GUARANTEED_NO_EVICT, true, 0);
    churn_case(&b, "come and go");
    return 0;
}
