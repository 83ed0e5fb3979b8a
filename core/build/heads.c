/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An output projection whose matrix the embeddings share, too. Every token reads all of it, of the embeddings one row: so a scheme
 * that takes output projections makes a matrix of its own of it, smaller by half, and the embeddings keep the one that was shared. To
 * all that asks what there is to quantize, the plan has two weights, which come of the same tensors. Where nothing is made of the
 * second, the plan that is written has one, as before.
 */
#include <string.h>

#include "base/mem.h"
#include "build/quant.h"
#include "engine/opset.h"

/* As models call the matrix where it is not shared. */
#define NAME "head.weight"

static const struct plan_op *find_head(const struct plan *p)
{
    for (size_t i = 0; i < p->n_ops; i++)
        if (opset_makes_logits(p->ops[i].name))
            return &p->ops[i];
    return NULL;
}

static int32_t copy_weights(struct quant *q, const struct emission *from, tn_err *err)
{
    struct emission *to = &q->parted;
    uint32_t id;
    int32_t rc = TN_OK;

    to->origins = mem_array(from->plan->n_weights + 1, sizeof *to->origins);
    if (!to->origins)
        return err_nomem(err, "a plan");
    memcpy(to->origins, from->origins, from->plan->n_weights * sizeof *to->origins);
    to->origins[from->plan->n_weights] = from->origins[q->shared];
    for (size_t i = 0; i < from->plan->n_weights && rc == TN_OK; i++)
        rc = plan_add_weight(to->plan, &from->plan->weights[i], &id, err);
    if (rc == TN_OK) {
        struct plan_weight w = from->plan->weights[q->shared];
        w.name = NAME;
        w.role = TN_ROLE_HEAD;
        rc = plan_add_weight(to->plan, &w, &q->head, err);
    }
    return rc;
}

static int32_t copy_ops(struct quant *q, const struct plan *from, const struct plan_op *head,
                        tn_err *err)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; i < from->n_ops && rc == TN_OK; i++) {
        struct plan_value values[TN_OP_MAX_VALUES];
        struct plan_op op = from->ops[i];
        uint32_t ids[TN_OP_MAX_VALUES];
        for (uint32_t k = 0; k < op.n_out; k++)
            values[k] = from->values[op.out[k]];
        if (&from->ops[i] == head)
            op.weights[0] = q->head;
        rc = plan_add_op(q->parted.plan, &op, values, ids, err); /* they get the same numbers */
    }
    return rc;
}

int32_t quant_part_head(struct quant *q, const struct emission *from, tn_err *err)
{
    const struct plan_op *head = find_head(from->plan);
    uint64_t other;
    int32_t rc;

    q->from = from;
    if (!head || quant_users(from->plan, head->weights[0]) == 1 ||
        map_get(&from->plan->weight_names, NAME, strlen(NAME), &other))
        return TN_OK;
    q->shared = head->weights[0];
    rc = plan_new(&q->parted.plan, err);
    for (size_t k = 0; k < from->plan->n_hyper && rc == TN_OK; k++)
        rc = plan_set_as(q->parted.plan, &from->plan->hyper[k], err);
    if (rc == TN_OK)
        rc = copy_weights(q, from, err);
    if (rc == TN_OK)
        rc = copy_ops(q, from->plan, head, err);
    if (rc == TN_OK)
        q->from = &q->parted;
    return rc;
}

/* -- What runs, and what is written ---------------------------------------------------------------------- */

const char *quant_matrix_name(const struct quant *q, const tn_op *op)
{
    const char *name = op->n_weights ? op->weights[0]->name : NULL;

    if (q->from == &q->parted && name && opset_makes_logits(op->name) &&
        strcmp(name, q->from->plan->weights[q->shared].name) == 0)
        return NAME;
    return name;
}

/* What reads the matrix is not divided any more, nor are others behind the same norm. */
static void unsmooth(struct quant *q, struct quant_group *g)
{
    for (uint32_t i = 0; i < g->n_targets; i++)
        q->scales[g->targets[i]].divide = NULL;
    for (uint32_t i = 0; i < g->n_linears; i++)
        q->scales[q->linears[g->linears[i]].weight].multiply = NULL;
    g->divide = NULL;
}

bool quant_shares_head(struct quant *q)
{
    if (q->from != &q->parted)
        return false;
    for (uint32_t i = 0; i < q->n_linears; i++) {
        struct quant_linear *l = &q->linears[i];
        if (l->weight == q->head && l->chosen)
            return false;
        if (l->weight == q->head && q->groups[l->group].divide)
            unsmooth(q, &q->groups[l->group]);
    }
    return true;
}
