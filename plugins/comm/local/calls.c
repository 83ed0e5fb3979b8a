/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives and messages. A collective goes in chunks; for each, every rank copies its part to where the others see
 * it, all meet, and every rank takes what it needs from all ("one shot": each rank sums for itself, which for the sizes
 * of decode steps costs less than a second meeting). Sums go in rank order. A message stays in its sender's memory until
 * the receiver has copied it.
 */
#include <stdio.h>
#include <string.h>

#include "../common/sum.h"
#include "group.h"

static uint64_t now_ns(const struct local *l)
{
    return l->host->now_ns(l->host->ctx);
}

static uint64_t deadline(const tn_comm_group *me)
{
    return me->call_timeout_ns ? now_ns(me->g->l) + me->call_timeout_ns : 0;
}

static uint64_t checksum(const unsigned char *data, uint64_t bytes)
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

static int32_t fail(struct group *g, int32_t code, const char *call, uint64_t seq, uint32_t rank,
                    const char *what, tn_err *err)
{
    tn_err why = TN_ERR_INIT;

    tn_err_set(&why, code, "local: %s %llu: rank %u %s", call, (unsigned long long)seq,
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
static int32_t befall(tn_comm_group *me, const char *call, uint32_t *kind, tn_err *err)
{
    const struct local *l = me->g->l;
    int32_t rc;

    *kind = fault_of(&l->fault, me->g->members[me->rank], call, &me->calls);
    if (*kind == FAULT_DEAD)
        return tn_err_set(err, TN_E_COMM, "local: rank %u is dead (injected)",
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

static struct shown *shown_of(const tn_comm_group *me, uint32_t rank)
{
    return &me->g->places[rank].shown[me->seq % 2];
}

static int32_t late(tn_comm_group *me, const char *call, tn_err *err)
{
    struct group *g = me->g;
    char what[64];

    snprintf(what, sizeof what, "has not come within %llu ms",
             (unsigned long long)(me->call_timeout_ns / 1000000));
    for (uint32_t r = 0; r < g->n; r++)
        if (atomic_load(&g->places[r].arrived) < me->seq)
            return fail(g, TN_E_TIMEOUT, call, me->seq, r, what, err);
    return group_error(me, err);
}

/* All must have come to the same call with the same sizes, and what they show must be what they meant. */
static int32_t compare(tn_comm_group *me, const struct shown *mine, tn_err *err)
{
    struct group *g = me->g;

    for (uint32_t r = 0; r < g->n; r++) {
        const struct shown *s = shown_of(me, r);
        if (s->seq != mine->seq)
            return fail(g, TN_E_COMM, mine->call, mine->seq, r, "has left out a call", err);
        if (strcmp(s->call, mine->call) != 0 || s->bytes != mine->bytes ||
            s->dtype != mine->dtype || s->root != mine->root)
            return fail(g, TN_E_COMM, mine->call, mine->seq, r,
                        "came to another call, or another size", err);
        if (g->l->verify && s->bytes <= CHUNK && checksum(s->data, s->bytes) != s->sum)
            return fail(g, TN_E_COMM, mine->call, mine->seq, r,
                        "sent something else than what arrived", err);
    }
    return TN_OK;
}

/* Begins a meeting: the place to fill with this rank's part. */
static struct shown *begin(tn_comm_group *me)
{
    me->seq++;
    return shown_of(me, me->rank);
}

/* Shows what was filled in, and returns when all have come. `mine` says what it is. */
static int32_t meet(tn_comm_group *me, const struct shown *mine, uint32_t fault, tn_err *err)
{
    struct group *g = me->g;
    struct shown *s = shown_of(me, me->rank);
    int32_t rc = group_error(me, err);

    if (rc != TN_OK)
        return rc;
    if (fault == FAULT_DROP)
        return TN_OK;
    s->seq = me->seq;
    s->bytes = mine->bytes;
    s->call = mine->call;
    s->dtype = mine->dtype;
    s->root = mine->root;
    if (g->l->verify)
        s->sum = checksum(s->data, s->bytes);
    if (fault == FAULT_FLIP && s->bytes > 0)
        s->data[s->bytes / 2] ^= 0x40;
    atomic_store(&g->places[me->rank].arrived, me->seq);
    group_wake(g);
    rc = group_await(me, all_came, NULL, deadline(me), err);
    if (rc == TN_E_TIMEOUT)
        rc = late(me, mine->call, err);
    return rc == TN_OK ? compare(me, s, err) : rc;
}

/* -- Collectives -------------------------------------------------------------------------------------------- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int32_t check_dtype(uint32_t dtype, uint64_t count, uint64_t parts, tn_err *err)
{
    if (!(COMM_SUM_DTYPES & TN_DT_BIT(dtype)))
        return tn_err_set(err, TN_E_UNSUPPORTED, "local: cannot sum %s", tn_dtype_name(dtype));
    return count > UINT64_MAX / 8 / parts ? tn_err_set(err, TN_E_RANGE, "local: too many elements")
                                          : TN_OK;
}

/* recv = sum of `count` elements from `first` on of what all show. */
static void take_sum(const tn_comm_group *me, uint64_t first_byte, void *recv, uint64_t count,
                     uint32_t dtype)
{
    const void *src[MAX_RANKS];

    for (uint32_t r = 0; r < me->g->n; r++)
        src[r] = shown_of(me, r)->data + first_byte;
    comm_sum(recv, src, me->g->n, count, dtype);
}

int32_t call_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, at = 0;
    uint32_t fault;
    int32_t rc = check_dtype(dtype, count, 1, err);

    (void)stream;
    if (rc == TN_OK)
        rc = befall(me, "all_reduce", &fault, err);
    while (rc == TN_OK && at < count * size) {
        struct shown *s = begin(me);
        struct shown mine = {.seq = me->seq,
                             .bytes = least(CHUNK, count * size - at),
                             .call = "all_reduce",
                             .dtype = dtype};
        memcpy(s->data, (const char *)send + at, mine.bytes);
        rc = meet(me, &mine, fault, err);
        if (rc == TN_OK && fault != FAULT_DROP)
            take_sum(me, 0, (char *)recv + at, mine.bytes / size, dtype);
        at += mine.bytes;
    }
    return rc;
}

int32_t call_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8, at = 0;
    uint32_t fault;
    int32_t rc = befall(me, "all_gather", &fault, err);

    (void)stream;
    while (rc == TN_OK && at < bytes) {
        struct shown *s = begin(me);
        struct shown mine = {.seq = me->seq,
                             .bytes = least(CHUNK, bytes - at),
                             .call = "all_gather",
                             .dtype = dtype};
        memcpy(s->data, (const char *)send + at, mine.bytes);
        rc = meet(me, &mine, fault, err);
        for (uint32_t r = 0; r < me->g->n && rc == TN_OK && fault != FAULT_DROP; r++)
            memcpy((char *)recv + r * bytes + at, shown_of(me, r)->data, mine.bytes);
        at += mine.bytes;
    }
    return rc;
}

int32_t call_reduce_scatter(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, bytes = count * size, at = 0;
    uint64_t part = CHUNK / me->g->n / 64 * 64; /* of each rank's share at a time */
    uint32_t fault;
    int32_t rc = check_dtype(dtype, count, me->g->n, err);

    (void)stream;
    if (rc == TN_OK)
        rc = befall(me, "reduce_scatter", &fault, err);
    while (rc == TN_OK && at < bytes) {
        struct shown *s = begin(me);
        uint64_t some = least(part, bytes - at);
        struct shown mine = {
            .seq = me->seq, .bytes = some * me->g->n, .call = "reduce_scatter", .dtype = dtype};
        for (uint32_t r = 0; r < me->g->n; r++)
            memcpy(s->data + r * some, (const char *)send + r * bytes + at, some);
        rc = meet(me, &mine, fault, err);
        if (rc == TN_OK && fault != FAULT_DROP)
            take_sum(me, me->rank * some, (char *)recv + at, some / size, dtype);
        at += some;
    }
    return rc;
}

int32_t call_broadcast(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t root,
                       tn_stream *stream, tn_err *err)
{
    uint64_t at = 0;
    uint32_t fault;
    int32_t rc;

    (void)stream;
    if (root >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "local: there is no rank %u", (unsigned)root);
    rc = befall(me, "broadcast", &fault, err);
    while (rc == TN_OK && at < bytes) {
        struct shown *s = begin(me);
        struct shown mine = {
            .seq = me->seq, .bytes = least(CHUNK, bytes - at), .call = "broadcast", .root = root};
        if (me->rank == root)
            memcpy(s->data, (char *)buf + at, mine.bytes);
        rc = meet(me, &mine, fault, err);
        if (rc == TN_OK && me->rank != root && fault != FAULT_DROP)
            memcpy((char *)buf + at, shown_of(me, root)->data, mine.bytes);
        at += mine.bytes;
    }
    return rc;
}

int32_t call_barrier(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct shown mine = {.call = "barrier"};
    uint32_t fault;
    int32_t rc = befall(me, "barrier", &fault, err);

    (void)stream;
    if (rc != TN_OK)
        return rc;
    begin(me);
    mine.seq = me->seq;
    return meet(me, &mine, fault, err);
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

static int32_t check_peer(tn_comm_group *me, uint32_t peer, tn_err *err)
{
    if (peer >= me->g->n || peer == me->rank)
        return tn_err_set(err, TN_E_RANGE, "local: rank %u cannot reach rank %u",
                          (unsigned)me->rank, (unsigned)peer);
    return group_error(me, err);
}

/* Waits for the box; a peer that does not come breaks the group. */
static int32_t await_box(tn_comm_group *me, struct box *box, uint32_t state, uint32_t peer,
                         const char *call, tn_err *err)
{
    struct wanted w = {box, state};
    char what[64];
    int32_t rc = group_await(me, box_is, &w, deadline(me), err);

    if (rc != TN_E_TIMEOUT)
        return rc;
    snprintf(what, sizeof what, "has not come within %llu ms",
             (unsigned long long)(me->call_timeout_ns / 1000000));
    return fail(me->g, TN_E_TIMEOUT, call, me->seq, peer, what, err);
}

/* Takes an unread message back, or waits until it has been read: its memory is about to be the sender's again. */
static void withdraw(struct box *box)
{
    uint32_t full = BOX_FULL;

    if (!atomic_compare_exchange_strong(&box->state, &full, BOX_EMPTY))
        while (atomic_load(&box->state) == BOX_READ)
            ;
}

int32_t call_send(tn_comm_group *me, const void *buf, uint64_t bytes, uint32_t peer,
                  tn_stream *stream, tn_err *err)
{
    struct box *box;
    uint32_t fault;
    int32_t rc = check_peer(me, peer, err);

    (void)stream;
    if (rc == TN_OK)
        rc = befall(me, "send", &fault, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[me->rank * me->g->n + peer];
    box->data = buf;
    box->bytes = bytes;
    box->sum = me->g->l->verify ? checksum(buf, bytes) : 0;
    box->flip = fault == FAULT_FLIP;
    atomic_store(&box->state, BOX_FULL);
    group_wake(me->g);
    rc = await_box(me, box, BOX_EMPTY, peer, "send", err);
    if (rc != TN_OK)
        withdraw(box);
    return rc;
}

int32_t call_recv(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,
                  tn_err *err)
{
    uint32_t full = BOX_FULL, fault;
    struct box *box;
    bool same, meant;
    int32_t rc = check_peer(me, peer, err);

    (void)stream;
    if (rc == TN_OK)
        rc = befall(me, "recv", &fault, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[peer * me->g->n + me->rank];
    rc = await_box(me, box, BOX_FULL, peer, "recv", err);
    if (rc != TN_OK || !atomic_compare_exchange_strong(&box->state, &full, BOX_READ))
        return rc != TN_OK ? rc : group_error(me, err);
    same = box->bytes == bytes;
    if (same && bytes > 0)
        memcpy(buf, box->data, bytes);
    if (same && bytes > 0 && box->flip)
        ((unsigned char *)buf)[bytes / 2] ^= 0x40;
    meant = !same || !me->g->l->verify || checksum(buf, bytes) == box->sum;
    atomic_store(&box->state, BOX_EMPTY);
    group_wake(me->g);
    if (!same)
        return fail(me->g, TN_E_COMM, "recv", me->seq, peer, "sent another number of bytes", err);
    return meant ? TN_OK
                 : fail(me->g, TN_E_COMM, "recv", me->seq, peer,
                        "sent something else than what arrived", err);
}
