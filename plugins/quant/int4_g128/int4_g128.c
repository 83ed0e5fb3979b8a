/* SPDX-License-Identifier: Apache-2.0 */
/*
 * INT4 weights in groups of 128 inputs (64 in narrow matrices), with zero points or symmetric; activations stay as they are
 * ("linear.int4" in tenon/ops.h). A matrix whose inputs are no whole groups gets others. Without calibration weights are
 * rounded to nearest. With it, channels that matter are scaled up before rounding, as in AWQ (Lin et al. 2023,
 * arXiv:2306.00978): s_k = E[x_k^2]^(beta / 2), beta searched for the linears that read one value, for the least expected
 * squared error of their outputs, sum_k E[x_k^2] dw_nk^2; the range of a group is cut where that lowers the error; and
 * columns make good what others were rounded by (feedback.h), if calibration brings Hessians.
 *
 * This plugin uses nothing but the installed SDK: its CMakeLists.txt builds it outside of Tenon's tree, too.
 * A build's state is immutable after `open`; any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "feedback.h"
#include "tenon/ops.h"
#include "tenon/plugin.h"
#include "tenon/quant.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.kinds = TN_KIND_QUANT, .name = "int4_g128", .vendor = "tenon", .version = VERSION);

#define MAX_GROUP 1024
#define NARROW 2048 /* inputs */

/* Rows of a matrix that the search looks at: enough to rank candidates. */
#define SEARCH_ROWS 256

struct build {
    const tn_host *host;
    uint64_t group;   /* 0: not asked for */
    uint32_t zero;    /* with zero points */
    uint32_t plain;   /* round to nearest, whatever calibration says */
    uint32_t nearest; /* likewise, but scale channels first */
};

/* The multiple of `step` nearest to `group`, down to `least`, or else up to `most`, that divides `k`; 0: none. `group` is one. */
static uint64_t divisor(uint64_t k, uint64_t group, uint64_t step, uint64_t least, uint64_t most)
{
    for (uint64_t g = group; g >= least && g > 0; g -= step)
        if (k % g == 0)
            return g;
    for (uint64_t g = group + step; g <= most; g += step)
        if (k % g == 0)
            return g;
    return 0;
}

/* The group of a matrix of `k` inputs: as asked for, or smaller. Unless asked for, it is of 128, and of 64 in narrow matrices:
 * small models lose most by four bits, and can pay for more scales. Those of other lengths are large enough to keep scales and zero
 * points within a fifth of the codes, if there are any: of multiples of 16, which all kernels take, or else of even numbers. 0: none. */
static uint64_t group_for(const struct build *b, uint64_t k)
{
    uint64_t group = b->group ? b->group : k < NARROW ? 64 : 128, least = b->zero ? 64 : 48;
    uint64_t found = b->group ? 0 : divisor(k, group, 16, least, 4 * group);

    if (!found && !b->group)
        found = divisor(k, group, 2, b->zero ? 52 : 42, MAX_GROUP);
    return found ? found : divisor(k, group, 16, 16, 0);
}

/* -- One group ----------------------------------------------------------------------------------------- */

/* w ~ scale * (q - zero), -8 <= q <= 7; a scale of 0 means that all q are the zero. */
struct grid {
    float scale;
    int zero;
};

static int round_to(struct grid g, float w)
{
    float q = g.scale > 0.0f ? rintf(w / g.scale) + (float)g.zero : (float)g.zero;

    return (int)fmaxf(-8.0f, fminf(7.0f, q));
}

static struct grid grid_of(const struct build *b, float least, float most, float part)
{
    struct grid g = {0.0f, 0};

    if (b->zero) {
        least = fminf(least, 0.0f) * part;
        most = fmaxf(most, 0.0f) * part;
        g.scale = (most - least) / 15.0f;
        g.zero =
            isnormal(g.scale) ? (int)fmaxf(-8.0f, fminf(7.0f, rintf(-8.0f - least / g.scale))) : 0;
    } else {
        g.scale = fmaxf(-least, most) * part / 7.0f;
    }
    if (!isnormal(g.scale))
        g.scale = 0.0f;
    return g;
}

