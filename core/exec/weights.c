/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the engine's canonical weights to what kernels read. Three cases, cheapest first: a variant reads canonical
 * weights and the device computes in host memory (the mapped file is used in place); it reads them on another device
 * (copied once, whoever shares them); it packs (the plugin writes its own layout from a view of this rank's slice, or on
 * the device from a copy of it in scratch memory).
 */
#include <inttypes.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/dummy.h"
#include "engine/opset.h"
#include "exec/bound.h"
#include "exec/upload.h"
#include "tenon/ops.h"

#include <sys/mman.h>
#include <unistd.h>

static bool host_device(const struct binding *b)
{
    return (b->o.select.device->flags & TN_DEVICE_HOST_MEMORY) != 0;
}

/* Between two pieces of a file that is not worth leaving out: two pages. */
#define NEAR_BYTES 8192

/* -- Views of this rank's slice --------------------------------------------------------------------- */

/* Whether entries of the whole stand for several of the slice, which is made of them: scales of groups that ranks cut. */
static bool is_repeated(const struct binding *b, uint32_t id)
{
    return b->graph->repeat[id] > 1;
}

/* Byte offset of this rank's slice in the whole weight. */
static uint64_t slice_offset(const struct binding *b, uint32_t id)
{
    const struct plan_weight *w = &b->graph->plan->weights[id];
    const tn_weight *cut = &b->graph->weights[id];
    uint32_t axis = w->shard == TN_SHARD_AXIS0 ? 0 : w->shard == TN_SHARD_AXIS1 ? 1 : 2;
    uint64_t parts, part, inner = 1;

    if (b->graph->topo.tp_size == 1 || w->shard == TN_SHARD_NONE || w->shard == TN_SHARD_FIRST ||
        is_repeated(b, id))
        return 0;
    parts = w->dims[axis] / cut->dims[axis];
    part = (uint64_t)b->graph->topo.tp_rank * parts / b->graph->topo.tp_size;
    for (uint32_t i = axis + 1; i < w->n_dims; i++)
        inner *= w->dims[i];
    return part * cut->dims[axis] * inner * tn_dtype_bits(w->dtype) / 8;
}

static uint64_t slice_bytes(const tn_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < w->n_dims; i++)
        n *= w->dims[i];
    return n * tn_dtype_bits(w->dtype) / 8;
}

/* Begins to read this rank's slice, and nothing of what other hosts need. Pieces that are nearer to each other than a page or two are
 * read in one. */
static void fetch_slice(const struct binding *b, uint32_t id)
{
    const struct engine *e = b->o.engine;
    const struct plan_weight *whole = &b->graph->plan->weights[id];
    const tn_weight *w = &b->graph->weights[id];
    const uint8_t *mapped = engine_weight(e, id);
    uint64_t rows =
        w->n_dims == 3 && plan_shard_axis(whole) == 2 ? w->dims[0] * w->dims[1] : w->dims[0];
    uint64_t row = slice_bytes(w) / rows, stride = plan_weight_bytes(whole) / rows, at;

    if (!mapped || (b->graph->topo.tp_size == 1 && b->graph->topo.pp_size == 1) ||
        (whole->shard == TN_SHARD_FIRST && b->graph->topo.tp_rank != 0))
        return;
    at = (uint64_t)(mapped - e->map.data) + slice_offset(b, id);
    if (is_repeated(b, id)) {
        file_map_fetch(&e->map, at, plan_weight_bytes(whole));
        return;
    }
    if (plan_shard_axis(whole) <= 0 || stride < row + NEAR_BYTES) {
        file_map_fetch(&e->map, at,
                       plan_shard_axis(whole) <= 0 ? slice_bytes(w) : (rows - 1) * stride + row);
        return;
    }
    for (uint64_t r = 0; r < rows; r++)
        file_map_fetch(&e->map, at + r * stride, row);
}

/* Whether the slice is one of the innermost of three axes: pieces all over the weight. */
static bool is_scattered(const struct binding *b, uint32_t id)
{
    return b->graph->topo.tp_size > 1 && plan_shard_axis(&b->graph->plan->weights[id]) == 2;
}

