/* SPDX-License-Identifier: Apache-2.0 */
/* rms_norm (Zhang and Sennrich 2019) and layer_norm (Ba et al. 2016). Any thread. */
#include "ref.h"

int32_t ref_rms_norm_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 1, 1, 1, 1, err);

    (void)instance;
    if (rc)
        return rc;
    uint64_t group = op->weights[0]->dims[0];
    return ref_require(
        op, group && op->in[0]->width % group == 0 && op->out[0]->width == op->in[0]->width,
        "the width must be a multiple of the weight's", err);
}

/* Per group of G elements of a row: y = x / sqrt(mean(x^2) + eps) * (offset + w[G]). */
int32_t ref_rms_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), w = ref_weight(l, 0), y = ref_out(l, 0);
    uint64_t width = op->in[0]->width, group = op->weights[0]->dims[0];
    float eps = (float)tn_op_real(op, "eps", 0.0), offset = (float)tn_op_real(op, "offset", 0.0);

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        for (uint64_t first = 0; first < width; first += group) {
            float sum = 0.0f;
            for (uint64_t i = 0; i < group; i++)
                sum += ref_get(x, t, first + i) * ref_get(x, t, first + i);
            float norm = 1.0f / sqrtf(sum / (float)group + eps);
            for (uint64_t i = 0; i < group; i++)
                ref_set(y, t, first + i,
                        ref_get(x, t, first + i) * norm * (offset + ref_get(w, i, 0)));
        }
    }
    return TN_OK;
}

int32_t ref_layer_norm_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 1, 1, 1, 2, err);

    (void)instance;
    if (rc)
        return rc;
    uint64_t width = op->in[0]->width;
    return ref_require(op,
                       width && op->out[0]->width == width && ref_dims(op, 0, width, 0) &&
                           (op->n_weights < 2 || ref_dims(op, 1, width, 0)),
                       "weight and bias must be as wide as a row", err);
}

/* y = (x - mean) / sqrt(var + eps) * w[N] + b[N], biased variance. */
int32_t ref_layer_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), w = ref_weight(l, 0), y = ref_out(l, 0);
    int has_bias = op->n_weights > 1;
    struct ref_matrix b = has_bias ? ref_weight(l, 1) : w;
    uint64_t width = op->in[0]->width;
    float eps = (float)tn_op_real(op, "eps", 0.0);

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        float sum = 0.0f, squares = 0.0f;
        for (uint64_t i = 0; i < width; i++)
            sum += ref_get(x, t, i);
        float mean = sum / (float)width;
        for (uint64_t i = 0; i < width; i++) {
            float d = ref_get(x, t, i) - mean;
            squares += d * d;
        }
        float norm = 1.0f / sqrtf(squares / (float)width + eps);
        for (uint64_t i = 0; i < width; i++) {
            float scaled = (ref_get(x, t, i) - mean) * norm * ref_get(w, i, 0);
            ref_set(y, t, i, has_bias ? scaled + ref_get(b, i, 0) : scaled);
        }
    }
    return TN_OK;
}
