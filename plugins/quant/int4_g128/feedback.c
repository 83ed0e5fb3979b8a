/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See feedback.h. With H = R R^T, R upper triangular in the order of rounding, the error of a row d of roundings is |d R|^2.
 * Its component j is d_j R_jj + sum of d_i R_ij over columns i that were rounded before: so column j is
 * rounded from w_j + sum d_i R_ij / R_jj, and |d R|^2 becomes what single roundings leave, sum (d_j R_jj)^2. R is the lower
 * Cholesky factor of H with rows and columns turned round, which is why the order is kept last first.
 *
 * Arithmetic is in float32, in vectors of four, which any machine has. Tasks are taken from a counter by as many
 * threads as there are CPUs; each writes rows of its own.
 */
#include "feedback.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/ops.h"

/* GNU C: no vector of the standard is known to both compilers. */
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

/* An element of as many rows as are rounded at once. */
#define LANES 8
typedef struct lanes {
    float of[LANES];
} lanes;

#define BLOCK 64       /* columns that are rounded, or factored, before the rest hears of them */
#define MAX_THREADS 64 /* of one matrix */
#define DAMPINGS 4     /* each ten times the last */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* H = R R^T of the damped Hessian, in the order in which columns are rounded, last first. */
struct factor {
    uint64_t n;
    uint32_t *order; /* [n] columns; order[n - 1] is rounded first */
    float *l;        /* [n, n] lower triangle */
};

/* w[rows, n] to be rounded. */
struct rounding {
    const struct factor *factor;
    const float *w;
    uint64_t rows;
    const struct grid_set *grids;
};

/* -- Threads ------------------------------------------------------------------------------------------- */

struct tasks {
    void (*run)(void *arg, uint64_t task);
    void *arg;
    uint64_t n;
    atomic_uint_fast64_t next;
};

static void work(void *arg)
{
    struct tasks *t = arg;
    uint64_t i;

    while ((i = atomic_fetch_add(&t->next, 1)) < t->n)
        t->run(t->arg, i);
}

/* Runs tasks 0 to n - 1, `flops` of arithmetic each, on this thread and others if that pays. */
static void run_tasks(const tn_host *host, uint64_t n, double flops,
                      void (*run)(void *arg, uint64_t task), void *arg)
{
    struct tasks t = {.run = run, .arg = arg, .n = n, .next = 0};
    uint64_t most = least(least(n, host->n_cpus), MAX_THREADS);
    tn_thread *threads[MAX_THREADS];
    uint64_t started = 0;

    while (started + 1 < most && (double)n * flops > 1e6 &&
           host->thread_spawn(host->ctx, "quant", -1, work, &t, &threads[started], NULL) == TN_OK)
        started++;
    work(&t);
    while (started > 0)
        host->thread_join(host->ctx, threads[--started]);
}

/* -- The factor ---------------------------------------------------------------------------------------- */

struct factoring {
    float *l;
    uint64_t n;
    uint64_t at, end; /* columns of the block; those before are final */
};

/* out[i][j] -= sum over k < len of x[i][k] * y[j][k], for two rows of each. */
static void subtract_products(const float *x, const float *y, uint64_t n, uint64_t len, float *out)
{
    four a = {0}, b = {0}, c = {0}, d = {0};
    float sums[4] = {0};
    uint64_t k = 0;

    for (; k + 4 <= len; k += 4) {
        four x0 = *(const four *)(x + k), x1 = *(const four *)(x + n + k);
        four y0 = *(const four *)(y + k), y1 = *(const four *)(y + n + k);
        a += x0 * y0;
        b += x0 * y1;
        c += x1 * y0;
        d += x1 * y1;
    }
    for (int i = 0; i < 4; i++) {
        sums[0] += a[i];
        sums[1] += b[i];
        sums[2] += c[i];
        sums[3] += d[i];
    }
    for (; k < len; k++) {
        sums[0] += x[k] * y[k];
        sums[1] += x[k] * y[n + k];
        sums[2] += x[n + k] * y[k];
        sums[3] += x[n + k] * y[n + k];
    }
    out[0] -= sums[0];
    out[1] -= sums[1];
    out[n] -= sums[2];
    out[n + 1] -= sums[3];
}

