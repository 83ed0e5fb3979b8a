/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A seeded simulation of the scheduler, the cache and a device in virtual time. Each world draws a
 * configuration and requests from one 64-bit seed, disturbs them (cancels, deadlines, device
 * failures, aborts), checks every invariant after every step, and compares every token with an
 * oracle that computes each request alone.
 *
 *   test_sched_sim                     worlds from TENON_SIM_SEED (1) until TENON_SIM_REQUESTS
 *                                      (100000) are done
 *   test_sched_sim SEED [REQUESTS]     likewise, without Check
 *   test_sched_sim -w WORLD REQUESTS   one world again; a failure prints this line
 */
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check_util.h"
#include "fake.h"
#include "sched/state.h"

#define DEFAULT_REQUESTS 100000

#define WORLD_REQUESTS 200
#define MAX_PROMPT 72
#define MAX_OUTPUT 56
#define MAX_LIST 3
#define N_TENANTS 3
#define N_BASES 3

/* A request as its caller sees it. */
struct shadow {
    struct request_spec spec;
    int32_t tokens[MAX_PROMPT + MAX_OUTPUT]; /* prompt, then what came */
    int32_t eos[MAX_LIST], stop[MAX_LIST], bias_ids[MAX_LIST];
    float bias_values[MAX_LIST];
    uint32_t tenant;
    uint64_t id;
    bool live;
    struct oracle oracle;
    uint32_t n_out;
    uint32_t n_logits;    /* want_logits: rows seen */
    int32_t end;          /* ::sched_reason that must come next, or -1 */
    int32_t device_error; /* status that the device returned for it */
    uint32_t next_row;    /* position of the next row to be scheduled */
};

struct totals {
    uint64_t worlds, requests, refused, steps, tokens, audits;
    uint64_t ended[SCHED_END_ERROR + 1];
    uint64_t canceled_in[REQUEST_ENDED + 1]; /* by state at the time */
    uint64_t canceled_late, canceled_evicting;
    uint64_t preemptions, recomputed, discarded, cached, evictions, stalls, aborts;
};

struct world {
    uint64_t seed;
    struct rng rng;
    struct sched_config config;
    struct kv_config kv_config;
    struct kv_cache *kv;
    struct sched *s;
    struct fake_device device;
    struct shadow *shadows;
    uint32_t n_requests, n_made, n_live;
    int32_t bases[N_BASES][MAX_PROMPT];
    uint64_t now;
    uint64_t op;
    uint64_t acting;     /* id that sched_cancel or sched_stop is called for */
    uint32_t acting_end; /* and the reason that must come */
    int32_t aborting;    /* status of sched_abort, while it runs */
    uint32_t calm;       /* percent of disturbances left out */
    uint64_t oldest;     /* request that has waited longest, and steps committed without it */
    uint32_t without_oldest;
    struct totals *totals;
};

static const struct world *current; /* for the message of a failure; NULL between worlds */

static void failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    if (current)
        fprintf(stderr, "operation %llu; replay: test_sched_sim -w %llu %u\n",
                (unsigned long long)current->op, (unsigned long long)current->seed,
                current->n_requests);
    fflush(stderr);
    abort();
}

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond))                                                                               \
            failed(__FILE__, __LINE__, #cond);                                                     \
    } while (0)

#define MUST_OK(rc, err)                                                                           \
    do {                                                                                           \
        if ((rc) != TN_OK)                                                                         \
            failed(__FILE__, __LINE__, (err)->msg);                                                \
    } while (0)

static uint32_t below(struct world *w, uint32_t n)
{
    return (uint32_t)rng_below(&w->rng, n);
}

static bool chance(struct world *w, uint32_t percent)
{
    return below(w, 100) < percent;
}

/* A disturbance, rarer in calm worlds: those reach states that a storm never lets happen. */
static bool disturbed(struct world *w, uint32_t per_mille)
{
    return below(w, 1000) < per_mille && !chance(w, w->calm);
}

/* -- Events ------------------------------------------------------------------------------------ */

