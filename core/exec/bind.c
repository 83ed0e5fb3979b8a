/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/bind.h"

#include <inttypes.h>

#include "base/mem.h"
#include "exec/bound.h"
#include "exec/judge.h"
#include "tenon/ops.h"

/* -- Steps -------------------------------------------------------------------------------------------- */

static void fill_pointers(struct binding *b, struct bound_step *s)
{
    const tn_op *op = &s->sel->op->op;

    for (uint32_t i = 0; i < op->n_in; i++)
        s->in[i] = op->in[i]->kind == TN_VALUE_KV ? NULL : b->value_ptr[op->in[i]->id];
    for (uint32_t i = 0; i < op->n_out; i++)
        s->out[i] = op->out[i]->kind == TN_VALUE_KV ? NULL : b->value_ptr[op->out[i]->id];
}

static bool has_member(const tn_op *op, const char *name)
{
    if (strcmp(op->name, name) == 0)
        return true;
    for (uint32_t i = 0; i < op->n_members; i++)
        if (strcmp(op->members[i]->name, name) == 0)
            return true;
    return false;
}

static int32_t make_step(struct binding *b, const struct selected *sel, struct bound_step *s,
                         tn_err *err)
{
    const tn_op *op = &sel->op->op;

    s->sel = sel;
    s->in = arena_array(&b->arena, op->n_in, sizeof *s->in);
    s->out = arena_array(&b->arena, op->n_out, sizeof *s->out);
    s->weights = arena_array(&b->arena, op->n_weights, sizeof *s->weights);
    if (!s->in || !s->out || !s->weights)
        return err_nomem(err, "binding a plan");
    fill_pointers(b, s);
    for (uint32_t i = 0; i < op->n_out; i++)
        s->logits_rows = s->logits_rows || op->out[i]->kind == TN_VALUE_LOGITS;
    s->samples = has_member(op, TN_OP_SAMPLE);
    /* Where ranks share the vocabulary, what they gather is the logits, not the part that each computes. */
    if (!s->samples && (has_member(op, TN_OP_LOGITS) || has_member(op, TN_OP_LOGITS_INT8) ||
                        (s->logits_rows && has_member(op, TN_OP_ALL_GATHER))))
        b->logits = s->out[0];
    s->launch = (tn_launch){.h = TN_HDR(tn_launch),
                            .op = op,
                            .in = s->in,
                            .out = s->out,
                            .weights = s->weights,
                            .stream = b->stream,
                            .device = b->o.device,
                            .tp_rank = b->o.topo.tp_rank,
                            .tp_size = b->o.topo.tp_size};
    return TN_OK;
}

static int32_t make_steps(struct binding *b, tn_err *err)
{
    int32_t rc = TN_OK;

    b->n_steps = b->selection.n_ops;
    b->steps = arena_array(&b->arena, b->n_steps, sizeof *b->steps);
    if (!b->steps)
        return err_nomem(err, "binding a plan");
    for (size_t i = 0; i < b->n_steps && rc == TN_OK; i++)
        rc = make_step(b, &b->selection.ops[i], &b->steps[i], err);
    return rc;
}

/* One workspace serves all steps, since they run one after another. */
static int32_t alloc_workspace(struct binding *b, tn_err *err)
{
    uint64_t most = 0;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < b->n_steps; i++) {
        const struct choice *ch = &b->steps[i].sel->choice;
        for (uint32_t k = 0; k < ch->n && rc == TN_OK; k++) {
            const struct candidate *c = ch->ranges[k].candidate;
            uint64_t bytes = 0;
            if (c->v->workspace)
                rc = c->v->workspace(c->source->instance, b->steps[i].launch.op,
                                     ch->ranges[k].max_rows, b->o.max_seqs, b->o.max_context,
                                     &bytes, err);
            if (c->v->flags & TN_VARIANT_PARTS)
                bytes += comm_room(b->steps[i].launch.op, ch->ranges[k].max_rows);
            most = bytes > most ? bytes : most;
        }
        if (rc != TN_OK)
            return rc;
    }
    rc = bound_alloc(b, b->own_workspace, most, &b->workspace, err);
    for (size_t i = 0; i < b->n_steps && rc == TN_OK; i++)
        b->steps[i].launch.workspace = b->workspace;
    return rc;
}

