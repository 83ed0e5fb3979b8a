/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights are read where the engine is mapped, as the CPU's kernels do, so that memory is that of the rows of one step and of
 * HIDDEN_ROWS rows of one expert.
 */
#include "build/routed.h"

#include <string.h>

#include "base/mem.h"
#include "build/hidden.h"
#include "build/quant.h"
#include "engine/engine.h"
#include "tenon/ops.h"

struct routed {
    struct engine *engine;
    uint64_t stride;
    uint64_t *seen; /* per weight of the plan: rows that the op with this gate has seen */
    float *in[3];   /* the op's inputs: rows, experts' numbers, what these count */
    size_t cap_in[3];
    float *rows, *hidden; /* of one expert, at most HIDDEN_ROWS */
    size_t cap_rows, cap_hidden;
    float counts[HIDDEN_ROWS];
};

int32_t routed_open(const char *engine, uint64_t stride, struct routed **out, tn_err *err)
{
    struct routed *r = mem_zalloc(sizeof *r);
    int32_t rc = r ? engine_open(engine, &r->engine, err) : err_nomem(err, "calibration");

    if (rc == TN_OK) {
        r->stride = stride;
        r->seen = mem_zarray(r->engine->plan->n_weights, sizeof *r->seen);
        rc = r->seen ? TN_OK : err_nomem(err, "calibration");
    }
    if (rc != TN_OK) {
        routed_close(r);
        return rc;
    }
    *out = r;
    return TN_OK;
}

void routed_close(struct routed *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < 3; i++)
        mem_free(r->in[i]);
    mem_free(r->rows);
    mem_free(r->hidden);
    mem_free(r->seen);
    engine_close(r->engine);
    mem_free(r);
}

/* An expert of the op while it takes rows. */
struct expert {
    struct calibration_input *outside,
        *inside; /* what gate and up read, and down; NULL: not wanted */
    struct hidden_expert matrices;
    float number; /* as routing has it */
};

static int32_t find_weight(const struct routed *r, const char *name, uint32_t *out, tn_err *err)
{
    const struct plan *p = r->engine->plan;

    for (uint32_t i = 0; i < p->n_weights; i++)
        if (strcmp(p->weights[i].name, name) == 0) {
            *out = i;
            return TN_OK;
        }
    return tn_err_set(err, TN_E_INTERNAL, "the engine that runs has no weight %s", name);
}

static struct calibration_input *find_input(const struct calibration *c, const tn_weight *w,
                                            uint32_t expert)
{
    char name[QUANT_EXPERT_NAME];

    quant_expert_name(w->name, expert, name);
    return calibration_find(c, name);
}

/* Matrix `e` of a stack where it is mapped. */
static const void *matrix_at(const struct routed *r, uint32_t stack, uint64_t e)
{
    const struct plan_weight *w = &r->engine->plan->weights[stack];
    const uint8_t *all = engine_weight(r->engine, stack);

    return all + (size_t)(e * w->dims[1] * w->dims[2]) * (tn_dtype_bits(w->dtype) / 8);
}

static int32_t take(struct calibration_input *in, const float *rows, uint64_t n, tn_err *err)
{
    int32_t rc = calibration_take_rows(in, rows, n, err);

    return rc == TN_OK && in->hessian ? hessian_take(in->hessian, rows, n, err) : rc;
}

static void weigh(float *rows, uint64_t n, uint64_t width, const float *counts)
{
    for (uint64_t t = 0; t < n; t++)
        for (uint64_t k = 0; k < width; k++)
            rows[t * width + k] *= counts[t];
}

/* The n rows that are gathered. */
static int32_t take_gathered(struct routed *r, const struct expert *x, uint64_t n, tn_err *err)
{
    const struct hidden_expert *e = &x->matrices;
    int32_t rc = TN_OK;

    if (n == 0)
        return TN_OK;
    if (x->inside) {
        if (!mem_grow(&r->hidden, &r->cap_hidden, HIDDEN_ROWS * (size_t)e->inner,
                      sizeof *r->hidden))
            return err_nomem(err, "calibration");
        rc = hidden_rows(e, r->rows, n, r->hidden, err);
        weigh(r->hidden, n, e->inner, r->counts);
        if (rc == TN_OK)
            rc = take(x->inside, r->hidden, n, err);
    }
    if (rc == TN_OK && x->outside) {
        weigh(r->rows, n, e->width, r->counts);
        rc = take(x->outside, r->rows, n, err);
    }
    return rc;
}

/* Those of `n_rows` rows, `first` being the number of the first among all of the data, that are routed to the expert. */
static int32_t take_expert(struct routed *r, const struct expert *x, uint64_t first,
                           const struct run_moment *m, tn_err *err)
{
    uint64_t width = x->matrices.width, k = m->op->in[1]->width, n = 0;
    int32_t rc = TN_OK;

    if (!mem_grow(&r->rows, &r->cap_rows, HIDDEN_ROWS * (size_t)width, sizeof *r->rows))
        return err_nomem(err, "calibration");
    for (uint64_t i = 0; i < m->n_rows * k && rc == TN_OK; i++) {
        uint64_t t = i / k;
        if ((first + t) % r->stride != 0 || r->in[1][i] != x->number)
            continue;
        memcpy(r->rows + n * width, r->in[0] + t * width, (size_t)width * sizeof *r->rows);
        r->counts[n++] = r->in[2][i];
        if (n == HIDDEN_ROWS) {
            rc = take_gathered(r, x, n, err);
            n = 0;
        }
    }
    return rc == TN_OK ? take_gathered(r, x, n, err) : rc;
}

static int32_t read_inputs(struct routed *r, const struct run_moment *m, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < 3 && rc == TN_OK; i++) {
        size_t n = (size_t)m->n_rows * (size_t)m->op->in[i]->width;
        rc = mem_grow(&r->in[i], &r->cap_in[i], n, sizeof *r->in[i])
                 ? m->get(m->io, false, i, r->in[i], err)
                 : err_nomem(err, "calibration");
    }
    return rc;
}

int32_t routed_take(struct routed *r, const struct calibration *c, const struct run_moment *m,
                    tn_err *err)
{
    const struct plan_weight *weights = r->engine->plan->weights;
    hidden_function act = hidden_activation(tn_op_text(m->op, "act", TN_OP_SILU));
    uint32_t gate = 0, up = 0;
    uint64_t first;
    int32_t rc = find_weight(r, m->op->weights[0]->name, &gate, err);

    if (rc == TN_OK)
        rc = find_weight(r, m->op->weights[1]->name, &up, err);
    if (rc == TN_OK)
        rc = read_inputs(r, m, err);
    if (rc != TN_OK || !act)
        return rc;
    first = r->seen[gate];
    r->seen[gate] += m->n_rows;
    for (uint32_t e = 0; e < weights[gate].dims[0] && rc == TN_OK; e++) {
        struct expert x = {.outside = find_input(c, m->op->weights[0], e),
                           .inside = find_input(c, m->op->weights[2], e),
                           .matrices = {matrix_at(r, gate, e), matrix_at(r, up, e),
                                        weights[gate].dtype, weights[up].dtype,
                                        weights[gate].dims[2], weights[gate].dims[1], act},
                           .number = (float)(tn_op_int(m->op, "expert_first", 0) + e)};
        if (x.outside || x.inside)
            rc = take_expert(r, &x, first, m, err);
    }
    return rc;
}
