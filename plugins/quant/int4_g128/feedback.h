/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounding a matrix column by column, so that what earlier columns were rounded by is made good by the later ones: GPTQ
 * (Frantar et al. 2022, arXiv:2210.17323), in the form of LDLQ (Chee et al. 2023, arXiv:2307.13304, theorem 6), which is
 * the same and needs one Cholesky factor and no inverse. Columns of large second moment come first; what elements may become
 * stands before, so that groups stay columns that lie side by side.
 *
 * Starts threads of the host and waits for them; any thread.
 */
#ifndef INT4_FEEDBACK_H
#define INT4_FEEDBACK_H

#include "tenon/host.h"
#include "tenon/quant.h"

/* What elements may become. Rows are other threads' at the same time. */
struct grid_set {
    const void *arg;
    /* Keeps what comes nearest to `value` as the element's, and returns what that is; the last call for an element stands. */
    float (*keep)(const void *arg, uint64_t row, uint64_t column, float value);
    /* Gives a row its scales number `attempt`, 0 being the plain one. All are tried, and the one of least error stays.
     * NULL: there is one choice. */
    void (*choose)(const void *arg, uint64_t row, uint32_t attempt);
    uint32_t n_attempts; /* with `choose` */
};

#define DAMPING 0.01 /* of the mean of the Hessian's diagonal, as in the paper */

/* Of experts, whose Hessians are of those rows alone that were routed to them, `rows` of `cols` channels: as if another
 * DAMPING_ROWS rows per channel had been seen in which channels have nothing in common. What a few texts say of an expert holds less for
 * others than what they say of the model; with ever fewer rows rounding becomes that of each element by itself. */
#define DAMPING_ROWS 16

double damping_of(const tn_op *op, const tn_quant_stats *stats);

/* Rounds w[rows, cols]; with `hessian` (as in tn_quant_stats; `damping` of the mean of its diagonal is added to it) by feedback,
 * and element by element if that is NULL or nothing can be made of it: the error of a row is then the sum of its squares. */
int32_t round_matrix(const tn_host *host, const float *hessian, double damping, const float *w,
                     uint64_t rows, uint64_t cols, const struct grid_set *grids, tn_err *err);

#endif
