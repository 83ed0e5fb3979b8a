/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: what a model computes, in basic ops, for any machine.
 *
 * A plan is a list of ops in an order in which they can run. Values are numbered and written once. It is
 * unfused, not cut for any number of ranks, and names no kernel; core/exec turns it into bound steps.
 * Model plugins emit it, quantization rewrites it, the engine file stores it (plan_json.h).
 *
 * A plan owns all it points to. It is built by one thread and immutable afterwards.
 */
#ifndef CORE_ENGINE_PLAN_H
#define CORE_ENGINE_PLAN_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/map.h"
#include "tenon/model.h"
#include "tenon/op.h"

struct plan_weight {
    const char *name;
    uint32_t role;  /* ::tn_weight_role */
    uint32_t dtype; /* as stored in the engine */
    uint32_t n_dims;
    uint64_t dims[TN_MAX_DIMS];
    uint32_t shard; /* ::tn_shard */
    uint32_t shard_units;
};

struct plan_value {
    uint32_t kind;  /* ::tn_value_kind */
    uint32_t dtype; /* ::tn_dtype or TN_DT_ACT; 0 for KV */
    uint64_t width;
    uint32_t shard_units;
    uint32_t producer; /* index of the op that writes it */
};

struct plan_op {
    const char *name;
    int32_t layer; /* -1: outside the layers */
    uint32_t n_in, n_weights, n_out, n_attrs;
    uint32_t in[TN_OP_MAX_VALUES];
    uint32_t weights[TN_OP_MAX_VALUES];
    uint32_t out[TN_OP_MAX_VALUES];
    const tn_attr *attrs;
};

struct plan_hyper {
    const char *name;
    uint32_t kind; /* ::tn_attr_kind */
    int64_t i;
    double f;
    const char *s;
};

struct plan {
    struct arena arena;
    struct plan_hyper *hyper;
    struct plan_value *values;
    struct plan_weight *weights;
    struct plan_op *ops;
    size_t n_hyper, n_values, n_weights, n_ops;
    size_t cap_hyper, cap_values, cap_weights, cap_ops;
    struct map weight_names; /* name -> index */
};

int32_t plan_new(struct plan **out, tn_err *err);
void plan_free(struct plan *p); /* NULL is allowed */

/* Adding copies what is given. All check names, ranges and limits, and leave the plan as it was on failure. */
int32_t plan_set_int(struct plan *p, const char *name, int64_t value, tn_err *err);
int32_t plan_set_real(struct plan *p, const char *name, double value, tn_err *err);
int32_t plan_set_str(struct plan *p, const char *name, const char *value, tn_err *err);
int32_t plan_set_as(struct plan *p, const struct plan_hyper *h, tn_err *err); /* another plan's */
int32_t plan_add_weight(struct plan *p, const struct plan_weight *w, uint32_t *id, tn_err *err);

/* Inputs and weights must exist. Outputs are described by `out` (n_out of them); their ids are written to
 * ids[]. Basic ops are checked against their definition (opset.h). */
int32_t plan_add_op(struct plan *p, const struct plan_op *op, const struct plan_value *out,
                    uint32_t *ids, tn_err *err);

/* The hyper-parameter `name`, or NULL. */
const struct plan_hyper *plan_hyper(const struct plan *p, const char *name);
/* Its integer value, or `absent`. */
int64_t plan_hyper_int(const struct plan *p, const char *name, int64_t absent);

/* The attribute of an op, or NULL. */
const tn_attr *plan_attr(const struct plan_op *op, const char *name);

/* The axis along which ranks share the weight; -1 if none. */
int plan_shard_axis(const struct plan_weight *w);

/* Bytes of the weight's canonical elements. Checked when the weight was added, so it cannot overflow. */
uint64_t plan_weight_bytes(const struct plan_weight *w);

/*
 * Whole-plan checks, after the last op: the required hyper-parameters, layers in order, at most one cache append per
 * layer, every weight used, exactly one `logits` op, tables that cover the vocabulary and the positions. TN_E_FORMAT with the place.
 */
int32_t plan_check(const struct plan *p, tn_err *err);

/* The cache that a layer needs; one per kv_append. */
struct plan_kv {
    uint32_t layer;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t window; /* longest of the attentions that read it; 0: everything */
};

/* Fills kv (room for `max`) in order of layers; returns how many there are. */
uint32_t plan_kv_layers(const struct plan *p, struct plan_kv *kv, uint32_t max);

#endif