static double grid_error(struct grid g, const float *w, const float *moment, uint64_t n)
{
    double sum = 0.0;

    for (uint64_t i = 0; i < n; i++) {
        float d = w[i] - g.scale * (float)(round_to(g, w[i]) - g.zero);
        sum += (double)d * (double)d * (moment ? (double)moment[i] : 1.0);
    }
    return sum;
}

/* The grid of a group; `moment` (NULL: none) are the weights of the errors. */
static struct grid best_grid(const struct build *b, const float *w, const float *moment, uint64_t n)
{
    float least = INFINITY, most = -INFINITY;
    struct grid best;
    double error;

    for (uint64_t i = 0; i < n; i++) {
        least = fminf(least, w[i]);
        most = fmaxf(most, w[i]);
    }
    best = grid_of(b, least, most, 1.0f);
    if (!moment)
        return best;
    error = grid_error(best, w, moment, n);
    for (float part = 0.95f; part > 0.6f; part -= 0.05f) {
        struct grid g = grid_of(b, least, most, part);
        double e = grid_error(g, w, moment, n);
        if (e < error) {
            error = e;
            best = g;
        }
    }
    return best;
}

/* -- Scaling channels ----------------------------------------------------------------------------------- */

struct search {
    const struct build *b;
    const tn_quant_group *g;
    const float *moment; /* per channel, tied channels alike */
    float *row, *scaled; /* scratch, n_channels each */
    uint64_t group;
};

static double factors_error(const struct search *s, const float *factor)
{
    uint64_t n = s->g->n_channels;
    double sum = 0.0;

    for (uint64_t k = 0; k < n; k++)
        s->scaled[k] = s->moment[k] / (factor[k] * factor[k]);
    for (uint32_t i = 0; i < s->g->n_ops; i++) {
        uint64_t rows = s->g->ops[i]->weights[0]->dims[0];
        uint64_t step = (rows + SEARCH_ROWS - 1) / SEARCH_ROWS;
        for (uint64_t r = 0; r < rows; r += step) {
            const float *w = s->g->weights[i] + r * n;
            for (uint64_t k = 0; k < n; k++)
                s->row[k] = w[k] * factor[k];
            for (uint64_t k = 0; k + s->group <= n; k += s->group)
                sum += (double)step * grid_error(best_grid(s->b, s->row + k, NULL, s->group),
                                                 s->row + k, s->scaled + k, s->group);
        }
    }
    return sum;
}

/* s_k = moment_k^(beta / 2), with a geometric middle of 1. */
static void factors_of(const struct search *s, float beta, float *factor)
{
    float least = INFINITY, most = 0.0f;

    for (uint64_t k = 0; k < s->g->n_channels; k++) {
        factor[k] = fmaxf(powf(fmaxf(s->moment[k], 1e-12f), 0.5f * beta), 1e-4f);
        least = fminf(least, factor[k]);
        most = fmaxf(most, factor[k]);
    }
    for (uint64_t k = 0; k < s->g->n_channels; k++)
        factor[k] /= sqrtf(least * most);
}

static void tie_moments(const tn_quant_group *g, float *moment, float *scratch)
{
    memset(scratch, 0, g->n_channels * sizeof *scratch);
    for (uint64_t k = 0; k < g->n_channels; k++)
        scratch[g->tie[k]] = fmaxf(scratch[g->tie[k]], moment[k]);
    for (uint64_t k = 0; k < g->n_channels; k++)
        moment[k] = scratch[g->tie[k]];
}

