/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler's life, and that of requests within it: submit, cancel, deadlines, end. Called by
 * one thread. Ids are an index into a table and a serial, so that a late cancel meets nobody
 * instead of a stranger. */
#include "sched/sched.h"

#include <assert.h>
#include <math.h>

#include "base/limits.h"
#include "base/mem.h"
#include "sched/state.h"

const char *sched_reason_text(uint32_t reason)
{
    static const char *const texts[] = {"eos",      "stop-id",  "stopped", "length",
                                        "canceled", "deadline", "error"};

    return reason < sizeof texts / sizeof *texts ? texts[reason] : "unknown";
}

/* -- Creation ---------------------------------------------------------------------------------- */

static int32_t in_range(const char *field, uint64_t v, uint64_t min, uint64_t max, tn_err *err)
{
    if (v >= min && v <= max)
        return TN_OK;
    err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, field, "is %llu, must be %llu .. %llu",
           (unsigned long long)v, (unsigned long long)min, (unsigned long long)max);
    err_remedy(err, "set %s within the range", field);
    return TN_E_RANGE;
}

static void fill_defaults(struct sched_config *c)
{
    uint64_t all = (uint64_t)c->max_batch_size * c->max_seq_len;

    if (c->max_logits == 0)
        c->max_logits = c->max_batch_size;
    if (c->max_step_bias == 0)
        c->max_step_bias = LIMIT_LOGIT_BIAS + 2 * LIMIT_STOP_IDS + 64 * c->max_batch_size;
    if (c->max_step_history == 0)
        c->max_step_history = all < c->max_seq_len + MIB ? all : c->max_seq_len + MIB;
}

static int32_t check_config(const struct sched_config *c, uint32_t block_tokens, tn_err *err)
{
    uint64_t min_rows = c->max_batch_size > block_tokens ? c->max_batch_size : block_tokens;
    int32_t rc = in_range("policy", c->policy, 0, SCHED_MAX_UTILIZATION, err);

    if (!rc)
        rc = in_range("max_batch_size", c->max_batch_size, 1, LIMIT_BATCH, err);
    if (!rc)
        rc = in_range("max_num_tokens", c->max_num_tokens, min_rows, LIMIT_STEP_ROWS, err);
    if (!rc)
        rc = in_range("max_seq_len", c->max_seq_len, 2, LIMIT_POSITIONS, err);
    if (!rc)
        rc = in_range("max_logits", c->max_logits, c->max_batch_size, c->max_num_tokens, err);
    if (!rc)
        rc = in_range("max_queued", c->max_queued, 1, LIMIT_QUEUED, err);
    if (!rc)
        rc = in_range("max_in_flight", c->max_in_flight, 1, SCHED_IN_FLIGHT_MAX, err);
    if (!rc)
        rc = in_range("vocab", c->vocab, 1, LIMIT_VOCAB, err);
    if (!rc)
        rc = in_range("max_step_bias", c->max_step_bias, 1,
                      LIMIT_LOGIT_BIAS * (uint64_t)LIMIT_BATCH, err);
    if (!rc)
        rc = in_range("max_step_history", c->max_step_history, c->max_seq_len,
                      (uint64_t)LIMIT_POSITIONS * LIMIT_BATCH, err);
    return rc;
}

static int32_t allocate(struct sched *s, tn_err *err)
{
    uint32_t n_blocks = kv_n_blocks(s->kv);

    s->entries = mem_zarray(s->n_entries, sizeof *s->entries);
    s->free_entries = mem_array(s->n_entries, sizeof *s->free_entries);
    s->deadlines.items = mem_array(s->n_entries, sizeof(struct request *));
    s->tables = mem_array((size_t)s->n_slots * s->max_blocks, sizeof *s->tables);
    s->free_slots = mem_array(s->n_slots, sizeof *s->free_slots);
    s->owned = mem_zarray(n_blocks, sizeof *s->owned);
    if (!s->entries || !s->free_entries || !s->deadlines.items || !s->tables || !s->free_slots ||
        !s->owned)
        return err_nomem(err, "the scheduler");
    for (uint32_t i = 0; i < s->config.max_in_flight; i++) {
        s->steps[i].seqs = mem_array(s->config.max_batch_size, sizeof *s->steps[i].seqs);
        if (!s->steps[i].seqs)
            return err_nomem(err, "the scheduler's steps");
        s->steps[i].step.seqs = s->steps[i].seqs;
    }
    for (uint32_t i = 0; i < s->n_entries; i++)
        s->free_entries[i] = s->n_entries - 1 - i;
    for (uint32_t i = 0; i < s->n_slots; i++)
        s->free_slots[i] = s->n_slots - 1 - i;
    s->n_free_entries = s->n_entries;
    s->n_free_slots = s->n_slots;
    return TN_OK;
}

