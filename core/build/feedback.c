/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kv_append (tenon/ops.h) needs to make good what rounding to float8_e4m3 does to one element by those that are
 * rounded after it. An error n of a key changes the scores of queries q by <q, n>, so that E[n' Q n] matters, Q = E[q q'] as
 * calibration saw it; one of a value reaches what the output projection W makes of the head: n' W'W n. With M = L D L', L of
 * unit diagonal, that is sum_i D_i (n_i + sum_{j > i} L_ji n_j)^2, which is small if element i aims at
 * x_i - sum_{j > i} L_ji n_j: the form in which GPTQ (Frantar et al. 2023) rounds weights. Elements of a run are rounded at once, so L is
 * taken by blocks: with ones on its diagonal, and nothing else within a run, D then has blocks, and what runs behind ask for is shared out
 * among the run's elements. The table has L below its diagonal, and M on and above it, by which elements are settled once all
 * others are known.
 */
#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "base/mem.h"
#include "build/matrix.h"
#include "build/quant.h"
#include "tenon/kv_feedback.h"
#include "tenon/ops.h"

/* Added to the diagonal, as a share of its mean: queries that calibration did not see count a little too. */
#define DAMPING 0.02

/* Of L the part that the elements of run [a, a + n) leave to those behind, X with X A = what stands there, A being L within the run;
 * which then is 1. */
static void free_run(double *l, uint64_t dim, uint64_t a, uint64_t n)
{
    for (uint64_t j = a + n; j < dim; j++)
        for (uint64_t i = a + n; i-- > a;)
            for (uint64_t k = i + 1; k < a + n; k++)
                l[j * dim + i] -= l[j * dim + k] * l[k * dim + i];
    for (uint64_t i = a; i < a + n; i++)
        for (uint64_t k = a; k < i; k++)
            l[i * dim + k] = 0.0;
}

/* From the lower triangle of `m` [dim, dim], which is lost: L below the diagonal, M of a mean diagonal of 1 from there on. What
 * is not positive definite becomes zeros, which round to the nearest. */
static void factorize(double *m, uint64_t dim, float *out)
{
    double mean = 0.0;
    bool good;

    for (uint64_t i = 0; i < dim; i++)
        mean += m[i * dim + i] / (double)dim;
    good = isnormal(mean);
    for (uint64_t i = 0; i < dim; i++)
        m[i * dim + i] += DAMPING * mean;
    for (uint64_t i = 0; i < dim; i++)
        for (uint64_t j = i; j < dim; j++)
            out[i * dim + j] = good ? (float)(m[j * dim + i] / mean) : 0.0f;
    /* Column k of L, and what it leaves of the rest; D stays on the diagonal. */
    for (uint64_t k = 0; k < dim && good; k++) {
        double d = m[k * dim + k];
        good = isnormal(d) && d > 0.0;
        for (uint64_t i = k + 1; i < dim && good; i++) {
            double l = m[i * dim + k] / d;
            for (uint64_t j = k + 1; j <= i; j++)
                m[i * dim + j] -= l * m[j * dim + k];
        }
        for (uint64_t i = k + 1; i < dim && good; i++)
            m[i * dim + k] /= d;
    }
    for (uint64_t a = 0; a < dim && good; a += TN_KV_FEEDBACK_RUN)
        free_run(m, dim, a, dim - a < TN_KV_FEEDBACK_RUN ? dim - a : TN_KV_FEEDBACK_RUN);
    for (uint64_t i = 0; i < dim; i++) {
        for (uint64_t j = 0; j < i; j++)
            out[i * dim + j] = good ? (float)m[i * dim + j] : 0.0f;
        for (uint64_t j = i; j < dim && !good; j++)
            out[i * dim + j] = 0.0f;
    }
}

/* Where keys of a layer are asked. */
struct head_shape {
    int32_t layer;
    uint64_t heads, dim; /* of keys and values */
};

static int32_t of_queries(const struct calibration *calib, const struct head_shape *s, double *m,
                          tn_err *err)
{
    const struct calibration_input *in;
    char name[32];

    snprintf(name, sizeof name, "kv.%" PRId32 ".q", s->layer);
    in = calibration_find(calib, name);
    if (!in || !in->products || in->n_groups != s->heads || in->dim != s->dim) {
        err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, name,
               "the calibration has no products of queries for %" PRIu64 " heads of %" PRIu64
               " elements",
               s->heads, s->dim);
        err_remedy(err, "calibrate this model anew with --calib-data");
        return TN_E_FORMAT;
    }
    memcpy(m, in->products, (size_t)(s->heads * s->dim * s->dim) * sizeof *m);
    return TN_OK;
}

