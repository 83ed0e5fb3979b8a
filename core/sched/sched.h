/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: continuous ("in-flight") batching over ragged batches (Yu et al. 2022, Orca), with
 * chunked prefill (Agrawal et al. 2024, Sarathi-Serve) and a paged cache that shares prefixes.
 *
 * It is a pure state machine: no threads, no locks, no I/O, no clock; time is passed in. One thread
 * calls it, except where a function says otherwise. After sched_new nothing here allocates;
 * requests bring their memory.
 *
 * The loop around it:
 *
 *     sched_submit, sched_cancel ...              what arrived
 *     sched_schedule(s, now, &step, &err)         the next step, or NULL
 *     batch_fill(s, step, ...)                    its arrays (sched/batch.h)
 *     launch it; with max_in_flight 2 prepare the next one meanwhile
 *     sched_commit(s, step, &result, now, &err)   oldest step first; events go to the sink
 *
 * With max_in_flight above 1 a sequence may be scheduled for step n + 1 while its token of step n
 * is not known yet; the row then names the logits row of step n that holds it
 * (sched_seq::token_row). If the sequence turns out to have ended with step n, what n + 1 computes
 * for it is discarded; its blocks are let go only when no step that was scheduled uses them any
 * more.
 *
 * Order. Requests run first come, first served, and none overtakes: those running and those
 * waiting, in this order, are sorted by arrival at all times. A step serves them in that order, so
 * decode rows come before prefill chunks and the oldest request advances in every step that could
 * hold it. When one prompt does not fit the rest of a step, no younger one is begun.
 */
#ifndef CORE_SCHED_SCHED_H
#define CORE_SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/cache.h"
#include "sched/request.h"

#define SCHED_IN_FLIGHT_MAX 4

enum sched_policy {
    /* Admit a request only if its worst case, prompt + max_new_tokens, can be had beside the worst
     * cases of all that run. Nothing is ever computed twice. */
    SCHED_GUARANTEED_NO_EVICT = 0,
    /* Admit while blocks for the tokens known so far can be had; when they run out, take the newest
     * request's blocks and compute it again later. More requests at once, at the price of a
     * repeated prefill. */
    SCHED_MAX_UTILIZATION = 1
};

struct sched_config {
    uint32_t policy;         /* ::sched_policy */
    uint32_t max_batch_size; /* sequences that run at once: 1 .. LIMIT_BATCH */
    /* Rows of a step: at least max_batch_size and block_tokens, up to LIMIT_STEP_ROWS. */
    uint32_t max_num_tokens;
    uint32_t max_seq_len; /* prompt + output of one sequence: 2 .. LIMIT_POSITIONS */
    /* Logits rows of a step: max_batch_size .. max_num_tokens; 0: max_batch_size. */
    uint32_t max_logits;
    uint32_t max_queued;    /* requests that have not begun: 1 .. LIMIT_QUEUED */
    uint32_t max_in_flight; /* steps scheduled and not committed: 1 .. SCHED_IN_FLIGHT_MAX */
    uint32_t vocab;         /* token ids are below this */
    /* Logit bias entries of a step, hence of a request; 0: room for one request with all that the
     * limits allow, and 64 for each of a whole batch. */
    uint32_t max_step_bias;
    /* History tokens of a step, at least max_seq_len; 0: max_seq_len + 1 Mi, or a whole batch's.
     * Sequences with penalties that do not fit wait for a later step. */
    uint64_t max_step_history;
    /* Off: a prompt is computed in one step, so it has at most max_num_tokens tokens. */
    bool chunked_prefill;
    bool audit; /* check all invariants in every commit; for tests and debug runs */
    /* Above so many tokens of prompt the cached values depend on the length of the prompt (rope
     * with dynamic scaling, tenon/ops.h: its max_position): then only prompts of equal length
     * share. 0: the length never matters. */
    uint32_t length_scaled_above;
};

/* Limits of 256 sequences, 2048 rows per step, 1024 queued, chunked prefill; max_seq_len and vocab
 * to be set. */
#define SCHED_CONFIG_INIT                                                                          \
    {                                                                                              \
        .policy = SCHED_GUARANTEED_NO_EVICT, .max_batch_size = 256, .max_num_tokens = 2048,        \
        .max_queued = 1024, .max_in_flight = 1, .chunked_prefill = true                            \
    }

/* -- Events ------------------------------------------------------------------------------------ */

