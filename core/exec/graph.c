/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/graph.h"

#include <inttypes.h>

#include "base/mem.h"
#include "tenon/ops.h"

/* -- Cutting sizes to a rank ----------------------------------------------------------------------- */

/* This rank's share of `size` entries that come in `units` indivisible units. A rank beyond the units (more ranks than
 * kv heads) holds a replica of one unit. */
static int32_t share(const struct topology *t, const char *what, uint64_t size, uint64_t units,
                     uint64_t *out, tn_err *err)
{
    if (t->tp_size == 1 || units == 0) {
        *out = size;
        return TN_OK;
    }
    if (units >= t->tp_size && units % t->tp_size == 0) {
        *out = size / t->tp_size;
        return TN_OK;
    }
    if (units < t->tp_size && t->tp_size % units == 0) {
        *out = size / units;
        return TN_OK;
    }
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, what,
           "%" PRIu64 " units cannot be divided among %" PRIu32 " ranks", units, t->tp_size);
    err_remedy(err, "choose a --tp-size that divides the model's heads");
    return TN_E_CONFIG;
}

static int32_t cut_value(struct graph *g, uint32_t id, tn_err *err)
{
    const struct plan_value *v = &g->plan->values[id];
    tn_value *out = &g->values[id];

    *out = (tn_value){.h = TN_HDR(tn_value),
                      .kind = v->kind,
                      .dtype = v->dtype == TN_DT_ACT ? g->act_dtype : v->dtype,
                      .shard_units = v->shard_units,
                      .id = id};
    return share(&g->topo, g->plan->ops[v->producer].name, v->width, v->shard_units, &out->width,
                 err);
}

static int32_t cut_weight(struct graph *g, uint32_t id, tn_err *err)
{
    const struct plan_weight *w = &g->plan->weights[id];
    tn_weight *out = &g->weights[id];
    uint64_t inner = 1;
    int32_t rc = TN_OK;

    *out = (tn_weight){
        .h = TN_HDR(tn_weight), .name = w->name, .dtype = w->dtype, .n_dims = w->n_dims};
    memcpy(out->dims, w->dims, sizeof out->dims);
    for (uint32_t i = 1; i < w->n_dims; i++)
        inner *= w->dims[i];
    out->stride0 = inner * tn_dtype_bits(w->dtype) / 8;
    if (w->shard == TN_SHARD_AXIS0 || w->shard == TN_SHARD_AXIS1 || w->shard == TN_SHARD_AXIS2) {
        uint32_t axis = w->shard == TN_SHARD_AXIS0 ? 0 : w->shard == TN_SHARD_AXIS1 ? 1 : 2;
        uint64_t units = w->shard_units ? w->shard_units : w->dims[axis];
        rc = share(&g->topo, w->name, w->dims[axis], units, &out->dims[axis], err);
    }
    return rc;
}

static int32_t cut_attrs(struct graph *g, const struct plan_op *op, const tn_attr **out,
                         tn_err *err)
{
    tn_attr *a = arena_copy(&g->arena, op->attrs, op->n_attrs * sizeof *a);

    if (!a)
        return err_nomem(err, "binding a plan");
    for (uint32_t i = 0; i < op->n_attrs; i++) {
        uint64_t n = (uint64_t)a[i].i;
        int32_t rc = TN_OK;
        if (a[i].flags & TN_ATTR_SHARDED)
            rc = share(&g->topo, op->name, n, n, &n, err);
        if (rc != TN_OK)
            return rc;
        a[i].i = (int64_t)n;
    }
    *out = a;
    return TN_OK;
}

/* -- Building -------------------------------------------------------------------------------------- */

/* With one rank a collective hands on its input: later ops read that instead. */
static bool is_idle_collective(const struct graph *g, const struct plan_op *op)
{
    return g->topo.tp_size == 1 &&
           (strcmp(op->name, TN_OP_ALL_REDUCE) == 0 || strcmp(op->name, TN_OP_ALL_GATHER) == 0);
}

static const tn_value *const *value_list(struct graph *g, const uint32_t *ids, uint32_t n)
{
    const tn_value **list = arena_array(&g->arena, n, sizeof *list);

    for (uint32_t i = 0; list && i < n; i++)
        list[i] = &g->values[g->alias[ids[i]]];
    return list;
}

static int32_t add_op(struct graph *g, uint32_t index, tn_err *err)
{
    const struct plan_op *po = &g->plan->ops[index];
    struct graph_op *go = arena_alloc(&g->arena, sizeof *go);
    const tn_weight **weights = arena_array(&g->arena, po->n_weights, sizeof *weights);
    const tn_attr *attrs = NULL;
    int32_t rc;

    if (!go || !weights || !mem_grow(&g->ops, &g->cap_ops, g->n_ops + 1, sizeof *g->ops))
        return err_nomem(err, "binding a plan");
    rc = cut_attrs(g, po, &attrs, err);
    if (rc != TN_OK)
        return rc;
    for (uint32_t i = 0; i < po->n_weights; i++)
        weights[i] = &g->weights[po->weights[i]];
    *go = (struct graph_op){.op = {.h = TN_HDR(tn_op),
                                   .name = po->name,
                                   .layer = po->layer,
                                   .n_in = po->n_in,
                                   .n_out = po->n_out,
                                   .n_weights = po->n_weights,
                                   .n_attrs = po->n_attrs,
                                   .in = value_list(g, po->in, po->n_in),
                                   .out = value_list(g, po->out, po->n_out),
                                   .weights = weights,
                                   .attrs = attrs},
                            .plan_index = index,
                            .weight_ids = po->weights};
    if (!go->op.in || !go->op.out)
        return err_nomem(err, "binding a plan");
    g->ops[g->n_ops++] = go;
    return TN_OK;
}

static int32_t fill(struct graph *g, tn_err *err)
{
    const struct plan *p = g->plan;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < p->n_weights && rc == TN_OK; i++)
        rc = cut_weight(g, i, err);
    for (uint32_t i = 0; i < p->n_values && rc == TN_OK; i++) {
        g->alias[i] = i;
        rc = cut_value(g, i, err);
    }
    for (uint32_t i = 0; i < p->n_ops && rc == TN_OK; i++) {
        if (is_idle_collective(g, &p->ops[i]))
            g->alias[p->ops[i].out[0]] = g->alias[p->ops[i].in[0]];
        else
            rc = add_op(g, i, err);
    }
    return rc;
}

int32_t graph_new(const struct plan *p, const struct topology *topo, uint32_t act_dtype,
                  struct graph **out, tn_err *err)
{
    struct graph *g = mem_zalloc(sizeof *g);
    int32_t rc;

    if (!g)
        return err_nomem(err, "binding a plan");
    g->plan = p;
    g->topo = *topo;
    g->act_dtype = act_dtype;
    g->values = arena_array(&g->arena, p->n_values, sizeof *g->values);
    g->alias = arena_array(&g->arena, p->n_values, sizeof *g->alias);
    g->weights = arena_array(&g->arena, p->n_weights, sizeof *g->weights);
    rc = g->values && g->alias && g->weights ? fill(g, err) : err_nomem(err, "binding a plan");
    if (rc != TN_OK) {
        graph_free(g);
        return rc;
    }
    *out = g;
    return TN_OK;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    mem_free(g->ops);
    arena_release(&g->arena);
    mem_free(g);
}

bool graph_feeds(const struct graph_op *a, const struct graph_op *b)
{
    for (uint32_t i = 0; i < a->op.n_out; i++)
        for (uint32_t j = 0; j < b->op.n_in; j++)
            if (a->op.out[i] == b->op.in[j])
                return true;
    return false;
}