/* Makes states[] of the candidate a device address, once: zeros, in order before the first launch. */
static int32_t place_state(struct binding *b, const struct candidate *c, tn_err *err)
{
    void **state = &b->states[c - b->selection.candidates];
    int32_t rc;

    if (!TN_HAS(tn_variant, c->v, state_bytes) || c->v->state_bytes == 0 || *state)
        return TN_OK;
    rc = bound_alloc(b, b->own_workspace, c->v->state_bytes, state, err);
    return rc == TN_OK && !b->o.count
               ? b->o.api->fill(b->o.device, b->stream, *state, 0, c->v->state_bytes, err)
               : rc;
}

static int32_t alloc_states(struct binding *b, tn_err *err)
{
    int32_t rc = TN_OK;

    b->states = arena_array(&b->arena, b->selection.n_candidates, sizeof *b->states);
    if (!b->states)
        return err_nomem(err, "binding a plan");
    for (size_t i = 0; i < b->n_steps; i++) {
        const struct choice *ch = &b->steps[i].sel->choice;
        for (uint32_t k = 0; k < ch->n && rc == TN_OK; k++)
            rc = place_state(b, ch->ranges[k].candidate, err);
    }
    return rc;
}

/* -- The cache ---------------------------------------------------------------------------------------- */

/* Layers are cut whole, so any op tells. */
static bool has_layer(const struct graph *g, uint32_t layer)
{
    for (size_t i = 0; i < g->n_ops; i++)
        if (g->ops[i]->op.layer == (int32_t)layer)
            return true;
    return false;
}

static int32_t describe_kv(struct binding *b, tn_err *err)
{
    uint32_t n = plan_kv_layers(b->graph->plan, NULL, 0);
    struct plan_kv *kv = arena_array(&b->arena, n, sizeof *kv);

    b->kv = arena_array(&b->arena, n, sizeof *b->kv);
    if (!kv || !b->kv)
        return err_nomem(err, "binding a plan");
    n = plan_kv_layers(b->graph->plan, kv, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t tp = b->o.topo.tp_size;
        tn_kv_layer *l = &b->kv[b->n_kv];
        if (!has_layer(b->graph, kv[i].layer))
            continue;
        b->n_kv++;
        *l = (tn_kv_layer){.h = TN_HDR(tn_kv_layer),
                           .n_kv_heads = kv[i].n_kv_heads >= tp ? kv[i].n_kv_heads / tp : 1,
                           .head_dim = kv[i].head_dim,
                           .block_tokens = b->o.block_tokens,
                           .dtype = b->o.select.kv_dtype,
                           .layer = kv[i].layer};
        l->block_bytes = b->selection.kv_layout->block_bytes(l);
        if (l->block_bytes == 0)
            return tn_err_set(err, TN_E_UNSUPPORTED,
                              "the cache layout %s cannot hold layer %" PRIu32 " (%" PRIu32
                              " heads of %" PRIu32 ", pages of %" PRIu32 " tokens)",
                              b->selection.kv_layout->name, l->layer, l->n_kv_heads, l->head_dim,
                              l->block_tokens);
    }
    return TN_OK;
}

uint64_t binding_page_bytes(const struct binding *b)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < b->n_kv; i++)
        sum += b->kv[i].block_bytes;
    return sum;
}

const tn_kv_layer *binding_kv(const struct binding *b, const tn_op *op)
{
    if (!has_member(op, TN_OP_KV_APPEND) && !has_member(op, TN_OP_ATTENTION)) {
        bool touches = false; /* a vendor's op may read the cache */
        for (uint32_t i = 0; i < op->n_in; i++)
            touches = touches || op->in[i]->kind == TN_VALUE_KV;
        if (!touches)
            return NULL;
    }
    for (uint32_t i = 0; i < b->n_kv; i++)
        if ((int32_t)b->kv[i].layer == op->layer)
            return &b->kv[i];
    return NULL;
}

int32_t binding_alloc_kv(struct binding *b, uint32_t n_pages, tn_err *err)
{
    for (uint32_t i = 0; i < b->n_kv; i++) {
        tn_kv_layer *l = &b->kv[i];
        int32_t rc = bound_alloc(b, b->own_kv, l->block_bytes * n_pages, &l->base, err);
        if (rc != TN_OK)
            return rc;
        l->n_blocks = n_pages;
    }
    for (size_t i = 0; i < b->n_steps; i++)
        b->steps[i].launch.kv = binding_kv(b, b->steps[i].launch.op);
    return TN_OK;
}

