/* SPDX-License-Identifier: Apache-2.0 */
/* Checking and copying a request. Every number from outside passes the table of ranges or a check
 * beside it, so that nothing behind this file meets a value it cannot serve. Called by any thread:
 * it reads only what is constant in the scheduler. */
#include "sched/request.h"

#include <math.h>

#include "base/limits.h"
#include "base/mem.h"
#include "sched/state.h"

static int32_t refuse(tn_err *err, int32_t code, const char *field, const char *remedy,
                      const char *fmt, ...) TN_PRINTF(5, 6);

static int32_t refuse(tn_err *err, int32_t code, const char *field, const char *remedy,
                      const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_at(err, code, NULL, TN_NO_OFFSET, field, "%s", text);
    err_remedy(err, "%s", remedy);
    return code;
}

/* -- Ranges ------------------------------------------------------------------------------------ */

struct real_range {
    const char *field;
    size_t offset; /* of a float in request_sampling */
    double min, max;
    bool above_min; /* the minimum itself is out */
};

static const struct real_range real_ranges[] = {
    {"temperature", offsetof(struct request_sampling, temperature), 0, 100, false},
    {"top_p", offsetof(struct request_sampling, top_p), 0, 1, true},
    {"min_p", offsetof(struct request_sampling, min_p), 0, 1, false},
    {"repetition_penalty", offsetof(struct request_sampling, repetition_penalty), 0.01, 100, false},
    {"presence_penalty", offsetof(struct request_sampling, presence_penalty), -2, 2, false},
    {"frequency_penalty", offsetof(struct request_sampling, frequency_penalty), -2, 2, false},
};

struct count_range {
    const char *field;
    size_t offset; /* of a uint32_t in request_spec */
    uint32_t min, max;
};

static const struct count_range count_ranges[] = {
    {"prompt", offsetof(struct request_spec, n_prompt), 1, LIMIT_POSITIONS},
    {"max_new_tokens", offsetof(struct request_spec, max_new_tokens), 0, LIMIT_POSITIONS},
    {"min_new_tokens", offsetof(struct request_spec, min_new_tokens), 0, LIMIT_POSITIONS},
    {"eos_ids", offsetof(struct request_spec, n_eos_ids), 0, LIMIT_STOP_IDS},
    {"stop_ids", offsetof(struct request_spec, n_stop_ids), 0, LIMIT_STOP_IDS},
    {"logit_bias", offsetof(struct request_spec, n_bias), 0, LIMIT_LOGIT_BIAS},
    {"n_logprobs", offsetof(struct request_spec, n_logprobs), 0, LIMIT_LOGPROBS},
};

#define BIAS_MAX 100.0f

static int32_t check_ranges(const struct request_spec *spec, tn_err *err)
{
    for (size_t i = 0; i < sizeof count_ranges / sizeof *count_ranges; i++) {
        const struct count_range *c = &count_ranges[i];
        uint32_t v;
        memcpy(&v, (const char *)spec + c->offset, sizeof v);
        if (v < c->min || v > c->max)
            return refuse(err, TN_E_RANGE, c->field, "stay within the range",
                          "has or is %u, must be %u .. %u", v, c->min, c->max);
    }
    for (size_t i = 0; i < sizeof real_ranges / sizeof *real_ranges; i++) {
        const struct real_range *f = &real_ranges[i];
        float v;
        memcpy(&v, (const char *)&spec->sampling + f->offset, sizeof v);
        /* written so that NaN fails */
        if (!(v >= f->min && v <= f->max) || (f->above_min && v <= f->min))
            return refuse(err, TN_E_RANGE, f->field, "stay within the range",
                          "is %g, must be %s %g and at most %g", (double)v,
                          f->above_min ? "above" : "at least", f->min, f->max);
    }
    if (spec->salt_bytes > LIMIT_SALT_BYTES)
        return refuse(err, TN_E_LIMIT, "salt", "send a digest of it", "has %zu bytes, at most %d",
                      spec->salt_bytes, LIMIT_SALT_BYTES);
    return TN_OK;
}

static int32_t check_ids(const char *field, const int32_t *ids, uint32_t n, uint32_t vocab,
                         tn_err *err)
{
    char name[64];

    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] >= 0 && (uint32_t)ids[i] < vocab)
            continue;
        snprintf(name, sizeof name, "%s[%u]", field, i);
        return refuse(err, TN_E_RANGE, name, "use the tokenizer of this model",
                      "is %d, token ids are 0 .. %u", ids[i], vocab - 1);
    }
    return TN_OK;
}

