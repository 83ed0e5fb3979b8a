/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a rank of the plugin pcie moves data with. It shows what the others are to get in a window: page-locked memory of the host
 * for those whose device does not reach this one, device memory for those whose device does. Two slots take turns, each at a
 * meeting of all ranks (../common/group.h), and two streams of the rank's own copy, one into its window and one out of the
 * others', so that both directions of the bus and the sums on the caller's stream go on at once.
 *
 * What is enqueued waits by events only, and never for something that is not enqueued yet.
 */
#ifndef PCIE_WINDOW_H
#define PCIE_WINDOW_H

#include "../common/meet.h"

#define SLOT_BYTES (1024u * 1024) /* of a slot: some 20 microseconds of a bus of today */

struct window {
    tn_stream *out, *in;
    tn_event *begun;                  /* the caller's stream has come to the call */
    tn_event *filled[2];              /* a slot shows what it should */
    tn_event *landed[2];              /* what the others showed in theirs has been fetched */
    tn_event *used[2];                /* and was summed */
    unsigned char *host[2], *near[2]; /* NULL if nobody needs it */
    unsigned char *landing[2];        /* device memory, [n_ranks][SLOT_BYTES] */
    /* Messages have slots of their own, since two ranks exchange them without the others. */
    unsigned char *message_host[2], *message_near[2];
    tn_event *sent[2], *taken[2];
    tn_event *given[2]; /* the receiver's `taken` of what last lay in the slot; not owned */
    uint64_t n_sent, n_taken;
};

/* For struct hub. */
int32_t window_open(tn_comm_group *me, tn_err *err);
void window_close(tn_comm_group *me);

/* What a rank does in one meeting. */
struct round {
    const char *call;
    uint32_t dtype, root, fault;
    uint64_t agreed;  /* a number that all ranks must come with */
    const void *show; /* device memory */
    uint64_t bytes;   /* of it, at most SLOT_BYTES; may differ between ranks */
    tn_event *after;  /* what `show` depends on beside the call's beginning; or NULL */
};

/* The caller's stream has come to a call: what follows in the window's streams comes behind it. */
int32_t window_begin(tn_comm_group *me, tn_stream *stream, tn_err *err);

/* Shows, and meets all; then window_fetch may follow. */
int32_t window_meet(tn_comm_group *me, const struct round *r, tn_err *err);

/* Fetches `bytes` bytes, `at` bytes into what rank `from` shows, to device memory. */
int32_t window_fetch(tn_comm_group *me, uint32_t from, uint64_t at, void *dst, uint64_t bytes,
                     tn_err *err);

/* Where what rank `from` shows is fetched to for a sum in this meeting. */
unsigned char *window_landing(const tn_comm_group *me, uint32_t from);

/* All is fetched: the caller's stream goes on behind that, and behind what this rank showed. */
int32_t window_end(tn_comm_group *me, tn_stream *stream, tn_err *err);

/* The caller's stream has read the landing place. */
int32_t window_used(tn_comm_group *me, tn_stream *stream, tn_err *err);

/* Copies that wait for nothing but their stream; and what a failure of the device means: nobody can go on. */
int32_t window_copy(tn_comm_group *me, tn_stream *stream, void *dst, const void *src,
                    uint64_t bytes, uint32_t kind, tn_err *err);
int32_t window_broke(tn_comm_group *me, int32_t rc, tn_err *err);

/* Whether rank `to` fetches from rank `from` without the host. */
bool window_direct(const tn_comm_group *me, uint32_t from, uint32_t to);

/* messages.c */
int32_t message_send(tn_comm_group *me, const void *buf, uint64_t bytes, uint32_t peer,
                     tn_stream *stream, tn_err *err);
int32_t message_recv(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,
                     tn_err *err);

/* calls.c; as tn_comm_backend has them */
int32_t call_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err);
int32_t call_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *stream, tn_err *err);
int32_t call_reduce_scatter(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *stream, tn_err *err);
int32_t call_broadcast(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t root,
                       tn_stream *stream, tn_err *err);
int32_t call_barrier(tn_comm_group *me, tn_stream *stream, tn_err *err);

#endif
