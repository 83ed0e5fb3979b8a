/* SPDX-License-Identifier: Apache-2.0 */
/* moe_route and moe_mlp: choose k of E experts per row, then mix their gated feed-forwards. Any thread. */
#include "../common/experts.h"
#include "ref.h"

int32_t ref_moe_route_check(void *instance, const tn_op *op, tn_err *err)
{
    const char *norm = tn_op_text(op, "norm", "softmax_topk");
    int64_t k = tn_op_int(op, "top_k", 0);

    (void)instance;
    if (op->n_in != 1 || op->n_out != 2 || op->n_weights != 0)
        return ref_require(op, 0, "wrong number of inputs, outputs or weights", err);
    if (!ref_is_float(op->in[0]->dtype) || op->out[0]->dtype != TN_DT_I32 ||
        op->out[1]->dtype != TN_DT_F32)
        return ref_require(op, 0, "outputs must be int32 and float32", err);
    if (k <= 0 || (uint64_t)k > op->in[0]->width || op->out[0]->width != (uint64_t)k ||
        op->out[1]->width != (uint64_t)k)
        return ref_require(op, 0, "outputs must be top_k wide, top_k at most the experts", err);
    return ref_require(op,
                       strcmp(norm, "softmax_topk") == 0 || strcmp(norm, "softmax") == 0 ||
                           strcmp(norm, "softmax_renorm") == 0,
                       "norm must be \"softmax_topk\", \"softmax\" or \"softmax_renorm\"", err);
}

/* The expert ranked next after the last `n` in `chosen`: the largest logit, ties to the lower index. */
static int32_t next_expert(struct ref_matrix x, uint32_t t, uint64_t experts, const int32_t *chosen,
                           uint64_t n)
{
    int32_t best = -1;

    for (uint64_t e = 0; e < experts; e++) {
        int taken = 0;
        for (uint64_t j = 0; j < n; j++)
            taken |= chosen[j] == (int32_t)e;
        if (!taken && (best < 0 || ref_get(x, t, e) > ref_get(x, t, (uint64_t)best)))
            best = (int32_t)e;
    }
    return best;
}

/* i[T,k], p[T,k] of x[T,E]. Renormalising the softmax over all equals the softmax over the chosen. */
int32_t ref_moe_route_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0);
    uint64_t experts = op->in[0]->width, k = op->out[0]->width;
    int over_all = strcmp(tn_op_text(op, "norm", "softmax_topk"), "softmax") == 0;

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        int32_t *chosen = (int32_t *)l->out[0] + t * k;
        float *p = (float *)l->out[1] + t * k, sum = 0.0f;
        for (uint64_t j = 0; j < k; j++)
            chosen[j] = next_expert(x, t, experts, chosen, j);
        float largest = ref_get(x, t, (uint64_t)chosen[0]);
        for (uint64_t j = 0; j < k; j++) {
            p[j] = expf(ref_get(x, t, (uint64_t)chosen[j]) - largest);
            sum += over_all ? 0.0f : p[j];
        }
        for (uint64_t e = 0; over_all && e < experts; e++)
            sum += expf(ref_get(x, t, e) - largest);
        for (uint64_t j = 0; j < k; j++)
            p[j] /= sum;
    }
    return TN_OK;
}

int32_t ref_moe_mlp_check(void *instance, const tn_op *op, tn_err *err)
{
    const char *fault = experts_fault(op);
    int floats = 1;

    (void)instance;
    if (fault)
        return ref_require(op, 0, fault, err);
    for (uint32_t i = 0; i < 3; i++)
        floats &= experts_scaled(op->weights[i]->dtype) || ref_is_float(op->weights[i]->dtype);
    if (!floats || !ref_is_float(op->in[0]->dtype) || !ref_is_float(op->out[0]->dtype))
        return ref_require(op, 0, "rows, or a weight, are not of a float dtype", err);
    return ref_require(op, ref_activation(tn_op_text(op, "act", TN_OP_SILU)) != NULL,
                       "unknown activation", err);
}

/* A matrix of one expert. Element [n][k] is s[n][k / group] * (w[n][k] - z[n][k / group]); without scales and zero points these
 * are 1 and 0. */
struct expert {
    struct ref_matrix w, s, z;
    uint64_t group; /* of columns that share a scale */
    int scaled, zero;
};

static struct expert expert_of(const tn_launch *l, uint32_t i, uint64_t e)
{
    const tn_op *op = l->op;
    uint64_t width = op->weights[i]->dims[2];
    struct expert x = {.w = ref_stacked(l, i, e),
                       .group = width / experts_groups(op, i),
                       .scaled = op->n_weights > 3,
                       .zero = op->n_weights > 6};

    if (x.scaled)
        x.s = ref_stacked(l, i + 3, e);
    if (x.zero)
        x.z = ref_stacked(l, i + 6, e);
    return x;
}

/* Row n of the expert's matrix times a row of `width`. */
static float dot(const struct expert *e, uint64_t n, struct ref_matrix x, uint64_t row,
                 uint64_t width)
{
    float sum = 0.0f;

    for (uint64_t g = 0; g < width / e->group; g++) {
        float zero = e->zero ? ref_get(e->z, n, g) : 0.0f, part = 0.0f;
        for (uint64_t k = g * e->group; k < (g + 1) * e->group; k++)
            part += ref_get(x, row, k) * (ref_get(e->w, n, k) - zero);
        sum += e->scaled ? part * ref_get(e->s, n, g) : part;
    }
    return sum;
}

/* y[t] = sum_j p[t][j] * D_e (act(G_e x[t]) * (U_e x[t])), e = i[t][j] - expert_first. */
int32_t ref_moe_mlp_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), y = ref_out(l, 0);
    uint64_t experts = op->weights[0]->dims[0], inner = op->weights[0]->dims[1];
    uint64_t width = op->in[0]->width, k = op->in[1]->width;
    int64_t first = tn_op_int(op, "expert_first", 0);
    ref_function act = ref_activation(tn_op_text(op, "act", TN_OP_SILU));
    float *hidden = l->workspace, *sum = hidden + inner; /* [I], [H] */
    struct ref_matrix h = {(unsigned char *)hidden, TN_DT_F32, 0};

    (void)instance;
    (void)err;
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        memset(sum, 0, width * sizeof *sum);
        for (uint64_t j = 0; j < k; j++) {
            int64_t e = ((const int32_t *)l->in[1])[t * k + j] - first;
            float p = ((const float *)l->in[2])[t * k + j];
            if (e < 0 || (uint64_t)e >= experts)
                continue; /* another rank's */
            struct expert g = expert_of(l, 0, (uint64_t)e);
            struct expert u = expert_of(l, 1, (uint64_t)e);
            struct expert d = expert_of(l, 2, (uint64_t)e);
            for (uint64_t i = 0; i < inner; i++)
                hidden[i] = act(dot(&g, i, x, t, width)) * dot(&u, i, x, t, width);
            for (uint64_t i = 0; i < width; i++)
                sum[i] += p * dot(&d, i, h, 0, inner);
        }
        for (uint64_t i = 0; i < width; i++)
            ref_set(y, t, i, sum[i]);
    }
    return TN_OK;
}
