/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/tune.h"

#include <inttypes.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/dummy.h"
#include "exec/judge.h"
#include "loop/tune_batch.h"
#include "tenon/ops.h"

#define ALIGN 256
#define MAX_CANDIDATES 32
#define MAX_WEIGHTS 32
#define MAX_COPIES 8
#define SPREAD                                                                                     \
    (256 *                                                                                         \
     MIB) /* bytes of weights in all copies: more than caches hold, where the copies suffice */
#define REPLAYS 3
#define ENOUGH_NS 5e7     /* a launch that takes longer is not measured at more rows */
#define ONCE_NS 5e6       /* one that takes longer is measured once, from one copy */
#define QUICK_NS 2e6      /* or, at more rows than the settings allow, than this */
#define FAR_BEHIND 8      /* nor one that takes so many times as long as the fastest */
#define CACHE (512 * MIB) /* of keys and values: as much as SPREAD, for ops that read little else */
#define NOISE (16 * MIB)  /* bytes of noise that are made; more are copies of them */
#define MAX_POINTS 32     /* numbers of rows */
#define TUNED_ROWS 2048   /* rows at least, */
#define TUNED_SEQS 256    /* or, of what has one row per sequence */

/* One op as it is measured. */
struct subject {
    const struct tune_options *o;
    const struct binding *b;
    const tn_device_api *api;
    tn_device *device;
    tn_stream *stream;
    tn_event *from, *to;
    const tn_op *op;
    uint32_t max_rows, max_seqs, max_context;
    uint32_t
        own_rows; /* that a step has at most by the settings in force; beyond, only what is quick is measured */
    uint8_t *host_weights,
        *device_weights; /* canonical, one after another; host memory, and the device's */
    uint64_t weight_at[MAX_WEIGHTS], weight_bytes;
    void *values; /* device: inputs and outputs */
    const void *in[MAX_WEIGHTS];
    void *out[MAX_WEIGHTS];
    struct tune_batch batch;
    void *rows_device; /* its block */
    tn_kv_layer kv;    /* base NULL: the op touches no cache */
    void *kv_scales;
    /* Of the candidates so far, by number of rows, 0: none. [1]: of those that serve all rows alone. */
    double fastest[2][MAX_POINTS];
    /* Of the candidate at hand. */
    const struct candidate *c;
    uint8_t *copies; /* n_copies of its weights, packed or canonical */
    uint64_t copy_bytes;
    uint32_t n_copies;
    void *workspace, *state;
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

/* Noise as dummy weights have it: no kernel may profit from zeros, or from numbers that repeat soon. */
static void make_noise(void *dst, uint32_t dtype, uint64_t n, uint64_t seed)
{
    const struct plan_weight w = {.dtype = dtype, .role = TN_ROLE_MATRIX};
    uint64_t bits = tn_dtype_bits(dtype), bytes = n * bits / 8;
    uint64_t own = bytes < NOISE ? bytes : NOISE;

    dummy_fill(&w, seed, 0, own * 8 / bits, dst);
    for (uint64_t at = own; at < bytes; at += own)
        memcpy((uint8_t *)dst + at, dst, (size_t)(bytes - at < own ? bytes - at : own));
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
    if (v->kind == TN_VALUE_KV) /* the cache has memory of its own */
        return 0;
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
    noise = mem_aligned((size_t)in_bytes + ALIGN, 64); /* an embedding has no inputs */
    if (!noise)
        return err_nomem(err, "measuring kernels");
    rc = device_alloc(s, bytes, &s->values, err);
    bytes = 0;
    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++) {
        const tn_value *v = s->op->in[i];
        if (v->kind == TN_VALUE_KV)
            continue;
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

/* A layer's cache full of noise, which holds every sequence's tokens or as many as CACHE has room for. */
static int32_t make_cache(struct subject *s, const tn_kv_layer *like, struct tune_batch_options *o,
                          tn_err *err)
{
    float *ones;
    uint64_t pages, bytes, scales;
    uint8_t *noise;
    int32_t rc;

    s->kv = *like;
    scales = align_up((uint64_t)like->n_kv_heads * sizeof *ones, ALIGN);
    pages = tune_batch_pages(o);
    pages = pages * like->block_bytes > CACHE ? CACHE / like->block_bytes : pages;
    pages = pages ? pages : 1;
    bytes = pages * like->block_bytes;
    noise = mem_aligned((size_t)(bytes > scales ? bytes : scales), 64);
    if (!noise)
        return err_nomem(err, "measuring kernels");
    make_noise(noise, like->dtype, bytes * 8 / tn_dtype_bits(like->dtype), 7);
    rc = device_alloc(s, bytes, &s->kv.base, err);
    if (rc == TN_OK)
        rc = upload(s, s->kv.base, noise, bytes, err);
    ones = (float *)(void *)noise;
    for (uint32_t i = 0; i < like->n_kv_heads; i++)
        ones[i] = 1.0f;
    if (rc == TN_OK)
        rc = device_alloc(s, scales, &s->kv_scales, err);
    if (rc == TN_OK)
        rc = upload(s, s->kv_scales, ones, scales, err);
    mem_free(noise);
    s->kv.n_blocks = o->n_pages = (uint32_t)pages;
    if (tn_dtype_bits(like->dtype) == 8)
        s->kv.k_scale = s->kv.v_scale = s->kv_scales;
    return rc;
}

static int32_t make_rows(struct subject *s, tn_err *err)
{
    struct tune_batch_options o = {.max_rows = s->max_rows,
                                   .max_seqs = s->max_seqs,
                                   .max_context = s->max_context,
                                   .block_tokens = binding_options(s->b)->block_tokens,
                                   .vocab = s->o->rank->in->vocab};
    const tn_kv_layer *kv = binding_kv(s->b, s->op);
    int32_t rc = kv ? make_cache(s, kv, &o, err) : TN_OK;

    if (rc == TN_OK)
        rc = tune_batch_init(&s->batch, &o, err);
    if (rc == TN_OK)
        rc = device_alloc(s, s->batch.bytes, &s->rows_device, err);
    if (rc == TN_OK)
        tune_batch_place(&s->batch, s->rows_device);
    return rc;
}

static int32_t set_rows(struct subject *s, uint32_t rows, tn_err *err)
{
    tune_batch_rows(&s->batch, rows);
    if (strcmp(s->op->name, TN_OP_SAMPLE) == 0)
        s->out[0] = s->batch.dev.sampled;
    return upload(s, s->rows_device, s->batch.block, s->batch.bytes, err);
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
        rc = c->v->workspace(c->source->instance, s->op, s->max_rows, s->max_seqs, s->max_context,
                             &workspace, err);
    if (rc == TN_OK)
        rc = device_alloc(s, s->copy_bytes * s->n_copies, &s->copies, err);
    if (rc == TN_OK)
        rc = device_alloc(s, workspace, &s->workspace, err);
    if (rc == TN_OK && TN_HAS(tn_variant, c->v, state_bytes) && c->v->state_bytes > 0)
        rc = device_alloc(s, c->v->state_bytes, &s->state, err);
    if (rc == TN_OK && s->state)
        rc = s->api->fill(s->device, s->stream, s->state, 0, c->v->state_bytes, err);
    return rc == TN_OK ? copy_weights(s, err) : rc;
}

static void end_candidate(struct subject *s)
{
    device_free(s, s->copies);
    device_free(s, s->workspace);
    device_free(s, s->state);
    s->copies = NULL;
    s->workspace = NULL;
    s->state = NULL;
}

static int32_t launch(struct subject *s, uint32_t copy, tn_err *err)
{
    uint8_t *base = s->copies + copy * s->copy_bytes;
    const void *weights[MAX_WEIGHTS];
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = s->op,
                   .batch = &s->batch.batch,
                   .in = s->in,
                   .out = s->out,
                   .kv = s->kv.base ? &s->kv : NULL,
                   .workspace = s->workspace,
                   .state = s->state,
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

static int32_t launch_all(struct subject *s, uint32_t copies, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < copies && rc == TN_OK; i++)
        rc = launch(s, i, err);
    return rc;
}

/* -- Timing ------------------------------------------------------------------------------------------------ */

/* Nanoseconds per launch on that many copies, by the graph if there is one. */
static int32_t time_once(struct subject *s, tn_graph *g, uint32_t copies, double *ns, tn_err *err)
{
    uint64_t begin = clock_ns();
    int32_t rc = s->stream ? s->api->event_record(s->device, s->from, s->stream, err) : TN_OK;

    if (rc == TN_OK)
        rc = g ? s->api->graph_launch(s->device, g, s->stream, err) : launch_all(s, copies, err);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_record(s->device, s->to, s->stream, err);
    if (rc == TN_OK)
        rc = sync(s, err);
    *ns = (double)(clock_ns() - begin);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_elapsed_ns(s->device, s->from, s->to, ns, err);
    *ns /= copies;
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
    rc = launch_all(s, s->n_copies, err);
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
        rc = time_once(s, NULL, 1, &ns, err); /* what a first launch prepares is not measured */
    if (rc == TN_OK && ns > ONCE_NS) /* what else it took is little, or happens each time */
        rc = time_once(s, NULL, 1, best, err);
    else if (rc == TN_OK)
        rc = capture(s, &g, err);
    for (uint32_t i = 0; i < REPLAYS && rc == TN_OK && ns <= ONCE_NS; i++) {
        double again = 0;
        rc = time_once(s, g, s->n_copies, &again, err);
        *best = again < *best ? again : *best;
    }
    if (g)
        s->api->graph_free(s->device, g);
    return rc;
}

static uint32_t next_rows(const struct subject *s, uint32_t rows)
{
    return rows < s->max_rows && rows * 2 > s->max_rows ? s->max_rows : rows * 2;
}

/* Notes a time; false if it is so far behind that larger ones need not be taken. Who serves `all` rows is held against his like
 * only: one that is fast where rows are few and serves no more would else leave nobody to be measured beyond. */
static bool in_the_race(struct subject *s, bool all, uint32_t point, double ns)
{
    uint32_t at = point < MAX_POINTS ? point : MAX_POINTS - 1;

    for (int i = 0; i <= all; i++)
        if (s->fastest[i][at] == 0 || ns < s->fastest[i][at])
            s->fastest[i][at] = ns;
    return ns < ENOUGH_NS && ns <= FAR_BEHIND * s->fastest[all][at];
}

static int32_t measure_candidate(struct subject *s, const struct binding_candidate *c, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    const char *plugin = c->candidate->source->plugin;
    uint32_t point = 0, most = c->rows[1] < s->max_rows ? c->rows[1] : s->max_rows;
    bool goes_on = true, slow;
    int32_t rc = begin_candidate(s, c->candidate, &why);

    for (uint32_t rows = 1; rows <= c->rows[1] && rc == TN_OK && goes_on;
         rows = next_rows(s, rows), point++) {
        double ns = 0;
        if (rows < c->rows[0])
            continue;
        rc = time_rows(s, rows, &ns, &why);
        if (rc != TN_OK || !(ns > 0))
            continue;
        goes_on = in_the_race(s, c->rows[1] >= s->max_rows, point, ns);
        rc = tuning_set(s->o->tuning, plugin, c->candidate->v, s->op, rows, ns, &why);
        slow = ns >= ENOUGH_NS || (rows >= s->own_rows && ns >= QUICK_NS);
        goes_on = goes_on && !slow;
        if (rc == TN_OK && slow && rows < most) /* it grows in proportion */
            rc = tuning_set(s->o->tuning, plugin, c->candidate->v, s->op, most, ns / rows * most,
                            &why);
    }
    end_candidate(s);
    if (rc == TN_OK)
        return TN_OK;
    /* One that cannot be measured keeps its estimate; a device that died would fail all the others, too. */
    log_warn("%s/%s: not measured: %s", plugin, c->candidate->v->name, why.msg);
    return sync(s, err);
}

/* -- All ops ------------------------------------------------------------------------------------------------ */

static bool measurable_value(const tn_value *v)
{
    return v->kind == TN_VALUE_KV || v->dtype == TN_DT_F32 || v->dtype == TN_DT_F16 ||
           v->dtype == TN_DT_BF16;
}

/* Experts and collectives hang on more than shapes. */
static bool measurable(const tn_op *op)
{
    static const char *const not [] = {TN_OP_MOE_ROUTE, TN_OP_MOE_MLP, TN_OP_ALL_REDUCE,
                                       TN_OP_ALL_GATHER};

    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        if (strcmp(op->name, not [i]) == 0)
            return false;
    if (op->n_members > 0 && strcmp(op->members[0]->name, TN_OP_ALL_REDUCE) == 0)
        return false;
    if (op->n_in > MAX_WEIGHTS || op->n_out > MAX_WEIGHTS || op->n_weights > MAX_WEIGHTS)
        return false;
    for (uint32_t i = 0; i < op->n_in; i++)
        if (!measurable_value(op->in[i]))
            return false;
    for (uint32_t i = 0; i < op->n_out && strcmp(op->name, TN_OP_SAMPLE) != 0; i++)
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
    device_free(s, s->kv.base);
    device_free(s, s->kv_scales);
    mem_free(s->host_weights);
    tune_batch_release(&s->batch);
}

static int32_t open_subject(struct subject *s, tn_err *err)
{
    const struct bind_options *b = binding_options(s->b);
    uint32_t positions =
        (uint32_t)plan_hyper_int(s->o->rank->in->engine->plan, TN_HP_MAX_POSITIONS, 1);
    int32_t rc = TN_OK;

    s->max_seqs = b->max_seqs > TUNED_SEQS ? b->max_seqs : TUNED_SEQS;
    s->max_context = positions < TUNED_ROWS ? positions : TUNED_ROWS;
    s->max_context = b->max_context > s->max_context ? b->max_context : s->max_context;
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

/* Layers look alike: an op of the same shape was measured before, up to as many rows. */
static bool known(const struct tuning *t, const tn_op *op, const struct binding_candidate *list,
                  uint32_t n, uint32_t max_rows)
{
    uint32_t most = 0; /* a fusion may serve fewer rows than a step has, whoever does it */

    for (uint32_t i = 0; i < n; i++)
        most = list[i].rows[1] > most ? list[i].rows[1] : most;
    most = most < max_rows ? most : max_rows;
    for (uint32_t i = 0; i < n; i++)
        if (tuning_rows(t, list[i].candidate->source->plugin, list[i].candidate->v, op) >= most)
            return true;
    return false;
}

/* Times outlive the settings that they are measured under, so that small steps are no reason to measure few rows. */
static uint32_t rows_to_measure(const tn_op *op, uint32_t max_rows)
{
    uint32_t least = TUNED_ROWS;

    for (uint32_t i = 0; i < op->n_in; i++)
        least = op->in[i]->kind == TN_VALUE_LOGITS ? TUNED_SEQS : least;
    for (uint32_t i = 0; i < op->n_out; i++)
        least = op->out[i]->kind == TN_VALUE_LOGITS ? TUNED_SEQS : least;
    return max_rows > least ? max_rows : least;
}

/* The most rows that a variant serves of `max_rows`, whatever steps have now. */
static uint32_t rows_served(const tn_variant *v, uint32_t max_rows)
{
    for (uint32_t i = 0; i < v->n_ranges; i++)
        if (strcmp(v->ranges[i].dim, "rows") == 0 && v->ranges[i].max < max_rows)
            max_rows = (uint32_t)v->ranges[i].max;
    return max_rows;
}

/* The candidates of an op that is to be measured; 0 if it is not. */
static uint32_t candidates(const struct tune_options *o, const struct binding *b,
                           const struct selected *sel, struct binding_candidate *list,
                           uint32_t *max_rows)
{
    const tn_op *op = &sel->op->op;
    uint32_t n = binding_candidates(b, sel, list, MAX_CANDIDATES, max_rows), most = *max_rows;

    /* No fusion takes these: where there is one variant, there is nothing to choose. */
    if (n == 1 && (strcmp(op->name, TN_OP_EMBEDDING) == 0 ||
                   strcmp(op->name, TN_OP_POSITION) == 0 || strcmp(op->name, TN_OP_SAMPLE) == 0))
        return 0;
    *max_rows = rows_to_measure(op, most);
    for (uint32_t i = 0; i < n; i++)
        if (list[i].rows[1] == most)
            list[i].rows[1] = rows_served(list[i].candidate->v, *max_rows);
    return measurable(op) && !known(o->tuning, op, list, n, *max_rows) ? n : 0;
}

static int32_t measure_op(const struct tune_options *o, const struct binding *b,
                          const struct selected *sel, tn_err *err)
{
    struct subject s = {
        .o = o, .b = b, .api = o->rank->in->api, .device = o->rank->device, .op = &sel->op->op};
    struct binding_candidate list[MAX_CANDIDATES];
    uint32_t n = candidates(o, b, sel, list, &s.max_rows);
    int32_t rc;

    if (n == 0)
        return TN_OK;
    s.own_rows = judge_max_rows(&binding_options(b)->select, sel->op);
    rc = open_subject(&s, err);
    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        rc = measure_candidate(&s, &list[i], err);
    close_subject(&s);
    return rc;
}

static int32_t tune_binding(const struct tune_options *o, const struct binding *b, tn_err *err)
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

int32_t tune_rank(const struct tune_options *o, const struct binding *chosen, tn_err *err)
{
    struct binding *basic = NULL;
    int32_t rc = tune_binding(o, chosen, err);

    if (rc == TN_OK)
        rc = rank_bind_dry(o->rank, false, &basic, err);
    if (rc == TN_OK)
        rc = tune_binding(o, basic, err);
    binding_free(basic);
    return rc;
}

/* -- At the first load --------------------------------------------------------------------------------------- */

#define ROUNDS 3 /* choices by new times may bring ops that were not measured, but not for ever */
#define TELL_NS UINT64_C(2000000000)

static uint32_t unknown_ops(const struct tune_options *o, const struct binding *b)
{
    const struct selection *sel = binding_selection(b);
    struct binding_candidate list[MAX_CANDIDATES];
    uint32_t n = 0, max_rows;

    for (size_t i = 0; i < sel->n_ops; i++)
        n += candidates(o, b, &sel->ops[i], list, &max_rows) > 0;
    return n;
}

struct telling {
    const char *place;
    uint64_t since;
};

static int tell(void *arg, uint32_t done, uint32_t total)
{
    struct telling *t = arg;
    uint64_t now = clock_ns();

    if (now - t->since >= TELL_NS) {
        log_info("%s: measuring kernels, op %" PRIu32 " of %" PRIu32, t->place, done, total);
        t->since = now;
    }
    return 0;
}

static void save(const struct rank *r, uint64_t begin)
{
    char *path = path_join(r->in->engine->dir, TUNING_FILE);
    tn_err why = TN_ERR_INIT;

    if (!path || tuning_save(r->tuning, path, &why) != TN_OK)
        log_warn("%s: measured times are lost when this ends: %s", r->place, why.msg);
    else
        log_info("%s: %zu times measured in %.1f s, kept in %s", r->place, tuning_count(r->tuning),
                 (double)(clock_ns() - begin) / 1e9, path);
    mem_free(path);
}

static bool tunes(const struct rank *r)
{
    return conf_bool(r->in->o.conf, CONF_KERNELS_TUNE) && r->in->engine->dir && !r->in->o.dry &&
           !r->in->o.tap && r->o.world_size == 1 && !(r->info.flags & TN_DEVICE_HOST_MEMORY);
}

int32_t tune_at_first_load(struct rank *r, tn_err *err)
{
    bool fusion = conf_bool(r->in->o.conf, CONF_KERNELS_FUSION);
    struct telling t = {r->place, clock_ns()};
    struct tune_options o = {.rank = r, .tuning = r->tuning, .progress = tell, .arg = &t};
    struct binding *b = NULL;
    uint64_t begin = t.since;
    tn_err why = TN_ERR_INIT;
    uint32_t round = 0;
    int32_t rc = TN_OK;

    if (!tunes(r))
        return TN_OK;
    for (; rc == TN_OK && round < ROUNDS; round++) {
        rc = rank_bind_dry(r, fusion, &b, err);
        if (rc != TN_OK)
            return rc;
        if (unknown_ops(&o, b) == 0)
            break;
        if (round == 0)
            log_info("%s: the first load of this engine here: measuring kernels (kernels.tune)",
                     r->place);
        rc = tune_rank(&o, b, &why);
        binding_free(b);
        b = NULL;
    }
    binding_free(b);
    r->tune_ns = round > 0 ? clock_ns() - begin : 0;
    if (rc != TN_OK)
        log_warn("%s: kernels are chosen by estimate: %s", r->place, why.msg);
    else if (round > 0)
        save(r, begin);
    return TN_OK;
}
