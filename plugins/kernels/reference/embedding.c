/* SPDX-License-Identifier: Apache-2.0 */
/* embedding, in floats or int8, and position: rows of a table, chosen by token or by position. Any thread. */
#include "ref.h"

static int32_t check_table(const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 0, 1, 1, 1, err);

    if (rc)
        return rc;
    return ref_require(op, ref_dims(op, 0, op->weights[0]->dims[0], op->out[0]->width),
                       "the table must be [entries, width of the output]", err);
}

int32_t ref_embedding_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_table(op, err);
}

/* The row of the table that token t asks for; -1: another rank holds it. */
static int64_t held_entry(const tn_launch *l, uint32_t t)
{
    int64_t entry = l->batch->dev->tokens[t] - tn_op_int(l->op, "vocab_first", 0);

    return entry >= 0 && (uint64_t)entry < l->op->weights[0]->dims[0] ? entry : -1;
}

/* y[T,H] = scale * W[V,H][token[t]]; 0 for tokens whose row another rank holds. */
int32_t ref_embedding_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix w = ref_weight(l, 0), y = ref_out(l, 0);
    float scale = (float)tn_op_real(op, "scale", 1.0);

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        int64_t entry = held_entry(l, t);
        for (uint64_t i = 0; i < op->out[0]->width; i++)
            ref_set(y, t, i, entry >= 0 ? scale * ref_get(w, (uint64_t)entry, i) : 0.0f);
    }
    return TN_OK;
}

/* A table of int8, a scale per entry, and a factor per column. */
int32_t ref_embedding_int8_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (op->n_in != 0 || op->n_out != 1 || op->n_weights != 3)
        return ref_require(op, 0, "wrong number of inputs, outputs or weights", err);
    if (!ref_is_float(op->out[0]->dtype))
        return ref_require(op, 0, "the output is not of a float dtype", err);
    if (op->weights[0]->dtype != TN_DT_I8 ||
        !ref_dims(op, 0, op->weights[0]->dims[0], op->out[0]->width))
        return ref_require(op, 0, "the table must be int8 [entries, width of the output]", err);
    return ref_require(op,
                       op->weights[1]->dtype == TN_DT_F32 && op->weights[2]->dtype == TN_DT_F32 &&
                           ref_dims(op, 1, op->weights[0]->dims[0], 0) &&
                           ref_dims(op, 2, op->out[0]->width, 0),
                       "needs a float32 scale per entry and a float32 factor per column", err);
}

/* y[T,H] = scale * s[V][v] * W[V,H][v] * m[H], v = token[t]; 0 for tokens whose row another rank holds. */
int32_t ref_embedding_int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix w = ref_weight(l, 0), s = ref_weight(l, 1), m = ref_weight(l, 2);
    struct ref_matrix y = ref_out(l, 0);
    float scale = (float)tn_op_real(op, "scale", 1.0);

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        int64_t entry = held_entry(l, t);
        float factor = entry >= 0 ? scale * ref_get(s, (uint64_t)entry, 0) : 0.0f;
        for (uint64_t i = 0; i < op->out[0]->width; i++)
            ref_set(y, t, i,
                    entry >= 0 ? factor * ref_get(w, (uint64_t)entry, i) * ref_get(m, i, 0) : 0.0f);
    }
    return TN_OK;
}

int32_t ref_position_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_table(op, err);
}

/* y[T,H] = W[P,H][pos[t] + offset]. */
int32_t ref_position_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix w = ref_weight(l, 0), y = ref_out(l, 0);
    int64_t offset = tn_op_int(op, "offset", 0);

    (void)instance;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        int64_t entry = l->batch->dev->positions[t] + offset;
        if (entry < 0 || (uint64_t)entry >= op->weights[0]->dims[0])
            return tn_err_set(err, TN_E_RANGE, "position: entry %lld of a table of %llu",
                              (long long)entry, (unsigned long long)op->weights[0]->dims[0]);
        for (uint64_t i = 0; i < op->out[0]->width; i++)
            ref_set(y, t, i, ref_get(w, (uint64_t)entry, i));
    }
    return TN_OK;
}
