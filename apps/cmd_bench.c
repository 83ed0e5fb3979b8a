/* SPDX-License-Identifier: Apache-2.0 */
/* tenon bench latency: a fixed batch of random prompts; prefill and decode are timed apart. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/strbuf.h"

struct shape {
    uint32_t batch, input, output, repeats, warmup;
    float temperature, top_p;
    uint32_t top_k;
};

/* Of one run, or medians of all. Decode is timed while every sequence decodes: from the first token of the last that got
 * one to the last token of the first that ends. */
struct timing {
    double prefill_s; /* until the last sequence has its first token */
    double decode_s;
    double decode_tokens;  /* chosen in that time */
    double context_tokens; /* that attention read for them, on average per step */
    uint32_t cached;       /* prompt tokens that were not computed: must be 0 for a fair figure */
};

/* What all runs have in common. */
struct machine {
    tn_runtime_info info;
    double ready_s;     /* time to open the runtime */
    double bytes_per_s; /* that the device reads, measured beside the runs */
    /* Of a rank of this process, on average over the timed runs: collectives and messages per step, and bytes that it handed
     * to them per token row. */
    double comm_calls, comm_bytes;
};

/* -- One run ------------------------------------------------------------------------------------------- */

/* What every sequence asks for, but for prompt and seed. */
static tn_request_params common_params(const struct shape *s)
{
    tn_request_params p = TN_REQUEST_PARAMS_INIT;

    p.n_prompt = s->input;
    p.max_new_tokens = s->output;
    p.ignore_eos = 1;
    p.temperature = s->temperature;
    p.top_k = s->top_k;
    p.top_p = s->top_p;
    return p;
}

/* All at once, so that a step takes as many prompts as it holds. */
static int32_t submit_all(tn_runtime *rt, const struct shape *s, struct rng *rng, uint32_t vocab,
                          tn_request **reqs, tn_err *err)
{
    int32_t *ids = mem_array((size_t)s->batch * s->input, sizeof *ids);
    tn_request_params *params = mem_array(s->batch, sizeof *params);
    const tn_request_params **list = mem_array(s->batch, sizeof *list);
    int32_t rc = ids && params && list ? TN_OK : err_nomem(err, "prompts");

    for (uint32_t i = 0; rc == TN_OK && i < s->batch; i++) {
        int32_t *prompt = ids + (size_t)i * s->input;
        for (uint32_t k = 0; k < s->input; k++)
            prompt[k] = (int32_t)rng_below(rng, vocab);
        params[i] = common_params(s);
        params[i].prompt = prompt;
        params[i].seed = rng_u64(rng);
        list[i] = &params[i];
    }
    if (rc == TN_OK)
        rc = tn_submit_many(rt, list, s->batch, reqs, err);
    mem_free(ids);
    mem_free(params);
    mem_free(list);
    return rc;
}

/* Takes events until the request has finished, and notes when each token came. */
static int32_t drain(tn_request *req, uint32_t output, uint64_t *times_ns, uint32_t *cached,
                     tn_err *err)
{
    tn_event ev = TN_EVENT_INIT;
    int32_t rc;

    for (;;) {
        rc = tn_next_event(req, 200, &ev, err);
        if (app_interrupted(NULL))
            tn_cancel(req);
        if (rc == TN_E_TIMEOUT)
            continue;
        if (rc != TN_OK)
            return rc;
        if (ev.kind == TN_EVENT_FINISHED)
            break;
        if (ev.index < output)
            times_ns[ev.index] = ev.time_ns;
    }
    *cached += ev.usage.n_cached;
    if (ev.finish != TN_FINISH_LENGTH)
        return tn_err_set(err, ev.status ? ev.status : TN_E_INTERNAL, "%s", ev.message);
    return TN_OK;
}

/* times[sequence][token], since each was submitted; they were within microseconds, which is neglected. */
static void evaluate(const struct shape *s, const uint64_t *times, struct timing *out)
{
    uint64_t begin = 0, end = UINT64_MAX;
    double contexts = 0;

    for (uint32_t i = 0; i < s->batch; i++) {
        const uint64_t *t = times + (size_t)i * s->output;
        begin = t[0] > begin ? t[0] : begin;
        end = t[s->output - 1] < end ? t[s->output - 1] : end;
    }
    out->prefill_s = (double)begin / 1e9;
    for (uint32_t i = 0; i < s->batch; i++)
        for (uint32_t k = 1; k < s->output; k++) {
            uint64_t t = times[(size_t)i * s->output + k];
            if (t <= begin || t > end)
                continue;
            out->decode_tokens++;
            contexts += s->input + k;
        }
    if (out->decode_tokens > 0) {
        out->decode_s = (double)(end - begin) / 1e9;
        out->context_tokens = contexts / out->decode_tokens * s->batch;
    }
}

