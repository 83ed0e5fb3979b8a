/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file quant.h
 * Quantization schemes: what becomes of the matrix of a linear op when an engine is built.
 *
 * The host gathers the statistics that the scheme needs (one calibration run for all), then walks the plan. For linears
 * that read one value it asks `smooth` for factors that move difficulty from activations to weights; for each linear
 * it asks `plan` what the quantized op looks like, and calls `quantize` to fill the tensors that are stored. At run
 * time only the op's name, attributes and tensors remain; kernels know the rest.
 *
 * Matrices of experts (op moe_mlp) are asked about as if each stack [E, N, K] were the matrix [E * N, K] of a linear; the op's
 * name is "moe_mlp" then. A scheme that makes tensors by rows for ::TN_OP_LINEAR_INT8, ::TN_OP_LINEAR_FP8 or ::TN_OP_LINEAR_INT4 of
 * it gets experts of the same format, whose rows are not quantized: attributes of the plan are left out. Any other plan leaves the experts
 * as they are. `quantize` gets them one by one, each as a matrix [N, K] of its own, `out` being the expert's rows of the tensors, with
 * statistics of the rows that were routed to the expert, multiplied by what routing weighs them with. `smooth` is asked about the
 * down of each expert, whose factors go into rows of its up. `plan` gets NULL as `stats` of down; so does `quantize` if no
 * row was routed to the expert, and those of all rows for its gate and up.
 *
 * A scheme with the flag ::TN_QUANT_HEADS is asked about output projections as about linears; the op's name is "logits" then, and
 * that of the plan ::TN_OP_LOGITS_INT8. Attributes of the op stay, those of the plan come behind them.
 */
#ifndef TENON_QUANT_H
#define TENON_QUANT_H

#include "error.h"
#include "host.h"
#include "op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tn_quant_need {
    TN_QUANT_ABSMAX_CHANNEL = 1, /**< max |x| per input channel */
    TN_QUANT_ABSMAX_TENSOR = 2,  /**< max |x| of the input */
    TN_QUANT_PERCENTILE = 4,     /**< 99.9th percentile of |x| of the input, within 12.5% */
    TN_QUANT_SECOND_MOMENT = 8,  /**< mean of x^2 per input channel */
    TN_QUANT_SAMPLE = 16,        /**< some rows of the input */
    /** Mean of x x^T: what rounding one column can make good of another. It takes the host memory (2 n^2 bytes
     *  of each input of n channels, some at a time) and another run of the model for every 8 GiB of it. */
    TN_QUANT_HESSIAN = 32
};

enum tn_quant_flag {
    /** The scheme works without calibration too, if less well: its statistics are then NULL. */
    TN_QUANT_NEEDS_OPTIONAL = 1,
    /** Output projections are asked about, too, where no op but an embedding shares their matrix (tn_quant_plan::embedding). */
    TN_QUANT_HEADS = 2
};

#define TN_QUANT_MAX_TENSORS 6
#define TN_QUANT_MAX_ATTRS 6

/** A tensor that the scheme stores in place of the matrix. */
typedef struct tn_quant_tensor {
    tn_hdr h;
    const char *suffix; /**< appended to the matrix's name: ".qweight", ".scale"; static */
    uint32_t dtype;
    uint32_t n_dims;
    uint64_t dims[TN_MAX_DIMS];
    /** Nonzero: its dims[0] are the matrix's rows and shard with them (and with its columns, if dims[1] are groups of
     *  those); 0: every rank holds the whole of it. */
    uint32_t rows;
    uint32_t reserved0;
    /** Columns of the matrix per entry of dims[1] (a group length), for tensors of two dims; 0: one. Ranks that
     *  share the columns get whole groups, or the matrix stays as it is; but for ::TN_OP_LINEAR_INT4, whose groups the host
     *  cuts into equal pieces of 8 or more. */
    uint64_t group;
} tn_quant_tensor;