static uint64_t class_of_shadow(const struct world *w, const struct shadow *q)
{
    uint32_t above = w->config.length_scaled_above;

    return q->tenant * UINT64_C(1000003) +
           (above && q->spec.n_prompt > above ? q->spec.n_prompt : 0);
}

static uint64_t class_of(void *arg, uint64_t user)
{
    const struct world *w = arg;

    return class_of_shadow(w, &w->shadows[user]);
}

static bool listed(const int32_t *ids, uint32_t n, int32_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void on_token(struct world *w, struct shadow *q, const struct sched_event *e)
{
    const struct request_spec *spec = &q->spec;
    int32_t want = oracle_next(&q->oracle, q->tokens);

    MUST(e->token == want);
    MUST(e->logprob == -(float)want);
    MUST(e->index == q->n_out && e->position + 1 == q->oracle.n && e->n_logits == 1);
    MUST(q->n_out < spec->max_new_tokens && q->end < 0 && !spec->want_logits);
    q->tokens[spec->n_prompt + q->n_out++] = e->token;
    oracle_push(&q->oracle, e->token);
    w->totals->tokens++;
    if (!spec->ignore_eos && listed(spec->eos_ids, spec->n_eos_ids, e->token))
        q->end = SCHED_END_EOS;
    else if (listed(spec->stop_ids, spec->n_stop_ids, e->token))
        q->end = SCHED_END_STOP_ID;
    else if (q->n_out == spec->max_new_tokens)
        q->end = SCHED_END_LENGTH;
    MUST(q->end < 0 || q->end == SCHED_END_LENGTH || q->n_out > spec->min_new_tokens);
}

static void on_logits(struct world *w, struct shadow *q, const struct sched_event *e)
{
    const struct fake_job *j = fake_oldest(&w->device);

    MUST(q->spec.want_logits && e->position == q->n_logits && e->n_logits > 0);
    for (uint32_t i = 0; i < e->n_logits; i++) {
        oracle_push(&q->oracle, q->tokens[q->n_logits++]);
        MUST(j->sampled[e->first_logits + i] == oracle_logits(&q->oracle));
    }
    if (q->n_logits == q->spec.n_prompt)
        q->end = SCHED_END_LENGTH;
}

static void check_reason(struct world *w, const struct shadow *q, const struct sched_event *e)
{
    uint64_t limit = q->spec.deadline_ns ? q->spec.deadline_ns : UINT64_MAX;

    switch (e->reason) {
    case SCHED_END_CANCELED:
    case SCHED_END_STOPPED:
        MUST(e->id == w->acting && e->reason == w->acting_end);
        MUST(e->status == (e->reason == SCHED_END_CANCELED ? TN_E_CANCELED : TN_OK));
        break;
    case SCHED_END_DEADLINE:
        if (!e->usage->started_ns && q->spec.queue_deadline_ns && q->spec.queue_deadline_ns < limit)
            limit = q->spec.queue_deadline_ns;
        MUST(w->now >= limit && e->status == TN_E_TIMEOUT);
        break;
    case SCHED_END_ERROR:
        MUST(e->status == (w->aborting ? w->aborting : q->device_error) && e->status);
        break;
    default: MUST(e->reason == (uint32_t)q->end && e->status == TN_OK);
    }
    /* Nothing is late: what must end by a token did so before anything else could happen. */
    MUST(q->end < 0 || e->reason == (uint32_t)q->end);
}

static void on_event(void *arg, const struct sched_event *e)
{
    struct world *w = arg;
    struct shadow *q;

    MUST(e->user < w->n_made);
    q = &w->shadows[e->user];
    MUST(q->live && e->id == q->id);
    if (e->kind == SCHED_EVENT_TOKEN) {
        on_token(w, q, e);
    } else if (e->kind == SCHED_EVENT_LOGITS) {
        on_logits(w, q, e);
    } else {
        MUST(e->kind == SCHED_EVENT_FINISHED);
        check_reason(w, q, e);
        MUST(e->usage->n_output == q->n_out && e->usage->n_prompt == q->spec.n_prompt);
        MUST(e->usage->n_cached < q->spec.n_prompt);
        q->live = false;
        w->n_live--;
        w->totals->ended[e->reason]++;
    }
}

/* -- The world --------------------------------------------------------------------------------- */

static void draw_config(struct world *w)
{
    struct sched_config *c = &w->config;
    uint32_t bt = 1u << below(w, 4), room, longest = 8 + below(w, MAX_PROMPT + MAX_OUTPUT - 8);
    uint32_t alone = (longest + bt - 1) / bt; /* blocks of the longest sequence */

    w->kv_config = (struct kv_config){.n_blocks = alone + below(w, alone + 4) +
                                                  (chance(w, 30) ? below(w, 10 * alone) : 0),
                                      .block_tokens = bt,
                                      .prefix_reuse = chance(w, 80),
                                      .secret = rng_u64(&w->rng) | 1,
                                      .hash_mask = chance(w, 20) ? UINT64_C(1) << 63 : 0};
    *c = (struct sched_config)SCHED_CONFIG_INIT;
    c->policy = below(w, 2);
    c->max_batch_size = 1 + below(w, chance(w, 80) ? 10 : 40);
    room = c->max_batch_size > bt ? c->max_batch_size : bt;
    c->max_num_tokens = room + below(w, 40);
    c->max_seq_len = longest;
    c->max_logits = c->max_batch_size + below(w, c->max_num_tokens - c->max_batch_size + 1);
    c->max_queued = 1 + below(w, 30);
    c->max_in_flight = 1 + below(w, 2) + (chance(w, 10) ? below(w, 3) : 0);
    c->vocab = 8 + below(w, 200);
    c->max_step_bias = MAX_LIST * 3 + below(w, 30);
    c->max_step_history = c->max_seq_len + below(w, 200);
    c->chunked_prefill = chance(w, 70);
    c->audit = true;
    c->length_scaled_above = chance(w, 30) ? 1 + below(w, 40) : 0;
    w->calm = chance(w, 30) ? 100 : below(w, 100);
}

static void world_open(struct world *w, uint64_t seed, uint32_t n_requests, struct totals *totals)
{
    tn_err err = TN_ERR_INIT;

    *w = (struct world){.seed = seed, .rng = {seed}, .n_requests = n_requests, .totals = totals};
    current = w;
    draw_config(w);
    w->shadows = mem_zarray(n_requests, sizeof *w->shadows);
    MUST(w->shadows != NULL);
    for (uint32_t i = 0; i < N_BASES; i++)
        for (uint32_t j = 0; j < MAX_PROMPT; j++)
            w->bases[i][j] = (int32_t)below(w, w->config.vocab);
    MUST_OK(kv_new(&w->kv_config, &w->kv, &err), &err);
    MUST_OK(sched_new(&w->config, w->kv, on_event, w, &w->s, &err), &err);
    w->config = *sched_get_config(w->s);
    fake_init(&w->device, w->s, w->kv_config.n_blocks, w->kv_config.block_tokens, class_of, w);
}

static void world_close(struct world *w)
{
    struct totals *t = w->totals;
    struct sched_stats st;

    sched_get_stats(w->s, &st);
    MUST(sched_idle(w->s) && st.n_draining == 0 && st.n_reserved == 0 && st.kv.n_held == 0);
    MUST(st.kv.n_free + st.kv.n_cached == w->kv_config.n_blocks);
    MUST(sched_next_deadline(w->s) == UINT64_MAX);
    if (w->config.policy == SCHED_GUARANTEED_NO_EVICT)
        MUST(st.preemptions == 0 && st.recomputed_rows == 0 && st.stalls == 0);
    for (uint32_t i = 0; i < w->n_made; i++)
        MUST(!w->shadows[i].live);
    t->worlds++;
    t->requests += w->n_made;
    t->steps += st.steps;
    t->preemptions += st.preemptions;
    t->recomputed += st.recomputed_rows;
    t->discarded += st.discarded_tokens;
    t->cached += st.cached_tokens;
    t->evictions += st.kv.evictions;
    t->stalls += st.stalls;
    fake_release(&w->device);
    sched_free(w->s);
    kv_free(w->kv);
    mem_free(w->shadows);
    current = NULL;
}

/* -- Requests ---------------------------------------------------------------------------------- */

static void draw_prompt(struct world *w, struct shadow *q)
{
    const struct shadow *before = w->n_made ? &w->shadows[below(w, w->n_made)] : NULL;
    uint32_t most = w->config.max_seq_len < MAX_PROMPT ? w->config.max_seq_len : MAX_PROMPT;
    uint32_t n = 1 + below(w, chance(w, 97) ? most : MAX_PROMPT), n_shared;

    if (before && chance(w, 30)) { /* a conversation goes on: old prompt, old output, a few more */
        uint32_t n_old = before->spec.n_prompt + before->n_out;
        n_shared = n_old < most ? n_old : most;
        memcpy(q->tokens, before->tokens, n_shared * sizeof *q->tokens);
        n = n_shared + below(w, most - n_shared + 1);
        q->tenant = before->tenant;
    } else {
        n_shared = chance(w, 50) ? n : below(w, n + 1);
        memcpy(q->tokens, w->bases[below(w, N_BASES)], n_shared * sizeof *q->tokens);
        q->tenant = below(w, N_TENANTS);
    }
    for (uint32_t i = n_shared; i < n; i++)
        q->tokens[i] = (int32_t)below(w, w->config.vocab);
    q->spec.n_prompt = n;
}

static uint32_t draw_ids(struct world *w, int32_t *ids, uint32_t percent)
{
    uint32_t n = chance(w, percent) ? 1 + below(w, MAX_LIST) : 0;

    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)below(w, w->config.vocab);
    return n;
}

