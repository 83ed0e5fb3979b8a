/* SPDX-License-Identifier: Apache-2.0 */
#include "build/gate.h"

#include <inttypes.h>
#include <math.h>

#include "base/mem.h"
#include "base/progress.h"
#include "build/calibrate.h"
#include "tenon/ops.h"

/* -- Perplexity and divergence -------------------------------------------------------------------------- */

struct comparing {
    const int32_t *ids; /* of the sequence */
    uint32_t n;
    float *base; /* logits of the model as it is, [n, vocab] */
    size_t cap_base;
    double base_nll, nll, kl;
    uint64_t n_targets;
    bool failed;
};

static void keep_logits(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    struct comparing *c = arg;

    if (!mem_grow(&c->base, &c->cap_base, (size_t)c->n * vocab, sizeof *c->base)) {
        c->failed = true;
        return;
    }
    memcpy(c->base + (size_t)first * vocab, logits, (size_t)n * vocab * sizeof *logits);
}

/* log(sum(exp(row))). */
static double log_sum(const float *row, uint32_t vocab)
{
    float most = row[0];
    double sum = 0.0;

    for (uint32_t i = 1; i < vocab; i++)
        most = row[i] > most ? row[i] : most;
    for (uint32_t i = 0; i < vocab; i++)
        sum += (double)expf(row[i] - most);
    return (double)most + log(sum);
}

static void compare_row(struct comparing *c, const float *p, const float *q, int32_t target,
                        uint32_t vocab)
{
    double zp = log_sum(p, vocab), zq = log_sum(q, vocab), kl = 0.0;

    for (uint32_t i = 0; i < vocab; i++) {
        double lp = (double)p[i] - zp;
        kl += exp(lp) * (lp - ((double)q[i] - zq));
    }
    c->base_nll += zp - (double)p[target];
    c->nll += zq - (double)q[target];
    c->kl += kl;
    c->n_targets++;
}

static void compare_logits(void *arg, const float *logits, uint32_t first, uint32_t n,
                           uint32_t vocab)
{
    struct comparing *c = arg;

    for (uint32_t i = 0; i < n && !c->failed; i++)
        if (first + i + 1 < c->n)
            compare_row(c, c->base + (size_t)(first + i) * vocab, logits + (size_t)i * vocab,
                        c->ids[first + i + 1], vocab);
}

static int32_t compare_sequence(const struct gate_pair *p, void *base, void *quantized,
                                struct comparing *c, tn_err *err)
{
    int32_t rc = p->runner->run(base, c->ids, c->n, keep_logits, c, err);

    if (rc == TN_OK && c->failed)
        rc = err_nomem(err, "logits of a sequence");
    if (rc == TN_OK)
        rc = p->runner->run(quantized, c->ids, c->n, compare_logits, c, err);
    if (rc == TN_OK && p->stop && p->stop(p->arg))
        rc = tn_err_set(err, TN_E_CANCELED, "the build was interrupted");
    return rc;
}

int32_t gate_compare(const struct gate_pair *p, const struct token_set *data,
                     struct gate_result *out, tn_err *err)
{
    const struct runner *r = p->runner;
    struct comparing c = {.n = 0};
    struct progress bar;
    void *base = NULL, *quantized = NULL;
    uint32_t longest = token_set_longest(data);
    int32_t rc = r->open(r->arg, p->base, longest, NULL, NULL, &base, err);

