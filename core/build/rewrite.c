/* SPDX-License-Identifier: Apache-2.0 */
/* The plan that results from what was decided: matrices become tensors, the cache gets its ranges, and ops that quantization needs
 * come between others. */
#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "base/mem.h"
#include "build/quant.h"
#include "engine/opset.h"
#include "tenon/ops.h"

/* -- Weights ------------------------------------------------------------------------------ */

struct rewriting {
    struct quant *q;
    const struct calibration *calib;
    struct emission *out;
    uint32_t *ids;              /* of the old plan's weights in the new one */
    uint32_t *values;           /* of its values */
    struct quant_linear **made; /* per old weight: the linear it is the chosen matrix of */
    uint32_t *ordered; /* per linear: 1 + the value that a `reorder` for it (and others) makes */
    bool stored;       /* ranges of the cache come from the checkpoint */
    uint32_t factors;  /* of an embedding that reads what was made of the head's matrix */
    tn_err *err;
};

static int32_t put_weight(struct rewriting *r, const struct plan_weight *w,
                          const struct weight_origin *origin, uint32_t *id)
{
    struct emission *e = r->out;
    int32_t rc;

    if (!mem_grow(&e->origins, &e->cap_origins, e->plan->n_weights + 1, sizeof *e->origins))
        return err_nomem(r->err, "a quantized plan");
    rc = plan_add_weight(e->plan, w, id, r->err);
    if (rc == TN_OK)
        e->origins[*id] = *origin;
    return rc;
}

static struct plan_weight part_of(const struct plan_weight *stack, const struct quant_linear *l,
                                  uint32_t i, const char *name)
{
    const struct plan_weight *m = &l->made.source;
    const tn_quant_tensor *t = &l->made.plan.tensors[i];
    struct plan_weight w = {.name = name,
                            .role = i == 0 ? stack->role : TN_ROLE_SCALE,
                            .dtype = t->dtype,
                            .n_dims = t->n_dims};

    memcpy(w.dims, t->dims, sizeof w.dims);
    if (t->rows && m->shard == TN_SHARD_AXIS0) {
        w.shard = TN_SHARD_AXIS0;
        w.shard_units = m->shard_units;
    } else if (t->rows && m->shard == TN_SHARD_AXIS1 && t->n_dims == 2) {
        uint64_t units = quant_column_units(l);
        w.shard = TN_SHARD_AXIS1;
        w.shard_units = (uint32_t)(units ? units : 1);
    }
    quant_stack(stack, l, &w);
    return w;
}

static int32_t put_parts(struct rewriting *r, struct quant_linear *l)
{
    size_t room = strlen(l->made.source.name) + 34;
    char *name = arena_alloc(&r->q->arena, room);
    int32_t rc = name ? TN_OK : err_nomem(r->err, "a quantized plan");

    for (uint32_t i = 0; i < l->made.plan.n_tensors && rc == TN_OK; i++) {
        struct weight_origin origin = {.made = &l->made, .part = i};
        struct plan_weight w = part_of(&r->q->from->plan->weights[l->weight], l, i, name);
        uint32_t id = 0;
        snprintf(name, room, "%s%s", l->made.source.name, l->made.plan.tensors[i].suffix);
        rc = put_weight(r, &w, &origin, &id);
        if (i == 0)
            r->ids[l->weight] = id; /* the others follow */
    }
    return rc;
}

static int32_t put_factors(struct rewriting *r)
{
    uint64_t n = r->q->from->plan->weights[r->q->shared].dims[1];
    struct weight_origin origin = {.table = quant_column_factors(r->q, n, r->err)};
    struct plan_weight w = {.name = "embed.factors",
                            .role = TN_ROLE_SCALE,
                            .dtype = TN_DT_F32,
                            .n_dims = 1,
                            .dims = {n}};

    return origin.table ? put_weight(r, &w, &origin, &r->factors) : TN_E_NOMEM;
}