enum sched_event_kind {
    SCHED_EVENT_TOKEN,   /* a token was chosen */
    SCHED_EVENT_LOGITS,  /* want_logits: logits of prompt rows stand in the step being committed */
    SCHED_EVENT_FINISHED /* exactly once per submitted request, and the last event of it */
};

enum sched_reason {
    SCHED_END_EOS,      /* an end id was chosen (it was sent as a token, too) */
    SCHED_END_STOP_ID,  /* likewise a stop id */
    SCHED_END_STOPPED,  /* sched_stop: the caller found a stop string */
    SCHED_END_LENGTH,   /* max_new_tokens are out; with want_logits: all logits are */
    SCHED_END_CANCELED, /* status TN_E_CANCELED */
    SCHED_END_DEADLINE, /* status TN_E_TIMEOUT; usage.n_output tells what came in time */
    SCHED_END_ERROR     /* status tells: TN_E_NAN, a device's, or that of sched_abort */
};

/* "stop", "length", "canceled", ...: static text for logs and APIs. */
const char *sched_reason_text(uint32_t reason);

struct sched_usage {
    uint32_t n_prompt;
    uint32_t n_cached; /* of the prompt, found in the prefix cache when it began to run */
    uint32_t n_output;
    uint32_t n_preempted; /* times */
    uint64_t submitted_ns;
    uint64_t started_ns;     /* first scheduled; 0: never */
    uint64_t first_token_ns; /* 0: none */
    uint64_t finished_ns;
};

struct sched_event {
    uint32_t kind; /* ::sched_event_kind */
    uint64_t id;   /* from sched_submit */
    uint64_t user; /* from the specification */
    /* SCHED_EVENT_TOKEN */
    int32_t token;
    float logprob;  /* NaN if the result had none */
    uint32_t index; /* 0, 1, ... among the output tokens */
    /* SCHED_EVENT_TOKEN and _LOGITS: where it stands in the step being committed */
    uint32_t first_logits; /* index of its (first) logits row */
    uint32_t n_logits;
    uint32_t position; /* of that row in the sequence; a token's own position is one more */
    /* SCHED_EVENT_FINISHED */
    uint32_t reason; /* ::sched_reason */
    int32_t status;
    const struct sched_usage *usage; /* valid during the call */
};

/* Called by sched_schedule, _commit, _cancel, _stop, _expire and _abort, on their thread. It must
 * not call the scheduler. */
typedef void (*sched_sink)(void *arg, const struct sched_event *event);

/* -- Life -------------------------------------------------------------------------------------- */

/* The cache is the caller's, is used by this scheduler alone, and outlives it. TN_E_RANGE names the
 * field. */
int32_t sched_new(const struct sched_config *config, struct kv_cache *kv, sched_sink sink,
                  void *sink_arg, struct sched **out, tn_err *err);

/* Frees it with all requests, without events, and lets go of their blocks. NULL is allowed. */
void sched_free(struct sched *s);

/* The limits in force, zeros replaced by defaults. Any thread. */
const struct sched_config *sched_get_config(const struct sched *s);

/*
 * Queues a request and takes it over; *id names it from now on. O(1). On failure the request stays
 * the caller's: TN_E_BUSY if max_queued requests wait already, TN_E_CLOSED after sched_close.
 */
int32_t sched_submit(struct sched *s, struct request *r, uint64_t now_ns, uint64_t *id,
                     tn_err *err);

/* Ends a request in whatever state it is: canceled, or (sched_stop) stopped as complete. The
 * FINISHED event comes before this returns. False, and nothing happens, if there is no such request
 * (any more). */
bool sched_cancel(struct sched *s, uint64_t id, uint64_t now_ns);
bool sched_stop(struct sched *s, uint64_t id, uint64_t now_ns);

/* Refuses further submissions; what is there goes on. */
void sched_close(struct sched *s);

/* Ends every request with an error and forgets the steps in flight: their commits must not follow.
 * For a device that died, or a drain that took too long. The scheduler is empty and usable
 * afterwards. */
void sched_abort(struct sched *s, int32_t status, uint64_t now_ns);

/* -- Steps ------------------------------------------------------------------------------------- */