static void draw_sampling(struct world *w, struct shadow *q)
{
    struct request_sampling *p = &q->spec.sampling;

    p->seed = rng_u64(&w->rng);
    if (chance(w, 50)) {
        p->temperature = (float)(1 + below(w, 20)) / 10;
        p->top_p = (float)(1 + below(w, 10)) / 10;
        p->min_p = (float)below(w, 5) / 10;
        p->top_k = below(w, w->config.vocab);
    }
    if (chance(w, 15)) {
        p->repetition_penalty = 1.1f;
        p->presence_penalty = 0.5f;
        p->frequency_penalty = -0.5f;
    }
    q->spec.n_bias = draw_ids(w, q->bias_ids, 15);
    for (uint32_t i = 0; i < q->spec.n_bias; i++)
        q->bias_values[i] = (float)below(w, 100);
}

static void draw_request(struct world *w, struct shadow *q)
{
    static const char *const salts[N_TENANTS] = {"", "alpha", "beta"};
    struct request_spec *spec = &q->spec;

    *q = (struct shadow){.spec = REQUEST_SPEC_INIT, .end = -1};
    draw_prompt(w, q);
    spec->user = w->n_made;
    spec->prompt = q->tokens;
    spec->max_new_tokens = 1 + below(w, MAX_OUTPUT);
    if (spec->n_prompt + spec->max_new_tokens > w->config.max_seq_len && chance(w, 95))
        spec->max_new_tokens = 1 + below(w, w->config.max_seq_len - 1);
    if (spec->n_prompt + spec->max_new_tokens > w->config.max_seq_len &&
        spec->max_new_tokens < w->config.max_seq_len && chance(w, 95))
        spec->n_prompt = w->config.max_seq_len - spec->max_new_tokens;
    spec->want_logits = chance(w, 8);
    if (spec->want_logits)
        spec->max_new_tokens = 0;
    if (chance(w, 20))
        spec->min_new_tokens = below(w, spec->max_new_tokens + 1);
    spec->n_eos_ids = draw_ids(w, q->eos, 60);
    spec->n_stop_ids = draw_ids(w, q->stop, 30);
    spec->ignore_eos = chance(w, 20);
    draw_sampling(w, q);
    spec->eos_ids = q->eos;
    spec->stop_ids = q->stop;
    spec->bias_ids = q->bias_ids;
    spec->bias_values = q->bias_values;
    spec->salt = salts[q->tenant];
    spec->salt_bytes = strlen(salts[q->tenant]);
    if (disturbed(w, 100))
        spec->queue_deadline_ns = w->now + 1 + below(w, 3000);
    if (disturbed(w, 100))
        spec->deadline_ns = w->now + 1 + below(w, 6000);
}

