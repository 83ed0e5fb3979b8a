/* SPDX-License-Identifier: Apache-2.0 */
/* logits: the projection to the vocabulary, of those rows only that want it. Any thread. */
#include "ref.h"

int32_t ref_logits_check(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = ref_check(op, 1, 1, 1, 2, err);

    (void)instance;
    if (!rc)
        rc = ref_require(op,
                         ref_dims(op, 0, op->out[0]->width, op->in[0]->width) &&
                             (op->n_weights < 2 || ref_dims(op, 1, op->out[0]->width, 0)),
                         "needs a matrix [vocabulary, width of the input]", err);
    return rc ? rc : ref_require(op, op->out[0]->dtype == TN_DT_F32, "logits are float32", err);
}

void ref_finish_logits(const tn_launch *l, uint64_t row)
{
    struct ref_matrix y = ref_out(l, 0);
    float scale = (float)tn_op_real(l->op, "scale", 1.0);
    float cap = (float)tn_op_real(l->op, "softcap", 0.0);

    for (uint64_t n = 0; n < l->op->out[0]->width; n++) {
        float v = ref_get(y, row, n) * scale;
        ref_set(y, row, n, cap > 0.0f ? cap * tanhf(v / cap) : v);
    }
}

/* y[L,V] = softcap(scale * (x[r] * W[V,H]^T + b[V])) for the L rows r = logits_row[..] of x[T,H]. */
int32_t ref_logits_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct ref_matrix x = ref_in(l, 0), w = ref_weight(l, 0), y = ref_out(l, 0);
    int has_bias = op->n_weights > 1;
    struct ref_matrix b = has_bias ? ref_weight(l, 1) : w;

    (void)instance;
    (void)err;
    for (uint32_t i = 0; i < l->batch->n_logits; i++) {
        uint64_t row = (uint64_t)l->batch->dev->logits_row[i];
        for (uint64_t n = 0; n < op->out[0]->width; n++) {
            float sum = 0.0f;
            for (uint64_t k = 0; k < op->in[0]->width; k++)
                sum += ref_get(x, row, k) * ref_get(w, n, k);
            ref_set(y, i, n, has_bias ? sum + ref_get(b, n, 0) : sum);
        }
        ref_finish_logits(l, i);
    }
    return TN_OK;
}