    if (rc == TN_OK)
        rc = r->open(r->arg, p->quantized, longest, NULL, NULL, &quantized, err);
    progress_begin(&bar, "evaluating", data->begin[data->n_seqs] * sizeof *data->ids, p->quiet);
    for (uint64_t i = 0; i < data->n_seqs && rc == TN_OK; i++) {
        c.ids = data->ids + data->begin[i];
        c.n = (uint32_t)(data->begin[i + 1] - data->begin[i]);
        rc = compare_sequence(p, base, quantized, &c, err);
        progress_update(&bar, data->begin[i + 1] * sizeof *data->ids);
    }
    progress_end(&bar, rc == TN_OK);
    r->close(quantized);
    r->close(base);
    mem_free(c.base);
    if (rc == TN_OK && c.n_targets == 0)
        rc = err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, "--eval-data",
                    "has no sequence of at least two tokens");
    if (rc != TN_OK)
        return rc;
    *out = (struct gate_result){exp(c.base_nll / (double)c.n_targets),
                                exp(c.nll / (double)c.n_targets), c.kl / (double)c.n_targets,
                                c.n_targets};
    return TN_OK;
}

/* -- The error of each linear ----------------------------------------------------------------------------- */

#define MOST_INPUTS 3 /* of experts: rows, and what routing chose */

/* What a linear (or experts) of the model as it is read and wrote. */
struct record {
    float *in[MOST_INPUTS], *out;
    uint32_t n_rows;
};

struct measuring {
    struct quant *q;
    struct record *records; /* per linear */
    bool replay;            /* the quantized engine runs; else the model as it is */
    float *got;
    size_t cap_got;
};

static struct quant_linear *find_linear(struct quant *q, const tn_op *op)
{
    const char *is = quant_matrix_name(q, op);

    for (uint32_t i = 0; i < q->n_linears && is; i++) {
        const char *name = q->linears[i].made.source.name;
        size_t n = strlen(name);
        if (strncmp(is, name, n) == 0 && (is[n] == '\0' || q->linears[i].chosen) &&
            op->layer == q->linears[i].made.op.layer)
            return &q->linears[i];
    }
    return NULL;
}

static int32_t record_value(const struct run_moment *m, uint32_t i, float **to, tn_err *err)
{
    const tn_value *v = m->after ? m->op->out[i] : m->op->in[i];

    *to = mem_array((size_t)m->n_rows * (size_t)v->width, sizeof **to);
    return *to ? m->get(m->io, m->after, i, *to, err) : err_nomem(err, "measuring errors");
}

static int32_t record(struct record *r, const struct run_moment *m, tn_err *err)
{
    int32_t rc = TN_OK;

    if (m->after ? r->out != NULL : r->in[0] != NULL)
        return TN_OK; /* a later piece of the sequence: one is enough */
    r->n_rows = m->n_rows;
    if (m->after)
        return record_value(m, 0, &r->out, err);
    for (uint32_t i = 0; i < m->op->n_in && i < MOST_INPUTS && rc == TN_OK; i++)
        rc = record_value(m, i, &r->in[i], err);
    return rc;
}

/* Hands the linear the input that it has in the model, divided and in the order as it is in the quantized engine; experts what
 * routing chose, too, which may not be the same there. */
static int32_t inject(struct measuring *x, const struct quant_linear *l, const struct record *r,
                      const struct run_moment *m, tn_err *err)
{
    const float *divide = x->q->groups[l->group].divide;
    const uint32_t *order = l->chosen ? l->order : NULL;
    size_t width = (size_t)m->op->in[0]->width;
    int32_t rc;

    if (m->n_rows != r->n_rows)
        return TN_OK;
    if (!mem_grow(&x->got, &x->cap_got, m->n_rows * width, sizeof *x->got))
        return err_nomem(err, "measuring errors");
    for (size_t i = 0; i < m->n_rows * width; i++) {
        size_t k = order ? order[i % width] : i % width;
        x->got[i] = r->in[0][i - i % width + k] / (divide ? divide[k] : 1.0f);
    }
    rc = m->set(m->io, false, 0, x->got, err);
    for (uint32_t i = 1; i < m->op->n_in && i < MOST_INPUTS && rc == TN_OK; i++)
        rc = m->set(m->io, false, i, r->in[i], err);
    return rc;
}

