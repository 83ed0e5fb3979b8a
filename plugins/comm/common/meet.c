/* SPDX-License-Identifier: Apache-2.0 */
/* Meeting, boxes of messages, and acting out faults: on the threads of the ranks, each with its own view of the group. */
#include "meet.h"

#include <stdio.h>
#include <string.h>

#include "sum.h"

static uint64_t now_ns(const struct hub *l)
{
    return l->host->now_ns(l->host->ctx);
}

uint64_t meet_deadline(const tn_comm_group *me)
{
    return me->call_timeout_ns ? now_ns(me->g->l) + me->call_timeout_ns : 0;
}

uint64_t meet_checksum(const unsigned char *data, uint64_t bytes)
{
    uint64_t sum = bytes, word;

    for (uint64_t i = 0; i < bytes; i += sizeof word) {
        word = 0;
        memcpy(&word, data + i, bytes - i < sizeof word ? bytes - i : sizeof word);
        sum = (sum ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        sum ^= sum >> 29;
    }
    return sum;
}

int32_t meet_fail(struct group *g, int32_t code, const char *call, uint64_t seq, uint32_t rank,
                  const char *what, tn_err *err)
{
    tn_err why = TN_ERR_INIT;

    tn_err_set(&why, code, "%s: %s %llu: rank %u %s", g->l->name, call, (unsigned long long)seq,
               (unsigned)g->members[rank], what);
    return group_break(g, &why, err);
}

/* -- Faults ------------------------------------------------------------------------------------------------- */

static bool never(const tn_comm_group *me, const void *arg)
{
    (void)me;
    (void)arg;
    return false;
}

/* Delays and stalls happen here; the others are for the caller to act out. TN_OK: go on. */
int32_t meet_fault(tn_comm_group *me, const char *call, uint32_t *kind, tn_err *err)
{
    const struct hub *l = me->g->l;
    int32_t rc;

    *kind = fault_of(&l->fault, me->g->members[me->rank], call, &me->calls);
    if (*kind == FAULT_DEAD)
        return tn_err_set(err, TN_E_COMM, "%s: rank %u is dead (injected)", l->name,
                          (unsigned)l->fault.rank);
    if (*kind != FAULT_DELAY && *kind != FAULT_STALL)
        return TN_OK;
    rc = group_await(me, never, NULL, *kind == FAULT_DELAY ? now_ns(l) + l->fault.ms * 1000000 : 0,
                     err);
    return rc == TN_E_TIMEOUT && *kind == FAULT_DELAY ? group_error(me, err) : rc;
}

/* -- Meeting ------------------------------------------------------------------------------------------------ */

static bool all_came(const tn_comm_group *me, const void *arg)
{
    (void)arg;
    for (uint32_t r = 0; r < me->g->n; r++)
        if (atomic_load_explicit(&me->g->places[r].arrived, memory_order_acquire) < me->seq)
            return false;
    return true;
}

struct shown *meet_shown(const tn_comm_group *me, uint32_t rank)
{
    return &me->g->places[rank].shown[me->seq % 2];
}

/* The first rank that has not come to meeting `seq`; g->n: all have. */
static uint32_t missing(const struct group *g, uint64_t seq)
{
    uint32_t r = 0;

    while (r < g->n && atomic_load(&g->places[r].arrived) >= seq)
        r++;
    return r;
}

/* Who is late may itself wait for another rank, whose fault it then is. Ranks that wait in a ring are all at fault: the first
 * is as good as any. */
static uint32_t culprit(const struct group *g, uint32_t first)
{
    uint32_t r = first, on;

    for (uint32_t steps = 0; steps < g->n; steps++) {
        uint32_t waits = atomic_load(&g->places[r].waits_for);
        if (waits == 0)
            return r;
        on = waits == WAITS_FOR_ALL ? missing(g, atomic_load(&g->places[r].arrived)) : waits - 1;
        if (on >= g->n)
            return r;
        r = on;
    }
    return first;
}

/* Breaks the group: the deadline passed, and `rank` was waited for. */
static int32_t late(tn_comm_group *me, const char *call, uint32_t rank, tn_err *err)
{
    uint32_t who = culprit(me->g, rank);
    char what[96];
    int n = snprintf(what, sizeof what, "has not come within %llu ms",
                     (unsigned long long)(me->call_timeout_ns / 1000000));

    if (who != rank)
        snprintf(what + n, sizeof what - (size_t)n, "; rank %u waits for it",
                 (unsigned)me->g->members[rank]);
    return meet_fail(me->g, TN_E_TIMEOUT, call, me->seq, who, what, err);
}

/* Waits in a way that others can see, so that they do not blame this rank. */
static int32_t await(tn_comm_group *me, uint32_t whom,
                     bool (*ready)(const tn_comm_group *, const void *), const void *arg,
                     tn_err *err)
{
    _Atomic uint32_t *waits = &me->g->places[me->rank].waits_for;
    int32_t rc;

    atomic_store_explicit(waits, whom, memory_order_release);
    rc = group_await(me, ready, arg, meet_deadline(me), err);
    if (rc == TN_OK) /* whoever fails goes no further, and others still look for the reason */
        atomic_store_explicit(waits, 0, memory_order_release);
    return rc;
}

/* All must have come to the same call with the same sizes, and what they show must be what they meant. */
static int32_t compare(tn_comm_group *me, const struct shown *mine, tn_err *err)
{
    struct group *g = me->g;

    for (uint32_t r = 0; r < g->n; r++) {
        const struct shown *s = meet_shown(me, r);
        if (s->seq != mine->seq)
            return meet_fail(g, TN_E_COMM, mine->call, mine->seq, r, "has left out a call", err);
        if (strcmp(s->call, mine->call) != 0 || s->bytes != mine->bytes ||
            s->dtype != mine->dtype || s->root != mine->root)
            return meet_fail(g, TN_E_COMM, mine->call, mine->seq, r,
                             "came to another call, or another size", err);
        if (s->data && g->l->verify && s->bytes <= CHUNK &&
            meet_checksum(s->data, s->bytes) != s->sum)
            return meet_fail(g, TN_E_COMM, mine->call, mine->seq, r,
                             "sent something else than what arrived", err);
    }
    return TN_OK;
}

/* Begins a meeting: the place to fill with this rank's part. */
struct shown *meet_begin(tn_comm_group *me)
{
    me->seq++;
    return meet_shown(me, me->rank);
}

static bool others_came(const tn_comm_group *me, const void *arg)
{
    (void)arg;
    for (uint32_t r = 0; r < me->g->n; r++)
        if (r != me->rank &&
            atomic_load_explicit(&me->g->places[r].arrived, memory_order_acquire) < me->seq)
            return false;
    return true;
}

/* Stays away from the meeting (injected), but does not run ahead: what the rank shows next takes the place of what others may
 * still be reading until they have come here. */
static int32_t stay_away(tn_comm_group *me, tn_err *err)
{
    int32_t rc = group_await(me, others_came, NULL, meet_deadline(me), err);

    return rc == TN_E_TIMEOUT ? TN_OK : rc;
}

/* Shows what was filled in, and returns when all have come. `mine` says what it is. */
int32_t meet_all(tn_comm_group *me, const struct shown *mine, uint32_t fault, tn_err *err)
{
    struct group *g = me->g;
    struct shown *s = meet_shown(me, me->rank);
    int32_t rc = group_error(me, err);

    if (rc != TN_OK)
        return rc;
    if (fault == FAULT_DROP)
        return stay_away(me, err);
    s->seq = me->seq;
    s->bytes = mine->bytes;
    s->call = mine->call;
    s->dtype = mine->dtype;
    s->root = mine->root;
    if (g->l->verify && s->data)
        s->sum = meet_checksum(s->data, s->bytes);
    if (fault == FAULT_FLIP && s->bytes > 0 && s->data)
        s->data[s->bytes / 2] ^= 0x40;
    atomic_store(&g->places[me->rank].arrived, me->seq);
    group_wake(g);
    rc = await(me, WAITS_FOR_ALL, all_came, NULL, err);
    if (rc == TN_E_TIMEOUT) {
        uint32_t who = missing(g, me->seq);
        rc = who < g->n ? late(me, mine->call, who, err) : TN_OK;
    }
    return rc == TN_OK ? compare(me, s, err) : rc;
}

/* -- Messages ----------------------------------------------------------------------------------------------- */

struct wanted {
    const struct box *box;
    uint32_t state;
};

static bool box_is(const tn_comm_group *me, const void *arg)
{
    const struct wanted *w = arg;

    (void)me;
    return atomic_load_explicit(&w->box->state, memory_order_acquire) == w->state;
}

int32_t meet_check_peer(tn_comm_group *me, uint32_t peer, tn_err *err)
{
    if (peer >= me->g->n || peer == me->rank)
        return tn_err_set(err, TN_E_RANGE, "%s: rank %u cannot reach rank %u", me->g->l->name,
                          (unsigned)me->rank, (unsigned)peer);
    return group_error(me, err);
}

/* Waits for the box; a peer that does not come breaks the group. */
int32_t meet_box(tn_comm_group *me, struct box *box, uint32_t state, uint32_t peer,
                 const char *call, tn_err *err)
{
    struct wanted w = {box, state};
    int32_t rc = await(me, peer + 1, box_is, &w, err);

    return rc == TN_E_TIMEOUT ? late(me, call, peer, err) : rc;
}

/* Takes an unread message back, or waits until it has been read: its memory is about to be the sender's again. */
void meet_withdraw(struct box *box)
{
    uint32_t full = BOX_FULL;

    if (!atomic_compare_exchange_strong(&box->state, &full, BOX_EMPTY))
        while (atomic_load(&box->state) == BOX_READ)
            ;
}

/* -- Checks ------------------------------------------------------------------------------------------------- */

int32_t meet_check_dtype(const tn_comm_group *me, uint32_t dtype, uint64_t count, uint64_t parts,
                         tn_err *err)
{
    if (!(COMM_SUM_DTYPES & TN_DT_BIT(dtype)))
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s: cannot sum %s", me->g->l->name,
                          tn_dtype_name(dtype));
    return count > UINT64_MAX / 8 / parts
               ? tn_err_set(err, TN_E_RANGE, "%s: too many elements", me->g->l->name)
               : TN_OK;
}