/* Adds W'W of a matrix [rows, n_heads * dim], whose heads stand in the order of the kv heads that they share. */
static void add_squares(const float *w, uint64_t rows, uint64_t n_heads, const struct head_shape *s,
                        double *m)
{
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t h = 0; h < n_heads; h++) {
            const float *x = w + (r * n_heads + h) * s->dim;
            double *sums = m + h / (n_heads / s->heads) * s->dim * s->dim;
            for (uint64_t i = 0; i < s->dim; i++)
                for (uint64_t j = 0; j <= i; j++)
                    sums[i * s->dim + j] += (double)x[i] * (double)x[j];
        }
}

/* The linears that read what an attention makes, as they will be once values are smoothed. */
static int32_t of_readers(const struct quant *q, const struct checkpoint *c,
                          const struct plan_op *attention, const struct head_shape *s, double *m,
                          tn_err *err)
{
    const struct plan *p = q->from->plan;
    uint64_t width = p->values[attention->out[0]].width;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < q->n_linears && rc == TN_OK; i++) {
        const struct quant_linear *l = &q->linears[i];
        const struct plan_weight *w = &p->weights[l->weight];
        struct weight_origin origin = q->from->origins[l->weight];
        float *matrix = NULL;
        if (q->groups[l->group].value != attention->out[0] || matrix_cols(w) != width)
            continue;
        origin.scale = &q->scales[l->weight];
        rc = matrix_load(c, w, &origin, &matrix, err);
        if (rc == TN_OK)
            add_squares(matrix, matrix_rows(w), width / s->dim, s, m);
        mem_free(matrix);
    }
    return rc;
}

static int32_t of_projection(const struct quant *q, const struct checkpoint *c,
                             const struct plan_op *append, const struct head_shape *s, double *m,
                             tn_err *err)
{
    const struct plan *p = q->from->plan;
    int32_t rc = TN_OK;

    memset(m, 0, (size_t)(s->heads * s->dim * s->dim) * sizeof *m);
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        if (strcmp(p->ops[i].name, TN_OP_ATTENTION) == 0 && p->ops[i].in[1] == append->out[0])
            rc = of_readers(q, c, &p->ops[i], s, m, err);
    return rc;
}

static int32_t make_tables(struct quant *q, const struct checkpoint *c,
                           const struct calibration *calib, size_t index, tn_err *err)
{
    const struct plan_op *append = &q->from->plan->ops[index];
    struct head_shape s = {append->layer, (uint64_t)plan_attr(append, "n_kv_heads")->i,
                           (uint64_t)plan_attr(append, "head_dim")->i};
    uint64_t square = s.dim * s.dim;
    double *m;
    int32_t rc = TN_OK;

    if (s.dim > CALIBRATION_DIM)
        return TN_OK;
    m = mem_array((size_t)(s.heads * square), sizeof *m);
    if (!m)
        return err_nomem(err, "feedback of the cache");
    for (int value = 0; value < 2 && rc == TN_OK; value++) {
        float *table = arena_array(&q->arena, (size_t)(s.heads * square), sizeof *table);
        if (!table)
            rc = err_nomem(err, "feedback of the cache");
        else if (value)
            rc = of_projection(q, c, append, &s, m, err);
        else
            rc = of_queries(calib, &s, m, err);
        if (rc == TN_OK && !value)
            rc = quant_balance_products(q, index, s.heads, s.dim, m, err);
        for (uint64_t h = 0; h < s.heads && rc == TN_OK; h++)
            factorize(m + h * square, s.dim, table + h * square);
        q->feedback[index][value] = table;
    }
    mem_free(m);
    return rc;
}

int32_t quant_shape_errors(struct quant *q, const struct checkpoint *c,
                           const struct calibration *calib, tn_err *err)
{
    const struct plan *p = q->from->plan;
    int32_t rc = TN_OK;

    q->feedback = arena_array(&q->arena, p->n_ops, sizeof *q->feedback);
    if (!q->feedback)
        return err_nomem(err, "feedback of the cache");
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        if (strcmp(p->ops[i].name, TN_OP_KV_APPEND) == 0)
            rc = make_tables(q, c, calib, i, err);
    return rc;
}