int32_t sched_new(const struct sched_config *config, struct kv_cache *kv, sched_sink sink,
                  void *sink_arg, struct sched **out, tn_err *err)
{
    struct sched_config c = *config;
    struct sched *s = NULL;
    int32_t rc;

    fill_defaults(&c);
    rc = check_config(&c, kv_block_tokens(kv), err);
    if (rc)
        return rc;
    s = mem_zalloc(sizeof *s);
    if (!s)
        return err_nomem(err, "the scheduler");
    s->config = c;
    s->kv = kv;
    s->sink = sink;
    s->sink_arg = sink_arg;
    s->block_tokens = kv_block_tokens(kv);
    s->max_blocks = sched_blocks_for(s, c.max_seq_len);
    if (s->max_blocks > kv_n_blocks(kv))
        s->max_blocks = kv_n_blocks(kv);
    /* A request that ended keeps its table while a step in flight uses it, and each of the other
     * steps in flight may hold a whole batch of such. Those that run or were preempted are never
     * more than a batch: no younger one begins while a preempted one waits. */
    s->n_slots = c.max_batch_size * c.max_in_flight;
    s->n_entries = c.max_queued + s->n_slots;
    rc = allocate(s, err);
    if (rc) {
        sched_free(s);
        return rc;
    }
    *out = s;
    return TN_OK;
}

void sched_free(struct sched *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; s->entries && i < s->n_entries; i++) {
        struct request *r = s->entries[i].request;
        if (r && r->slot != NO_SLOT)
            kv_seq_release(s->kv, &r->kv);
        request_free(r);
    }
    for (uint32_t i = 0; i < SCHED_IN_FLIGHT_MAX; i++)
        mem_free(s->steps[i].seqs);
    mem_free(s->entries);
    mem_free(s->free_entries);
    mem_free(s->deadlines.items);
    mem_free(s->tables);
    mem_free(s->free_slots);
    mem_free(s->owned);
    mem_free(s);
}

const struct sched_config *sched_get_config(const struct sched *s)
{
    return &s->config;
}

/* -- Requests come ----------------------------------------------------------------------------- */

int32_t sched_submit(struct sched *s, struct request *r, uint64_t now_ns, uint64_t *id, tn_err *err)
{
    uint32_t at, n_queued = s->waiting.count - s->n_preempted;
    uint64_t first;

    if (s->closed) {
        s->stats.refused++;
        return err_at(err, TN_E_CLOSED, NULL, TN_NO_OFFSET, NULL, "no more requests are taken");
    }
    if (n_queued >= s->config.max_queued) {
        s->stats.refused++;
        err_at(err, TN_E_BUSY, NULL, TN_NO_OFFSET, "max_queued", "%u requests wait already",
               n_queued);
        err_remedy(err, "try again later, or raise max_queued");
        return TN_E_BUSY;
    }
    assert(r->state == REQUEST_NEW && s->n_free_entries > 0);
    sched_tick(s, now_ns);
    at = s->free_entries[--s->n_free_entries];
    s->entries[at].request = r;
    s->entries[at].serial++;
    r->id = s->entries[at].serial << ID_INDEX_BITS | at;
    r->arrival = ++s->arrivals;
    r->state = REQUEST_QUEUED;
    r->usage.submitted_ns = s->now_ns;
    queue_append(&s->waiting, r);
    first = r->queue_deadline_ns < r->deadline_ns ? r->queue_deadline_ns : r->deadline_ns;
    deadline_set(&s->deadlines, r, first);
    s->stats.submitted++;
    *id = r->id;
    return TN_OK;
}

/* NULL if the request has ended. */
static struct request *find(const struct sched *s, uint64_t id)
{
    uint64_t at = id & ((UINT64_C(1) << ID_INDEX_BITS) - 1);
    struct request *r = at < s->n_entries ? s->entries[at].request : NULL;

    return r && r->id == id && r->state != REQUEST_ENDED ? r : NULL;
}

void sched_close(struct sched *s)
{
    s->closed = true;
}

/* -- Requests go ------------------------------------------------------------------------------- */

void sched_vacate(struct sched *s, struct request *r)
{
    assert(r->in_flight == 0);
    if (r->slot == NO_SLOT)
        return;
    kv_seq_release(s->kv, &r->kv);
    s->free_slots[s->n_free_slots++] = r->slot;
    r->slot = NO_SLOT;
}

void sched_reclaim(struct sched *s, struct request *r)
{
    uint32_t at = (uint32_t)(r->id & ((UINT64_C(1) << ID_INDEX_BITS) - 1));

    sched_vacate(s, r);
    s->entries[at].request = NULL;
    s->free_entries[s->n_free_entries++] = at;
    request_free(r);
}

