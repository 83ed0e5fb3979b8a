/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which linears read one value, and what stands before them that factors per channel can be folded into:
 *
 *   norm -> linears               its weights (Xiao et al. 2023, figure 6)
 *   mul(act(gate), up) -> down    the rows of `up`: the product is linear in it
 *   attention -> o                the rows of v: heads are linear in their values. Heads that share a kv head share factors
 *
 * The output projection is a linear like others, if the scheme takes it and nothing shares its matrix (but see heads.c).
 *
 * A norm may stand before experts, too: gate and up of all of them read what the router does. What their down reads is inside
 * of the op moe_mlp, see experts.c.
 *
 * Only where nothing else reads the values and weights in between.
 */
#include <string.h>

#include "base/mem.h"
#include "build/quant.h"
#include "tenon/ops.h"

static bool is_op(const struct plan_op *op, const char *name)
{
    return strcmp(op->name, name) == 0;
}

uint32_t quant_resolve(const struct plan *p, uint32_t value)
{
    const struct plan_op *op = &p->ops[p->values[value].producer];

    while (is_op(op, TN_OP_ALL_REDUCE) || is_op(op, TN_OP_ALL_GATHER)) {
        value = op->in[0];
        op = &p->ops[p->values[value].producer];
    }
    return value;
}

bool quant_is_plain(const struct quant *q, uint32_t weight)
{
    const struct weight_origin *o = &q->from->origins[weight];

    for (uint32_t i = 0; i < o->n_sources; i++)
        if (o->sources[i].stored)
            return false;
    return !o->table;
}

uint32_t quant_readers(const struct plan *p, uint32_t value)
{
    uint32_t n = 0;

    for (size_t i = 0; i < p->n_ops; i++)
        for (uint32_t j = 0; j < p->ops[i].n_in; j++)
            n += p->ops[i].in[j] == value;
    return n;
}

uint32_t quant_users(const struct plan *p, uint32_t weight)
{
    uint32_t n = 0;

    for (size_t i = 0; i < p->n_ops; i++)
        for (uint32_t j = 0; j < p->ops[i].n_weights; j++)
            n += p->ops[i].weights[j] == weight;
    return n;
}

/* -- Linears and groups ------------------------------------------------------------------------------ */

static struct quant_group *group_of(struct quant *q, uint32_t value)
{
    for (uint32_t i = q->n_groups; i-- > 0;)
        if (q->groups[i].value == value)
            return &q->groups[i];
    return NULL;
}

static struct quant_group *add_group(struct quant *q, uint32_t value, const struct plan_op *op,
                                     tn_err *err)
{
    const struct plan *p = q->from->plan;
    struct quant_group *g = &q->groups[q->n_groups++];

    g->value = value;
    g->n_channels = p->values[op->in[0]].width;
    g->linears = arena_array(&q->arena,
                             QUANT_STACKS * (quant_readers(p, op->in[0]) + quant_readers(p, value)),
                             sizeof *g->linears);
    if (!g->linears)
        err_nomem(err, "quantization");
    return g->linears ? g : NULL;
}

/* Of heads those that share their matrix with another op are none: heads.c has parted what may be. */
static uint32_t matrices_of(const struct quant *q, const struct plan_op *op)
{
    if (!is_op(op, TN_OP_LOGITS))
        return quant_matrices(op);
    return q->scheme && q->scheme->flags & TN_QUANT_HEADS &&
           quant_users(q->from->plan, op->weights[0]) == 1;
}

/* Matrix `part` of `n` of the op; the last of experts reads what stays inside. */
static int32_t add_linear(struct quant *q, uint32_t index, uint32_t part, uint32_t n,
                          struct quant_group *inside, tn_err *err)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *op = &p->ops[index];
    struct quant_linear *l = &q->linears[q->n_linears];
    uint32_t value = quant_resolve(p, op->in[0]);
    bool hidden = n > 1 && part == n - 1;
    struct quant_group *g = hidden ? inside : group_of(q, value);

    if (!g)
        g = add_group(q, value, op, err);
    if (!g)
        return TN_E_NOMEM;
    if (!hidden) {
        g->linears[g->n_linears++] = q->n_linears;
        g->n_readers += part == 0;
    }
    *l = (struct quant_linear){.op = index,
                               .weight = op->weights[part],
                               .part = part,
                               .n_parts = n,
                               .group = (uint32_t)(g - q->groups),
                               .error = -1.0};
    if (quant_users(p, l->weight) > 1)
        snprintf(l->why, sizeof l->why, "several ops share its matrix");
    else if (!hidden && g->value != op->in[0])
        snprintf(l->why, sizeof l->why, "reads what a collective leaves");
    q->n_linears++;
    return TN_OK;
}

