/* SPDX-License-Identifier: Apache-2.0 */
#include "build/stream.h"

#include "base/limits.h"
#include "base/mem.h"
#include "build/convert.h"
#include "build/matrix.h"
#include "build/quant.h"

struct streaming {
    const struct emission *e;
    const struct stream_options *o;
    uint8_t *in, *out; /* BUILD_CHUNK_BYTES each */
    uint64_t done;
    tn_err *err;
};

/* A part of one source: elements of a known shape and dtype. */
struct part {
    const struct weight_source *source;
    const struct st_tensor *tensor;
    const struct plan_weight *weight;
    uint64_t cols; /* elements per row of the weight */
};

static int32_t put(struct streaming *s, const void *data, size_t n)
{
    int32_t rc = engine_writer_append(s->o->writer, data, n, s->err);

    s->done += n;
    if (rc == TN_OK && s->o->progress && s->o->progress(s->o->arg, s->done))
        rc = tn_err_set(s->err, TN_E_CANCELED, "the build was interrupted");
    return rc;
}

/* Converts `n` elements at `src` and writes them; `at` is their index in the source, for messages. */
static int32_t convert_and_put(struct streaming *s, const struct part *p, const void *src, size_t n,
                               uint64_t at)
{
    uint32_t to = p->weight->dtype;
    size_t bad = convert_elements(src, p->tensor->dtype, s->out, to, n);

    if (bad < n) {
        err_at(s->err, TN_E_RANGE, checkpoint_file_of(s->o->checkpoint, p->tensor->name),
               p->tensor->offset, p->tensor->name, "element %llu does not fit %s",
               (unsigned long long)(at + bad), tn_dtype_name(to));
        err_remedy(s->err, "build with --dtype bfloat16 or float32");
        return TN_E_RANGE;
    }
    return put(s, s->out, n * tn_dtype_bits(to) / 8);
}

static int32_t stream_rows(struct streaming *s, const struct part *p)
{
    size_t size = tn_dtype_bits(p->tensor->dtype) / 8;
    size_t per_chunk = BUILD_CHUNK_BYTES / (size > 4 ? size : 4);
    uint64_t at = p->source->row_begin * p->cols, end = p->source->row_end * p->cols;
    int32_t rc = TN_OK;

    while (at < end && rc == TN_OK) {
        size_t n = end - at < per_chunk ? (size_t)(end - at) : per_chunk;
        rc = checkpoint_read(s->o->checkpoint, p->tensor->name, at * size, s->in, n * size, s->err);
        if (rc == TN_OK)
            rc = convert_and_put(s, p, s->in, n, at);
        at += n;
    }
    return rc;
}

static int32_t stream_transposed(struct streaming *s, const struct part *p)
{
    size_t size = tn_dtype_bits(p->tensor->dtype) / 8, cols = (size_t)p->cols;
    size_t rows_per_chunk = BUILD_CHUNK_BYTES / ((size > 4 ? size : 4) * cols);
    uint8_t *whole = mem_alloc((size_t)p->tensor->bytes);
    uint64_t row = p->source->row_begin;
    int32_t rc;

    if (!whole)
        return err_nomem(s->err, "transposing a tensor");
    if (rows_per_chunk == 0) {
        mem_free(whole);
        return err_at(s->err, TN_E_LIMIT, NULL, TN_NO_OFFSET, p->tensor->name,
                      "has rows too long to transpose");
    }
    rc = checkpoint_read(s->o->checkpoint, p->tensor->name, 0, whole, (size_t)p->tensor->bytes,
                         s->err);
    while (row < p->source->row_end && rc == TN_OK) {
        uint64_t left = p->source->row_end - row;
        size_t n = left < rows_per_chunk ? (size_t)left : rows_per_chunk;
        /* The file holds [cols][rows of the weight]. */
        transpose_rows(whole, s->in, cols, (size_t)p->tensor->dims[1], size, (size_t)row,
                       (size_t)row + n);
        rc = convert_and_put(s, p, s->in, n * cols, row * p->cols);
        row += n;
    }
    mem_free(whole);
    return rc;
}