/* Whether the request can run at all, told from the documentation of its limits. */
static bool fits(const struct world *w, const struct request_spec *spec)
{
    uint64_t sum = (uint64_t)spec->n_prompt + spec->max_new_tokens;
    uint64_t computed = sum - (spec->want_logits ? 0 : 1), bt = w->kv_config.block_tokens;

    return sum <= w->config.max_seq_len && (computed + bt - 1) / bt <= w->kv_config.n_blocks &&
           (w->config.chunked_prefill || spec->want_logits ||
            spec->n_prompt <= w->config.max_num_tokens);
}

static bool queue_full(const struct world *w)
{
    return w->s->waiting.count - w->s->n_preempted == w->config.max_queued;
}

static void submit(struct world *w)
{
    struct shadow *q = &w->shadows[w->n_made];
    struct request *r = NULL;
    tn_err err = TN_ERR_INIT;
    int32_t rc;

    draw_request(w, q);
    rc = request_new(w->s, &q->spec, &r, &err);
    MUST((rc == TN_OK) == fits(w, &q->spec));
    if (rc == TN_OK) {
        bool full = queue_full(w);
        rc = sched_submit(w->s, r, w->now, &q->id, &err);
        MUST(rc == (full ? TN_E_BUSY : TN_OK));
        if (rc)
            request_free(r);
    } else {
        MUST(rc == TN_E_LIMIT && err.field[0] && err.remedy[0]);
    }
    if (rc) {
        w->totals->refused++;
        return;
    }
    oracle_init(&q->oracle, &q->spec, class_of_shadow(w, q), w->config.vocab);
    for (uint32_t i = 0; i < q->spec.n_prompt && !q->spec.want_logits; i++)
        oracle_push(&q->oracle, q->tokens[i]);
    q->live = true;
    w->n_made++;
    w->n_live++;
}

