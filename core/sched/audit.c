/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler's invariants, checked from outside the code that keeps them. For tests and debug
 * runs. */
#include <string.h>

#include "sched/sched.h"
#include "sched/state.h"

static int32_t broken(tn_err *err, const struct request *r, const char *what)
{
    return tn_err_set(err, TN_E_INTERNAL, "scheduler: request %llu: %s",
                      (unsigned long long)(r ? r->id : 0), what);
}

/* Positions, and the pages that it may still write: nobody else holds them. */
static int32_t audit_sequence(const struct sched *s, const struct request *r, tn_err *err)
{
    bool live = r->state != REQUEST_ENDED; /* else tokens were discarded */

    if (r->computed > r->scheduled || r->computed > r->n_tokens || r->pending > r->in_flight ||
        (live && r->scheduled > r->n_tokens + r->pending))
        return broken(err, r, "positions are out of order");
    if (r->n_tokens > r->n_prompt + r->max_new || r->scheduled > r->n_prompt + r->max_new)
        return broken(err, r, "longer than asked for");
    if ((uint64_t)r->kv.n_blocks * s->block_tokens < r->scheduled)
        return broken(err, r, "rows without a block");
    for (uint32_t i = r->computed / s->block_tokens; i < r->kv.n_blocks; i++)
        if (kv_refs(s->kv, r->kv.blocks[i]) != 1)
            return broken(err, r, "writes a page that another one holds");
    return TN_OK;
}

static int32_t audit_list(const struct sched *s, const struct queue *q, bool running,
                          uint64_t *arrival, tn_err *err)
{
    const struct request *prev = NULL;
    uint32_t n = 0;

    for (const struct request *r = q->first; r; prev = r, r = r->next, n++) {
        bool runs = r->state == REQUEST_PREFILL || r->state == REQUEST_DECODE;
        bool waits = r->state == REQUEST_QUEUED || r->state == REQUEST_PREEMPTED;
        if (r->prev != prev || (running ? !runs : !waits) || n >= s->n_entries)
            return broken(err, r, "stands in the wrong list");
        if (r->arrival <= *arrival)
            return broken(err, r, "overtook an older one");
        *arrival = r->arrival;
        if (waits && (r->slot != NO_SLOT || r->in_flight || r->reserved || r->evict))
            return broken(err, r, "waits and yet holds something");
    }
    return q->last != prev || n != q->count ? broken(err, prev, "the list's end or count is wrong")
                                            : TN_OK;
}

struct tally {
    uint64_t reserved;
    uint32_t n_live, n_ended, n_slots, n_evicting, n_preempted, n_deadlines, in_flight;
};

static int32_t audit_entries(struct sched *s, struct tally *t, tn_err *err)
{
    for (uint32_t i = 0; i < s->n_entries; i++) {
        const struct request *r = s->entries[i].request;
        int32_t rc = TN_OK;
        if (!r)
            continue;
        t->n_live++;
        t->n_ended += r->state == REQUEST_ENDED;
        t->n_preempted += r->state == REQUEST_PREEMPTED;
        t->n_evicting += r->evict;
        t->reserved += r->reserved;
        t->in_flight += r->in_flight;
        t->n_deadlines += r->heap_at != 0;
        if (r->state == REQUEST_ENDED && r->in_flight == 0)
            return broken(err, r, "ended and was not reclaimed");
        if (r->heap_at && s->deadlines.items[r->heap_at - 1] != r)
            return broken(err, r, "is lost among the deadlines");
        if (r->slot == NO_SLOT)
            continue;
        t->n_slots++;
        if (r->kv.blocks != s->tables + (size_t)r->slot * s->max_blocks)
            return broken(err, r, "uses another one's block table");
        for (uint32_t b = 0; b < r->kv.n_blocks; b++)
            s->owned[r->kv.blocks[b]]++;
        rc = audit_sequence(s, r, err);
        if (rc)
            return rc;
    }
    return TN_OK;
}

static int32_t audit_counts(const struct sched *s, const struct tally *t, tn_err *err)
{
    uint32_t in_steps = 0;

    for (uint32_t i = 0; i < s->n_steps; i++)
        in_steps += s->steps[(s->first_step + i) % s->config.max_in_flight].step.n_seqs;
    if (t->n_live + s->n_free_entries != s->n_entries || t->n_slots + s->n_free_slots != s->n_slots)
        return broken(err, NULL, "an entry or a block table is lost");
    if (t->n_live != s->running.count + s->waiting.count + t->n_ended)
        return broken(err, NULL, "a request is in no list");
    if (t->n_ended != s->n_draining || t->n_preempted != s->n_preempted ||
        t->n_evicting != s->n_evicting || t->reserved != s->reserved)
        return broken(err, NULL, "a counter is off");
    if (t->in_flight != in_steps)
        return broken(err, NULL, "sequences in flight are miscounted");
    if (t->n_deadlines != s->deadlines.count)
        return broken(err, NULL, "deadlines are miscounted");
    if (s->running.count > s->config.max_batch_size ||
        s->waiting.count - s->n_preempted > s->config.max_queued)
        return broken(err, NULL, "more run or wait than allowed");
    if (s->config.policy == SCHED_GUARANTEED_NO_EVICT && kv_available(s->kv) < s->reserved)
        return broken(err, NULL, "more blocks are promised than can be had");
    for (uint32_t i = 1; i < s->deadlines.count; i++)
        if (s->deadlines.items[(i - 1) / 2]->heap_key > s->deadlines.items[i]->heap_key)
            return broken(err, s->deadlines.items[i], "its deadline is out of order");
    return TN_OK;
}

int32_t sched_audit(struct sched *s, tn_err *err)
{
    struct tally t = {0};
    uint64_t arrival = 0;
    int32_t rc;

    memset(s->owned, 0, kv_n_blocks(s->kv) * sizeof *s->owned);
    rc = audit_entries(s, &t, err);
    if (!rc)
        rc = audit_list(s, &s->running, true, &arrival, err);
    if (!rc)
        rc = audit_list(s, &s->waiting, false, &arrival, err);
    if (!rc)
        rc = audit_counts(s, &t, err);
    return rc ? rc : kv_audit(s->kv, s->owned, err);
}
