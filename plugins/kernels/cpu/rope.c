/* SPDX-License-Identifier: Apache-2.0 */
/* rope, kv_append, and both at once: keys are rotated on their way into the cache; hadamard. Any thread. */
#include <math.h>

#include "../common/kv_feedback.h"
#include "check.h"
#include "rows.h"
#include "share.h"
#include "tenon/hadamard.h"

#define MAX_HALF 512                /* rotary_dim / 2: angles of a row live on the stack */
#define MAX_DIM KV_FEEDBACK_MAX_DIM /* head_dim: so does a head */
#define ROPE_NS 0.3                 /* nanoseconds per element that one worker needs, roughly */

/* What a rope op says. */
struct rotation {
    uint64_t dim, half;
    int pairs;
    float mscale;
    double base, factor, limit; /* dynamic scaling; limit 0: none */
    const float *freq;          /* [half] */
};

static void rotation_of(const tn_op *op, const float *freq, struct rotation *r)
{
    r->dim = (uint64_t)tn_op_int(op, "head_dim", 0);
    r->half = (uint64_t)tn_op_int(op, "rotary_dim", 0) / 2;
    r->pairs = strcmp(tn_op_text(op, "style", "half"), "pairs") == 0;
    r->mscale = (float)tn_op_real(op, "mscale", 1.0);
    r->base = tn_op_real(op, "base", 10000.0);
    r->factor = tn_op_real(op, "factor", 1.0);
    r->limit = (double)tn_op_int(op, "max_position", 0);
    r->freq = freq;
}

static int32_t check_rope(const tn_op *op, tn_err *err)
{
    int64_t heads = tn_op_int(op, "n_heads", 0), dim = tn_op_int(op, "head_dim", 0);
    int64_t rotary = tn_op_int(op, "rotary_dim", 0);
    const char *style = tn_op_text(op, "style", "half");

    if (!check_form(op, 1, 1, 1, 1) || heads <= 0 || dim <= 0 || dim > MAX_DIM ||
        op->in[0]->width != (uint64_t)(heads * dim) || op->out[0]->width != op->in[0]->width)
        return check_require(op, 0, "needs float32 rows of n_heads * head_dim", err);
    if (rotary <= 0 || rotary % 2 || rotary > dim || rotary / 2 > MAX_HALF ||
        op->weights[0]->dtype != TN_DT_F32 || !check_vector(op->weights[0], (uint64_t)rotary / 2))
        return check_require(op, 0, "needs rotary_dim / 2 float32 frequencies", err);
    return check_require(op, strcmp(style, "half") == 0 || strcmp(style, "pairs") == 0,
                         "style must be \"half\" or \"pairs\"", err);
}

static int32_t check_append(const tn_op *op, tn_err *err)
{
    int64_t width = tn_op_int(op, "n_kv_heads", 0) * tn_op_int(op, "head_dim", 0);

    return check_require(op,
                         check_form(op, 2, 1, 0, 5) && width > 0 &&
                             op->in[0]->width == (uint64_t)width &&
                             op->in[1]->width == (uint64_t)width,
                         "needs float32 keys and values of n_kv_heads * head_dim", err);
}

int32_t rope_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_rope(op, err);
}

int32_t kv_append_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_append(op, err);
}

int32_t rope_append_can_run(void *instance, const tn_op *op, tn_err *err)
{
    struct rotation q, k;
    int32_t rc;

    (void)instance;
    if (op->n_members != 3)
        return check_require(op, 0, "needs the members of its composition", err);
    rc = check_rope(op->members[0], err);
    if (!rc)
        rc = check_rope(op->members[1], err);
    if (!rc)
        rc = check_append(op->members[2], err);
    if (rc)
        return rc;
    rotation_of(op->members[0], NULL, &q);
    rotation_of(op->members[1], NULL, &k);
    return check_require(op,
                         q.dim == k.dim && q.half == k.half && q.pairs == k.pairs &&
                             q.mscale == k.mscale && q.base == k.base && q.factor == k.factor &&
                             q.limit == k.limit,
                         "queries and keys are rotated differently", err);
}

