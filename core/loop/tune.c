/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/tune.h"

#include <inttypes.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/dummy.h"

#define ALIGN 256
#define MAX_CANDIDATES 32
#define MAX_WEIGHTS 32
#define MAX_COPIES 8
#define SPREAD                                                                                     \
    (256 *                                                                                         \
     MIB) /* bytes of weights in all copies: more than caches hold, where the copies suffice */
#define REPLAYS 3
#define ENOUGH_NS 5e8 /* a launch that takes longer is not measured at more rows */

/* One op as it is measured. */
struct subject {
    const struct tune_options *o;
    const struct binding *b;
    const tn_device_api *api;
    tn_device *device;
    tn_stream *stream;
    tn_event *from, *to;
    const tn_op *op;
    uint32_t max_rows;
    uint8_t *host_weights,
        *device_weights; /* canonical, one after another; host memory, and the device's */
    uint64_t weight_at[MAX_WEIGHTS], weight_bytes;
    void *values; /* device: inputs and outputs */
    const void *in[MAX_WEIGHTS];
    void *out[MAX_WEIGHTS];
    uint8_t *rows_host, *rows_device; /* arrays of a batch, one row per sequence */
    uint64_t rows_bytes;
    tn_batch_arrays host, dev;
    tn_batch batch;
    /* Of the candidate at hand. */
    const struct candidate *c;
    uint8_t *copies; /* n_copies of its weights, packed or canonical */
    uint64_t copy_bytes;
    uint32_t n_copies;
    void *workspace;
};

/* -- Memory ---------------------------------------------------------------------------------------------- */

static int32_t device_alloc(struct subject *s, uint64_t bytes, void *out, tn_err *err)
{
    void *p = NULL;
    int32_t rc = s->api->mem_alloc(s->device, bytes ? bytes : 1, &p, err);

    *(void **)out = p;
    return rc;
}

static void device_free(struct subject *s, void *p)
{
    if (p)
        s->api->mem_free(s->device, p);
}

static int32_t sync(struct subject *s, tn_err *err)
{
    return s->stream ? s->api->stream_sync(s->device, s->stream, err) : TN_OK;
}

static int32_t upload(struct subject *s, void *dst, const void *src, uint64_t bytes, tn_err *err)
{
    int32_t rc = s->api->copy(s->device, s->stream, dst, src, bytes, TN_COPY_HOST_TO_DEVICE, err);

    return rc == TN_OK ? sync(s, err) : rc;
}

/* -- What an op works on ----------------------------------------------------------------------------------- */

static uint64_t elements(const tn_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < w->n_dims; i++)
        n *= w->dims[i];
    return n;
}

/* Noise as dummy weights have it: no kernel may profit from zeros, or from numbers that repeat. */
static void make_noise(void *dst, uint32_t dtype, uint64_t n, uint64_t seed)
{
    const struct plan_weight w = {.dtype = dtype, .role = TN_ROLE_MATRIX};

    dummy_fill(&w, seed, 0, n, dst);
}

static int32_t make_weights(struct subject *s, tn_err *err)
{
    int32_t rc;

    s->weight_bytes = 0;
    for (uint32_t i = 0; i < s->op->n_weights; i++) {
        const tn_weight *w = s->op->weights[i];
        s->weight_at[i] = s->weight_bytes;
        s->weight_bytes += align_up(elements(w) * tn_dtype_bits(w->dtype) / 8, ALIGN);
    }
    if (s->weight_bytes == 0)
        return TN_OK;
    s->host_weights = mem_aligned((size_t)s->weight_bytes, 64);
    if (!s->host_weights)
        return err_nomem(err, "measuring kernels");
    for (uint32_t i = 0; i < s->op->n_weights; i++) {
        /* The plan's own weights carry no data while nothing is loaded; kernels are shown these. */
        tn_weight *w = (tn_weight *)(uintptr_t)s->op->weights[i];
        w->stride0 = w->dims[0] ? elements(w) * tn_dtype_bits(w->dtype) / 8 / w->dims[0] : 0;
        make_noise(s->host_weights + s->weight_at[i], w->dtype, elements(w), 17 + i);
    }
    rc = device_alloc(s, s->weight_bytes, &s->device_weights, err);
    return rc == TN_OK ? upload(s, s->device_weights, s->host_weights, s->weight_bytes, err) : rc;
}

