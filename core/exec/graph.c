/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/graph.h"

#include <inttypes.h>

#include "base/checked.h"
#include "base/mem.h"
#include "engine/opset.h"
#include "tenon/ops.h"

/* -- Cutting sizes to a rank ----------------------------------------------------------------------- */

static int32_t indivisible(const struct topology *t, const char *what, uint64_t units, tn_err *err)
{
    uint32_t most = t->tp_size - 1;

    while (most > 1 && units % most != 0)
        most--;
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, what,
           "%" PRIu64 " units cannot be divided among %" PRIu32 " ranks", units, t->tp_size);
    err_remedy(err,
               "choose a --tp-size that divides the units (heads, rows, or groups of a quantized "
               "matrix), the largest below is %" PRIu32
               "; built with --tp-size, a matrix whose groups it would cut is not quantized",
               most);
    return TN_E_CONFIG;
}

/* This rank's share of `size` entries that come in `units` indivisible units. A rank beyond the units (more ranks than
 * kv heads) holds a replica of one unit. */
static int32_t share(const struct topology *t, const char *what, uint64_t size, uint64_t units,
                     uint64_t *out, tn_err *err)
{
    if (t->tp_size == 1 || units == 0) {
        *out = size;
        return TN_OK;
    }
    if (units >= t->tp_size && units % t->tp_size == 0) {
        *out = size / t->tp_size;
        return TN_OK;
    }
    if (units < t->tp_size && t->tp_size % units == 0) {
        *out = size / units;
        return TN_OK;
    }
    return indivisible(t, what, units, err);
}

static bool is_table(const struct plan_op *op)
{
    return opset_embeds(op->name) || opset_makes_logits(op->name);
}

/* Whether the ranks hold the op's vocabulary whole (see may_be_whole): each computes all of it, and the collective behind it
 * has nothing to do. */
static bool holds_whole(const struct graph *g, const struct plan_op *op)
{
    const struct plan_weight *w = op->n_weights ? &g->plan->weights[op->weights[0]] : NULL;

    return g->topo.tp_size > 1 && w && is_table(op) && w->shard == TN_SHARD_AXIS0 &&
           g->weights[op->weights[0]].dims[0] == w->dims[0];
}

/* Behind cut_weight for all weights. */
static int32_t cut_value(struct graph *g, uint32_t id, tn_err *err)
{
    const struct plan_value *v = &g->plan->values[id];
    uint64_t units = holds_whole(g, &g->plan->ops[v->producer]) ? 0 : v->shard_units;
    tn_value *out = &g->values[id];

    *out = (tn_value){.h = TN_HDR(tn_value),
                      .kind = v->kind,
                      .dtype = v->dtype == TN_DT_ACT ? g->act_dtype : v->dtype,
                      .shard_units = v->shard_units,
                      .id = id};
    return share(&g->topo, g->plan->ops[v->producer].name, v->width, units, &out->width, err);
}

/* The attribute that says where a rank's part of an op's entries begins (of a vocabulary, of the experts); NULL for ops
 * that look nothing up. */
static const char *first_attr(const struct plan_op *op)
{
    return opset_embeds(op->name)                 ? "vocab_first"
           : strcmp(op->name, TN_OP_MOE_MLP) == 0 ? "expert_first"
                                                  : NULL;
}

static bool uses(const struct plan_op *op, uint32_t weight)
{
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (op->weights[i] == weight)
            return true;
    return false;
}

/* Whether ranks beyond the units may hold replicas: of a matrix whose output they then hold twice, yes; of a part of a
 * sum (row parallel matrices, tables of which each rank looks up its own entries), no, since it would be added twice. */
static bool may_replicate(const struct graph *g, uint32_t weight)
{
    if (g->plan->weights[weight].shard != TN_SHARD_AXIS0)
        return false;
    for (size_t i = 0; i < g->plan->n_ops; i++) {
        const struct plan_op *op = &g->plan->ops[i];
        if (first_attr(op) && uses(op, weight))
            return false;
    }
    return true;
}

/* Whether the value goes into this collective and nothing else. */
static bool only_into(const struct plan *p, uint32_t value, const char *collective)
{
    uint32_t n = 0;

    for (size_t i = 0; i < p->n_ops; i++)
        for (uint32_t k = 0; k < p->ops[i].n_in; k++)
            if (p->ops[i].in[k] == value) {
                n++;
                if (strcmp(p->ops[i].name, collective) != 0)
                    return false;
            }
    return n == 1;
}

