/* SPDX-License-Identifier: Apache-2.0 */
/* Running what was bound: op by op, or captured once and replayed by the caller. Nothing here allocates. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "engine/opset.h"
#include "exec/bound.h"
#include "exec/judge.h"
#include "tenon/ops.h"

static const tn_op feed_op = {.h = TN_HDR(tn_op), .name = TN_OP_FEED, .layer = -1};

void bound_find_feed(struct binding *b)
{
    const struct select_options *o = &b->o.select;

    if (o->device->flags & TN_DEVICE_HOST_MEMORY)
        return;
    for (uint32_t i = 0; i < o->n_sources && !b->feed; i++) {
        const tn_kernel_set *set = o->sources[i].set;
        for (uint32_t k = 0; k < set->n_variants && !b->feed; k++) {
            const tn_variant *v = set->variants[k];
            if (strcmp(v->op, TN_OP_FEED) != 0 || judge_device(o, set, v) ||
                (v->can_run && v->can_run(o->sources[i].instance, &feed_op, NULL) != TN_OK))
                continue;
            b->feed = v;
            b->feed_source = &o->sources[i];
        }
    }
}

bool binding_feeds(const struct binding *b)
{
    return b->feed != NULL;
}

static int32_t run_feed(struct binding *b, const tn_batch *batch, tn_err *err)
{
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = &feed_op,
                   .batch = batch,
                   .stream = b->stream,
                   .device = b->o.device,
                   .tp_rank = b->o.topo.tp_rank,
                   .tp_size = b->o.topo.tp_size};
    int32_t rc = b->feed->launch(b->feed_source->instance, &l, err);

    if (rc != TN_OK)
        err_plugin(err, b->feed_source->plugin);
    return rc;
}

static uint32_t step_rows(const struct bound_step *s, const tn_batch *batch)
{
    return s->logits_rows ? batch->n_logits : batch->n_rows;
}

static int32_t run_step(const struct binding *b, struct bound_step *s, const tn_batch *batch,
                        tn_err *err)
{
    int32_t (*tap)(void *, const tn_launch *, bool, tn_err *) = b->o.tap;
    uint32_t rows = step_rows(s, batch);
    const struct candidate *c;
    int32_t rc;

    if (rows == 0 || !selected_runs(s->sel, rows))
        return TN_OK;
    if (b->o.comm) {
        atomic_store_explicit(&b->o.comm->beat.call, s->launch.op->name, memory_order_relaxed);
        atomic_store_explicit(&b->o.comm->beat.layer, s->launch.op->layer, memory_order_relaxed);
        atomic_fetch_add_explicit(&b->o.comm->beat.n_ops, 1, memory_order_relaxed);
    }
    c = choice_for(&s->sel->choice, rows);
    s->launch.batch = batch;
    s->launch.state = b->states[c - b->selection.candidates];
    if (s->samples)
        s->out[0] = batch->dev->sampled;
    if (tap && (rc = tap(b->o.tap_arg, &s->launch, false, err)) != TN_OK)
        return rc;
    rc = c->v->flags & TN_VARIANT_PARTS ? comm_launch_parts(b->o.comm, c, &s->launch, err)
                                        : c->v->launch(c->source->instance, &s->launch, err);
    if (rc == TN_OK && tap)
        return tap(b->o.tap_arg, &s->launch, true, err);
    if (rc != TN_OK && err) {
        err_plugin(err, c->source->plugin);
        err_prefix(err, "%s in layer %" PRId32, c->v->name, s->launch.op->layer);
    }
    return rc;
}

/* Takes what the stage before has computed, or hands on to the next. */
static int32_t cross_border(struct binding *b, const tn_batch *batch, bool import, tn_err *err)
{
    const struct graph *g = b->graph;
    const uint32_t *ids = import ? g->imports : g->exports;
    uint32_t n = import ? g->n_imports : g->n_exports;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        const tn_value *v = &g->values[ids[i]];
        uint64_t rows = v->kind == TN_VALUE_LOGITS ? batch->n_logits : batch->n_rows;
        uint64_t bytes = rows * v->width * tn_dtype_bits(v->dtype) / 8;
        if (bytes > 0)
            rc = import ? comm_recv(b->o.comm, b->value_ptr[ids[i]], bytes, b->stream, err)
                        : comm_send(b->o.comm, b->value_ptr[ids[i]], bytes, b->stream, err);
    }
    return rc;
}

