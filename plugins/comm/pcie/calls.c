/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives through windows (window.h), in chunks of a slot. A sum of two ranks, or a small one, is done in one meeting: each
 * rank fetches what all others show. Otherwise each rank fetches and sums its share of the chunk, shows the sum in a second
 * meeting, and fetches the others': for n ranks 2 (n - 1) / n chunks cross the bus into each rank instead of n - 1.
 */
#include <string.h>

#include "window.h"

#define ONE_SHOT (256u * 1024)

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* dst = own + what was fetched of all others, in the order of ranks. */
static int32_t sum(tn_comm_group *me, void *dst, const void *own, uint64_t count, uint32_t dtype,
                   tn_stream *stream, tn_err *err)
{
    const void *src[MAX_RANKS];
    int32_t rc;

    if (me->g->n > TN_SUM_MAX)
        return window_broke(
            me, tn_err_set(err, TN_E_UNSUPPORTED, "pcie: sums over at most %d ranks", TN_SUM_MAX),
            err);
    for (uint32_t r = 0; r < me->g->n; r++)
        src[r] = r == me->rank ? own : window_landing(me, r);
    rc = count ? me->api->sum(me->device, stream, dst, src, me->g->n, count, dtype, err) : TN_OK;
    return rc == TN_OK ? window_used(me, stream, err) : window_broke(me, rc, err);
}

/* Fetches the same piece of what each other rank shows to where it is summed from. */
static int32_t fetch_all(tn_comm_group *me, uint64_t at, uint64_t bytes, tn_stream *stream,
                         tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t r = 0; r < me->g->n && rc == TN_OK; r++)
        if (r != me->rank)
            rc = window_fetch(me, r, at, window_landing(me, r), bytes, err);
    return rc == TN_OK ? window_end(me, stream, err) : rc;
}

/* -- Sums --------------------------------------------------------------------------------------------------- */

/* One chunk in place of `r`, in one meeting. */
static int32_t reduce_at_once(tn_comm_group *me, const struct round *r, void *recv,
                              tn_stream *stream, tn_err *err)
{
    int32_t rc = window_meet(me, r, err);

    if (rc != TN_OK || r->fault == FAULT_DROP)
        return rc;
    rc = fetch_all(me, 0, r->bytes, stream, err);
    return rc == TN_OK ? sum(me, recv, r->show, r->bytes / (tn_dtype_bits(r->dtype) / 8), r->dtype,
                             stream, err)
                       : rc;
}

/* Where rank `p`'s share of a chunk begins, at a multiple of 16 bytes. */
static uint64_t share_of(const tn_comm_group *me, uint32_t p, uint64_t bytes)
{
    uint64_t each = (bytes / me->g->n + 15) / 16 * 16;

    return p == me->g->n ? bytes : least(each * p, bytes);
}

static int32_t reduce_by_shares(tn_comm_group *me, const struct round *r, void *recv,
                                tn_stream *stream, tn_err *err)
{
    uint64_t first = share_of(me, me->rank, r->bytes), end = share_of(me, me->rank + 1, r->bytes);
    struct round second = *r;
    int32_t rc = window_meet(me, r, err);

    if (rc == TN_OK && r->fault != FAULT_DROP)
        rc = fetch_all(me, first, end - first, stream, err);
    if (rc == TN_OK && r->fault != FAULT_DROP)
        rc = sum(me, (char *)recv + first, (const char *)r->show + first,
                 (end - first) / (tn_dtype_bits(r->dtype) / 8), r->dtype, stream, err);
    if (rc != TN_OK)
        return rc;
    second.show = (char *)recv + first;
    second.bytes = end - first;
    second.after = me->window->used[me->seq % 2];
    second.fault = r->fault == FAULT_FLIP ? FAULT_NONE : r->fault;
    rc = window_meet(me, &second, err);
    for (uint32_t p = 0; p < me->g->n && rc == TN_OK && r->fault != FAULT_DROP; p++) {
        uint64_t at = share_of(me, p, r->bytes);
        if (p != me->rank)
            rc = window_fetch(me, p, 0, (char *)recv + at, share_of(me, p + 1, r->bytes) - at, err);
    }
    return rc == TN_OK && r->fault != FAULT_DROP ? window_end(me, stream, err) : rc;
}

