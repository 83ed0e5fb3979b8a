/* SPDX-License-Identifier: Apache-2.0 */
/*
 * INT8 with SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): weights int8 with a scale per output channel, activations
 * int8 per token ("linear.int8" in tenon/ops.h). Channels of the activations that are larger than others are divided by
 * s_k = max|x_k|^alpha / max|w_k|^(1 - alpha), and the columns of the matrices multiplied with it.
 *
 * Behind a norm the factors cost nothing. Before down and o projections they go into the linear before, whose own
 * quantization does not mind, since it has a scale per row; they are used where the estimated error becomes smaller. The
 * estimate is that of the expected squared error of the output with errors of weights and activations independent:
 *
 *   sum_k E[x_k^2] sum_n dw_nk^2  +  mean_t(a_t^2) / 12 * sum_k s_k^2 sum_n w_nk^2,   a_t = max_k |x_tk / s_k| / 127
 *
 * A build's state is immutable after `open`; any thread.
 */
#include "../common/scheme.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.kinds = TN_KIND_QUANT, .name = "int8_sq", .vendor = "tenon", .version = VERSION);

/* 2^17 products of 127 * 127 just fit the exact int32 sum that linear.int8 promises. */
#define MAX_INPUTS (UINT64_C(1) << 17)

/* Rows of a matrix that the estimate looks at: enough to rank candidates. */
#define ESTIMATE_ROWS 512

#define ALPHA_SEARCH (-1.0f)

enum { ACT_TOKEN, ACT_TENSOR };

struct build {
    const tn_host *host;
    float alpha; /* or ALPHA_SEARCH */
    uint32_t act;
    uint32_t off; /* no smoothing */
    uint32_t whole_head;
};

/* -- Options ------------------------------------------------------------------------------------------ */

static int32_t set_alpha(struct build *b, const tn_kv *kv, tn_err *err)
{
    char *end;
    float v;

    if (strcmp(kv->value, "search") == 0) {
        b->alpha = ALPHA_SEARCH;
        return TN_OK;
    }
    v = strtof(kv->value, &end);
    if (end == kv->value || *end || !(v >= 0.0f && v <= 1.0f))
        return tn_err_set(err, TN_E_CONFIG,
                          "option alpha is \"%s\", but must be from 0 to 1, or search", kv->value);
    b->alpha = v;
    return TN_OK;
}

static int32_t set_option(struct build *b, const tn_kv *kv, tn_err *err)
{
    static const char *const acts[] = {"token", "tensor", NULL};
    static const char *const switches[] = {"on", "off", NULL};

    if (strcmp(kv->key, "alpha") == 0)
        return set_alpha(b, kv, err);
    if (strcmp(kv->key, "act") == 0)
        return scheme_choice(kv, acts, &b->act, err);
    if (strcmp(kv->key, "smooth") == 0)
        return scheme_choice(kv, switches, &b->off, err);
    if (strcmp(kv->key, "head") == 0)
        return scheme_choice(kv, switches, &b->whole_head, err);
    return scheme_unknown(
        kv, "alpha (0 to 1, or search), act (token, tensor), smooth (on, off), head (on, off)",
        err);
}

static int32_t open_build(void *instance, const tn_kv *options, uint32_t n_options, void **build,
                          uint32_t *needs, tn_err *err)
{
    const tn_host *host = instance;
    struct build *b = host->alloc(host->ctx, sizeof *b, 16);
    int32_t rc = TN_OK;

    if (!b)
        return tn_err_set(err, TN_E_NOMEM, "no memory for a build");
    *b = (struct build){.host = host, .alpha = 0.5f};
    for (uint32_t i = 0; i < n_options && rc == TN_OK; i++)
        rc = set_option(b, &options[i], err);
    if (rc != TN_OK) {
        host->free(host->ctx, b);
        return rc;
    }
    if (b->off)
        *needs = b->act == ACT_TENSOR ? TN_QUANT_ABSMAX_TENSOR | TN_QUANT_SAMPLE : 0;
    if (b->act == ACT_TENSOR)
        host->log(host->ctx, TN_LOG_WARN,
                  "int8_sq: act=tensor rounds every token in the steps of the largest that "
                  "calibration saw, "
                  "which costs much quality; act=token is the default for that reason");
    *build = b;
    return TN_OK;
}

static void close_build(void *instance, void *build)
{
    const tn_host *host = instance;

    host->free(host->ctx, build);
}

