/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums and gathers that devices carry out by themselves: a kernel of each rank waits for those of the others (tn_device_meet), no
 * thread takes part, and so a step may be captured. Only where every rank has a device of its own, in all of the run, and reaches
 * all others, and where no faults and checksums are asked for, which are the business of threads.
 *
 * A rank that does not come is noticed by whoever waits for it on a device: the wait has an end, after which group_error says who
 * it was. group_abort ends it at once.
 */
#include <string.h>

#include "local.h"

bool captured_meets(const tn_comm_group *me)
{
    return me->meet.n > 0;
}

uint32_t captured_flags(tn_comm_group *me)
{
    return LOCAL_FLAGS | (captured_meets(me) ? TN_COMM_GRAPH_SUMS : 0);
}

/* -- Coming together ---------------------------------------------------------------------------------------- */

/* The same on all ranks: by what they were given, and what each found. */
static bool can_meet(const tn_comm_group *me)
{
    const struct group *g = me->g;

    if (!me->api || !g->l->devices_meet || g->l->verify || g->l->fault.kind != FAULT_NONE ||
        g->n < 2 || g->n > TN_MEET_MAX || !TN_HAS(tn_device_api, me->api, meet_gather) ||
        !me->api->meet_gather || !me->api->pinned_alloc)
        return false;
    for (uint32_t r = 0; r < g->n; r++) {
        const tn_comm_group *a = g->places[r].member;
        for (uint32_t k = 0; k < g->n; k++) {
            const tn_comm_group *b = g->places[k].member;
            if (a->shares || !a->reaches[k] || a->uuid[0] == '\0' ||
                (r != k && strcmp(a->uuid, b->uuid) == 0))
                return false;
        }
    }
    return true;
}

static int32_t clear(tn_comm_group *me, void *room, uint64_t bytes, tn_err *err)
{
    tn_stream *s = NULL;
    int32_t rc = me->api->stream_new(me->device, &s, err);

    if (rc == TN_OK)
        rc = me->api->fill(me->device, s, room, 0, bytes, err);
    if (rc == TN_OK)
        rc = me->api->stream_sync(me->device, s, err);
    if (s)
        me->api->stream_free(me->device, s);
    return rc;
}

static int32_t make_room(tn_comm_group *me, tn_err *err)
{
    void *room = NULL, *words = NULL;
    uint64_t bytes = 0;
    int32_t rc = me->api->meet_bytes(me->device, me->g->n, &bytes, err);

    if (rc != TN_OK)
        return rc == TN_E_UNSUPPORTED ? TN_OK : rc;
    rc = me->api->pinned_alloc(me->device, TN_MEET_WORDS * sizeof(uint32_t), &words, err);
    if (rc != TN_OK)
        return rc;
    memset(words, 0, TN_MEET_WORDS * sizeof(uint32_t));
    atomic_store(&me->words, words);
    rc = me->api->mem_alloc(me->device, bytes, &room, err);
    if (rc != TN_OK)
        return rc;
    me->rooms[me->rank] = room;
    return clear(me, room, bytes, err);
}

/* If all have one. */
static void take_rooms(tn_comm_group *me)
{
    const struct group *g = me->g;

    for (uint32_t r = 0; r < g->n; r++) {
        if (r != me->rank) /* its own the others are reading */
            me->rooms[r] = g->places[r].member->rooms[r];
        if (!me->rooms[r])
            return;
    }
    me->meet = (tn_device_meet){.h = TN_HDR(tn_device_meet),
                                .rank = me->rank,
                                .n = g->n,
                                .rooms = me->rooms,
                                .words = atomic_load(&me->words),
                                .timeout_ns = me->call_timeout_ns};
}

int32_t captured_settle(tn_comm_group *me, bool again, tn_err *err)
{
    tn_err why = TN_ERR_INIT;

    if (again) {
        if (can_meet(me))
            take_rooms(me);
        return TN_OK;
    }
    return !can_meet(me) || make_room(me, &why) == TN_OK ? TN_OK : group_break(me->g, &why, err);
}

void captured_close(tn_comm_group *me)
{
    void *words = (void *)(uintptr_t)atomic_exchange(&me->words, NULL);

    if (me->rank < TN_MEET_MAX && me->rooms[me->rank])
        me->api->mem_free(me->device, me->rooms[me->rank]);
    if (words)
        me->api->pinned_free(me->device, words);
}

/* -- Calls -------------------------------------------------------------------------------------------------- */

/* The device failed: no rank can go on. */
static int32_t broke(tn_comm_group *me, int32_t rc, const tn_err *why, tn_err *err)
{
    return rc == TN_OK ? TN_OK : group_break(me->g, why, err);
}

int32_t captured_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *stream, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    int32_t rc = group_error(me, err);

    return rc == TN_OK ? broke(me,
                               me->api->meet_sum(me->device, stream, &me->meet, recv, send, count,
                                                 dtype, &why),
                               &why, err)
                       : rc;
}

int32_t captured_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t bytes,
                            tn_stream *stream, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    int32_t rc = group_error(me, err);

    return rc == TN_OK
               ? broke(me,
                       me->api->meet_gather(me->device, stream, &me->meet, recv, send, bytes, &why),
                       &why, err)
               : rc;
}