/* A vocabulary of which ranks cannot have equal parts (that of GPT-2 has 50257 entries, an odd number) may be held whole by
 * each: where it is looked up, and where logits are made, if a collective is all that reads them. */
static bool may_be_whole(const struct graph *g, uint32_t weight)
{
    const struct plan *p = g->plan;
    bool found = false;

    if (p->weights[weight].shard != TN_SHARD_AXIS0 || p->weights[weight].shard_units != 0 ||
        p->weights[weight].dims[0] % g->topo.tp_size == 0)
        return false;
    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        bool logits = opset_makes_logits(op->name);
        if (!uses(op, weight))
            continue;
        if (!is_table(op) ||
            !only_into(p, op->out[0], logits ? TN_OP_ALL_GATHER : TN_OP_ALL_REDUCE))
            return false;
        found = true;
    }
    return found;
}

/* -- Groups of columns ----------------------------------------------------------------------------- */

#define LEAST_PIECE 8 /* of int4: four bytes, as many as a scale has */

uint64_t graph_piece(uint64_t group, uint64_t cols)
{
    uint64_t piece = gcd(group, cols);

    return piece == group || piece >= LEAST_PIECE ? piece : 0;
}

/* A matrix of int4 whose columns ranks share. */
struct grouping {
    const char *matrix;
    uint64_t cols, group;
    uint32_t units; /* that the columns come in; 0: ranks do not share them */
    bool is_matrix; /* asked about: the matrix itself; else scales or zero points */
};

static bool group_linear(const struct plan *p, const struct plan_op *op, struct grouping *out)
{
    const struct plan_value *x = &p->values[op->in[0]];

    *out = (struct grouping){p->weights[op->weights[0]].name, x->width,
                             (uint64_t)plan_attr(op, "group")->i, x->shard_units, false};
    return p->weights[op->weights[0]].shard == TN_SHARD_AXIS1 && x->shard_units != 0;
}

/* Of experts it is down's, whose scales say how long groups are. */
static bool group_experts(const struct plan *p, const struct plan_op *op, struct grouping *out)
{
    const struct plan_weight *down = &p->weights[op->weights[2]];

    if (op->n_weights < 6 || down->dtype != TN_DT_I4 || down->shard != TN_SHARD_AXIS2)
        return false;
    *out = (struct grouping){
        down->name, down->dims[2], down->dims[2] / p->weights[op->weights[5]].dims[2],
        down->shard_units ? down->shard_units : (uint32_t)down->dims[2], false};
    return true;
}

/* Whether the weight is a matrix, scales or zero points whose columns ranks share as groups; only of basic ops, whose groups are
 * known. */
static bool grouping_of(const struct graph *g, uint32_t weight, struct grouping *out)
{
    const struct plan *p = g->plan;
    const struct plan_weight *w = &p->weights[weight];
    uint32_t axis = w->shard == TN_SHARD_AXIS1 ? 1 : w->shard == TN_SHARD_AXIS2 ? 2 : 0;

    for (size_t i = 0; i < p->n_ops && g->topo.tp_size > 1 && axis > 0 && axis + 1 == w->n_dims;
         i++) {
        const struct plan_op *op = &p->ops[i];
        bool linear = strcmp(op->name, TN_OP_LINEAR_INT4) == 0;
        if (!uses(op, weight) || (!linear && strcmp(op->name, TN_OP_MOE_MLP) != 0) ||
            !(linear ? group_linear(p, op, out) : group_experts(p, op, out)))
            continue;
        out->is_matrix = w->dtype == TN_DT_I4;
        return true;
    }
    return false;
}

/* How many columns each of `ranks` has, if they can have equal parts of whole bytes and no too short pieces of groups; else 0. */
static uint64_t shared_columns(const struct grouping *x, uint32_t ranks)
{
    uint64_t cols = x->cols / ranks;

    return x->units % ranks == 0 && cols % 2 == 0 && graph_piece(x->group, cols) ? cols : 0;
}