/* -- Smoothing ----------------------------------------------------------------------------------------- */

/* What candidates are compared by. */
struct search {
    const tn_quant_group *g;
    const float *absmax_x, *absmax_w; /* per channel, tied channels alike */
    float *row;                       /* scratch, n_channels */
};

static void factors_of(const struct search *s, float alpha, float *factor)
{
    for (uint64_t k = 0; k < s->g->n_channels; k++) {
        float x = s->absmax_x[k], w = s->absmax_w[k];
        float f = x > 0.0f && w > 0.0f ? powf(x, alpha) / powf(w, 1.0f - alpha) : 1.0f;
        factor[k] = fminf(fmaxf(f, 1e-5f), 1e5f);
    }
}

/* Mean square of the step of a token's activations, divided by 12: the variance of rounding. */
static double activation_noise(const struct search *s, const float *factor)
{
    const tn_quant_stats *st = s->g->stats;
    double sum = 0.0;

    for (uint64_t t = 0; t < st->n_sample; t++) {
        float most = 0.0f;
        for (uint64_t k = 0; k < st->n_channels; k++)
            most = fmaxf(most, fabsf(st->sample[t * st->n_channels + k] / factor[k]));
        sum += (double)(most / 127.0f) * (double)(most / 127.0f);
    }
    return st->n_sample ? sum / (double)st->n_sample / 12.0 : 0.0;
}

/* Expected squared error of one output. */
static double row_error(const struct search *s, const float *w, const float *factor, double noise)
{
    uint64_t n = s->g->n_channels;
    double from_w = 0.0, from_x = 0.0;
    float most = 0.0f, scale;

    for (uint64_t k = 0; k < n; k++) {
        s->row[k] = w[k] * factor[k];
        most = fmaxf(most, fabsf(s->row[k]));
    }
    scale = most / 127.0f;
    if (!(scale > 0.0f))
        return 0.0;
    for (uint64_t k = 0; k < n; k++) {
        float d = s->row[k] - rintf(s->row[k] / scale) * scale;
        double x2 = (double)s->g->stats->second_moment[k] / ((double)factor[k] * (double)factor[k]);
        from_w += (double)d * (double)d * x2;
        from_x += (double)s->row[k] * (double)s->row[k];
    }
    return from_w + noise * from_x;
}

static double group_error(const struct search *s, const float *factor)
{
    double noise = 0.0, sum = 0.0;

    for (uint32_t i = 0; i < s->g->n_ops; i++)
        if (scheme_rounds_rows(s->g->ops[i])) {
            noise = activation_noise(s, factor);
            break;
        }
    for (uint32_t i = 0; i < s->g->n_ops; i++) {
        uint64_t rows = scheme_rows(s->g->ops[i]);
        uint64_t step = (rows + ESTIMATE_ROWS - 1) / ESTIMATE_ROWS;
        for (uint64_t n = 0; n < rows; n += step)
            sum +=
                row_error(s, s->g->weights[i] + n * s->g->n_channels, factor, noise) * (double)step;
    }
    return sum;
}

/* Leaves in `best` the factors of least error among no smoothing and those of `first` to `last`. */
static void choose(const struct search *s, float first, float last, float *candidate, float *best)
{
    double least = group_error(s, best);

    for (float alpha = first; alpha <= last + 0.01f; alpha += 0.05f) {
        double e;
        factors_of(s, alpha, candidate);
        e = group_error(s, candidate);
        if (e < least) {
            least = e;
            memcpy(best, candidate, s->g->n_channels * sizeof *best);
        }
    }
}

static int is_head(const tn_op *op)
{
    return strcmp(op->name, TN_OP_LOGITS) == 0;
}

static int32_t smooth(void *build, const tn_quant_group *g, float *divide, tn_err *err)
{
    const struct build *b = build;
    uint64_t n = g->n_channels;
    float *scratch;
    struct search s = {.g = g};

    if (b->off || (b->whole_head && is_head(g->ops[0])) || !g->stats || !g->stats->absmax_channel)
        return TN_OK;
    scratch = b->host->alloc(b->host->ctx, 4 * n * sizeof *scratch, 64);
    if (!scratch)
        return tn_err_set(err, TN_E_NOMEM, "no memory for %llu channels", (unsigned long long)n);
    memcpy(scratch, g->stats->absmax_channel, n * sizeof *scratch);
    scheme_column_absmax(g, scratch + n);
    scheme_tie_largest(g, scratch, scratch + 2 * n);
    scheme_tie_largest(g, scratch + n, scratch + 2 * n);
    s.absmax_x = scratch;
    s.absmax_w = scratch + n;
    s.row = scratch + 2 * n;
    if (b->alpha == ALPHA_SEARCH)
        choose(&s, 0.3f, 0.9f, scratch + 3 * n, divide);
    else if (g->before == TN_QUANT_BEFORE_LINEAR)
        choose(&s, b->alpha, b->alpha, scratch + 3 * n, divide);
    else
        factors_of(&s, b->alpha, divide);
    b->host->free(b->host->ctx, scratch);
    return TN_OK;
}

