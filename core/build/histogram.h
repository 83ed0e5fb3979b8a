/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How |x| is spread, per channel, in memory that does not grow with the data: counts in buckets of an eighth of an octave, for the
 * 16 octaves below the largest element seen, whatever is smaller in the lowest. Percentiles of all channels together, each
 * divided by a number of its own that is known only later, are so found within 12.5%, the width of a bucket, without a
 * second run over the data.
 */
#ifndef CORE_BUILD_HISTOGRAM_H
#define CORE_BUILD_HISTOGRAM_H

#include <stdint.h>

#include "base/err.h"

#define HISTOGRAM_BUCKETS 128

struct histogram {
    uint64_t n_channels;
    int32_t base;     /* of the lowest bucket: bits 20 to 30 of its smallest float */
    uint32_t *counts; /* [n_channels, HISTOGRAM_BUCKETS], saturating; the owner's */
};

/* Takes in one finite row. `most` is its largest |x|. */
void histogram_take(struct histogram *h, const float *row, float most);

/* The number that `part` of all |x[k] / divide[k]| are at most (0.999: the 99.9th percentile); divide may be NULL. 0 of no data.
 * TN_E_NOMEM. */
int32_t histogram_percentile(const struct histogram *h, const float *divide, double part,
                             float *out, tn_err *err);

#endif