static int32_t smooth(void *build, const tn_quant_group *g, float *divide, tn_err *err)
{
    const struct build *b = build;
    uint64_t n = g->n_channels;
    struct search s = {.b = b, .g = g};
    double least;
    float *scratch;

    s.group = group_for(b, n);
    if (b->plain || !g->stats || !g->stats->second_moment || s.group == 0)
        return TN_OK;
    scratch = b->host->alloc(b->host->ctx, 4 * n * sizeof *scratch, 64);
    if (!scratch)
        return tn_err_set(err, TN_E_NOMEM, "no memory for %llu channels", (unsigned long long)n);
    memcpy(scratch, g->stats->second_moment, n * sizeof *scratch);
    if (g->tie)
        tie_moments(g, scratch, scratch + n);
    s.moment = scratch;
    s.row = scratch + n;
    s.scaled = scratch + 2 * n;
    least = factors_error(&s, divide);
    for (float beta = 0.1f; beta < 1.05f; beta += 0.1f) {
        double e;
        factors_of(&s, beta, scratch + 3 * n);
        e = factors_error(&s, scratch + 3 * n);
        if (e < least) {
            least = e;
            memcpy(divide, scratch + 3 * n, n * sizeof *divide);
        }
    }
    b->host->free(b->host->ctx, scratch);
    return TN_OK;
}

/* -- Quantizing ---------------------------------------------------------------------------------------- */

static int32_t plan(void *build, const tn_op *op, const tn_quant_stats *stats, tn_quant_plan *out,
                    tn_err *err)
{
    const struct build *b = build;
    uint64_t n, k, group;

    (void)stats;
    if (op->n_weights < 1 || op->weights[0]->n_dims != 2)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s has no matrix", op->name);
    n = op->weights[0]->dims[0];
    k = op->weights[0]->dims[1];
    group = group_for(b, k);
    if (group == 0)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%llu inputs are no whole groups of 16 or more",
                          (unsigned long long)k);
    out->op = TN_OP_LINEAR_INT4;
    out->n_tensors = 2 + b->zero;
    out->tensors[0] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                        .suffix = ".qweight",
                                        .dtype = TN_DT_I4,
                                        .n_dims = 2,
                                        .dims = {n, k},
                                        .rows = 1};
    for (uint32_t i = 1; i < out->n_tensors; i++)
        out->tensors[i] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                            .suffix = i == 1 ? ".scale" : ".zero",
                                            .dtype = i == 1 ? TN_DT_F32 : TN_DT_I8,
                                            .n_dims = 2,
                                            .dims = {n, k / group},
                                            .rows = 1,
                                            .group = group};
    out->n_attrs = 2;
    out->attrs[0] = (tn_attr)TN_ATTR_INT("group", (int64_t)group);
    out->attrs[1] = (tn_attr)TN_ATTR_INT("zero", (int64_t)b->zero);
    return TN_OK;
}

/* A matrix w[rows, cols] and what becomes of it: a grid per `group` columns, scale[rows, cols / group] and zero likewise or
 * NULL, and codes, two of a row to a byte, zeroed. */
struct matrix {
    const float *w;
    uint64_t rows, cols, group;
    float *scale;
    int8_t *zero;
    uint8_t *q;
};

static float keep(const void *arg, uint64_t row, uint64_t column, float value)
{
    const struct matrix *m = arg;
    uint64_t at = row * m->cols + column, g = at / m->group;
    struct grid grid = {m->scale[g], m->zero ? m->zero[g] : 0};
    int q = round_to(grid, value);

    m->q[at / 2] |= (uint8_t)((q & 15) << (at % 2 * 4));
    return grid.scale * (float)(q - grid.zero);
}

static void find_grids(const struct build *b, const float *moment, const struct matrix *m)
{
    for (uint64_t at = 0, g = 0; at < m->rows * m->cols; at += m->group, g++) {
        struct grid grid = best_grid(b, m->w + at, moment ? moment + at % m->cols : NULL, m->group);
        m->scale[g] = grid.scale;
        if (m->zero)
            m->zero[g] = (int8_t)grid.zero;
    }
}

static int32_t quantize(void *build, const tn_op *op, const tn_quant_stats *stats, const float *w,
                        void *const *out, tn_err *err)
{
    const struct build *b = build;
    uint64_t rows = op->weights[0]->dims[0], cols = op->weights[0]->dims[1];
    const struct matrix m = {.w = w,
                             .rows = rows,
                             .cols = cols,
                             .group = group_for(b, cols),
                             .scale = out[1],
                             .zero = b->zero ? out[2] : NULL,
                             .q = out[0]};
    int feedback = stats && stats->hessian && !b->plain && !b->nearest;

    for (uint64_t i = 0; i < rows * cols; i++)
        if (!isfinite(w[i]))
            return tn_err_set(err, TN_E_NAN, "row %llu of %s has NaN or infinity",
                              (unsigned long long)(i / cols), op->weights[0]->name);
    find_grids(b, stats && !b->plain ? stats->second_moment : NULL, &m);
    return round_matrix(b->host, feedback ? stats->hessian : NULL, damping_of(op, stats), w, rows,
                        cols, &(struct grid_set){.arg = &m, .keep = keep}, err);
}