int32_t hadamard_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int64_t width = tn_op_int(op, "n_heads", 0) * tn_op_int(op, "head_dim", 0);

    (void)instance;
    return check_require(op,
                         check_form(op, 1, 1, 0, 0) && width > 0 &&
                             op->in[0]->width == (uint64_t)width &&
                             op->out[0]->width == (uint64_t)width,
                         "needs float32 rows of n_heads * head_dim", err);
}

/* -- Rows ------------------------------------------------------------------------------------------ */

struct job {
    const struct cpu_instance *in;
    const tn_launch *l;
    const struct isa *isa;
    struct rotation q, k;
};

struct angles {
    float cosine[MAX_HALF], sine[MAX_HALF];
};

/* The angles of row `t`. Dynamic scaling replaces the frequencies of sequences that have outgrown the
 * model's positions; see ops.h. */
static void row_angles(const struct job *job, const struct rotation *r, uint32_t t,
                       struct angles *a)
{
    const tn_batch_arrays *b = job->l->batch->dev;
    float pos = (float)b->positions[t], scaled[MAX_HALF];
    double n = fmax((double)b->prompt_len[b->row_seq[t]], (double)b->positions[t] + 1.0);
    const float *freq = r->freq;

    if (r->limit > 0.0 && n > r->limit) {
        double rotary = 2.0 * (double)r->half;
        double grown = r->factor * n / r->limit - (r->factor - 1.0);
        float base = (float)(r->base * pow(grown, rotary / (rotary - 2.0)));
        for (uint64_t j = 0; j < r->half; j++)
            scaled[j] = 1.0f / powf(base, (float)(2 * j) / (float)rotary);
        freq = scaled;
    }
    job->isa->rope_angles(a->cosine, a->sine, freq, r->half, pos, r->mscale);
}

static void rotate_row(const struct job *job, const struct rotation *r, const struct angles *a,
                       float *y, const float *x, uint64_t width)
{
    for (uint64_t at = 0; at < width; at += r->dim)
        job->isa->rope_head(y + at, x + at, a->cosine, a->sine, r->half, r->dim, r->pairs);
}

static void rope_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    uint64_t width = job->l->op->in[0]->width;
    struct angles a;

    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        row_angles(job, &job->q, t, &a);
        rotate_row(job, &job->q, &a, (float *)job->l->out[0] + t * width,
                   (const float *)job->l->in[0] + t * width, width);
    }
}

/* Where the key of kv head `head` of row `t` goes; its value lies `*value_offset` bytes behind. */
static unsigned char *cache_at(const tn_launch *l, uint32_t t, uint64_t head,
                               uint64_t *value_offset)
{
    const tn_kv_layer *kv = l->kv;
    uint64_t slot = (uint64_t)l->batch->dev->row_slot[t];
    uint64_t row_bytes = (uint64_t)kv->head_dim * tn_dtype_bits(kv->dtype) / 8;
    uint64_t row = head * kv->block_tokens + slot % kv->block_tokens;

    *value_offset = (uint64_t)kv->n_kv_heads * kv->block_tokens * row_bytes;
    return (unsigned char *)kv->base + slot / kv->block_tokens * kv->block_bytes + row * row_bytes;
}

/* How the elements of a head are stored in a cache of 8 bits. */
struct storing {
    const float *center;   /* NULL: nothing */
    const float *feedback; /* NULL: to the nearest */
    float scale;
};

/* Stores keys or values of one head; a cache of 8 bits, in units of the scale. */
static void store_head(const struct job *job, unsigned char *to, const float *x,
                       const struct storing *s)
{
    uint32_t dtype = job->l->kv->dtype;
    uint64_t dim = job->l->kv->head_dim;
    const float *center = s->center;
    float scale = s->scale;

    if (dtype == TN_DT_F8E4M3) {
        kv_store_f8e4m3(to, x, center, scale, s->feedback, dim);
    } else if (dtype == TN_DT_I8) {
        for (uint64_t i = 0; i < dim; i++) { /* NaN becomes 0 */
            float q = rintf((center ? x[i] - center[i] : x[i]) / scale);
            ((int8_t *)to)[i] = (int8_t)(q != q ? 0.0f : fmaxf(-127.0f, fminf(127.0f, q)));
        }
    } else {
        job->isa->narrow(to, dtype, x, dim);
    }
}

