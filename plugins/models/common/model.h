/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What model plugins share: reading config.json and declaring weights and ops, in a style where the first error stays
 * (model::rc) and everything after it does nothing. Ids and numbers that come after an error mean nothing.
 */
#ifndef PLUGIN_MODELS_MODEL_H
#define PLUGIN_MODELS_MODEL_H

#include <stdbool.h>

#include "tenon/model.h"
#include "tenon/ops.h"

/* One call of tn_model_arch::build. */
struct model {
    const tn_config_api *capi;
    const tn_config *config;
    const tn_plan_api *papi;
    tn_plan_builder *builder;
    tn_err *err;
    int32_t rc;
    int32_t layer;      /* that weights and ops belong to; -1: none */
    const char *layers; /* what the checkpoint puts before a layer's number: "model.layers" */
};

/* -- config.json. `absent` is what counts when a field is not there or null. -- */

#define MODEL_REQUIRED INT64_MIN
int64_t model_int(struct model *m, const char *path, int64_t min, int64_t max, int64_t absent);
/* `absent` may be NAN: required. */
double model_real(struct model *m, const char *path, double min, double max, double absent);
bool model_flag(struct model *m, const char *path, bool absent);
const char *model_text(struct model *m, const char *path, const char *absent);
void model_refuse(struct model *m, const char *path, const char *why);

/* The op that computes what the field calls an activation. */
const char *model_activation(struct model *m, const char *path, const char *absent);

/* -- Weights. In a layer, names stand behind "layers.N." and, in the checkpoint, model::layers and its number. -- */

struct model_weight {
    const char *name;   /* canonical: "attn.q.weight" */
    const char *tensor; /* in the checkpoint */
    const char *other;  /* how other checkpoints call it; may be NULL */
    uint32_t role;
    uint64_t rows, cols; /* cols 0: a vector */
    uint32_t shard, units;
    uint64_t first;  /* row of the tensor where it begins, if it is a part of one */
    bool part;       /* rows first to first + rows are taken */
    bool transposed; /* the checkpoint holds [in, out] */
};

uint32_t model_weight(struct model *m, const struct model_weight *w);
void model_ignore(struct model *m, const char *suffix);

/* -- Ops -- */

#define MODEL_MAX_ATTRS 10

struct model_op {
    const char *name;
    uint32_t in[3], n_in;
    uint32_t weights[3], n_weights;
    tn_attr attrs[MODEL_MAX_ATTRS];
    uint32_t n_attrs;
};

/* A row per token, of `width` elements in `units` that ranks share out; 0: every rank has all of it. */
tn_value_decl model_rows(int64_t width, int64_t units);

/* An op with one output; returns its id. */
uint32_t model_op(struct model *m, const struct model_op *op, tn_value_decl out);
uint32_t model_unary(struct model *m, const char *name, uint32_t x, tn_value_decl out);
uint32_t model_binary(struct model *m, const char *name, uint32_t x, uint32_t y, tn_value_decl out);

/* A matrix and perhaps its bias. Column parallel (TN_SHARD_AXIS0): ranks hold rows of it, and parts of the result. Row parallel
 * (TN_SHARD_AXIS1): columns, and a summand each, which are summed behind it; the bias is on the first rank only. */
struct model_linear {
    const char *name, *tensor, *other; /* without ".weight" and ".bias" */
    int64_t out, in;
    uint32_t shard;
    int64_t units; /* that ranks must not cut: heads */
    bool bias, transposed;
    bool part; /* rows from `first` on of a tensor that holds several */
    int64_t first;
};

uint32_t model_linear(struct model *m, const struct model_linear *l, uint32_t x);

/* -- The ends of a model -- */

/* Adds the summands of all ranks: what follows an embedding of which each has a part. */
uint32_t model_all_reduce(struct model *m, uint32_t x, int64_t width);

/* Logits of a head (vocabulary in parts), all of them together, and a token chosen. */
void model_head(struct model *m, uint32_t weight, uint32_t x, int64_t vocab, double softcap);

void model_set(struct model *m, const char *name, int64_t value);

#endif
