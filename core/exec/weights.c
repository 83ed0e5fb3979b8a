/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the engine's canonical weights to what kernels read. Three cases, cheapest first: a variant reads canonical
 * weights and the device computes in host memory (the mapped file is used in place); it reads them on another device
 * (copied once, whoever shares them); it packs (the plugin writes its own layout from a view of this rank's slice).
 */
#include <inttypes.h>

#include "base/mem.h"
#include "engine/dummy.h"
#include "exec/bound.h"
#include "tenon/ops.h"

#include <sys/mman.h>
#include <unistd.h>

/* A weight made readable on the host: mapped, or generated into `own`. */
struct host_view {
    const uint8_t *data;
    uint8_t *own;
};

static bool host_device(const struct binding *b)
{
    return (b->o.select.device->flags & TN_DEVICE_HOST_MEMORY) != 0;
}

/* -- Views of this rank's slice --------------------------------------------------------------------- */

/* Byte offset of this rank's slice in the whole weight. */
static uint64_t slice_offset(const struct binding *b, uint32_t id)
{
    const struct plan_weight *w = &b->graph->plan->weights[id];
    const tn_weight *cut = &b->graph->weights[id];
    uint32_t axis = w->shard == TN_SHARD_AXIS0 ? 0 : w->shard == TN_SHARD_AXIS1 ? 1 : 2;
    uint64_t parts, part, inner = 1;

    if (b->graph->topo.tp_size == 1 || w->shard == TN_SHARD_NONE || w->shard == TN_SHARD_FIRST)
        return 0;
    parts = w->dims[axis] / cut->dims[axis];
    part = (uint64_t)b->graph->topo.tp_rank * parts / b->graph->topo.tp_size;
    for (uint32_t i = axis + 1; i < w->n_dims; i++)
        inner *= w->dims[i];
    return part * cut->dims[axis] * inner * tn_dtype_bits(w->dtype) / 8;
}

static int32_t view_open(const struct binding *b, uint32_t id, struct host_view *v, tn_err *err)
{
    const struct engine *e = b->o.engine;
    const struct plan_weight *w = &e->plan->weights[id];
    uint64_t bytes = plan_weight_bytes(w), elements = bytes * 8 / tn_dtype_bits(w->dtype);
    bool zero = w->shard == TN_SHARD_FIRST && b->graph->topo.tp_rank != 0;

    *v = (struct host_view){engine_weight(e, id), NULL};
    if (v->data && !zero) {
        v->data += slice_offset(b, id);
        return TN_OK;
    }
    v->own = mem_aligned((size_t)bytes, 64);
    if (!v->own) {
        err_nomem(err, "loading a weight");
        err_field(err, w->name);
        return TN_E_NOMEM;
    }
    if (!zero)
        dummy_fill(w, e->tensors[id].seed, 0, elements, v->own);
    v->data = v->own + slice_offset(b, id);
    return TN_OK;
}

/* Gives the mapped pages back to the system: they have been copied and will not be read again. */
static void view_close(const struct binding *b, uint32_t id, struct host_view *v)
{
    const uint8_t *mapped = engine_weight(b->o.engine, id);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

    if (v->own) {
        mem_free(v->own);
    } else if (mapped && b->o.engine->map.fd >= 0) {
        uintptr_t begin = (uintptr_t)mapped & ~(page - 1);
        uintptr_t end = (uintptr_t)mapped + plan_weight_bytes(&b->graph->plan->weights[id]);
        madvise((void *)begin, end - begin, MADV_DONTNEED);
    }
    *v = (struct host_view){NULL, NULL};
}

static uint64_t slice_bytes(const tn_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < w->n_dims; i++)
        n *= w->dims[i];
    return n * tn_dtype_bits(w->dtype) / 8;
}

/* -- Canonical weights ------------------------------------------------------------------------------- */

static int32_t copy_rows(struct binding *b, const tn_weight *w, const uint8_t *src, uint8_t *dst,
                         tn_err *err)
{
    uint64_t row = slice_bytes(w) / w->dims[0];
    int32_t rc = TN_OK;

    if (row == w->stride0)
        return b->o.api->copy(b->o.device, b->stream, dst, src, slice_bytes(w),
                              TN_COPY_HOST_TO_DEVICE, err);
    for (uint64_t r = 0; r < w->dims[0] && rc == TN_OK; r++)
        rc = b->o.api->copy(b->o.device, b->stream, dst + r * row, src + r * w->stride0, row,
                            TN_COPY_HOST_TO_DEVICE, err);
    return rc;
}

static bool usable_in_place(const struct binding *b, uint32_t id)
{
    const tn_weight *w = &b->graph->weights[id];

    return host_device(b) && !b->o.engine->tensors[id].dummy &&
           slice_bytes(w) == w->stride0 * w->dims[0] &&
           !(b->graph->plan->weights[id].shard == TN_SHARD_FIRST && b->graph->topo.tp_rank != 0);
}

