/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices of experts. The op moe_mlp has three stacks of them, [E, N, K]; schemes and formats, which know linears, see each as a
 * matrix [E * N, K], of which tensors by rows come that are stacked as the matrices were. So whatever becomes a basic linear of 8 or
 * 4 bits becomes experts of as many, whoever made it; rows of activations are never rounded for experts, whose op says so.
 */
#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "build/hidden.h"
#include "build/matrix.h"
#include "build/quant.h"
#include "tenon/ops.h"

bool quant_multiplies(const char *op)
{
    return strcmp(op, TN_OP_LINEAR) == 0 || strcmp(op, TN_OP_MOE_MLP) == 0;
}

uint32_t quant_matrices(const struct plan_op *op)
{
    return strcmp(op->name, TN_OP_LINEAR) == 0    ? 1
           : strcmp(op->name, TN_OP_MOE_MLP) == 0 ? QUANT_STACKS
                                                  : 0;
}

struct plan_weight quant_matrix(const struct plan_weight *w)
{
    struct plan_weight m = *w;

    if (w->n_dims != 3)
        return m;
    m.n_dims = 2;
    m.dims[0] = w->dims[0] * w->dims[1];
    m.dims[1] = w->dims[2];
    /* Of rows every rank has some of each expert, which no cut of the matrix is. */
    m.shard = w->shard == TN_SHARD_AXIS2 ? TN_SHARD_AXIS1 : TN_SHARD_NONE;
    m.shard_units = m.shard == TN_SHARD_NONE ? 0 : w->shard_units;
    return m;
}

int32_t quant_matrix_origin(struct arena *a, const struct plan_weight *w, struct weight_origin *o,
                            tn_err *err)
{
    struct weight_source *s;

    if (w->n_dims != 3 || o->n_sources == 0)
        return TN_OK;
    s = arena_copy(a, o->sources, o->n_sources * sizeof *s);
    if (!s)
        return err_nomem(err, "quantization");
    for (uint32_t i = 0; i < o->n_sources; i++) {
        s[i].row_begin *= w->dims[1];
        s[i].row_end *= w->dims[1];
        s[i].unit = 1;
    }
    o->sources = s;
    return TN_OK;
}

void quant_stack(const struct plan_weight *stack, const struct quant_linear *l,
                 struct plan_weight *part)
{
    if (stack->n_dims != 3)
        return;
    part->dims[2] = part->dims[1];
    part->dims[1] = stack->dims[1];
    part->dims[0] = stack->dims[0];
    part->n_dims++;
    if (stack->shard != TN_SHARD_AXIS2) {
        part->shard = stack->shard;
        part->shard_units = stack->shard_units;
    } else if (part->n_dims == 3) { /* a scale per row is the same for all parts of it */
        uint64_t units =
            part->dims[2] == stack->dims[2] ? stack->shard_units : quant_column_units(l);
        part->shard = TN_SHARD_AXIS2;
        part->shard_units = (uint32_t)(units ? units : 1);
    }
}

const char *quant_unfit_for_experts(const struct quant_linear *l)
{
    static const char *const ops[] = {TN_OP_LINEAR_INT8, TN_OP_LINEAR_FP8, TN_OP_LINEAR_INT4};
    const tn_quant_plan *plan = &l->made.plan;
    bool known = false;

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        known = known || strcmp(plan->op, ops[i]) == 0;
    if (!known)
        return "experts take what linear.int8, linear.fp8 and linear.int4 take, and no other";
    if (l->order)
        return "the groups of its columns (desc_act, g_idx) have an order of their own, which "
               "experts have not";
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const tn_quant_tensor *t = &plan->tensors[i];
        uint64_t cols = t->n_dims > 1 ? t->dims[1] : 1;
        if (!t->rows)
            return "a tensor of it is not by rows, and experts need rows of their own";
        if (t->dims[0] / l->made.n_experts * cols * tn_dtype_bits(t->dtype) % 8 != 0)
            return "an expert's part of a tensor is no whole number of bytes";
    }
    return plan->n_tensors > 3 ? "experts have no more than scales and zero points" : NULL;
}

static bool alike(const struct quant_linear *l)
{
    for (uint32_t i = 0; i < QUANT_STACKS; i++)
        if (!l[i].chosen || strcmp(l[i].made.plan.op, l->made.plan.op) != 0 ||
            l[i].made.plan.n_tensors != l->made.plan.n_tensors)
            return false;
    return true;
}

void quant_agree_on_experts(struct quant *q)
{
    for (uint32_t i = 0; i < q->n_linears; i++) {
        struct quant_linear *l = &q->linears[i];
        if (l->n_parts != QUANT_STACKS || l->part != 0 || alike(l))
            continue;
        for (uint32_t k = 0; k < QUANT_STACKS; k++)
            if (l[k].chosen) {
                l[k].chosen = false;
                snprintf(l[k].why, sizeof l[k].why,
                         "the other matrices of these experts are not quantized as this one is");
            }
    }
}

/* -- What calibration sees of each ---------------------------------------------------------------------- */

void quant_expert_op(const struct quantized *m, struct quant_expert *out)
{
    *out = (struct quant_expert){.op = m->op, .out_value = m->out_value, .weight = m->weights[0]};
    out->weight.dims[0] /= m->n_experts;
    out->out_value.width = out->weight.dims[0];
    out->out_list[0] = &out->out_value;
    out->weight_list[0] = &out->weight;
    out->op.out = out->out_list;
    out->op.weights = out->weight_list;
}

