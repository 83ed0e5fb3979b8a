/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/judge.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tenon/ops.h"

#define HIGHEST_COST 1e30

/* -- The device ------------------------------------------------------------------------------------ */

static bool gpu_fits(const tn_gpu_target *t, const tn_gpu_target *have)
{
    if (t->vendor != have->vendor)
        return false;
    switch (t->mode) {
    case TN_GPU_SAME_MAJOR: return t->major == have->major && t->minor <= have->minor;
    case TN_GPU_EXACT: return t->major == have->major && t->minor == have->minor;
    case TN_GPU_PTX:
        return t->major < have->major || (t->major == have->major && t->minor <= have->minor);
    default: return false;
    }
}

const char *judge_device(const struct select_options *o, const tn_kernel_set *set,
                         const tn_variant *v)
{
    if (strcmp(set->device, o->device_kind) != 0)
        return "runs on another kind of device";
    if ((v->cpu[0] & ~o->cpu[0]) || (v->cpu[1] & ~o->cpu[1]))
        return "needs CPU features that this machine lacks";
    if ((v->flags & TN_VARIANT_PARTS) && o->no_parts)
        return o->no_parts;
    if (!v->gpus)
        return NULL;
    for (const tn_gpu_target *t = v->gpus; t->vendor; t++)
        if (gpu_fits(t, &o->device->gpu))
            return NULL;
    return "has no code for this GPU";
}

const tn_variant *judge_service(const struct select_options *o, const char *op,
                                const struct kernel_source **source)
{
    for (uint32_t i = 0; i < o->n_sources; i++)
        for (uint32_t k = 0; k < o->sources[i].set->n_variants; k++) {
            const tn_variant *v = o->sources[i].set->variants[k];
            if (strcmp(v->op, op) != 0 || judge_device(o, o->sources[i].set, v))
                continue;
            *source = &o->sources[i];
            return v;
        }
    return NULL;
}

/* -- Dtypes ---------------------------------------------------------------------------------------- */

static bool uses_act(const struct graph *g, const tn_op *op)
{
    const struct plan *p = g->plan;

    for (uint32_t i = 0; i < op->n_in; i++)
        if (p->values[op->in[i]->id].dtype == TN_DT_ACT)
            return true;
    for (uint32_t i = 0; i < op->n_out; i++)
        if (p->values[op->out[i]->id].dtype == TN_DT_ACT)
            return true;
    return false;
}

static const tn_weight *unfit_weight(const struct graph *g, const struct graph_op *op,
                                     uint32_t mask)
{
    for (uint32_t i = 0; i < op->op.n_weights; i++) {
        const struct plan_weight *w = &g->plan->weights[op->weight_ids[i]];
        bool heavy =
            w->role == TN_ROLE_MATRIX || w->role == TN_ROLE_EMBEDDING || w->role == TN_ROLE_HEAD;
        /* Scales beside a quantized matrix have its role, but are vectors. */
        if (heavy && w->n_dims > 1 && !(mask & TN_DT_BIT(w->dtype)))
            return op->op.weights[i];
    }
    return NULL;
}

static bool touches_kv(const tn_op *op)
{
    for (uint32_t i = 0; i < op->n_in; i++)
        if (op->in[i]->kind == TN_VALUE_KV)
            return true;
    for (uint32_t i = 0; i < op->n_out; i++)
        if (op->out[i]->kind == TN_VALUE_KV)
            return true;
    for (uint32_t i = 0; i < op->n_members; i++)
        if (strcmp(op->members[i]->name, TN_OP_KV_APPEND) == 0)
            return true;
    return false;
}

static bool dtypes_fit(const struct judge *j, const struct graph_op *op, const tn_variant *v,
                       char *reason, size_t size)
{
    const tn_weight *w = unfit_weight(j->g, op, v->weight_dtypes);

    if (uses_act(j->g, &op->op) && !(v->act_dtypes & TN_DT_BIT(j->o->act_dtype))) {
        snprintf(reason, size, "does not compute in %s", tn_dtype_name(j->o->act_dtype));
        return false;
    }
    if (w) {
        snprintf(reason, size, "does not take %s weights (%s)", tn_dtype_name(w->dtype), w->name);
        return false;
    }
    if (!touches_kv(&op->op))
        return true;
    if (!v->kv_layout || strcmp(v->kv_layout, j->kv_layout) != 0) {
        snprintf(reason, size, "uses cache layout %s, not %s", v->kv_layout ? v->kv_layout : "none",
                 j->kv_layout);
        return false;
    }
    if (!(v->kv_dtypes & TN_DT_BIT(j->o->kv_dtype))) {
        snprintf(reason, size, "does not keep the cache in %s", tn_dtype_name(j->o->kv_dtype));
        return false;
    }
    return true;
}

