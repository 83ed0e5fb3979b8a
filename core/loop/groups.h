/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which ranks there are, where each stands, and who talks to whom.
 *
 * Ranks are numbered stage by stage, the last pipeline stage first: so rank 0, whose process has the scheduler, is also where
 * logits and tokens arise, and a step's result needs no way back. Each stage's ranks form a tensor group; the ranks with
 * the same place in all stages form a pipeline.
 */
#ifndef CORE_LOOP_GROUPS_H
#define CORE_LOOP_GROUPS_H

#include "loop/measure.h"
#include "loop/rank.h"

/* A group to be, known to every process; its token is made where its first rank lives. */
struct group_plan {
    const tn_comm_backend *backend;
    void *instance;
    const char *plugin;
    char why[192]; /* it was chosen, for people */
    bool staged;   /* its devices are taken for out of each other's reach, whatever they say */
    uint32_t n;
    uint32_t *members;   /* [n] ranks of the run; of a pipeline: first stage first */
    uint32_t *processes; /* [n] where they are */
    uint8_t id[TN_COMM_ID_BYTES];
};

/* What was measured between two devices; tried: false where that failed. */
struct group_pair {
    uint32_t from, to;
    struct measured_pair times;
};

struct groups {
    struct instance *in;
    bool measure; /* devices, if nobody is named to join them */
    uint32_t tp_size, pp_size, world;
    uint32_t process, n_processes;
    uint32_t host_rank, host_size; /* of the processes on this host */
    uint32_t first_local, n_local; /* ranks of this process */
    char far_comm[32];             /* backend between processes */
    struct group_plan *tensor;     /* [pp_size], of each stage; NULL if tp_size is 1 */
    struct group_plan *pipeline;   /* [tp_size]; NULL if pp_size is 1 */
    uint32_t *memory;
    uint64_t max_bytes; /* of one call */
    struct group_pair *pairs;
    size_t n_pairs, cap_pairs;
};

/* Sizes by configuration and engine, and a backend that can do it. TN_E_CONFIG, TN_E_NOTFOUND, TN_E_UNSUPPORTED. What is known
 * of processes stands in `g`; zeroed: there is one. */
int32_t groups_init(struct groups *g, struct instance *in, tn_err *err);
void groups_release(struct groups *g); /* zeroed is allowed */

/* Who would join `n` ranks of one process, by the configuration and by where the devices of `in` are (its view, its device and
 * its configuration are looked at), and why. `measure`: and by what is measured between them. `plugin` lives as long as the
 * view. */
int32_t groups_foresee(struct instance *in, uint32_t n, bool measure, const char **plugin,
                       char why[192], tn_err *err);

/* Whether some of the group's ranks are in another process than others. */
bool groups_reach_out(const struct groups *g, const struct group_plan *p);

/* Makes the tokens: of groups within this process, and in process 0 of those that reach out. */
int32_t groups_ids(struct groups *g, tn_err *err);

/* Where the `index`th rank of this process stands, and on which device. */
int32_t groups_place(const struct groups *g, const struct instance *in, uint32_t index,
                     struct rank_options *out, tn_err *err);

/* Describes the rank's groups in its comm, without joining. */
void groups_lines(const struct groups *g, struct rank *r);

/* Joins them. Every rank calls it, each on its own thread. */
int32_t groups_join(const struct groups *g, struct rank *r, tn_err *err);

#endif