static int32_t put_weights(struct rewriting *r)
{
    const struct emission *from = r->q->from;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < from->plan->n_weights && rc == TN_OK; i++) {
        const struct weight_scale *s = &r->q->scales[i];
        struct weight_origin origin = from->origins[i];
        if (r->made[i]) {
            rc = put_parts(r, r->made[i]);
            continue;
        }
        if (r->q->sharing == QUANT_HEAD_EMBEDS && i == r->q->shared)
            continue;
        if (r->q->sharing == QUANT_HEAD_SHARES && i == r->q->head) {
            r->ids[i] = r->ids[r->q->shared];
            continue;
        }
        if (s->divide || s->multiply || s->rows || s->turn_rows || s->turn_columns)
            origin.scale = s;
        rc = put_weight(r, &from->plan->weights[i], &origin, &r->ids[i]);
    }
    return rc == TN_OK && r->q->sharing == QUANT_HEAD_EMBEDS ? put_factors(r) : rc;
}

/* -- Ranges of the cache -------------------------------------------------------------------------------- */

/* What calibration saw of keys (as the cache gets them) or of values; `out` may become NULL in a dummy build. */
static int32_t find_seen(struct rewriting *r, const struct plan_op *op, bool values,
                         const struct calibration_input **out)
{
    uint64_t width = r->q->from->plan->values[op->in[values]].width;
    char name[32];

    snprintf(name, sizeof name, "kv.%" PRId32 ".%s", op->layer,
             values             ? "v"
             : r->q->o.hadamard ? "h"
                                : "k");
    *out = calibration_find(r->calib, name);
    if (r->calib && (!*out || (*out)->n_channels != width))
        return err_at(r->err, TN_E_FORMAT, NULL, TN_NO_OFFSET, name,
                      "the calibration has no ranges of %" PRIu64 " channels for this layer",
                      width);
    return TN_OK;
}

static bool has_factors(const struct rewriting *r, const struct plan_op *op)
{
    return r->q->key_factors && r->q->key_factors[op - r->q->from->plan->ops];
}

/* Per kv head the largest |x| that calibration saw, after what smoothing divides the values by. */
static int32_t head_ranges(struct rewriting *r, const struct plan_op *op, bool values, float **out)
{
    const struct plan *p = r->q->from->plan;
    uint64_t heads = (uint64_t)plan_attr(op, "n_kv_heads")->i;
    uint64_t dim = (uint64_t)plan_attr(op, "head_dim")->i;
    const struct plan_op *before = &p->ops[p->values[op->in[1]].producer];
    const float *divide =
        values && before->n_weights ? r->q->scales[before->weights[0]].divide : NULL;
    float *ranges = arena_array(&r->q->arena, (size_t)heads, sizeof *ranges);
    const struct calibration_input *in = NULL;
    int32_t rc = ranges ? find_seen(r, op, values, &in) : err_nomem(r->err, "ranges of the cache");

    if (rc != TN_OK)
        return rc;
    for (uint64_t k = 0; k < heads * dim; k++) {
        float a = in ? in->absmax[k] / (divide ? divide[k] : 1.0f) : 16.0f; /* dummies */
        ranges[k / dim] = fmaxf(ranges[k / dim], a);
    }
    if (!values && has_factors(r, op))
        quant_balanced_ranges(r->q, (size_t)(op - p->ops), r->calib, ranges);
    for (uint64_t h = 0; values && before->n_weights && h < heads; h++)
        if (r->q->scales[before->weights[0]].turn_rows)
            ranges[h] *= QUANT_RANGE_MARGIN;
    *out = ranges;
    return TN_OK;
}

/* The largest |x| that the scales of the checkpoint allow keys and values of this layer; TN_E_NOTFOUND: it has none. They
 * stand beside the projections, of which that of the values is found without looking through a rotation. */
