/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file quant_format.h
 * Checkpoints whose matrices somebody has quantized already: what they hold, and which op consumes it.
 *
 * A plugin claims values of `quant_method` in the `quantization_config` of a config.json. The host asks it about every
 * matrix that the model wants. What it knows is, for a linear, handed on as it is, for the op that it names; anywhere else
 * (or if no op fits) the host has it widened. Model plugins notice nothing: to them a quantized matrix "X" is the
 * tensor "X.weight".
 */
#ifndef TENON_QUANT_FORMAT_H
#define TENON_QUANT_FORMAT_H

#include "model.h"
#include "quant.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- What the host offers ---------------------------------------------------------------------- */

/** The tensors of a checkpoint, over all of its files. */
typedef struct tn_checkpoint tn_checkpoint;

/** A tensor of the checkpoint. */
typedef struct tn_stored_tensor {
    tn_hdr h;
    uint32_t dtype;  /**< ::tn_dtype; 0: one that Tenon has no name for */
    uint32_t n_dims; /**< 0 to 8 */
    uint64_t dims[8];
} tn_stored_tensor;

/** All functions may be called from any thread between `open` and `close` of the format. */
typedef struct tn_checkpoint_api {
    tn_hdr h;
    /** Fills `out`; TN_E_NOTFOUND if there is no tensor of that name. */
    int32_t (*find)(const tn_checkpoint *c, const char *tensor, tn_stored_tensor *out);
    /** Reads `n` bytes of the tensor's data, beginning at byte `offset` of it. */
    int32_t (*read)(const tn_checkpoint *c, const char *tensor, uint64_t offset, void *out,
                    uint64_t n, tn_err *err);
    /** Reads `n` elements from the `first` on as float32. TN_E_UNSUPPORTED unless they are floating-point numbers of at
     *  least 16 bits. */
    int32_t (*read_real)(const tn_checkpoint *c, const char *tensor, uint64_t first, float *out,
                         uint64_t n, tn_err *err);
    /** Names tensor and file in an error that was filled, and returns its code. */
    int32_t (*blame)(const tn_checkpoint *c, const char *tensor, tn_err *err);
    /** `out` becomes 1 if the regular expression (Perl's kind) matches a beginning of `text`, else 0. TN_E_FORMAT for
     *  one that is no expression, TN_E_LIMIT for one that takes too much work. */
    int32_t (*matches)(const tn_checkpoint *c, const char *pattern, const char *text, uint32_t *out,
                       tn_err *err);
} tn_checkpoint_api;

/** What a format reads from. Valid from `open` to `close`. */
typedef struct tn_quant_source {
    tn_hdr h;
    const tn_config_api *capi;
    const tn_config *config;
    const char *path;   /**< of the object in config.json: "quantization_config" */
    const char *method; /**< its `quant_method` */
    const tn_checkpoint_api *tapi;
    const tn_checkpoint *checkpoint;
} tn_quant_source;

/* -- What a format tells ----------------------------------------------------------------------- */

/** Rows of a matrix of the checkpoint. */
typedef struct tn_quant_part {
    tn_hdr h;
    const char *module; /**< "model.layers.0.mlp.up_proj" */
    uint64_t row_begin, row_end;
} tn_quant_part;

enum tn_quant_owns {
    TN_QUANT_OWNS_NOT = 0,
    TN_QUANT_OWNS_PART =
        1, /**< belongs to the matrix whose name is that of the tensor up to its last dot */
    TN_QUANT_OWNS_EXTRA = 2 /**< known, and of no matrix: scales of the cache, say */
};

/** Interface "quant.format". Functions but `open` and `close` may be called from any thread, and at once. */
typedef struct tn_quant_format {
    tn_hdr h;
    const char *name;     /**< for people, e.g. in lists of plugins */
    const char *summary;  /**< one line for people */
    const char *fallback; /**< as in tn_quant_scheme */
    /** Values of quant_method that it reads; ends with NULL. */
    const char *const *methods;

    /** Reads and checks the configuration. `build` is handed to the functions below. */
    int32_t (*open)(void *instance, const tn_quant_source *source, void **build, tn_err *err);
    void (*close)(void *instance, void *build);
    /** Rows and columns of the matrix `module`; TN_E_NOTFOUND, err unfilled, if it is stored plainly or not at all. Any other
     *  failure means that it is damaged, or in contradiction to the configuration. */
    int32_t (*describe)(void *build, const char *module, uint64_t dims[2], tn_err *err);
    /** Whose the tensor is: ::tn_quant_owns. Tensors that nobody uses make a build fail. */
    uint32_t (*owns)(void *build, const char *tensor);
    /**
     * What a linear becomes whose matrix are these parts, one above the other: op, tensors and attributes as from
     * tn_quant_scheme::plan, with suffixes such as ".qweight". TN_E_UNSUPPORTED (reason in `err`): no op fits, so that it
     * will be widened.
     */
    int32_t (*plan)(void *build, const tn_quant_part *parts, uint32_t n_parts, tn_quant_plan *out,
                    tn_err *err);
    /** Fills the tensors of that plan: `out[i]`, zeroed, receives tensor i. `error` becomes the relative error of the
     *  matrix against what the checkpoint says, sqrt(sum d^2 / sum w^2): 0 if it is exact. */
    int32_t (*fill)(void *build, const tn_quant_part *parts, uint32_t n_parts, void *const *out,
                    double *error, tn_err *err);
    /** The numbers themselves: w[rows of the part, columns], row-major float32. */
    int32_t (*widen)(void *build, const tn_quant_part *part, float *w, tn_err *err);
    /**
     * What keys (scale[0]) and values (scale[1]) of an 8-bit cache are divided by, and its ::tn_dtype, for the attention
     * "model.layers.0.self_attn". TN_E_NOTFOUND, err unfilled, if the checkpoint has none. Optional.
     */
    int32_t (*cache)(void *build, const char *attention, uint32_t *dtype, float scale[2],
                     tn_err *err);
    /**
     * In which order the tensors that `fill` makes of these parts have the columns of the matrix: column k of theirs is
     * column `order[k]` of it (room for all; each exactly once), and the host brings inputs into that order. TN_E_NOTFOUND, err
     * unfilled, if it is the matrix's own. Called after `plan`, with which it agrees. Optional: without it no columns move.
     */
    int32_t (*order)(void *build, const tn_quant_part *parts, uint32_t n_parts, uint32_t *order,
                     tn_err *err);
} tn_quant_format;

#ifdef __cplusplus
}
#endif
#endif
