/* SPDX-License-Identifier: Apache-2.0 */
/* linear and its quantized forms, logits with them: matrix products with the weights [out, in]. Any thread. */
#include "ref.h"

static int32_t check_product(const tn_op *op, tn_err *err)
{
    return ref_require(op, ref_dims(op, 0, op->out[0]->width, op->in[0]->width),
                       "the matrix must be [width of the output, width of the input]", err);
}

int32_t ref_linear_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 1, 1, 1, 2, err);

    (void)instance;
    if (!rc)
        rc = check_product(op, err);
    if (!rc && op->n_weights == 2)
        rc = ref_require(op, ref_dims(op, 1, op->out[0]->width, 0),
                         "the bias must be as wide as the output", err);
    return rc;
}

/* y[T,N] = x[T,K] * W[N,K]^T + b[N]. */
int32_t ref_linear_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), w = ref_weight(l, 0), y = ref_out(l, 0);
    int has_bias = op->n_weights > 1;
    struct ref_matrix b = has_bias ? ref_weight(l, 1) : w;

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        for (uint64_t n = 0; n < op->out[0]->width; n++) {
            float sum = 0.0f;
            for (uint64_t k = 0; k < op->in[0]->width; k++)
                sum += ref_get(x, t, k) * ref_get(w, n, k);
            ref_set(y, t, n, has_bias ? sum + ref_get(b, n, 0) : sum);
        }
    }
    return TN_OK;
}

/* linear.int8 and linear.fp8: a matrix of `dtype`, a scale per output, perhaps a bias. */
static int32_t check_quantized(const tn_op *op, uint32_t dtype, tn_err *err)
{
    int32_t rc;

    if (op->n_in != 1 || op->n_out != 1 || op->n_weights < 2 || op->n_weights > 3)
        return ref_require(op, 0, "wrong number of inputs, outputs or weights", err);
    rc = ref_require(op, ref_is_float(op->in[0]->dtype) && ref_is_float(op->out[0]->dtype),
                     "input and output must be of a float dtype", err);
    if (!rc)
        rc = check_product(op, err);
    if (!rc)
        rc = ref_require(op,
                         op->weights[0]->dtype == dtype && op->weights[1]->dtype == TN_DT_F32 &&
                             ref_dims(op, 1, op->out[0]->width, 0),
                         "needs a quantized matrix and one float32 scale per output", err);
    if (!rc && op->n_weights == 3)
        rc = ref_require(
            op, ref_is_float(op->weights[2]->dtype) && ref_dims(op, 2, op->out[0]->width, 0),
            "the bias must be as wide as the output", err);
    return rc;
}

int32_t ref_linear_int8_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_quantized(op, TN_DT_I8, err);
}

int32_t ref_linear_fp8_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_quantized(op, TN_DT_F8E4M3, err);
}

/* The largest magnitude of a row; NaN for one that is not finite. */
static float row_largest(struct ref_matrix x, uint64_t row, uint64_t n)
{
    float largest = 0.0f;
    int finite = 1;

    for (uint64_t k = 0; k < n; k++) {
        largest = fmaxf(largest, fabsf(ref_get(x, row, k)));
        finite &= isfinite(ref_get(x, row, k)) != 0;
    }
    return finite ? largest : NAN;
}

/* What a row is divided by: `scale`, or `step` of it if that is 0; NaN for a row that is not finite. */
static float row_step(float largest, float scale, float step)
{
    return isnan(largest) || scale <= 0.0f ? step : scale;
}

/* y[t] = a * s[N] * (q(x[r])[K] * W[N,K]^T) + b[N]; the product is exact in int32. */
static void int8_row(const tn_launch *l, uint64_t r, uint64_t t)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), s = ref_weight(l, 1), y = ref_out(l, 0);
    const tn_weight *w = op->weights[0];
    int has_bias = op->n_weights > 2;
    struct ref_matrix b = has_bias ? ref_weight(l, 2) : s;
    float scale = (float)tn_op_real(op, "act_scale", 0.0);
    uint64_t width = op->in[0]->width;
    int8_t *q = l->workspace; /* [K] */
    float largest = row_largest(x, r, width);
    float a = row_step(largest, scale, largest / 127.0f);

    for (uint64_t k = 0; k < width; k++) /* ties to even */
        q[k] = a > 0.0f ? (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(ref_get(x, r, k) / a))) : 0;
    for (uint64_t n = 0; n < op->out[0]->width; n++) {
        const int8_t *wn = (const int8_t *)l->weights[0] + n * w->stride0;
        int32_t sum = 0;
        for (uint64_t k = 0; k < width; k++)
            sum += q[k] * wn[k];
        float scaled = a * ref_get(s, n, 0) * (float)sum;
        ref_set(y, t, n, has_bias ? scaled + ref_get(b, n, 0) : scaled);
    }
}

