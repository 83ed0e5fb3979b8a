/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scales of a cache of 8 bits: what kv_append (tenon/ops.h) divides by and attention multiplies with. They come
 * from the ranges that calibration left as weights of kv_append, and from the cache's dtype, so that one engine serves
 * any dtype of the cache. Called by the thread that binds.
 */
#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "base/mem.h"
#include "exec/bound.h"
#include "tenon/kv_feedback.h"
#include "tenon/ops.h"

/* Integers use all their steps for the range. Steps of e4m3 are relative: half of its reach is left for values beyond
 * what calibration saw. */
#define INT8_REACH 127.0f
#define FP8_REACH 224.0f

static bool of_8_bits(const struct binding *b)
{
    return tn_dtype_bits(b->o.select.kv_dtype) == 8;
}

/* The op of the plan that fills the cache of layer `layer`. */
static const struct plan_op *append_of(const struct binding *b, uint32_t layer)
{
    const struct plan *p = b->graph->plan;

    for (size_t i = 0; i < p->n_ops; i++)
        if (p->ops[i].layer == (int32_t)layer && strcmp(p->ops[i].name, TN_OP_KV_APPEND) == 0)
            return &p->ops[i];
    return NULL;
}

int32_t bound_check_kv_dtype(const struct binding *b, tn_err *err)
{
    uint32_t bare = 0;
    bool turned = false;

    if (!of_8_bits(b))
        return TN_OK;
    for (uint32_t i = 0; i < b->n_kv; i++)
        bare += append_of(b, b->kv[i].layer)->n_weights == 0;
    for (size_t i = 0; i < b->graph->plan->n_ops; i++)
        turned = turned || strcmp(b->graph->plan->ops[i].name, TN_OP_HADAMARD) == 0;
    if (bare == 0 && !turned && !b->o.dry && b->o.select.kv_dtype == TN_DT_F8E4M3)
        log_info("the engine was not built for an fp8 cache that is rounded with feedback: one "
                 "built with --kv-cache-dtype fp8 loses less");
    if (bare == 0)
        return TN_OK;
    if (b->o.select.kv_dtype == TN_DT_I8) {
        err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "kv.dtype",
               "is int8, but the engine has no ranges of keys and values");
        err_remedy(err, "build it with --calib-data, or use --kv-cache-dtype fp8");
        return TN_E_CONFIG;
    }
    if (!b->o.dry)
        log_warn("the engine has no ranges of keys and values: the fp8 cache keeps them unscaled; "
                 "build with --kv-cache-dtype fp8 and --calib-data for scales per head");
    return TN_OK;
}

static int32_t scales_from(const struct binding *b, uint32_t weight, uint32_t n, float *out,
                           tn_err *err)
{
    float reach = b->o.select.kv_dtype == TN_DT_I8 ? INT8_REACH : FP8_REACH;
    struct host_view v = {NULL, NULL};
    int32_t rc = bound_view_open(b, weight, &v, err);

    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        float range;
        memcpy(&range, v.data + i * sizeof range, sizeof range);
        if (!(range >= 0.0f && range < INFINITY))
            rc = err_at(err, TN_E_FORMAT, b->o.engine->path, TN_NO_OFFSET,
                        b->graph->plan->weights[weight].name,
                        "entry %" PRIu32 " is %g, which is no range", i, (double)range);
        /* A head that was never seen to speak, or hardly, is kept unscaled. */
        out[i] = isnormal(range / reach) ? range / reach : 1.0f;
    }
    bound_view_close(b, weight, &v);
    return rc;
}

/* Means of keys, feedback: numbers that are finite. */
static int32_t numbers_from(const struct binding *b, uint32_t weight, uint64_t n, float *out,
                            tn_err *err)
{
    struct host_view v = {NULL, NULL};
    int32_t rc = bound_view_open(b, weight, &v, err);

    if (rc == TN_OK)
        memcpy(out, v.data, (size_t)n * sizeof *out);
    for (uint64_t i = 0; i < n && rc == TN_OK; i++)
        if (!isfinite(out[i]))
            rc = err_at(err, TN_E_FORMAT, b->o.engine->path, TN_NO_OFFSET,
                        b->graph->plan->weights[weight].name, "entry %" PRIu64 " is not finite", i);
    bound_view_close(b, weight, &v);
    return rc;
}

/* Whether kv_append is told how rounding is made good. */
static bool shapes_errors(const struct binding *b, const struct plan_op *op)
{
    return op->n_weights > 4 && b->o.select.kv_dtype == TN_DT_F8E4M3;
}

/* What a layer has in one block: feedback of keys and of values, which kernels read by vectors, then scales of both, then means of
 * keys. */
struct kv_numbers {
    uint64_t square;         /* entries of feedback in the engine, of keys or of values; 0: none */
    uint64_t table;          /* bytes of either as the device has them */
    uint64_t scales, center; /* how many: of scales of either, of means */
    bool host;               /* the device computes in host memory */
};

