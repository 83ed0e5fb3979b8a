/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounding a matrix column by column, so that what earlier columns were rounded by is made good by the later ones: GPTQ
 * (Frantar et al. 2022, arXiv:2210.17323), in the form of LDLQ (Chee et al. 2023, arXiv:2307.13304, theorem 6), which is
 * the same and needs one Cholesky factor and no inverse. Columns of large second moment come first; the grids of
 * groups stand before, so that groups stay columns that lie side by side.
 *
 * A factor is immutable once made. All functions start threads of the host and wait for them; any thread.
 */
#ifndef INT4_FEEDBACK_H
#define INT4_FEEDBACK_H

#include "tenon/host.h"
#include "tenon/quant.h"

/* w ~ scale * (q - zero), -8 <= q <= 7; a scale of 0 means that all q are the zero. */
struct grid {
    float scale;
    int zero;
};

int round_to(struct grid g, float w);

/* H = R R^T of the damped Hessian, in the order in which columns are rounded, last first. */
struct factor {
    uint64_t n;
    uint32_t *order; /* [n] columns; order[n - 1] is rounded first */
    float *l;        /* [n, n] lower triangle */
};

/* `hessian` as in tn_quant_stats. TN_E_UNSUPPORTED, err unfilled, if it is not positive definite even when damped. */
int32_t factor_new(const tn_host *host, const float *hessian, uint64_t n, struct factor *out,
                   tn_err *err);
void factor_release(const tn_host *host, struct factor *f); /* zeroed is allowed */

/* Rounds w[rows, n] to q, two of a row to a byte, with a grid per `group` columns: scale[rows, n / group], and zero
 * likewise or NULL. */
struct rounding {
    const struct factor *factor;
    const float *w;
    uint64_t rows, group;
    float *scale;
    int8_t *zero;
    uint8_t *q; /* zeroed */
};

int32_t round_with_feedback(const tn_host *host, const struct rounding *r, tn_err *err);

#endif
