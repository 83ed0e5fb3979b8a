/* SPDX-License-Identifier: Apache-2.0 */
/* Asking a scheme about every linear. */
#include "build/quant.h"

#include <inttypes.h>

#include "base/log.h"
#include "base/mem.h"
#include "build/matrix.h"
#include "engine/opset.h"
#include "tenon/ops.h"

/* -- Opening ----------------------------------------------------------------------------------------- */

static int32_t open_scheme(struct quant *q, tn_err *err)
{
    int32_t rc = registry_quant(q->o.plugins, q->o.scheme, &q->scheme, &q->instance, err);

    if (rc != TN_OK)
        return rc;
    q->plugin = registry_plugin_of(q->o.plugins, q->scheme);
    q->name = q->scheme->name;
    q->needs = q->scheme->needs;
    q->build = q->instance;
    if (!q->scheme->open && q->o.n_options > 0)
        return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--quant-option",
                      "%s = %s: the scheme %s has no options", q->o.options[0].key,
                      q->o.options[0].value, q->scheme->name);
    if (!q->scheme->open)
        return TN_OK;
    rc = q->scheme->open(q->instance, q->o.options, q->o.n_options, &q->build, &q->needs, err);
    if (rc != TN_OK)
        return err_plugin(err, q->plugin), rc;
    q->opened = true;
    return TN_OK;
}

static tn_value row_value(const struct plan *p, uint32_t id)
{
    const struct plan_value *v = &p->values[id];

    return (tn_value){.h = TN_HDR(tn_value),
                      .kind = v->kind,
                      .dtype = v->dtype,
                      .width = v->width,
                      .shard_units = v->shard_units,
                      .id = id};
}

static void describe_weight(struct quantized *m, uint32_t i, const struct plan_weight *w)
{
    m->weights[i] = (tn_weight){
        .h = TN_HDR(tn_weight), .name = w->name, .dtype = w->dtype, .n_dims = w->n_dims};
    memcpy(m->weights[i].dims, w->dims, sizeof w->dims);
    m->weights[i].stride0 = matrix_cols(w) * tn_dtype_bits(w->dtype) / 8;
    m->weight_list[i] = &m->weights[i];
}

/* The linear, or the experts, as a scheme sees them. */
static int32_t describe(struct quant *q, struct quant_linear *l, tn_err *err)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *op = &p->ops[l->op];
    struct quantized *m = &l->made;
    bool experts = l->n_parts > 1;

    m->source = quant_matrix(&p->weights[l->weight]);
    m->in = row_value(p, op->in[0]);
    m->out_value = row_value(p, op->out[0]);
    if (experts) {
        m->n_experts = (uint32_t)p->weights[l->weight].dims[0];
        m->in.width = m->source.dims[1];
        m->out_value.width = m->source.dims[0];
    }
    m->in_list[0] = &m->in;
    m->out_list[0] = &m->out_value;
    describe_weight(m, 0, &m->source);
    for (uint32_t i = 1; i < op->n_weights && !experts; i++)
        describe_weight(m, i, &p->weights[op->weights[i]]);
    m->op = (tn_op){.h = TN_HDR(tn_op),
                    .name = op->name,
                    .layer = op->layer,
                    .n_in = 1,
                    .n_out = 1,
                    .n_weights = experts ? 1 : op->n_weights,
                    .in = m->in_list,
                    .out = m->out_list,
                    .weights = m->weight_list};
    m->scheme = q->scheme;
    m->build = q->build;
    m->plugin = q->plugin;
    m->stored = q->scheme ? NULL : q->o.stored;
    m->weight_error = -1.0;
    m->group = l->group;
    m->experts = l->experts ? &q->groups[l->experts] : NULL;
    m->origin = q->from->origins[l->weight];
    return quant_matrix_origin(&q->arena, &p->weights[l->weight], &m->origin, err);
}