/* Makes canonical[id] a device address, once. */
static int32_t place_canonical(struct binding *b, uint32_t id, tn_err *err)
{
    tn_weight *w = &b->graph->weights[id];
    struct host_view v;
    void *dst = NULL;
    int32_t rc;

    if (b->canonical[id])
        return TN_OK;
    b->weight_bytes += slice_bytes(w);
    if (usable_in_place(b, id)) {
        b->canonical[id] = (const uint8_t *)engine_weight(b->o.engine, id) + slice_offset(b, id);
        return TN_OK;
    }
    rc = view_open(b, id, &v, err);
    if (rc == TN_OK)
        rc = bound_alloc(b, b->own_weights, slice_bytes(w), &dst, err);
    if (rc == TN_OK)
        rc = copy_rows(b, w, v.data, dst, err);
    if (rc == TN_OK && b->stream)
        rc = b->o.api->stream_sync(b->o.device, b->stream, err);
    view_close(b, id, &v);
    b->canonical[id] = dst;
    return rc;
}

/* Reads a row of its table per token, not the whole of it. */
static bool gathers(const tn_op *op)
{
    return strcmp(op->name, TN_OP_EMBEDDING) == 0 || strcmp(op->name, TN_OP_POSITION) == 0;
}

static int32_t load_canonical(struct binding *b, struct bound_step *s, tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < op->op.n_weights && rc == TN_OK; i++) {
        rc = place_canonical(b, op->weight_ids[i], err);
        s->weights[i] = b->canonical[op->weight_ids[i]];
        if (!gathers(&op->op))
            b->streamed_bytes += slice_bytes(op->op.weights[i]);
    }
    return rc;
}

/* -- Packed weights ---------------------------------------------------------------------------------- */

static const struct candidate *packer(const struct bound_step *s)
{
    return s->sel->choice.ranges[0].candidate;
}

static int32_t pack_into(struct binding *b, struct bound_step *s, uint64_t bytes, void *dst,
                         tn_err *err)
{
    const struct candidate *c = packer(s);
    bool stage = !host_device(b) && !(c->v->flags & TN_VARIANT_PACK_ON_DEVICE);
    void *target = stage ? mem_aligned((size_t)bytes, 64) : dst;
    int32_t rc;

    if (!target)
        return err_nomem(err, "packing a weight");
    rc = c->v->pack(c->source->instance, &s->sel->op->op, target, b->stream, err);
    if (rc == TN_OK && stage)
        rc =
            b->o.api->copy(b->o.device, b->stream, dst, target, bytes, TN_COPY_HOST_TO_DEVICE, err);
    if (rc == TN_OK && b->stream)
        rc = b->o.api->stream_sync(b->o.device, b->stream, err);
    if (stage)
        mem_free(target);
    if (rc != TN_OK)
        err_plugin(err, c->source->plugin);
    return rc;
}

/* Points the op's weights at host data, or, for packing on the device, at canonical device copies. */
static int32_t offer_sources(struct binding *b, struct bound_step *s, struct host_view *views,
                             tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    bool on_device = !host_device(b) && (packer(s)->v->flags & TN_VARIANT_PACK_ON_DEVICE);
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < op->op.n_weights && rc == TN_OK; i++) {
        uint32_t id = op->weight_ids[i];
        if (on_device) {
            rc = place_canonical(b, id, err);
            b->graph->weights[id].data = b->canonical[id];
        } else {
            rc = view_open(b, id, &views[i], err);
            b->graph->weights[id].data = views[i].data;
        }
    }
    return rc;
}

static int32_t load_packed(struct binding *b, struct bound_step *s, tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    const struct candidate *c = packer(s);
    struct host_view *views = mem_zarray(op->op.n_weights, sizeof *views);
    uint64_t bytes = 0;
    void *dst = NULL;
    int32_t rc;

    if (!views)
        return err_nomem(err, "packing weights");
    rc = c->v->pack_size(c->source->instance, &op->op, &bytes, err);
    if (rc == TN_OK)
        rc = bound_alloc(b, b->own_weights, bytes, &dst, err);
    if (rc == TN_OK)
        rc = offer_sources(b, s, views, err);
    if (rc == TN_OK)
        rc = pack_into(b, s, bytes, dst, err);
    for (uint32_t i = 0; i < op->op.n_weights; i++) {
        view_close(b, op->weight_ids[i], &views[i]);
        b->graph->weights[op->weight_ids[i]].data = NULL;
    }
    mem_free(views);
    s->launch.packed = dst;
    s->launch.weights = NULL;
    b->weight_bytes += bytes;
    b->streamed_bytes += bytes;
    return rc;
}

/* -- All --------------------------------------------------------------------------------------------- */

static uint64_t op_weight_bytes(const struct binding *b, const struct graph_op *op)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < op->op.n_weights; i++)
        n += slice_bytes(&b->graph->weights[op->weight_ids[i]]);
    return n;
}

int32_t bound_load_weights(struct binding *b, tn_err *err)
{
    uint64_t total = 0, done = 0;
    int32_t rc = TN_OK;

    b->canonical = arena_array(&b->arena, b->graph->plan->n_weights, sizeof *b->canonical);
    if (!b->canonical)
        return err_nomem(err, "loading weights");
    for (size_t i = 0; i < b->n_steps; i++)
        total += op_weight_bytes(b, b->steps[i].sel->op);
    for (size_t i = 0; i < b->n_steps && rc == TN_OK; i++) {
        struct bound_step *s = &b->steps[i];
        rc = packer(s)->v->pack_layout ? load_packed(b, s, err) : load_canonical(b, s, err);
        done += op_weight_bytes(b, s->sel->op);
        if (rc == TN_OK && b->o.progress && b->o.progress(b->o.arg, done, total))
            rc = tn_err_set(err, TN_E_CANCELED, "loading was interrupted");
    }
    return rc;
}