/* Takes a live request out of the queue or from among the running. */
static void leave(struct sched *s, struct request *r)
{
    if (r->state == REQUEST_QUEUED || r->state == REQUEST_PREEMPTED) {
        queue_remove(&s->waiting, r);
        s->n_preempted -= r->state == REQUEST_PREEMPTED;
        return;
    }
    queue_remove(&s->running, r);
    s->n_evicting -= r->evict;
    s->reserved -= r->reserved;
    r->evict = false;
    r->reserved = 0;
}

void sched_end(struct sched *s, struct request *r, uint32_t reason, int32_t status)
{
    struct sched_usage usage = r->usage;
    struct sched_event event = {.kind = SCHED_EVENT_FINISHED,
                                .id = r->id,
                                .user = r->user,
                                .logprob = NAN,
                                .reason = reason,
                                .status = status,
                                .usage = &usage};

    leave(s, r);
    deadline_set(&s->deadlines, r, DEADLINE_NONE);
    usage.n_output = request_n_output(r);
    usage.finished_ns = s->now_ns;
    s->stats.finished[reason]++;
    if (reason == SCHED_END_ERROR && r->slot != NO_SLOT)
        kv_forget(s->kv, &r->kv);
    r->state = REQUEST_ENDED;
    if (r->in_flight)
        s->n_draining++;
    else
        sched_reclaim(s, r);
    s->sink(s->sink_arg, &event);
}

void sched_preempt(struct sched *s, struct request *r)
{
    assert(r->in_flight == 0 && r->pending == 0);
    leave(s, r);
    sched_vacate(s, r);
    if (r->computed > r->lost)
        r->lost = r->computed;
    r->computed = r->scheduled = 0;
    r->state = REQUEST_PREEMPTED;
    r->usage.n_preempted++;
    /* The newest of the running is older than all that wait, so the front is its place. */
    assert(!s->waiting.first || s->waiting.first->arrival > r->arrival);
    queue_prepend(&s->waiting, r);
    s->n_preempted++;
    s->stats.preemptions++;
}

bool sched_cancel(struct sched *s, uint64_t id, uint64_t now_ns)
{
    struct request *r = find(s, id);

    sched_tick(s, now_ns);
    if (r)
        sched_end(s, r, SCHED_END_CANCELED, TN_E_CANCELED);
    return r != NULL;
}

bool sched_stop(struct sched *s, uint64_t id, uint64_t now_ns)
{
    struct request *r = find(s, id);

    sched_tick(s, now_ns);
    if (r)
        sched_end(s, r, SCHED_END_STOPPED, TN_OK);
    return r != NULL;
}

void sched_abort(struct sched *s, int32_t status, uint64_t now_ns)
{
    sched_tick(s, now_ns);
    for (uint32_t i = 0; i < s->n_steps; i++) {
        const struct sched_step *step =
            &s->steps[(s->first_step + i) % s->config.max_in_flight].step;
        for (uint32_t j = 0; j < step->n_seqs; j++) {
            struct request *r = step->seqs[j].request;
            r->in_flight--;
            if (r->in_flight == 0 && r->state == REQUEST_ENDED) {
                s->n_draining--;
                sched_reclaim(s, r);
            }
        }
    }
    s->n_steps = 0;
    while (s->running.first)
        sched_end(s, s->running.first, SCHED_END_ERROR, status);
    while (s->waiting.first)
        sched_end(s, s->waiting.first, SCHED_END_ERROR, status);
}

void sched_expire(struct sched *s, uint64_t now_ns)
{
    struct request *r;

    sched_tick(s, now_ns);
    while ((r = deadline_first(&s->deadlines)) && r->heap_key <= s->now_ns)
        sched_end(s, r, SCHED_END_DEADLINE, TN_E_TIMEOUT);
}

uint64_t sched_next_deadline(const struct sched *s)
{
    const struct request *r = deadline_first(&s->deadlines);

    return r ? r->heap_key : UINT64_MAX;
}

bool sched_idle(const struct sched *s)
{
    return s->waiting.count == 0 && s->running.count == 0 && s->n_steps == 0;
}

void sched_get_stats(const struct sched *s, struct sched_stats *out)
{
    *out = s->stats;
    out->n_waiting = s->waiting.count;
    out->n_preempted = s->n_preempted;
    out->n_running = s->running.count;
    out->n_draining = s->n_draining;
    out->n_in_flight = s->n_steps;
    out->n_reserved = (uint32_t)s->reserved;
    kv_get_stats(s->kv, &out->kv);
}
