/* SPDX-License-Identifier: Apache-2.0 */
/* Running the model over calibration data, once, and gathering what schemes and the cache need. */
#ifndef CORE_BUILD_CALIBRATE_H
#define CORE_BUILD_CALIBRATE_H

#include "build/build.h"
#include "build/quant.h"
#include "build/runner.h"

struct calibrate_options {
    const struct runner *runner;
    const char *engine; /* of the model as it is */
    const struct token_set *data;
    uint64_t seed;
    bool all; /* keep what any scheme may ask for, not this one alone */
    bool quiet;
    int (*stop)(void *arg);
    void *arg;
};

/* The statistics of every group of `q`, and ranges of keys and values. */
int32_t calibrate(const struct quant *q, const struct calibrate_options *o,
                  struct calibration **out, tn_err *err);

/* Tokens of the longest sequence. */
uint32_t token_set_longest(const struct token_set *t);

#endif