/* Rows of the block's columns, less what the columns before it account for. Rows and columns come in twos: n is even. */
static void update_rows(const struct factoring *f, uint64_t from, uint64_t to)
{
    uint64_t n = f->n;

    for (uint64_t k = 0; k < f->at; k += 512)
        for (uint64_t i = from; i < to; i += 2)
            for (uint64_t j = f->at; j < f->end; j += 2)
                subtract_products(f->l + i * n + k, f->l + j * n + k, n, least(512, f->at - k),
                                  f->l + i * n + j);
}

/* The block on the diagonal; false if it is not positive. */
static int factor_block(const struct factoring *f)
{
    uint64_t n = f->n;

    for (uint64_t j = f->at; j < f->end; j++) {
        float *row = f->l + j * n;
        for (uint64_t i = f->at; i <= j; i++) {
            const float *other = f->l + i * n;
            double sum = (double)row[i];
            for (uint64_t k = f->at; k < i; k++)
                sum -= (double)row[k] * (double)other[k];
            if (i < j)
                row[i] = (float)(sum / (double)other[i]);
            else if (sum > 1e-30 && isfinite(sum))
                row[i] = (float)sqrt(sum);
            else
                return 0;
        }
    }
    return 1;
}

/* A task: BLOCK rows below the block. */
static void factor_below(void *arg, uint64_t task)
{
    const struct factoring *f = arg;
    uint64_t from = f->end + task * BLOCK, to = least(from + BLOCK, f->n), n = f->n;

    update_rows(f, from, to);
    for (uint64_t i = from; i < to; i++)
        for (uint64_t j = f->at; j < f->end; j++) {
            float sum = f->l[i * n + j];
            for (uint64_t k = f->at; k < j; k++)
                sum -= f->l[i * n + k] * f->l[j * n + k];
            f->l[i * n + j] = sum / f->l[j * n + j];
        }
}

static int factor_all(const tn_host *host, float *l, uint64_t n)
{
    for (uint64_t at = 0; at < n; at += BLOCK) {
        struct factoring f = {l, n, at, least(at + BLOCK, n)};
        double flops = 2.0 * BLOCK * BLOCK * (double)(at + BLOCK);
        update_rows(&f, at, f.end);
        if (!factor_block(&f))
            return 0;
        run_tasks(host, (n - f.end + BLOCK - 1) / BLOCK, flops, factor_below, &f);
    }
    return 1;
}

static float hessian_at(const float *h, uint64_t i, uint64_t j)
{
    return i > j ? h[i * (i + 1) / 2 + j] : h[j * (j + 1) / 2 + i];
}

struct diagonal {
    float value;
    uint32_t column;
};

static int by_value(const void *a, const void *b)
{
    const struct diagonal *x = a, *y = b;

    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return x->column < y->column ? -1 : x->column > y->column;
}

/* Columns, least second moment first. */
static int32_t find_order(const tn_host *host, const float *h, uint64_t n, uint32_t *order,
                          double *mean, tn_err *err)
{
    struct diagonal *d = host->alloc(host->ctx, n * sizeof *d, 64);

    if (!d)
        return tn_err_set(err, TN_E_NOMEM, "no memory for %llu channels", (unsigned long long)n);
    *mean = 0.0;
    for (uint64_t k = 0; k < n; k++) {
        d[k] = (struct diagonal){hessian_at(h, k, k), (uint32_t)k};
        *mean += (double)d[k].value / (double)n;
    }
    qsort(d, n, sizeof *d, by_value);
    for (uint64_t k = 0; k < n; k++)
        order[k] = d[k].column;
    host->free(host->ctx, d);
    return TN_OK;
}

static void factor_release(const tn_host *host, struct factor *f)
{
    host->free(host->ctx, f->order);
    host->free(host->ctx, f->l);
    *f = (struct factor){.n = 0};
}

/* TN_E_UNSUPPORTED, err unfilled, if the Hessian is not positive definite even when damped, or n is odd. */
static int32_t factor_new(const tn_host *host, const float *hessian, double damping, uint64_t n,
                          struct factor *out, tn_err *err)
{
    struct factor f = {.n = n};
    double mean = 0.0;
    int done = 0;
    int32_t rc = TN_OK;

