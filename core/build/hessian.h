/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums of x x^T over rows of a value: what schemes with error feedback round by (tenon/quant.h, TN_QUANT_HESSIAN). Only the
 * lower triangle is kept: 2 n^2 bytes.
 *
 * Used by one thread, which starts others for a time.
 */
#ifndef CORE_BUILD_HESSIAN_H
#define CORE_BUILD_HESSIAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct hessian {
    uint64_t n, n_rows;
    float *sum;    /* element i, j <= i at [i * (i + 1) / 2 + j]; NULL: not gathered */
    bool finished; /* it is the mean, of the value divided by factors */
};

/* Bytes for a value of `n` channels, UINT64_MAX if they cannot be counted. */
uint64_t hessian_bytes(uint64_t n);

int32_t hessian_init(struct hessian *h, uint64_t n, tn_err *err);
void hessian_release(struct hessian *h); /* zeroed is allowed */

/* Takes in rows[n_rows, n], finite. */
int32_t hessian_take(struct hessian *h, const float *rows, uint64_t n_rows, tn_err *err);

/* Makes it the mean over the rows, with channel k divided by divide[k] (NULL: by 1); once, and nothing is taken in after. */
void hessian_finish(struct hessian *h, const float *divide);

#endif
