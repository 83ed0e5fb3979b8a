/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring variants: every one that can run an op of the plan, at the numbers of rows that choices are made at, with random
 * weights of the op's shape in several copies, so that they come from memory and not from a cache, in a captured graph where
 * the device has them, as a decode step runs. A variant that falls far behind is not measured at more rows. Left to their
 * estimates are experts and collectives, which hang on more than shapes, and what there is one variant of and no other way.
 */
#ifndef CORE_LOOP_TUNE_H
#define CORE_LOOP_TUNE_H

#include "exec/bind.h"
#include "exec/tuning.h"
#include "loop/rank.h"

struct tune_options {
    struct rank *rank;     /* whose weights need not be loaded */
    struct tuning *tuning; /* gets the times */
    /* Called for each op of each binding, measured or not; nonzero ends it with TN_E_CANCELED. May be NULL. */
    int (*progress)(void *arg, uint32_t done, uint32_t total);
    void *arg;
};

/* Measures the ops of `chosen`, a dry binding of the rank, then the basic ops that its fusions replaced: their sums are what
 * fusions compete with. What was measured before is not measured again. */
int32_t tune_rank(const struct tune_options *o, const struct binding *chosen, tn_err *err);

/* On the first load of an engine on a device that does not compute in host memory: measures what its file of times
 * lacks, and writes the file (a warning if that fails). Nothing if the setting kernels.tune is off, the times are there, or
 * the rank is one of several, which would have to agree. A failure to measure is a warning, too. */
int32_t tune_at_first_load(struct rank *r, tn_err *err);

#endif
