/* SPDX-License-Identifier: Apache-2.0 */
/* Running a variant on a device that has memory of its own. */
#ifndef TESTS_KERNELS_REMOTE_H
#define TESTS_KERNELS_REMOTE_H

#include "harness.h"

/* run_variant for such a device: inputs, weights, step and cache are copied there, and the outputs (and cache) back
 * into `e`; tokens, sampled and logprob of the step too. */
void run_remote(struct kit *k, const struct plug *p, const tn_variant *v, const tn_op *op,
                const tn_batch *b, struct env *e);

#endif
