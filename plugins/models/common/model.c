/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and declaring for model plugins. Nothing is kept between builds; any thread. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* -- config.json ----------------------------------------------------------------------------------------- */

/* Keeps an error; that something is absent is none. */
static bool found(struct model *m, int32_t rc)
{
    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        m->rc = rc;
    return rc == TN_OK;
}

void model_refuse(struct model *m, const char *path, const char *why)
{
    if (m->rc == TN_OK)
        m->rc = m->capi->refuse(m->config, path, why, m->err);
}

int64_t model_int(struct model *m, const char *path, int64_t min, int64_t max, int64_t absent)
{
    int64_t v = absent;

    if (m->rc != TN_OK)
        return 1;
    if (!found(m, m->capi->get_int(m->config, path, min, max, &v, m->err)) &&
        absent == MODEL_REQUIRED)
        model_refuse(m, path, "this field is required");
    return m->rc == TN_OK ? v : 1;
}

double model_real(struct model *m, const char *path, double min, double max, double absent)
{
    if (m->rc == TN_OK &&
        !found(m, m->capi->get_real(m->config, path, min, max, &absent, m->err)) && isnan(absent))
        model_refuse(m, path, "this field is required");
    return absent;
}

bool model_flag(struct model *m, const char *path, bool absent)
{
    uint32_t v = absent;

    if (m->rc == TN_OK)
        found(m, m->capi->get_bool(m->config, path, &v, m->err));
    return v != 0;
}

const char *model_text(struct model *m, const char *path, const char *absent)
{
    if (m->rc == TN_OK)
        found(m, m->capi->get_str(m->config, path, &absent, m->err));
    return absent;
}

const char *model_activation(struct model *m, const char *path, const char *absent)
{
    static const struct {
        const char *hf, *op;
    } known[] = {{"silu", TN_OP_SILU},
                 {"swish", TN_OP_SILU},
                 {"gelu", TN_OP_GELU},
                 {"gelu_new", TN_OP_GELU_TANH},
                 {"gelu_pytorch_tanh", TN_OP_GELU_TANH},
                 {"relu", TN_OP_RELU},
                 {"relu2", TN_OP_RELU2}};
    const char *name = model_text(m, path, absent);

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].hf, name) == 0)
            return known[i].op;
    model_refuse(m, path, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu and relu2 are supported");
    return TN_OP_SILU;
}

/* -- Weights --------------------------------------------------------------------------------------------- */

uint32_t model_weight(struct model *m, const struct model_weight *w)
{
    char name[128], tensor[2][128];
    const char *stored[2] = {w->tensor, w->other};
    tn_weight_source sources[2];
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl),
                        .name = name,
                        .role = w->role,
                        .n_dims = w->cols ? 2 : 1,
                        .dims = {w->rows, w->cols},
                        .shard = w->shard,
                        .shard_units = w->units,
                        .n_sources = w->other ? 2 : 1,
                        .sources = sources};
    uint32_t id = 0;

    if (m->rc != TN_OK)
        return 0;
    for (uint32_t i = 0; i < d.n_sources; i++) {
        if (m->layer >= 0)
            snprintf(tensor[i], sizeof tensor[i], "%s.%d.%s", m->layers, (int)m->layer, stored[i]);
        else
            snprintf(tensor[i], sizeof tensor[i], "%s", stored[i]);
        sources[i] = (tn_weight_source){.h = TN_HDR(tn_weight_source),
                                        .tensor = tensor[i],
                                        .transpose = w->transposed,
                                        .optional = i + 1 < d.n_sources,
                                        .row_begin = w->part ? w->first : 0,
                                        .row_end = w->part ? w->first + w->rows : 0};
    }
    snprintf(name, sizeof name, "%s", w->name);
    if (m->layer >= 0)
        snprintf(name, sizeof name, "layers.%d.%s", (int)m->layer, w->name);
    m->rc = m->papi->weight(m->builder, &d, &id, m->err);
    return id;
}

void model_ignore(struct model *m, const char *suffix)
{
    if (m->rc == TN_OK)
        m->rc = m->papi->ignore(m->builder, suffix, m->err);
}

/* -- Ops ------------------------------------------------------------------------------------------------- */

tn_value_decl model_rows(int64_t width, int64_t units)
{
    return (tn_value_decl){TN_HDR(tn_value_decl), TN_VALUE_ROWS,   TN_DT_ACT,
                           (uint64_t)width,       (uint32_t)units, 0};
}

