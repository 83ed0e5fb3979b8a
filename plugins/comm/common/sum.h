/* SPDX-License-Identifier: Apache-2.0 */
/* What reductions in host memory share: sums in the order of ranks, so that equal inputs give equal bits wherever they
 * are computed. */
#ifndef COMM_COMMON_SUM_H
#define COMM_COMMON_SUM_H

#include <stdint.h>

#include "tenon/dtype.h"

#define COMM_SUM_DTYPES                                                                            \
    (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16) | TN_DT_BIT(TN_DT_I32))

/* dst[i] = src[0][i] + src[1][i] + ... for i < count; 16-bit floats are added in float32 and rounded once. `dst` may be
 * one of the sources. `dtype` is one of COMM_SUM_DTYPES. */
void comm_sum(void *dst, const void *const *src, uint32_t n, uint64_t count, uint32_t dtype);

#endif
