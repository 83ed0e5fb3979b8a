/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of one run: process 0 leads and has the scheduler, the others follow. Each follower has one authenticated link
 * (link.h) to the leader. Over it, in this order:
 *
 *   hello    who one is, and what one was told: sizes, versions, engine, limits. Whatever differs is refused by name.
 *   ids      tokens of the groups that reach over processes, from the leader
 *   pages    how many cache pages the follower has room for; then from the leader how many all take
 *   step     (leader) a step to run; there is no answer
 *   beat     (follower) what its ranks are doing, a few times per second; (leader) nothing but that it is there
 *   failed   (both) one of us cannot go on, with the reason
 *   bye      (leader) the run is over
 */
#ifndef CORE_LOOP_CONTROL_H
#define CORE_LOOP_CONTROL_H

#include "loop/groups.h"
#include "loop/link.h"
#include "loop/wire.h"

struct control;

/* What a rank in another process was doing when its process last told. */
struct far_beat {
    uint32_t rank;
    uint32_t waits;
    int32_t layer;
    uint32_t reserved;
    int64_t peer;
    uint64_t n_calls, step;
    char call[32]; /* "": nothing */
};

#define CONTROL_NO_RANK UINT32_MAX

/* Called on the leader's reading thread, once, when a follower fails or is gone. `rank` of the run is where it was noticed, or
 * CONTROL_NO_RANK. */
typedef void (*control_failed)(void *arg, uint32_t rank, const tn_err *err);

/* How the processes find each other. */
struct control_plan {
    uint32_t process, n_processes; /* 1: there is nothing to control */
    char host[256]; /* of the leader; several, separated by commas, are tried in turn */
    uint16_t port;
    uint8_t key[SECRET_KEY_BYTES];
    char comm[32];                 /* backend between processes */
    int listener;                  /* the leader's; -1: not open yet */
    uint32_t host_rank, host_size; /* among the processes on this host */
};

/* Finds out from the configuration, or from a launcher that a comm plugin knows, whether there are several processes. */
int32_t control_find(const struct instance *in, struct control_plan *out, tn_err *err);

/* Meets the others: hello, and nothing else. TN_E_TIMEOUT names who did not come. */
int32_t control_open(const struct control_plan *plan, const struct groups *g, struct control **out,
                     tn_err *err);
void control_close(struct control *c); /* NULL is allowed; says bye */

/* Spreads the tokens of groups that reach over processes. */
int32_t control_ids(struct control *c, struct groups *g, tn_err *err);

/* Agrees on the least of what all processes give. */
int32_t control_least(struct control *c, uint32_t *n, tn_err *err);

/* Leader: begins to listen to the followers, and to let them know that it lives. */
int32_t control_watch(struct control *c, control_failed failed, void *arg, tn_err *err);

/* Leader: sends a step to all. */
int32_t control_step(struct control *c, const struct step_parts *parts, tn_err *err);

/* Tells the others that this process cannot go on, and which of its ranks noticed (CONTROL_NO_RANK: none of them). */
void control_tell(struct control *c, uint32_t rank, const tn_err *err);

/* "process 1 (ranks 2 to 3, 192.0.2.7:41234)" */
void control_name(const struct control *c, uint32_t process, char *out, size_t size);

/* Leader: the beats of ranks elsewhere, as last told. Returns their number; *silent is the process that has not told anything
 * for longest, if that is long, or 0. */
uint32_t control_beats(struct control *c, struct far_beat *out, uint32_t max, uint32_t *silent);

/* Follower: the next step, or none within a moment (*got false). TN_E_CLOSED: the run is over. TN_E_COMM: the leader failed,
 * is gone, or has given no sign of life for `silence_ns`. The step stays valid until the next but one has come. */
int32_t control_next(struct control *c, const struct wire_limits *limits, uint64_t silence_ns,
                     struct step_parts *out, bool *got, tn_err *err);

/* Follower: tells what its ranks do. */
int32_t control_beat(struct control *c, const struct far_beat *beats, uint32_t n, tn_err *err);

bool control_leads(const struct control *c);

#endif
