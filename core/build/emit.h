/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a model plugin: it reads config.json through one table and emits its plan through the
 * other (tenon/model.h). The result is a plan, and for each weight the checkpoint tensors it comes from. */
#ifndef CORE_BUILD_EMIT_H
#define CORE_BUILD_EMIT_H

#include <jansson.h>

#include "build/checkpoint.h"
#include "build/stored.h"
#include "engine/plan.h"
#include "tenon/model.h"

struct weight_source {
    const char *tensor;
    bool transpose;
    uint64_t row_begin, row_end; /* after the transpose; resolved: row_end > row_begin */
    const struct stored *stored; /* who knows this quantized matrix; NULL: a plain tensor */
    uint64_t unit;               /* of `stored`: its rows per row of the weight; 0: one */
};

/* What heads of values are turned by, and the output projection back: see values.c. */
struct head_turn {
    uint64_t dim,
        share; /* a matrix [dim, dim] for each kv head, and for `share` heads behind the attention */
    const float *turn, *back; /* [n_kv_heads, dim, dim] */
};

/* What quantization makes of a weight on the way, in this order: each may be NULL. */
struct weight_scale {
    const struct head_turn *turn_rows, *turn_columns;
    const float *divide; /* per entry of dims[0]: (w + offset) / divide - offset */
    float offset;
    const float *multiply; /* per column */
    uint64_t
        multiply_rows; /* so many rows share those of one expert, [rows / multiply_rows, columns]; 0: all do */
    const uint32_t *rows; /* entry i of dims[0] is entry rows[i] of what it was */
};

struct quantized;

/* Where the elements of one plan weight come from. Same index as plan->weights. */
struct weight_origin {
    uint32_t n_sources;
    const struct weight_source *sources;
    const void *table;                /* the elements themselves: of TN_ROLE_TABLE, or found out */
    const struct weight_scale *scale; /* NULL: as in the checkpoint */
    struct quantized *made; /* tensor `part` of a quantized matrix (quant.h); NULL: not one */
    uint32_t part;
};

struct emission {
    struct plan *plan;
    struct weight_origin *origins;
    size_t cap_origins;
    const char **ignored; /* suffixes of tensors that are known and not wanted */
    size_t n_ignored, cap_ignored;
    struct arena arena; /* owns sources, tables and suffixes */
};

struct emit_input {
    const tn_model_arch *arch;
    void *instance;
    const char *plugin; /* for messages */
    const json_t *config;
    const char *config_path;
    const struct checkpoint *checkpoint; /* NULL: dummy weights */
    const struct stored *stored;         /* NULL: nothing of it is quantized */
    uint32_t dtype;                      /* of matrices, embeddings and heads in the engine */
};

/* Runs the plugin and checks what it emitted. Release `out` on success. */
int32_t emit_plan(const struct emit_input *in, struct emission *out, tn_err *err);
void emission_release(struct emission *e);

/* Whether every tensor of the checkpoint is used by a weight or ignored by the plugin. `s` may be NULL. */
int32_t emission_check_unused(const struct emission *e, const struct checkpoint *c,
                              const struct stored *s, tn_err *err);

#endif
