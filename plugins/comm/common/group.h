/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of ranks that are threads of one process: what the plugins share that join such ranks.
 *
 * Every rank has a place where it shows what it contributes to a call: two buffers in turn, so that one meeting per
 * call is enough. Whoever comes to call k + 2, and overwrites the buffer of call k, has been through call k + 1; and
 * nobody gets through that before all have come to it, hence have read what they needed of call k.
 */
#ifndef COMM_COMMON_GROUP_H
#define COMM_COMMON_GROUP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fault.h"
#include "tenon/comm.h"

#define MAX_RANKS 256
#define CHUNK (256u * 1024) /* bytes that a rank shows at a time */

/* What a rank shows for one meeting. */
struct shown {
    uint64_t seq;
    uint64_t bytes; /* of this chunk, or of the whole contribution: all ranks' are equal */
    uint64_t sum;   /* checksum, if they are on */
    const char *call;
    uint32_t dtype, root;
    unsigned char *data; /* [CHUNK]; of a group in host memory */
    /* Of a group in device memory. */
    const void *send;
    void *recv;
    tn_event *event; /* the rank's stream has come to this call, and done all before it */
};

#define WAITS_FOR_ALL UINT32_MAX /* to come to the meeting that it came to */

struct place {
    _Alignas(64) _Atomic uint64_t arrived; /* meetings that the rank came to */
    _Atomic uint32_t waits_for;            /* 1 + the rank that it waits for, WAITS_FOR_ALL, or 0 */
    struct shown shown[2];                 /* by seq % 2 */
    bool joined;
    tn_comm_group *member; /* set before it arrives for the first time */
};

enum box_state { BOX_EMPTY, BOX_FULL, BOX_READ };

/* A message on its way from one rank to another, in the sender's memory. */
struct box {
    _Atomic uint32_t state; /* ::box_state */
    const void *data;
    uint64_t bytes, sum;
    bool flip;
    tn_event *event, *took; /* of device memory: it is ready; it was copied */
};

struct hub;

struct group {
    struct hub *l;
    struct group *next;
    uint64_t id;
    uint32_t n, n_joined, n_left;
    uint32_t members[MAX_RANKS];
    _Atomic int32_t broken; /* TN_OK, or why nothing works any more */
    _Atomic uint32_t sleepers;
    pthread_mutex_t lock; /* for `moved`, `why` and joining */
    pthread_cond_t moved;
    tn_err why;
    struct place *places; /* [n] */
    struct box *boxes;    /* [n * n], from * n + to */
    unsigned char *memory;
};

struct tn_comm_group { /* one rank's view */
    struct group *g;
    uint32_t rank;
    uint64_t seq;   /* meetings it came to */
    uint64_t calls; /* that count for faults */
    uint64_t call_timeout_ns;
    /* Of `show`: where the addends lie, and the meeting that `hide` owes; call NULL: none. */
    const void *parts[MAX_RANKS];
    struct shown owed;
    /* The rest is of a group in device memory; api is NULL in others. */
    const tn_device_api *api;
    tn_device *device;
    tn_event *events[2];     /* by seq % 2 */
    tn_event *sent, *took;   /* of messages */
    unsigned char *staging;  /* device memory */
    struct window *window;   /* of the plugin pcie */
    bool reaches[MAX_RANKS]; /* whose memory the rank's device reaches directly */
    char uuid[48];           /* of the device */
    bool shares;             /* it, with ranks of whichever groups */
    /* Of the plugin local, where devices meet by themselves. */
    struct tn_device_meet meet; /* n 0: they do not */
    void *
        rooms[TN_MEET_MAX]; /* of all ranks; its own also before it is known whether all have one */
    _Atomic(volatile uint32_t *) words;
};

/* The plugin's instance. */
struct hub {
    const tn_host *host;
    const char *name; /* "local" */
    /* What a rank needs to move device memory; `open` may leave things half done for `close`. */
    int32_t (*open)(tn_comm_group *me, tn_err *err);
    void (*close)(tn_comm_group *me);
    /* (opt) Called in turn once each rank knows whom its device reaches, and again when all have been through that. */
    int32_t (*settle)(tn_comm_group *me, bool again, tn_err *err);
    bool staged; /* pcie: through host memory even where there is a direct way */
    struct fault fault;
    uint64_t spin_ns;     /* how long a wait spins */
    uint64_t spin_few_ns; /* the same where every rank has a processor */
    uint32_t processors;
    bool verify;
    bool
        devices_meet; /* local: where they can, devices wait for each other, and not their ranks' threads */
    pthread_mutex_t lock; /* guards groups and next_id */
    struct group *groups;
    uint64_t next_id;
};

/* Interface functions of joining and leaving; see tenon/comm.h. */
int32_t group_can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                       tn_device *const *devices, tn_err *err);
int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err);
int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err);
void group_leave(tn_comm_group *me);
void group_abort(tn_comm_group *me);
int32_t group_error(tn_comm_group *me, tn_err *err);

/* Breaks the group, once: the first reason stays. Returns the reason in force, which is copied to err. */
int32_t group_break(struct group *g, const tn_err *why, tn_err *err);

/* Wakes whoever sleeps, after something changed that they may wait for. */
void group_wake(struct group *g);

/* Waits until ready(me, arg), the group is broken (its reason is returned) or the deadline has passed (TN_E_TIMEOUT,
 * and the caller breaks the group). `until_ns` 0: no deadline. */
int32_t group_await(tn_comm_group *me, bool (*ready)(const tn_comm_group *, const void *),
                    const void *arg, uint64_t until_ns, tn_err *err);

/* Init and fini of a plugin whose instance is a hub. `setting` takes what is the plugin's own: TN_E_NOTFOUND if it is not. */
int32_t hub_new(const tn_host *host, const struct hub *model, const tn_kv *config,
                uint32_t n_config, int32_t (*setting)(struct hub *, const tn_kv *, tn_err *),
                void **instance, tn_err *err);
void hub_free(void *instance);

/* For tn_comm_backend::link. */
int32_t group_link(tn_comm_group *me, uint32_t peer, tn_comm_link *out, tn_err *err);

#endif
