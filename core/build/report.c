/* SPDX-License-Identifier: Apache-2.0 */
#include "build/report.h"

#include "tenon/ops.h"

static uint64_t bytes_after(const struct quant_linear *l)
{
    uint64_t sum = 0;

    if (!l->chosen)
        return plan_weight_bytes(&l->made.source);
    for (uint32_t i = 0; i < l->made.plan.n_tensors; i++) {
        const tn_quant_tensor *t = &l->made.plan.tensors[i];
        struct plan_weight w = {.dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(w.dims, t->dims, sizeof w.dims);
        sum += plan_weight_bytes(&w);
    }
    return sum;
}

static json_t *linear_json(const struct quant *q, const struct quant_linear *l)
{
    json_t *o = json_pack("{s:s}", "name", l->made.source.name);

    if (l->chosen)
        json_object_set_new(o, "op", json_string(l->n_parts > 1 ? TN_OP_MOE_MLP : l->made.plan.op));
    else
        json_object_set_new(o, "kept", json_string(l->why));
    if (l->chosen && l->n_parts > 1)
        json_object_set_new(o, "dtype", json_string(tn_dtype_name(l->made.plan.tensors[0].dtype)));
    if (l->chosen && l->order)
        json_object_set_new(o, "columns",
                            json_string(l->folded ? "in order by the rows of what it reads"
                                                  : "in order by reorder"));
    if (q->scales[l->weight].multiply)
        json_object_set_new(o, "smoothed", json_true());
    if (q->sharing == QUANT_HEAD_EMBEDS && l->weight == q->head)
        json_object_set_new(o, "embedding", json_string(l->made.plan.embedding));
    if (l->error >= 0.0)
        json_object_set_new(o, "error", json_real(l->error));
    if (l->chosen && l->made.weight_error >= 0.0)
        json_object_set_new(o, "weight_error", json_real(l->made.weight_error));
    if (l->chosen && l->made.plan.note)
        json_object_set_new(o, "note", json_string(l->made.plan.note));
    return o;
}

static bool is_left(const struct plan *p, const struct plan_op *op, uint32_t i)
{
    return p->weights[op->weights[i]].role == TN_ROLE_MATRIX && !quant_multiplies(op->name);
}

uint32_t report_left(const struct plan *p, const struct plan_op *op)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < op->n_weights; i++)
        n += is_left(p, op, i);
    return n;
}

static json_t *left_json(const struct plan *p)
{
    json_t *list = json_array();

    for (size_t i = 0; i < p->n_ops; i++)
        for (uint32_t k = 0; k < p->ops[i].n_weights; k++)
            if (is_left(p, &p->ops[i], k))
                json_array_append_new(list, json_pack("{s:s, s:s}", "name",
                                                      p->weights[p->ops[i].weights[k]].name, "op",
                                                      p->ops[i].name));
    return list;
}

static json_t *options_json(const struct quant *q)
{
    json_t *o = json_object();

    for (uint32_t i = 0; i < q->o.n_options; i++)
        json_object_set_new(o, q->o.options[i].key, json_string(q->o.options[i].value));
    return o;
}

json_t *quant_report(const struct quant *q)
{
    json_t *linears = json_array();
    uint64_t before = 0, after = 0;

    if (!q->scheme && !q->o.stored) {
        json_decref(linears);
        return json_object();
    }
    for (uint32_t i = 0; i < q->n_linears; i++) {
        const struct quant_linear *l = &q->linears[i];
        if (l->made.source.role != TN_ROLE_HEAD) {
            before += plan_weight_bytes(&l->made.source);
            after += bytes_after(l);
        }
        json_array_append_new(linears, linear_json(q, l));
    }
    return json_pack("{s:s, s:s, s:s, s:b, s:o, s:{s:I, s:I}, s:o, s:o}", "scheme", q->name,
                     "plugin", q->plugin, "fallback",
                     q->scheme ? q->scheme->fallback : stored_format(q->o.stored)->fallback,
                     "prequantized", !q->scheme, "options", options_json(q), "bytes", "before",
                     (json_int_t)before, "after", (json_int_t)after, "linears", linears, "left",
                     left_json(q->from->plan));
}
