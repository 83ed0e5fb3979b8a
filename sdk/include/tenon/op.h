/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file op.h
 * How one operation is described: its values, weights and attributes.
 *
 * The same description is emitted by a model plugin (model.h), stored in the engine's plan, matched
 * by fusions, and handed to a kernel plugin (kernels.h). What each named operation means is in ops.h.
 */
#ifndef TENON_OP_H
#define TENON_OP_H

#include <string.h>

#include "dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Most inputs, outputs or weights of one basic op, and most ops that a fusion replaces. */
#define TN_OP_MAX_VALUES 12
#define TN_OP_MAX_MEMBERS 24
#define TN_MAX_DIMS 4

/* -- Attributes ------------------------------------------------------------------------------ */

enum tn_attr_kind { TN_ATTR_I64 = 1, TN_ATTR_F64 = 2, TN_ATTR_STR = 3 };

/**
 * The number counts units that tensor parallelism divides: attention heads, say. When a plan is
 * bound to one of `tp` ranks such an attribute is divided by tp; a count below tp becomes 1
 * (the rank holds a replica).
 */
#define TN_ATTR_SHARDED 1u

/** A named constant of an op. */
typedef struct tn_attr {
    tn_hdr h;
    const char *name;
    uint32_t kind;  /**< ::tn_attr_kind */
    uint32_t flags; /**< ::TN_ATTR_SHARDED or 0 */
    int64_t i;
    double f;
    const char *s;
} tn_attr;

#define TN_ATTR_INT(name, value)                                                                   \
    {                                                                                              \
        TN_HDR(tn_attr), (name), TN_ATTR_I64, 0, (value), 0.0, NULL                                \
    }
#define TN_ATTR_HEADS(name, value)                                                                 \
    {                                                                                              \
        TN_HDR(tn_attr), (name), TN_ATTR_I64, TN_ATTR_SHARDED, (value), 0.0, NULL                  \
    }
#define TN_ATTR_REAL(name, value)                                                                  \
    {                                                                                              \
        TN_HDR(tn_attr), (name), TN_ATTR_F64, 0, 0, (value), NULL                                  \
    }
#define TN_ATTR_TEXT(name, value)                                                                  \
    {                                                                                              \
        TN_HDR(tn_attr), (name), TN_ATTR_STR, 0, 0, 0.0, (value)                                   \
    }

/* -- Values ---------------------------------------------------------------------------------- */

enum tn_value_kind {
    TN_VALUE_ROWS = 1,   /**< [T, width]: one row per token of the step's ragged batch */
    TN_VALUE_LOGITS = 2, /**< [L, width]: one row per row that the step wants logits of */
    TN_VALUE_KV = 3      /**< the cache of one layer, after an append; orders reads after writes */
};

/**
 * What flows between ops. Rows are contiguous: row r of a value starts r * width elements after
 * its first. A value is written by one op and read by any number of later ones.
 */
typedef struct tn_value {
    tn_hdr h;
    uint32_t kind;  /**< ::tn_value_kind */
    uint32_t dtype; /**< ::tn_dtype, or ::TN_DT_ACT in a plan; 0 for KV */
    uint64_t width; /**< elements per row; 0 for KV */
    /** Tensor parallelism divides the width into this many indivisible units (heads, say);
     *  0: every rank holds the whole row. */
    uint32_t shard_units;
    uint32_t id; /**< number of the value in its plan */
} tn_value;

/* -- Weights --------------------------------------------------------------------------------- */

enum tn_shard {
    TN_SHARD_NONE = 0,  /**< every rank holds it whole */
    TN_SHARD_AXIS0 = 1, /**< split along dims[0] (column parallel; vocabulary) */
    TN_SHARD_AXIS1 = 2, /**< split along dims[1] (row parallel) */
    TN_SHARD_FIRST = 3, /**< whole on rank 0, zero elsewhere (bias behind an all-reduce) */
    TN_SHARD_AXIS2 = 4  /**< split along dims[2] (stacked expert matrices) */
};

/**
 * A weight as a kernel plugin sees it while packing or launching: canonical row-major elements,
 * already cut to this rank. `data` is NULL while only shapes matter (tn_variant::can_run).
 */
typedef struct tn_weight {
    tn_hdr h;
    const char *name; /**< canonical name in the engine, for messages */
    uint32_t dtype;
    uint32_t n_dims;
    uint64_t dims[TN_MAX_DIMS];
    /** Bytes between consecutive entries of dims[0]; dims[1..] are contiguous. Differs from the
     *  product of the inner dims when the weight is a slice along axis 1. */
    uint64_t stride0;
    const void *data;
} tn_weight;

/* -- Ops ------------------------------------------------------------------------------------- */

/** One operation with its shapes. A fused op lists the basic ops that it stands for. */
typedef struct tn_op {
    tn_hdr h;
    const char *name; /**< "linear", "acme.rotary2", or the fused op's own name */
    int32_t layer;    /**< index of the layer it belongs to, -1 outside the layers */
    uint32_t n_in, n_out, n_weights, n_attrs, n_members;
    const tn_value *const *in;
    const tn_value *const *out;
    const tn_weight *const *weights;    /**< of a fused op: those of its members, in their order */
    const tn_attr *attrs;               /**< of a fused op: none; see the members' */
    const struct tn_op *const *members; /**< of a fused op: in the order of its pattern */
} tn_op;

/** The attribute `name` of `op`, or NULL. */
static inline const tn_attr *tn_op_attr(const tn_op *op, const char *name)
{
    for (uint32_t i = 0; i < op->n_attrs; i++)
        if (strcmp(op->attrs[i].name, name) == 0)
            return &op->attrs[i];
    return NULL;
}

/** The integer attribute `name`, or `absent` if the op has none of that name and kind. */
static inline int64_t tn_op_int(const tn_op *op, const char *name, int64_t absent)
{
    const tn_attr *a = tn_op_attr(op, name);
    return a && a->kind == TN_ATTR_I64 ? a->i : absent;
}

/** The real attribute `name` (an integer is converted), or `absent`. */
static inline double tn_op_real(const tn_op *op, const char *name, double absent)
{
    const tn_attr *a = tn_op_attr(op, name);
    if (!a || (a->kind != TN_ATTR_F64 && a->kind != TN_ATTR_I64))
        return absent;
    return a->kind == TN_ATTR_F64 ? a->f : (double)a->i;
}

/** The text attribute `name`, or `absent`. */
static inline const char *tn_op_text(const tn_op *op, const char *name, const char *absent)
{
    const tn_attr *a = tn_op_attr(op, name);
    return a && a->kind == TN_ATTR_STR ? a->s : absent;
}

#ifdef __cplusplus
}
#endif
#endif
