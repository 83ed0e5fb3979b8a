/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv_append and attention over the paged cache in layout "hnd": in each page all keys as
 * [kv_head][token][head_dim], then all values likewise. Softmax in two passes: the largest score, then
 * exponentials and their sum. Any thread.
 */
#include "../common/kv_feedback.h"
#include "ref.h"

/* The key (or value) of one kv head at cache slot `slot`: head_dim elements. */
static unsigned char *cached(const tn_kv_layer *kv, uint64_t slot, uint64_t head, int value)
{
    uint64_t page = slot / kv->block_tokens, token = slot % kv->block_tokens;
    uint64_t row = head * kv->block_tokens + token;

    if (value)
        row += (uint64_t)kv->n_kv_heads * kv->block_tokens;
    return (unsigned char *)kv->base + page * kv->block_bytes +
           row * kv->head_dim * tn_dtype_bits(kv->dtype) / 8;
}

int32_t ref_kv_append_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 2, 1, 0, 5, err);

    (void)instance;
    if (rc)
        return rc;
    int64_t width = tn_op_int(op, "n_kv_heads", 0) * tn_op_int(op, "head_dim", 0);
    return ref_require(
        op, width > 0 && op->in[0]->width == (uint64_t)width && op->in[1]->width == (uint64_t)width,
        "keys and values must be n_kv_heads * head_dim wide", err);
}

/* What keys (or values) of a head are stored in units of; 1 for a cache that is not of 8 bits. */
static float unit(const tn_kv_layer *kv, uint64_t head, int value)
{
    const float *scale = value ? kv->v_scale : kv->k_scale;

    return TN_HAS(tn_kv_layer, kv, v_scale) && scale ? scale[head] : 1.0f;
}

/* What is subtracted from keys before they are stored. */
static float center(const tn_kv_layer *kv, uint64_t head, uint64_t i, int value)
{
    const float *k = TN_HAS(tn_kv_layer, kv, k_center) ? kv->k_center : NULL;

    return k && !value ? k[head * kv->head_dim + i] : 0.0f;
}

/* Where rounding one element is made good by others; NULL: nowhere. */
static const float *feedback(const tn_kv_layer *kv, uint64_t head, int value)
{
    const float *f = !TN_HAS(tn_kv_layer, kv, v_feedback) || kv->dtype != TN_DT_F8E4M3 ||
                             kv->head_dim > KV_FEEDBACK_MAX_DIM
                         ? NULL
                     : value ? kv->v_feedback
                             : kv->k_feedback;

    return f ? f + head * kv->head_dim * kv->head_dim : NULL;
}

static void store_head(const tn_kv_layer *kv, void *to, const struct ref_matrix *x, uint32_t t,
                       uint64_t head, int value)
{
    const float *f = feedback(kv, head, value);
    float row[KV_FEEDBACK_MAX_DIM];

    for (uint64_t i = 0; i < kv->head_dim; i++) {
        float y = ref_get(*x, t, head * kv->head_dim + i) - center(kv, head, i, value);
        if (f)
            row[i] = y;
        else
            ref_store(to, kv->dtype, i, y / unit(kv, head, value));
    }
    if (f)
        kv_store_f8e4m3(to, row, NULL, unit(kv, head, value), f, kv->head_dim);
}

/* Stores k[T, heads*dim] and v at the slots of their rows. */
int32_t ref_kv_append_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_kv_layer *kv = l->kv;

    (void)instance;
    (void)err;
    for (int value = 0; value < 2; value++) {
        struct ref_matrix x = ref_in(l, value ? 1 : 0);
        for (uint32_t t = 0; t < l->batch->n_rows; t++)
            for (uint64_t h = 0; h < kv->n_kv_heads; h++)
                store_head(kv, cached(kv, (uint64_t)l->batch->dev->row_slot[t], h, value), &x, t, h,
                           value);
    }
    return TN_OK;
}