uint32_t model_op(struct model *m, const struct model_op *op, tn_value_decl out)
{
    tn_op_decl d = {.h = TN_HDR(tn_op_decl),
                    .name = op->name,
                    .layer = m->layer,
                    .n_in = op->n_in,
                    .n_weights = op->n_weights,
                    .n_attrs = op->n_attrs,
                    .n_out = 1,
                    .in = op->in,
                    .weights = op->weights,
                    .attrs = op->attrs,
                    .out = &out};
    uint32_t id = 0;

    if (m->rc == TN_OK)
        m->rc = m->papi->op(m->builder, &d, &id, m->err);
    return id;
}

uint32_t model_unary(struct model *m, const char *name, uint32_t x, tn_value_decl out)
{
    return model_op(m, &(struct model_op){.name = name, .in = {x}, .n_in = 1}, out);
}

uint32_t model_binary(struct model *m, const char *name, uint32_t x, uint32_t y, tn_value_decl out)
{
    return model_op(m, &(struct model_op){.name = name, .in = {x, y}, .n_in = 2}, out);
}

uint32_t model_all_reduce(struct model *m, uint32_t x, int64_t width)
{
    return model_unary(m, TN_OP_ALL_REDUCE, x, model_rows(width, 0));
}

/* "name" and "tail", and the same of what the checkpoint calls it. */
static struct model_weight part_of(const struct model_linear *l, const char *tail,
                                   char names[3][100])
{
    const char *all[3] = {l->name, l->tensor, l->other};

    for (int i = 0; i < 3; i++)
        snprintf(names[i], 100, "%s.%s", all[i] ? all[i] : "", tail);
    return (struct model_weight){.name = names[0],
                                 .tensor = names[1],
                                 .other = l->other ? names[2] : NULL,
                                 .rows = (uint64_t)l->out,
                                 .units = (uint32_t)l->units,
                                 .first = (uint64_t)l->first,
                                 .part = l->part};
}

uint32_t model_linear(struct model *m, const struct model_linear *l, uint32_t x)
{
    bool column = l->shard == TN_SHARD_AXIS0, row = l->shard == TN_SHARD_AXIS1;
    struct model_op op = {.name = TN_OP_LINEAR, .in = {x}, .n_in = 1, .n_weights = 1};
    char names[3][100];
    struct model_weight w = part_of(l, "weight", names);
    uint32_t y;

    w.role = TN_ROLE_MATRIX;
    w.cols = (uint64_t)l->in;
    w.shard = l->shard;
    w.transposed = l->transposed;
    op.weights[0] = model_weight(m, &w);
    if (l->bias) {
        w = part_of(l, "bias", names);
        w.role = TN_ROLE_BIAS;
        w.shard = row ? TN_SHARD_FIRST : l->shard;
        op.weights[op.n_weights++] = model_weight(m, &w);
    }
    y = model_op(m, &op, model_rows(l->out, column ? l->units : 0));
    return row ? model_all_reduce(m, y, l->out) : y;
}

/* -- The ends -------------------------------------------------------------------------------------------- */

void model_head(struct model *m, uint32_t weight, uint32_t x, int64_t vocab, double softcap)
{
    tn_value_decl logits = {
        TN_HDR(tn_value_decl), TN_VALUE_LOGITS, TN_DT_F32, (uint64_t)vocab, 0, 0};
    tn_value_decl part = logits; /* of one rank, as its rows of the matrix are */
    tn_value_decl token = {TN_HDR(tn_value_decl), TN_VALUE_LOGITS, TN_DT_I32, 1, 0, 0};
    struct model_op op = {
        .name = TN_OP_LOGITS, .in = {x}, .n_in = 1, .weights = {weight}, .n_weights = 1};
    uint32_t y;

    part.shard_units = (uint32_t)vocab;
    if (softcap > 0)
        op.attrs[op.n_attrs++] = (tn_attr)TN_ATTR_REAL("softcap", softcap);
    y = model_op(m, &op, part);
    y = model_unary(m, TN_OP_ALL_GATHER, y, logits);
    model_unary(m, TN_OP_SAMPLE, y, token);
}

void model_set(struct model *m, const char *name, int64_t value)
{
    if (m->rc == TN_OK)
        m->rc = m->papi->set_int(m->builder, name, value, m->err);
}
