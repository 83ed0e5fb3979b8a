/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives and messages in host memory. A collective goes in chunks; for each, every rank copies its part to where the others see
 * it, all meet, and every rank takes what it needs from all ("one shot": each rank sums for itself, which for the sizes
 * of decode steps costs less than a second meeting). Sums go in rank order. A message stays in its sender's memory until
 * the receiver has copied it.
 */
#include <stdio.h>
#include <string.h>

#include "../common/sum.h"
#include "local.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* -- Collectives -------------------------------------------------------------------------------------------- */

/* recv = sum of `count` elements from `first` on of what all show. */
static void take_sum(const tn_comm_group *me, uint64_t first_byte, void *recv, uint64_t count,
                     uint32_t dtype)
{
    const void *src[MAX_RANKS];

    for (uint32_t r = 0; r < me->g->n; r++)
        src[r] = meet_shown(me, r)->data + first_byte;
    comm_sum(recv, src, me->g->n, count, dtype);
}

static int32_t reduce_chunks(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                             uint32_t dtype, uint32_t fault, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, at = 0;
    int32_t rc = TN_OK;

    while (rc == TN_OK && at < count * size) {
        struct shown *s = meet_begin(me);
        struct shown mine = {.seq = me->seq,
                             .bytes = least(CHUNK, count * size - at),
                             .call = "all_reduce",
                             .dtype = dtype};
        memcpy(s->data, (const char *)send + at, mine.bytes);
        rc = meet_all(me, &mine, fault, err);
        if (rc == TN_OK && fault != FAULT_DROP)
            take_sum(me, 0, (char *)recv + at, mine.bytes / size, dtype);
        at += mine.bytes;
    }
    return rc;
}

int32_t host_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint32_t fault;
    int32_t rc = meet_check_dtype(me, dtype, count, 1, err);

    (void)stream;
    if (rc == TN_OK)
        rc = meet_fault(me, "all_reduce", &fault, err);
    return rc == TN_OK ? reduce_chunks(me, send, recv, count, dtype, fault, err) : rc;
}

/* Of a chunk, a copy is shown, as above. More is read where it lies, by workers of the kernel, who are not told of checksums and
 * faults: where those are wanted, chunks are added up here. */
int32_t host_show(tn_comm_group *me, const void *send, void *room, uint64_t rows, uint64_t width,
                  uint32_t dtype, tn_comm_parts *out, tn_stream *stream, tn_err *err)
{
    struct shown mine = {.call = "all_reduce", .dtype = dtype}, *s;
    uint32_t fault;
    int32_t rc = meet_check_dtype(me, dtype, width, rows, err);

    (void)stream;
    if (rc == TN_OK)
        rc = meet_fault(me, "all_reduce", &fault, err);
    if (rc != TN_OK)
        return rc;
    mine.bytes = rows * width * tn_dtype_bits(dtype) / 8;
    me->owed = (struct shown){.call = NULL};
    me->parts[0] = room;
    *out = (tn_comm_parts){.h = out->h, .part = me->parts, .n_parts = 1};
    if (mine.bytes > CHUNK && (fault != FAULT_NONE || me->g->l->verify))
        return reduce_chunks(me, send, room, rows * width, dtype, fault, err);
    s = meet_begin(me);
    mine.seq = me->seq;
    s->send = send;
    if (mine.bytes <= CHUNK)
        memcpy(s->data, send, mine.bytes);
    rc = meet_all(me, &mine, fault, err);
    if (fault == FAULT_DROP || rc != TN_OK) {
        me->parts[0] = send;
        return rc;
    }
    out->n_parts = me->g->n;
    for (uint32_t r = 0; r < me->g->n; r++)
        me->parts[r] = mine.bytes <= CHUNK ? meet_shown(me, r)->data : meet_shown(me, r)->send;
    if (mine.bytes > CHUNK)
        me->owed = mine;
    return TN_OK;
}

int32_t host_hide(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct shown mine = me->owed;

    (void)stream;
    if (!mine.call)
        return TN_OK;
    meet_begin(me);
    mine.seq = me->seq;
    return meet_all(me, &mine, FAULT_NONE, err);
}

int32_t host_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8, at = 0;
    uint32_t fault;
    int32_t rc = meet_fault(me, "all_gather", &fault, err);

    (void)stream;
    while (rc == TN_OK && at < bytes) {
        struct shown *s = meet_begin(me);
        struct shown mine = {.seq = me->seq,
                             .bytes = least(CHUNK, bytes - at),
                             .call = "all_gather",
                             .dtype = dtype};
        memcpy(s->data, (const char *)send + at, mine.bytes);
        rc = meet_all(me, &mine, fault, err);
        for (uint32_t r = 0; r < me->g->n && rc == TN_OK && fault != FAULT_DROP; r++)
            memcpy((char *)recv + r * bytes + at, meet_shown(me, r)->data, mine.bytes);
        at += mine.bytes;
    }
    return rc;
}

