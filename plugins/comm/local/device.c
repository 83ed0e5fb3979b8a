/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives and messages in device memory, of ranks that are threads of one process: on one device, or on several that reach
 * each other. No kernel waits for another: ranks exchange events on the host and make their streams wait for those of the
 * others, so that all may share one device without locking it up.
 *
 * A small sum is done in one shot: each rank copies its part to where the others see it, and sums all parts for itself. The
 * copies lie in two places in turn (group.h), which holds on the device, too: before a rank's stream overwrites what it
 * showed in meeting k, in meeting k + 2, it has waited for where the others' streams were in meeting k + 1, behind their sums.
 *
 * Where each rank has a device, and all reach each other, sums and gathers are left to the devices (captured.c).
 *
 * Larger sums are done in two: each rank sums its share of all, reading where the others' data lie, and then takes the other
 * shares. These and all other calls meet once more at the end, so that nobody changes what another still reads.
 */
#include <string.h>

#include "local.h"

#define ONE_SHOT CHUNK /* bytes up to which a second meeting costs more than reading everything */

/* Up to here sums are the devices' own affair where they can meet; larger ones, which no decode step has, are not copied to and
 * fro between rooms. */
#define CAPTURED_BYTES (8u << 20)

int32_t device_open_member(tn_comm_group *me, tn_err *err)
{
    void *p = NULL;
    int32_t rc = me->api->mem_alloc(me->device, 2 * (uint64_t)ONE_SHOT, &p, err);

    me->staging = p;
    return rc == TN_OK ? me->api->sum(me->device, NULL, NULL, (const void *const[]){NULL}, 1, 0,
                                      TN_DT_F32, err)
                       : rc;
}

void device_close_member(tn_comm_group *me)
{
    captured_close(me);
    if (me->staging)
        me->api->mem_free(me->device, me->staging);
}

/* -- Meeting ------------------------------------------------------------------------------------------------ */

static int32_t copy(const tn_comm_group *me, tn_stream *stream, void *dst, const void *src,
                    uint64_t bytes, tn_err *err)
{
    return bytes == 0 || dst == src
               ? TN_OK
               : me->api->copy(me->device, stream, dst, src, bytes, TN_COPY_DEVICE_TO_DEVICE, err);
}

/* The device failed, or somebody's memory is out of reach: no rank can go on. */
static int32_t broke(tn_comm_group *me, int32_t rc, tn_err *err)
{
    tn_err why = TN_ERR_INIT;

    if (rc == TN_OK)
        return TN_OK;
    if (err)
        why = *err;
    else
        tn_err_set(&why, rc, "local: the device of rank %u failed", (unsigned)me->rank);
    return group_break(me->g, &why, err);
}

static int32_t check_reach(tn_comm_group *me, tn_err *err)
{
    for (uint32_t r = 0; r < me->g->n; r++)
        if (!me->reaches[r])
            return tn_err_set(err, TN_E_UNSUPPORTED,
                              "local: the device of rank %u does not reach that of rank %u",
                              (unsigned)me->g->members[me->rank], (unsigned)me->g->members[r]);
    return TN_OK;
}

/* Meets all; what follows in the stream comes after what the others' streams held when they came. `s` is this rank's place,
 * begun, with what it shows. */
static int32_t meet(tn_comm_group *me, struct shown *s, const struct shown *mine, uint32_t fault,
                    tn_stream *stream, tn_err *err)
{
    int32_t rc = check_reach(me, err);

    s->data = NULL;
    s->send = mine->send;
    s->recv = mine->recv;
    s->event = me->events[me->seq % 2];
    if (rc == TN_OK)
        rc = me->api->event_record(me->device, s->event, stream, err);
    if (rc != TN_OK)
        return broke(me, rc, err);
    rc = meet_all(me, mine, fault, err);
    for (uint32_t r = 0; r < me->g->n && rc == TN_OK && fault != FAULT_DROP; r++)
        if (r != me->rank)
            rc = broke(me, me->api->stream_wait(me->device, stream, meet_shown(me, r)->event, err),
                       err);
    return rc;
}

/* Shows where this rank's data lie. */
static int32_t show(tn_comm_group *me, struct shown *mine, uint32_t fault, tn_stream *stream,
                    tn_err *err)
{
    struct shown *s = meet_begin(me);
    int32_t rc = TN_OK;

    mine->seq = me->seq;
    if (fault == FAULT_FLIP && mine->bytes > 0 && mine->send)
        rc = me->api->fill(me->device, stream, (char *)(uintptr_t)mine->send + mine->bytes / 2,
                           0x55, 1, err);
    return rc == TN_OK ? meet(me, s, mine, fault, stream, err) : broke(me, rc, err);
}

