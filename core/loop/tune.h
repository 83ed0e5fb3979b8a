/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring variants: every one that can run an op of the plan, at the numbers of rows that choices are made at, with random
 * weights of the op's shape in several copies, so that they come from memory and not from a cache, in a captured graph where
 * the device has them, as a decode step runs. Ops that read the KV cache, or ids, are left to their estimates.
 */
#ifndef CORE_LOOP_TUNE_H
#define CORE_LOOP_TUNE_H

#include "exec/bind.h"
#include "exec/tuning.h"
#include "loop/rank.h"

struct tune_options {
    struct rank *rank;     /* of an instance opened dry */
    struct tuning *tuning; /* gets the times */
    /* Called for each op that is to be measured; nonzero ends it with TN_E_CANCELED. May be NULL. */
    int (*progress)(void *arg, uint32_t done, uint32_t total);
    void *arg;
};

/* Measures the ops of `b`, a dry binding of the rank. */
int32_t tune_binding(const struct tune_options *o, const struct binding *b, tn_err *err);

#endif