static int32_t stored_ranges(const struct quant *q, const struct plan_op *append, float ranges[2],
                             tn_err *err)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *v = &p->ops[p->values[append->in[1]].producer];
    const struct weight_origin *o = v->n_weights ? &q->from->origins[v->weights[0]] : NULL;
    uint32_t dtype = 0;
    int32_t rc = TN_E_NOTFOUND;

    if (q->o.stored && o && o->n_sources)
        rc = stored_cache(q->o.stored, o->sources[0].tensor, &dtype, ranges, err);
    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++)
        ranges[i] *= dtype == TN_DT_I8 ? 127.0f : 448.0f;
    return rc;
}

bool quant_has_cache_scales(const struct quant *q)
{
    const struct plan *p = q->from->plan;
    float ranges[2];

    for (size_t i = 0; i < p->n_ops; i++)
        if (strcmp(p->ops[i].name, TN_OP_KV_APPEND) == 0 &&
            stored_ranges(q, &p->ops[i], ranges, NULL) != TN_E_NOTFOUND)
            return true;
    return false;
}

/* Ranges from the checkpoint's scales, alike for all heads of a layer. */
static int32_t put_stored_ranges(struct rewriting *r, const struct plan_op *from,
                                 struct plan_op *op)
{
    const tn_attr *count = plan_attr(op, "n_kv_heads");
    bool shared = (count->flags & TN_ATTR_SHARDED) != 0;
    float ranges[2] = {0.0f, 0.0f};
    int32_t rc = stored_ranges(r->q, from, ranges, r->err);

    if (rc == TN_E_NOTFOUND)
        return err_at(r->err, TN_E_FORMAT, NULL, TN_NO_OFFSET, "k_scale",
                      "the checkpoint has scales of the cache, but none for layer %" PRId32,
                      op->layer);
    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++) {
        float *values = arena_array(&r->q->arena, (size_t)count->i, sizeof *values);
        struct weight_origin origin = {.table = values};
        char name[48];
        struct plan_weight w = {.name = name,
                                .role = TN_ROLE_SCALE,
                                .dtype = TN_DT_F32,
                                .n_dims = 1,
                                .dims = {(uint64_t)count->i},
                                .shard = shared ? TN_SHARD_AXIS0 : TN_SHARD_NONE,
                                .shard_units = shared ? (uint32_t)count->i : 0};
        snprintf(name, sizeof name, "layers.%" PRId32 ".kv.%s_range", op->layer, i ? "v" : "k");
        for (int64_t k = 0; k < count->i && values; k++)
            values[k] = ranges[i];
        rc = values ? put_weight(r, &w, &origin, &op->weights[i])
                    : err_nomem(r->err, "ranges of the cache");
    }
    op->n_weights = 2;
    return rc;
}

bool quant_may_center(const struct plan *p, const struct plan_op *append)
{
    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        const tn_attr *cap = plan_attr(op, "softcap");
        for (uint32_t k = 0; k < op->n_in; k++)
            if (op->in[k] == append->out[0] &&
                (strcmp(op->name, TN_OP_ATTENTION) != 0 || (cap && cap->f > 0.0)))
                return false;
    }
    return true;
}

/* Zeros where keys must be stored with their means. */
static int32_t key_means(struct rewriting *r, const struct plan_op *op, float **out)
{
    bool center = quant_may_center(r->q->from->plan, op);
    uint64_t n = r->q->from->plan->values[op->in[0]].width;
    float *means = arena_array(&r->q->arena, (size_t)n, sizeof *means);
    const struct calibration_input *in = NULL;
    int32_t rc = means ? find_seen(r, op, false, &in) : err_nomem(r->err, "means of keys");

    if (rc != TN_OK)
        return rc;
    if (center && has_factors(r, op))
        quant_balanced_means(r->q, (size_t)(op - r->q->from->plan->ops), r->calib, means);
    for (uint64_t k = 0; in && center && k < n && !has_factors(r, op); k++)
        means[k] = (float)(in->sums[k] / (double)(in->n_rows ? in->n_rows : 1));
    *out = means;
    return TN_OK;
}