int32_t call_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    struct round r = {.call = "all_reduce", .dtype = dtype};
    bool at_once = me->g->n <= 2 || bytes <= ONE_SHOT;
    int32_t rc = meet_check_dtype(me, dtype, count, 1, err);

    if (rc == TN_OK)
        rc = meet_fault(me, r.call, &r.fault, err);
    if (rc == TN_OK && bytes > 0)
        rc = window_begin(me, stream, err);
    for (uint64_t at = 0; at < bytes && rc == TN_OK; at += r.bytes) {
        r.show = (const char *)send + at;
        r.bytes = r.agreed = least(SLOT_BYTES, bytes - at);
        rc = at_once ? reduce_at_once(me, &r, (char *)recv + at, stream, err)
                     : reduce_by_shares(me, &r, (char *)recv + at, stream, err);
    }
    return rc;
}

/* Rank by rank, since what goes to one is what lies together. */
int32_t call_reduce_scatter(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, bytes = count * size;
    struct round r = {.call = "reduce_scatter", .dtype = dtype};
    int32_t rc = meet_check_dtype(me, dtype, count, me->g->n, err);

    if (rc == TN_OK)
        rc = meet_fault(me, r.call, &r.fault, err);
    if (rc == TN_OK && bytes > 0)
        rc = window_begin(me, stream, err);
    for (uint32_t p = 0; p < me->g->n; p++)
        for (uint64_t at = 0; at < bytes && rc == TN_OK; at += r.agreed) {
            r.agreed = least(SLOT_BYTES, bytes - at);
            r.root = p;
            r.show = (const char *)send + p * bytes + at;
            r.bytes = p == me->rank ? 0 : r.agreed;
            rc = window_meet(me, &r, err);
            if (rc != TN_OK || r.fault == FAULT_DROP)
                continue;
            rc = p == me->rank ? fetch_all(me, 0, r.agreed, stream, err)
                               : window_end(me, stream, err);
            if (rc == TN_OK && p == me->rank)
                rc = sum(me, (char *)recv + at, r.show, r.agreed / size, dtype, stream, err);
        }
    return rc;
}

/* -- Moves -------------------------------------------------------------------------------------------------- */

int32_t call_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    struct round r = {.call = "all_gather", .dtype = dtype};
    int32_t rc = meet_fault(me, r.call, &r.fault, err);

    if (rc == TN_OK && bytes > 0)
        rc = window_begin(me, stream, err);
    for (uint64_t at = 0; at < bytes && rc == TN_OK; at += r.bytes) {
        r.show = (const char *)send + at;
        r.bytes = r.agreed = least(SLOT_BYTES, bytes - at);
        rc = window_meet(me, &r, err);
        for (uint32_t p = 0; p < me->g->n && rc == TN_OK && r.fault != FAULT_DROP; p++)
            if (p != me->rank)
                rc = window_fetch(me, p, 0, (char *)recv + p * bytes + at, r.bytes, err);
        if (rc == TN_OK && r.fault != FAULT_DROP)
            rc = window_end(me, stream, err);
    }
    if (rc == TN_OK && bytes > 0)
        rc = window_broke(me,
                          window_copy(me, stream, (char *)recv + me->rank * bytes, send, bytes,
                                      TN_COPY_DEVICE_TO_DEVICE, err),
                          err);
    return rc;
}

int32_t call_broadcast(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t root,
                       tn_stream *stream, tn_err *err)
{
    struct round r = {.call = "broadcast", .root = root};
    int32_t rc;

    if (root >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "pcie: there is no rank %u", (unsigned)root);
    rc = meet_fault(me, r.call, &r.fault, err);
    if (rc == TN_OK && bytes > 0)
        rc = window_begin(me, stream, err);
    for (uint64_t at = 0; at < bytes && rc == TN_OK; at += r.agreed) {
        r.show = (char *)buf + at;
        r.agreed = least(SLOT_BYTES, bytes - at);
        r.bytes = me->rank == root ? r.agreed : 0;
        rc = window_meet(me, &r, err);
        if (rc == TN_OK && me->rank != root && r.fault != FAULT_DROP)
            rc = window_fetch(me, root, 0, (char *)buf + at, r.agreed, err);
        if (rc == TN_OK && r.fault != FAULT_DROP)
            rc = window_end(me, stream, err);
    }
    return rc;
}

int32_t call_barrier(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct round r = {.call = "barrier"};
    int32_t rc = meet_fault(me, r.call, &r.fault, err);

    if (rc == TN_OK)
        rc = window_begin(me, stream, err);
    if (rc == TN_OK)
        rc = window_meet(me, &r, err);
    return rc == TN_OK && r.fault != FAULT_DROP ? window_end(me, stream, err) : rc;
}