static int32_t refuse_groups(const struct graph *g, const struct grouping *x, tn_err *err)
{
    uint32_t most = g->topo.tp_size - 1;

    while (most > 1 && !shared_columns(x, most))
        most--;
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, x->matrix,
           "its %" PRIu64 " columns (%" PRIu32 " units), in groups of %" PRIu64
           ", cannot be divided among %" PRIu32 " ranks: pieces of groups must have %d columns or "
           "more",
           x->cols, x->units, x->group, g->topo.tp_size, LEAST_PIECE);
    err_remedy(err,
               "the largest --tp-size below that suits this matrix is %" PRIu32
               "; built with --tp-size %" PRIu32 " it would not be quantized",
               most, g->topo.tp_size);
    return TN_E_CONFIG;
}

static int32_t cut_groups(struct graph *g, const struct grouping *x, uint32_t id, tn_err *err)
{
    uint64_t cols = shared_columns(x, g->topo.tp_size), piece, stride;
    tn_weight *out = &g->weights[id];
    uint32_t axis = out->n_dims - 1;

    if (cols == 0)
        return refuse_groups(g, x, err);
    piece = graph_piece(x->group, cols);
    stride = out->dims[axis];
    out->dims[axis] = x->is_matrix ? cols : cols / piece;
    g->repeat[id] = x->is_matrix ? 1 : (uint32_t)(x->group / piece);
    if (g->repeat[id] > 1 ||
        axis == 2) /* what is repeated, or lies scattered, is gathered (weights.c) */
        stride = out->dims[axis];
    out->stride0 = (axis == 2 ? out->dims[1] : 1) * stride * tn_dtype_bits(out->dtype) / 8;
    return TN_OK;
}

static int32_t cut_weight(struct graph *g, uint32_t id, tn_err *err)
{
    const struct plan_weight *w = &g->plan->weights[id];
    tn_weight *out = &g->weights[id];
    int axis = plan_shard_axis(w);
    uint64_t inner = 1;
    struct grouping grouped;
    int32_t rc = TN_OK;

    *out = (tn_weight){
        .h = TN_HDR(tn_weight), .name = w->name, .dtype = w->dtype, .n_dims = w->n_dims};
    memcpy(out->dims, w->dims, sizeof out->dims);
    g->repeat[id] = 1;
    if (grouping_of(g, id, &grouped))
        return cut_groups(g, &grouped, id, err);
    if (axis >= 0 && !may_be_whole(g, id)) {
        uint64_t units = w->shard_units ? w->shard_units : w->dims[axis];
        rc = share(&g->topo, w->name, w->dims[axis], units, &out->dims[axis], err);
        if (rc == TN_OK && units < g->topo.tp_size && !may_replicate(g, id))
            rc = indivisible(&g->topo, w->name, units, err);
        if (rc == TN_OK && w->dtype == TN_DT_I4 && out->dims[w->n_dims - 1] % 2 != 0)
            rc = indivisible(&g->topo, w->name, w->dims[axis] / 2, err);
    }
    /* A slice along axis 1 of a matrix leaves its rows where they are; one along axis 2 is gathered (weights.c). */
    for (uint32_t i = 1; i < w->n_dims; i++)
        inner *= axis == 2 ? out->dims[i] : w->dims[i];
    out->stride0 = inner * tn_dtype_bits(w->dtype) / 8;
    return rc;
}

/* Number of the first entry that this rank holds. */
static int64_t first_entry(const struct graph *g, const struct plan_op *op)
{
    const struct plan_weight *w = op->n_weights ? &g->plan->weights[op->weights[0]] : NULL;

    if (!w || !first_attr(op) || g->topo.tp_size == 1 || w->shard != TN_SHARD_AXIS0 ||
        holds_whole(g, op))
        return 0;
    return (int64_t)(g->topo.tp_rank * g->weights[op->weights[0]].dims[0]);
}