/* -- What stands before ------------------------------------------------------------------------------- */

/* Makes the weights of `op` (matrix or norm, and bias) the targets of a group, if they are its own. */
static bool aim_at(const struct plan *p, struct quant_group *g, const struct plan_op *op)
{
    if (op->n_weights > 2)
        return false;
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (quant_users(p, op->weights[i]) > 1)
            return false;
    g->n_targets = op->n_weights;
    memcpy(g->targets, op->weights, op->n_weights * sizeof *op->weights);
    g->n_entries = p->weights[op->weights[0]].dims[0];
    return true;
}

static void aim_at_norm(const struct plan *p, struct quant_group *g, const struct plan_op *op)
{
    const tn_attr *offset = plan_attr(op, "offset");

    if (p->weights[op->weights[0]].dims[0] != g->n_channels || !aim_at(p, g, op))
        return;
    g->before = TN_QUANT_BEFORE_NORM;
    g->offset = offset ? (float)offset->f : 0.0f;
}

static void aim_at_factor(const struct plan *p, struct quant_group *g, const struct plan_op *mul)
{
    for (uint32_t i = 0; i < 2; i++) {
        const struct plan_op *up = &p->ops[p->values[mul->in[i]].producer];
        if (is_op(up, TN_OP_LINEAR) && quant_readers(p, mul->in[i]) == 1 && aim_at(p, g, up)) {
            g->before = TN_QUANT_BEFORE_LINEAR;
            return;
        }
    }
}

static int32_t aim_at_values(struct quant *q, struct quant_group *g,
                             const struct plan_op *attention, tn_err *err)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *append = &p->ops[p->values[attention->in[1]].producer];
    const struct plan_op *v = &p->ops[p->values[append->in[1]].producer];
    uint64_t dim = (uint64_t)plan_attr(attention, "head_dim")->i;
    uint64_t heads = (uint64_t)plan_attr(attention, "n_heads")->i;
    uint64_t shared = heads / (uint64_t)plan_attr(attention, "n_kv_heads")->i;
    uint32_t *entry;

    if (!is_op(v, TN_OP_LINEAR) || quant_readers(p, append->in[1]) != 1 ||
        quant_readers(p, attention->in[1]) != 1 || !aim_at(p, g, v))
        return TN_OK;
    entry = arena_array(&q->arena, (size_t)g->n_channels, sizeof *entry);
    if (!entry)
        return err_nomem(err, "quantization");
    for (uint64_t k = 0; k < g->n_channels; k++)
        entry[k] = (uint32_t)(k / dim / shared * dim + k % dim);
    g->entry = entry;
    g->before = TN_QUANT_BEFORE_LINEAR;
    return TN_OK;
}

static int32_t find_before(struct quant *q, struct quant_group *g, tn_err *err)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *op = &p->ops[p->values[g->value].producer];

    if (quant_readers(p, g->value) != g->n_readers)
        return TN_OK;
    if (is_op(op, TN_OP_RMS_NORM) || is_op(op, TN_OP_LAYER_NORM))
        aim_at_norm(p, g, op);
    else if (is_op(op, TN_OP_MUL))
        aim_at_factor(p, g, op);
    else if (is_op(op, TN_OP_ATTENTION))
        return aim_at_values(q, g, op, err);
    return TN_OK;
}

int32_t quant_survey(struct quant *q, tn_err *err)
{
    const struct plan *p = q->from->plan;
    uint32_t n = 0, n_groups = 0;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < p->n_ops; i++) {
        n += matrices_of(q, &p->ops[i]);
        n_groups += matrices_of(q, &p->ops[i]) + quant_expert_groups(q, &p->ops[i]);
    }
    q->linears = arena_array(&q->arena, n, sizeof *q->linears);
    q->groups = arena_array(&q->arena, (size_t)n_groups + 1, sizeof *q->groups);
    q->scales = arena_array(&q->arena, p->n_weights, sizeof *q->scales);
    if (!q->linears || !q->groups || !q->scales)
        return err_nomem(err, "quantization");
    q->groups[n_groups].value = QUANT_ROUTED;
    for (uint32_t i = 0; i < p->n_ops && rc == TN_OK; i++) {
        uint32_t parts = matrices_of(q, &p->ops[i]);
        for (uint32_t k = 0; k < parts && rc == TN_OK; k++)
            rc = add_linear(q, i, k, parts, &q->groups[n_groups], err);
        if (rc == TN_OK && parts == QUANT_STACKS)
            rc = quant_add_experts(q, &q->linears[q->n_linears - parts], err);
    }
    for (uint32_t i = 0; i < q->n_groups && rc == TN_OK; i++)
        if (q->groups[i].value != QUANT_ROUTED)
            rc = find_before(q, &q->groups[i], err);
    return rc;
}