static int32_t run_batch(tn_runtime *rt, const struct shape *s, struct rng *rng, uint32_t vocab,
                         struct timing *out, tn_err *err)
{
    tn_request **reqs = mem_zarray(s->batch, sizeof *reqs);
    uint64_t *times = mem_zarray((size_t)s->batch * s->output, sizeof *times);
    int32_t rc = reqs && times ? TN_OK : err_nomem(err, "a batch");

    *out = (struct timing){0};
    if (rc == TN_OK)
        rc = submit_all(rt, s, rng, vocab, reqs, err);
    for (uint32_t i = 0; i < s->batch && rc == TN_OK; i++)
        rc = drain(reqs[i], s->output, times + (size_t)i * s->output, &out->cached, err);
    for (uint32_t i = 0; reqs && i < s->batch; i++)
        tn_release(reqs[i]);
    if (rc == TN_OK)
        evaluate(s, times, out);
    mem_free(reqs);
    mem_free(times);
    return rc;
}

/* -- Results ------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Bytes that a decode step must read: the weights that every step streams, and the keys and values of all contexts. */
static double step_bytes(const struct machine *m, const struct timing *t)
{
    double per_token = (double)m->info.kv_page_bytes / m->info.kv_page_tokens;

    return (double)m->info.streamed_bytes + t->context_tokens * per_token;
}

/* Why there was no time at which all sequences decoded, and what would give as many steps of all as were asked for. */
static void explain_no_decode(const struct shape *s, const struct machine *m, char why[160])
{
    uint64_t prompts = (uint64_t)s->batch * s->input, others = s->batch - 1;
    uint64_t step = m->info.max_num_tokens > others ? m->info.max_num_tokens - others : 1;

    if (s->output == 1)
        snprintf(why, 160, "not measured: one token per sequence comes with its prompt");
    else
        snprintf(why, 160,
                 "not measured: the first of %" PRIu32 " sequences ended before the last began; "
                 "an output length of %" PRIu64 " should do",
                 s->batch, prompts / step + s->output + 2);
}

static json_t *decode_json(const struct shape *s, const struct machine *m, const struct timing *t)
{
    double steps = t->decode_tokens / s->batch, bytes = step_bytes(m, t);
    double step_s = steps > 0 ? t->decode_s / steps : 0, floor_s = bytes / m->bytes_per_s;
    char why[160];

    if (steps > 0)
        return json_pack("{s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f}", "decode_steps", steps,
                         "decode_ms_per_step", step_s * 1e3, "decode_tokens_per_s",
                         s->batch / step_s, "streamed_bytes_per_step",
                         (json_int_t)m->info.streamed_bytes, "bytes_per_step", (json_int_t)bytes,
                         "read_gb_per_s", bytes / step_s / 1e9, "device_gb_per_s",
                         m->bytes_per_s / 1e9, "floor_ms_per_step", floor_s * 1e3, "floor_share",
                         floor_s / step_s);
    explain_no_decode(s, m, why);
    return json_pack("{s:f, s:n, s:n, s:I, s:n, s:n, s:f, s:n, s:n, s:s}", "decode_steps", 0.0,
                     "decode_ms_per_step", "decode_tokens_per_s", "streamed_bytes_per_step",
                     (json_int_t)m->info.streamed_bytes, "bytes_per_step", "read_gb_per_s",
                     "device_gb_per_s", m->bytes_per_s / 1e9, "floor_ms_per_step", "floor_share",
                     "decode_note", why);
}

static json_t *result_json(const struct shape *s, const struct machine *m, const struct timing *t)
{
    json_t *r = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:i}", "device",
                          m->info.device, "device_name", m->info.device_name, "batch",
                          (int)s->batch, "input_len", (int)s->input, "output_len", (int)s->output,
                          "repeats", (int)s->repeats, "temperature", (double)s->temperature,
                          "ready_s", m->ready_s, "prefill_ms", t->prefill_s * 1e3,
                          "prefill_tokens_per_s", (double)s->batch * s->input / t->prefill_s,
                          "cached_prompt_tokens", (int)t->cached);

    if (r && m->info.n_ranks > 1 &&
        json_object_update_new(r, json_pack("{s:i, s:f, s:f}", "ranks", (int)m->info.n_ranks,
                                            "comm_calls_per_step", m->comm_calls,
                                            "comm_bytes_per_token", m->comm_bytes)) != 0) {
        json_decref(r);
        return NULL;
    }
    if (!r ||
        json_object_update_new(
            r, json_pack("{s:f, s:f, s:f, s:i}", "tune_s", (double)m->info.tune_ns / 1e9, "load_s",
                         (double)m->info.load_ns / 1e9, "capture_s",
                         (double)m->info.capture_ns / 1e9, "graphs", (int)m->info.n_graphs)) != 0 ||
        json_object_update_new(r, decode_json(s, m, t)) != 0) {
        json_decref(r);
        return NULL;
    }
    return r;
}