static struct kv_numbers numbers_of(const struct binding *b, const tn_kv_layer *l, bool centered,
                                    bool shaped)
{
    uint64_t width = (uint64_t)l->n_kv_heads * l->head_dim;
    struct kv_numbers n = {.square = shaped ? width * l->head_dim : 0,
                           .scales = l->n_kv_heads,
                           .center = centered ? width : 0,
                           .host = (b->o.select.device->flags & TN_DEVICE_HOST_MEMORY) != 0};

    if (shaped)
        n.table = n.host ? n.square * sizeof(float)
                         : l->n_kv_heads * (uint64_t)TN_KV_FEEDBACK_BYTES(l->head_dim);
    return n;
}

static uint64_t bytes_of(const struct kv_numbers *n)
{
    return 2 * n->table + (2 * n->scales + n->center) * sizeof(float);
}

static void set_parts(tn_kv_layer *l, const struct kv_numbers *n, const char *block)
{
    const float *scales = block ? (const float *)(const void *)(block + 2 * n->table) : NULL;
    const void *keys = block && n->square ? block : NULL;
    const void *values = block && n->square ? block + n->table : NULL;

    l->k_feedback = n->host ? keys : NULL;
    l->v_feedback = n->host ? values : NULL;
    l->k_feedback_f16 = n->host ? NULL : keys;
    l->v_feedback_f16 = n->host ? NULL : values;
    l->k_scale = scales;
    l->v_scale = scales ? scales + n->scales : NULL;
    l->k_center = scales && n->center ? scales + 2 * n->scales : NULL;
}

/* Feedback of keys, or of values, as the device has it. */
static int32_t table_from(const struct binding *b, uint32_t weight, const tn_kv_layer *l,
                          const struct kv_numbers *n, char *to, tn_err *err)
{
    uint64_t dim = l->head_dim;
    float *square;
    int32_t rc;

    if (n->host)
        return numbers_from(b, weight, n->square, (float *)(void *)to, err);
    square = mem_array((size_t)n->square, sizeof *square);
    rc = square ? numbers_from(b, weight, n->square, square, err)
                : err_nomem(err, "feedback of the cache");
    for (uint64_t h = 0; h < l->n_kv_heads && rc == TN_OK; h++)
        tn_kv_feedback_pack(square + h * dim * dim, dim,
                            (uint16_t *)(void *)(to + h * TN_KV_FEEDBACK_BYTES(dim)));
    mem_free(square);
    return rc;
}

static int32_t read_numbers(const struct binding *b, const struct plan_op *op, const tn_kv_layer *l,
                            const struct kv_numbers *n, char *block, tn_err *err)
{
    float *scales = (float *)(void *)(block + 2 * n->table);
    int32_t rc = TN_OK;

    for (uint64_t i = 0; i < 2 * n->scales; i++)
        scales[i] = 1.0f;
    for (uint32_t i = 0; i < op->n_weights && i < 2 && rc == TN_OK; i++)
        rc = scales_from(b, op->weights[i], (uint32_t)n->scales, scales + i * n->scales, err);
    if (rc == TN_OK && n->center)
        rc = numbers_from(b, op->weights[2], n->center, scales + 2 * n->scales, err);
    for (uint32_t i = 0; i < 2 && n->square && rc == TN_OK; i++)
        rc = table_from(b, op->weights[3 + i], l, n, block + i * n->table, err);
    return rc;
}

/* Integers have no use for means and feedback: their steps are even. */
static int32_t place_layer(struct binding *b, tn_kv_layer *l, tn_err *err)
{
    const struct plan_op *op = append_of(b, l->layer);
    bool centered = op->n_weights > 2 && b->o.select.kv_dtype == TN_DT_F8E4M3;
    struct kv_numbers n = numbers_of(b, l, centered, shapes_errors(b, op));
    uint64_t bytes = bytes_of(&n);
    char *host = mem_zarray((size_t)bytes, 1);
    void *device = NULL;
    int32_t rc =
        host ? read_numbers(b, op, l, &n, host, err) : err_nomem(err, "scales of the cache");

    if (rc == TN_OK)
        rc = bound_alloc(b, b->own_kv, bytes, &device, err);
    if (rc == TN_OK && !b->o.count)
        rc = b->o.api->copy(b->o.device, b->stream, device, host, bytes, TN_COPY_HOST_TO_DEVICE,
                            err);
    if (rc == TN_OK && b->stream)
        rc = b->o.api->stream_sync(b->o.device, b->stream, err);
    set_parts(l, &n, device);
    mem_free(host);
    return rc;
}

int32_t bound_place_kv_scales(struct binding *b, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < b->n_kv && of_8_bits(b) && rc == TN_OK; i++)
        rc = place_layer(b, &b->kv[i], err);
    return rc;
}