static int32_t compare_output(struct measuring *x, struct quant_linear *l, const struct record *r,
                              const struct run_moment *m, tn_err *err)
{
    /* What became of the rows of this matrix for the sake of the next. */
    const struct weight_scale *scale = &x->q->scales[l->weight];
    size_t width = (size_t)m->op->out[0]->width;
    double sum = 0.0, difference = 0.0;
    int32_t rc;

    if (m->n_rows != r->n_rows || l->error >= 0.0)
        return TN_OK;
    if (!mem_grow(&x->got, &x->cap_got, m->n_rows * width, sizeof *x->got))
        return err_nomem(err, "measuring errors");
    rc = m->get(m->io, true, 0, x->got, err);
    for (size_t i = 0; i < m->n_rows * width && rc == TN_OK; i++) {
        size_t k = scale->rows ? scale->rows[i % width] : i % width;
        double y = (double)r->out[i - i % width + k];
        double d = (double)x->got[i] * (scale->divide ? scale->divide[k] : 1.0f);
        sum += y * y;
        difference += (d - y) * (d - y);
    }
    for (uint32_t i = 0; i < l->n_parts && rc == TN_OK; i++)
        l[i].error = sum > 0.0 ? sqrt(difference / sum) : 0.0;
    return rc;
}

static int32_t on_moment(void *arg, const struct run_moment *m, tn_err *err)
{
    struct measuring *x = arg;
    struct quant_linear *l = find_linear(x->q, m->op);
    struct record *r = l ? &x->records[l - x->q->linears] : NULL;

    if (!l)
        return TN_OK;
    if (!x->replay)
        return record(r, m, err);
    return m->after ? compare_output(x, l, r, m, err) : inject(x, l, r, m, err);
}

static int32_t pass(const struct gate_pair *p, struct measuring *x, const int32_t *ids, uint32_t n,
                    tn_err *err)
{
    void *run = NULL;
    int32_t rc = p->runner->open(p->runner->arg, x->replay ? p->quantized : p->base, n, on_moment,
                                 x, &run, err);

    if (rc == TN_OK)
        rc = p->runner->run(run, ids, n, NULL, NULL, err);
    p->runner->close(run);
    return rc;
}

int32_t gate_measure_linears(const struct gate_pair *p, struct quant *q, const int32_t *ids,
                             uint32_t n, tn_err *err)
{
    struct measuring x = {.q = q, .records = mem_zarray(q->n_linears, sizeof *x.records)};
    int32_t rc = x.records ? TN_OK : err_nomem(err, "measuring errors");

    for (uint32_t i = 0; i < q->n_linears; i++)
        q->linears[i].error = -1.0;
    if (rc == TN_OK)
        rc = pass(p, &x, ids, n, err);
    x.replay = true;
    if (rc == TN_OK)
        rc = pass(p, &x, ids, n, err);
    for (uint32_t i = 0; i < q->n_linears && x.records; i++) {
        for (uint32_t k = 0; k < MOST_INPUTS; k++)
            mem_free(x.records[i].in[k]);
        mem_free(x.records[i].out);
    }
    mem_free(x.records);
    mem_free(x.got);
    return rc;
}

/* With it, all matrices of the same experts. */
static uint32_t raise_all(struct quant *q, const struct quant_linear *worst)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < q->n_linears; i++) {
        struct quant_linear *l = &q->linears[i];
        if (l->op != worst->op || !l->chosen)
            continue;
        l->chosen = false;
        l->raised = true;
        snprintf(l->why, sizeof l->why, "raised by the gate, error %.4f", l->error);
        n++;
    }
    return n;
}

uint32_t gate_raise(struct quant *q, uint32_t n)
{
    uint32_t done = 0;

    while (done < n) {
        const struct quant_linear *worst = NULL;
        for (uint32_t i = 0; i < q->n_linears; i++)
            if (q->linears[i].chosen && (!worst || q->linears[i].error > worst->error))
                worst = &q->linears[i];
        if (!worst)
            break;
        done += raise_all(q, worst);
    }
    return done;
}
