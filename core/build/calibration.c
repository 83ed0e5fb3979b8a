/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics over calibration data, and their file. Sums are in double: 10^5 rows of float32 would lose digits. */
#include "build/calibration.h"

#include <inttypes.h>
#include <math.h>

#include "base/limits.h"
#include "base/mem.h"
#include "build/safetensors.h"
#include "tenon/dtype.h"

#define MAX_CHANNELS LIMIT_WIDTH

int32_t calibration_new(struct calibration **out, tn_err *err)
{
    *out = mem_zalloc(sizeof **out);
    return *out ? TN_OK : err_nomem(err, "calibration");
}

void calibration_free(struct calibration *c)
{
    if (!c)
        return;
    file_reader_release(&c->file);
    map_release(&c->names);
    mem_free(c->inputs);
    arena_release(&c->arena);
    mem_free(c);
}

struct calibration_input *calibration_find(const struct calibration *c, const char *name)
{
    uint64_t i;

    return c && map_get(&c->names, name, strlen(name), &i) ? c->inputs[i] : NULL;
}

uint64_t calibration_bytes(uint64_t n_channels, uint32_t keep)
{
    const struct calibration_input *in = NULL;
    uint64_t each = sizeof *in->absmax + sizeof *in->squares + sizeof *in->sums;

    if (keep & CALIBRATION_SAMPLES)
        each += CALIBRATION_SAMPLE * sizeof *in->sample;
    if (keep & CALIBRATION_HISTOGRAM)
        each += HISTOGRAM_BUCKETS * sizeof *in->histogram.counts;
    return n_channels * each; /* at most 2^24 * 788 */
}

/* The parts that not every scheme asks for. */
static bool add_kept(struct calibration *c, struct calibration_input *in, uint32_t keep)
{
    size_t n = (size_t)in->n_channels;

    in->histogram.n_channels = in->n_channels;
    if (keep & CALIBRATION_SAMPLES)
        in->sample = arena_array(&c->arena, n, CALIBRATION_SAMPLE * sizeof *in->sample);
    if (keep & CALIBRATION_HISTOGRAM)
        in->histogram.counts =
            arena_array(&c->arena, n, HISTOGRAM_BUCKETS * sizeof *in->histogram.counts);
    return (!(keep & CALIBRATION_SAMPLES) || in->sample) &&
           (!(keep & CALIBRATION_HISTOGRAM) || in->histogram.counts);
}

int32_t calibration_add(struct calibration *c, const char *name, uint64_t n_channels, uint32_t keep,
                        uint64_t seed, struct calibration_input **out, tn_err *err)
{
    struct calibration_input *in = arena_alloc(&c->arena, sizeof *in);
    size_t n = (size_t)n_channels;

    if (!in || !mem_grow(&c->inputs, &c->cap_inputs, c->n_inputs + 1, sizeof *c->inputs))
        return err_nomem(err, "calibration");
    in->name = arena_strdup(&c->arena, name);
    in->n_channels = n_channels;
    in->rng.state = seed + c->n_inputs;
    in->absmax = arena_array(&c->arena, n, sizeof *in->absmax);
    in->squares = arena_array(&c->arena, n, sizeof *in->squares);
    in->sums = arena_array(&c->arena, n, sizeof *in->sums);
    if (!in->name || !in->absmax || !in->squares || !in->sums || !add_kept(c, in, keep))
        return err_nomem(err, "calibration");
    if (map_put(&c->names, in->name, strlen(in->name), c->n_inputs) != MAP_ADDED)
        return err_at(err, TN_E_EXISTS, NULL, TN_NO_OFFSET, name, "is calibrated twice");
    c->inputs[c->n_inputs++] = in;
    *out = in;
    return TN_OK;
}

uint64_t calibration_products_bytes(uint64_t n_groups, uint64_t dim)
{
    const struct calibration_input *in = NULL;

    return n_groups * dim * dim * sizeof *in->products;
}

int32_t calibration_add_products(struct calibration *c, struct calibration_input *in,
                                 uint64_t n_groups, uint64_t dim, tn_err *err)
{
    in->products = arena_array(&c->arena, (size_t)(n_groups * dim), dim * sizeof *in->products);
    in->n_groups = n_groups;
    in->dim = dim;
    return in->products ? TN_OK : err_nomem(err, "calibration");
}