static int32_t stream_source(struct streaming *s, const struct plan_weight *w,
                             const struct weight_source *source)
{
    struct part p = {source, checkpoint_find(s->o->checkpoint, source->tensor), w, 1};

    for (uint32_t i = 1; i < w->n_dims; i++)
        p.cols *= w->dims[i];
    if (!convert_known(p.tensor->dtype, w->dtype)) {
        err_at(s->err, TN_E_UNSUPPORTED, checkpoint_file_of(s->o->checkpoint, source->tensor),
               p.tensor->offset, source->tensor, "is stored as %s, which cannot become %s",
               tn_dtype_name(p.tensor->dtype), tn_dtype_name(w->dtype));
        err_remedy(s->err, "its config.json has no quantization_config that says what this is");
        return TN_E_UNSUPPORTED;
    }
    return source->transpose ? stream_transposed(s, &p) : stream_rows(s, &p);
}

/* A weight that is scaled or widened on the way: whole in memory, then rounded once. */
static int32_t stream_scaled(struct streaming *s, const struct plan_weight *w,
                             const struct weight_origin *o)
{
    uint64_t n = matrix_rows(w) * matrix_cols(w), per_chunk = BUILD_CHUNK_BYTES / sizeof(float);
    float *all = NULL;
    int32_t rc = matrix_load(s->o->checkpoint, w, o, &all, s->err);

    for (uint64_t at = 0; at < n && rc == TN_OK; at += per_chunk) {
        size_t count = n - at < per_chunk ? (size_t)(n - at) : (size_t)per_chunk;
        size_t bad = convert_elements(all + at, TN_DT_F32, s->out, w->dtype, count);
        if (bad < count)
            rc = err_at(s->err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
                        "element %llu, scaled or widened, does not fit %s",
                        (unsigned long long)(at + bad), tn_dtype_name(w->dtype));
        else
            rc = put(s, s->out, count * tn_dtype_bits(w->dtype) / 8);
    }
    mem_free(all);
    return rc;
}

/* The tensors of a quantized matrix stand one after another in the plan: made at the first, freed after the last. */
static int32_t stream_made(struct streaming *s, const struct plan_weight *w,
                           const struct weight_origin *o)
{
    const struct quantized_hook hook = {s->o->before, s->o->arg};
    int32_t rc = o->part == 0 ? quantized_make(o->made, s->o->checkpoint, &hook, s->err) : TN_OK;

    if (rc == TN_OK)
        rc = put(s, o->made->out[o->part], (size_t)plan_weight_bytes(w));
    if (rc != TN_OK || o->part + 1 == o->made->plan.n_tensors)
        quantized_drop(o->made);
    return rc;
}

static bool any_stored(const struct weight_origin *o)
{
    for (uint32_t i = 0; i < o->n_sources; i++)
        if (o->sources[i].stored)
            return true;
    return false;
}

static int32_t stream_weight(struct streaming *s, size_t i)
{
    const struct plan_weight *w = &s->e->plan->weights[i];
    const struct weight_origin *o = &s->e->origins[i];
    int32_t rc = TN_OK;

    if (o->table)
        return put(s, o->table, (size_t)plan_weight_bytes(w));
    if (o->made)
        return stream_made(s, w, o);
    if (o->scale || any_stored(o))
        return stream_scaled(s, w, o);
    for (uint32_t j = 0; j < o->n_sources && rc == TN_OK; j++)
        rc = stream_source(s, w, &o->sources[j]);
    return rc;
}

int32_t stream_weights(const struct emission *e, const struct stream_options *o, tn_err *err)
{
    struct streaming s = {e, o, mem_alloc(BUILD_CHUNK_BYTES), mem_alloc(BUILD_CHUNK_BYTES), 0, err};
    int32_t rc = s.in && s.out ? TN_OK : err_nomem(err, "streaming weights");

    for (size_t i = 0; i < e->plan->n_weights && rc == TN_OK; i++)
        rc = stream_weight(&s, i);
    mem_free(s.in);
    mem_free(s.out);
    return rc;
}
