/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrices of experts. The op moe_mlp has three stacks of them, [E, N, K]; schemes and formats, which know linears, see each as a
 * matrix [E * N, K], of which tensors by rows come that are stacked as the matrices were. So whatever becomes a basic linear of 8 or
 * 4 bits becomes experts of as many, whoever made it; rows of activations are never rounded for experts, whose op says so.
 */
#include <string.h>

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
    for (uint32_t i = 0; i < plan->n_tensors; i++)
        if (!plan->tensors[i].rows)
            return "a tensor of it is not by rows, and experts need rows of their own";
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