static uint64_t value_bytes(const struct subject *s, const tn_value *v)
{
    return align_up(s->max_rows * v->width * tn_dtype_bits(v->dtype) / 8, ALIGN);
}

static int32_t make_values(struct subject *s, tn_err *err)
{
    uint64_t in_bytes = 0, bytes = 0;
    uint8_t *noise;
    int32_t rc;

    for (uint32_t i = 0; i < s->op->n_in; i++)
        in_bytes += value_bytes(s, s->op->in[i]);
    bytes = in_bytes;
    for (uint32_t i = 0; i < s->op->n_out; i++)
        bytes += value_bytes(s, s->op->out[i]);
    noise = mem_aligned((size_t)in_bytes, 64);
    if (!noise)
        return err_nomem(err, "measuring kernels");
    rc = device_alloc(s, bytes, &s->values, err);
    bytes = 0;
    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++) {
        const tn_value *v = s->op->in[i];
        make_noise(noise + bytes, v->dtype, s->max_rows * v->width, 99 + i);
        s->in[i] = (uint8_t *)s->values + bytes;
        bytes += value_bytes(s, v);
    }
    for (uint32_t i = 0; i < s->op->n_out; i++) {
        s->out[i] = (uint8_t *)s->values + bytes;
        bytes += value_bytes(s, s->op->out[i]);
    }
    if (rc == TN_OK)
        rc = upload(s, s->values, noise, in_bytes, err);
    mem_free(noise);
    return rc;
}

/* Points a batch's arrays at a block: numbers 0, 1, 2, ...; then ones; then zeros; then what to sample and the counts. */
static void point_rows(uint8_t *base, uint32_t max_rows, tn_batch_arrays *a)
{
    uint64_t part = align_up((max_rows + 1) * sizeof(int64_t), ALIGN);
    const int32_t *numbers = (const int32_t *)(void *)base,
                  *ones = (const int32_t *)(void *)(base + part),
                  *zeros = (const int32_t *)(void *)(base + 2 * part);

    *a = (tn_batch_arrays){.h = TN_HDR(tn_batch_arrays),
                           .tokens = zeros,
                           .positions = zeros,
                           .row_seq = numbers,
                           .row_slot = (const int64_t *)(const void *)(base + 3 * part),
                           .first_row = numbers,
                           .context = ones,
                           .prompt_len = ones,
                           .block_table = numbers,
                           .logits_row = numbers,
                           .counts = (const tn_batch_counts *)(const void *)(base + 4 * part)};
}

static int32_t make_rows(struct subject *s, tn_err *err)
{
    uint64_t part = align_up((s->max_rows + 1) * sizeof(int64_t), ALIGN);
    int32_t rc;

    s->rows_bytes = 5 * part;
    s->rows_host = mem_aligned((size_t)s->rows_bytes, 64);
    if (!s->rows_host)
        return err_nomem(err, "measuring kernels");
    memset(s->rows_host, 0, (size_t)s->rows_bytes);
    for (uint32_t i = 0; i <= s->max_rows; i++) {
        ((int32_t *)(void *)s->rows_host)[i] = (int32_t)i;
        ((int32_t *)(void *)(s->rows_host + part))[i] = 1;
        ((int64_t *)(void *)(s->rows_host + 3 * part))[i] = -1;
    }
    rc = device_alloc(s, s->rows_bytes, &s->rows_device, err);
    point_rows(s->rows_host, s->max_rows, &s->host);
    point_rows(s->rows_device, s->max_rows, &s->dev);
    return rc;
}