/* The attributes with this rank's counts, and one more where it holds entries from the middle of a table. */
static int32_t cut_attrs(struct graph *g, const struct plan_op *op, const tn_attr **out,
                         uint32_t *n, tn_err *err)
{
    tn_attr *a = arena_array(&g->arena, op->n_attrs + 1, sizeof *a);
    int64_t first = first_entry(g, op);

    if (!a)
        return err_nomem(err, "binding a plan");
    *n = op->n_attrs;
    for (uint32_t i = 0; i < op->n_attrs; i++) {
        uint64_t units = (uint64_t)op->attrs[i].i;
        int32_t rc = TN_OK;
        a[i] = op->attrs[i];
        if (a[i].flags & TN_ATTR_SHARDED)
            rc = share(&g->topo, op->name, units, units, &units, err);
        if (rc != TN_OK)
            return rc;
        a[i].i = (int64_t)units;
        if (strcmp(op->name, TN_OP_LINEAR_INT4) == 0 && strcmp(a[i].name, "group") == 0)
            a[i].i /= g->repeat[op->weights[1]];
        if (first && strcmp(a[i].name, first_attr(op)) == 0) {
            a[i].i += first;
            first = 0;
        }
    }
    if (first)
        a[(*n)++] = (tn_attr)TN_ATTR_INT(first_attr(op), first);
    *out = a;
    return TN_OK;
}

/* -- Building -------------------------------------------------------------------------------------- */

/* With one rank a collective hands on its input: later ops read that instead. So it is with several where each has
 * computed the whole. */
static bool is_idle_collective(const struct graph *g, const struct plan_op *op)
{
    if (strcmp(op->name, TN_OP_ALL_REDUCE) != 0 && strcmp(op->name, TN_OP_ALL_GATHER) != 0)
        return false;
    return g->topo.tp_size == 1 ||
           holds_whole(g, &g->plan->ops[g->plan->values[op->in[0]].producer]);
}

static const tn_value *const *value_list(struct graph *g, const uint32_t *ids, uint32_t n)
{
    const tn_value **list = arena_array(&g->arena, n, sizeof *list);

    for (uint32_t i = 0; list && i < n; i++)
        list[i] = &g->values[g->alias[ids[i]]];
    return list;
}

static int32_t add_op(struct graph *g, uint32_t index, tn_err *err)
{
    const struct plan_op *po = &g->plan->ops[index];
    struct graph_op *go = arena_alloc(&g->arena, sizeof *go);
    const tn_weight **weights = arena_array(&g->arena, po->n_weights, sizeof *weights);
    const tn_attr *attrs = NULL;
    uint32_t n_attrs = 0;
    int32_t rc;

    if (!go || !weights || !mem_grow(&g->ops, &g->cap_ops, g->n_ops + 1, sizeof *g->ops))
        return err_nomem(err, "binding a plan");
    rc = cut_attrs(g, po, &attrs, &n_attrs, err);
    if (rc != TN_OK)
        return rc;
    for (uint32_t i = 0; i < po->n_weights; i++)
        weights[i] = &g->weights[po->weights[i]];
    *go = (struct graph_op){.op = {.h = TN_HDR(tn_op),
                                   .name = po->name,
                                   .layer = po->layer,
                                   .n_in = po->n_in,
                                   .n_out = po->n_out,
                                   .n_weights = po->n_weights,
                                   .n_attrs = n_attrs,
                                   .in = value_list(g, po->in, po->n_in),
                                   .out = value_list(g, po->out, po->n_out),
                                   .weights = weights,
                                   .attrs = attrs},
                            .plan_index = index,
                            .weight_ids = po->weights};
    if (!go->op.in || !go->op.out)
        return err_nomem(err, "binding a plan");
    g->ops[g->n_ops++] = go;
    return TN_OK;
}

static int32_t fill(struct graph *g, tn_err *err)
{
    const struct plan *p = g->plan;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < p->n_weights && rc == TN_OK; i++)
        rc = cut_weight(g, i, err);
    for (uint32_t i = 0; i < p->n_values && rc == TN_OK; i++) {
        g->alias[i] = i;
        rc = cut_value(g, i, err);
    }
    for (uint32_t i = 0; i < p->n_ops && rc == TN_OK; i++) {
        if (is_idle_collective(g, &p->ops[i]))
            g->alias[p->ops[i].out[0]] = g->alias[p->ops[i].in[0]];
        else if (i >= g->first_op && i < g->end_op)
            rc = add_op(g, i, err);
    }
    return rc;
}

/* -- Pipeline stages ---------------------------------------------------------------------------------- */

static int64_t count_layers(const struct plan *p)
{
    int64_t n = 0;

    for (size_t i = 0; i < p->n_ops; i++)
        n = p->ops[i].layer >= n ? p->ops[i].layer + 1 : n;
    return n;
}

