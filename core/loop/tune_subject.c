/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what variants are measured on. One thread. */
#include "loop/tune_subject.h"

#include "base/checked.h"
#include "base/limits.h"
#include "base/mem.h"
#include "engine/dummy.h"
#include "tenon/ops.h"

#define ALIGN 256
#define NOISE (4 * MIB) /* bytes of noise that are made; more are copies of them */
#define CACHE                                                                                      \
    (512 * MIB) /* of keys and values, for ops that read little else: more than caches hold */

/* -- Memory ---------------------------------------------------------------------------------------------- */

int32_t tune_alloc(struct tune_subject *s, uint64_t bytes, void *out, tn_err *err)
{
    void *p = NULL;
    int32_t rc = s->api->mem_alloc(s->device, bytes ? bytes : 1, &p, err);

    *(void **)out = p;
    return rc;
}

void tune_free(struct tune_subject *s, void *p)
{
    if (p)
        s->api->mem_free(s->device, p);
}

int32_t tune_sync(struct tune_subject *s, tn_err *err)
{
    return s->stream ? s->api->stream_sync(s->device, s->stream, err) : TN_OK;
}

int32_t tune_upload(struct tune_subject *s, void *dst, const void *src, uint64_t bytes, tn_err *err)
{
    int32_t rc = s->api->copy(s->device, s->stream, dst, src, bytes, TN_COPY_HOST_TO_DEVICE, err);

    return rc == TN_OK ? tune_sync(s, err) : rc;
}

/* -- Noise ----------------------------------------------------------------------------------------------- */

/* Bytes of `n` elements that are made; the rest repeats them. */
static uint64_t noise_bytes(uint32_t dtype, uint64_t n)
{
    uint64_t bytes = n * tn_dtype_bits(dtype) / 8;

    return bytes < NOISE ? bytes : NOISE;
}

/* Noise as dummy weights have it: no kernel may profit from zeros, or from numbers that repeat soon. */
static void make_noise(void *dst, uint32_t dtype, uint64_t n, uint64_t seed)
{
    const struct plan_weight w = {.dtype = dtype, .role = TN_ROLE_MATRIX};

    dummy_fill(&w, seed, 0, noise_bytes(dtype, n) * 8 / tn_dtype_bits(dtype), dst);
}

static int32_t fill_noise(struct tune_subject *s, void *dst, uint32_t dtype, uint64_t n,
                          uint64_t seed, tn_err *err)
{
    uint64_t bytes = n * tn_dtype_bits(dtype) / 8, done = noise_bytes(dtype, n);
    uint8_t *noise = mem_aligned((size_t)done + ALIGN, 64), *to = dst;
    int32_t rc;

    if (!noise)
        return err_nomem(err, "measuring kernels");
    make_noise(noise, dtype, n, seed);
    rc = tune_upload(s, dst, noise, done, err);
    mem_free(noise);
    while (rc == TN_OK && done < bytes) {
        uint64_t more = bytes - done < done ? bytes - done : done;
        rc = s->api->copy(s->device, s->stream, to + done, to, more, TN_COPY_DEVICE_TO_DEVICE, err);
        done += more;
    }
    return rc;
}

/* -- Weights --------------------------------------------------------------------------------------------- */

static uint64_t elements(const tn_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < w->n_dims; i++)
        n *= w->dims[i];
    return n;
}

static int32_t make_weights(struct tune_subject *s, tn_err *err)
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
    rc = tune_alloc(s, s->weight_bytes, &s->weights, err);
    for (uint32_t i = 0; i < s->op->n_weights && rc == TN_OK; i++) {
        /* The plan's own weights carry no data while nothing is loaded; kernels are shown these. */
        tn_weight *w = (tn_weight *)(uintptr_t)s->op->weights[i];
        w->stride0 = w->dims[0] ? elements(w) * tn_dtype_bits(w->dtype) / 8 / w->dims[0] : 0;
        rc = fill_noise(s, s->weights + s->weight_at[i], w->dtype, elements(w), 17 + i, err);
    }
    return rc;
}

static int32_t make_host_weights(struct tune_subject *s, tn_err *err)
{
    int32_t rc;

    if (s->host_weights)
        return TN_OK;
    s->host_weights = mem_aligned((size_t)s->weight_bytes, 64);
    if (!s->host_weights)
        return err_nomem(err, "measuring kernels");
    rc = s->api->copy(s->device, s->stream, s->host_weights, s->weights, s->weight_bytes,
                      TN_COPY_DEVICE_TO_HOST, err);
    return rc == TN_OK ? tune_sync(s, err) : rc;
}

static void point_weights(struct tune_subject *s, uint8_t *base)
{
    for (uint32_t i = 0; i < s->op->n_weights; i++)
        ((tn_weight *)(uintptr_t)s->op->weights[i])->data = base ? base + s->weight_at[i] : NULL;
}

int32_t tune_subject_show(struct tune_subject *s, bool on_device, tn_err *err)
{
    int32_t rc = on_device ? TN_OK : make_host_weights(s, err);

    if (rc == TN_OK)
        point_weights(s, on_device ? s->weights : s->host_weights);
    return rc;
}

void tune_subject_hide(struct tune_subject *s)
{
    point_weights(s, NULL);
}

/* -- Values, the cache, the arrays of a step ---------------------------------------------------------------- */

static uint64_t value_bytes(const struct tune_subject *s, const tn_value *v)
{
    if (v->kind == TN_VALUE_KV) /* the cache has memory of its own */
        return 0;
    return align_up(s->max_rows * v->width * tn_dtype_bits(v->dtype) / 8, ALIGN);
}

