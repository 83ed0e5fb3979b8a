/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What calibration sees of experts: the rows that were routed to each, and what its matrix down reads of them, which stays inside of
 * the op moe_mlp and is computed here once more from the weights of the model as it is.
 *
 * Each row is multiplied by what routing weighs it with: output of an expert counts so much, and so do errors of it. Inputs of a
 * calibration have the names that quant_expert_name makes.
 */
#ifndef CORE_BUILD_ROUTED_H
#define CORE_BUILD_ROUTED_H

#include "build/calibration.h"
#include "build/runner.h"

struct routed;

/* Of the engine file that will run. Every `stride`-th row of the data is taken: what more would tell is not worth its time. */
int32_t routed_open(const char *engine, uint64_t stride, struct routed **out, tn_err *err);
void routed_close(struct routed *r); /* NULL is allowed */

/* Before an op moe_mlp runs: hands rows to those of its experts' inputs that `c` has. Used by one thread. */
int32_t routed_take(struct routed *r, const struct calibration *c, const struct run_moment *m,
                    tn_err *err);

#endif