/* Index of the op with which stage `s` begins. */
static size_t stage_begin(const struct plan *p, uint32_t s, uint32_t n_stages)
{
    int64_t border = count_layers(p) * s / n_stages;

    if (s == 0)
        return 0;
    for (size_t i = 0; i < p->n_ops && s < n_stages; i++)
        if (p->ops[i].layer >= border)
            return i;
    return p->n_ops;
}

static int32_t find_stage(struct graph *g, tn_err *err)
{
    const struct topology *t = &g->topo;

    g->first_op = stage_begin(g->plan, t->pp_rank, t->pp_size);
    g->end_op = stage_begin(g->plan, t->pp_rank + 1, t->pp_size);
    if (t->pp_size == 1 || t->pp_size <= count_layers(g->plan))
        return TN_OK;
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.pp_size",
           "is %" PRIu32 ", more than the model has layers", t->pp_size);
    err_remedy(err, "choose a smaller --pp-size");
    return TN_E_CONFIG;
}

/* The values that cross the border in front of op `at`: written before, read at or behind it. */
static int32_t crossing(struct graph *g, size_t at, uint32_t **out, uint32_t *n, tn_err *err)
{
    const struct plan *p = g->plan;
    bool *crosses = mem_zarray(p->n_values, sizeof *crosses);

    *n = 0;
    *out = arena_array(&g->arena, p->n_values, sizeof **out);
    if (!crosses || !*out) {
        mem_free(crosses);
        return err_nomem(err, "cutting a plan");
    }
    for (size_t i = at; i < p->n_ops; i++)
        for (uint32_t k = 0; k < p->ops[i].n_in; k++) {
            uint32_t id = g->alias[p->ops[i].in[k]];
            crosses[id] = p->values[id].producer < at;
        }
    for (uint32_t id = 0; id < p->n_values; id++)
        if (crosses[id])
            (*out)[(*n)++] = id;
    mem_free(crosses);
    for (uint32_t i = 0; i < *n; i++)
        if (p->values[(*out)[i]].kind == TN_VALUE_KV)
            return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, p->ops[at].name,
                          "reads the cache of another pipeline stage");
    return TN_OK;
}

static int32_t find_borders(struct graph *g, tn_err *err)
{
    int32_t rc = TN_OK;

    if (g->first_op > 0)
        rc = crossing(g, g->first_op, &g->imports, &g->n_imports, err);
    if (rc == TN_OK && g->end_op < g->plan->n_ops)
        rc = crossing(g, g->end_op, &g->exports, &g->n_exports, err);
    return rc;
}

bool graph_exports(const struct graph *g, uint32_t value)
{
    for (uint32_t i = 0; i < g->n_exports; i++)
        if (g->exports[i] == value)
            return true;
    return false;
}

/* -- Checking the cut -------------------------------------------------------------------------------- */

/* A rank has a part of the row, and the order reaches beyond it. */
static int32_t scattered_order(const struct graph *g, const struct plan_op *op, tn_err *err)
{
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, g->plan->weights[op->weights[0]].name,
           "the columns of a group (desc_act, g_idx) lie across the parts of %" PRIu32 " ranks",
           g->topo.tp_size);
    err_remedy(err,
               "run it with --tp-size 1, or build the engine with --tp-size %" PRIu32
               ", which widens the matrix behind it",
               g->topo.tp_size);
    return TN_E_CONFIG;
}

/* The plan as this rank sees it, for the opset's rules; its arrays are the arena's. */
static bool local_plan(const struct graph *g, struct arena *a, struct plan *out)
{
    const struct plan *p = g->plan;

    *out = *p;
    out->values = arena_copy(a, p->values, p->n_values * sizeof *p->values);
    out->weights = arena_copy(a, p->weights, p->n_weights * sizeof *p->weights);
    out->ops = arena_copy(a, p->ops, p->n_ops * sizeof *p->ops);
    if (!out->values || !out->weights || !out->ops)
        return false;
    for (size_t i = 0; i < p->n_values; i++)
        out->values[i].width = g->values[i].width;
    for (size_t i = 0; i < p->n_weights; i++)
        memcpy(out->weights[i].dims, g->weights[i].dims, sizeof out->weights[i].dims);
    for (size_t i = 0; i < g->n_ops; i++)
        out->ops[g->ops[i]->plan_index].attrs = g->ops[i]->op.attrs;
    return true;
}

