/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rank's lines to the others: the groups that it is in, its collectives as kernels that a plan's ops select like any
 * other, what crosses the borders of pipeline stages, what it is doing right now, and what it has moved so far.
 *
 * A comm belongs to its rank's thread. Others may read `beat` and `counts` at any time, and abort its groups.
 */
#ifndef CORE_EXEC_COMM_H
#define CORE_EXEC_COMM_H

#include <stdatomic.h>

#include "exec/select.h"
#include "tenon/comm.h"

/* One group that the rank is in, or is going to be. */
struct comm_line {
    const tn_comm_backend *backend; /* NULL: the group has one rank, and nothing to do */
    void *instance;
    const char *plugin;
    tn_comm_group *group; /* NULL until joined */
    uint32_t rank, n_ranks;
    const uint32_t *members; /* [n_ranks] ranks of the run */
};

/* What a rank is doing, for whoever has to say which one is stuck, and in what. */
struct beat {
    _Atomic(const char *) call; /* name of the op that runs or the call that waits; NULL: no step */
    _Atomic int32_t layer;
    _Atomic int64_t
        peer; /* rank of the run that a message goes to or comes from; -1: all of the group, or nobody */
    _Atomic bool waits;        /* in a call that waits for others, or one that failed */
    _Atomic uint64_t n_calls;  /* collectives and messages begun so far */
    _Atomic uint64_t n_ops;    /* ops begun so far */
    _Atomic uint64_t step;     /* number of the last step begun */
    _Atomic uint64_t since_ns; /* clock_ns() when the step, or the call that waits, began */
};

enum comm_call { COMM_ALL_REDUCE, COMM_ALL_GATHER, COMM_SEND, COMM_RECV, COMM_CALLS };

/* What went over the lines since the rank opened. Bytes are those that the rank handed in (all_gather: of its own part). */
struct comm_counts {
    _Atomic uint64_t calls[COMM_CALLS], bytes[COMM_CALLS];
};

/* The same at one time, or between two. */
struct comm_moved {
    uint64_t calls[COMM_CALLS], bytes[COMM_CALLS];
};

struct comm {
    struct comm_line tensor;   /* shares matrices */
    struct comm_line pipeline; /* one rank of each stage, first stage first */
    const tn_device_api *api;
    tn_device *device;
    struct beat beat;
    struct comm_counts counts;
    tn_kernel_set set; /* what comm_source offers */
    tn_variant reduce, gather;
    const tn_variant *variants[2];
};

const char *comm_call_name(uint32_t call);

/* Whether all calls of the line may be captured, or its sums and gathers; also true where there is nothing to call. */
bool comm_line_captures(const struct comm_line *line);
bool comm_sums_capture(const struct comm_line *line);

/* Memory that the tensor group's sums move best, as tn_comm_backend::memory says; NULL if there is none. */
int32_t comm_memory(struct comm *c, uint64_t bytes, uint64_t layout, void **out, tn_err *err);

/* Comes together with the ranks of the tensor group, in the stream and, of backends whose ranks are threads, on the host. Nothing
 * to do for a rank that is alone. */
int32_t comm_meet(struct comm *c, tn_stream *s, tn_err *err);

/* What has gone over the lines so far. */
struct comm_moved comm_moved(const struct comm *c);

/* Counts `moved` as well, or (`back`) no longer: a step that is captured moves nothing, and when it is replayed nobody calls. */
void comm_count(struct comm *c, const struct comm_moved *moved, bool back);

/* The collectives of the tensor group as a kernel set for one kind of device. `c` outlives its use. */
struct kernel_source comm_source(struct comm *c, const char *device_kind);

/* Why kernels cannot have the parts of the tensor group's sums (TN_VARIANT_PARTS); NULL: they can. */
const char *comm_no_parts(const struct comm *c);

/* Launches such a variant: shows in[0] to the other ranks, lets it work on what they show, and sees to it that all have done
 * so. The workspace of `l` begins with comm_room bytes that are not the variant's. */
int32_t comm_launch_parts(struct comm *c, const struct candidate *with, const tn_launch *l,
                          tn_err *err);
uint64_t comm_room(const tn_op *op, uint32_t rows);

/* Hands `bytes` bytes of device memory to the next stage, or takes them from the one before. */
int32_t comm_send(struct comm *c, const void *buf, uint64_t bytes, tn_stream *s, tn_err *err);
int32_t comm_recv(struct comm *c, void *buf, uint64_t bytes, tn_stream *s, tn_err *err);

/* Ends what is going on in both groups, from any thread; nothing works afterwards. */
void comm_abort(struct comm *c);

/* What has gone wrong in either group since, if anything. */
int32_t comm_check(const struct comm *c, tn_err *err);

/* Leaves both groups. */
void comm_leave(struct comm *c);

#endif
