/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Columns of quantized matrices: how ranks share them, and in which order they are.
 *
 * Linears whose tensors have the columns of their matrix in another order (tn_quant_format::order), so that the columns of a
 * group stand together: what they read must come in that order.
 *
 * It does for nothing where what stands before is element by element down to linears of its own, as in
 * mul(silu(gate), up) -> down: their rows change places. That holds for any number of ranks, since a rank has the same part of
 * those rows as of the columns. Elsewhere a `reorder` goes in front (rewrite.c), which needs the whole row on every rank.
 */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "build/quant.h"
#include "exec/graph.h"
#include "tenon/ops.h"

#define FOLD_MOST 16 /* values, and linears, in front of one: gated MLPs have five and two */

/* -- Ranks ------------------------------------------------------------------------------------------- */

uint64_t quant_column_units(const struct quant_linear *l)
{
    const struct plan_weight *w = &l->made.source;
    uint64_t k = w->dims[1], unit = w->shard_units ? k / w->shard_units : 1;

    for (uint32_t i = 0; i < l->made.plan.n_tensors; i++) {
        const tn_quant_tensor *t = &l->made.plan.tensors[i];
        uint64_t group = t->rows && t->n_dims == 2 ? t->group : 0;
        if (group > 1)
            unit = unit / gcd(unit, group) * group;
        if (unit == 0 || k % unit != 0)
            return 0;
    }
    return k / unit;
}

bool quant_ranks_share(const struct quant *q, const struct quant_linear *l)
{
    const struct plan_weight *w = &l->made.source;
    const tn_quant_plan *plan = &l->made.plan;
    uint64_t ranks = (uint64_t)(q->o.tp_size > 1 ? q->o.tp_size : 1), units;

    if (w->shard != TN_SHARD_AXIS1 || ranks == 1)
        return true;
    for (uint32_t i = 0; i < plan->n_attrs && strcmp(plan->op, TN_OP_LINEAR_INT4) == 0; i++)
        if (strcmp(plan->attrs[i].name, "group") == 0)
            return graph_piece((uint64_t)plan->attrs[i].i, w->dims[1] / ranks) != 0;
    units = quant_column_units(l);
    return units != 0 && units % ranks == 0;
}

/* -- Order ------------------------------------------------------------------------------------------- */

int32_t quant_find_order(struct quant *q, struct quant_linear *l, tn_err *err)
{
    const struct weight_origin *o = &l->made.origin;
    const struct quant_group *g = &q->groups[l->group];
    uint64_t n = l->made.source.dims[1];
    uint32_t *order = arena_array(&q->arena, (size_t)n, sizeof *order);
    int32_t rc;

    l->order = NULL;
    if (!order)
        return err_nomem(err, "an order of columns");
    rc = stored_order(q->o.stored, o->sources, o->n_sources, order, n, err);
    if (rc != TN_OK)
        return rc == TN_E_NOTFOUND ? TN_OK : rc;
    l->order = order;
    for (uint32_t i = 0; i < g->n_linears; i++) {
        const uint32_t *other = q->linears[g->linears[i]].order;
        if (other && memcmp(other, order, (size_t)n * sizeof *order) == 0) {
            l->order = other;
            break;
        }
    }
    return TN_OK;
}

static bool element_by_element(const struct plan_op *op)
{
    static const char *const names[] = {TN_OP_ADD,   TN_OP_MUL,       TN_OP_SILU,
                                        TN_OP_GELU,  TN_OP_GELU_TANH, TN_OP_RELU,
                                        TN_OP_RELU2, TN_OP_SCALE,     TN_OP_SOFTCAP};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(op->name, names[i]) == 0)
            return true;
    return false;
}

/* Whether the op is a linear with a matrix (and bias) of its own. */
static bool own_linear(const struct plan *p, const struct plan_op *op)
{
    if (strcmp(op->name, TN_OP_LINEAR) != 0)
        return false;
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (quant_users(p, op->weights[i]) > 1)
            return false;
    return true;
}

/* The linears that `value` is made of element by element, if nothing else reads what is in between: their number, or 0. */
static uint32_t sources_of(const struct plan *p, uint32_t value, uint32_t linears[FOLD_MOST])
{
    uint32_t values[FOLD_MOST] = {value}, n = 0;

    for (uint32_t left = 1; left > 0;) {
        uint32_t at = p->values[values[--left]].producer;
        const struct plan_op *op = &p->ops[at];
        if (own_linear(p, op) && n < FOLD_MOST) {
            linears[n++] = at;
            continue;
        }
        if (!element_by_element(op) || left + op->n_in > FOLD_MOST)
            return 0;
        for (uint32_t i = 0; i < op->n_in; i++) {
            if (quant_readers(p, op->in[i]) > 1)
                return 0;
            values[left++] = op->in[i];
        }
    }
    return n;
}

/* Whether all that read the value of the group agree on the order. */
static bool agree(const struct quant *q, const struct quant_group *g)
{
    const uint32_t *order = q->linears[g->linears[0]].order;

    for (uint32_t i = 0; i < g->n_linears; i++) {
        const struct quant_linear *l = &q->linears[g->linears[i]];
        if (!l->chosen || !l->order || l->order != order)
            return false;
    }
    return quant_readers(q->from->plan, g->value) == g->n_linears;
}

static void fold_group(struct quant *q, const struct quant_group *g)
{
    const struct plan *p = q->from->plan;
    uint32_t before[FOLD_MOST], n = agree(q, g) ? sources_of(p, g->value, before) : 0;

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < p->ops[before[i]].n_weights; k++)
            q->scales[p->ops[before[i]].weights[k]].rows = q->linears[g->linears[0]].order;
    for (uint32_t i = 0; i < g->n_linears && n > 0; i++)
        q->linears[g->linears[i]].folded = true;
}

void quant_fold(struct quant *q)
{
    for (size_t i = 0; i < q->from->plan->n_weights; i++)
        q->scales[i].rows = NULL;
    for (uint32_t i = 0; i < q->n_linears; i++)
        q->linears[i].folded = false;
    for (uint32_t i = 0; i < q->n_groups; i++)
        fold_group(q, &q->groups[i]);
    for (uint32_t i = 0; i < q->n_linears && q->o.tp_size > 1; i++) {
        struct quant_linear *l = &q->linears[i];
        if (!l->chosen || !l->order || l->folded || l->made.source.shard != TN_SHARD_AXIS1)
            continue;
        l->chosen = false;
        snprintf(l->why, sizeof l->why,
                 "the groups of its columns (desc_act, g_idx) lie across the parts of %" PRId64
                 " ranks: it is widened",
                 q->o.tp_size);
    }
}