int32_t quant_open(const struct quant_options *o, const struct emission *from, struct quant **out,
                   tn_err *err)
{
    struct quant *q = mem_zalloc(sizeof *q);
    int32_t rc;

    if (!q)
        return err_nomem(err, "quantization");
    q->o = *o;
    if (o->stored) {
        q->plugin = stored_plugin(o->stored);
        q->name = stored_method(o->stored);
    }
    rc = quant_part_head(q, from, err);
    if (rc == TN_OK && o->scheme)
        rc = open_scheme(q, err);
    if (rc == TN_OK)
        rc = quant_survey(q, err);
    for (uint32_t i = 0; i < q->n_linears && rc == TN_OK; i++)
        rc = describe(q, &q->linears[i], err);
    if (rc != TN_OK) {
        quant_close(q);
        return rc;
    }
    *out = q;
    return TN_OK;
}

void quant_close(struct quant *q)
{
    if (!q)
        return;
    for (uint32_t i = 0; i < q->n_linears; i++)
        quantized_drop(&q->linears[i].made);
    for (uint32_t i = 0; i < q->n_groups; i++)
        hessian_release(&q->groups[i].hessian);
    if (q->opened && q->scheme->close)
        q->scheme->close(q->instance, q->build);
    emission_release(&q->parted);
    arena_release(&q->arena);
    mem_free(q);
}

/* -- What the scheme says ------------------------------------------------------------------------------ */

static int32_t refuse_plan(const struct quant *q, const struct quant_linear *l, const char *why,
                           tn_err *err)
{
    err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, l->made.source.name, "the scheme %s: %s", q->name,
           why);
    err_plugin(err, q->plugin);
    return TN_E_FORMAT;
}

static int32_t check_tensor(const struct quant *q, const struct quant_linear *l,
                            const tn_quant_tensor *t, tn_err *err)
{
    uint64_t n = l->made.source.dims[0], k = l->made.source.dims[1],
             cols = t->group ? k / t->group : k;

    if (!t->suffix || t->suffix[0] == '\0' || strlen(t->suffix) > 32)
        return refuse_plan(q, l, "a tensor has no suffix, or one of over 32 bytes", err);
    if (t->n_dims < 1 || t->n_dims > TN_MAX_DIMS || tn_dtype_bits(t->dtype) == 0)
        return refuse_plan(q, l, "a tensor has an unknown dtype or no dimensions", err);
    if (t->rows && (t->dims[0] != n || t->n_dims > 2))
        return refuse_plan(q, l, "a tensor by rows does not have the matrix's rows", err);
    if (t->rows && t->n_dims == 2 && (t->dims[1] != cols || (t->group && k % t->group != 0)))
        return refuse_plan(q, l, "a tensor by groups does not have the matrix's columns", err);
    return TN_OK;
}

/* What becomes of the linear, says the scheme; or the format, of a matrix that the checkpoint has quantized. */
static int32_t ask(const struct quant *q, const struct quant_linear *l, tn_quant_plan *plan,
                   tn_err *why)
{
    const struct weight_origin *o = &l->made.origin;

    if (q->scheme)
        return q->scheme->plan(q->build, &l->made.op, l->made.stats, plan, why);
    for (uint32_t i = 0; i < o->n_sources; i++)
        if (!o->sources[i].stored)
            return tn_err_set(why, TN_E_UNSUPPORTED,
                              "the checkpoint has %s of it unquantized, and so is it here",
                              o->n_sources > 1 ? "a part" : "all");
    if (o->n_sources == 0) /* a dummy build */
        return tn_err_set(why, TN_E_UNSUPPORTED, "there is no checkpoint");
    return stored_plan(q->o.stored, o->sources, o->n_sources, plan, why);
}

/* The only op that embeddings become reads a matrix of int8 and a scale of each row. */
static bool may_embed(const struct quant_linear *l)
{
    const tn_quant_plan *plan = &l->made.plan;
    const tn_quant_tensor *t = plan->tensors;

    return strcmp(l->made.op.name, TN_OP_LOGITS) == 0 &&
           strcmp(plan->embedding, TN_OP_EMBEDDING_INT8) == 0 && plan->n_tensors == 2 &&
           t[0].dtype == TN_DT_I8 && t[0].rows && t[0].n_dims == 2 && !t[0].group &&
           t[1].dtype == TN_DT_F32 && t[1].rows && t[1].n_dims == 1;
}

