/* SPDX-License-Identifier: Apache-2.0 */
#include "build/matrix.h"

#include "base/checked.h"
#include "base/limits.h"
#include "base/mem.h"
#include "build/convert.h"
#include "build/quant.h"

uint64_t matrix_rows(const struct plan_weight *w)
{
    return w->dims[0];
}

uint64_t matrix_cols(const struct plan_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 1; i < w->n_dims; i++)
        n *= w->dims[i];
    return n;
}

struct loading {
    const struct checkpoint *c;
    const struct weight_source *source;
    const struct st_tensor *tensor;
    uint64_t cols;
    tn_err *err;
};

static int32_t load_rows(const struct loading *l, float *out)
{
    size_t size = tn_dtype_bits(l->tensor->dtype) / 8, per_chunk = BUILD_CHUNK_BYTES / size;
    uint64_t at = l->source->row_begin * l->cols, end = l->source->row_end * l->cols;
    uint8_t *chunk = mem_alloc(BUILD_CHUNK_BYTES);
    int32_t rc = chunk ? TN_OK : err_nomem(l->err, "reading a matrix");

    while (at < end && rc == TN_OK) {
        size_t n = end - at < per_chunk ? (size_t)(end - at) : per_chunk;
        rc = checkpoint_read(l->c, l->tensor->name, at * size, chunk, n * size, l->err);
        if (rc == TN_OK)
            convert_elements(chunk, l->tensor->dtype, out, TN_DT_F32, n);
        out += n;
        at += n;
    }
    mem_free(chunk);
    return rc;
}

/* The file holds [cols][rows of the weight]. */
static int32_t load_transposed(const struct loading *l, float *out)
{
    size_t size = tn_dtype_bits(l->tensor->dtype) / 8, cols = (size_t)l->cols;
    size_t first = (size_t)l->source->row_begin, rows = (size_t)l->source->row_end - first;
    uint8_t *whole = mem_alloc((size_t)l->tensor->bytes), *turned = mem_array(rows * cols, size);
    int32_t rc = whole && turned ? TN_OK : err_nomem(l->err, "transposing a matrix");

    if (rc == TN_OK)
        rc = checkpoint_read(l->c, l->tensor->name, 0, whole, (size_t)l->tensor->bytes, l->err);
    if (rc == TN_OK) {
        transpose_rows(whole, turned, cols, (size_t)l->tensor->dims[1], size, first, first + rows);
        convert_elements(turned, l->tensor->dtype, out, TN_DT_F32, rows * cols);
    }
    mem_free(whole);
    mem_free(turned);
    return rc;
}

static int32_t load_source(struct loading *l, const struct weight_source *s, float *out)
{
    if (s->stored)
        return stored_widen(s->stored, s, out, l->err);
    l->source = s;
    l->tensor = checkpoint_find(l->c, s->tensor);
    if (!convert_known(l->tensor->dtype, TN_DT_F32))
        return err_at(l->err, TN_E_UNSUPPORTED, checkpoint_file_of(l->c, s->tensor),
                      l->tensor->offset, s->tensor,
                      "is stored as %s, which is no number to quantize",
                      tn_dtype_name(l->tensor->dtype));
    return s->transpose ? load_transposed(l, out) : load_rows(l, out);
}

static void apply_scale(const struct weight_scale *s, uint64_t rows, uint64_t cols, float *w)
{
    if (s->turn_rows)
        quant_turn_rows(s->turn_rows, rows, cols, w);
    if (s->turn_columns)
        quant_turn_columns(s->turn_columns, rows, cols, w);
    for (uint64_t r = 0; r < rows; r++) {
        const float *multiply =
            s->multiply_rows ? s->multiply + r / s->multiply_rows * cols : s->multiply;
        for (uint64_t k = 0; k < cols && multiply; k++)
            w[r * cols + k] *= multiply[k];
        for (uint64_t k = 0; k < cols && s->divide; k++)
            w[r * cols + k] = (w[r * cols + k] + s->offset) / s->divide[r] - s->offset;
    }
}

/* Brings rows into their order. */
static int32_t apply_order(const uint32_t *order, uint64_t rows, uint64_t cols, float **w,
                           tn_err *err)
{
    float *from = *w, *to = mem_array((size_t)(rows * cols), sizeof *to);

    if (!to)
        return err_nomem(err, "a matrix in another order");
    for (uint64_t r = 0; r < rows; r++)
        memcpy(to + r * cols, from + order[r] * cols, (size_t)cols * sizeof *to);
    mem_free(from);
    *w = to;
    return TN_OK;
}

int32_t matrix_load(const struct checkpoint *c, const struct plan_weight *w,
                    const struct weight_origin *o, float **out, tn_err *err)
{
    struct loading l = {.c = c, .cols = matrix_cols(w), .err = err};
    uint64_t n, done = 0, channels = w->n_dims > 1 ? w->dims[w->n_dims - 1] : 1;
    float *all;
    int32_t rc = TN_OK;

    if (!checked_mul(matrix_rows(w), l.cols, &n) || n > SIZE_MAX / sizeof *all)
        return err_nomem(err, "a matrix");
    all = mem_array((size_t)n, sizeof *all);
    if (!all) {
        err_nomem(err, "a matrix in float32");
        err_field(err, w->name);
        return TN_E_NOMEM;
    }
    for (uint32_t i = 0; i < o->n_sources && rc == TN_OK; i++) {
        rc = load_source(&l, &o->sources[i], all + done);
        done += (o->sources[i].row_end - o->sources[i].row_begin) * l.cols;
    }
    if (rc == TN_OK && o->scale)
        apply_scale(o->scale, n / channels, channels, all);
    if (rc == TN_OK && o->scale && o->scale->rows)
        rc = apply_order(o->scale->rows, matrix_rows(w), l.cols, &all, err);
    if (rc != TN_OK) {
        mem_free(all);
        return rc;
    }
    *out = all;
    return TN_OK;
}
