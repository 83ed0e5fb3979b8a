/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/loop.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/cache.h"
#include "loop/crew.h"
#include "loop/mailbox.h"
#include "loop/ticket.h"
#include "loop/watch.h"
#include "tenon/ops.h"

/* A step that was scheduled and is not committed. */
struct flight {
    const struct sched_step *step;
    int32_t status; /* of its submission: not TN_OK means that there is nothing to wait for */
    tn_err err;
};

struct loop {
    struct instance *in;
    struct kv_cache *kv;
    struct sched *sched;
    struct mailbox *mailbox;
    pthread_t thread;
    bool started;
    tn_err failure; /* of the step being committed; the loop's thread, like all up to the lock */
    const float *logits;
    struct flight flights[STEP_SLOTS]; /* oldest first */
    uint32_t n_flights, max_flights;
    struct ticket *ended; /* tickets whose last event is due */
    struct watch *watch;  /* of a single rank; several watch each other */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t ending;
    bool over; /* the thread touches nothing any more */
    struct loop_stats stats;
};

/* -- Events from the scheduler ------------------------------------------------------------------------- */

/* Keeps the last event back until the counters are published, so that whoever has seen a request end does not
 * find it running in the statistics. */
static void end_ticket(struct loop *l, struct ticket *t, const struct ticket_event *e,
                       const struct sched_usage *usage, const char *message)
{
    t->ended = true;
    t->last = *e;
    ticket_close(t, usage, message);
    t->next_ended = l->ended;
    l->ended = t;
}

/* Hands out the last events; after that the loop no longer touches these tickets. */
static void deliver_ended(struct loop *l)
{
    while (l->ended) {
        struct ticket *t = l->ended;
        l->ended = t->next_ended;
        ticket_finish(t, &t->last);
        ticket_unref(t);
    }
}

static const char *failure_text(const struct loop *l, const struct sched_event *e)
{
    if (e->status == TN_OK)
        return "";
    if (e->status == TN_E_NAN)
        return "the model's logits are not numbers for this request";
    if (e->status == TN_E_CANCELED)
        return "canceled";
    if (e->status == TN_E_TIMEOUT)
        return "the deadline of the request has passed";
    return l->failure.msg[0] ? l->failure.msg : status_text(e->status);
}

static void on_event(void *arg, const struct sched_event *e)
{
    struct loop *l = arg;
    struct ticket *t = (struct ticket *)(uintptr_t)e->user;
    struct ticket_event out = {.time_ns = clock_ns()};

    switch (e->kind) {
    case SCHED_EVENT_TOKEN:
        out.kind = TICKET_TOKEN;
        out.token = e->token;
        out.logprob = e->logprob;
        out.index = e->index;
        ticket_post(t, &out);
        break;
    case SCHED_EVENT_LOGITS:
        t->on_logits(t->arg, l->logits + (size_t)e->first_logits * l->in->vocab, e->position,
                     e->n_logits, l->in->vocab);
        break;
    case SCHED_EVENT_FINISHED:
        out.kind = TICKET_FINISHED;
        out.reason = e->reason;
        out.status = e->status;
        end_ticket(l, t, &out, e->usage, failure_text(l, e));
        break;
    }
}

/* -- The mailbox ---------------------------------------------------------------------------------------- */

static void submit_ticket(struct loop *l, struct ticket *t, struct request *r)
{
    tn_err err = TN_ERR_INIT;

    if (sched_submit(l->sched, r, clock_ns(), &t->id, &err) != TN_OK) {
        struct ticket_event e = {.kind = TICKET_FINISHED,
                                 .time_ns = clock_ns(),
                                 .reason = SCHED_END_ERROR,
                                 .status = err.code};
        request_free(r);
        end_ticket(l, t, &e, NULL, err.msg);
    }
}

/* Does what tickets want: submissions first, then cancels and stops. */
static void serve_mailbox(struct loop *l)
{
    struct request *request;
    enum ticket_wish wish;
    struct ticket *t;

    while ((t = mailbox_take(l->mailbox, &request, &wish)) != NULL) {
        if (request) {
            ticket_ref(t); /* the loop's, until the FINISHED event */
            submit_ticket(l, t, request);
        }
        if (wish == WISH_CANCEL && !t->ended)
            sched_cancel(l->sched, t->id, clock_ns());
        if (wish == WISH_STOP && !t->ended)
            sched_stop(l->sched, t->id, clock_ns());
        ticket_unref(t); /* the mailbox's */
    }
}

