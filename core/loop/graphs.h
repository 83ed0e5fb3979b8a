/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Captured steps of a rank: one graph per bucket of rows, for steps in which every sequence has one row with logits. What
 * a step is not captured for runs op by op.
 *
 * Used by the thread that runs the rank's steps.
 */
#ifndef CORE_LOOP_GRAPHS_H
#define CORE_LOOP_GRAPHS_H

#include "exec/bind.h"
#include "loop/arrays.h"

#define STEP_GRAPHS_MAX 16

struct step_graphs_options {
    struct binding *binding;
    struct step_arrays *arrays;
    const tn_device_api *api;
    tn_device *device;
    const char *place;
    struct ledger *ledger;
    uint32_t max_batch_size, max_context, block_tokens;
    bool among_several; /* ranks share the matrices */
};

struct step_graphs {
    struct step_graphs_options o;
    uint32_t n;
    uint32_t rows[STEP_GRAPHS_MAX]; /* ascending */
    struct captured_step steps[STEP_GRAPHS_MAX];
    struct ledger_owner *owner;
    uint64_t bytes, capture_ns;
};

/* Captures what can be. A device or kernel that cannot leaves fewer graphs, or none, with a line in the log; an error is
 * only what concerns memory of the host and, among several ranks, a step that does not run, for which others then wait. What it
 * has is released in either case. */
int32_t step_graphs_init(struct step_graphs *g, const struct step_graphs_options *o, tn_err *err);
void step_graphs_release(struct step_graphs *g); /* zeroed is allowed */

/* The bucket for a step of these sizes, or 0 if it is to run op by op. */
uint32_t step_graphs_bucket(const struct step_graphs *g, uint32_t n_rows, uint32_t n_seqs,
                            uint32_t n_logits);

/* Enqueues the graph of a bucket; the arrays of the step have been sent. */
int32_t step_graphs_launch(struct step_graphs *g, uint32_t bucket, tn_err *err);

#endif