/* Brings the pieces of a scattered slice together, the first of which is at `src`. */
static int32_t gather_slice(const struct binding *b, uint32_t id, const uint8_t *src, uint8_t **out,
                            tn_err *err)
{
    const struct plan_weight *w = &b->graph->plan->weights[id];
    const tn_weight *cut = &b->graph->weights[id];
    uint64_t bits = tn_dtype_bits(w->dtype), part = cut->dims[2] * bits / 8;
    uint8_t *dst = mem_aligned((size_t)slice_bytes(cut), 64);

    if (!dst) {
        err_nomem(err, "loading a weight");
        err_field(err, w->name);
        return TN_E_NOMEM;
    }
    for (uint64_t i = 0; i < w->dims[0] * w->dims[1]; i++)
        memcpy(dst + i * part, src + i * (w->dims[2] * bits / 8), (size_t)part);
    *out = dst;
    return TN_OK;
}

/* This rank's part of a weight at `src` whose entries of the last dimension are repeated. */
static int32_t repeat_slice(const struct binding *b, uint32_t id, const uint8_t *src, uint8_t **out,
                            tn_err *err)
{
    const struct plan_weight *w = &b->graph->plan->weights[id];
    const tn_weight *cut = &b->graph->weights[id];
    size_t size = tn_dtype_bits(w->dtype) / 8, n = (size_t)cut->dims[cut->n_dims - 1];
    size_t whole = (size_t)w->dims[w->n_dims - 1], rows = (size_t)slice_bytes(cut) / (n * size);
    size_t first = b->graph->topo.tp_rank * n, repeat = b->graph->repeat[id];
    uint8_t *dst = mem_aligned((size_t)slice_bytes(cut), 64);

    if (!dst) {
        err_nomem(err, "loading a weight");
        err_field(err, w->name);
        return TN_E_NOMEM;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            memcpy(dst + (r * n + i) * size, src + (r * whole + (first + i) / repeat) * size, size);
    *out = dst;
    return TN_OK;
}

/* The whole weight, from this rank's slice on. */
static int32_t whole_view(const struct binding *b, uint32_t id, struct host_view *v, tn_err *err)
{
    const struct engine *e = b->o.engine;
    const struct plan_weight *w = &e->plan->weights[id];
    uint64_t bytes = plan_weight_bytes(w), elements = bytes * 8 / tn_dtype_bits(w->dtype);
    bool zero = w->shard == TN_SHARD_FIRST && b->graph->topo.tp_rank != 0;

    *v = (struct host_view){engine_weight(e, id), NULL};
    fetch_slice(b, id);
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

/* Mapped, or generated into `own`. */
int32_t bound_view_open(const struct binding *b, uint32_t id, struct host_view *v, tn_err *err)
{
    uint8_t *whole, *gathered = NULL;
    int32_t rc = whole_view(b, id, v, err);

    if (rc != TN_OK || (!is_scattered(b, id) && !is_repeated(b, id)))
        return rc;
    whole = v->own;
    rc = is_repeated(b, id) ? repeat_slice(b, id, v->data, &gathered, err)
                            : gather_slice(b, id, v->data, &gathered, err);
    mem_free(whole);
    *v = (struct host_view){gathered, gathered};
    return rc;
}

/* Gives the mapped pages back to the system: they have been copied and will not be read again. */
void bound_view_close(const struct binding *b, uint32_t id, struct host_view *v)
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

#define WEIGHT_ALIGN 256

/* Bytes between rows where kernels read a weight: slices that were copied have no gaps. */
static uint64_t resting_stride(const struct binding *b, uint32_t id)
{
    const tn_weight *w = &b->graph->weights[id];

    if (w->dims[0] == 0 || (host_device(b) && !b->canonical[id]))
        return b->host_strides[id];
    return slice_bytes(w) / w->dims[0];
}

/* -- Canonical weights ------------------------------------------------------------------------------- */

/* The same of one that is made in host memory: done at once. */
static int32_t put_repeated(struct binding *b, uint32_t id, void *dst, tn_err *err)
{
    struct host_view v;
    int32_t rc = bound_view_open(b, id, &v, err);

    if (rc == TN_OK)
        rc = upload_flush(b->upload, err); /* the stream is ours again */
    if (rc == TN_OK)
        rc = b->o.api->copy(b->o.device, b->stream, dst, v.data,
                            slice_bytes(&b->graph->weights[id]), TN_COPY_HOST_TO_DEVICE, err);
    if (rc == TN_OK && b->stream)
        rc = b->o.api->stream_sync(b->o.device, b->stream, err);
    bound_view_close(b, id, &v);
    return rc;
}

/* Copies this rank's slice of a weight to device memory, without gaps; done when the upload is flushed. */
static int32_t put_slice(struct binding *b, uint32_t id, void *dst, tn_err *err)
{
    const struct plan_weight *whole = &b->graph->plan->weights[id];
    const tn_weight *w = &b->graph->weights[id];
    bool scattered = is_scattered(b, id);
    uint64_t rows = scattered ? w->dims[0] * w->dims[1] : w->dims[0];
    const struct upload_slice s = {
        .weight = id,
        .at = slice_offset(b, id),
        .rows = rows,
        .row_bytes = slice_bytes(w) / rows,
        .stride = scattered ? plan_weight_bytes(whole) / rows : b->host_strides[id],
        .zero = whole->shard == TN_SHARD_FIRST && b->graph->topo.tp_rank != 0};

    if (is_repeated(b, id))
        return put_repeated(b, id, dst, err);
    return upload_put(b->upload, &s, dst, err);
}

static bool usable_in_place(const struct binding *b, uint32_t id)
{
    const tn_weight *w = &b->graph->weights[id];

    return host_device(b) && !b->o.engine->tensors[id].dummy && !is_scattered(b, id) &&
           !is_repeated(b, id) && slice_bytes(w) == w->stride0 * w->dims[0] &&
           !(b->graph->plan->weights[id].shard == TN_SHARD_FIRST && b->graph->topo.tp_rank != 0);
}

/* The same into memory that the host reaches. */
static int32_t fill_here(struct binding *b, uint32_t id, uint8_t *dst, tn_err *err)
{
    const tn_weight *w = &b->graph->weights[id];
    uint64_t row = slice_bytes(w) / w->dims[0];
    struct host_view v;
    int32_t rc = bound_view_open(b, id, &v, err);

    for (uint64_t r = 0; r < w->dims[0] && rc == TN_OK; r++)
        memcpy(dst + r * row, v.data + r * b->host_strides[id], row);
    if (rc == TN_OK)
        b->graph->weights[id].stride0 = row;
    bound_view_close(b, id, &v);
    return rc;
}

/* Makes canonical[id] a device address, once. */
static int32_t place_canonical(struct binding *b, uint32_t id, tn_err *err)
{
    const tn_weight *w = &b->graph->weights[id];
    void *dst = NULL;
    int32_t rc;

    if (b->canonical[id])
        return TN_OK;
    b->weight_bytes += slice_bytes(w);
    if (usable_in_place(b, id)) {
        fetch_slice(b, id);
        b->canonical[id] = (const uint8_t *)engine_weight(b->o.engine, id) + slice_offset(b, id);
        return TN_OK;
    }
    rc = bound_alloc(b, b->own_weights, slice_bytes(w), &dst, err);
    if (rc == TN_OK)
        rc = host_device(b) ? fill_here(b, id, dst, err) : put_slice(b, id, dst, err);
    b->canonical[id] = dst;
    return rc;
}

/* Reads a row of its table per token, not the whole of it. */
static bool gathers(const tn_op *op)
{
    return opset_embeds(op->name) || strcmp(op->name, TN_OP_POSITION) == 0;
}

/* Whether weight `i` of `op` is one of kv_append's, which kernels see as tn_kv_layer only (kv_scale.c). */
static bool is_of_cache(const tn_op *op, uint32_t i)
{
    const tn_op *of = op;

    for (uint32_t k = 0; k < op->n_members; k++) {
        of = op->members[k];
        if (i < of->n_weights)
            break;
        i -= of->n_weights;
    }
    return strcmp(of->name, TN_OP_KV_APPEND) == 0;
}

static int32_t load_canonical(struct binding *b, struct bound_step *s, tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < op->op.n_weights && rc == TN_OK; i++) {
        if (is_of_cache(&op->op, i))
            continue;
        rc = place_canonical(b, op->weight_ids[i], err);
        s->weights[i] = b->canonical[op->weight_ids[i]];
        if (!gathers(&op->op) && selected_runs(s->sel, 1)) /* else who takes its turn counts them */
            b->streamed_bytes += slice_bytes(op->op.weights[i]);
    }
    return rc;
}

/* -- Packed weights ---------------------------------------------------------------------------------- */

static const struct candidate *packer(const struct bound_step *s)
{
    return s->sel->choice.ranges[0].candidate;
}

static bool packs_on_device(const struct binding *b, const struct bound_step *s)
{
    return !host_device(b) && (packer(s)->v->flags & TN_VARIANT_PACK_ON_DEVICE);
}

static int32_t call_pack(struct binding *b, struct bound_step *s, void *target, tn_err *err)
{
    const struct candidate *c = packer(s);
    int32_t rc = c->v->pack(c->source->instance, &s->sel->op->op, target, b->stream, err);

    if (rc != TN_OK)
        err_plugin(err, c->source->plugin);
    return rc;
}

/* The plugin packs on the host, for a device that copies the result. */
static int32_t pack_and_copy(struct binding *b, struct bound_step *s, uint64_t bytes, void *dst,
                             tn_err *err)
{
    void *target = mem_aligned((size_t)bytes, 64);
    int32_t rc;

    if (!target)
        return err_nomem(err, "packing a weight");
    rc = call_pack(b, s, target, err);
    if (rc == TN_OK)
        rc = upload_flush(b->upload, err); /* the stream is ours again */
    if (rc == TN_OK)
        rc =
            b->o.api->copy(b->o.device, b->stream, dst, target, bytes, TN_COPY_HOST_TO_DEVICE, err);
    if (rc == TN_OK && b->stream)
        rc = b->o.api->stream_sync(b->o.device, b->stream, err);
    mem_free(target);
    return rc;
}

/* The plugin reads views of the mapped file, or of dummy weights, in host memory. */
static int32_t pack_from_host(struct binding *b, struct bound_step *s, uint64_t bytes, void *dst,
                              tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    struct host_view *views = mem_zarray(op->op.n_weights, sizeof *views);
    int32_t rc = views ? TN_OK : err_nomem(err, "packing weights");

    for (uint32_t i = 0; i < op->op.n_weights && rc == TN_OK; i++) {
        tn_weight *w = &b->graph->weights[op->weight_ids[i]];
        rc = bound_view_open(b, op->weight_ids[i], &views[i], err);
        w->data = views[i].data;
        w->stride0 = b->host_strides[op->weight_ids[i]];
    }
    if (rc == TN_OK)
        rc = host_device(b) ? call_pack(b, s, dst, err) : pack_and_copy(b, s, bytes, dst, err);
    for (uint32_t i = 0; views && i < op->op.n_weights; i++)
        bound_view_close(b, op->weight_ids[i], &views[i]);
    mem_free(views);
    return rc;
}

/* The plugin reads copies in scratch memory, which the next op to be packed overwrites: in order on the stream. */
static int32_t pack_on_device(struct binding *b, struct bound_step *s, void *dst, tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    uint64_t at = 0;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < op->op.n_weights && rc == TN_OK; i++) {
        uint32_t id = op->weight_ids[i];
        tn_weight *w = &b->graph->weights[id];
        uint8_t *copy = (uint8_t *)b->scratch + at;
        at += align_up(slice_bytes(w), WEIGHT_ALIGN);
        rc = put_slice(b, id, copy, err);
        w->data = copy;
        w->stride0 = slice_bytes(w) / w->dims[0];
    }
    if (rc == TN_OK)
        rc = upload_flush(b->upload, err);
    return rc == TN_OK ? call_pack(b, s, dst, err) : rc;
}