static void print_result(const json_t *r)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)r, key, v)
    {
        if (json_is_real(v))
            printf("  %-26s %.3f\n", key, json_real_value(v));
        else if (json_is_integer(v))
            printf("  %-26s %lld\n", key, (long long)json_integer_value(v));
        else if (json_is_null(v))
            printf("  %-26s -\n", key);
        else
            printf("  %-26s %s\n", key, json_string_value(v));
    }
}

/* The run in the middle by decode time, with the median of the prefill times, which vary apart from it. */
static struct timing summarize(struct timing *runs, const struct shape *s, double *scratch)
{
    struct timing t = {0};
    double per_token;

    for (uint32_t i = 0; i < s->repeats; i++)
        scratch[i] = runs[i].prefill_s;
    t.prefill_s = median(scratch, s->repeats);
    for (uint32_t i = 0; i < s->repeats; i++) {
        scratch[i] = runs[i].decode_tokens > 0 ? runs[i].decode_s / runs[i].decode_tokens : 0;
        t.decode_tokens += runs[i].decode_tokens / s->repeats;
        t.context_tokens += runs[i].context_tokens / s->repeats;
        t.cached += runs[i].cached;
    }
    per_token = median(scratch, s->repeats);
    t.decode_s = per_token * t.decode_tokens;
    return t;
}

static tn_runtime_stats stats_of(tn_runtime *rt)
{
    tn_runtime_stats s = {.h = TN_HDR(tn_runtime_stats)};

    tn_stats(rt, &s);
    return s;
}

/* The last token of a sequence is chosen and never computed on. */
static void count_comm(tn_runtime *rt, const tn_runtime_stats *before, const struct shape *s,
                       struct machine *m)
{
    tn_runtime_stats now = stats_of(rt);
    double ranks = (double)m->info.n_ranks / m->info.n_processes;
    double rows = (double)s->repeats * s->batch * (s->input + s->output - 1);

    m->comm_calls = (double)(now.comm_calls - before->comm_calls) /
                    (double)(now.n_steps - before->n_steps) / ranks;
    m->comm_bytes = (double)(now.comm_bytes - before->comm_bytes) / rows / ranks;
}

/* Refuses a batch whose sequences the cache does not hold at once: some would wait for others to end, and no figure would be
 * one of the batch. What is the matter is told in JSON, too, where that was asked for. */
static int32_t check_cache(const struct opts *o, const struct shape *s, const tn_runtime_info *i,
                           tn_err *err)
{
    uint64_t tokens = (uint64_t)s->input + s->output - 1; /* the last is not computed on */
    uint64_t pages = (tokens + i->kv_page_tokens - 1) / i->kv_page_tokens;
    uint64_t fit = i->kv_pages / pages;
    tn_err ignored = TN_ERR_INIT;

    if (fit >= s->batch)
        return TN_OK;
    tn_err_set(err, TN_E_LIMIT,
               "the KV cache holds %" PRIu64 " of %" PRIu32
               " sequences at once: each needs %" PRIu64 " pages for %" PRIu64
               " tokens, and there are %" PRIu32 " pages of %" PRIu32 " tokens (%" PRIu64
               " bytes each)",
               fit, s->batch, pages, tokens, i->kv_pages, i->kv_page_tokens, i->kv_page_bytes);
    err_remedy(err,
               "take --batch-size %" PRIu64 " or shorter sequences, or give the cache more: "
               "kv.free_mem_fraction, kv.max_bytes, or 8 bits by --kv-cache-dtype",
               fit > 0 ? fit : 1);
    if (opts_flag(o, "json"))
        app_print_json(json_pack("{s:s, s:i, s:i, s:i, s:I, s:I, s:i, s:i}", "error", err->msg,
                                 "batch", (int)s->batch, "input_len", (int)s->input, "output_len",
                                 (int)s->output, "sequences_at_once", (json_int_t)fit,
                                 "kv_pages_per_sequence", (json_int_t)pages, "kv_pages",
                                 (int)i->kv_pages, "kv_page_tokens", (int)i->kv_page_tokens),
                       &ignored);
    return TN_E_LIMIT;
}

static int32_t measure(const struct opts *o, tn_runtime *rt, const struct shape *s,
                       struct machine *m, tn_err *err)
{
    struct rng rng = {(uint64_t)opts_int(o, "seed", 1)};
    struct timing *runs = mem_zarray(s->repeats, sizeof *runs), ignored, t;
    double *scratch = mem_array(s->repeats, sizeof *scratch);
    tn_runtime_stats before;
    json_t *r;
    int32_t rc = runs && scratch ? TN_OK : err_nomem(err, "a benchmark");