/* Somebody to cancel: among the running, of late, or at all, so that every state is met. */
static struct shadow *draw_victim(struct world *w)
{
    const struct request *r = w->s->running.first;

    if (w->s->n_preempted && chance(w, 20))
        return &w->shadows[w->s->waiting.first->user];
    if (r && chance(w, 40)) {
        for (uint32_t i = below(w, w->s->running.count); i > 0; i--)
            r = r->next;
        return &w->shadows[r->user];
    }
    return &w->shadows[chance(w, 60) && w->n_made > 12 ? w->n_made - 1 - below(w, 12)
                                                       : below(w, w->n_made)];
}

/* Cancels or stops some request: alive, over, or never there. */
static void cancel(struct world *w)
{
    struct shadow *q = draw_victim(w);
    bool stop = chance(w, 30), was = q->live, did;
    const struct request_entry *e = &w->s->entries[q->id & ((1u << ID_INDEX_BITS) - 1)];
    const struct request *r = e->request;

    if (was) {
        MUST(r != NULL);
        w->totals->canceled_in[r->state]++;
        w->totals->canceled_evicting += r->evict;
    } else {
        w->totals->canceled_late++;
    }
    w->acting = q->id;
    w->acting_end = stop ? SCHED_END_STOPPED : SCHED_END_CANCELED;
    did = stop ? sched_stop(w->s, q->id, w->now) : sched_cancel(w->s, q->id, w->now);
    MUST(did == was && !q->live);
    MUST(!sched_cancel(w->s, q->id, w->now)); /* twice is once */
    MUST(!sched_cancel(w->s, q->id + (UINT64_C(1) << 60), w->now));
    w->acting = 0;
}

/* -- Steps ------------------------------------------------------------------------------------- */