static int32_t load_packed(struct binding *b, struct bound_step *s, tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    const struct candidate *c = packer(s);
    uint64_t bytes = 0;
    void *dst = NULL;
    int32_t rc = c->v->pack_size(c->source->instance, &op->op, &bytes, err);

    if (rc == TN_OK)
        rc = bound_alloc(b, b->own_weights, bytes, &dst, err);
    if (rc == TN_OK)
        rc = packs_on_device(b, s) ? pack_on_device(b, s, dst, err)
                                   : pack_from_host(b, s, bytes, dst, err);
    for (uint32_t i = 0; i < op->op.n_weights; i++) {
        tn_weight *w = &b->graph->weights[op->weight_ids[i]];
        w->data = NULL;
        w->stride0 = resting_stride(b, op->weight_ids[i]);
    }
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

/* Scratch memory for the op that needs most of it while it is packed on the device. */
static int32_t open_scratch(struct binding *b, tn_err *err)
{
    uint64_t most = 0;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < b->n_steps; i++) {
        const struct graph_op *op = b->steps[i].sel->op;
        uint64_t bytes = 0;
        if (!packer(&b->steps[i])->v->pack_layout || !packs_on_device(b, &b->steps[i]))
            continue;
        for (uint32_t k = 0; k < op->op.n_weights; k++)
            bytes += align_up(slice_bytes(&b->graph->weights[op->weight_ids[k]]), WEIGHT_ALIGN);
        most = bytes > most ? bytes : most;
    }
    if (most == 0)
        return TN_OK;
    rc = b->o.api->mem_alloc(b->o.device, most, &b->scratch, err);
    if (rc == TN_OK) {
        b->scratch_bytes = most;
        ledger_take(b->own_loading, most);
    }
    return rc;
}