/* Heads stand in the order of their groups. */
static void take_products(struct calibration_input *in, const float *row)
{
    uint64_t dim = in->dim, heads = in->n_channels / dim, each = heads / in->n_groups;

    for (uint64_t h = 0; h < heads; h++, row += dim) {
        double *sums = in->products + h / each * dim * dim;
        for (uint64_t i = 0; i < dim; i++)
            for (uint64_t j = 0; j <= i; j++)
                sums[i * dim + j] += (double)row[i] * (double)row[j];
    }
}

bool calibration_take(struct calibration_input *in, const float *row)
{
    uint64_t n = in->n_channels, slot = in->n_rows;
    float most = 0.0f;

    for (uint64_t k = 0; k < n; k++)
        if (!isfinite(row[k]))
            return false;
    for (uint64_t k = 0; k < n; k++) {
        float a = fabsf(row[k]);
        in->absmax[k] = a > in->absmax[k] ? a : in->absmax[k];
        most = a > most ? a : most;
        in->squares[k] += (double)row[k] * (double)row[k];
        in->sums[k] += (double)row[k];
    }
    if (in->products)
        take_products(in, row);
    if (in->histogram.counts)
        histogram_take(&in->histogram, row, most);
    /* Every row is kept with equal probability, however many there will be (Vitter 1985, algorithm R). */
    if (slot >= CALIBRATION_SAMPLE)
        slot = rng_below(&in->rng, in->n_rows + 1);
    if (in->sample && slot < CALIBRATION_SAMPLE)
        memcpy(in->sample + slot * n, row, (size_t)n * sizeof *row);
    in->n_rows++;
    in->n_sample = !in->sample                       ? 0
                   : in->n_rows < CALIBRATION_SAMPLE ? in->n_rows
                                                     : CALIBRATION_SAMPLE;
    return true;
}

int32_t calibration_take_rows(struct calibration_input *in, const float *rows, uint64_t n_rows,
                              tn_err *err)
{
    for (uint64_t t = 0; t < n_rows; t++)
        if (!calibration_take(in, rows + t * in->n_channels))
            return err_at(err, TN_E_NAN, NULL, TN_NO_OFFSET, in->name,
                          "the model computes NaN or infinity for the calibration data");
    return TN_OK;
}

/* -- The file --------------------------------------------------------------------------------------- */

enum { TENSORS_PER_INPUT = 10 };

static const char *const suffixes[TENSORS_PER_INPUT] = {
    "absmax",    "squares", "rows",     "sample",       "sums",
    "histogram", "base",    "products", "hessian_rows", "hessian"};

/* The base of a histogram whose top bucket ends at infinity. */
#define MAX_BASE (0x7f8 - HISTOGRAM_BUCKETS)

/* 2^48 rows would take years. */
#define MAX_ROWS (UINT64_C(1) << 48)

struct saving {
    struct arena arena;
    struct st_tensor *tensors;
    const void **data;
    size_t n;
};

static bool save_tensor(struct saving *s, const char *prefix, const char *suffix, uint32_t dtype,
                        uint64_t rows, uint64_t cols, const void *data)
{
    struct st_tensor *t = &s->tensors[s->n];
    size_t room = strlen(prefix) + strlen(suffix) + 2;
    char *name = arena_alloc(&s->arena, room);

    if (!name)
        return false;
    snprintf(name, room, "%s/%s", prefix, suffix);
    *t = (struct st_tensor){.name = name,
                            .dtype = dtype,
                            .n_dims = rows ? 2 : 1,
                            .bytes = (rows ? rows : 1) * cols * tn_dtype_bits(dtype) / 8};
    t->dims[0] = rows ? rows : cols;
    t->dims[1] = rows ? cols : 0;
    s->data[s->n++] = data;
    return true;
}

static bool save_histogram(struct saving *s, const struct calibration_input *in)
{
    int64_t *base = arena_alloc(&s->arena, sizeof *base);

    if (!base)
        return false;
    *base = in->histogram.base;
    return save_tensor(s, in->name, suffixes[5], TN_DT_I32, in->n_channels, HISTOGRAM_BUCKETS,
                       in->histogram.counts) &&
           save_tensor(s, in->name, suffixes[6], TN_DT_I64, 0, 1, base);
}

