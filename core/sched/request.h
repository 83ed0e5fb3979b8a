/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request: what a caller asks for, checked and copied. Making one is the only thing here that
 * allocates, so it is done by the caller's thread; the scheduler's thread then takes it over whole.
 */
#ifndef CORE_SCHED_REQUEST_H
#define CORE_SCHED_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct request;
struct sched;

/* How tokens are chosen; the meaning is that of tn_sample_row (tenon/batch.h). */
struct request_sampling {
    float temperature;        /* 0 .. 100; below SAMPLING_GREEDY_BELOW: greedy, as 0 */
    float top_p;              /* above 0, up to 1 */
    float min_p;              /* 0 .. 1 */
    float repetition_penalty; /* 0.01 .. 100 */
    float presence_penalty;   /* -2 .. 2 */
    float frequency_penalty;  /* -2 .. 2 */
    uint32_t top_k;           /* 0, or more than the vocabulary: all */
    uint64_t seed;
};

/* Logits divided by less than this may overflow float32. */
#define SAMPLING_GREEDY_BELOW 1e-5f

/* Greedy, no penalty. */
#define REQUEST_SAMPLING_INIT                                                                      \
    {                                                                                              \
        .temperature = 0, .top_p = 1, .min_p = 0, .repetition_penalty = 1, .presence_penalty = 0,  \
        .frequency_penalty = 0, .top_k = 0, .seed = 0                                              \
    }

/* All pointers are read during request_new only. Times are of clock_ns(); 0: none. */
struct request_spec {
    const int32_t *prompt; /* token ids, each in [0, vocab) */
    uint32_t n_prompt;     /* at least 1 */
    /* At least 1, except with want_logits: then 0. prompt + new tokens <= max_seq_len. */
    uint32_t max_new_tokens;
    /* Until so many are out, the end and stop ids cannot be chosen. Up to max_new_tokens. */
    uint32_t min_new_tokens;
    const int32_t *eos_ids; /* end the output unless ignore_eos; up to LIMIT_STOP_IDS */
    uint32_t n_eos_ids;
    const int32_t *stop_ids; /* end the output always; up to LIMIT_STOP_IDS */
    uint32_t n_stop_ids;
    bool ignore_eos;
    /* No output; instead the logits of every prompt row, in chunks (SCHED_EVENT_LOGITS). The prefix
     * cache is not read, for every row must be computed. */
    bool want_logits;
    uint32_t n_logprobs; /* alternatives per token, up to LIMIT_LOGPROBS; only passed on */
    struct request_sampling sampling;
    const int32_t *bias_ids;    /* each in [0, vocab) */
    const float *bias_values;   /* each in -100 .. 100 */
    uint32_t n_bias;            /* up to LIMIT_LOGIT_BIAS */
    const void *salt;           /* requests share cached prefixes only if their salts are equal */
    size_t salt_bytes;          /* up to LIMIT_SALT_BYTES */
    uint64_t queue_deadline_ns; /* ends the request if it has not begun to run by then */
    uint64_t deadline_ns;       /* ends the request, whatever it has by then */
    uint64_t user;              /* comes back in every event */
};

#define REQUEST_SPEC_INIT                                                                          \
    {                                                                                              \
        .max_new_tokens = 1, .sampling = REQUEST_SAMPLING_INIT                                     \
    }

/*
 * Checks a specification against the limits of `s` and the table of ranges, and copies it. Reads
 * only what never changes in `s`, so any thread may call it. Everything the request will need until
 * its end is allocated here: 4 bytes per token of prompt + max_new_tokens, 8 per block of them.
 *
 * Errors name field, value and remedy: TN_E_RANGE (a number), TN_E_LIMIT (a cap, the context
 * length, or the pool: what could never run is refused here), TN_E_INVALID (fields that exclude
 * each other), TN_E_NOMEM. The caller gives the request to sched_submit or frees it.
 */
int32_t request_new(const struct sched *s, const struct request_spec *spec, struct request **out,
                    tn_err *err);

/* For a request that was not, or could not be, submitted. NULL is allowed. */
void request_free(struct request *r);

#endif
