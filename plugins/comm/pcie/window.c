/* SPDX-License-Identifier: Apache-2.0 */
/* Windows: opening them, showing, fetching. A rank's own thread; others read its events and addresses after a meeting. */
#include "window.h"

#include <string.h>

/* -- Life --------------------------------------------------------------------------------------------------- */

static int32_t host_alloc(tn_comm_group *me, unsigned char **out, tn_err *err)
{
    const tn_host *h = me->g->l->host;
    void *p = NULL;
    int32_t rc = TN_OK;

    if (me->api->pinned_alloc)
        rc = me->api->pinned_alloc(me->device, SLOT_BYTES, &p, err);
    else if ((p = h->alloc(h->ctx, SLOT_BYTES, 4096)) == NULL)
        rc = tn_err_set(err, TN_E_NOMEM, "pcie: no memory for a window");
    *out = p;
    return rc;
}

static void host_free(tn_comm_group *me, unsigned char *p)
{
    const tn_host *h = me->g->l->host;

    if (p && me->api->pinned_alloc)
        me->api->pinned_free(me->device, p);
    else if (p)
        h->free(h->ctx, p);
}

static int32_t near_alloc(tn_comm_group *me, uint64_t bytes, unsigned char **out, tn_err *err)
{
    void *p = NULL;
    int32_t rc = me->api->mem_alloc(me->device, bytes, &p, err);

    *out = p;
    return rc;
}

static void near_free(tn_comm_group *me, unsigned char *p)
{
    if (p)
        me->api->mem_free(me->device, p);
}

/* The events of a window, so that all are made and freed alike. */
#define N_EVENTS 11
static void list_events(struct window *w, tn_event **all[N_EVENTS])
{
    tn_event **list[N_EVENTS] = {&w->begun,     &w->filled[0], &w->filled[1], &w->landed[0],
                                 &w->landed[1], &w->used[0],   &w->used[1],   &w->sent[0],
                                 &w->sent[1],   &w->taken[0],  &w->taken[1]};

    memcpy(all, list, sizeof list);
}

static int32_t alloc_slots(tn_comm_group *me, uint32_t i, tn_err *err)
{
    struct window *w = me->window;
    int32_t rc = near_alloc(me, (uint64_t)SLOT_BYTES * me->g->n, &w->landing[i], err);

    if (rc == TN_OK)
        rc = host_alloc(me, &w->host[i], err);
    if (rc == TN_OK)
        rc = host_alloc(me, &w->message_host[i], err);
    if (rc == TN_OK && !me->g->l->staged)
        rc = near_alloc(me, SLOT_BYTES, &w->near[i], err);
    if (rc == TN_OK && !me->g->l->staged)
        rc = near_alloc(me, SLOT_BYTES, &w->message_near[i], err);
    return rc;
}

int32_t window_open(tn_comm_group *me, tn_err *err)
{
    const tn_host *h = me->g->l->host;
    tn_event **events[N_EVENTS];
    int32_t rc;

    me->window = h->alloc(h->ctx, sizeof *me->window, 64);
    if (!me->window)
        return tn_err_set(err, TN_E_NOMEM, "pcie: no memory for a window");
    list_events(me->window, events);
    rc = me->api->stream_new(me->device, &me->window->out, err);
    if (rc == TN_OK)
        rc = me->api->stream_new(me->device, &me->window->in, err);
    for (uint32_t i = 0; i < N_EVENTS && rc == TN_OK; i++)
        rc = me->api->event_new(me->device, events[i], err);
    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++)
        rc = alloc_slots(me, i, err);
    return rc == TN_OK ? me->api->sum(me->device, NULL, NULL, (const void *const[]){NULL}, 1, 0,
                                      TN_DT_F32, err)
                       : rc;
}

void window_close(tn_comm_group *me)
{
    const tn_host *h = me->g->l->host;
    struct window *w = me->window;
    tn_event **events[N_EVENTS];

    if (!w)
        return;
    for (uint32_t i = 0; i < 2; i++) {
        tn_stream *s = i ? w->in : w->out;
        if (s) {
            me->api->stream_sync(me->device, s, NULL);
            me->api->stream_free(me->device, s);
        }
    }
    list_events(w, events);
    for (uint32_t i = 0; i < N_EVENTS; i++)
        me->api->event_free(me->device, *events[i]);
    for (uint32_t i = 0; i < 2; i++) {
        near_free(me, w->landing[i]);
        near_free(me, w->near[i]);
        near_free(me, w->message_near[i]);
        host_free(me, w->host[i]);
        host_free(me, w->message_host[i]);
    }
    h->free(h->ctx, w);
    me->window = NULL;
}

/* -- Steps -------------------------------------------------------------------------------------------------- */

int32_t window_broke(tn_comm_group *me, int32_t rc, tn_err *err)
{
    tn_err why = TN_ERR_INIT;

    if (rc == TN_OK)
        return TN_OK;
    if (err)
        why = *err;
    else
        tn_err_set(&why, rc, "pcie: the device of rank %u failed",
                   (unsigned)me->g->members[me->rank]);
    return group_break(me->g, &why, err);
}