/* The meeting at the end of a call, after which all may change what they showed. */
static int32_t part(tn_comm_group *me, struct shown *mine, uint32_t fault, tn_stream *stream,
                    tn_err *err)
{
    return show(me, mine, fault == FAULT_FLIP ? FAULT_NONE : fault, stream, err);
}

/* -- Sums --------------------------------------------------------------------------------------------------- */

/* dst = sum of `count` elements, which lie `at` bytes behind what all show, or behind where they are staged. */
static int32_t sum(tn_comm_group *me, tn_stream *stream, void *dst, uint64_t at, uint64_t count,
                   uint32_t dtype, tn_err *err)
{
    const void *src[MAX_RANKS];

    if (me->g->n > TN_SUM_MAX)
        return tn_err_set(err, TN_E_UNSUPPORTED, "local: sums over at most %d ranks on a device",
                          TN_SUM_MAX);
    for (uint32_t r = 0; r < me->g->n; r++)
        src[r] = (const char *)meet_shown(me, r)->send + at;
    return me->api->sum(me->device, stream, dst, src, me->g->n, count, dtype, err);
}

static int32_t reduce_at_once(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                              uint32_t dtype, uint32_t fault, tn_stream *stream, tn_err *err)
{
    struct shown mine = {
        .call = "all_reduce", .dtype = dtype, .bytes = count * tn_dtype_bits(dtype) / 8};
    /* The next meeting's place. */
    unsigned char *here = me->staging + (me->seq + 1) % 2 * ONE_SHOT;
    int32_t rc = copy(me, stream, here, send, mine.bytes, err);

    if (rc != TN_OK)
        return broke(me, rc, err);
    mine.send = here;
    rc = show(me, &mine, fault, stream, err);
    if (rc == TN_OK && fault != FAULT_DROP)
        rc = broke(me, sum(me, stream, recv, 0, count, dtype, err), err);
    return rc;
}

/* Where rank `r`'s share of `count` elements begins; shares are multiples of 16 bytes but for the last. */
static uint64_t share_of(const tn_comm_group *me, uint32_t r, uint64_t count)
{
    uint64_t each = (count / me->g->n + 7) / 8 * 8, at = each * r;

    return r == me->g->n || at > count ? count : at;
}

static int32_t reduce_by_shares(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                                uint32_t dtype, uint32_t fault, tn_stream *stream, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8;
    struct shown mine = {
        .call = "all_reduce", .dtype = dtype, .bytes = count * size, .send = send, .recv = recv};
    uint64_t first = share_of(me, me->rank, count), end = share_of(me, me->rank + 1, count);
    int32_t rc = show(me, &mine, fault, stream, err);

    if (rc == TN_OK && fault != FAULT_DROP)
        rc = broke(
            me, sum(me, stream, (char *)recv + first * size, first * size, end - first, dtype, err),
            err);
    if (rc == TN_OK)
        rc = part(me, &mine, fault, stream, err);
    for (uint32_t r = 0; r < me->g->n && rc == TN_OK && fault != FAULT_DROP; r++) {
        uint64_t from = share_of(me, r, count) * size, to = share_of(me, r + 1, count) * size;
        if (r != me->rank)
            rc = broke(me,
                       copy(me, stream, (char *)recv + from,
                            (const char *)meet_shown(me, r)->recv + from, to - from, err),
                       err);
    }
    return rc == TN_OK ? part(me, &mine, fault, stream, err) : rc;
}

int32_t device_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    uint32_t fault;
    int32_t rc = meet_check_dtype(me, dtype, count, 1, err);

    if (rc == TN_OK && captured_meets(me) && bytes <= CAPTURED_BYTES)
        return captured_all_reduce(me, send, recv, count, dtype, stream, err);
    if (rc == TN_OK)
        rc = meet_fault(me, "all_reduce", &fault, err);
    if (rc != TN_OK || count == 0)
        return rc;
    return bytes <= ONE_SHOT ? reduce_at_once(me, send, recv, count, dtype, fault, stream, err)
                             : reduce_by_shares(me, send, recv, count, dtype, fault, stream, err);
}

/* -- Sums that kernels finish -------------------------------------------------------------------------------- */