static bool save_input(struct saving *s, const struct calibration_input *in)
{
    return save_tensor(s, in->name, suffixes[0], TN_DT_F32, 0, in->n_channels, in->absmax) &&
           save_tensor(s, in->name, suffixes[1], TN_DT_F64, 0, in->n_channels, in->squares) &&
           save_tensor(s, in->name, suffixes[2], TN_DT_I64, 0, 1, &in->n_rows) &&
           save_tensor(s, in->name, suffixes[4], TN_DT_F64, 0, in->n_channels, in->sums) &&
           (!in->histogram.counts || save_histogram(s, in)) &&
           (!in->products || save_tensor(s, in->name, suffixes[7], TN_DT_F64,
                                         in->n_groups * in->dim, in->dim, in->products)) &&
           (in->n_sample == 0 || save_tensor(s, in->name, suffixes[3], TN_DT_F32, in->n_sample,
                                             in->n_channels, in->sample));
}

/* The last tensors, whose data come later. */
static bool save_hessians(struct saving *s, const struct calibration *c)
{
    bool ok = true;

    for (size_t i = 0; i < c->n_inputs && ok; i++) {
        const struct calibration_input *in = c->inputs[i];
        if (in->keeps_hessian)
            ok = save_tensor(s, in->name, suffixes[8], TN_DT_I64, 0, 1, NULL) &&
                 save_tensor(s, in->name, suffixes[9], TN_DT_F32, 0,
                             hessian_bytes(in->n_channels) / sizeof(float), NULL);
    }
    return ok;
}

static int32_t put_hessians(const struct file_writer *w, const struct calibration *c,
                            calibration_hessian_fn hessian, void *arg, tn_err *err)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; i < c->n_inputs && rc == TN_OK; i++) {
        const struct hessian *h = NULL;
        if (!c->inputs[i]->keeps_hessian)
            continue;
        rc = hessian(arg, i, &h, err);
        if (rc == TN_OK)
            rc = file_writer_put(w, &h->n_rows, sizeof h->n_rows, err);
        if (rc == TN_OK)
            rc = file_writer_put(w, h->sum, (size_t)hessian_bytes(h->n), err);
    }
    return rc;
}

int32_t calibration_save(const struct calibration *c, const char *path,
                         calibration_hessian_fn hessian, void *arg, tn_err *err)
{
    struct saving s = {.arena = ARENA_INIT};
    struct file_writer w = {-1, NULL, NULL};
    size_t most = c->n_inputs * TENSORS_PER_INPUT + 4;
    bool ok;
    int32_t rc;

    s.tensors = arena_array(&s.arena, most, sizeof *s.tensors);
    s.data = arena_array(&s.arena, most, sizeof *s.data);
    ok = s.tensors && s.data &&
         save_tensor(&s, "data", "sha256", TN_DT_U8, 0, sizeof c->data_sha256, c->data_sha256) &&
         save_tensor(&s, "data", "tokens", TN_DT_I64, 0, 1, &c->n_tokens) &&
         save_tensor(&s, "data", "first", TN_DT_I32, 0, c->n_first, c->first) &&
         save_tensor(&s, "model", "xxh128", TN_DT_U8, 0, sizeof c->model, c->model);
    for (size_t i = 0; i < c->n_inputs && ok; i++)
        ok = save_input(&s, c->inputs[i]);
    ok = ok && save_hessians(&s, c);
    rc = ok ? file_writer_open(path, &w, err) : err_nomem(err, path);
    if (rc == TN_OK)
        rc = safetensors_begin(&w, s.tensors, s.n, err);
    for (size_t i = 0; i < s.n && s.data[i] && rc == TN_OK; i++)
        rc = file_writer_put(&w, s.data[i], (size_t)s.tensors[i].bytes, err);
    if (rc == TN_OK)
        rc = put_hessians(&w, c, hessian, arg, err);
    if (rc == TN_OK)
        rc = file_writer_commit(&w, err);
    file_writer_release(&w);
    arena_release(&s.arena);
    return rc;
}

struct reading {
    const struct file_reader *f;
    const struct st_header *h;
    struct calibration *c;
    tn_err *err;
};

