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

/* The statistics of every group of `q`, and ranges of keys and values; and Hessians, if the scheme asks for them, of as many
 * groups as there is room for, from the first on. */
int32_t calibrate(struct quant *q, const struct calibrate_options *o, struct calibration **out,
                  tn_err *err);

/* Writes statistics that calibrate() made, with the Hessians of all groups if the scheme asks for them: for those that had no
 * room the model runs again. None is in memory afterwards: what is wanted of the file must be read from it. */
int32_t calibrate_save(struct quant *q, const struct calibrate_options *o, struct calibration *c,
                       const char *path, tn_err *err);

/* Gives the statistics of what `m` reads (of an expert, if they are known: its own) the Hessian, if the scheme asks for it and
 * there is room for it at all. With `c` from a file it is read from there, or there is none. Otherwise those of groups come in
 * the order of the plan: one that is not there costs a run of the model, for it and as many behind it as there is room for, and
 * those before it are dropped. */
int32_t calibrate_hessian(struct quant *q, const struct calibrate_options *o,
                          const struct calibration *c, const struct quantized *m, uint32_t expert,
                          tn_err *err);

/* What statistics must be of the same model by: a digest of its vectors (norms and biases), as numbers, and of some
 * elements of each matrix, which are read in no time. */
int32_t calibrate_identify(const struct emission *e, const struct checkpoint *from,
                           char out[CALIBRATION_MODEL], tn_err *err);

#endif