static void check_seq(struct world *w, const struct sched_step *step, const struct sched_seq *q)
{
    struct shadow *sh = &w->shadows[q->user];
    uint32_t first = q->context - q->n_rows, bt = w->kv_config.block_tokens;
    uint32_t known = sh->spec.n_prompt + sh->n_out;

    MUST(sh->live && q->id == sh->id && q->n_rows > 0 && q->prompt_len == sh->spec.n_prompt);
    /* Rows follow each other; only a preemption or the first time goes elsewhere: to a block's
     * border. */
    MUST(first == sh->next_row || first % bt == 0);
    sh->next_row = q->context;
    MUST(q->n_blocks == (q->context + bt - 1) / bt);
    MUST(q->context <= w->config.max_seq_len);
    MUST(q->samples == (!sh->spec.want_logits && q->context >= known));
    if (sh->spec.want_logits) /* all, but those delivered before a preemption */
        MUST(q->n_logits <= q->n_rows &&
             (!q->n_logits || q->context - q->n_logits >= sh->n_logits));
    else
        MUST(q->n_logits == q->samples);
    if (q->context < known && !sh->spec.want_logits)
        MUST(q->context % bt == 0);
    if (!w->config.chunked_prefill && !sh->spec.want_logits && sh->n_out == 0)
        MUST(q->samples);
    for (uint32_t i = 0; i < q->n_blocks; i++)
        MUST(kv_refs(w->kv, q->blocks[i]) > 0);
    MUST(q->first_row + q->n_rows <= step->n_rows);
}

static void check_step(struct world *w, const struct sched_step *step, const struct fake_job *j)
{
    const struct sched_config *c = &w->config;
    uint32_t n_rows = 0, n_logits = 0;
    uint64_t n_bias = 0, n_history = 0;

    MUST(step->n_seqs > 0 && step->n_seqs <= c->max_batch_size);
    MUST(step->n_rows <= c->max_num_tokens && step->n_logits <= c->max_logits);
    MUST(step->n_bias <= c->max_step_bias && step->n_history <= c->max_step_history);
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        const struct sched_seq *q = &step->seqs[i];
        MUST(i == 0 || q->user > step->seqs[i - 1].user); /* first come, first served */
        MUST(q->first_row == n_rows && q->first_logits == n_logits);
        check_seq(w, step, q);
        /* Whoever does not get all its rows is the youngest: nobody overtakes. */
        MUST(i + 1 == step->n_seqs || q->samples ||
             q->context == w->shadows[q->user].spec.n_prompt + w->shadows[q->user].n_out);
        n_rows += q->n_rows;
        n_logits += q->n_logits;
    }
    MUST(n_rows == step->n_rows && n_logits == step->n_logits);
    for (uint32_t i = 0; i < step->n_logits; i++) {
        n_bias += j->buf.sample[i].n_bias;
        n_history += j->buf.sample[i].history_len;
        MUST(i == 0 || j->buf.logits_row[i] > j->buf.logits_row[i - 1]);
    }
    MUST(n_bias == step->n_bias && n_history == step->n_history);
}

/* Pages that steps in flight use still have a holder. */
static void check_flights(struct world *w)
{
    for (uint32_t i = 0; i < w->device.count; i++) {
        const struct fake_job *j = &w->device.jobs[(w->device.first + i) % SCHED_IN_FLIGHT_MAX];
        for (uint32_t k = 0; k < j->step->n_seqs; k++)
            for (uint32_t b = 0; b < j->step->seqs[k].n_blocks; b++)
                MUST(kv_refs(w->kv, j->step->seqs[k].blocks[b]) > 0);
    }
}

static void break_job(struct world *w, struct fake_job *j)
{
    for (uint32_t i = 0; i < j->step->n_seqs; i++) {
        if (disturbed(w, 4))
            j->seq_status[i] = TN_E_DEVICE;
        else if (disturbed(w, 4) && j->step->seqs[i].samples)
            j->nan[i] = 1;
    }
    if (disturbed(w, 2))
        j->status = TN_E_COMM;
}

static bool schedule(struct world *w)
{
    const struct sched_step *step = NULL;
    tn_err err = TN_ERR_INIT;
    struct fake_job *j;

    MUST_OK(sched_schedule(w->s, w->now, &step, &err), &err);
    if (!step) {
        MUST(w->device.count > 0 || w->n_live == 0);
        return false;
    }
    j = fake_launch(&w->device, step, chance(w, 30) ? below(w, 40) : 0);
    check_step(w, step, j);
    break_job(w, j);
    return true;
}

