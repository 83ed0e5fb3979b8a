/* SPDX-License-Identifier: Apache-2.0 */
/* Whether one variant can run one op, and at what cost. */
#ifndef CORE_EXEC_JUDGE_H
#define CORE_EXEC_JUDGE_H

#include "exec/select.h"

struct judge {
    const struct graph *g;
    const struct select_options *o;
    const char *kv_layout; /* the layout of this round */
};

/* True if it can; else a reason of at most `size` bytes. `rows` receives the range of rows it serves. */
bool judge_variant(const struct judge *j, const struct graph_op *op, const struct candidate *c,
                   uint32_t rows[2], char *reason, size_t size);

/* Fills `excluded` of a candidate from the device alone; returns a static text or NULL. */
const char *judge_device(const struct select_options *o, const tn_kernel_set *set,
                         const tn_variant *v);

/* The first variant for this device of an op that is never in a plan ("feed", "read", "dummy"), and its source; NULL: none. */
const tn_variant *judge_service(const struct select_options *o, const char *op,
                                const struct kernel_source **source);

/* Nanoseconds, measured if they were, else estimated; negative: only if pinned. What is no finite number counts as
 * 1e30: it can run, and loses. */
double judge_cost(const struct candidate *c, const struct graph_op *op, uint32_t rows);

/* Whether judge_cost goes by measured times. */
bool judge_measured(const struct candidate *c, const struct graph_op *op);

/* Rows that the op works on at most: logits rows or token rows. */
uint32_t judge_max_rows(const struct select_options *o, const struct graph_op *op);

#endif