int32_t window_copy(tn_comm_group *me, tn_stream *stream, void *dst, const void *src,
                    uint64_t bytes, uint32_t kind, tn_err *err)
{
    return bytes == 0 || dst == src ? TN_OK
                                    : me->api->copy(me->device, stream, dst, src, bytes, kind, err);
}

bool window_direct(const tn_comm_group *me, uint32_t from, uint32_t to)
{
    return !me->g->l->staged && me->g->places[to].member->reaches[from];
}

int32_t window_begin(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct window *w = me->window;
    int32_t rc = me->api->event_record(me->device, w->begun, stream, err);

    if (rc == TN_OK)
        rc = me->api->stream_wait(me->device, w->out, w->begun, err);
    if (rc == TN_OK)
        rc = me->api->stream_wait(me->device, w->in, w->begun, err);
    return window_broke(me, rc, err);
}

static uint32_t slot_of(const tn_comm_group *me)
{
    return me->seq % 2;
}

/* Copies to where the others look, once they have fetched what lay there two meetings ago. */
static int32_t fill(tn_comm_group *me, const struct round *r, tn_err *err)
{
    struct window *w = me->window;
    uint32_t slot = slot_of(me);
    bool far = false, near = false;
    int32_t rc = r->after ? me->api->stream_wait(me->device, w->out, r->after, err) : TN_OK;

    for (uint32_t p = 0; p < me->g->n && rc == TN_OK; p++) {
        if (p == me->rank)
            continue;
        rc = me->api->stream_wait(me->device, w->out, me->g->places[p].member->window->landed[slot],
                                  err);
        near = near || window_direct(me, me->rank, p);
        far = far || !window_direct(me, me->rank, p);
    }
    if (rc == TN_OK && r->fault == FAULT_FLIP && r->bytes > 0)
        rc = me->api->fill(me->device, w->out, (char *)(uintptr_t)r->show + r->bytes / 2, 0x55, 1,
                           err);
    if (rc == TN_OK && far)
        rc = window_copy(me, w->out, w->host[slot], r->show, r->bytes, TN_COPY_DEVICE_TO_HOST, err);
    if (rc == TN_OK && near)
        rc = window_copy(me, w->out, w->near[slot], r->show, r->bytes, TN_COPY_DEVICE_TO_DEVICE,
                         err);
    return rc == TN_OK ? me->api->event_record(me->device, w->filled[slot], w->out, err) : rc;
}

int32_t window_meet(tn_comm_group *me, const struct round *r, tn_err *err)
{
    struct window *w = me->window;
    struct shown *s = meet_begin(me);
    struct shown mine = {
        .seq = me->seq, .bytes = r->agreed, .call = r->call, .dtype = r->dtype, .root = r->root};
    uint32_t slot = slot_of(me);
    int32_t rc;

    s->data = NULL;
    if ((rc = window_broke(me, fill(me, r, err), err)) != TN_OK ||
        (rc = meet_all(me, &mine, r->fault, err)) != TN_OK || r->fault == FAULT_DROP)
        return rc;
    rc = me->api->stream_wait(me->device, w->in, w->used[slot], err);
    for (uint32_t p = 0; p < me->g->n && rc == TN_OK; p++)
        if (p != me->rank)
            rc = me->api->stream_wait(me->device, w->in,
                                      me->g->places[p].member->window->filled[slot], err);
    return window_broke(me, rc, err);
}

unsigned char *window_landing(const tn_comm_group *me, uint32_t from)
{
    return me->window->landing[slot_of(me)] + (uint64_t)from * SLOT_BYTES;
}

int32_t window_fetch(tn_comm_group *me, uint32_t from, uint64_t at, void *dst, uint64_t bytes,
                     tn_err *err)
{
    const struct window *theirs = me->g->places[from].member->window;
    uint32_t slot = slot_of(me);
    bool direct = window_direct(me, from, me->rank);

    return window_broke(
        me,
        window_copy(me, me->window->in, dst, (direct ? theirs->near : theirs->host)[slot] + at,
                    bytes, direct ? TN_COPY_DEVICE_TO_DEVICE : TN_COPY_HOST_TO_DEVICE, err),
        err);
}

int32_t window_end(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    struct window *w = me->window;
    uint32_t slot = slot_of(me);
    int32_t rc = me->api->event_record(me->device, w->landed[slot], w->in, err);

    if (rc == TN_OK)
        rc = me->api->stream_wait(me->device, stream, w->landed[slot], err);
    if (rc == TN_OK)
        rc = me->api->stream_wait(me->device, stream, w->filled[slot], err);
    return window_broke(me, rc, err);
}

int32_t window_used(tn_comm_group *me, tn_stream *stream, tn_err *err)
{
    return window_broke(
        me, me->api->event_record(me->device, me->window->used[slot_of(me)], stream, err), err);
}