static int32_t check_lists(const struct sched *s, const struct request_spec *spec, tn_err *err)
{
    uint32_t vocab = s->config.vocab;
    int32_t rc = check_ids("prompt", spec->prompt, spec->n_prompt, vocab, err);

    if (!rc)
        rc = check_ids("eos_ids", spec->eos_ids, spec->n_eos_ids, vocab, err);
    if (!rc)
        rc = check_ids("stop_ids", spec->stop_ids, spec->n_stop_ids, vocab, err);
    if (!rc)
        rc = check_ids("logit_bias", spec->bias_ids, spec->n_bias, vocab, err);
    for (uint32_t i = 0; !rc && i < spec->n_bias; i++)
        if (!(fabsf(spec->bias_values[i]) <= BIAS_MAX))
            rc = refuse(err, TN_E_RANGE, "logit_bias", "stay within the range",
                        "of token %d is %g, must be -100 .. 100", spec->bias_ids[i],
                        (double)spec->bias_values[i]);
    return rc;
}

/* What could never run is refused here, so that it does not stand at the head of the queue for
 * ever. */
static int32_t check_fit(const struct sched *s, const struct request_spec *spec, tn_err *err)
{
    const struct sched_config *c = &s->config;
    uint64_t sum = (uint64_t)spec->n_prompt + spec->max_new_tokens;
    uint64_t computed = sum - (spec->max_new_tokens > 0);
    uint32_t n_bans = spec->min_new_tokens ? spec->n_eos_ids + spec->n_stop_ids : 0;

    if (spec->want_logits && spec->max_new_tokens)
        return refuse(err, TN_E_INVALID, "max_new_tokens", "set it to 0",
                      "is %u, but a request for prompt logits has no output", spec->max_new_tokens);
    if (!spec->want_logits && !spec->max_new_tokens)
        return refuse(err, TN_E_RANGE, "max_new_tokens", "ask for at least one token",
                      "is 0, must be at least 1");
    if (spec->min_new_tokens > spec->max_new_tokens)
        return refuse(err, TN_E_INVALID, "min_new_tokens", "lower it to max_new_tokens",
                      "is %u, max_new_tokens is %u", spec->min_new_tokens, spec->max_new_tokens);
    if (sum > c->max_seq_len)
        return refuse(
            err, TN_E_LIMIT, "max_new_tokens", "shorten the prompt or lower max_new_tokens",
            "is %u, with %u prompt tokens %llu, above max_seq_len %u", spec->max_new_tokens,
            spec->n_prompt, (unsigned long long)sum, c->max_seq_len);
    if (sched_blocks_for(s, computed) > kv_n_blocks(s->kv))
        return refuse(err, TN_E_LIMIT, "max_new_tokens",
                      "lower max_new_tokens, or give the KV cache more memory",
                      "is %u: prompt and output need %u blocks of KV cache, there are %u",
                      spec->max_new_tokens, sched_blocks_for(s, computed), kv_n_blocks(s->kv));
    if (!c->chunked_prefill && !spec->want_logits && spec->n_prompt > c->max_num_tokens)
        return refuse(err, TN_E_LIMIT, "prompt", "turn chunked prefill on, or raise max_num_tokens",
                      "has %u tokens, a step takes %u and chunked prefill is off", spec->n_prompt,
                      c->max_num_tokens);
    if (spec->n_bias + n_bans > c->max_step_bias)
        return refuse(err, TN_E_LIMIT, "logit_bias", "send fewer biases",
                      "%u entries with those of min_new_tokens, a step takes %u",
                      spec->n_bias + n_bans, c->max_step_bias);
    return TN_OK;
}

/* -- Life -------------------------------------------------------------------------------------- */