/* The livelock detector: the oldest request may miss a few steps, while the blocks it waits for
 * drain or its token is in flight, but never many. */
static void watch_oldest(struct world *w, const struct sched_step *step)
{
    uint32_t bound = (w->config.max_batch_size + 2) * (w->config.max_in_flight + 1);
    uint64_t oldest = 0;
    bool in_step = false;

    while (oldest < w->n_made && !w->shadows[oldest].live)
        oldest++;
    for (uint32_t i = 0; i < step->n_seqs; i++)
        in_step = in_step || step->seqs[i].user == oldest;
    if (oldest != w->oldest || in_step || oldest == w->n_made)
        w->without_oldest = 0;
    else
        w->without_oldest++;
    w->oldest = oldest;
    MUST(w->without_oldest <= bound);
}

static void commit(struct world *w)
{
    struct fake_job *j = fake_oldest(&w->device);
    struct sched_step step = *j->step;
    struct sched_result result = {.status = j->status,
                                  .seq_status = j->seq_status,
                                  .sampled = j->sampled,
                                  .logprob = j->logprob};
    struct sched_step other = step;
    tn_err err = TN_ERR_INIT;

    for (uint32_t i = 0; i < step.n_seqs; i++) {
        struct shadow *q = &w->shadows[step.seqs[i].user];
        if (j->status || j->seq_status[i] || j->nan[i])
            q->device_error = j->status          ? j->status
                              : j->seq_status[i] ? j->seq_status[i]
                                                 : TN_E_NAN;
    }
    watch_oldest(w, j->step);
    MUST(sched_commit(w->s, &other, &result, w->now, &err) == TN_E_INVALID);
    MUST_OK(sched_commit(w->s, j->step, &result, w->now, &err), &err);
    for (uint32_t i = 0; i < step.n_seqs; i++) {
        struct shadow *q = &w->shadows[step.seqs[i].user];
        MUST(!q->live || (!q->device_error && q->end < 0));
    }
    fake_pop(&w->device);
    w->totals->audits++;
}

static void abort_all(struct world *w)
{
    w->aborting = TN_E_DEVICE;
    sched_abort(w->s, TN_E_DEVICE, w->now);
    w->aborting = 0;
    fake_clear(&w->device);
    w->totals->aborts++;
    MUST(w->n_live == 0 && sched_idle(w->s));
}

/* One operation of the outside world or of the loop. */
static void operate(struct world *w)
{
    tn_err err = TN_ERR_INIT;
    uint32_t burst = w->calm == 100 ? 3 : 1;

    w->op++;
    w->now += below(w, 40);
    if (w->n_made < w->n_requests && chance(w, queue_full(w) ? 2 : 40))
        for (uint32_t i = 0; i < burst && w->n_made < w->n_requests; i++)
            submit(w);
    if (w->n_made && (disturbed(w, 40) || (w->s->n_evicting && disturbed(w, 200))))
        cancel(w);
    if (w->n_made && disturbed(w, 1) && chance(w, 20))
        abort_all(w);
    if (chance(w, 10))
        sched_expire(w->s, w->now);
    if (chance(w, 50))
        schedule(w);
    if (chance(w, 30))
        fake_run(&w->device);
    if (w->device.count > 0 && chance(w, 45))
        commit(w);
    check_flights(w);
    if (chance(w, 30)) {
        MUST_OK(sched_audit(w->s, &err), &err);
        w->totals->audits++;
    }
}

static void play(uint64_t seed, uint32_t n_requests, struct totals *totals)
{
    struct world w;
    uint64_t limit;

    world_open(&w, seed, n_requests, totals);
    /* The last world of a run may be small; every tiny request must not be refused for ever. */
    for (limit = 0; w.n_made < n_requests && limit < UINT64_C(2000) * n_requests; limit++)
        operate(&w);
    for (limit = 0; !sched_idle(w.s) || w.device.count; limit++) {
        MUST(limit < 100000);
        w.op++;
        w.now += 10;
        if (!schedule(&w))
            if (w.device.count)
                commit(&w);
    }
    world_close(&w);
}