    if (n % 2 != 0) /* see update_rows */
        return TN_E_UNSUPPORTED;
    f.order = host->alloc(host->ctx, n * sizeof *f.order, 64);
    f.l = host->alloc(host->ctx, n * n * sizeof *f.l, 64);
    if (!f.order || !f.l)
        rc = tn_err_set(err, TN_E_NOMEM, "no memory for a factor of %llu channels",
                        (unsigned long long)n);
    if (rc == TN_OK)
        rc = find_order(host, hessian, n, f.order, &mean, err);
    for (int i = 0; i < DAMPINGS && rc == TN_OK && mean > 0.0 && !done; i++, damping *= 10.0) {
        for (uint64_t a = 0; a < n; a++) {
            for (uint64_t b = 0; b <= a; b++)
                f.l[a * n + b] = hessian_at(hessian, f.order[a], f.order[b]);
            f.l[a * n + a] += (float)(damping * mean);
        }
        done = factor_all(host, f.l, n);
    }
    if (rc == TN_OK && !done)
        rc = TN_E_UNSUPPORTED;
    if (rc != TN_OK) {
        factor_release(host, &f);
        return rc;
    }
    *out = f;
    return TN_OK;
}

/* -- Rounding ------------------------------------------------------------------------------------------ */

/* LANES rows at once. */
struct strip {
    const struct rounding *r;
    uint64_t row, n_rows;
    lanes *error;       /* [n] what was rounded away, w - q */
    lanes *made;        /* [n] the errors times the columns of a matrix */
    double cost[LANES]; /* |d R|^2 of each row */
};

static void round_column(struct strip *s, uint64_t i)
{
    const struct rounding *r = s->r;
    uint64_t n = r->factor->n, column = r->factor->order[i];
    float factor = r->factor->l[i * n + i], by = 1.0f / factor;

    for (uint64_t k = 0; k < s->n_rows; k++) {
        float w = r->w[(s->row + k) * n + column], aim = w + s->made[i].of[k] * by;
        float got = r->grids->keep(r->grids->arg, s->row + k, column, aim);
        double missed = (double)((aim - got) * factor);
        s->error[i].of[k] = w - got;
        s->cost[k] += missed * missed;
    }
}

/* made[b] += sum over a of l[a][b] * error[a], for a from `from` to `to` and b to b + 3. */
static void tell_four(const struct strip *s, uint64_t from, uint64_t to, uint64_t b)
{
    uint64_t n = s->r->factor->n;
    const float *l = s->r->factor->l + from * n + b;
    const four *e = (const four *)(s->error + from);
    four *m = (four *)(s->made + b), m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], m4 = m[4],
         m5 = m[5], m6 = m[6], m7 = m[7];

    for (uint64_t a = from; a < to; a++, l += n, e += 2) {
        m0 += l[0] * e[0];
        m1 += l[0] * e[1];
        m2 += l[1] * e[0];
        m3 += l[1] * e[1];
        m4 += l[2] * e[0];
        m5 += l[2] * e[1];
        m6 += l[3] * e[0];
        m7 += l[3] * e[1];
    }
    m[0] = m0, m[1] = m1, m[2] = m2, m[3] = m3;
    m[4] = m4, m[5] = m5, m[6] = m6, m[7] = m7;
}

/* made[b] += l[b] * e, for b from `from` to `to`. */
static void tell(const struct strip *s, const float *l, const lanes *e, uint64_t from, uint64_t to)
{
    four *m = (four *)(s->made + from);
    four e0 = *(const four *)e->of, e1 = *(const four *)(e->of + 4);

    for (uint64_t b = from; b < to; b++, m += 2) {
        m[0] += l[b] * e0;
        m[1] += l[b] * e1;
    }
}

/* Column i of the order gets what those before leave it, made[i] / l[i][i]. Blocks from the end to the start. */
static void round_strip(struct strip *s)
{
    const struct factor *f = s->r->factor;

    memset(s->cost, 0, sizeof s->cost);
    memset(s->made, 0, f->n * sizeof *s->made);
    for (uint64_t end = f->n; end > 0;) {
        uint64_t at = (end - 1) / BLOCK * BLOCK;
        for (uint64_t i = end; i-- > at;) {
            round_column(s, i);
            tell(s, f->l + i * f->n, &s->error[i], at, i);
        }
        for (uint64_t b = 0; b < at; b += 4)
            tell_four(s, at, end, b);
        end = at;
    }
}

static void choose(const struct strip *s, const uint32_t *attempt)
{
    for (uint64_t k = 0; k < s->n_rows; k++)
        s->r->grids->choose(s->r->grids->arg, s->row + k, attempt[k]);
}