/* -- Steps --------------------------------------------------------------------------------------------- */

/* Begins a step. One that cannot even be submitted is committed in its turn, like any other that fails. False: the thread was
 * given up meanwhile, and has lost everything that it had; so of all that follow. */
static bool launch(struct loop *l, const struct sched_step *step)
{
    struct flight f = {.step = step};

    err_reset(&f.err);
    watch_away(l->watch);
    f.status = crew_submit(l->in->crew, l->sched, step, &f.err);
    if (!watch_back(l->watch))
        return false;
    l->flights[l->n_flights++] = f;
    return true;
}

/* Waits for the oldest step and hands out what it gave. */
static bool land(struct loop *l)
{
    struct flight f = l->flights[0];
    struct rank_result got = {NULL, NULL, NULL};
    struct sched_result result = {.status = f.status};
    const struct sched_step *step = f.step;
    tn_err err = TN_ERR_INIT;

    watch_away(l->watch);
    if (result.status == TN_OK)
        result.status = crew_wait(l->in->crew, &got, &f.err);
    if (!watch_back(l->watch))
        return false;
    l->failure = f.err;
    memmove(l->flights, l->flights + 1, --l->n_flights * sizeof f);
    result.sampled = got.sampled;
    result.logprob = got.logprob;
    l->logits = got.logits;
    if (result.status != TN_OK)
        log_error("step %" PRIu64 " failed: %s", step->number, l->failure.msg);
    if (crew_failed(l->in->crew, NULL)) { /* nothing can be computed any more */
        l->n_flights = 0;
        sched_abort(l->sched, TN_E_COMM, clock_ns());
        return true;
    }
    if (sched_commit(l->sched, step, &result, clock_ns(), &err) != TN_OK)
        log_error("step %" PRIu64 ": %s", step->number, err.msg);
    return true;
}

/* Ends everything. Steps on the device still write where the next would read, so they are waited for, and forgotten. */
static bool abort_all(struct loop *l, int32_t status)
{
    struct rank_result ignored;

    watch_away(l->watch);
    for (uint32_t i = 0; i < l->n_flights; i++)
        if (l->flights[i].status == TN_OK)
            crew_wait(l->in->crew, &ignored, NULL);
    if (!watch_back(l->watch))
        return false;
    l->n_flights = 0;
    sched_abort(l->sched, status, clock_ns());
    return true;
}

/* Schedules and launches the next step, if there is one (*more). */
static bool advance(struct loop *l, bool *more)
{
    const struct sched_step *step = NULL;
    tn_err err = TN_ERR_INIT;
    bool logits;

    if (sched_schedule(l->sched, clock_ns(), &step, &err) != TN_OK) {
        log_error("scheduler: %s", err.msg);
        if (!abort_all(l, TN_E_INTERNAL))
            return false;
    }
    *more = step != NULL;
    if (!step)
        return true;
    logits = rank_wants_logits(step);
    if (!launch(l, step))
        return false;
    /* Logits stand in one place, and the next step would overwrite them. */
    while (logits && l->n_flights > 0)
        if (!land(l))
            return false;
    return true;
}

static void publish_stats(struct loop *l)
{
    struct sched_stats s;

    sched_get_stats(l->sched, &s);
    pthread_mutex_lock(&l->lock);
    l->stats.sched = s;
    l->stats.last_progress_ns = clock_ns();
    pthread_mutex_unlock(&l->lock);
}

static void note_over(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->over = true;
    pthread_cond_signal(&l->ending);
    pthread_mutex_unlock(&l->lock);
}

static void *thread_main(void *arg)
{
    struct loop *l = arg;

    /* With room for two steps, the one ahead runs on the device while the next is prepared here. */
    while (!mailbox_closed(l->mailbox)) {
        bool more = false;
        serve_mailbox(l);
        if (!advance(l, &more))
            return NULL;
        if (l->n_flights == l->max_flights || (!more && l->n_flights > 0)) {
            if (!land(l))
                return NULL;
            more = true;
        }
        publish_stats(l);
        deliver_ended(l);
        if (!more)
            mailbox_wait(l->mailbox, sched_next_deadline(l->sched));
    }
    serve_mailbox(l);
    if (!abort_all(l, TN_E_CANCELED))
        return NULL;
    publish_stats(l);
    deliver_ended(l);
    note_over(l);
    return NULL;
}

