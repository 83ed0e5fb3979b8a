/* SPDX-License-Identifier: Apache-2.0 */
/* Requests: public parameters to the scheduler's specification, tickets to public events. */
#include <inttypes.h>

#include "api/runtime.h"
#include "base/clock.h"
#include "base/mem.h"

struct tn_request {
    struct ticket *ticket;
};

/* -- Submitting --------------------------------------------------------------------------------------------- */

static int32_t check_lengths(const tn_runtime *rt, const tn_request_params *p, tn_err *err)
{
    const struct instance *in = rt->instance;

    if (p->n_prompt > in->max_input_len) {
        err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "prompt",
               "has %" PRIu32 " tokens; at most %" PRIu32 " are allowed", p->n_prompt,
               in->max_input_len);
        err_remedy(err, "shorten the prompt, or build the engine with a larger --max-input-len");
        return TN_E_LIMIT;
    }
    if (p->n_bias > (uint64_t)conf_int(rt->conf, CONF_LIMITS_LOGIT_BIAS)) {
        err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "bias",
               "has %" PRIu32 " entries; at most %" PRId64 " are allowed", p->n_bias,
               conf_int(rt->conf, CONF_LIMITS_LOGIT_BIAS));
        err_remedy(err, "send fewer, or raise limits.max_logit_bias");
        return TN_E_LIMIT;
    }
    if (p->max_new_tokens > in->max_output_len) {
        err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "max_new_tokens",
               "is %" PRIu32 "; at most %" PRIu32 " are allowed", p->max_new_tokens,
               in->max_output_len);
        err_remedy(err, "ask for fewer, or build the engine with a larger --max-output-len");
        return TN_E_LIMIT;
    }
    return TN_OK;
}

/* The sooner of what the caller and the configuration want; 0 wants nothing. */
static uint64_t sooner(uint64_t asked_ms, int64_t configured_ms)
{
    uint64_t c = (uint64_t)configured_ms;

    return asked_ms == 0 ? c : c == 0 || asked_ms < c ? asked_ms : c;
}

static uint64_t deadline(uint64_t now, uint64_t timeout_ms)
{
    return timeout_ms == 0                           ? 0
           : timeout_ms > UINT64_MAX / 2 / NS_PER_MS ? UINT64_MAX / 2
                                                     : now + timeout_ms * NS_PER_MS;
}

static struct request_spec to_spec(const tn_runtime *rt, const tn_request_params *p)
{
    const struct instance *in = rt->instance;
    uint64_t now = clock_ns();
    struct request_spec s = REQUEST_SPEC_INIT;

    s.prompt = p->prompt;
    s.n_prompt = p->n_prompt;
    s.max_new_tokens = p->max_new_tokens;
    s.min_new_tokens = p->min_new_tokens;
    s.eos_ids = in->meta.eos;
    s.n_eos_ids = in->meta.n_eos;
    s.stop_ids = p->stop_ids;
    s.n_stop_ids = p->n_stop_ids;
    s.ignore_eos = p->ignore_eos != 0;
    s.sampling = (struct request_sampling){.temperature = p->temperature,
                                           .top_p = p->top_p,
                                           .min_p = p->min_p,
                                           .repetition_penalty = p->repetition_penalty,
                                           .presence_penalty = p->presence_penalty,
                                           .frequency_penalty = p->frequency_penalty,
                                           .top_k = p->top_k,
                                           .seed = p->seed};
    s.bias_ids = p->bias_ids;
    s.bias_values = p->bias_values;
    s.n_bias = p->n_bias;
    s.salt = p->salt;
    s.salt_bytes = (size_t)p->salt_bytes;
    s.queue_deadline_ns =
        deadline(now, sooner(p->queue_timeout_ms, conf_int(rt->conf, CONF_LIMITS_QUEUE_MS)));
    s.deadline_ns =
        deadline(now, sooner(p->timeout_ms, conf_int(rt->conf, CONF_LIMITS_REQUEST_MS)));
    return s;
}

int32_t tn_submit(tn_runtime *rt, const tn_request_params *params, tn_request **out, tn_err *err)
{
    return tn_submit_many(rt, &params, 1, out, err);
}

static int32_t to_loop(const tn_runtime *rt, const tn_request_params *p, struct loop_request *out,
                       tn_err *err)
{
    int32_t rc;

    if (!p || p->h.size < sizeof *p)
        return tn_err_set(err, TN_E_INVALID, "tn_submit needs params");
    rc = check_lengths(rt, p, err);
    if (rc == TN_OK)
        *out = (struct loop_request){to_spec(rt, p), p->on_logits, p->arg, NULL};
    return rc;
}