/* The tensor PREFIX/SUFFIX with these dims, read to `out`; TN_E_NOTFOUND without a message if there is none. */
static int32_t read_tensor(const struct reading *r, const char *prefix, const char *suffix,
                           uint32_t dtype, uint64_t count, void *out)
{
    char name[LIMIT_TENSOR_NAME + 16];
    const struct st_tensor *t;

    snprintf(name, sizeof name, "%s/%s", prefix, suffix);
    t = safetensors_find(r->h, name);
    if (!t)
        return TN_E_NOTFOUND;
    if (t->dtype != dtype || t->bytes != count * tn_dtype_bits(dtype) / 8)
        return err_at(r->err, TN_E_FORMAT, r->f->path, t->offset, name,
                      "must be %" PRIu64 " numbers of %s", count, tn_dtype_name(dtype));
    return file_reader_at(r->f, t->offset, out, (size_t)t->bytes, r->err);
}

static int32_t needed(const struct reading *r, const char *name, int32_t rc)
{
    return rc == TN_E_NOTFOUND
               ? err_at(r->err, TN_E_FORMAT, r->f->path, TN_NO_OFFSET, name, "is incomplete")
               : rc;
}

static int32_t check_values(const struct reading *r, const struct calibration_input *in)
{
    for (uint64_t k = 0; k < in->n_channels; k++)
        if (!(in->absmax[k] >= 0.0f) || !isfinite(in->absmax[k]) || !(in->squares[k] >= 0.0) ||
            !isfinite(in->squares[k]) || !isfinite(in->sums[k]))
            return err_at(r->err, TN_E_RANGE, r->f->path, TN_NO_OFFSET, in->name,
                          "channel %" PRIu64 " is not a finite, positive number", k);
    for (uint64_t k = 0; k < in->n_sample * in->n_channels; k++)
        if (!isfinite(in->sample[k]))
            return err_at(r->err, TN_E_RANGE, r->f->path, TN_NO_OFFSET, in->name,
                          "a sampled row is not finite");
    if (in->n_rows > MAX_ROWS) /* none are known of an expert that no row was routed to */
        return err_at(r->err, TN_E_RANGE, r->f->path, TN_NO_OFFSET, in->name,
                      "says that %" PRIu64 " rows were seen", in->n_rows);
    return TN_OK;
}

/* Channels have as many counts as rows were seen (fewer where a count was full). */
static int32_t read_histogram(const struct reading *r, const char *name,
                              struct calibration_input *in)
{
    int64_t base = 0;
    int32_t rc = read_tensor(r, name, suffixes[5], TN_DT_I32, in->n_channels * HISTOGRAM_BUCKETS,
                             in->histogram.counts);

    if (rc == TN_OK)
        rc = needed(r, name, read_tensor(r, name, suffixes[6], TN_DT_I64, 1, &base));
    if (rc == TN_OK && (base < -HISTOGRAM_BUCKETS || base > MAX_BASE))
        rc = err_at(r->err, TN_E_RANGE, r->f->path, TN_NO_OFFSET, name,
                    "the base of its histogram is %" PRId64, base);
    in->histogram.base = (int32_t)base;
    for (uint64_t k = 0; k < in->n_channels && rc == TN_OK; k++) {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < HISTOGRAM_BUCKETS; i++)
            sum += in->histogram.counts[k * HISTOGRAM_BUCKETS + i];
        if (sum > in->n_rows)
            rc = err_at(r->err, TN_E_RANGE, r->f->path, TN_NO_OFFSET, name,
                        "channel %" PRIu64 " has %" PRIu64 " counts of %" PRIu64 " rows", k, sum,
                        in->n_rows);
    }
    return rc;
}

/* Whether the tensor NAME/SUFFIX is there. */
static const struct st_tensor *find_part(const struct reading *r, const char *name,
                                         const char *suffix)
{
    char full[LIMIT_TENSOR_NAME + 16];

    snprintf(full, sizeof full, "%s/%s", name, suffix);
    return safetensors_find(r->h, full);
}

static int32_t read_sample(const struct reading *r, const char *name, const struct st_tensor *t,
                           struct calibration_input *in)
{
    if (t->n_dims != 2 || t->dims[0] > CALIBRATION_SAMPLE)
        return err_at(r->err, TN_E_FORMAT, r->f->path, t->offset, t->name,
                      "must have two dimensions, and at most %d rows", CALIBRATION_SAMPLE);
    in->n_sample = t->dims[0];
    return read_tensor(r, name, suffixes[3], TN_DT_F32, in->n_sample * in->n_channels, in->sample);
}

static int32_t read_products(const struct reading *r, const char *name, const struct st_tensor *t,
                             struct calibration_input *in)
{
    uint64_t dim = t->n_dims == 2 ? t->dims[1] : 0, n;
    int32_t rc;

