/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file quant.h
 * Quantization schemes: what becomes of the matrix of a linear op when an engine is built.
 *
 * The host walks the plan. For each linear it asks `plan` what the quantized op looks like, gathers the
 * statistics that the scheme needs (one calibration run for all), then calls `quantize` per matrix and
 * stores the tensors it returns. At run time only the op's name and tensors remain; kernels know the rest.
 */
#ifndef TENON_QUANT_H
#define TENON_QUANT_H

#include "error.h"
#include "op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tn_quant_need {
    TN_QUANT_ABSMAX_CHANNEL = 1, /**< max |x| per input channel */
    TN_QUANT_ABSMAX_TENSOR = 2,  /**< max |x| of the input */
    TN_QUANT_PERCENTILE = 4,     /**< 99.9th percentile of |x| of the input */
    TN_QUANT_SECOND_MOMENT = 8   /**< mean of x^2 per input channel */
};

enum tn_quant_flag {
    TN_QUANT_FOLDS_INPUT =
        1 /**< `quantize` may return factors to divide the input channels by, which the
                                  host folds into the op before (a norm) or refuses to use */
};

#define TN_QUANT_MAX_TENSORS 6

/** A tensor that the scheme stores in place of the matrix. */
typedef struct tn_quant_tensor {
    tn_hdr h;
    const char *suffix; /**< appended to the matrix's name: ".qweight", ".scale"; static */
    uint32_t dtype;
    uint32_t n_dims;
    uint64_t dims[TN_MAX_DIMS];
    uint32_t shard; /**< ::tn_shard; scales follow their matrix */
    uint32_t reserved0;
    uint64_t shard_multiple; /**< slices must be multiples of this (a group length); 0: any */
} tn_quant_tensor;

/** What a linear op [N, K] becomes. */
typedef struct tn_quant_plan {
    tn_hdr h;
    const char *op; /**< name of the op that consumes the result: "linear.int8"; static */
    uint32_t n_tensors;
    uint32_t reserved0;
    tn_quant_tensor tensors[TN_QUANT_MAX_TENSORS];
} tn_quant_plan;

/** Statistics of a linear's input over the calibration data; fields not asked for are NULL or 0. */
typedef struct tn_quant_stats {
    tn_hdr h;
    uint64_t n_channels;
    uint64_t n_rows; /**< token rows seen */
    const float *absmax_channel;
    const float *second_moment;
    float absmax;
    float percentile;
} tn_quant_stats;

/** Interface "quant.scheme". */
typedef struct tn_quant_scheme {
    tn_hdr h;
    const char *name;     /**< as in `tenon build --quant NAME` */
    const char *summary;  /**< one line for people */
    uint32_t needs;       /**< mask of ::tn_quant_need; 0: no calibration */
    uint32_t flags;       /**< ::tn_quant_flag */
    const char *fallback; /**< what a machine without native support does, one line for people */

    /** What the linear `op` becomes, or TN_E_UNSUPPORTED to leave it as it is (reason in `err`). */
    int32_t (*plan)(void *instance, const tn_op *op, tn_quant_plan *out, tn_err *err);
    /**
     * Quantizes w[N, K] (row-major float32), rows [row_begin, row_end) of the matrix: called for
     * consecutive ranges so that a large matrix streams. `out[i]` receives the rows of tensor i of the
     * plan whose dims[0] is N, and, at the first call, the whole of the others. `divide` (K floats, NULL unless
     * TN_QUANT_FOLDS_INPUT) is preset to 1 and may be changed at the first call, before any row is
     * written. Any thread; different matrices at once.
     */
    int32_t (*quantize)(void *instance, const tn_op *op, const tn_quant_stats *stats,
                        const float *w, uint64_t row_begin, uint64_t row_end, void *const *out,
                        float *divide, tn_err *err);
} tn_quant_scheme;

#ifdef __cplusplus
}
#endif
#endif
