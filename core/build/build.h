/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `tenon build`: a Hugging Face checkpoint becomes an engine directory. Weights stream tensor by tensor; the
 * directory appears under its name when it is complete, so an interrupted build leaves nothing.
 */
#ifndef CORE_BUILD_BUILD_H
#define CORE_BUILD_BUILD_H

#include <stdbool.h>

#include "base/err.h"
#include "plugin/registry.h"

struct build_options {
    const char *model;  /* directory of the checkpoint */
    const char *output; /* directory to make; an engine that is there is replaced */
    uint32_t dtype;     /* ::tn_dtype; 0: as config.json says */
    bool dummy;         /* random weights; only config.json is needed */
    int64_t max_batch_size, max_input_len, max_output_len, max_num_tokens; /* 0: default */
    int64_t tp_size, pp_size;                                              /* 0: 1 */
    struct registry *registry;
    bool quiet;             /* no progress on stderr */
    int (*stop)(void *arg); /* polled; nonzero ends the build; may be NULL */
    void *arg;
};

struct build_report {
    uint64_t engine_bytes;
    uint64_t n_weights;
    double seconds;
    char model_type[64];
    const char *dtype;
};

int32_t build_engine(const struct build_options *o, struct build_report *report, tn_err *err);

#endif
