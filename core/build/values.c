/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an attention makes is linear in its values, so that v = W_v x may be turned into T v by the rows of W_v, and back by the columns
 * of the output projection, for each kv head by a matrix of its own. Rounding to float8_e4m3 leaves an error that goes with the
 * size of each element: where few directions hold most of the values, and the output projection looks at these, it costs most. With
 * T = H L^-1, L L' the square root of E[v v'] and H the matrix of `hadamard`, elements are of like size, and errors that are white
 * there cost least for a projection that looks at all directions alike: tr(T C T') tr(T^-1 T^-T) is least if T'T = C^-1/2. That
 * costs nothing at run time, and is done where neither matrix is quantized (schemes know both as calibration saw them).
 */
#include <inttypes.h>
#include <math.h>

#include "base/mem.h"
#include "build/quant.h"
#include "tenon/ops.h"

/* Added to the diagonal of E[v v'], as a share of its mean: what T magnifies at most tenfold. */
#define FLOOR 0.01

/* Of the iteration for a square root: the most turns, and when it is near enough. */
#define ROOT_TURNS 40
#define ROOT_CLOSE 1e-9

/* out = a b, of [dim, dim]. */
static void multiply(const double *a, const double *b, uint64_t dim, double *out)
{
    memset(out, 0, (size_t)(dim * dim) * sizeof *out);
    for (uint64_t i = 0; i < dim; i++, out += dim)
        for (uint64_t k = 0; k < dim; k++)
            for (uint64_t j = 0; j < dim; j++)
                out[j] += a[i * dim + k] * b[k * dim + j];
}

/* m[dim, dim], positive definite, becomes the matrix whose square it is, by the coupled iteration of Newton and Schulz (Higham 2008,
 * 6.35). `scratch` has room for three more. */
static void square_root(double *m, uint64_t dim, double *scratch)
{
    uint64_t n = dim * dim;
    double *inverse = scratch, *p = scratch + n, *next = scratch + 2 * n, norm = 0.0;

    for (uint64_t i = 0; i < n; i++)
        norm += m[i] * m[i];
    norm = sqrt(norm);
    for (uint64_t i = 0; i < n; i++) {
        m[i] /= norm;
        inverse[i] = i % (dim + 1) == 0 ? 1.0 : 0.0;
    }
    for (uint32_t turn = 0; turn < ROOT_TURNS; turn++) {
        double off = 0.0;
        multiply(inverse, m, dim, p);
        for (uint64_t i = 0; i < n; i++) {
            double one = i % (dim + 1) == 0 ? 1.0 : 0.0;
            off = fmax(off, fabs(p[i] - one));
            p[i] = 0.5 * (3.0 * one - p[i]);
        }
        if (!(off > ROOT_CLOSE))
            break;
        multiply(m, p, dim, next);
        memcpy(m, next, (size_t)n * sizeof *m);
        multiply(p, inverse, dim, next);
        memcpy(inverse, next, (size_t)n * sizeof *inverse);
    }
    for (uint64_t i = 0; i < n; i++)
        m[i] *= sqrt(norm);
}

/* m[dim, dim], a lower triangle, becomes its Cholesky factor; false if it has none. */
static bool factor(double *m, uint64_t dim)
{
    for (uint64_t i = 0; i < dim; i++)
        for (uint64_t j = 0; j <= i; j++) {
            double sum = m[i * dim + j];
            for (uint64_t k = 0; k < j; k++)
                sum -= m[i * dim + k] * m[j * dim + k];
            if (i == j && !(isnormal(sum) && sum > 0.0))
                return false;
            m[i * dim + j] = i == j ? sqrt(sum) : sum / m[j * dim + j];
        }
    return true;
}

/* The row of the inverse of a lower triangle that belongs to `column`: inverse[i][column] for all i. */
static void invert_column(const double *c, uint64_t dim, uint64_t column, float *out)
{
    for (uint64_t i = 0; i < dim; i++) {
        double sum = i == column ? 1.0 : 0.0;
        for (uint64_t k = column; k < i; k++)
            sum -= c[i * dim + k] * (double)out[k];
        out[i] = i < column ? 0.0f : (float)(sum / c[i * dim + i]);
    }
}

/* T and its inverse of one head, from sums of products; the mean square of values stays. */
static bool find_turn(const double *products, uint64_t n_rows, uint64_t dim, double *c, float *turn,
                      float *back)
{
    double mean = 0.0;
    float *line = back; /* scratch until it is filled */

    for (uint64_t i = 0; i < dim; i++)
        mean += products[i * dim + i] / (double)n_rows / (double)dim;
    if (!isnormal(mean))
        return false;
    for (uint64_t i = 0; i < dim; i++) {
        for (uint64_t j = 0; j <= i; j++)
            c[i * dim + j] = c[j * dim + i] = products[i * dim + j] / (double)n_rows / mean;
        c[i * dim + i] += FLOOR;
    }
    square_root(c, dim, c + dim * dim);
    if (!factor(c, dim))
        return false;
    for (uint64_t j = 0; j < dim; j++) {
        invert_column(c, dim, j, line);
        quant_turn(line, (size_t)dim, dim);
        for (uint64_t i = 0; i < dim; i++)
            turn[i * dim + j] = line[i];
    }
    for (uint64_t i = 0; i < dim; i++) {
        for (uint64_t j = 0; j < dim; j++)
            back[i * dim + j] = j <= i ? (float)c[i * dim + j] : 0.0f;
        quant_turn(back + i * dim, (size_t)dim, dim);
    }
    return true;
}

static bool untouched(const struct quant *q, uint32_t weight)
{
    const struct weight_scale *s = &q->scales[weight];

    return quant_is_plain(q, weight) && !s->divide && !s->multiply && !s->rows;
}

/* Whether both sides are linears of numbers as they are, and nothing else comes between. */
static bool may_turn(const struct quant *q, const struct quant_group *g,
                     const struct plan_op *attention)
{
    bool good = g->before == TN_QUANT_BEFORE_LINEAR && g->entry;

    for (uint32_t i = 0; i < g->n_targets && good; i++) {
        good = untouched(q, g->targets[i]);
        for (uint32_t k = 0; k < q->n_linears && good; k++)
            good = q->linears[k].weight != g->targets[i] || !q->linears[k].chosen;
    }
    for (uint32_t i = 0; i < g->n_linears && good; i++) {
        const struct quant_linear *l = &q->linears[g->linears[i]];
        good = !l->chosen && untouched(q, l->weight) && !l->why[0];
    }
    return good && q->from->plan->values[attention->out[0]].width == g->n_channels;
}

static int32_t turn_group(struct quant *q, struct quant_group *g, const struct plan_op *attention,
                          const struct calibration *calib, tn_err *err)
{
    uint64_t dim = (uint64_t)plan_attr(attention, "head_dim")->i;
    uint64_t heads = (uint64_t)plan_attr(attention, "n_kv_heads")->i;
    uint64_t square = dim * dim;
    const struct calibration_input *in;
    struct head_turn *t = arena_array(&q->arena, 1, sizeof *t);
    float *tables = arena_array(&q->arena, (size_t)(2 * heads * square), sizeof *tables);
    double *c = mem_array((size_t)(4 * square), sizeof *c);
    char name[32];
    bool good;

    snprintf(name, sizeof name, "kv.%" PRId32 ".v", attention->layer);
    in = calibration_find(calib, name);
    good = in && in->products && in->n_rows > 0 && in->n_groups == heads && in->dim == dim;
    for (uint64_t h = 0; h < heads && good && t && tables && c; h++)
        good = find_turn(in->products + h * square, in->n_rows, dim, c, tables + h * square,
                         tables + (heads + h) * square);
    mem_free(c);
    if (!t || !tables || !c)
        return err_nomem(err, "turned values");
    if (!good)
        return TN_OK;
    *t = (struct head_turn){.dim = dim,
                            .share = (uint64_t)plan_attr(attention, "n_heads")->i / heads,
                            .turn = tables,
                            .back = tables + heads * square};
    for (uint32_t i = 0; i < g->n_targets; i++)
        q->scales[g->targets[i]].turn_rows = t;
    for (uint32_t i = 0; i < g->n_linears; i++)
        q->scales[q->linears[g->linears[i]].weight].turn_columns = t;
    return TN_OK;
}

int32_t quant_turn_values(struct quant *q, const struct calibration *calib, tn_err *err)
{
    const struct plan *p = q->from->plan;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < q->n_groups && rc == TN_OK; i++) {
        struct quant_group *g = &q->groups[i];
        const struct plan_op *op;
        if (g->value == QUANT_ROUTED)
            continue;
        op = &p->ops[p->values[g->value].producer];
        if (strcmp(op->name, TN_OP_ATTENTION) == 0 && may_turn(q, g, op))
            rc = turn_group(q, g, op, calib, err);
    }
    return rc;
}