/* -- A thread that does not come back -------------------------------------------------------------------- */

static uint64_t step_timeout(const struct loop *l)
{
    return (uint64_t)conf_int(l->in->o.conf, CONF_PARALLEL_STEP_MS) * NS_PER_MS;
}

static uint64_t pulse(void *arg)
{
    return crew_pulse(((const struct loop *)arg)->in->crew);
}

/* Answers everybody in the place of the loop's thread, which is somewhere in the device. */
static void take_over(void *arg)
{
    struct loop *l = arg;

    crew_give_up(l->in->crew, step_timeout(l));
    crew_failed(l->in->crew, &l->failure);
    log_error("%s", l->failure.msg);
    mailbox_close(l->mailbox);
    serve_mailbox(l);
    l->n_flights = 0;
    sched_abort(l->sched, TN_E_COMM, clock_ns());
    publish_stats(l);
    deliver_ended(l);
    note_over(l);
}

static int32_t start_watch(struct loop *l, tn_err *err)
{
    const struct watch_options o = {
        .timeout_ns = step_timeout(l), .pulse = pulse, .lost = take_over, .arg = l};

    return crew_world(l->in->crew) == 1 ? watch_start(&o, &l->watch, err) : TN_OK;
}

/* -- Starting and stopping ------------------------------------------------------------------------------ */

/* Length above which a sequence's cached keys depend on its prompt's length: dynamic rope scaling. */
static uint32_t length_scaled_above(const struct plan *p)
{
    for (size_t i = 0; i < p->n_ops; i++) {
        const tn_attr *a = plan_attr(&p->ops[i], "max_position");
        if (strcmp(p->ops[i].name, TN_OP_ROPE) == 0 && a && a->i > 0)
            return (uint32_t)a->i;
    }
    return UINT32_MAX;
}

static int32_t make_scheduler(struct loop *l, tn_err *err)
{
    const struct instance *in = l->in;
    struct kv_config kc = {.n_blocks = in->n_pages,
                           .block_tokens = in->block_tokens,
                           .prefix_reuse = conf_bool(in->o.conf, CONF_KV_PREFIX_REUSE)};
    struct sched_config sc = SCHED_CONFIG_INIT;
    int32_t rc = kv_new(&kc, &l->kv, err);

    if (rc != TN_OK)
        return rc;
    sc.policy = conf_choice(in->o.conf, CONF_SCHED_POLICY);
    sc.max_batch_size = in->max_batch_size;
    sc.max_num_tokens = in->max_num_tokens;
    sc.max_seq_len = in->max_seq_len;
    sc.max_in_flight = l->max_flights;
    sc.max_logits = in->max_logits;
    sc.max_queued = (uint32_t)conf_int(in->o.conf, CONF_SCHED_MAX_QUEUE);
    sc.vocab = in->vocab;
    sc.chunked_prefill = conf_bool(in->o.conf, CONF_SCHED_CHUNKED);
    sc.length_scaled_above = length_scaled_above(in->engine->plan);
    return sched_new(&sc, l->kv, on_event, l, &l->sched, err);
}

int32_t loop_array_bytes(struct instance *in, const tn_device_info *info, uint64_t *host,
                         uint64_t *device, tn_err *err)
{
    struct loop l = {.in = in, .max_flights = 1}; /* how many are in flight changes no array */
    int32_t rc = make_scheduler(&l, err);

    if (rc == TN_OK)
        step_arrays_bytes(l.sched, info, host, device);
    sched_free(l.sched);
    kv_free(l.kv);
    return rc;
}

int32_t loop_follow(struct instance *in, tn_err *err)
{
    struct loop l = {.in = in, .max_flights = crew_depth(in->crew)};
    int32_t rc = make_scheduler(&l, err);

    if (rc == TN_OK)
        rc = crew_prepare(in->crew, l.sched, err);
    sched_free(l.sched);
    kv_free(l.kv);
    return rc;
}

static int32_t start_thread(struct loop *l, tn_err *err)
{
    int e;

    l->stats.last_progress_ns = clock_ns();
    e = pthread_create(&l->thread, NULL, thread_main, l);
    if (e != 0)
        return err_errno(err, "start a thread for", "the step loop", e);
    l->started = true;
    return TN_OK;
}