    if (dim == 0 || dim > CALIBRATION_DIM || t->dims[0] == 0 || t->dims[0] % dim != 0 ||
        in->n_channels % t->dims[0] != 0)
        return err_at(r->err, TN_E_FORMAT, r->f->path, t->offset, t->name,
                      "must be squares of at most %d, whose rows divide %" PRIu64 " channels",
                      CALIBRATION_DIM, in->n_channels);
    rc = calibration_add_products(r->c, in, t->dims[0] / dim, dim, r->err);
    n = t->dims[0] * dim;
    if (rc == TN_OK)
        rc = read_tensor(r, name, suffixes[7], TN_DT_F64, n, in->products);
    for (uint64_t i = 0; i < n && rc == TN_OK; i++)
        if (!isfinite(in->products[i]))
            rc = err_at(r->err, TN_E_RANGE, r->f->path, t->offset, t->name, "is not finite");
    return rc;
}

/* Where it is, and that it can be read when it is wanted. */
static int32_t find_hessian(const struct reading *r, const char *name, const struct st_tensor *t,
                            struct calibration_input *in)
{
    uint64_t bytes = hessian_bytes(in->n_channels);
    int32_t rc;

    if (t->dtype != TN_DT_F32 || t->bytes != bytes || bytes > LIMIT_HESSIAN_BYTES)
        return err_at(
            r->err, TN_E_FORMAT, r->f->path, t->offset, t->name,
            "must be the lower triangle, float32, of at most 65535 channels, here %" PRIu64,
            in->n_channels);
    rc = needed(r, name, read_tensor(r, name, suffixes[8], TN_DT_I64, 1, &in->n_hessian_rows));
    if (rc == TN_OK && (in->n_hessian_rows == 0 || in->n_hessian_rows > in->n_rows))
        rc = err_at(r->err, TN_E_RANGE, r->f->path, t->offset, t->name,
                    "says that it is of %" PRIu64 " of %" PRIu64 " rows", in->n_hessian_rows,
                    in->n_rows);
    in->keeps_hessian = true;
    in->hessian_at = t->offset;
    return rc;
}

int32_t calibration_read_hessian(const struct calibration *c, const struct calibration_input *in,
                                 struct hessian *out, tn_err *err)
{
    struct hessian h;
    const float *at;
    int32_t rc = hessian_init(&h, in->n_channels, err);

    if (rc == TN_OK)
        rc = file_reader_at(&c->file, in->hessian_at, h.sum, (size_t)hessian_bytes(h.n), err);
    at = h.sum;
    for (uint64_t i = 0; i < h.n && rc == TN_OK; i++) {
        bool good = true;
        for (uint64_t j = 0; j <= i; j++)
            good = good && isfinite(at[j]);
        if (!good || at[i] < 0.0f)
            rc = err_at(err, TN_E_RANGE, c->file.path, in->hessian_at, in->name,
                        "row %" PRIu64 " of its second moments is not finite, or negative", i);
        at += i + 1;
    }
    h.n_rows = in->n_hessian_rows;
    if (rc == TN_OK)
        *out = h;
    else
        hessian_release(&h);
    return rc;
}

static int32_t read_input(const struct reading *r, const char *name, const struct st_tensor *absmax)
{
    const struct st_tensor *sample = find_part(r, name, suffixes[3]);
    const struct st_tensor *products = find_part(r, name, suffixes[7]);
    const struct st_tensor *hessian = find_part(r, name, suffixes[9]);
    bool histogram = find_part(r, name, suffixes[5]) != NULL;
    struct calibration_input *in = NULL;
    uint64_t n = absmax->dims[0];
    int32_t rc;

    if (absmax->n_dims != 1 || n == 0 || n > MAX_CHANNELS)
        return err_at(r->err, TN_E_FORMAT, r->f->path, absmax->offset, absmax->name,
                      "must have one dimension of at most %" PRIu64, MAX_CHANNELS);
    rc = calibration_add(r->c, name, n,
                         (sample ? CALIBRATION_SAMPLES : 0u) |
                             (histogram ? CALIBRATION_HISTOGRAM : 0u),
                         0, &in, r->err);
    if (rc != TN_OK)
        return rc;
    if ((rc = read_tensor(r, name, suffixes[0], TN_DT_F32, n, in->absmax)) != TN_OK ||
        (rc = read_tensor(r, name, suffixes[1], TN_DT_F64, n, in->squares)) != TN_OK ||
        (rc = read_tensor(r, name, suffixes[4], TN_DT_F64, n, in->sums)) != TN_OK ||
        (rc = read_tensor(r, name, suffixes[2], TN_DT_I64, 1, &in->n_rows)) != TN_OK)
        return needed(r, name, rc);
    if (sample && (rc = read_sample(r, name, sample, in)) != TN_OK)
        return rc;
    if (products && (rc = read_products(r, name, products, in)) != TN_OK)
        return rc;
    rc = check_values(r, in);
    if (rc == TN_OK && hessian)
        rc = find_hessian(r, name, hessian, in);
    return rc == TN_OK && histogram ? read_histogram(r, name, in) : rc;
}

