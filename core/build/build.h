/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `tenon build`: a Hugging Face checkpoint becomes an engine directory. Weights stream tensor by tensor; the
 * directory appears under its name when it is complete, so an interrupted build leaves nothing.
 */
#ifndef CORE_BUILD_BUILD_H
#define CORE_BUILD_BUILD_H

#include <stdbool.h>

#include "base/err.h"
#include "build/token_set.h"
#include "plugin/registry.h"

struct runner;

/* What becomes of the weights' and the cache's precision. */
struct build_quant {
    const char *scheme; /* "int8_sq"; NULL: none */
    bool
        dequantize; /* what the checkpoint has quantized is widened, before `scheme` if there is one */
    const tn_kv *options;
    uint32_t n_options;
    uint32_t kv_dtype; /* default of the engine's cache, ::tn_dtype; 0: that of the weights */
    const struct token_set *calib; /* NULL: no calibration */
    uint64_t calib_seed;           /* of the rows that are kept */
    const char *stats; /* file of statistics: read without `calib`, else written; or NULL */
    const struct token_set *eval; /* for the gate; NULL: none */
    double max_ppl_increase;      /* 0.01: one percent; negative: no limit */
    double max_kl;                /* nats; negative: no limit */
    bool fp8_as_float16; /* where the device has no FP8 arithmetic, the engine becomes float16 */
    bool kv_nearest;     /* a cache in e4m3 gets scales alone: nothing is turned, no feedback */
    const struct runner *runner; /* NULL: nothing that runs the model is asked for */
};

struct build_options {
    const char *model;  /* directory of the checkpoint */
    const char *output; /* directory to make; an engine that is there is replaced */
    uint32_t dtype;     /* ::tn_dtype; 0: as config.json says */
    bool dummy;         /* random weights; only config.json is needed */
    int64_t max_batch_size, max_input_len, max_output_len, max_num_tokens; /* 0: default */
    int64_t tp_size, pp_size;                                              /* 0: 1 */
    struct build_quant quant;
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
    char scheme[64]; /* or the quant_method of the checkpoint; "": nothing is quantized */
    const char *
        fp8_fallback; /* "keep" or "float16": the machine has no FP8 arithmetic; NULL: it has, or needs none */
    uint32_t n_linears, n_quantized;
};

int32_t build_engine(const struct build_options *o, struct build_report *report, tn_err *err);

#endif