/* -- Options ------------------------------------------------------------------------------------------- */

static int32_t set_switch(const tn_kv *kv, const char *on, const char *off, uint32_t *out,
                          tn_err *err)
{
    *out = strcmp(kv->value, on) == 0;
    if (*out || strcmp(kv->value, off) == 0)
        return TN_OK;
    return tn_err_set(err, TN_E_CONFIG, "option %s is \"%s\", but must be %s or %s", kv->key,
                      kv->value, on, off);
}

static int32_t set_option(struct build *b, const tn_kv *kv, tn_err *err)
{
    char *end;

    if (strcmp(kv->key, "zero") == 0)
        return set_switch(kv, "on", "off", &b->zero, err);
    if (strcmp(kv->key, "awq") == 0)
        return set_switch(kv, "off", "on", &b->plain, err);
    if (strcmp(kv->key, "feedback") == 0)
        return set_switch(kv, "off", "on", &b->nearest, err);
    if (strcmp(kv->key, "group") != 0)
        return tn_err_set(
            err, TN_E_CONFIG,
            "there is no option \"%s\"; known are zero, awq, feedback (on, off), group", kv->key);
    b->group = strtoul(kv->value, &end, 10);
    if (end == kv->value || *end || b->group < 16 || b->group > MAX_GROUP || b->group % 16)
        return tn_err_set(err, TN_E_CONFIG,
                          "option group is \"%s\", but must be a multiple of 16 up to %d",
                          kv->value, MAX_GROUP);
    return TN_OK;
}

static int32_t open_build(void *instance, const tn_kv *options, uint32_t n_options, void **build,
                          uint32_t *needs, tn_err *err)
{
    const tn_host *host = instance;
    struct build *b = host->alloc(host->ctx, sizeof *b, 16);
    int32_t rc = TN_OK;

    if (!b)
        return tn_err_set(err, TN_E_NOMEM, "no memory for a build");
    *b = (struct build){.host = host, .zero = 1};
    for (uint32_t i = 0; i < n_options && rc == TN_OK; i++)
        rc = set_option(b, &options[i], err);
    if (rc != TN_OK) {
        host->free(host->ctx, b);
        return rc;
    }
    if (b->plain)
        *needs = 0;
    else if (b->nearest)
        *needs = TN_QUANT_SECOND_MOMENT;
    *build = b;
    return TN_OK;
}

static void close_build(void *instance, void *build)
{
    const tn_host *host = instance;

    host->free(host->ctx, build);
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    if (n_config > 0)
        return tn_err_set(err, TN_E_CONFIG, "%s: there is no such setting; see --quant-option",
                          config[0].key);
    *instance = (void *)(uintptr_t)host; /* const: it is only called through */
    return TN_OK;
}

static void fini(void *instance)
{
    (void)instance;
}

static const tn_quant_scheme scheme = {
    .h = TN_HDR(tn_quant_scheme),
    .name = "int4_g128",
    .summary =
        "INT4 weights in groups of 128; AWQ-style scales and GPTQ-style rounding with calibration",
    .needs = TN_QUANT_SECOND_MOMENT | TN_QUANT_HESSIAN,
    .flags = TN_QUANT_NEEDS_OPTIONAL,
    .fallback = "weights are widened as they are read; arithmetic is that of the activations",
    .open = open_build,
    .close = close_build,
    .smooth = smooth,
    .plan = plan,
    .quantize = quantize};

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_QUANT, &scheme}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "int4_g128",
                                 .vendor = "tenon",
                                 .version = VERSION,
                                 .n_ifaces = 1,
                                 .ifaces = ifaces,
                                 .init = init,
                                 .fini = fini};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