/** What a linear op [N, K] becomes. Its weights are the tensors, in this order, then the linear's bias. */
typedef struct tn_quant_plan {
    tn_hdr h;
    const char *op; /**< name of the op that consumes the result: "linear.int8"; static */
    uint32_t n_tensors;
    uint32_t n_attrs;
    tn_quant_tensor tensors[TN_QUANT_MAX_TENSORS];
    tn_attr attrs[TN_QUANT_MAX_ATTRS]; /**< of that op; names and texts are static */
    const char *note; /**< what people should know about this linear; static, or NULL */
    /** Of an output projection: ::TN_OP_EMBEDDING_INT8 if an embedding with the same matrix may read the tensors, which then are two,
     *  by rows: int8 [N, K] and float32 [N]. Behind them the host gives it, float32 [K], what columns have to be multiplied by to be
     *  what they were before smoothing, unless that would leave them too coarse. NULL: such an embedding keeps the matrix as it is,
     *  beside the tensors. */
    const char *embedding;
} tn_quant_plan;

/** Statistics of a linear's input over the calibration data, after smoothing; fields not asked for are NULL or 0. */
typedef struct tn_quant_stats {
    tn_hdr h;
    uint64_t n_channels;
    uint64_t n_rows; /**< token rows seen */
    const float *absmax_channel;
    const float *second_moment;
    const float *sample; /**< [n_sample, n_channels], evenly spread over the data */
    uint64_t n_sample;
    float absmax;
    float percentile;
    /** Mean of x_i x_j over the rows taken for it, at most 65,536: the lower triangle row by row, element i, j <= i at
     *  [i * (i + 1) / 2 + j]. Positive semidefinite up to rounding, and singular for inputs with dead channels or fewer rows
     *  than channels. Given to `quantize` alone. NULL, though asked for: statistics came from a file, or
     *  there is no room for so wide an input; schemes work without it. */
    const float *hessian;
    uint64_t n_hessian_rows; /**< rows taken for it */
} tn_quant_stats;

enum tn_quant_before {
    TN_QUANT_BEFORE_NORM = 1, /**< factors go into a norm's weights: they cost nothing */
    TN_QUANT_BEFORE_LINEAR =
        2 /**< they go into the rows of the linear before, which are quantized too */
};

/** Linears that read the same value, and so share one set of factors. */
typedef struct tn_quant_group {
    tn_hdr h;
    uint32_t n_ops;
    uint32_t before; /**< ::tn_quant_before: where the factors go */
    uint64_t n_channels;
    const tn_op *const *ops;
    const float *const *weights; /**< their matrices [N_i, n_channels], row-major float32 */
    const tn_quant_stats *stats; /**< of the value */
    /** NULL, or per channel a number below n_channels: channels with equal numbers must get equal factors (heads
     *  that share their values, say). */
    const uint32_t *tie;
} tn_quant_group;

/** Interface "quant.scheme". */
typedef struct tn_quant_scheme {
    tn_hdr h;
    const char *name;     /**< as in `tenon build --quant NAME` */
    const char *summary;  /**< one line for people */
    uint32_t needs;       /**< mask of ::tn_quant_need: what it may ask for; 0: no calibration */
    uint32_t flags;       /**< ::tn_quant_flag */
    const char *fallback; /**< what a machine without native support does, one line for people */

    /**
     * Begins a build. `options` are what the user gave as `--quant-option KEY=VALUE`; unknown keys are refused.
     * `build` is handed to the functions below and lives until `close`; `needs` is preset to the mask above and may
     * be narrowed. Without `open` there are no options, and the functions get `instance`.
     */
    int32_t (*open)(void *instance, const tn_kv *options, uint32_t n_options, void **build,
                    uint32_t *needs, tn_err *err);
    void (*close)(void *instance, void *build);

    /**
     * Factors for a group of linears: the host divides channel k of the value by divide[k] (in what stands before)
     * and multiplies column k of the matrices with it. `divide` is preset to 1. Optional; not called where nothing
     * stands before that could take the factors. Any thread; different groups at once.
     */
    int32_t (*smooth)(void *build, const tn_quant_group *group, float *divide, tn_err *err);
    /** What the linear `op` becomes, or TN_E_UNSUPPORTED to leave it as it is (reason in `err`). `stats` is NULL
     *  without calibration. Any thread. */
    int32_t (*plan)(void *build, const tn_op *op, const tn_quant_stats *stats, tn_quant_plan *out,
                    tn_err *err);
    /** Quantizes the matrix w[N, K] (row-major float32, smoothed): `out[i]`, zeroed, receives tensor i of the plan. Any
     *  thread; different matrices at once. */
    int32_t (*quantize)(void *build, const tn_op *op, const tn_quant_stats *stats, const float *w,
                        void *const *out, tn_err *err);
} tn_quant_scheme;

#ifdef __cplusplus
}
#endif
#endif