static int32_t begin_loading(struct binding *b, tn_err *err)
{
    const struct upload_options o = {.engine = b->o.engine,
                                     .api = b->o.api,
                                     .device = b->o.device,
                                     .stream = b->stream,
                                     .ledger = b->o.ledger,
                                     .select = &b->o.select,
                                     .n_threads = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN)};
    size_t n = b->graph->plan->n_weights;
    int32_t rc;

    b->canonical = arena_array(&b->arena, n, sizeof *b->canonical);
    b->host_strides = arena_array(&b->arena, n, sizeof *b->host_strides);
    if (!b->canonical || !b->host_strides)
        return err_nomem(err, "loading weights");
    for (uint32_t i = 0; i < (uint32_t)n; i++) {
        b->host_strides[i] = b->graph->weights[i].stride0;
        b->graph->weights[i].stride0 = resting_stride(b, i);
    }
    if (host_device(b))
        return TN_OK;
    rc = ledger_owner(b->o.ledger, "loading", b->o.place, &b->own_loading, err);
    if (rc == TN_OK)
        rc = open_scratch(b, err);
    return rc == TN_OK ? upload_open(&o, &b->upload, err) : rc;
}

/* Also after a failure: what is on its way must have arrived before its target is freed. */
static void end_loading(struct binding *b)
{
    upload_close(b->upload);
    b->upload = NULL;
    if (!b->scratch)
        return;
    if (b->stream)
        b->o.api->stream_sync(b->o.device, b->stream, NULL);
    b->o.api->mem_free(b->o.device, b->scratch);
    ledger_give(b->own_loading, b->scratch_bytes);
    b->scratch = NULL;
}