    m->info = (tn_runtime_info){.h = TN_HDR(tn_runtime_info)};
    tn_info(rt, &m->info);
    if (rc == TN_OK)
        rc = check_cache(o, s, &m->info, err);
    if (rc == TN_OK)
        rc = tn_measure_bandwidth(rt, &m->bytes_per_s, err);
    for (uint32_t i = 0; i < s->warmup && rc == TN_OK; i++)
        rc = run_batch(rt, s, &rng, m->info.vocab, &ignored, err);
    before = stats_of(rt);
    for (uint32_t i = 0; i < s->repeats && rc == TN_OK; i++)
        rc = run_batch(rt, s, &rng, m->info.vocab, &runs[i], err);
    if (rc == TN_OK) {
        count_comm(rt, &before, s, m);
        t = summarize(runs, s, scratch);
        r = result_json(s, m, &t);
        if (!r)
            rc = err_nomem(err, "a result");
        else if (opts_flag(o, "json"))
            rc = app_print_json(r, err);
        else {
            print_result(r);
            json_decref(r);
        }
    }
    mem_free(runs);
    mem_free(scratch);
    return rc;
}

static int32_t bench_latency(const struct opts *o, tn_err *err)
{
    struct shape s = {.batch = (uint32_t)opts_int(o, "batch-size", 1),
                      .input = (uint32_t)opts_int(o, "input-len", 128),
                      .output = (uint32_t)opts_int(o, "output-len", 128),
                      .repeats = (uint32_t)opts_int(o, "repeats", 3),
                      .warmup = (uint32_t)opts_int(o, "warmup", 1),
                      .temperature = (float)opts_real(o, "temperature", 0),
                      .top_k = (uint32_t)opts_int(o, "top-k", 0),
                      .top_p = (float)opts_real(o, "top-p", 1)};
    char batch[16], length[16], tokens[16];
    tn_kv settings[] = {{"scheduler.max_batch_size", batch},
                        {"scheduler.max_seq_len", length},
                        {"scheduler.max_num_tokens", tokens}};
    uint64_t rows = (uint64_t)s.batch * s.input;
    struct machine m = {.ready_s = 0};
    uint64_t begin = clock_ns();
    tn_runtime *rt = NULL;
    int32_t rc;

    snprintf(batch, sizeof batch, "%" PRIu32, s.batch);
    snprintf(length, sizeof length, "%" PRIu32, s.input + s.output);
    snprintf(tokens, sizeof tokens, "%" PRIu64, rows < 16 ? 16 : rows > 2048 ? 2048 : rows);
    rc = app_open(o, settings, 3, &rt, err);
    m.ready_s = (double)(clock_ns() - begin) / 1e9;
    if (rc == TN_OK)
        rc = measure(o, rt, &s, &m, err);
    tn_close(rt);
    return rc;
}

static int run(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, bench_latency);
}

static const struct opt options[] = {
    {"engine", OPT_TEXT, "DIR", "engine to run", 0, 0, NULL, true},
    {"batch-size", OPT_INT, "N", "sequences at once (1)", 1, 4096, NULL, false},
    {"input-len", OPT_INT, "N", "tokens of each prompt, random (128)", 1, 1 << 24, NULL, false},
    {"output-len", OPT_INT, "N", "tokens to generate, end tokens ignored (128)", 1, 1 << 24, NULL,
     false},
    {"repeats", OPT_INT, "N", "timed runs; the median counts (3)", 1, 1000, NULL, false},
    {"warmup", OPT_INT, "N", "runs before (1)", 0, 1000, NULL, false},
    {"seed", OPT_INT, "N", "of the prompts", 0, 1e15, NULL, false},
    {"temperature", OPT_REAL, "X", "0 is greedy (0)", 0, 100, NULL, false},
    {"top-k", OPT_INT, "N", "sample among the N most probable; 0: all (0)", 0, 1 << 24, NULL,
     false},
    {"top-p", OPT_REAL, "X", "sample within this probability mass (1)", 0, 1, NULL, false},
    {"json", OPT_FLAG, NULL, "print JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_bench_latency = {
    .name = "bench latency",
    .summary = "Time prefill and decode of a fixed batch",
    .details =
        "Prompts are random and differ between runs, so that nothing comes from the prefix cache. "
        "Decode is timed while all sequences decode; a batch that the KV cache does not hold at "
        "once is refused with the number that it holds, and figures of decode are null, with a "
        "decode_note, if the first sequence ended before the last began. bytes_per_step counts "
        "weights and keys and values that a step must read; floor_share is the time that the "
        "device needs to read as many "
        "(device_gb_per_s, measured in the same run) over the time of a step. With several ranks, "
        "comm_calls_per_step and comm_bytes_per_token tell what each hands to the others: two sums "
        "per "
        "layer and one behind the embedding, and its part of the logits (docs/scaling.md).",
    .own = options,
    .takes_conf = true,
    .run = run};
