/* SPDX-License-Identifier: Apache-2.0 */
/* tenon bench latency: a fixed batch of random prompts; prefill and decode are timed apart. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/strbuf.h"

struct shape {
    uint32_t batch, input, output, repeats, warmup;
};

struct timing {
    double prefill_s; /* until the last sequence has its first token */
    double decode_s;  /* from then until the last token */
    uint32_t cached;  /* prompt tokens that were not computed: must be 0 for a fair figure */
};

/* -- One run ------------------------------------------------------------------------------------------- */

static int32_t submit_one(tn_runtime *rt, const struct shape *s, struct rng *rng, uint32_t vocab,
                          tn_request **out, tn_err *err)
{
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    int32_t *ids = mem_array(s->input, sizeof *ids);
    int32_t rc;

    if (!ids)
        return err_nomem(err, "a prompt");
    for (uint32_t i = 0; i < s->input; i++)
        ids[i] = (int32_t)rng_below(rng, vocab);
    p.prompt = ids;
    p.n_prompt = s->input;
    p.max_new_tokens = s->output;
    p.ignore_eos = 1;
    rc = tn_submit(rt, &p, out, err);
    mem_free(ids);
    return rc;
}

/* Takes events until the request has finished; notes when its first and last token came. */
static int32_t drain(tn_request *req, uint64_t *first_ns, uint64_t *last_ns, uint32_t *cached,
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
        if (ev.index == 0)
            *first_ns = ev.time_ns;
        *last_ns = ev.time_ns;
    }
    *cached += ev.usage.n_cached;
    if (ev.finish != TN_FINISH_LENGTH)
        return tn_err_set(err, ev.status ? ev.status : TN_E_INTERNAL, "%s", ev.message);
    return TN_OK;
}

static int32_t run_batch(tn_runtime *rt, const struct shape *s, struct rng *rng, uint32_t vocab,
                         struct timing *out, tn_err *err)
{
    tn_request **reqs = mem_zarray(s->batch, sizeof *reqs);
    uint64_t first = 0, last = 0;
    int32_t rc = reqs ? TN_OK : err_nomem(err, "a batch");

    *out = (struct timing){0};
    for (uint32_t i = 0; i < s->batch && rc == TN_OK; i++)
        rc = submit_one(rt, s, rng, vocab, &reqs[i], err);
    for (uint32_t i = 0; i < s->batch && rc == TN_OK; i++) {
        uint64_t f = 0, l = 0;
        rc = drain(reqs[i], &f, &l, &out->cached, err);
        first = f > first ? f : first;
        last = l > last ? l : last;
    }
    for (uint32_t i = 0; reqs && i < s->batch; i++)
        tn_release(reqs[i]);
    mem_free(reqs);
    out->prefill_s = (double)first / 1e9;
    out->decode_s = (double)(last - first) / 1e9;
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

static json_t *result_json(const struct shape *s, const tn_runtime_info *info, double prefill,
                           double decode, uint32_t cached)
{
    double steps = s->output > 1 ? s->output - 1 : 0;
    double step_ms = steps > 0 ? decode * 1e3 / steps : 0;
    double streamed = (double)info->streamed_bytes;

    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:I, s:f, s:i}", "device", info->device,
        "device_name", info->device_name, "batch", (int)s->batch, "input_len", (int)s->input,
        "output_len", (int)s->output, "repeats", (int)s->repeats, "prefill_ms", prefill * 1e3,
        "prefill_tokens_per_s", (double)s->batch * s->input / prefill, "decode_ms_per_step",
        step_ms, "decode_tokens_per_s", step_ms > 0 ? s->batch * 1e3 / step_ms : 0.0,
        "streamed_bytes_per_step", (json_int_t)info->streamed_bytes, "weight_gb_per_s",
        step_ms > 0 ? streamed / (step_ms * 1e6) : 0.0, "cached_prompt_tokens", (int)cached);
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
        else
            printf("  %-26s %s\n", key, json_string_value(v));
    }
}

static int32_t measure(const struct opts *o, tn_runtime *rt, const struct shape *s, tn_err *err)
{
    tn_runtime_info info = {.h = TN_HDR(tn_runtime_info)};
    struct rng rng = {(uint64_t)opts_int(o, "seed", 1)};
    double *prefill = mem_array(s->repeats, sizeof *prefill),
           *decode = mem_array(s->repeats, sizeof *decode);
    struct timing t = {0};
    uint32_t cached = 0;
    json_t *r;
    int32_t rc = prefill && decode ? TN_OK : err_nomem(err, "a benchmark");

    tn_info(rt, &info);
    for (uint32_t i = 0; i < s->warmup + s->repeats && rc == TN_OK; i++) {
        rc = run_batch(rt, s, &rng, info.vocab, &t, err);
        cached += t.cached;
        if (i >= s->warmup) {
            prefill[i - s->warmup] = t.prefill_s;
            decode[i - s->warmup] = t.decode_s;
        }
    }
    if (rc == TN_OK) {
        r = result_json(s, &info, median(prefill, s->repeats), median(decode, s->repeats), cached);
        if (opts_flag(o, "json"))
            rc = app_print_json(r, err);
        else {
            print_result(r);
            json_decref(r);
        }
    }
    mem_free(prefill);
    mem_free(decode);
    return rc;
}

static int32_t bench_latency(const struct opts *o, tn_err *err)
{
    struct shape s = {.batch = (uint32_t)opts_int(o, "batch-size", 1),
                      .input = (uint32_t)opts_int(o, "input-len", 128),
                      .output = (uint32_t)opts_int(o, "output-len", 128),
                      .repeats = (uint32_t)opts_int(o, "repeats", 3),
                      .warmup = (uint32_t)opts_int(o, "warmup", 1)};
    char batch[16], length[16], tokens[16];
    tn_kv settings[] = {{"scheduler.max_batch_size", batch},
                        {"scheduler.max_seq_len", length},
                        {"scheduler.max_num_tokens", tokens}};
    uint64_t rows = (uint64_t)s.batch * s.input;
    tn_runtime *rt = NULL;
    int32_t rc;

    snprintf(batch, sizeof batch, "%" PRIu32, s.batch);
    snprintf(length, sizeof length, "%" PRIu32, s.input + s.output);
    snprintf(tokens, sizeof tokens, "%" PRIu64, rows < 16 ? 16 : rows > 2048 ? 2048 : rows);
    rc = app_open(o, settings, 3, &rt, err);
    if (rc == TN_OK)
        rc = measure(o, rt, &s, err);
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
    {"json", OPT_FLAG, NULL, "print JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_bench_latency = {
    .name = "bench latency",
    .summary = "Time prefill and decode of a fixed batch",
    .details =
        "Prompts are random and differ between runs, so that nothing comes from the prefix cache. "
        "weight_gb_per_s is the rate at which a decode step streams the weights.",
    .own = options,
    .takes_conf = true,
    .run = run};