int32_t ref_linear_int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++)
        int8_row(l, t, t);
    return TN_OK;
}

int32_t ref_logits_int8_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_linear_int8_check(instance, op, err);

    return rc ? rc : ref_require(op, op->out[0]->dtype == TN_DT_F32, "logits are float32", err);
}

/* Of the rows that want logits. */
int32_t ref_logits_int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_logits; t++) {
        int8_row(l, (uint64_t)l->batch->dev->logits_row[t], t);
        ref_finish_logits(l, t);
    }
    return TN_OK;
}

/* The same in e4m3, whose products are added in float32. */
int32_t ref_linear_fp8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), w = ref_weight(l, 0), s = ref_weight(l, 1);
    struct ref_matrix y = ref_out(l, 0);
    int has_bias = op->n_weights > 2;
    struct ref_matrix b = has_bias ? ref_weight(l, 2) : s;
    float scale = (float)tn_op_real(op, "act_scale", 0.0);
    uint64_t width = op->in[0]->width;
    float *q = l->workspace; /* [K] */

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        float largest = row_largest(x, t, width);
        float a = row_step(largest, scale, isnan(largest) ? NAN : tn_f8e4m3_step(largest));
        for (uint64_t k = 0; k < width; k++)
            q[k] = a > 0.0f ? tn_f8e4m3_to_f32(tn_f32_to_f8e4m3(ref_get(x, t, k) / a)) : 0.0f;
        for (uint64_t n = 0; n < op->out[0]->width; n++) {
            float sum = 0.0f;
            for (uint64_t k = 0; k < width; k++)
                sum += q[k] * ref_get(w, n, k);
            float scaled = a * ref_get(s, n, 0) * sum;
            ref_set(y, t, n, has_bias ? scaled + ref_get(b, n, 0) : scaled);
        }
    }
    return TN_OK;
}

int32_t ref_linear_int4_check(void *instance, const tn_op *op, tn_err *err)
{
    int64_t group = tn_op_int(op, "group", 0);
    uint32_t zero = tn_op_int(op, "zero", 0) != 0;
    int32_t rc;

    (void)instance;
    if (op->n_in != 1 || op->n_out != 1 || op->n_weights < 2 + zero || op->n_weights > 3 + zero)
        return ref_require(op, 0, "wrong number of inputs, outputs or weights", err);
    rc = ref_require(op, ref_is_float(op->in[0]->dtype) && ref_is_float(op->out[0]->dtype),
                     "input and output must be of a float dtype", err);
    if (!rc)
        rc = check_product(op, err);
    if (!rc)
        rc = ref_require(op, group > 0 && op->in[0]->width % (uint64_t)group == 0,
                         "the input must consist of whole groups", err);
    for (uint32_t i = 1; !rc && i < 2 + zero; i++)
        rc = ref_require(op,
                         op->weights[i]->dtype == (i == 1 ? TN_DT_F32 : TN_DT_I8) &&
                             ref_dims(op, i, op->out[0]->width, op->in[0]->width / (uint64_t)group),
                         "needs a scale (and a zero point) per output and group", err);
    if (!rc && op->n_weights > 2 + zero)
        rc = ref_require(op,
                         ref_is_float(op->weights[2 + zero]->dtype) &&
                             ref_dims(op, 2 + zero, op->out[0]->width, 0),
                         "the bias must be as wide as the output", err);
    return rc;
}

/* y[T,N] = sum_k x[T,k] * s[N,k/G] * (W[N,k] - z[N,k/G]) + b[N]. */
int32_t ref_linear_int4_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), w = ref_weight(l, 0), s = ref_weight(l, 1);
    struct ref_matrix y = ref_out(l, 0);
    uint64_t group = (uint64_t)tn_op_int(op, "group", 1);
    uint32_t zero = tn_op_int(op, "zero", 0) != 0;
    int has_bias = op->n_weights > 2 + zero;
    struct ref_matrix z = zero ? ref_weight(l, 2) : s;
    struct ref_matrix b = has_bias ? ref_weight(l, 2 + zero) : s;

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++)
        for (uint64_t n = 0; n < op->out[0]->width; n++) {
            float sum = 0.0f;
            for (uint64_t k = 0; k < op->in[0]->width; k++) {
                float q = ref_get(w, n, k) - (zero ? ref_get(z, n, k / group) : 0.0f);
                sum += ref_get(x, t, k) * (ref_get(s, n, k / group) * q);
            }
            ref_set(y, t, n, has_bias ? sum + ref_get(b, n, 0) : sum);
        }
    return TN_OK;
}