static int32_t load_all(struct binding *b, tn_err *err)
{
    uint64_t total = 0, done = 0;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < b->n_steps; i++)
        total += op_weight_bytes(b, b->steps[i].sel->op);
    for (size_t i = 0; i < b->n_steps && rc == TN_OK; i++) {
        struct bound_step *s = &b->steps[i];
        rc = packer(s)->v->pack_layout ? load_packed(b, s, err) : load_canonical(b, s, err);
        done += op_weight_bytes(b, s->sel->op);
        if (rc == TN_OK && b->o.progress && b->o.progress(b->o.arg, done, total))
            rc = tn_err_set(err, TN_E_CANCELED, "loading was interrupted");
    }
    if (rc == TN_OK && b->upload)
        rc = upload_flush(b->upload, err);
    return rc == TN_OK && b->stream ? b->o.api->stream_sync(b->o.device, b->stream, err) : rc;
}

/* An order that points beside its row would have a kernel read what is not its own. */
static int32_t check_order(const struct binding *b, const struct graph_op *op, tn_err *err)
{
    uint32_t id = op->weight_ids[0];
    const tn_weight *w = &b->graph->weights[id];
    struct host_view v;
    int32_t rc = bound_view_open(b, id, &v, err);

    for (uint64_t i = 0; i < w->dims[0] && rc == TN_OK; i++) {
        int32_t from;
        memcpy(&from, v.data + i * sizeof from, sizeof from);
        if (from < 0 || (uint64_t)from >= op->op.in[0]->width)
            rc = err_at(err, TN_E_FORMAT, b->o.engine->path, TN_NO_OFFSET, w->name,
                        "element %" PRIu64 " is %" PRId32 ", of a row of %" PRIu64, i, from,
                        op->op.in[0]->width);
    }
    bound_view_close(b, id, &v);
    return rc;
}