int32_t ref_attention_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 2, 1, 0, 0, err);

    (void)instance;
    if (rc)
        return rc;
    int64_t heads = tn_op_int(op, "n_heads", 0), kv_heads = tn_op_int(op, "n_kv_heads", 0);
    int64_t dim = tn_op_int(op, "head_dim", 0);
    if (heads <= 0 || kv_heads <= 0 || dim <= 0 || heads % kv_heads)
        return ref_require(op, 0, "n_heads must be a multiple of n_kv_heads", err);
    return ref_require(op,
                       op->in[0]->width == (uint64_t)(heads * dim) &&
                           op->out[0]->width == (uint64_t)(heads * dim),
                       "query and output must be n_heads * head_dim wide", err);
}

/* What one head of one row attends to. */
struct span {
    const int32_t *table; /* pages of the sequence */
    uint64_t kv_head;
    int64_t first, last; /* positions, inclusive */
};

static const unsigned char *span_at(const tn_kv_layer *kv, const struct span *s, int64_t j,
                                    int value)
{
    uint64_t page = (uint64_t)s->table[j / kv->block_tokens];

    return cached(kv, page * kv->block_tokens + (uint64_t)j % kv->block_tokens, s->kv_head, value);
}

/* score[j - first] = exp(a_j - max a) with a_j = cap(scale * <q, k_j>); returns their sum. */
static float score_span(const tn_launch *l, const struct span *s, uint32_t t, uint64_t q_first,
                        float *score)
{
    const tn_kv_layer *kv = l->kv;
    struct ref_matrix q = ref_in(l, 0);
    float scale = (float)tn_op_real(l->op, "scale", 1.0) * unit(kv, s->kv_head, 0);
    float cap = (float)tn_op_real(l->op, "softcap", 0.0);
    float largest = -INFINITY, sum = 0.0f;

    for (int64_t j = s->first; j <= s->last; j++) {
        const unsigned char *k = span_at(kv, s, j, 0);
        float dot = 0.0f;
        for (uint64_t i = 0; i < kv->head_dim; i++)
            dot += ref_get(q, t, q_first + i) * ref_load(k, kv->dtype, i);
        dot *= scale;
        if (cap > 0.0f)
            dot = cap * tanhf(dot / cap);
        score[j - s->first] = dot;
        largest = fmaxf(largest, dot);
    }
    for (int64_t j = s->first; j <= s->last; j++) {
        score[j - s->first] = expf(score[j - s->first] - largest);
        sum += score[j - s->first];
    }
    return sum;
}

/* y[T, heads*dim]: for each head of each row, the mean of v_j weighted by softmax of the scores. */
int32_t ref_attention_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    const tn_kv_layer *kv = l->kv;
    const tn_batch_arrays *b = l->batch->dev;
    struct ref_matrix y = ref_out(l, 0);
    uint64_t heads = (uint64_t)tn_op_int(op, "n_heads", 0), dim = kv->head_dim;
    uint64_t group = heads / kv->n_kv_heads;
    int64_t window = tn_op_int(op, "window", 0);
    float *score = l->workspace; /* [context] */

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        struct span s = {b->block_table + (uint64_t)b->row_seq[t] * l->batch->max_blocks, 0, 0,
                         b->positions[t]};
        if (window > 0 && s.last - window + 1 > 0)
            s.first = s.last - window + 1;
        for (uint64_t h = 0; h < heads; h++) {
            s.kv_head = h / group;
            float sum = score_span(l, &s, t, h * dim, score);
            for (uint64_t i = 0; i < dim; i++) {
                float acc = 0.0f;
                for (int64_t j = s.first; j <= s.last; j++)
                    acc += score[j - s.first] * ref_load(span_at(kv, &s, j, 1), kv->dtype, i);
                ref_set(y, t, h * dim + i, acc / sum * unit(kv, s.kv_head, 1));
            }
        }
    }
    return TN_OK;
}