static int32_t check_local_op(const struct graph *g, const struct plan *local,
                              const struct plan_op *op, tn_err *err)
{
    struct plan_value out[TN_OP_MAX_VALUES];
    uint64_t width = op->n_in ? local->values[op->in[0]].width : 0;

    for (uint32_t i = 0; i < op->n_out; i++)
        out[i] = local->values[op->out[i]];
    if (strcmp(op->name, TN_OP_POSITION) == 0 &&
        local->weights[op->weights[0]].shard == TN_SHARD_AXIS0)
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                      "positions cannot be shared out among ranks");
    if (strcmp(op->name, TN_OP_REORDER) == 0 && width != g->plan->values[op->in[0]].width)
        return scattered_order(g, op, err);
    if (strcmp(op->name, TN_OP_ALL_GATHER) != 0)
        return opset_check(local, op, out, err);
    if (width * g->topo.tp_size != out[0].width)
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                      "%" PRIu32 " parts %" PRIu64 " wide do not make %" PRIu64, g->topo.tp_size,
                      width, out[0].width);
    return TN_OK;
}

/* A plan whose shard rules contradict each other passes as a whole, and would have kernels read and write beyond what
 * a rank holds: so each part must keep to the definitions too. */
static int32_t check_cut(const struct graph *g, tn_err *err)
{
    struct arena a = ARENA_INIT;
    struct plan local;
    int32_t rc = TN_OK;

    if (g->topo.tp_size == 1)
        return TN_OK;
    if (!local_plan(g, &a, &local))
        rc = err_nomem(err, "binding a plan");
    for (size_t i = g->first_op; i < g->end_op && rc == TN_OK; i++) {
        rc = is_idle_collective(g, &g->plan->ops[i])
                 ? TN_OK
                 : check_local_op(g, &local, &local.ops[i], err);
        if (rc != TN_OK)
            err_prefix(err, "cut for %" PRIu32 " ranks", g->topo.tp_size);
    }
    arena_release(&a);
    return rc;
}

static int32_t check_topology(const struct topology *t, tn_err *err)
{
    if (t->tp_size < 1 || t->tp_rank >= t->tp_size)
        return tn_err_set(err, TN_E_INVALID, "rank %" PRIu32 " of %" PRIu32 " does not exist",
                          t->tp_rank, t->tp_size);
    if (t->pp_size < 1 || t->pp_rank >= t->pp_size)
        return tn_err_set(err, TN_E_INVALID, "stage %" PRIu32 " of %" PRIu32 " does not exist",
                          t->pp_rank, t->pp_size);
    return TN_OK;
}

int32_t graph_new(const struct plan *p, const struct topology *topo, uint32_t act_dtype,
                  struct graph **out, tn_err *err)
{
    struct graph *g;
    int32_t rc = check_topology(topo, err);

    if (rc != TN_OK)
        return rc;
    g = mem_zalloc(sizeof *g);
    if (!g)
        return err_nomem(err, "binding a plan");
    g->plan = p;
    g->topo = *topo;
    g->act_dtype = act_dtype;
    g->values = arena_array(&g->arena, p->n_values, sizeof *g->values);
    g->alias = arena_array(&g->arena, p->n_values, sizeof *g->alias);
    g->weights = arena_array(&g->arena, p->n_weights, sizeof *g->weights);
    g->repeat = arena_array(&g->arena, p->n_weights, sizeof *g->repeat);
    rc = g->values && g->alias && g->weights && g->repeat ? find_stage(g, err)
                                                          : err_nomem(err, "binding a plan");
    if (rc == TN_OK)
        rc = fill(g, err);
    if (rc == TN_OK)
        rc = find_borders(g, err);
    if (rc == TN_OK)
        rc = check_cut(g, err);
    if (rc != TN_OK) {
        graph_free(g);
        return rc;
    }
    *out = g;
    return TN_OK;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    mem_free(g->ops);
    arena_release(&g->arena);
    mem_free(g);
}

bool graph_feeds(const struct graph_op *a, const struct graph_op *b)
{
    for (uint32_t i = 0; i < a->op.n_out; i++)
        for (uint32_t j = 0; j < b->op.n_in; j++)
            if (a->op.out[i] == b->op.in[j])
                return true;
    return false;
}