int32_t host_reduce_scatter(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, bytes = count * size, at = 0;
    uint64_t part = CHUNK / me->g->n / 64 * 64; /* of each rank's share at a time */
    uint32_t fault;
    int32_t rc = meet_check_dtype(me, dtype, count, me->g->n, err);

    (void)stream;
    if (rc == TN_OK)
        rc = meet_fault(me, "reduce_scatter", &fault, err);
    while (rc == TN_OK && at < bytes) {
        struct shown *s = meet_begin(me);
        uint64_t some = least(part, bytes - at);
        struct shown mine = {
            .seq = me->seq, .bytes = some * me->g->n, .call = "reduce_scatter", .dtype = dtype};
        for (uint32_t r = 0; r < me->g->n; r++)
            memcpy(s->data + r * some, (const char *)send + r * bytes + at, some);
        rc = meet_all(me, &mine, fault, err);
        if (rc == TN_OK && fault != FAULT_DROP)
            take_sum(me, me->rank * some, (char *)recv + at, some / size, dtype);
        at += some;
    }
    return rc;
}

int32_t host_broadcast(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t root,
                       tn_stream *stream, tn_err *err)
{
    uint64_t at = 0;
    uint32_t fault;
    int32_t rc;

    (void)stream;
    if (root >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "local: there is no rank %u", (unsigned)root);
    rc = meet_fault(me, "broadcast", &fault, err);
    while (rc == TN_OK && at < bytes) {
        struct shown *s = meet_begin(me);
        struct shown mine = {
            .seq = me->seq, .bytes = least(CHUNK, bytes - at), .call = "broadcast", .root = root};
        if (me->rank == root)
            memcpy(s->data, (char *)buf + at, mine.bytes);
        rc = meet_all(me, &mine, fault, err);
        if (rc == TN_OK && me->rank != root && fault != FAULT_DROP)
            memcpy((char *)buf + at, meet_shown(me, root)->data, mine.bytes);
        at += mine.bytes;
    }
    return rc;
}

int32_t host_barrier(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct shown mine = {.call = "barrier"};
    uint32_t fault;
    int32_t rc = meet_fault(me, "barrier", &fault, err);

    (void)stream;
    if (rc != TN_OK)
        return rc;
    meet_begin(me);
    mine.seq = me->seq;
    return meet_all(me, &mine, fault, err);
}

/* -- Messages ----------------------------------------------------------------------------------------------- */

int32_t host_send(tn_comm_group *me, const void *buf, uint64_t bytes, uint32_t peer,
                  tn_stream *stream, tn_err *err)
{
    struct box *box;
    uint32_t fault;
    int32_t rc = meet_check_peer(me, peer, err);

    (void)stream;
    if (rc == TN_OK)
        rc = meet_fault(me, "send", &fault, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[me->rank * me->g->n + peer];
    box->data = buf;
    box->bytes = bytes;
    box->sum = me->g->l->verify ? meet_checksum(buf, bytes) : 0;
    box->flip = fault == FAULT_FLIP;
    atomic_store(&box->state, BOX_FULL);
    group_wake(me->g);
    rc = meet_box(me, box, BOX_EMPTY, peer, "send", err);
    if (rc != TN_OK)
        meet_withdraw(box);
    return rc;
}

int32_t host_recv(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,
                  tn_err *err)
{
    uint32_t full = BOX_FULL, fault;
    struct box *box;
    bool same, meant;
    int32_t rc = meet_check_peer(me, peer, err);

    (void)stream;
    if (rc == TN_OK)
        rc = meet_fault(me, "recv", &fault, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[peer * me->g->n + me->rank];
    rc = meet_box(me, box, BOX_FULL, peer, "recv", err);
    if (rc != TN_OK || !atomic_compare_exchange_strong(&box->state, &full, BOX_READ))
        return rc != TN_OK ? rc : group_error(me, err);
    same = box->bytes == bytes;
    if (same && bytes > 0)
        memcpy(buf, box->data, bytes);
    if (same && bytes > 0 && box->flip)
        ((unsigned char *)buf)[bytes / 2] ^= 0x40;
    meant = !same || !me->g->l->verify || meet_checksum(buf, bytes) == box->sum;
    atomic_store(&box->state, BOX_EMPTY);
    group_wake(me->g);
    if (!same)
        return meet_fail(me->g, TN_E_COMM, "recv", me->seq, peer, "sent another number of bytes",
                         err);
    return meant ? TN_OK
                 : meet_fail(me->g, TN_E_COMM, "recv", me->seq, peer,
                             "sent something else than what arrived", err);
}