int32_t loop_start(struct instance *in, struct loop **out, tn_err *err)
{
    struct loop *l = mem_zalloc(sizeof *l);
    int32_t rc;

    if (!l)
        return err_nomem(err, "the step loop");
    l->in = in;
    l->max_flights = crew_depth(in->crew);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->ending, NULL);
    rc = make_scheduler(l, err);
    if (rc == TN_OK)
        rc = mailbox_new(&l->mailbox, err);
    if (rc == TN_OK)
        rc = crew_prepare(in->crew, l->sched, err);
    if (rc == TN_OK)
        rc = start_watch(l, err);
    if (rc == TN_OK)
        rc = start_thread(l, err);
    if (rc != TN_OK) {
        loop_stop(l);
        return rc;
    }
    *out = l;
    return TN_OK;
}

void loop_stop(struct loop *l)
{
    if (!l)
        return;
    if (l->started) {
        mailbox_close(l->mailbox);
        pthread_mutex_lock(&l->lock);
        while (!l->over)
            pthread_cond_wait(&l->ending, &l->lock);
        pthread_mutex_unlock(&l->lock);
    }
    if (!watch_stop(l->watch))
        return; /* for the thread, should it come back */
    if (l->started)
        pthread_join(l->thread, NULL);
    sched_free(l->sched);
    kv_free(l->kv);
    mailbox_unref(l->mailbox);
    pthread_cond_destroy(&l->ending);
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

void loop_get_stats(struct loop *l, struct loop_stats *out)
{
    pthread_mutex_lock(&l->lock);
    *out = l->stats;
    pthread_mutex_unlock(&l->lock);
}

/* -- Submitting, on the caller's thread ------------------------------------------------------------------ */

/* The queue's own check comes later, on the loop's thread; this one answers at once when it is plainly full. */
static int32_t check_queue(struct loop *l, uint32_t n, tn_err *err)
{
    uint32_t max = sched_get_config(l->sched)->max_queued;
    struct loop_stats s;

    if (crew_failed(l->in->crew, err)) {
        if (err)
            err->code = TN_E_COMM;
        return TN_E_COMM;
    }
    loop_get_stats(l, &s);
    if ((uint64_t)s.sched.n_waiting + mailbox_pending(l->mailbox) + n <= max)
        return TN_OK;
    err_at(err, TN_E_BUSY, NULL, TN_NO_OFFSET, "scheduler.max_queue",
           "%" PRIu32 " requests may wait, and %" PRIu32 " do already", max,
           s.sched.n_waiting + mailbox_pending(l->mailbox));
    err_remedy(err, "try again later");
    return TN_E_BUSY;
}

static int32_t prepare(struct loop *l, const struct loop_request *r, struct submission *out,
                       tn_err *err)
{
    uint32_t longest = sched_get_config(l->sched)->max_seq_len; /* more is refused below */
    uint32_t n = r->spec.max_new_tokens;
    struct request_spec s = r->spec;
    int32_t rc = ticket_new(l->mailbox, n < longest ? n : longest, &out->ticket, err);

    if (rc != TN_OK)
        return rc;
    out->ticket->on_logits = r->on_logits;
    out->ticket->arg = r->arg;
    s.user = (uint64_t)(uintptr_t)out->ticket;
    s.want_logits = r->on_logits != NULL;
    return request_new(l->sched, &s, &out->request, err);
}

int32_t loop_submit(struct loop *l, struct loop_request *requests, uint32_t n, tn_err *err)
{
    struct submission *list = mem_zarray(n, sizeof *list);
    int32_t rc = list ? check_queue(l, n, err) : err_nomem(err, "requests");

    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        rc = prepare(l, &requests[i], &list[i], err);
        if (rc != TN_OK && n > 1)
            err_prefix(err, "request %" PRIu32 " of %" PRIu32, i, n);
    }
    if (rc == TN_OK && !mailbox_submit(l->mailbox, list, n))
        rc = tn_err_set(err, TN_E_CLOSED, "the runtime is shutting down");
    for (uint32_t i = 0; list && i < n; i++) {
        if (rc == TN_OK) {
            requests[i].ticket = list[i].ticket;
            continue;
        }
        request_free(list[i].request);
        if (list[i].ticket)
            ticket_unref(list[i].ticket);
    }
    mem_free(list);
    return rc;
}