/* One sequence of a step. Everything stays valid and unchanged until the step is committed. */
struct sched_seq {
    struct request *request; /* opaque */
    uint64_t id, user;
    uint32_t first_row, n_rows; /* rows of the step */
    uint32_t context; /* tokens of context, these rows included: positions context - n_rows ... */
    uint32_t prompt_len; /* of the original prompt, also after a preemption */
    /* Rows of logits, those of its last rows: none, one, or (want_logits) more. */
    uint32_t first_logits, n_logits;
    bool samples;          /* its last row's token becomes part of the sequence */
    uint32_t n_logprobs;   /* from the specification */
    const int32_t *tokens; /* [n_rows] ids; the last is not known yet if token_row is set */
    /* Where the token of the last row comes from: this logits row of the step scheduled just before
     * (which is not committed yet), or SCHED_TOKEN_KNOWN: it stands in tokens[]. */
    int32_t token_row;
    const int32_t *blocks; /* block table, covering `context` */
    uint32_t n_blocks;
};

#define SCHED_TOKEN_KNOWN (-1)

/* A step: what the device is to do. Owned by the scheduler, immutable until it is committed. */
struct sched_step {
    uint64_t number; /* 1, 2, ... */
    uint32_t n_seqs; /* at least 1 */
    uint32_t n_rows;
    uint32_t n_logits;
    uint32_t n_decode; /* sequences with one row, sampling */
    uint32_t max_rows_per_seq;
    uint32_t max_context;
    uint32_t max_blocks; /* longest block table */
    uint64_t n_bias;     /* entries, of all rows that sample */
    uint64_t n_history;
    const struct sched_seq *seqs; /* oldest request first */
};

/*
 * Builds the next step from what is known now. *step is NULL if there is nothing to do before a
 * commit, a submission or the next deadline. Requests whose deadline has passed are ended first.
 * `now_ns` never goes back; a smaller value counts as the last one.
 *
 * TN_E_INTERNAL if nothing is in flight and yet the oldest request cannot advance: a bug, which
 * would otherwise show as a server that hangs.
 */
int32_t sched_schedule(struct sched *s, uint64_t now_ns, const struct sched_step **step,
                       tn_err *err);

/* What the device returned for a step. */
struct sched_result {
    /* Not TN_OK: the step failed as a whole, all its sequences end with this error. */
    int32_t status;
    const int32_t *seq_status; /* [n_seqs] not TN_OK: that sequence ends; NULL: all are well */
    /* [n_logits] token or TN_SAMPLE_NAN, which ends the sequence with TN_E_NAN. */
    const int32_t *sampled;
    const float *logprob; /* [n_logits]; NULL: not computed */
};

/*
 * Applies the result of the oldest step in flight, sends events, and lets go of what ended.
 * TN_E_INVALID, and nothing happens, if `step` is not that one. TN_E_INTERNAL from the audit, if
 * the configuration asks for it; the result is applied then, too.
 */
int32_t sched_commit(struct sched *s, const struct sched_step *step,
                     const struct sched_result *result, uint64_t now_ns, tn_err *err);

/* Ends requests whose deadline has passed. sched_schedule does it, too; this is for an idle loop. */
void sched_expire(struct sched *s, uint64_t now_ns);

/* The next deadline of any request; UINT64_MAX if there is none. */
uint64_t sched_next_deadline(const struct sched *s);

/* True if nothing is queued, running or in flight. */
bool sched_idle(const struct sched *s);

/* -- Looking at it ----------------------------------------------------------------------------- */

struct sched_stats {
    /* now */
    uint32_t n_waiting; /* queued and preempted */
    uint32_t n_preempted;
    uint32_t n_running;
    uint32_t n_draining;  /* ended, but a step in flight still uses their blocks */
    uint32_t n_in_flight; /* steps */
    uint32_t n_reserved;  /* blocks promised to running requests and not taken yet */
    /* since creation */
    uint64_t submitted, refused; /* refused by sched_submit */
    uint64_t finished[SCHED_END_ERROR + 1];
    uint64_t preemptions;
    uint64_t steps;
    uint64_t rows;             /* token rows scheduled */
    uint64_t prefill_rows;     /* of these, not decode */
    uint64_t recomputed_rows;  /* of these, computed before and lost by preemption */
    uint64_t discarded_tokens; /* computed for a request that had ended */
    uint64_t prompt_tokens, cached_tokens, output_tokens; /* of requests that began to run */
    uint64_t stalls; /* times a sequence waited a step for blocks */
    struct kv_stats kv;
};

void sched_get_stats(const struct sched *s, struct sched_stats *out);

/*
 * Checks every invariant, O(blocks + requests): the cache's audit with the holders counted from the
 * block tables, order of arrival, counters, reservations, deadlines. TN_E_INTERNAL tells what is
 * wrong.
 */
int32_t sched_audit(struct sched *s, tn_err *err);

#endif
