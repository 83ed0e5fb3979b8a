/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One rank: one device with its share of the plan, bound and ready to run steps.
 *
 * A rank is used by one thread at a time. Steps go in with rank_submit and come out, oldest first, with rank_wait;
 * between the two a device with streams computes while the host does something else.
 */
#ifndef CORE_LOOP_RANK_H
#define CORE_LOOP_RANK_H

#include "exec/bind.h"
#include "loop/arrays.h"
#include "loop/graphs.h"
#include "loop/instance.h"
#include "loop/parts.h"

struct rank_options {
    struct topology topo;
    uint32_t world_rank, world_size; /* of all ranks of the run */
    uint32_t device_index;
    uint32_t share, n_shares; /* of ranks that share this device; see tn_device_api::open */
};

struct rank {
    const struct instance *in;
    struct rank_options o;
    char place[48]; /* "cpu:0" */
    tn_device *device;
    tn_device_info info;
    struct comm comm;
    struct kernel_source sources[REGISTRY_MAX_SETS + 1];
    uint32_t n_attached; /* sets that were attached to the device */
    struct pin *pins;
    uint32_t n_pins;
    struct tuning *tuning; /* measured times of this device, from the file beside the engine */
    uint64_t tune_ns;      /* that the first load spent on measuring */
    uint32_t act_dtype, kv_dtype;
    struct binding *binding;
    struct step_arrays arrays; /* of a rank that is alone, or on a device with memory of its own */
    struct step_graphs graphs;
    tn_event *done[STEP_SLOTS];   /* on a device with streams: the step in that slot has ended */
    uint64_t submitted, waited;   /* steps */
    const struct step_slot *owed; /* the step submitted last, until its results are on their way */
    float *logits;                /* host copy for steps that want them, made at the first */
    struct ledger_owner *own_logits;
    int32_t *sampled; /* [max_logits] of one among several */
    float *logprob;
    bool flying[STEP_SLOTS];    /* of one among several: the slot's part may still run */
    uint32_t first[STEP_SLOTS]; /* logits row of the step with which that part begins */
};

/* Opens the device and attaches the kernel sets. `in` outlives the rank. */
int32_t rank_open(const struct instance *in, const struct rank_options *o, struct rank **out,
                  tn_err *err);
void rank_close(struct rank *r); /* NULL is allowed */

/* Waits for whatever runs: others read what a rank shows them, so none may close before all are quiet. NULL is allowed. */
void rank_quiet(struct rank *r);

/* Binds the engine's plan. Several ranks have joined their groups before (their `comm`). */
int32_t rank_bind(struct rank *r, tn_err *err);

/* What becomes of ops that the device has no arithmetic for: a line for people. Lives as long as the engine. */
const char *rank_fallback_text(const struct rank *r);

/* Another binding, which chooses only, by the measured times that there are now, with or without fusions; the caller's. */
int32_t rank_bind_dry(struct rank *r, bool fusion, struct binding **out, tn_err *err);

/* Books in the ledger what rank_bind and rank_alloc_kv would allocate, of a rank opened dry, without allocating it; *n_pages
 * is what rank_fit_pages will say. The booking ends when *out is freed. */
int32_t rank_count(struct rank *r, struct binding **out, uint32_t *n_pages, tn_err *err);

/* How many cache pages the rank has room for, at most what all sequences could fill. TN_E_NOSPACE if not even one. */
int32_t rank_fit_pages(const struct rank *r, uint32_t *n, tn_err *err);
int32_t rank_alloc_kv(struct rank *r, uint32_t n_pages, tn_err *err);

/* How many steps may be submitted and not waited for: 2 where the device takes tokens from the step before by itself. */
uint32_t rank_depth(const struct rank *r);

/* Memory for the arrays of steps of that capacity, and graphs; once, before the first step. Several ranks do it at once, since
 * they meet in what is captured. */
int32_t rank_prepare(struct rank *r, const struct batch_capacity *capacity, tn_err *err);

/* Begins a step; of those not waited for there are less than rank_depth, and none wants logits that are not sampled
 * (rank_wants_logits). The step stays valid until it was waited for. After an error there is nothing to wait for. */
int32_t rank_submit(struct rank *r, const struct sched *s, const struct sched_step *step,
                    tn_err *err);

/* Whether somebody wants the logits of a step themselves. It must be waited for before the next is submitted. */
bool rank_wants_logits(const struct sched_step *step);

/* What a step gave; host memory, valid until the next submit. */
struct rank_result {
    const int32_t *sampled; /* [n_logits] */
    const float *logprob;   /* [n_logits] */
    const float *logits;    /* [n_logits, vocab]; NULL if not wanted and not at hand */
};

/* Waits for the oldest step that was submitted. */
int32_t rank_wait(struct rank *r, struct rank_result *out, tn_err *err);

/* One among several ranks: runs its share of all parts of a step, one after the other, and waits for them. The parts are
 * shared by all ranks and read only. */
int32_t rank_run_parts(struct rank *r, const struct step_parts *p, tn_err *err);

/* What that gave, on a rank of the last pipeline stage. */
void rank_parts_result(const struct rank *r, struct rank_result *out);

#endif