/* As in reduce_at_once, up to the sum. */
static int32_t show_copy(tn_comm_group *me, struct shown *mine, const void *send, uint32_t fault,
                         tn_stream *stream, tn_err *err)
{
    unsigned char *here = me->staging + (me->seq + 1) % 2 * ONE_SHOT;
    int32_t rc = copy(me, stream, here, send, mine->bytes, err);

    mine->send = here;
    return rc == TN_OK ? show(me, mine, fault, stream, err) : broke(me, rc, err);
}

/* As in reduce_by_shares, up to where others take the sums, each in its `room`. Shares are whole rows. */
static int32_t show_share(tn_comm_group *me, struct shown *mine, uint64_t rows, uint64_t each_rows,
                          uint64_t width, uint32_t fault, tn_stream *stream, tn_err *err)
{
    uint64_t first = each_rows * me->rank, end = first + each_rows;
    uint64_t row_bytes = width * tn_dtype_bits(mine->dtype) / 8;
    int32_t rc = show(me, mine, fault, stream, err);

    end = end < rows ? end : rows;
    if (rc == TN_OK && fault != FAULT_DROP && first < end)
        rc = broke(me,
                   sum(me, stream, (char *)mine->recv + first * row_bytes, first * row_bytes,
                       (end - first) * width, mine->dtype, err),
                   err);
    return rc == TN_OK ? part(me, mine, fault, stream, err) : rc;
}

/* Where devices meet by themselves, addresses would change from one replay to the next: the sum is made, in the caller's room. */
static int32_t show_sum(tn_comm_group *me, const void *send, void *room, uint64_t count,
                        uint32_t dtype, tn_comm_parts *out, tn_stream *stream, tn_err *err)
{
    me->owed = (struct shown){.call = NULL};
    me->parts[0] = room;
    *out = (tn_comm_parts){.h = out->h, .part = me->parts, .n_parts = 1};
    return captured_all_reduce(me, send, room, count, dtype, stream, err);
}

int32_t device_show(tn_comm_group *me, const void *send, void *room, uint64_t rows, uint64_t width,
                    uint32_t dtype, tn_comm_parts *out, tn_stream *stream, tn_err *err)
{
    uint64_t each = (rows + me->g->n - 1) / me->g->n;
    struct shown mine = {.call = "all_reduce", .dtype = dtype, .send = send, .recv = room};
    uint32_t fault;
    int32_t rc = meet_check_dtype(me, dtype, width, rows, err);

    mine.bytes = rows * width * tn_dtype_bits(dtype) / 8;
    if (rc == TN_OK && captured_meets(me) && mine.bytes <= CAPTURED_BYTES)
        return show_sum(me, send, room, rows * width, dtype, out, stream, err);
    if (rc == TN_OK)
        rc = meet_fault(me, "all_reduce", &fault, err);
    if (rc != TN_OK)
        return rc;
    me->owed = (struct shown){.call = NULL};
    me->parts[0] = send;
    *out = (tn_comm_parts){.h = out->h, .part = me->parts, .n_parts = 1};
    if (mine.bytes <= ONE_SHOT)
        rc = show_copy(me, &mine, send, fault, stream, err);
    else
        rc = show_share(me, &mine, rows, each, width, fault, stream, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    out->n_parts = me->g->n;
    out->each = mine.bytes <= ONE_SHOT ? 0 : each * width;
    for (uint32_t r = 0; r < me->g->n; r++)
        me->parts[r] = mine.bytes <= ONE_SHOT ? meet_shown(me, r)->send : meet_shown(me, r)->recv;
    if (mine.bytes > ONE_SHOT)
        me->owed = mine;
    return TN_OK;
}

int32_t device_hide(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct shown mine = me->owed;

    return mine.call ? part(me, &mine, FAULT_NONE, stream, err) : TN_OK;
}

int32_t device_reduce_scatter(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                              uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    struct shown mine = {
        .call = "reduce_scatter", .dtype = dtype, .bytes = bytes * me->g->n, .send = send};
    uint32_t fault;
    int32_t rc = meet_check_dtype(me, dtype, count, me->g->n, err);

    if (rc == TN_OK)
        rc = meet_fault(me, "reduce_scatter", &fault, err);
    if (rc == TN_OK)
        rc = show(me, &mine, fault, stream, err);
    if (rc == TN_OK && fault != FAULT_DROP && count > 0)
        rc = broke(me, sum(me, stream, recv, bytes * me->rank, count, dtype, err), err);
    return rc == TN_OK ? part(me, &mine, fault, stream, err) : rc;
}

/* -- Moves -------------------------------------------------------------------------------------------------- */

int32_t device_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    struct shown mine = {.call = "all_gather", .dtype = dtype, .bytes = bytes, .send = send};
    uint32_t fault;
    int32_t rc;

    if (captured_meets(me))
        return captured_all_gather(me, send, recv, bytes, stream, err);
    rc = meet_fault(me, "all_gather", &fault, err);
    if (rc == TN_OK)
        rc = show(me, &mine, fault, stream, err);
    for (uint32_t r = 0; r < me->g->n && rc == TN_OK && fault != FAULT_DROP; r++)
        rc = broke(me,
                   copy(me, stream, (char *)recv + r * bytes, meet_shown(me, r)->send, bytes, err),
                   err);
    return rc == TN_OK ? part(me, &mine, fault, stream, err) : rc;
}