/* Whether the first op of a step of so many rows takes the tokens of the step ahead by itself. */
static bool first_feeds(const struct binding *b, const tn_batch *batch)
{
    const struct bound_step *s = b->steps;

    return b->n_steps > 0 && opset_embeds(s->launch.op->name) &&
           selected_runs(s->sel, batch->n_rows) &&
           (choice_for(&s->sel->choice, batch->n_rows)->v->flags & TN_VARIANT_FEEDS);
}

int32_t binding_run(struct binding *b, const tn_batch *batch, bool feed, tn_err *err)
{
    int32_t rc = TN_OK;

    assert(batch->n_rows <= b->o.select.max_rows && batch->n_logits <= b->o.select.max_logits);
    assert(!feed || b->feed);
    if (b->n_steps > 0)
        b->steps[0].launch.feed = feed && first_feeds(b, batch);
    if (feed && !b->steps[0].launch.feed)
        rc = run_feed(b, batch, err);
    if (rc == TN_OK)
        rc = cross_border(b, batch, true, err);
    for (size_t i = 0; i < b->n_steps && rc == TN_OK; i++)
        rc = run_step(b, &b->steps[i], batch, err);
    return rc == TN_OK ? cross_border(b, batch, false, err) : rc;
}

int32_t binding_wait(struct binding *b, tn_err *err)
{
    return b->stream ? b->o.api->stream_sync(b->o.device, b->stream, err) : TN_OK;
}

const char *binding_uncapturable(const struct binding *b, uint32_t rows)
{
    if (!(b->o.select.device->flags & TN_DEVICE_GRAPHS))
        return "the device";
    if (b->o.comm && !comm_line_captures(&b->o.comm->pipeline))
        return b->o.comm->pipeline.plugin;
    if (b->feed && !(b->feed->flags & TN_VARIANT_GRAPH_SAFE))
        return b->feed->name;
    for (size_t i = 0; i < b->n_steps; i++) {
        const tn_variant *v = choice_for(&b->steps[i].sel->choice, rows)->v;
        if (!selected_runs(b->steps[i].sel, rows))
            continue;
        if (!(v->flags & TN_VARIANT_GRAPH_SAFE))
            return v->name;
        if ((v->flags & TN_VARIANT_PARTS) && !comm_sums_capture(&b->o.comm->tensor))
            return b->o.comm->tensor.plugin;
    }
    return NULL;
}

int32_t binding_meet(struct binding *b, tn_err *err)
{
    return b->o.comm ? comm_meet(b->o.comm, b->stream, err) : TN_OK;
}

/* What the calls of a captured step move, which has not moved yet. */
static struct comm_moved take_back(struct comm *c, const struct comm_moved *before)
{
    struct comm_moved m = comm_moved(c);

    for (uint32_t i = 0; i < COMM_CALLS; i++) {
        m.calls[i] -= before->calls[i];
        m.bytes[i] -= before->bytes[i];
    }
    comm_count(c, &m, true);
    return m;
}

int32_t binding_capture(struct binding *b, const tn_batch *batch, struct captured_step *out,
                        tn_err *err)
{
    struct captured_step step = {.graph = NULL};
    struct comm_moved before = {{0}, {0}};
    tn_err ignored = TN_ERR_INIT;
    int32_t rc = b->o.api->capture_begin(b->o.device, b->stream, err), end;

    if (rc != TN_OK)
        return rc;
    if (b->o.comm)
        before = comm_moved(b->o.comm);
    rc = binding_run(b, batch, b->feed != NULL, err);
    if (b->o.comm)
        step.moved = take_back(b->o.comm, &before);
    /* Ended in any case: the stream must be usable again. */
    end = b->o.api->capture_end(b->o.device, b->stream, &step.graph, rc == TN_OK ? err : &ignored);
    if (rc != TN_OK) {
        if (end == TN_OK)
            b->o.api->graph_free(b->o.device, step.graph);
        return rc;
    }
    if (end == TN_OK)
        *out = step;
    return end;
}

int32_t binding_replay(struct binding *b, const struct captured_step *step, tn_err *err)
{
    if (b->o.comm)
        comm_count(b->o.comm, &step->moved, false);
    return b->o.api->graph_launch(b->o.device, step->graph, b->stream, err);
}
