/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An output projection whose matrix the embeddings share, too. To all that asks what there is to quantize, the plan has two weights,
 * which come of the same tensors. What is written has one: that which was made of the output projection's, if an embedding can read
 * it, too, or the matrix as it was, if nothing was made. It has both where smoothing has made columns so uneven that rounding
 * them would tell in embeddings: every token reads all of the output projection, of the embeddings one row.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "build/quant.h"
#include "engine/opset.h"
#include "tenon/ops.h"

/* As models call the matrix where it is not shared. */
#define NAME "head.weight"

/* The output projection, if an embedding and nobody else shares its matrix. */
static const struct plan_op *find_shared(const struct plan *p)
{
    const struct plan_op *head = NULL;
    uint32_t embeddings = 0;

    for (size_t i = 0; i < p->n_ops; i++)
        if (opset_makes_logits(p->ops[i].name))
            head = &p->ops[i];
    for (size_t i = 0; i < p->n_ops && head; i++)
        embeddings += strcmp(p->ops[i].name, TN_OP_EMBEDDING) == 0 &&
                      p->ops[i].weights[0] == head->weights[0];
    return head && embeddings == 1 && quant_users(p, head->weights[0]) == 2 ? head : NULL;
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
    const struct plan_op *head = find_shared(from->plan);
    uint64_t other;
    int32_t rc;

    q->from = from;
    if (!head || map_get(&from->plan->weight_names, NAME, strlen(NAME), &other))
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
    const char *name = op->n_weights && !opset_embeds(op->name) ? op->weights[0]->name : NULL;

    if (q->from == &q->parted && name && opset_makes_logits(op->name) &&
        strcmp(name, q->from->plan->weights[q->shared].name) == 0)
        return NAME;
    return name;
}

/* What the matrix alone reads is divided no more. */
static void unsmooth(struct quant *q, struct quant_group *g)
{
    for (uint32_t i = 0; i < g->n_targets; i++)
        q->scales[g->targets[i]].divide = NULL;
    q->scales[q->head].multiply = NULL;
    g->divide = NULL;
}

/* Whether rows that were multiplied by the factors (NULL: by 1) and rounded are still good for an embedding: an element then is
 * off by up to half of its row's largest over 127, over its factor. Of rows whose elements are much alike (the largest four times the
 * usual), that is 0.9% of a row's length where all factors are equal, and 1.8% at the limit. */
static bool embeds_well(const float *factors, uint64_t n)
{
    double most = 0.0, sum = 0.0;

    for (uint64_t k = 0; factors && k < n; k++) {
        most = fmax(most, (double)factors[k]);
        sum += 1.0 / ((double)factors[k] * (double)factors[k]);
    }
    return most * most * sum <= 4.0 * (double)n;
}

void quant_settle_head(struct quant *q)
{
    const struct quant_linear *head = NULL;
    struct quant_group *g;

    q->sharing = QUANT_HEAD_APART;
    if (q->from != &q->parted)
        return;
    for (uint32_t i = 0; i < q->n_linears; i++)
        if (q->linears[i].weight == q->head)
            head = &q->linears[i];
    g = head ? &q->groups[head->group] : NULL;
    if (!head || !head->chosen) {
        /* Factors that other linears behind the norm have, too, stay, and the matrix that was multiplied by them. */
        if (g && g->divide && g->n_linears > 1)
            return;
        q->sharing = QUANT_HEAD_SHARES;
        if (g && g->divide)
            unsmooth(q, g);
    } else if (head->made.plan.embedding &&
               embeds_well(q->scales[q->head].multiply, head->made.source.dims[1])) {
        q->sharing = QUANT_HEAD_EMBEDS;
    }
}

const float *quant_column_factors(struct quant *q, uint64_t n, tn_err *err)
{
    const float *multiplied = q->scales[q->head].multiply;
    float *factors = arena_array(&q->arena, (size_t)n, sizeof *factors);

    for (uint64_t k = 0; k < n && factors; k++)
        factors[k] = multiplied ? 1.0f / multiplied[k] : 1.0f;
    if (!factors)
        err_nomem(err, "factors of an embedding");
    return factors;
}