/* One block of memory: the struct, then its arrays, those of 8-byte elements first. */
static struct request *allocate(const struct sched *s, const struct request_spec *spec,
                                uint32_t n_ends, uint32_t n_bans)
{
    /* Every factor is capped by now: at most 2^27 tokens and some thousand ids, far from overflow. */
    size_t n_tokens = (size_t)spec->n_prompt + spec->max_new_tokens;
    size_t n_hashes = n_tokens / s->block_tokens;
    size_t n_bias = (size_t)spec->n_bias + n_bans;
    size_t bytes = sizeof(struct request) + n_hashes * sizeof(uint64_t) +
                   (n_tokens + n_ends + n_bias) * sizeof(int32_t) + n_bias * sizeof(float);
    struct request *r = mem_alloc(bytes);

    if (!r)
        return NULL;
    *r = (struct request){.slot = NO_SLOT};
    r->hashes = (uint64_t *)(void *)(r + 1);
    r->tokens = (int32_t *)(void *)(r->hashes + n_hashes);
    r->ends = r->tokens + n_tokens;
    r->bias_ids = r->ends + n_ends;
    r->bias_values = (float *)(void *)(r->bias_ids + n_bias);
    return r;
}

static void copy_ids(int32_t *to, const int32_t *from, uint32_t n)
{
    if (n)
        memcpy(to, from, n * sizeof *to);
}

static void copy_lists(struct request *r, const struct request_spec *spec, uint32_t n_eos)
{
    r->n_eos = n_eos;
    r->n_ends = n_eos + spec->n_stop_ids;
    copy_ids(r->ends, spec->eos_ids, n_eos);
    copy_ids(r->ends + n_eos, spec->stop_ids, spec->n_stop_ids);
    r->n_bias = spec->n_bias;
    r->n_ban = spec->min_new_tokens ? r->n_ends : 0;
    copy_ids(r->bias_ids, spec->bias_ids, spec->n_bias);
    copy_ids(r->bias_ids + r->n_bias, r->ends, r->n_ban);
    for (uint32_t i = 0; i < r->n_bias; i++)
        r->bias_values[i] = spec->bias_values[i];
    for (uint32_t i = 0; i < r->n_ban; i++)
        r->bias_values[r->n_bias + i] = -INFINITY;
}

static void copy_sampling(struct request *r, const struct request_sampling *sampling,
                          uint32_t vocab)
{
    r->sampling = *sampling;
    if (r->sampling.temperature < SAMPLING_GREEDY_BELOW)
        r->sampling.temperature = 0;
    if (r->sampling.top_k >= vocab)
        r->sampling.top_k = 0;
    r->penalized = sampling->repetition_penalty != 1 || sampling->presence_penalty != 0 ||
                   sampling->frequency_penalty != 0;
}

int32_t request_new(const struct sched *s, const struct request_spec *spec, struct request **out,
                    tn_err *err)
{
    uint32_t n_eos = spec->ignore_eos ? 0 : spec->n_eos_ids;
    uint32_t n_ends = n_eos + spec->n_stop_ids, above = s->config.length_scaled_above;
    struct request *r = NULL;
    int32_t rc = check_ranges(spec, err);

    if (!rc)
        rc = check_lists(s, spec, err);
    if (!rc)
        rc = check_fit(s, spec, err);
    if (rc)
        return rc;
    r = allocate(s, spec, n_ends, spec->min_new_tokens ? n_ends : 0);
    if (!r)
        return err_nomem(err, "a request");
    r->user = spec->user;
    r->n_prompt = r->n_tokens = spec->n_prompt;
    r->max_new = spec->max_new_tokens;
    r->min_new = spec->min_new_tokens;
    r->want_logits = spec->want_logits;
    r->n_logprobs = spec->n_logprobs;
    r->deadline_ns = spec->deadline_ns ? spec->deadline_ns : DEADLINE_NONE;
    r->queue_deadline_ns = spec->queue_deadline_ns ? spec->queue_deadline_ns : DEADLINE_NONE;
    r->usage.n_prompt = spec->n_prompt;
    memcpy(r->tokens, spec->prompt, spec->n_prompt * sizeof *r->tokens);
    copy_lists(r, spec, n_eos);
    copy_sampling(r, &spec->sampling, s->config.vocab);
    kv_root(s->kv, spec->salt, spec->salt_bytes,
            above && spec->n_prompt > above ? spec->n_prompt : 0, &r->root);
    kv_hash(s->kv, &r->root, r->tokens, r->n_tokens, r->hashes, &r->n_hashed);
    *out = r;
    return TN_OK;
}

void request_free(struct request *r)
{
    mem_free(r);
}
