/* SPDX-License-Identifier: Apache-2.0 */
/* What stays inside of the op moe_mlp (tenon/ops.h): rows that the matrix down of an expert reads. */
#ifndef CORE_BUILD_HIDDEN_H
#define CORE_BUILD_HIDDEN_H

#include <stdint.h>

#include "base/err.h"

#define HIDDEN_ROWS                                                                                \
    256 /* at one time: enough that widening a matrix costs little beside multiplying with it */

typedef float (*hidden_function)(float x);

/* The activation of that name; NULL: unknown. */
hidden_function hidden_activation(const char *name);

/* An expert's matrices gate and up, [inner, width], of float dtypes. */
struct hidden_expert {
    const void *gate, *up;
    uint32_t gate_dtype, up_dtype;
    uint64_t width, inner;
    hidden_function act;
};

/* out[n_rows, inner] = act(gate x) * (up x) for rows x[n_rows, width], at most HIDDEN_ROWS. Used by one thread, which starts
 * others for a time. */
int32_t hidden_rows(const struct hidden_expert *e, const float *x, uint64_t n_rows, float *out,
                    tn_err *err);

#endif