static int32_t check_orders(const struct binding *b, tn_err *err)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; i < b->graph->n_ops && rc == TN_OK; i++)
        if (strcmp(b->graph->ops[i]->op.name, TN_OP_REORDER) == 0)
            rc = check_order(b, b->graph->ops[i], err);
    return rc;
}

int32_t bound_load_weights(struct binding *b, tn_err *err)
{
    uint64_t begin = clock_ns();
    bool alone = b->graph->topo.tp_size == 1 && b->graph->topo.pp_size == 1;
    int32_t rc = begin_loading(b, err);

    if (alone)
        file_map_expect(&b->o.engine->map, true);

    if (rc == TN_OK)
        rc = check_orders(b, err);
    if (rc == TN_OK)
        rc = load_all(b, err);
    end_loading(b);
    b->load_ns = clock_ns() - begin;
    if (rc == TN_OK)
        log_info("%s: %" PRIu64 " bytes of weights in %.2f s, %.1f GB/s", b->o.place,
                 b->weight_bytes, (double)b->load_ns / 1e9,
                 (double)b->weight_bytes / (double)(b->load_ns ? b->load_ns : 1));
    return rc;
}

/* -- Counting ------------------------------------------------------------------------------------------ */

static int32_t count_step(struct binding *b, struct bound_step *s, tn_err *err)
{
    const struct graph_op *op = s->sel->op;
    const struct candidate *c = packer(s);
    uint64_t bytes = 0;
    void *dst = NULL;
    int32_t rc = TN_OK;

    if (c->v->pack_layout) {
        rc = c->v->pack_size(c->source->instance, &op->op, &bytes, err);
        return rc == TN_OK ? bound_alloc(b, b->own_weights, bytes, &dst, err) : rc;
    }
    for (uint32_t i = 0; i < op->op.n_weights && rc == TN_OK; i++) {
        uint32_t id = op->weight_ids[i];
        if (is_of_cache(&op->op, i) || b->canonical[id] || usable_in_place(b, id))
            continue;
        rc = bound_alloc(b, b->own_weights, slice_bytes(&b->graph->weights[id]), &dst, err);
        b->canonical[id] = dst;
    }
    return rc;
}

int32_t bound_count_weights(struct binding *b, tn_err *err)
{
    int32_t rc = TN_OK;

    b->canonical = arena_array(&b->arena, b->graph->plan->n_weights, sizeof *b->canonical);
    if (!b->canonical)
        return err_nomem(err, "counting weights");
    for (size_t i = 0; i < b->n_steps && rc == TN_OK; i++)
        rc = count_step(b, &b->steps[i], err);
    return rc;
}