static int32_t range_values(struct rewriting *r, const struct plan_op *op, uint32_t i, float **out)
{
    if (i < 2)
        return head_ranges(r, op, i == 1, out);
    if (i == 2)
        return key_means(r, op, out);
    *out = r->calib ? r->q->feedback[op - r->q->from->plan->ops][i - 3] : NULL;
    return TN_OK;
}

/* Ranges of keys and values, means of keys, and feedback of both: how many of these five. Dummies have what calibration would make, so
 * that a benchmark does all the work. */
static uint32_t count_ranges(const struct rewriting *r, const struct plan_op *op)
{
    const struct quant *q = r->q;
    bool shaped = r->calib ? q->feedback && q->feedback[op - q->from->plan->ops][1]
                           : q->o.hadamard && plan_attr(op, "head_dim")->i <= CALIBRATION_DIM;

    return shaped ? 5 : quant_may_center(q->from->plan, op) ? 3 : 2;
}

static int32_t put_ranges(struct rewriting *r, const struct plan_op *from, struct plan_op *op)
{
    static const char *const what[] = {"k_range", "v_range", "k_mean", "k_feedback", "v_feedback"};
    const tn_attr *count = plan_attr(op, "n_kv_heads");
    uint64_t heads = (uint64_t)count->i, width = r->q->from->plan->values[from->in[0]].width;
    bool shared = (count->flags & TN_ATTR_SHARDED) != 0;
    uint32_t n = count_ranges(r, from);
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        struct weight_origin origin = {0};
        char name[48];
        struct plan_weight w = {.name = name,
                                .role = TN_ROLE_SCALE,
                                .dtype = TN_DT_F32,
                                .n_dims = i < 3 ? 1 : 2,
                                .dims = {i < 2 ? heads : width, i < 3 ? 0 : width / heads},
                                .shard = shared ? TN_SHARD_AXIS0 : TN_SHARD_NONE,
                                .shard_units = shared ? (uint32_t)heads : 0};
        float *values = NULL;
        snprintf(name, sizeof name, "layers.%" PRId32 ".kv.%s", op->layer, what[i]);
        rc = range_values(r, from, i, &values);
        origin.table = values;
        if (rc == TN_OK)
            rc = put_weight(r, &w, &origin, &op->weights[i]);
    }
    op->n_weights = n;
    return rc;
}

/* -- Ops ------------------------------------------------------------------------------------------------ */

/* The op that turns the heads of input 0 of `op`, which gets the result in its place. */
static int32_t put_hadamard(struct rewriting *r, struct plan_op *op, const char *heads)
{
    tn_attr attrs[] = {*plan_attr(op, heads), *plan_attr(op, "head_dim")};
    struct plan_value value = r->out->plan->values[op->in[0]];
    struct plan_op turn = {.name = TN_OP_HADAMARD,
                           .layer = op->layer,
                           .n_in = 1,
                           .n_out = 1,
                           .in = {op->in[0]},
                           .attrs = attrs,
                           .n_attrs = 2};

    attrs[0].name = "n_heads";
    return plan_add_op(r->out->plan, &turn, &value, &op->in[0], r->err);
}

static int32_t put_order(struct rewriting *r, const struct quant_linear *l, uint32_t *id)
{
    const char *name = l->made.source.name;
    size_t n = strlen(name), tail = strlen(".weight");
    char *order = arena_alloc(&r->q->arena, n + 8);
    struct weight_origin origin = {.table = l->order};
    struct plan_weight w = {.name = order,
                            .role = TN_ROLE_SCALE,
                            .dtype = TN_DT_I32,
                            .n_dims = 1,
                            .dims = {l->made.source.dims[1]}};

    if (!order)
        return err_nomem(r->err, "a quantized plan");
    if (n > tail && strcmp(name + n - tail, ".weight") == 0)
        n -= tail;
    snprintf(order, n + 8, "%.*s.order", (int)n, name);
    return put_weight(r, &w, &origin, id);
}

