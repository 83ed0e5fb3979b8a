/* SPDX-License-Identifier: Apache-2.0 */
/* Random weights for benchmarks (`tenon build --load-format dummy`): the same bytes on every machine, so that
 * runs compare, and never zeros, which run faster than real data on some hardware. */
#ifndef CORE_ENGINE_DUMMY_H
#define CORE_ENGINE_DUMMY_H

#include "engine/plan.h"

/* Writes elements [begin, begin + n) of the weight, in row-major order, to dst (int4: begin is even). Matrices get a
 * standard deviation of 0.02, norms 1, biases a little noise; integers cover the range of int16 or their own. */
void dummy_fill(const struct plan_weight *w, uint64_t seed, uint64_t begin, uint64_t n, void *dst);

#endif