static int32_t set_rows(struct subject *s, uint32_t rows, tn_err *err)
{
    tn_batch_counts *counts = (tn_batch_counts *)(uintptr_t)s->host.counts;

    *counts = (tn_batch_counts){.n_rows = rows,
                                .n_seqs = rows,
                                .n_logits = rows,
                                .max_rows_per_seq = 1,
                                .max_context = 1,
                                .sum_context = rows};
    s->batch = (tn_batch){.h = TN_HDR(tn_batch),
                          .n_rows = rows,
                          .n_seqs = rows,
                          .n_logits = rows,
                          .block_tokens = 16,
                          .max_blocks = 1,
                          .max_rows_per_seq = 1,
                          .max_context = 1,
                          .host = &s->host,
                          .dev = &s->dev};
    return upload(s, s->rows_device, s->rows_host, s->rows_bytes, err);
}

/* -- One candidate ----------------------------------------------------------------------------------------- */

static void show_weights(struct subject *s, uint8_t *base)
{
    for (uint32_t i = 0; i < s->op->n_weights; i++)
        ((tn_weight *)(uintptr_t)s->op->weights[i])->data = base ? base + s->weight_at[i] : NULL;
}

/* The candidate's packed weights at the first copy. */
static int32_t pack(struct subject *s, tn_err *err)
{
    const struct candidate *c = s->c;
    bool here = (s->o->rank->info.flags & TN_DEVICE_HOST_MEMORY) ||
                (c->v->flags & TN_VARIANT_PACK_ON_DEVICE);
    void *target = here ? s->copies : mem_aligned((size_t)s->copy_bytes, 64);
    int32_t rc;

    if (!target)
        return err_nomem(err, "measuring kernels");
    show_weights(s, c->v->flags & TN_VARIANT_PACK_ON_DEVICE ? s->device_weights : s->host_weights);
    rc = c->v->pack(c->source->instance, s->op, target, s->stream, err);
    if (rc == TN_OK)
        rc = here ? sync(s, err) : upload(s, s->copies, target, s->copy_bytes, err);
    show_weights(s, NULL);
    if (!here)
        mem_free(target);
    return rc;
}

static int32_t copy_weights(struct subject *s, tn_err *err)
{
    int32_t rc = TN_OK;

    if (s->copy_bytes == 0)
        return TN_OK;
    if (s->c->v->pack_layout)
        rc = pack(s, err);
    else
        rc = s->api->copy(s->device, s->stream, s->copies, s->device_weights, s->copy_bytes,
                          TN_COPY_DEVICE_TO_DEVICE, err);
    for (uint32_t i = 1; i < s->n_copies && rc == TN_OK; i++)
        rc = s->api->copy(s->device, s->stream, s->copies + i * s->copy_bytes, s->copies,
                          s->copy_bytes, TN_COPY_DEVICE_TO_DEVICE, err);
    return rc == TN_OK ? sync(s, err) : rc;
}

static int32_t begin_candidate(struct subject *s, const struct candidate *c, tn_err *err)
{
    const struct bind_options *o = binding_options(s->b);
    uint64_t workspace = 0;
    int32_t rc = TN_OK;

    s->c = c;
    s->copy_bytes = s->weight_bytes;
    if (c->v->pack_layout)
        rc = c->v->pack_size(c->source->instance, s->op, &s->copy_bytes, err);
    s->copy_bytes = align_up(s->copy_bytes, ALIGN);
    s->n_copies = s->copy_bytes ? (uint32_t)ceil_div(SPREAD, s->copy_bytes) : 1;
    s->n_copies = s->n_copies > MAX_COPIES ? MAX_COPIES : s->n_copies;
    if (rc == TN_OK && c->v->workspace)
        rc = c->v->workspace(c->source->instance, s->op, s->max_rows, o->max_seqs, o->max_context,
                             &workspace, err);
    if (rc == TN_OK)
        rc = device_alloc(s, s->copy_bytes * s->n_copies, &s->copies, err);
    if (rc == TN_OK)
        rc = device_alloc(s, workspace, &s->workspace, err);
    return rc == TN_OK ? copy_weights(s, err) : rc;
}

static void end_candidate(struct subject *s)
{
    device_free(s, s->copies);
    device_free(s, s->workspace);
    s->copies = NULL;
    s->workspace = NULL;
}