/* The op that brings input 0 of `op` into the order of the linear's columns, once for all that agree. */
static int32_t put_reorder(struct rewriting *r, const struct quant_linear *l, struct plan_op *op)
{
    const struct quant_group *g = &r->q->groups[l->group];
    struct plan_value value = r->out->plan->values[op->in[0]];
    struct plan_op turn = {.name = TN_OP_REORDER,
                           .layer = op->layer,
                           .n_in = 1,
                           .n_weights = 1,
                           .n_out = 1,
                           .in = {op->in[0]}};
    uint32_t first = 0, id = 0;
    int32_t rc;

    while (r->q->linears[g->linears[first]].order != l->order)
        first++;
    first = g->linears[first];
    if (r->ordered[first]) {
        op->in[0] = r->ordered[first] - 1;
        return TN_OK;
    }
    rc = put_order(r, l, &turn.weights[0]);
    if (rc == TN_OK)
        rc = plan_add_op(r->out->plan, &turn, &value, &id, r->err);
    if (rc == TN_OK)
        r->ordered[first] = (op->in[0] = id) + 1;
    return rc;
}

/* Logits keep attributes of their own. */
static int32_t put_attrs(struct rewriting *r, const struct plan_op *from, const tn_quant_plan *plan,
                         struct plan_op *op)
{
    uint32_t kept = strcmp(from->name, TN_OP_LOGITS) == 0 ? from->n_attrs : 0;
    tn_attr *attrs = arena_array(&r->q->arena, (size_t)kept + plan->n_attrs + 1, sizeof *attrs);

    if (!attrs)
        return err_nomem(r->err, "a quantized plan");
    for (uint32_t i = 0; i < kept; i++)
        attrs[i] = from->attrs[i];
    for (uint32_t i = 0; i < plan->n_attrs; i++)
        attrs[kept + i] = plan->attrs[i];
    op->attrs = attrs;
    op->n_attrs = kept + plan->n_attrs;
    return TN_OK;
}

/* What the op's matrices became: first all that take their places, then their scales, and so on; a bias last. Experts stay an op of
 * that name; a linear becomes what its plan says. */
static int32_t put_tensors(struct rewriting *r, const struct plan_op *from, struct plan_op *op)
{
    const struct quant_linear *first = r->made[from->weights[0]];
    const tn_quant_plan *plan = &first->made.plan;
    int32_t rc = TN_OK;

    if (first->n_parts == 1) {
        op->name = plan->op;
        rc = put_attrs(r, from, plan, op);
    }
    op->n_weights = 0;
    for (uint32_t t = 0; t < plan->n_tensors; t++)
        for (uint32_t i = 0; i < first->n_parts; i++)
            op->weights[op->n_weights++] = r->ids[from->weights[i]] + t;
    for (uint32_t i = first->n_parts; i < from->n_weights; i++)
        op->weights[op->n_weights++] = r->ids[from->weights[i]];
    return rc;
}

/* Embeddings read the tensors that were made of the head's matrix. */
static void put_embedding(const struct rewriting *r, struct plan_op *op)
{
    const tn_quant_plan *plan = &r->made[r->q->head]->made.plan;

    op->name = plan->embedding;
    for (op->n_weights = 0; op->n_weights < plan->n_tensors; op->n_weights++)
        op->weights[op->n_weights] = r->ids[r->q->head] + op->n_weights;
    op->weights[op->n_weights++] = r->factors;
}