/* Asks; fills l->chosen or l->why. */
static int32_t decide(struct quant *q, struct quant_linear *l, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    tn_quant_plan *plan = &l->made.plan;
    const char *unfit;
    int32_t rc;

    l->chosen = false;
    *plan = (tn_quant_plan){.h = TN_HDR(tn_quant_plan)};
    if (l->why[0] || l->raised)
        return TN_OK;
    rc = ask(q, l, plan, &why);
    if (rc == TN_E_UNSUPPORTED) {
        snprintf(l->why, sizeof l->why, "%s", why.msg[0] ? why.msg : "the scheme declines it");
        return TN_OK;
    }
    if (rc != TN_OK) {
        if (err)
            *err = why;
        err_plugin(err, q->plugin);
        return rc;
    }
    if (!plan->op || plan->n_tensors < 1 || plan->n_tensors > TN_QUANT_MAX_TENSORS ||
        plan->n_attrs > TN_QUANT_MAX_ATTRS)
        return refuse_plan(q, l, "states no op, no tensors or too many", err);
    if (strcmp(l->made.op.name, TN_OP_LOGITS) == 0 && !opset_makes_logits(plan->op))
        return refuse_plan(q, l, "makes an op of the output projection that makes no logits", err);
    if (plan->embedding && !may_embed(l))
        return refuse_plan(q, l, "names an op for embeddings that does not read what it makes",
                           err);
    for (uint32_t i = 0; i < plan->n_tensors; i++)
        if ((rc = check_tensor(q, l, &plan->tensors[i], err)) != TN_OK)
            return rc;
    if (!quant_ranks_share(q, l)) {
        snprintf(l->why, sizeof l->why,
                 "%" PRId64 " ranks would cut through the groups of its %" PRIu64 " columns",
                 q->o.tp_size, l->made.source.dims[1]);
        return TN_OK;
    }
    rc = q->scheme ? TN_OK : quant_find_order(q, l, err);
    unfit = rc == TN_OK && l->n_parts > 1 ? quant_unfit_for_experts(l) : NULL;
    if (unfit) {
        l->order = NULL;
        snprintf(l->why, sizeof l->why, "%s", unfit);
    }
    l->chosen = rc == TN_OK && !unfit;
    return rc;
}

static int32_t check_needs(const struct quant *q, tn_err *err)
{
    if (!q->needs)
        return TN_OK;
    if (q->scheme->flags & TN_QUANT_NEEDS_OPTIONAL) {
        log_warn("%s works without calibration, but less well: give texts with --calib-data",
                 q->scheme->name);
        return TN_OK;
    }
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--quant", "%s needs calibration",
           q->scheme->name);
    err_remedy(err, "give texts with --calib-data, or the statistics of an earlier build with "
                    "--calib-stats");
    return TN_E_CONFIG;
}

static int32_t decide_linears(struct quant *q, const struct checkpoint *c,
                              const struct calibration *calib, tn_err *err)
{
    int32_t rc = TN_OK;

    if (!q->scheme && !q->o.stored)
        return TN_OK;
    if (q->scheme && !calib && c)
        rc = check_needs(q, err);
    if (rc == TN_OK && calib && c && q->needs)
        rc = quant_smooth(q, c, calib, err);
    for (uint32_t i = 0; i < q->n_linears && rc == TN_OK; i++) {
        struct quant_linear *l = &q->linears[i];
        struct quant_group *g = &q->groups[l->group];
        l->made.stats = g->raw ? &g->stats : NULL;
        l->made.origin.scale = &q->scales[l->weight];
        rc = decide(q, l, err);
    }
    quant_agree_on_experts(q);
    return rc;
}

int32_t quant_decide(struct quant *q, const struct checkpoint *c, const struct calibration *calib,
                     tn_err *err)
{
    int32_t rc = decide_linears(q, c, calib, err);

    if (rc != TN_OK || !calib || !c || !q->o.hadamard)
        return rc;
    rc = quant_balance_keys(q, calib, err);
    if (rc == TN_OK)
        rc = quant_turn_values(q, calib, err);
    return rc == TN_OK ? quant_shape_errors(q, c, calib, err) : rc;
}