void quant_turn_rows(const struct head_turn *t, uint64_t rows, uint64_t cols, float *w)
{
    float x[CALIBRATION_DIM];

    for (uint64_t at = 0; at + t->dim <= rows; at += t->dim)
        for (uint64_t k = 0; k < cols; k++) {
            const float *line = t->turn + at * t->dim;
            for (uint64_t i = 0; i < t->dim; i++)
                x[i] = w[(at + i) * cols + k];
            for (uint64_t i = 0; i < t->dim; i++, line += t->dim) {
                float sum = 0.0f;
                for (uint64_t j = 0; j < t->dim; j++)
                    sum += line[j] * x[j];
                w[(at + i) * cols + k] = sum;
            }
        }
}

void quant_turn_columns(const struct head_turn *t, uint64_t rows, uint64_t cols, float *w)
{
    float sums[CALIBRATION_DIM];

    for (uint64_t at = 0; at < rows * cols; at += t->dim) {
        const float *line = t->back + at % cols / t->dim / t->share * t->dim * t->dim;
        for (uint64_t j = 0; j < t->dim; j++)
            sums[j] = 0.0f;
        for (uint64_t i = 0; i < t->dim; i++, line += t->dim)
            for (uint64_t j = 0; j < t->dim; j++)
                sums[j] += w[at + i] * line[j];
        memcpy(w + at, sums, (size_t)t->dim * sizeof *sums);
    }
}