static void report(const struct totals *t, uint64_t seed)
{
    printf(
        "sim: seed %llu: %llu worlds, %llu requests (%llu refused), %llu steps, %llu tokens equal, "
        "%llu audits\n",
        (unsigned long long)seed, (unsigned long long)t->worlds, (unsigned long long)t->requests,
        (unsigned long long)t->refused, (unsigned long long)t->steps, (unsigned long long)t->tokens,
        (unsigned long long)t->audits);
    printf("sim: ended");
    for (uint32_t i = 0; i <= SCHED_END_ERROR; i++)
        printf(" %s %llu", sched_reason_text(i), (unsigned long long)t->ended[i]);
    printf(
        "; canceled queued %llu preempted %llu prefill %llu decode %llu evicting %llu late %llu\n",
        (unsigned long long)t->canceled_in[REQUEST_QUEUED],
        (unsigned long long)t->canceled_in[REQUEST_PREEMPTED],
        (unsigned long long)t->canceled_in[REQUEST_PREFILL],
        (unsigned long long)t->canceled_in[REQUEST_DECODE],
        (unsigned long long)t->canceled_evicting, (unsigned long long)t->canceled_late);
    printf(
        "sim: preemptions %llu, rows recomputed %llu, tokens discarded %llu, prompt tokens cached "
        "%llu, evictions %llu, stalls %llu, aborts %llu\n",
        (unsigned long long)t->preemptions, (unsigned long long)t->recomputed,
        (unsigned long long)t->discarded, (unsigned long long)t->cached,
        (unsigned long long)t->evictions, (unsigned long long)t->stalls,
        (unsigned long long)t->aborts);
}

static void run(uint64_t seed, uint64_t n_requests)
{
    struct rng rng = {seed};
    struct totals t = {0};

    while (t.requests < n_requests) {
        uint64_t left = n_requests - t.requests;
        uint64_t before = t.requests;
        play(rng_u64(&rng), left < WORLD_REQUESTS ? (uint32_t)left : WORLD_REQUESTS, &t);
        MUST(t.requests > before || t.worlds < 1000 + n_requests);
    }
    report(&t, seed);
    fflush(stdout);
    if (n_requests < 10000)
        return;
    /* The run met what it is for. */
    MUST(t.preemptions && t.recomputed && t.discarded && t.cached && t.evictions && t.stalls);
    MUST(t.aborts && t.canceled_late && t.canceled_evicting);
    for (uint32_t i = 0; i <= SCHED_END_ERROR; i++)
        MUST(t.ended[i]);
    for (uint32_t i = REQUEST_QUEUED; i <= REQUEST_DECODE; i++)
        MUST(t.canceled_in[i]);
}

static uint64_t number(const char *text, uint64_t otherwise)
{
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

START_TEST(random_requests_equal_the_oracle_and_keep_every_invariant)
{
    run(number(getenv("TENON_SIM_SEED"), 1),
        number(getenv("TENON_SIM_REQUESTS"), DEFAULT_REQUESTS));
}
END_TEST

int main(int argc, char **argv)
{
    Suite *s;
    TCase *t;

    if (argc > 2 && strcmp(argv[1], "-w") == 0) {
        struct totals totals = {0};
        play(number(argv[2], 1), (uint32_t)number(argc > 3 ? argv[3] : NULL, WORLD_REQUESTS),
             &totals);
        report(&totals, number(argv[2], 1));
        return 0;
    }
    if (argc > 1) {
        run(number(argv[1], 1), number(argc > 2 ? argv[2] : NULL, DEFAULT_REQUESTS));
        return 0;
    }
    s = suite_create("sim");
    t = tcase_create("sim");
    tcase_set_timeout(t, 600); /* CTest has the last word */
    tcase_add_test(t, random_requests_equal_the_oracle_and_keep_every_invariant);
    suite_add_tcase(s, t);
    return run_suite(s);
}
