/* SPDX-License-Identifier: Apache-2.0 */
/* Applying what the device returned: tokens join their sequences, full blocks enter the prefix
 * index, what ended lets go of its blocks. An error of one sequence ends that one alone. Called by
 * one thread. */
#include <assert.h>
#include <math.h>

#include "sched/sched.h"
#include "sched/state.h"
#include "tenon/batch.h"

static void emit_rows(struct sched *s, const struct sched_seq *q)
{
    struct sched_event event = {.kind = SCHED_EVENT_LOGITS,
                                .id = q->id,
                                .user = q->user,
                                .logprob = NAN,
                                .first_logits = q->first_logits,
                                .n_logits = q->n_logits,
                                .position = q->context - q->n_logits};

    s->sink(s->sink_arg, &event);
}

static void emit_token(struct sched *s, const struct sched_seq *q, const struct request *r,
                       float logprob)
{
    struct sched_event event = {.kind = SCHED_EVENT_TOKEN,
                                .id = q->id,
                                .user = q->user,
                                .token = r->tokens[r->n_tokens - 1],
                                .logprob = logprob,
                                .index = request_n_output(r) - 1,
                                .first_logits = q->first_logits,
                                .n_logits = 1,
                                .position = q->context - 1};

    s->sink(s->sink_arg, &event);
}

/* Ends the request if its newest token is one that ends it, or the last one asked for. */
static void end_by_token(struct sched *s, struct request *r)
{
    int32_t token = r->tokens[r->n_tokens - 1];

    for (uint32_t i = 0; i < r->n_ends; i++) {
        if (r->ends[i] == token) {
            sched_end(s, r, i < r->n_eos ? SCHED_END_EOS : SCHED_END_STOP_ID, TN_OK);
            return;
        }
    }
    if (request_n_output(r) == r->max_new)
        sched_end(s, r, SCHED_END_LENGTH, TN_OK);
}

/* The newest token of the sequence, from the logits row that was sampled for it. */
static void take_token(struct sched *s, const struct sched_seq *q,
                       const struct sched_result *result, struct request *r)
{
    int32_t token = result->sampled[q->first_logits];

    if (token == TN_SAMPLE_NAN) {
        sched_end(s, r, SCHED_END_ERROR, TN_E_NAN);
        return;
    }
    if (token < 0 ||
        (uint32_t)token >= s->config.vocab) { /* a broken sampler: not to be indexed with */
        sched_end(s, r, SCHED_END_ERROR, TN_E_DEVICE);
        return;
    }
    r->tokens[r->n_tokens++] = token;
    r->state = REQUEST_DECODE;
    s->stats.output_tokens++;
    if (r->usage.first_token_ns == 0)
        r->usage.first_token_ns = s->now_ns;
    emit_token(s, q, r, result->logprob ? result->logprob[q->first_logits] : NAN);
    end_by_token(s, r);
}

static void apply(struct sched *s, const struct sched_seq *q, int32_t status,
                  const struct sched_result *result)
{
    struct request *r = q->request;

    assert(r->in_flight > 0 && r->pending >= q->samples);
    r->in_flight--;
    r->pending -= q->samples;
    if (r->state == REQUEST_ENDED) {
        s->stats.discarded_tokens += q->samples;
        if (r->in_flight == 0) {
            s->n_draining--;
            sched_reclaim(s, r);
        }
        return;
    }
    if (status) {
        sched_end(s, r, SCHED_END_ERROR, status);
        return;
    }
    r->computed = q->context;
    kv_hash(s->kv, &r->root, r->tokens, r->computed, r->hashes, &r->n_hashed);
    kv_index(s->kv, &r->kv, r->hashes, r->tokens, r->computed);
    if (r->want_logits) {
        if (q->n_logits)
            emit_rows(s, q);
        if (r->computed == r->n_tokens)
            sched_end(s, r, SCHED_END_LENGTH, TN_OK);
    } else if (q->samples) {
        take_token(s, q, result, r);
    }
}

/* Preempts those that were marked and that no step in flight uses any more. */
static void settle(struct sched *s)
{
    struct request *prev;

    for (struct request *r = s->running.last; s->n_evicting > 0 && r; r = prev) {
        prev = r->prev;
        if (r->evict && r->in_flight == 0)
            sched_preempt(s, r);
    }
}

int32_t sched_commit(struct sched *s, const struct sched_step *step,
                     const struct sched_result *result, uint64_t now_ns, tn_err *err)
{
    struct step_slot *slot = &s->steps[s->first_step];

    if (s->n_steps == 0 || step != &slot->step)
        return tn_err_set(err, TN_E_INVALID, "step %llu is not the oldest in flight",
                          (unsigned long long)(step ? step->number : 0));
    sched_tick(s, now_ns);
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        const struct sched_seq *q = &slot->seqs[i];
        int32_t status = result->status;
        if (!status && result->seq_status)
            status = result->seq_status[i];
        apply(s, q, status, result);
    }
    s->first_step = (s->first_step + 1) % s->config.max_in_flight;
    s->n_steps--;
    settle(s);
    return s->config.audit ? sched_audit(s, err) : TN_OK;
}
