/* SPDX-License-Identifier: Apache-2.0 */
/* add, mul, scale, softcap and the activations: element by element; reorder. Any thread. */
#include "ref.h"

static int32_t check_same_width(const tn_op *op, uint32_t n_in, tn_err *err)
{
    int32_t rc = ref_check(op, n_in, 1, 0, 0, err);

    for (uint32_t i = 0; !rc && i < n_in; i++)
        rc = ref_require(op, op->in[i]->width == op->out[0]->width,
                         "inputs and output must be equally wide", err);
    return rc;
}

static uint64_t elements(const tn_launch *l)
{
    uint64_t rows = l->op->out[0]->kind == TN_VALUE_LOGITS ? l->batch->n_logits : l->batch->n_rows;

    return rows * l->op->out[0]->width;
}

/* y = f(x) over all elements; a value is contiguous, so it is one long row. */
static int32_t map(const tn_launch *l, ref_function f)
{
    struct ref_matrix x = ref_in(l, 0), y = ref_out(l, 0);

    for (uint64_t i = 0; i < elements(l); i++)
        ref_set(y, 0, i, f(ref_get(x, 0, i)));
    return TN_OK;
}

#define ACTIVATION(id)                                                                             \
    int32_t ref_##id##_check(void *instance, const tn_op *op, tn_err *err)                         \
    {                                                                                              \
        (void)instance;                                                                            \
        return check_same_width(op, 1, err);                                                       \
    }                                                                                              \
    int32_t ref_##id##_launch(void *instance, const tn_launch *l, tn_err *err)                     \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)err;                                                                                 \
        return map(l, ref_##id);                                                                   \
    }

ACTIVATION(silu)
ACTIVATION(gelu)
ACTIVATION(gelu_tanh)
ACTIVATION(relu)
ACTIVATION(relu2)

float ref_silu(float x)
{
    return x / (1.0f + expf(-x));
}

float ref_gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.707106781f)); /* 1 / sqrt(2) */
}

float ref_gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x))); /* sqrt(2 / pi) */
}

float ref_relu(float x)
{
    return x > 0.0f ? x : x * 0.0f; /* x * 0 keeps NaN */
}

float ref_relu2(float x)
{
    return ref_relu(x) * ref_relu(x);
}

ref_function ref_activation(const char *name)
{
    static const struct {
        const char *name;
        ref_function f;
    } table[] = {{TN_OP_SILU, ref_silu},
                 {TN_OP_GELU, ref_gelu},
                 {TN_OP_GELU_TANH, ref_gelu_tanh},
                 {TN_OP_RELU, ref_relu},
                 {TN_OP_RELU2, ref_relu2}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].f;
    return NULL;
}

int32_t ref_add_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_same_width(op, 2, err);
}

int32_t ref_add_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct ref_matrix a = ref_in(l, 0), b = ref_in(l, 1), y = ref_out(l, 0);

    (void)instance;
    (void)err;
    for (uint64_t i = 0; i < elements(l); i++)
        ref_set(y, 0, i, ref_get(a, 0, i) + ref_get(b, 0, i));
    return TN_OK;
}

int32_t ref_mul_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_same_width(op, 2, err);
}

int32_t ref_mul_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct ref_matrix a = ref_in(l, 0), b = ref_in(l, 1), y = ref_out(l, 0);

    (void)instance;
    (void)err;
    for (uint64_t i = 0; i < elements(l); i++)
        ref_set(y, 0, i, ref_get(a, 0, i) * ref_get(b, 0, i));
    return TN_OK;
}

int32_t ref_scale_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_same_width(op, 1, err);
}

int32_t ref_scale_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct ref_matrix x = ref_in(l, 0), y = ref_out(l, 0);
    float factor = (float)tn_op_real(l->op, "factor", 1.0);

    (void)instance;
    (void)err;
    for (uint64_t i = 0; i < elements(l); i++)
        ref_set(y, 0, i, factor * ref_get(x, 0, i));
    return TN_OK;
}

int32_t ref_softcap_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_same_width(op, 1, err);

    (void)instance;
    return rc ? rc : ref_require(op, tn_op_real(op, "cap", 0.0) > 0.0, "needs cap > 0", err);
}

int32_t ref_softcap_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct ref_matrix x = ref_in(l, 0), y = ref_out(l, 0);
    float cap = (float)tn_op_real(l->op, "cap", 0.0);

    (void)instance;
    (void)err;
    for (uint64_t i = 0; i < elements(l); i++)
        ref_set(y, 0, i, cap * tanhf(ref_get(x, 0, i) / cap));
    return TN_OK;
}

int32_t ref_reorder_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return ref_require(
        op,
        op->n_in == 1 && op->n_out == 1 && op->n_weights == 1 && ref_is_float(op->in[0]->dtype) &&
            ref_is_float(op->out[0]->dtype) && op->in[0]->width == op->out[0]->width &&
            ref_dims(op, 0, op->out[0]->width, 0) && op->weights[0]->dtype == TN_DT_I32,
        "needs rows of one width and an int32 for each element", err);
}

int32_t ref_reorder_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct ref_matrix x = ref_in(l, 0), y = ref_out(l, 0);
    const int32_t *order = l->weights[0];

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++)
        for (uint64_t i = 0; i < l->op->out[0]->width; i++)
            ref_set(y, t, i, ref_get(x, t, (uint64_t)order[i]));
    return TN_OK;
}