/* What the data begin with; whether the model has these ids is for whoever knows the model. */
static int32_t read_first(const struct reading *r)
{
    const struct st_tensor *t = find_part(r, "data", "first");
    struct calibration *c = r->c;

    if (!t)
        return TN_E_NOTFOUND;
    if (t->n_dims != 1 || t->dims[0] == 0 || t->dims[0] > CALIBRATION_FIRST)
        return err_at(r->err, TN_E_FORMAT, r->f->path, t->offset, t->name,
                      "must have one dimension of at most %d", CALIBRATION_FIRST);
    c->n_first = t->dims[0];
    return read_tensor(r, "data", "first", TN_DT_I32, c->n_first, c->first);
}

static int32_t read_all(const struct reading *r)
{
    struct calibration *c = r->c;
    int32_t rc;

    rc = read_tensor(r, "data", "sha256", TN_DT_U8, sizeof c->data_sha256, c->data_sha256);
    if (rc == TN_OK)
        rc = read_tensor(r, "data", "tokens", TN_DT_I64, 1, &c->n_tokens);
    if (rc == TN_OK)
        rc = read_first(r);
    rc = needed(r, "data", rc);
    if (rc == TN_OK)
        rc = needed(r, "model",
                    read_tensor(r, "model", "xxh128", TN_DT_U8, sizeof c->model, c->model));
    c->model[sizeof c->model - 1] = '\0';
    c->data_sha256[sizeof c->data_sha256 - 1] = '\0';
    if (rc == TN_OK && strspn(c->data_sha256, "0123456789abcdef") != SHA256_HEX - 1)
        rc = err_at(r->err, TN_E_FORMAT, r->f->path, TN_NO_OFFSET, "data/sha256", "is no digest");
    for (size_t i = 0; i < r->h->n_tensors && rc == TN_OK; i++) {
        const struct st_tensor *t = &r->h->tensors[i];
        size_t n = strlen(t->name), tail = strlen("/absmax");
        char name[LIMIT_TENSOR_NAME + 1];
        if (n <= tail || n - tail > LIMIT_TENSOR_NAME || strcmp(t->name + n - tail, "/absmax") != 0)
            continue;
        memcpy(name, t->name, n - tail);
        name[n - tail] = '\0';
        rc = read_input(r, name, t);
    }
    return rc;
}

static int32_t check_model(const struct calibration *c, const char *path, const char *model,
                           tn_err *err)
{
    if (!model || strcmp(c->model, model) == 0)
        return TN_OK;
    return err_at(err, TN_E_FORMAT, path, TN_NO_OFFSET, "model/xxh128",
                  "is %.32s, but norms, biases and parts of matrices of this model are %s: the "
                  "statistics are of another",
                  c->model, model);
}

int32_t calibration_load(const char *path, const char *model, struct calibration **out, tn_err *err)
{
    struct file_reader f;
    struct st_header h = {0};
    struct calibration *c = NULL;
    int32_t rc = file_reader_open(path, &f, err);

    if (rc != TN_OK)
        return rc;
    rc = safetensors_read(&f, &h, err);
    if (rc == TN_OK) {
        rc = calibration_new(&c, err);
        if (rc == TN_OK)
            rc = read_all(&(struct reading){&f, &h, c, err});
        if (rc == TN_OK)
            rc = check_model(c, path, model, err);
        st_header_release(&h);
    }
    if (rc != TN_OK) {
        file_reader_release(&f);
        calibration_free(c);
        err_remedy(err, "calibrate this model with --calib-data, which writes the file anew");
        return rc;
    }
    c->file = f;
    *out = c;
    return TN_OK;
}