/* Each row by each of its choices, and once more by the best. */
static void round_best(struct strip *s)
{
    double least_cost[LANES];
    uint32_t best[LANES] = {0}, n = s->r->grids->choose ? s->r->grids->n_attempts : 1;

    for (uint32_t t = 0; t < n; t++) {
        uint32_t all[LANES];
        for (int k = 0; k < LANES; k++)
            all[k] = t;
        if (n > 1)
            choose(s, all);
        round_strip(s);
        for (uint64_t k = 0; k < s->n_rows; k++)
            if (t == 0 || s->cost[k] < least_cost[k]) {
                least_cost[k] = s->cost[k];
                best[k] = t;
            }
    }
    if (n > 1) {
        choose(s, best);
        round_strip(s);
    }
}

/* -- All strips ---------------------------------------------------------------------------------------- */

struct strips {
    const struct rounding *r;
    const tn_host *host;
    atomic_int failed; /* for want of memory */
};

static void run_strip(void *arg, uint64_t task)
{
    struct strips *x = arg;
    const struct rounding *r = x->r;
    struct strip s = {.r = r, .row = task * LANES};
    uint64_t n = r->factor->n;

    s.n_rows = least(LANES, r->rows - s.row);
    s.error = x->host->alloc(x->host->ctx, 2 * n * sizeof *s.error, 64);
    if (!s.error) {
        atomic_store(&x->failed, 1);
        return;
    }
    s.made = s.error + n;
    round_best(&s);
    x->host->free(x->host->ctx, s.error);
}

static int32_t round_with_feedback(const tn_host *host, const struct rounding *r, tn_err *err)
{
    struct strips x = {.r = r, .host = host, .failed = 0};
    double n = (double)r->factor->n, times = r->grids->choose ? r->grids->n_attempts + 1.0 : 1.0;
    uint64_t n_strips = (r->rows + LANES - 1) / LANES;

    run_tasks(host, n_strips, times * n * n * LANES, run_strip, &x);
    if (atomic_load(&x.failed))
        return tn_err_set(err, TN_E_NOMEM, "no memory for %llu channels",
                          (unsigned long long)r->factor->n);
    return TN_OK;
}

/* Each element by itself; returns the sum of squares of what is rounded away. */
static double round_row(const struct grid_set *g, const float *w, uint64_t row, uint64_t cols)
{
    double sum = 0.0;

    for (uint64_t k = 0; k < cols; k++) {
        double d = (double)w[k] - (double)g->keep(g->arg, row, k, w[k]);
        sum += d * d;
    }
    return sum;
}

static void round_row_best(const struct grid_set *g, const float *w, uint64_t row, uint64_t cols)
{
    uint32_t best = 0;
    double least_cost = INFINITY;

    for (uint32_t t = 0; g->choose && t < g->n_attempts; t++) {
        double cost;
        g->choose(g->arg, row, t);
        cost = round_row(g, w, row, cols);
        if (cost < least_cost) {
            least_cost = cost;
            best = t;
        }
    }
    if (g->choose)
        g->choose(g->arg, row, best);
    round_row(g, w, row, cols);
}

double damping_of(const tn_op *op, const tn_quant_stats *stats)
{
    double prior = stats && stats->n_hessian_rows
                       ? DAMPING_ROWS * (double)stats->n_channels / (double)stats->n_hessian_rows
                       : 0.0;

    return strcmp(op->name, TN_OP_MOE_MLP) == 0 && prior > DAMPING ? prior : DAMPING;
}

int32_t round_matrix(const tn_host *host, const float *hessian, double damping, const float *w,
                     uint64_t rows, uint64_t cols, const struct grid_set *grids, tn_err *err)
{
    struct factor f = {.n = 0};
    int32_t rc = hessian ? factor_new(host, hessian, damping, cols, &f, err) : TN_E_UNSUPPORTED;

    if (rc == TN_OK) {
        const struct rounding r = {&f, w, rows, grids};
        rc = round_with_feedback(host, &r, err);
        factor_release(host, &f);
    }
    if (rc != TN_E_UNSUPPORTED)
        return rc;
    for (uint64_t i = 0; i < rows; i++)
        round_row_best(grids, w + i * cols, i, cols);
    return TN_OK;
}
