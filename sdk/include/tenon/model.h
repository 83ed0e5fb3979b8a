/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file model.h
 * Model architecture plugins: from a checkpoint's config.json to a plan.
 *
 * A plugin declares hyper-parameters, weights and ops through the builder, in that order of thought but
 * in any order of calls as long as a thing is declared before it is used. It knows no kernel, no
 * quantization scheme and no device. It runs at `tenon build` only: the plan is stored in the engine.
 */
#ifndef TENON_MODEL_H
#define TENON_MODEL_H

#include "error.h"
#include "op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- Reading config.json ---------------------------------------------------------------------- */

/**
 * The checkpoint's config.json. Paths are dotted member names with optional indexes:
 * "rope_scaling.factor", "layer_types[3]". A value that is null counts as absent. Each getter returns
 * TN_OK, TN_E_NOTFOUND (absent: `out` is untouched and `err` is not filled), or TN_E_TYPE / TN_E_RANGE
 * with `err` naming file, field, value and range. Strings live as long as the call of `build`.
 */
typedef struct tn_config tn_config;

typedef struct tn_config_api {
    tn_hdr h;
    int32_t (*get_int)(const tn_config *c, const char *path, int64_t min, int64_t max, int64_t *out,
                       tn_err *err);
    int32_t (*get_real)(const tn_config *c, const char *path, double min, double max, double *out,
                        tn_err *err);
    /** `out` becomes 0 or 1. */
    int32_t (*get_bool)(const tn_config *c, const char *path, uint32_t *out, tn_err *err);
    int32_t (*get_str)(const tn_config *c, const char *path, const char **out, tn_err *err);
    /** Number of entries of the array or object at `path`. */
    int32_t (*get_count)(const tn_config *c, const char *path, uint64_t *out, tn_err *err);
    /** Fills `err` with TN_E_FORMAT, this file, `path`, the value there, and `why`; returns the code. */
    int32_t (*refuse)(const tn_config *c, const char *path, const char *why, tn_err *err);
    /** Name of member `index` of the object at `path`, in the order of the file. */
    int32_t (*get_key)(const tn_config *c, const char *path, uint64_t index, const char **out,
                       tn_err *err);
} tn_config_api;

/* -- Declaring a plan ------------------------------------------------------------------------- */

/** A part of a checkpoint tensor that becomes (part of) a weight. For a weight of three dimensions (the matrices of all experts)
 *  a tensor of two is one matrix of it, one entry of dims[0]. */
typedef struct tn_weight_source {
    tn_hdr h;
    const char *tensor; /**< name in the checkpoint */
    uint32_t transpose; /**< nonzero: the stored matrix is [in, out] and is transposed on reading */
    uint32_t optional;  /**< nonzero: the next source is tried when this tensor is absent */
    uint64_t row_begin; /**< rows of dims[0] to take (after the transpose) ... */
    uint64_t row_end;   /**< ... up to here; 0: all */
} tn_weight_source;

enum tn_weight_role {
    TN_ROLE_MATRIX = 1, /**< of a linear op; what quantization schemes work on */
    TN_ROLE_EMBEDDING = 2,
    TN_ROLE_NORM = 3,
    TN_ROLE_BIAS = 4,
    TN_ROLE_TABLE = 5, /**< constant computed by the plugin, kept in its own dtype */
    TN_ROLE_HEAD = 6,  /**< output projection to the vocabulary */
    TN_ROLE_SCALE = 7  /**< of a quantized matrix: made by its scheme, not declared by models */
};

/** A weight in canonical form: row-major, [out, in] for matrices, dtype of the engine. */
typedef struct tn_weight_decl {
    tn_hdr h;
    const char *name; /**< canonical name, unique in the plan: "layers.0.attn.q.weight" */
    uint32_t role;    /**< ::tn_weight_role */
    uint32_t n_dims;
    uint64_t dims[TN_MAX_DIMS];
    uint32_t shard; /**< ::tn_shard */
    uint32_t
        shard_units; /**< indivisible units along the sharded axis (heads); 0: single entries */
    /** Where it comes from: sources concatenated along dims[0]; or, for ROLE_TABLE, `table`. A source
     *  marked optional that is absent is skipped in favour of the one after it. */
    uint32_t n_sources;
    uint32_t reserved0;
    const tn_weight_source *sources;
    const float *table; /**< ROLE_TABLE: product(dims) float32 values, copied by the host */
} tn_weight_decl;

/** An output of an op that is being declared. */
typedef struct tn_value_decl {
    tn_hdr h;
    uint32_t kind;  /**< ::tn_value_kind */
    uint32_t dtype; /**< usually ::TN_DT_ACT */
    uint64_t width;
    uint32_t shard_units; /**< see tn_value */
    uint32_t reserved0;
} tn_value_decl;

/** An op that is being declared. Inputs and weights are ids that the builder returned. */
typedef struct tn_op_decl {
    tn_hdr h;
    const char *name;
    int32_t layer;
    uint32_t n_in, n_weights, n_attrs, n_out;
    uint32_t reserved0;
    const uint32_t *in;
    const uint32_t *weights;
    const tn_attr *attrs;
    const tn_value_decl *out; /**< checked against the op's definition if it is a basic op */
} tn_op_decl;

typedef struct tn_plan_builder tn_plan_builder;

typedef struct tn_plan_api {
    tn_hdr h;
    /** Hyper-parameters, see the TN_HP names. */
    int32_t (*set_int)(tn_plan_builder *b, const char *name, int64_t value, tn_err *err);
    int32_t (*set_real)(tn_plan_builder *b, const char *name, double value, tn_err *err);
    int32_t (*set_str)(tn_plan_builder *b, const char *name, const char *value, tn_err *err);
    int32_t (*weight)(tn_plan_builder *b, const tn_weight_decl *decl, uint32_t *id, tn_err *err);
    /** `out` receives the ids of the op's outputs (n_out of them; may be NULL if there are none). */
    int32_t (*op)(tn_plan_builder *b, const tn_op_decl *decl, uint32_t *out, tn_err *err);
    /** Tensors of the checkpoint whose name ends like this are known and not wanted ("rotary_emb.inv_freq").
     *  Others that no weight names make the build fail. */
    int32_t (*ignore)(tn_plan_builder *b, const char *suffix, tn_err *err);
    /** Nonzero if the checkpoint has this tensor. In a dummy build (no checkpoint) always 0. */
    uint32_t (*has_tensor)(const tn_plan_builder *b, const char *tensor);
} tn_plan_api;

/* Hyper-parameters that every plan must set ... */
#define TN_HP_VOCAB "vocab_size"
#define TN_HP_HIDDEN "hidden_size"
#define TN_HP_LAYERS "n_layers"
#define TN_HP_MAX_POSITIONS "max_positions" /**< longest sequence the model is meant for */
/* ... and may set. */
#define TN_HP_HEADS "n_heads"
#define TN_HP_KV_HEADS "n_kv_heads"
#define TN_HP_HEAD_DIM "head_dim"
#define TN_HP_FFN "intermediate_size"

/** Interface "model.arch". */
typedef struct tn_model_arch {
    tn_hdr h;
    /** Values of `model_type` in config.json that it handles; ends with NULL. */
    const char *const *model_types;
    /**
     * Reads `config` and emits the plan. Both tables and the builder are valid during the call only.
     * Called from the thread that builds; several builds may run at once in several threads.
     */
    int32_t (*build)(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err);
} tn_model_arch;

#ifdef __cplusplus
}
#endif
#endif