static int32_t launch(struct subject *s, uint32_t copy, tn_err *err)
{
    uint8_t *base = s->copies + copy * s->copy_bytes;
    const void *weights[MAX_WEIGHTS];
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = s->op,
                   .batch = &s->batch,
                   .in = s->in,
                   .out = s->out,
                   .workspace = s->workspace,
                   .stream = s->stream,
                   .device = s->device,
                   .tp_rank = s->o->rank->o.topo.tp_rank,
                   .tp_size = s->o->rank->o.topo.tp_size};

    for (uint32_t i = 0; i < s->op->n_weights; i++)
        weights[i] = base + s->weight_at[i];
    if (s->c->v->pack_layout)
        l.packed = base;
    else
        l.weights = weights;
    return s->c->v->launch(s->c->source->instance, &l, err);
}

static int32_t launch_all(struct subject *s, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < s->n_copies && rc == TN_OK; i++)
        rc = launch(s, i, err);
    return rc;
}

/* -- Timing ------------------------------------------------------------------------------------------------ */

/* Nanoseconds of all copies once, by the graph if there is one. */
static int32_t time_once(struct subject *s, tn_graph *g, double *ns, tn_err *err)
{
    uint64_t begin = clock_ns();
    int32_t rc = s->stream ? s->api->event_record(s->device, s->from, s->stream, err) : TN_OK;

    if (rc == TN_OK)
        rc = g ? s->api->graph_launch(s->device, g, s->stream, err) : launch_all(s, err);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_record(s->device, s->to, s->stream, err);
    if (rc == TN_OK)
        rc = sync(s, err);
    *ns = (double)(clock_ns() - begin);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_elapsed_ns(s->device, s->from, s->to, ns, err);
    return rc;
}

static int32_t capture(struct subject *s, tn_graph **g, tn_err *err)
{
    tn_err ignored = TN_ERR_INIT;
    int32_t rc, end;

    *g = NULL;
    if (!(s->o->rank->info.flags & TN_DEVICE_GRAPHS) || !(s->c->v->flags & TN_VARIANT_GRAPH_SAFE))
        return TN_OK;
    rc = s->api->capture_begin(s->device, s->stream, err);
    if (rc != TN_OK)
        return rc;
    rc = launch_all(s, err);
    end = s->api->capture_end(s->device, s->stream, g, rc == TN_OK ? err : &ignored);
    return rc != TN_OK ? rc : end;
}

/* The least of a few replays, per launch: what disturbs makes slower, never faster. */
static int32_t time_rows(struct subject *s, uint32_t rows, double *best, tn_err *err)
{
    tn_graph *g = NULL;
    double ns = 0;
    int32_t rc = set_rows(s, rows, err);

    *best = 1e30;
    if (rc == TN_OK)
        rc = launch(s, 0, err); /* what a first launch prepares is not measured */
    if (rc == TN_OK)
        rc = sync(s, err);
    if (rc == TN_OK)
        rc = capture(s, &g, err);
    for (uint32_t i = 0; i < REPLAYS && rc == TN_OK; i++) {
        rc = time_once(s, g, &ns, err);
        ns /= s->n_copies;
        *best = ns < *best ? ns : *best;
        if (ns > ENOUGH_NS)
            break;
    }
    if (g)
        s->api->graph_free(s->device, g);
    return rc;
}

static int32_t measure_candidate(struct subject *s, const struct binding_candidate *c, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    double ns = 0;
    int32_t rc = begin_candidate(s, c->candidate, &why);

    for (uint32_t rows = 1; rows <= c->rows[1] && rc == TN_OK && ns < ENOUGH_NS;
         rows = rows < s->max_rows && rows * 2 > s->max_rows ? s->max_rows : rows * 2) {
        if (rows < c->rows[0])
            continue;
        rc = time_rows(s, rows, &ns, &why);
        if (rc == TN_OK && ns > 0)
            rc = tuning_set(s->o->tuning, c->candidate->source->plugin, c->candidate->v, s->op,
                            rows, ns, &why);
    }
    end_candidate(s);
    if (rc == TN_OK)
        return TN_OK;
    /* One that cannot be measured keeps its estimate; a device that died would fail all the others, too. */
    log_warn("%s/%s: not measured: %s", c->candidate->source->plugin, c->candidate->v->name,
             why.msg);
    return sync(s, err);
}

