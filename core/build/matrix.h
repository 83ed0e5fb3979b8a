/* SPDX-License-Identifier: Apache-2.0 */
/* One weight of a checkpoint whole in memory, in float32: what quantization works on. Takes twice the bytes of its
 * 16-bit form, one at a time. */
#ifndef CORE_BUILD_MATRIX_H
#define CORE_BUILD_MATRIX_H

#include "build/emit.h"

/* Entries of a weight [n_rows, n_cols]; a vector is a matrix of one column. */
uint64_t matrix_rows(const struct plan_weight *w);
uint64_t matrix_cols(const struct plan_weight *w);

/* Reads weight `w` from its origin and applies the origin's scale. Free `out` with mem_free. */
int32_t matrix_load(const struct checkpoint *c, const struct plan_weight *w,
                    const struct weight_origin *o, float **out, tn_err *err);

#endif