static int32_t make_values(struct tune_subject *s, tn_err *err)
{
    uint64_t bytes = 0;
    uint8_t *at;
    int32_t rc;

    for (uint32_t i = 0; i < s->op->n_in; i++)
        bytes += value_bytes(s, s->op->in[i]);
    for (uint32_t i = 0; i < s->op->n_out; i++)
        bytes += value_bytes(s, s->op->out[i]);
    rc = tune_alloc(s, bytes, &s->values, err);
    at = s->values;
    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++) {
        const tn_value *v = s->op->in[i];
        if (v->kind == TN_VALUE_KV)
            continue;
        s->in[i] = at;
        rc = fill_noise(s, at, v->dtype, s->max_rows * v->width, 99 + i, err);
        at += value_bytes(s, v);
    }
    for (uint32_t i = 0; i < s->op->n_out && rc == TN_OK; i++) {
        s->out[i] = at;
        at += value_bytes(s, s->op->out[i]);
    }
    return rc;
}

static int32_t make_scales(struct tune_subject *s, tn_err *err)
{
    uint64_t bytes = s->kv.n_kv_heads * sizeof(float);
    float *ones = mem_aligned((size_t)bytes + ALIGN, 64);
    int32_t rc;

    if (!ones)
        return err_nomem(err, "measuring kernels");
    for (uint32_t i = 0; i < s->kv.n_kv_heads; i++)
        ones[i] = 1.0f;
    rc = tune_alloc(s, bytes, &s->kv_scales, err);
    if (rc == TN_OK)
        rc = tune_upload(s, s->kv_scales, ones, bytes, err);
    mem_free(ones);
    if (tn_dtype_bits(s->kv.dtype) == 8)
        s->kv.k_scale = s->kv.v_scale = s->kv_scales;
    return rc;
}

/* A layer's cache full of noise, which holds every sequence's tokens or as many as CACHE has room for. */
static int32_t make_cache(struct tune_subject *s, const tn_kv_layer *like,
                          struct tune_batch_options *o, tn_err *err)
{
    uint64_t pages = tune_batch_pages(o), bytes;
    int32_t rc;

    s->kv = *like;
    s->kv.base = NULL;
    pages = pages * like->block_bytes > CACHE ? CACHE / like->block_bytes : pages;
    pages = pages ? pages : 1;
    bytes = pages * like->block_bytes;
    s->kv.n_blocks = o->n_pages = (uint32_t)pages;
    rc = tune_alloc(s, bytes, &s->kv.base, err);
    if (rc == TN_OK)
        rc = fill_noise(s, s->kv.base, like->dtype, bytes * 8 / tn_dtype_bits(like->dtype), 7, err);
    return rc == TN_OK ? make_scales(s, err) : rc;
}

static int32_t make_rows(struct tune_subject *s, tn_err *err)
{
    struct tune_batch_options o = {.max_rows = s->max_rows,
                                   .max_seqs = s->max_seqs,
                                   .max_context = s->max_context,
                                   .block_tokens = binding_options(s->b)->block_tokens,
                                   .vocab = s->rank->in->vocab};
    const tn_kv_layer *kv = binding_kv(s->b, s->op);
    int32_t rc = kv ? make_cache(s, kv, &o, err) : TN_OK;

    if (rc == TN_OK)
        rc = tune_batch_init(&s->batch, &o, err);
    if (rc == TN_OK)
        rc = tune_alloc(s, s->batch.bytes, &s->rows_device, err);
    if (rc == TN_OK)
        tune_batch_place(&s->batch, s->rows_device);
    return rc;
}

int32_t tune_subject_rows(struct tune_subject *s, uint32_t rows, tn_err *err)
{
    tune_batch_rows(&s->batch, rows);
    if (strcmp(s->op->name, TN_OP_SAMPLE) == 0)
        s->out[0] = s->batch.dev.sampled;
    return tune_upload(s, s->rows_device, s->batch.block, s->batch.bytes, err);
}

/* -- Life ------------------------------------------------------------------------------------------------ */

int32_t tune_subject_open(struct tune_subject *s, tn_err *err)
{
    const struct bind_options *b = binding_options(s->b);
    uint32_t positions =
        (uint32_t)plan_hyper_int(s->rank->in->engine->plan, TN_HP_MAX_POSITIONS, 1);
    int32_t rc = TN_OK;

    s->api = s->rank->in->api;
    s->device = s->rank->device;
    s->max_seqs = b->max_seqs > TUNE_SEQS ? b->max_seqs : TUNE_SEQS;
    s->max_context = positions < TUNE_ROWS ? positions : TUNE_ROWS;
    s->max_context = b->max_context > s->max_context ? b->max_context : s->max_context;
    if (s->rank->info.flags & TN_DEVICE_STREAMS)
        rc = s->api->stream_new(s->device, &s->stream, err);
    if (rc == TN_OK)
        rc = make_weights(s, err);
    if (rc == TN_OK)
        rc = make_values(s, err);
    return rc == TN_OK ? make_rows(s, err) : rc;
}

void tune_subject_close(struct tune_subject *s)
{
    if (s->stream)
        s->api->stream_free(s->device, s->stream);
    tune_free(s, s->weights);
    tune_free(s, s->values);
    tune_free(s, s->rows_device);
    tune_free(s, s->kv.base);
    tune_free(s, s->kv_scales);
    mem_free(s->host_weights);
    tune_batch_release(&s->batch);
}