/* The key and the value of kv head `head` of row `t`. */
static void store_pair(const struct job *job, uint32_t t, uint64_t head, const float *k,
                       const float *v)
{
    const tn_kv_layer *kv = job->l->kv;
    uint64_t dim = kv->head_dim, square = dim * dim, values;
    unsigned char *to = cache_at(job->l, t, head, &values);
    struct storing key = {kv->k_center ? kv->k_center + head * dim : NULL,
                          kv->k_feedback ? kv->k_feedback + head * square : NULL,
                          kv->k_scale ? kv->k_scale[head] : 1.0f};
    struct storing value = {NULL, kv->v_feedback ? kv->v_feedback + head * square : NULL,
                            kv->v_scale ? kv->v_scale[head] : 1.0f};

    store_head(job, to, k, &key);
    store_head(job, to + values, v, &value);
}

static void hadamard_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    uint64_t width = job->l->op->in[0]->width;
    uint32_t order = tn_hadamard_order((uint32_t)tn_op_int(job->l->op, "head_dim", 1));
    uint32_t negative[TN_HADAMARD_MOST];

    (void)worker;
    tn_hadamard_rows(tn_hadamard_base(order), negative);
    for (uint64_t at = first * width; at < last * width; at += width)
        job->isa->hadamard((float *)job->l->out[0] + at, (const float *)job->l->in[0] + at, width,
                           order, negative);
}

static void append_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_kv_layer *kv = job->l->kv;
    uint64_t dim = kv->head_dim, width = dim * kv->n_kv_heads;

    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        const float *k = (const float *)job->l->in[0] + t * width;
        const float *v = (const float *)job->l->in[1] + t * width;
        for (uint64_t h = 0; h < kv->n_kv_heads; h++)
            store_pair(job, t, h, k + h * dim, v + h * dim);
    }
}

static void rope_append_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_kv_layer *kv = job->l->kv;
    uint64_t q_width = job->l->op->in[0]->width, dim = kv->head_dim;
    uint64_t width = dim * kv->n_kv_heads;
    float head[MAX_DIM];
    struct angles a;

    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        const float *k = (const float *)job->l->in[1] + t * width;
        const float *v = (const float *)job->l->in[2] + t * width;
        row_angles(job, &job->q, t, &a);
        rotate_row(job, &job->q, &a, (float *)job->l->out[0] + t * q_width,
                   (const float *)job->l->in[0] + t * q_width, q_width);
        if (job->k.freq != job->q.freq)
            row_angles(job, &job->k, t, &a);
        for (uint64_t h = 0; h < kv->n_kv_heads; h++) {
            rotate_row(job, &job->k, &a, head, k + h * dim, dim);
            store_pair(job, t, h, head, v + h * dim);
        }
    }
}

/* -- Launches -------------------------------------------------------------------------------------- */

static int32_t share_rows(struct job *job, share_fn fn)
{
    const tn_launch *l = job->l;
    uint64_t width = 0;

    for (uint32_t i = 0; i < l->op->n_in; i++)
        width += l->op->in[i]->width;
    share_items(job->in, l, fn, job, l->batch->n_rows,
                ROPE_NS * (double)(l->batch->n_rows * width));
    return TN_OK;
}

int32_t rope_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                    tn_err *err)
{
    struct job job = {.in = in, .l = l, .isa = isa};

    (void)err;
    rotation_of(l->op, l->weights[0], &job.q);
    return share_rows(&job, rope_rows);
}

int32_t hadamard_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                        tn_err *err)
{
    struct job job = {.in = in, .l = l, .isa = isa};

    (void)err;
    return share_rows(&job, hadamard_rows);
}

int32_t kv_append_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                         tn_err *err)
{
    struct job job = {.in = in, .l = l, .isa = isa};

    (void)err;
    return share_rows(&job, append_rows);
}

int32_t rope_append_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                           tn_err *err)
{
    struct job job = {.in = in, .l = l, .isa = isa};

    (void)err;
    rotation_of(l->op->members[0], l->weights[0], &job.q);
    rotation_of(l->op->members[1], l->weights[1], &job.k);
    return share_rows(&job, rope_append_rows);
}