/* -- Building ----------------------------------------------------------------------------------------- */

static int32_t bind(struct binding *b, tn_err *err)
{
    struct bind_options *o = &b->o;
    int32_t rc;

    rc = graph_new(o->engine->plan, &o->topo, o->select.act_dtype, &b->graph, err);
    if (rc == TN_OK)
        rc = select_variants(b->graph, &o->select, &b->selection, err);
    if (rc == TN_OK)
        rc = describe_kv(b, err);
    if (rc == TN_OK)
        rc = bound_check_kv_dtype(b, err);
    if (rc != TN_OK || o->dry)
        return rc;
    if ((o->select.device->flags & TN_DEVICE_STREAMS) && !o->count &&
        (rc = o->api->stream_new(o->device, &b->stream, err)) != TN_OK)
        return rc;
    if ((rc = bound_open_owners(b, err)) != TN_OK || (rc = bound_place_values(b, err)) != TN_OK ||
        (rc = make_steps(b, err)) != TN_OK || (rc = alloc_workspace(b, err)) != TN_OK ||
        (rc = alloc_states(b, err)) != TN_OK)
        return rc;
    bound_find_feed(b);
    rc = o->count ? bound_count_weights(b, err) : bound_load_weights(b, err);
    return rc == TN_OK ? bound_place_kv_scales(b, err) : rc;
}

int32_t binding_new(const struct bind_options *o, struct binding **out, tn_err *err)
{
    struct binding *b = mem_zalloc(sizeof *b);
    int32_t rc;

    if (!b)
        return err_nomem(err, "binding a plan");
    b->o = *o;
    rc = bind(b, err);
    if (rc != TN_OK) {
        binding_free(b);
        return rc;
    }
    *out = b;
    return TN_OK;
}

void binding_free(struct binding *b)
{
    if (!b)
        return;
    if (b->stream)
        b->o.api->stream_free(b->o.device, b->stream);
    bound_free_all(b);
    selection_release(&b->selection);
    graph_free(b->graph);
    arena_release(&b->arena);
    mem_free(b);
}

tn_stream *binding_stream(const struct binding *b)
{
    return b->stream;
}

const float *binding_logits(const struct binding *b)
{
    return b->logits;
}

const char *binding_fallback(const struct binding *b)
{
    for (size_t i = 0; i < b->selection.n_ops; i++) {
        const struct selected *s = &b->selection.ops[i];
        for (uint32_t k = 0; k < s->choice.n; k++)
            if (s->choice.ranges[k].candidate->v->flags & TN_VARIANT_FALLBACK)
                return s->op->op.n_members ? s->op->op.members[0]->name : s->op->op.name;
    }
    return NULL;
}

const struct selection *binding_selection(const struct binding *b)
{
    return &b->selection;
}

const struct bind_options *binding_options(const struct binding *b)
{
    return &b->o;
}

uint32_t binding_candidates(const struct binding *b, const struct selected *s,
                            struct binding_candidate *out, uint32_t max, uint32_t *max_rows)
{
    const struct judge j = {.g = b->graph,
                            .o = &b->o.select,
                            .kv_layout =
                                b->selection.kv_layout ? b->selection.kv_layout->name : ""};
    const char *equals = s->choice.ranges[0].candidate->v->equals;
    uint32_t n = 0;
    char reason[320];

    *max_rows = judge_max_rows(&b->o.select, s->op);
    for (size_t i = 0; i < b->selection.n_candidates && n < max; i++) {
        const struct candidate *c = &b->selection.candidates[i];
        if (strcmp(c->v->op, s->op->op.name) != 0 || !c->v->equals != !equals ||
            (equals && strcmp(c->v->equals, equals) != 0) ||
            !judge_variant(&j, s->op, c, out[n].rows, reason, sizeof reason))
            continue;
        out[n++].candidate = c;
    }
    return n;
}

uint64_t binding_weight_bytes(const struct binding *b)
{
    return b->weight_bytes;
}

uint64_t binding_load_ns(const struct binding *b)
{
    return b->load_ns;
}

uint64_t binding_streamed_bytes(const struct binding *b)
{
    return b->streamed_bytes;
}