/* -- Quantizing ---------------------------------------------------------------------------------------- */

/* Squared error of what calibration kept of the input, in steps of `step`. */
static double rounding_error(const tn_quant_stats *st, float step)
{
    double sum = 0.0;

    for (uint64_t i = 0; i < st->n_sample * st->n_channels; i++) {
        float x = st->sample[i];
        float d = x - step * fmaxf(-127.0f, fminf(127.0f, rintf(x / step)));
        sum += (double)d * (double)d;
    }
    return sum;
}

/* The step of all tokens: that of the largest element, or a smaller one that clips where this is better on the whole.
 * Rows that calibration kept are few, and what is rare among rows weighs much: half of the range is the least. */
static float fixed_step(const tn_quant_stats *st)
{
    float full = st->absmax / 127.0f, best = full;
    double least = INFINITY;

    for (float part = 1.0f; st->sample && isnormal(full) && part > 0.45f; part -= 0.1f) {
        double e = rounding_error(st, full * part);
        if (e < least) {
            least = e;
            best = full * part;
        }
    }
    return best;
}

static int32_t plan(void *build, const tn_op *op, const tn_quant_stats *stats, tn_quant_plan *out,
                    tn_err *err)
{
    const struct build *b = build;
    int32_t rc = scheme_check(op, err);

    if (rc != TN_OK)
        return rc;
    if (b->whole_head && is_head(op))
        return tn_err_set(err, TN_E_UNSUPPORTED, "head=off: the output projection stays as it is");
    if (scheme_cols(op) > MAX_INPUTS)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%llu inputs; sums of up to %llu are exact",
                          (unsigned long long)scheme_cols(op), (unsigned long long)MAX_INPUTS);
    scheme_by_row(op, is_head(op) ? TN_OP_LOGITS_INT8 : TN_OP_LINEAR_INT8, TN_DT_I8, out);
    out->embedding = is_head(op) ? TN_OP_EMBEDDING_INT8 : NULL;
    if (b->act == ACT_TENSOR && stats && stats->absmax > 0.0f)
        out->attrs[out->n_attrs++] = (tn_attr)TN_ATTR_REAL("act_scale", (double)fixed_step(stats));
    return TN_OK;
}

static int32_t quantize(void *build, const tn_op *op, const tn_quant_stats *stats, const float *w,
                        void *const *out, tn_err *err)
{
    uint64_t cols = scheme_cols(op);
    float *scale = out[1];

    (void)build;
    (void)stats;
    for (uint64_t n = 0; n < scheme_rows(op); n++) {
        const float *row = w + n * cols;
        int8_t *q = (int8_t *)out[0] + n * cols;
        float most = scheme_absmax(row, cols);
        if (isnan(most))
            return scheme_not_finite(op, n, err);
        if (!isnormal(most / 127.0f))
            continue; /* too small to divide by: zeros, with scale 0 */
        scale[n] = most / 127.0f;
        for (uint64_t k = 0; k < cols; k++)
            q[k] = (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(row[k] / scale[n])));
    }
    return TN_OK;
}

/* -- The plugin ---------------------------------------------------------------------------------------- */

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
    .name = "int8_sq",
    .summary = "INT8 weights and activations with SmoothQuant",
    .needs =
        TN_QUANT_ABSMAX_CHANNEL | TN_QUANT_ABSMAX_TENSOR | TN_QUANT_SECOND_MOMENT | TN_QUANT_SAMPLE,
    .flags = TN_QUANT_HEADS,
    .fallback = "every kernel set computes linear.int8 exactly; none rounds elsewhere",
    .open = open_build,
    .close = close_build,
    .smooth = smooth,
    .plan = plan,
    .quantize = quantize};

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_QUANT, &scheme}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "int8_sq",
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