static int32_t put_op(struct rewriting *r, const struct plan_op *from, bool ranges)
{
    const struct plan *p = r->q->from->plan;
    const struct quant_linear *l = from->n_weights ? r->made[from->weights[0]] : NULL;
    struct plan_value values[TN_OP_MAX_VALUES];
    struct plan_op op = *from;
    uint32_t ids[TN_OP_MAX_VALUES] = {0};
    bool appends = strcmp(op.name, TN_OP_KV_APPEND) == 0;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < op.n_in; i++)
        op.in[i] = r->values[from->in[i]];
    for (uint32_t i = 0; i < op.n_weights; i++)
        op.weights[i] = r->ids[from->weights[i]];
    for (uint32_t i = 0; i < op.n_out; i++)
        values[i] = p->values[from->out[i]];
    if (r->q->sharing == QUANT_HEAD_EMBEDS && strcmp(op.name, TN_OP_EMBEDDING) == 0 &&
        from->weights[0] == r->q->shared)
        put_embedding(r, &op);
    if (l) {
        rc = put_tensors(r, from, &op);
        if (rc == TN_OK && l->order && !l->folded)
            rc = put_reorder(r, l, &op);
    }
    if (rc == TN_OK && ranges && appends && op.n_weights == 0)
        rc = r->stored ? put_stored_ranges(r, from, &op) : put_ranges(r, from, &op);
    /* Scales that came with the checkpoint are those of keys as they are. */
    if (rc == TN_OK && r->q->o.hadamard && !r->stored &&
        (appends || strcmp(op.name, TN_OP_ATTENTION) == 0))
        rc = put_hadamard(r, &op, appends ? "n_kv_heads" : "n_heads");
    if (rc == TN_OK)
        rc = plan_add_op(r->out->plan, &op, values, ids, r->err);
    for (uint32_t i = 0; i < op.n_out && rc == TN_OK; i++)
        r->values[from->out[i]] = ids[i];
    return rc;
}

static int32_t put_all(struct rewriting *r, bool ranges)
{
    const struct plan *p = r->q->from->plan;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < p->n_hyper && rc == TN_OK; i++)
        rc = plan_set_as(r->out->plan, &p->hyper[i], r->err);
    if (rc == TN_OK)
        rc = put_weights(r);
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        rc = put_op(r, &p->ops[i], ranges);
    return rc == TN_OK ? plan_check(r->out->plan, r->err) : rc;
}

/* No weight comes from a checkpoint: some are random, others are tables. */
static bool is_dummy(const struct emission *e)
{
    for (size_t i = 0; i < e->plan->n_weights; i++)
        if (e->origins[i].n_sources > 0)
            return false;
    return true;
}

static int32_t open_rewriting(struct rewriting *r)
{
    const struct plan *p = r->q->from->plan;

    r->ids = mem_zarray(p->n_weights, sizeof *r->ids);
    r->values = mem_zarray(p->n_values, sizeof *r->values);
    r->made = mem_zarray(p->n_weights, sizeof *r->made);
    r->ordered = mem_zarray(r->q->n_linears, sizeof *r->ordered);
    if (!r->ids || !r->values || !r->made || !r->ordered)
        return err_nomem(r->err, "a quantized plan");
    return plan_new(&r->out->plan, r->err);
}

int32_t quant_rewrite(struct quant *q, const struct calibration *calib, struct emission *out,
                      tn_err *err)
{
    struct emission e = {0};
    struct rewriting r = {.q = q, .calib = calib, .out = &e, .err = err};
    bool dummy = is_dummy(q->from);
    int32_t rc = open_rewriting(&r);

    r.stored = !calib && quant_has_cache_scales(q);
    quant_settle_head(q);
    quant_fold(q);
    if (rc == TN_OK) {
        for (uint32_t i = 0; i < q->n_linears; i++)
            if (q->linears[i].chosen)
                r.made[q->linears[i].weight] = &q->linears[i];
        rc = put_all(&r, calib || dummy || r.stored);
    }
    mem_free(r.ids);
    mem_free(r.values);
    mem_free(r.made);
    mem_free(r.ordered);
    if (rc != TN_OK) {
        emission_release(&e);
        return rc;
    }
    *out = e;
    return TN_OK;
}