int32_t device_broadcast(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t root,
                         tn_stream *stream, tn_err *err)
{
    struct shown mine = {.call = "broadcast", .bytes = bytes, .root = root, .send = buf};
    uint32_t fault;
    int32_t rc;

    if (root >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "local: there is no rank %u", (unsigned)root);
    rc = meet_fault(me, "broadcast", &fault, err);
    if (rc == TN_OK)
        rc = show(me, &mine, fault, stream, err);
    if (rc == TN_OK && fault != FAULT_DROP)
        rc = broke(me, copy(me, stream, buf, meet_shown(me, root)->send, bytes, err), err);
    return rc == TN_OK ? part(me, &mine, fault, stream, err) : rc;
}

int32_t device_barrier(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct shown mine = {.call = "barrier"};
    uint32_t fault;
    int32_t rc = meet_fault(me, "barrier", &fault, err);

    return rc == TN_OK ? show(me, &mine, fault, stream, err) : rc;
}

/* -- Messages ----------------------------------------------------------------------------------------------- */

int32_t device_send(tn_comm_group *me, const void *buf, uint64_t bytes, uint32_t peer,
                    tn_stream *stream, tn_err *err)
{
    struct box *box;
    uint32_t fault;
    int32_t rc = meet_check_peer(me, peer, err);

    if (rc == TN_OK)
        rc = meet_fault(me, "send", &fault, err);
    if (rc == TN_OK)
        rc = check_reach(me, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[me->rank * me->g->n + peer];
    rc = broke(me, me->api->event_record(me->device, me->sent, stream, err), err);
    if (rc != TN_OK)
        return rc;
    box->data = buf;
    box->bytes = bytes;
    box->flip = fault == FAULT_FLIP;
    box->event = me->sent;
    atomic_store(&box->state, BOX_FULL);
    group_wake(me->g);
    rc = meet_box(me, box, BOX_EMPTY, peer, "send", err);
    if (rc != TN_OK) {
        meet_withdraw(box);
        return rc;
    }
    /* What follows in the stream may change the message: only when it has been copied. */
    return broke(me, me->api->stream_wait(me->device, stream, box->took, err), err);
}

int32_t device_recv(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,
                    tn_err *err)
{
    uint32_t full = BOX_FULL, fault;
    struct box *box;
    bool same;
    int32_t rc = meet_check_peer(me, peer, err);

    if (rc == TN_OK)
        rc = meet_fault(me, "recv", &fault, err);
    if (rc == TN_OK)
        rc = check_reach(me, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[peer * me->g->n + me->rank];
    rc = meet_box(me, box, BOX_FULL, peer, "recv", err);
    if (rc != TN_OK || !atomic_compare_exchange_strong(&box->state, &full, BOX_READ))
        return rc != TN_OK ? rc : group_error(me, err);
    same = box->bytes == bytes;
    rc = me->api->stream_wait(me->device, stream, box->event, err);
    if (rc == TN_OK && same)
        rc = copy(me, stream, buf, box->data, bytes, err);
    if (rc == TN_OK && same && bytes > 0 && box->flip)
        rc = me->api->fill(me->device, stream, (char *)buf + bytes / 2, 0x55, 1, err);
    if (rc == TN_OK)
        rc = me->api->event_record(me->device, me->took, stream, err);
    box->took = me->took;
    atomic_store(&box->state, BOX_EMPTY);
    group_wake(me->g);
    if (rc != TN_OK)
        return broke(me, rc, err);
    return same ? TN_OK
                : meet_fail(me->g, TN_E_COMM, "recv", me->seq, peer, "sent another number of bytes",
                            err);
}