/* -- All ops ------------------------------------------------------------------------------------------------ */

static bool measurable_value(const tn_value *v)
{
    return v->kind != TN_VALUE_KV &&
           (v->dtype == TN_DT_F32 || v->dtype == TN_DT_F16 || v->dtype == TN_DT_BF16);
}

/* A fused op may keep the cache to itself: then only its members tell. */
static bool members_touch_kv(const tn_op *op)
{
    for (uint32_t m = 0; m < op->n_members; m++) {
        const tn_op *member = op->members[m];
        for (uint32_t i = 0; i < member->n_in; i++)
            if (member->in[i]->kind == TN_VALUE_KV)
                return true;
        for (uint32_t i = 0; i < member->n_out; i++)
            if (member->out[i]->kind == TN_VALUE_KV)
                return true;
    }
    return false;
}

static bool measurable(const tn_op *op)
{
    if (op->n_in == 0 || op->n_in > MAX_WEIGHTS || op->n_out > MAX_WEIGHTS ||
        op->n_weights > MAX_WEIGHTS || members_touch_kv(op))
        return false;
    for (uint32_t i = 0; i < op->n_in; i++)
        if (!measurable_value(op->in[i]))
            return false;
    for (uint32_t i = 0; i < op->n_out; i++)
        if (!measurable_value(op->out[i]))
            return false;
    return true;
}

static void close_subject(struct subject *s)
{
    if (s->from)
        s->api->event_free(s->device, s->from);
    if (s->to)
        s->api->event_free(s->device, s->to);
    if (s->stream)
        s->api->stream_free(s->device, s->stream);
    device_free(s, s->device_weights);
    device_free(s, s->values);
    device_free(s, s->rows_device);
    mem_free(s->host_weights);
    mem_free(s->rows_host);
}

static int32_t open_subject(struct subject *s, tn_err *err)
{
    int32_t rc = TN_OK;

    if (s->o->rank->info.flags & TN_DEVICE_STREAMS) {
        if ((rc = s->api->stream_new(s->device, &s->stream, err)) != TN_OK ||
            (rc = s->api->event_new(s->device, &s->from, err)) != TN_OK ||
            (rc = s->api->event_new(s->device, &s->to, err)) != TN_OK)
            return rc;
    }
    if ((rc = make_weights(s, err)) != TN_OK || (rc = make_values(s, err)) != TN_OK)
        return rc;
    return make_rows(s, err);
}

/* Layers look alike: an op of the same shape was measured before. */
static bool known(const struct subject *s, const struct binding_candidate *list, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (tuning_get(s->o->tuning, list[i].candidate->source->plugin, list[i].candidate->v, s->op,
                       1) >= 0)
            return true;
    return false;
}

static int32_t measure_op(const struct tune_options *o, const struct binding *b,
                          const struct selected *sel, tn_err *err)
{
    struct subject s = {
        .o = o, .b = b, .api = o->rank->in->api, .device = o->rank->device, .op = &sel->op->op};
    struct binding_candidate list[MAX_CANDIDATES];
    uint32_t n = binding_candidates(b, sel, list, MAX_CANDIDATES, &s.max_rows);
    int32_t rc;

    if (!measurable(s.op) || n == 0 || known(&s, list, n))
        return TN_OK;
    rc = open_subject(&s, err);
    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        rc = measure_candidate(&s, &list[i], err);
    close_subject(&s);
    return rc;
}

int32_t tune_binding(const struct tune_options *o, const struct binding *b, tn_err *err)
{
    const struct selection *sel = binding_selection(b);
    int32_t rc = TN_OK;

    for (size_t i = 0; i < sel->n_ops && rc == TN_OK; i++) {
        rc = measure_op(o, b, &sel->ops[i], err);
        if (rc == TN_OK && o->progress &&
            o->progress(o->arg, (uint32_t)i + 1, (uint32_t)sel->n_ops))
            rc = tn_err_set(err, TN_E_CANCELED, "measuring was interrupted");
    }
    return rc;
}
