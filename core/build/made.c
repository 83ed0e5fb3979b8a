/* SPDX-License-Identifier: Apache-2.0 */
/* Filling the tensors of a quantized matrix: a scheme is handed linears whole, and experts one by one with the statistics of each;
 * what the checkpoint has quantized comes as it is. Different matrices may be made at once. */
#include "base/mem.h"
#include "build/matrix.h"
#include "build/quant.h"

void quantized_drop(struct quantized *m)
{
    for (uint32_t i = 0; i < TN_QUANT_MAX_TENSORS; i++) {
        mem_free(m->out[i]);
        m->out[i] = NULL;
    }
}

static uint64_t tensor_bytes(const tn_quant_tensor *t)
{
    struct plan_weight w = {.dtype = t->dtype, .n_dims = t->n_dims};

    memcpy(w.dims, t->dims, sizeof w.dims);
    return plan_weight_bytes(&w);
}

/* Rows of what the checkpoint has quantized, in the order that the linear behind needs; a scheme gets its matrix so. */
static int32_t order_rows(const struct quantized *m, tn_err *err)
{
    const uint32_t *rows = m->origin.scale ? m->origin.scale->rows : NULL;

    for (uint32_t i = 0; rows && i < m->plan.n_tensors; i++) {
        const tn_quant_tensor *t = &m->plan.tensors[i];
        size_t bytes = (size_t)tensor_bytes(t), row = bytes / (size_t)t->dims[0];
        uint8_t *copy = t->rows ? mem_alloc(bytes) : NULL;
        if (t->rows && !copy)
            return err_nomem(err, "a quantized matrix in another order");
        if (copy)
            memcpy(copy, m->out[i], bytes);
        for (size_t r = 0; copy && r < (size_t)t->dims[0]; r++)
            memcpy((uint8_t *)m->out[i] + r * row, copy + rows[r] * row, row);
        mem_free(copy);
    }
    return TN_OK;
}

/* The statistics of the expert's rows, or of those of all. */
static const tn_quant_stats *stats_of(const struct quantized *m, uint32_t expert)
{
    return m->experts && m->experts[expert].raw ? &m->experts[expert].stats : m->stats;
}

static int32_t quantize(const struct quantized *m, const struct quantized_hook *hook,
                        uint32_t expert, const float *matrix, void *const *out, tn_err *err)
{
    struct quant_expert own;
    const tn_op *op = &m->op;
    int32_t rc = hook->before ? hook->before(hook->arg, m, expert) : TN_OK;

    if (rc != TN_OK)
        return rc;
    if (m->n_experts > 0) {
        quant_expert_op(m, &own);
        op = &own.op;
    }
    rc = m->scheme->quantize(m->build, op, stats_of(m, expert), matrix, out, err);
    if (rc != TN_OK && err) {
        err_plugin(err, m->plugin);
        err_prefix(err, "%s", m->source.name);
    }
    return rc;
}

/* All tensors are by rows, and those of an expert whole bytes (quant_unfit_for_experts). */
static int32_t quantize_experts(const struct quantized *m, const struct quantized_hook *hook,
                                const float *matrix, tn_err *err)
{
    uint64_t elements = m->source.dims[0] / m->n_experts * m->source.dims[1];
    int32_t rc = TN_OK;

    for (uint32_t e = 0; e < m->n_experts && rc == TN_OK; e++) {
        void *out[TN_QUANT_MAX_TENSORS] = {NULL};
        for (uint32_t i = 0; i < m->plan.n_tensors; i++)
            out[i] = (uint8_t *)m->out[i] + tensor_bytes(&m->plan.tensors[i]) / m->n_experts * e;
        rc = quantize(m, hook, e, matrix + elements * e, out, err);
    }
    return rc;
}

static int32_t make(struct quantized *m, const struct quantized_hook *hook, const float *matrix,
                    tn_err *err)
{
    int32_t rc;

    if (!m->stored)
        return m->n_experts > 0 ? quantize_experts(m, hook, matrix, err)
                                : quantize(m, hook, 0, matrix, m->out, err);
    rc = stored_fill(m->stored, m->origin.sources, m->origin.n_sources, m->out, &m->weight_error,
                     err);
    return rc == TN_OK ? order_rows(m, err) : rc;
}

int32_t quantized_make(struct quantized *m, const struct checkpoint *c,
                       const struct quantized_hook *hook, tn_err *err)
{
    float *matrix = NULL;
    int32_t rc = m->stored ? TN_OK : matrix_load(c, &m->source, &m->origin, &matrix, err);

    for (uint32_t i = 0; i < m->plan.n_tensors && rc == TN_OK; i++) {
        m->out[i] = mem_zalloc((size_t)tensor_bytes(&m->plan.tensors[i]));
        if (!m->out[i])
            rc = err_nomem(err, "a quantized matrix");
    }
    if (rc == TN_OK)
        rc = make(m, hook, matrix, err);
    mem_free(matrix);
    if (rc != TN_OK)
        quantized_drop(m);
    return rc;
}