void quant_expert_name(const char *stack, uint32_t expert, char out[QUANT_EXPERT_NAME])
{
    snprintf(out, QUANT_EXPERT_NAME, "%s.%" PRIu32, stack, expert);
}

void quant_group_name(const struct quant *q, const struct quant_group *g,
                      char out[QUANT_EXPERT_NAME])
{
    const char *first = q->from->plan->weights[q->linears[g->linears[0]].weight].name;

    if (g->value == QUANT_ROUTED)
        quant_expert_name(first, g->expert, out);
    else
        snprintf(out, QUANT_EXPERT_NAME, "%s", first);
}

uint32_t quant_expert_groups(const struct quant *q, const struct plan_op *op)
{
    const tn_attr *act = plan_attr(op, "act");

    if (quant_matrices(op) != QUANT_STACKS || q->o.stored ||
        !hidden_activation(act ? act->s : TN_OP_SILU))
        return 0;
    return (q->needs & TN_QUANT_HESSIAN ? 2 : 1) *
           (uint32_t)q->from->plan->weights[op->weights[0]].dims[0];
}

static int32_t add_expert(struct quant *q, const struct quant_linear *gate, uint32_t expert,
                          bool inside, tn_err *err)
{
    const struct plan *p = q->from->plan;
    struct quant_group *g = &q->groups[q->n_groups++];
    uint32_t index = (uint32_t)(gate - q->linears), up = gate[1].weight;

    *g = (struct quant_group){.value = QUANT_ROUTED,
                              .expert = expert,
                              .inside = inside,
                              .outside = gate->group,
                              .n_channels = p->weights[gate[inside ? 2 : 0].weight].dims[2],
                              .linears = arena_array(&q->arena, 2, sizeof *g->linears)};
    if (!g->linears)
        return err_nomem(err, "quantization");
    g->linears[g->n_linears++] = inside ? index + 2 : index;
    if (!inside)
        g->linears[g->n_linears++] = index + 1;
    /* The product is linear in the rows of up. */
    if (inside && quant_users(p, up) == 1 && quant_users(p, gate[2].weight) == 1) {
        g->before = TN_QUANT_BEFORE_LINEAR;
        g->n_entries = g->n_channels;
    }
    return TN_OK;
}

int32_t quant_add_experts(struct quant *q, struct quant_linear *gate, tn_err *err)
{
    const struct plan_op *op = &q->from->plan->ops[gate->op];
    uint32_t n = quant_expert_groups(q, op);
    uint32_t each = (uint32_t)q->from->plan->weights[gate->weight].dims[0];
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        bool inside = i >= n - each;
        if (i % each == 0) {
            gate[inside ? 2 : 0].experts = q->n_groups;
            gate[1].experts = gate[0].experts;
        }
        rc = add_expert(q, gate, i % each, inside, err);
    }
    return rc;
}

/* -- Smoothing ------------------------------------------------------------------------------------------ */

/* Factors of one expert; those of channels stand in `factors`. */
static int32_t smooth_one(struct quant *q, struct quant_group *g, const float *matrix,
                          float *factors, bool *any, tn_err *err)
{
    struct quant_expert expert;
    const tn_op *op = &expert.op;
    tn_quant_group group = {.h = TN_HDR(tn_quant_group),
                            .n_ops = 1,
                            .before = g->before,
                            .n_channels = g->n_channels,
                            .ops = &op,
                            .weights = &matrix,
                            .stats = &g->stats};
    int32_t rc;

    quant_expert_op(&q->linears[g->linears[0]].made, &expert);
    rc = q->scheme->smooth(q->build, &group, factors, err);
    if (rc != TN_OK) {
        err_plugin(err, q->plugin);
        return rc;
    }
    rc = quant_check_factors(q, g, factors, any, err);
    if (rc != TN_OK || !*any)
        return rc;
    g->divide = factors;
    return quant_set_stats(q, g, factors, err);
}

int32_t quant_smooth_experts(struct quant *q, struct quant_group *first, const struct checkpoint *c,
                             tn_err *err)
{
    struct quant_linear *down = &q->linears[first->linears[0]];
    uint64_t n = down->made.n_experts, width = first->n_channels;
    uint64_t rows = down->made.source.dims[0] / n;
    float *factors = arena_array(&q->arena, (size_t)(n * width), sizeof *factors), *all = NULL;
    bool any = false, one;
    int32_t rc = factors ? TN_OK : err_nomem(err, "smoothing");

    for (uint64_t k = 0; k < n * width && factors; k++)
        factors[k] = 1.0f;
    if (rc == TN_OK)
        rc = matrix_load(c, &down->made.source, &down->made.origin, &all, err);
    for (uint64_t e = 0; e < n && rc == TN_OK; e++) {
        if (!first[e].raw)
            continue;
        rc = smooth_one(q, &first[e], all + e * rows * width, factors + e * width, &one, err);
        any = any || one;
    }
    mem_free(all);
    if (rc != TN_OK || !any)
        return rc;
    /* Row e * width + k of up makes channel k of expert e. */
    q->scales[down[-1].weight].divide = factors;
    q->scales[down->weight].multiply = factors;
    q->scales[down->weight].multiply_rows = rows;
    return TN_OK;
}