/* -- Ranges ---------------------------------------------------------------------------------------- */

/* "in0.width", "out1.width", "w0.dim1", or the name of an attribute of the op or its members. */
static bool dimension(const tn_op *op, const char *dim, int64_t *value)
{
    const tn_attr *a = tn_op_attr(op, dim);
    unsigned i = 0, d = 0;
    size_t end = strlen(dim);
    int n = 0;

    if (sscanf(dim, "in%u.width%n", &i, &n) == 1 && (size_t)n == end && i < op->n_in)
        return *value = (int64_t)op->in[i]->width, true;
    if (sscanf(dim, "out%u.width%n", &i, &n) == 1 && (size_t)n == end && i < op->n_out)
        return *value = (int64_t)op->out[i]->width, true;
    if (sscanf(dim, "w%u.dim%u%n", &i, &d, &n) == 2 && (size_t)n == end && i < op->n_weights &&
        d < op->weights[i]->n_dims)
        return *value = (int64_t)op->weights[i]->dims[d], true;
    for (uint32_t m = 0; !a && m < op->n_members; m++)
        a = tn_op_attr(op->members[m], dim);
    if (!a || a->kind != TN_ATTR_I64)
        return false;
    *value = a->i;
    return true;
}

/* Narrows rows[] to a range of rows; false if a step of some size cannot be promised or nothing is left. */
static bool rows_fit(const tn_range *r, uint32_t rows[2], char *reason, size_t size)
{
    if (r->multiple > 1) {
        snprintf(reason, size, "wants rows in steps of %" PRId64 "; a step has any number of them",
                 r->multiple);
        return false;
    }
    if (r->min > rows[1] || r->max < rows[0]) {
        snprintf(reason, size, "serves no number of rows that can occur");
        return false;
    }
    rows[0] = r->min > rows[0] ? (uint32_t)r->min : rows[0];
    rows[1] = r->max < rows[1] ? (uint32_t)r->max : rows[1];
    return true;
}

static bool ranges_fit(const struct graph_op *op, const tn_variant *v, uint32_t rows[2],
                       char *reason, size_t size)
{
    for (uint32_t i = 0; i < v->n_ranges; i++) {
        const tn_range *r = &v->ranges[i];
        int64_t value;
        if (strcmp(r->dim, "rows") == 0) {
            if (!rows_fit(r, rows, reason, size))
                return false;
            continue;
        }
        if (!dimension(&op->op, r->dim, &value)) {
            snprintf(reason, size, "limits \"%s\", which the op does not have", r->dim);
            return false;
        }
        if (value < r->min || value > r->max || (r->multiple > 1 && value % r->multiple != 0)) {
            snprintf(reason, size,
                     "%s is %" PRId64 "; it takes %" PRId64 " to %" PRId64 " in steps of %" PRId64,
                     r->dim, value, r->min, r->max, r->multiple > 1 ? r->multiple : 1);
            return false;
        }
    }
    return true;
}

/* -- Verdict --------------------------------------------------------------------------------------- */

uint32_t judge_max_rows(const struct select_options *o, const struct graph_op *op)
{
    bool logits = false;

    for (uint32_t i = 0; i < op->op.n_out; i++)
        logits = logits || op->op.out[i]->kind == TN_VALUE_LOGITS;
    return logits ? o->max_logits : o->max_rows;
}

bool judge_variant(const struct judge *j, const struct graph_op *op, const struct candidate *c,
                   uint32_t rows[2], char *reason, size_t size)
{
    const tn_variant *v = c->v;
    tn_err err = TN_ERR_INIT;

    rows[0] = 1;
    rows[1] = judge_max_rows(j->o, op);
    if (c->excluded) {
        snprintf(reason, size, "%s", c->excluded);
        return false;
    }
    if (!dtypes_fit(j, op, v, reason, size) || !ranges_fit(op, v, rows, reason, size))
        return false;
    if (v->can_run && v->can_run(c->source->instance, &op->op, &err) != TN_OK) {
        snprintf(reason, size, "%s", err.msg[0] ? err.msg : "declines this op without a reason");
        return false;
    }
    return true;
}

double judge_cost(const struct candidate *c, const struct graph_op *op, uint32_t rows)
{
    double ns = c->v->cost_ns(c->source->instance, &op->op, rows);

    if (ns >= 0 && c->tuning) {
        double measured = tuning_get(c->tuning, c->source->plugin, c->v, &op->op, rows);
        ns = measured >= 0 ? measured + c->gap_ns : ns;
    }
    return ns <= HIGHEST_COST ? ns : HIGHEST_COST; /* NaN compares false */
}

bool judge_measured(const struct candidate *c, const struct graph_op *op)
{
    return tuning_get(c->tuning, c->source->plugin, c->v, &op->op, 1) >= 0;
}