static int32_t submit(tn_runtime *rt, struct loop_request *requests, uint32_t n, tn_request **out,
                      tn_err *err)
{
    int32_t rc = TN_OK;

    memset(out, 0, n * sizeof *out);
    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        out[i] = mem_zalloc(sizeof *out[i]);
        if (!out[i])
            rc = err_nomem(err, "a request");
    }
    if (rc == TN_OK)
        rc = loop_submit(rt->loop, requests, n, err);
    for (uint32_t i = 0; i < n; i++) {
        if (rc == TN_OK) {
            out[i]->ticket = requests[i].ticket;
            continue;
        }
        mem_free(out[i]);
        out[i] = NULL;
    }
    return rc;
}

int32_t tn_submit_many(tn_runtime *rt, const tn_request_params *const *params, uint32_t n,
                       tn_request **out, tn_err *err)
{
    struct loop_request *requests;
    int32_t rc;

    err_reset(err);
    if (!params || !out || n == 0)
        return tn_err_set(err, TN_E_INVALID, "tn_submit needs params, and room for requests");
    if (!rt->loop)
        return tn_err_set(err, TN_E_INVALID, "this process follows another; requests go there");
    requests = mem_zarray(n, sizeof *requests);
    rc = requests ? TN_OK : err_nomem(err, "requests");
    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        rc = to_loop(rt, params[i], &requests[i], err);
        if (rc != TN_OK && n > 1)
            err_prefix(err, "request %" PRIu32 " of %" PRIu32, i, n);
    }
    if (rc == TN_OK)
        rc = submit(rt, requests, n, out, err);
    mem_free(requests);
    return rc;
}

/* -- Events -------------------------------------------------------------------------------------------------- */

static uint32_t public_finish(uint32_t reason)
{
    switch (reason) {
    case SCHED_END_EOS: return TN_FINISH_EOS;
    case SCHED_END_STOP_ID: return TN_FINISH_STOP_ID;
    case SCHED_END_STOPPED: return TN_FINISH_STOPPED;
    case SCHED_END_LENGTH: return TN_FINISH_LENGTH;
    case SCHED_END_CANCELED: return TN_FINISH_CANCELED;
    case SCHED_END_DEADLINE: return TN_FINISH_TIMEOUT;
    default: return TN_FINISH_ERROR;
    }
}

static uint64_t since(uint64_t at, uint64_t start)
{
    return at > start ? at - start : 0;
}

static tn_usage public_usage(const struct ticket *t)
{
    const struct sched_usage *u = ticket_usage(t);
    uint64_t start = ticket_submitted_ns(t);

    return (tn_usage){.n_prompt = u->n_prompt,
                      .n_cached = u->n_cached,
                      .n_output = u->n_output,
                      .n_preempted = u->n_preempted,
                      .started_ns = since(u->started_ns, start),
                      .first_token_ns = since(u->first_token_ns, start),
                      .finished_ns = since(u->finished_ns, start)};
}

int32_t tn_next_event(tn_request *req, int64_t timeout_ms, tn_event *event, tn_err *err)
{
    uint64_t wait = timeout_ms < 0 ? UINT64_MAX : deadline(0, (uint64_t)timeout_ms);
    struct ticket_event e;
    tn_event full = TN_EVENT_INIT;
    int32_t rc;

    err_reset(err);
    rc = ticket_next(req->ticket, wait, &e);
    if (rc != TN_OK)
        return tn_err_set(
            err, rc, rc == TN_E_TIMEOUT ? "no event came in time" : "the request has finished");
    full.kind = e.kind == TICKET_TOKEN ? TN_EVENT_TOKEN : TN_EVENT_FINISHED;
    full.token = e.token;
    full.index = e.index;
    full.logprob = e.logprob;
    full.time_ns = since(e.time_ns, ticket_submitted_ns(req->ticket));
    full.message = "";
    if (e.kind == TICKET_FINISHED) {
        full.finish = public_finish(e.reason);
        full.status = e.status;
        full.message = ticket_message(req->ticket);
        full.usage = public_usage(req->ticket);
    }
    full.h = event->h;
    memcpy(event, &full, event->h.size < sizeof full ? event->h.size : sizeof full);
    return TN_OK;
}

void tn_cancel(tn_request *req)
{
    ticket_cancel(req->ticket);
}

void tn_end(tn_request *req)
{
    ticket_stop(req->ticket);
}

void tn_release(tn_request *req)
{
    if (!req)
        return;
    ticket_release(req->ticket);
    mem_free(req);
}
