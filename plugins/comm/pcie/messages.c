/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of two ranks, in chunks through two slots of the sender's: it fills one while the receiver empties the other. */
#include "window.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Copies a chunk to where `peer` fetches it from, once what lay there has been fetched. */
static int32_t fill(tn_comm_group *me, const void *src, uint64_t bytes, uint32_t peer,
                    struct box *box, tn_err *err)
{
    struct window *w = me->window;
    uint32_t slot = w->n_sent++ % 2;
    bool direct = window_direct(me, me->rank, peer);
    unsigned char *to = (direct ? w->message_near : w->message_host)[slot];
    int32_t rc =
        w->given[slot] ? me->api->stream_wait(me->device, w->out, w->given[slot], err) : TN_OK;

    if (rc == TN_OK)
        rc = window_copy(me, w->out, to, src, bytes,
                         direct ? TN_COPY_DEVICE_TO_DEVICE : TN_COPY_DEVICE_TO_HOST, err);
    if (rc == TN_OK)
        rc = me->api->event_record(me->device, w->sent[slot], w->out, err);
    box->data = to;
    box->event = w->sent[slot];
    return window_broke(me, rc, err);
}

int32_t message_send(tn_comm_group *me, const void *buf, uint64_t bytes, uint32_t peer,
                     tn_stream *stream, tn_err *err)
{
    struct box *box;
    uint32_t fault;
    int32_t rc = meet_check_peer(me, peer, err);

    if (rc == TN_OK)
        rc = meet_fault(me, "send", &fault, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[me->rank * me->g->n + peer];
    rc = window_begin(me, stream, err);
    for (uint64_t at = 0, some = 0; at < bytes && rc == TN_OK; at += some) {
        some = least(SLOT_BYTES, bytes - at);
        rc = fill(me, (const char *)buf + at, some, peer, box, err);
        if (rc != TN_OK)
            break;
        box->bytes = bytes;
        box->flip = fault == FAULT_FLIP && at == 0;
        atomic_store(&box->state, BOX_FULL);
        group_wake(me->g);
        rc = meet_box(me, box, BOX_EMPTY, peer, "send", err);
        if (rc != TN_OK) {
            meet_withdraw(box);
            break;
        }
        me->window->given[(me->window->n_sent - 1) % 2] = box->took;
        rc = window_broke(me, me->api->stream_wait(me->device, stream, box->event, err), err);
    }
    return rc;
}

/* Takes the chunk that lies in the box. */
static int32_t take(tn_comm_group *me, struct box *box, void *dst, uint64_t bytes, uint32_t peer,
                    tn_stream *stream, tn_err *err)
{
    struct window *w = me->window;
    uint32_t slot = w->n_taken++ % 2;
    bool direct = window_direct(me, peer, me->rank);
    int32_t rc = me->api->stream_wait(me->device, w->in, box->event, err);

    if (rc == TN_OK)
        rc = window_copy(me, w->in, dst, box->data, bytes,
                         direct ? TN_COPY_DEVICE_TO_DEVICE : TN_COPY_HOST_TO_DEVICE, err);
    if (rc == TN_OK && box->flip)
        rc = me->api->fill(me->device, w->in, (char *)dst + bytes / 2, 0x55, 1, err);
    if (rc == TN_OK)
        rc = me->api->event_record(me->device, w->taken[slot], w->in, err);
    if (rc == TN_OK)
        rc = me->api->stream_wait(me->device, stream, w->taken[slot], err);
    box->took = w->taken[slot];
    return rc;
}

int32_t message_recv(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,
                     tn_err *err)
{
    struct box *box;
    uint32_t fault;
    int32_t rc = meet_check_peer(me, peer, err);

    if (rc == TN_OK)
        rc = meet_fault(me, "recv", &fault, err);
    if (rc != TN_OK || fault == FAULT_DROP)
        return rc;
    box = &me->g->boxes[peer * me->g->n + me->rank];
    rc = window_begin(me, stream, err);
    for (uint64_t at = 0, some = 0; at < bytes && rc == TN_OK; at += some) {
        uint32_t full = BOX_FULL;
        bool same;
        some = least(SLOT_BYTES, bytes - at);
        rc = meet_box(me, box, BOX_FULL, peer, "recv", err);
        if (rc != TN_OK || !atomic_compare_exchange_strong(&box->state, &full, BOX_READ))
            return rc != TN_OK ? rc : group_error(me, err);
        same = box->bytes == bytes;
        if (same)
            rc = take(me, box, (char *)buf + at, some, peer, stream, err);
        atomic_store(&box->state, BOX_EMPTY);
        group_wake(me->g);
        rc = window_broke(me, rc, err);
        if (!same)
            rc = meet_fail(me->g, TN_E_COMM, "recv", me->seq, peer, "sent another number of bytes",
                           err);
    }
    return rc;
}
