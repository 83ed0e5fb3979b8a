/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FP8 e4m3 (Micikevicius et al. 2022; OCP 8-bit Floating Point Specification 1.0): weights with a scale per output channel
 * or per tensor, rounded with error feedback where calibration gives Hessians (feedback.h), activations with a static scale per tensor from calibration, or dynamic per token ("linear.fp8" in
 * tenon/ops.h). Casts saturate and round to nearest even, subnormals included (tenon/float.h).
 *
 * A build's state is immutable after `open`; any thread.
 */
#include "../common/scheme.h"
#include "../int4_g128/feedback.h"
#include "tenon/float.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.kinds = TN_KIND_QUANT, .name = "fp8", .vendor = "tenon", .version = VERSION);

#define LARGEST 448.0f

/* Scales that are tried for a row of a narrow matrix, see choose(). Of few roundings the sum of squares hangs on chance, so that
 * some scale is better than the plain one by a sixth; of many all are alike, and trying takes time. */
#define ATTEMPTS 8
#define NARROW 2048 /* inputs */

enum { ACT_AUTO, ACT_STATIC, ACT_DYNAMIC };

struct build {
    const tn_host *host;
    uint32_t act;
    uint32_t per_tensor; /* one scale for all rows of a matrix */
    uint32_t nearest;    /* each element to what is nearest to it */
};

static int32_t set_option(struct build *b, const tn_kv *kv, tn_err *err)
{
    static const char *const acts[] = {"auto", "static", "dynamic", NULL};
    static const char *const weights[] = {"channel", "tensor", NULL};
    static const char *const feedback[] = {"on", "off", NULL};

    if (strcmp(kv->key, "act") == 0)
        return scheme_choice(kv, acts, &b->act, err);
    if (strcmp(kv->key, "weight") == 0)
        return scheme_choice(kv, weights, &b->per_tensor, err);
    if (strcmp(kv->key, "feedback") == 0)
        return scheme_choice(kv, feedback, &b->nearest, err);
    return scheme_unknown(
        kv, "act (auto, static, dynamic), weight (channel, tensor), feedback (on, off)", err);
}

static int32_t open_build(void *instance, const tn_kv *options, uint32_t n_options, void **build,
                          uint32_t *needs, tn_err *err)
{
    const tn_host *host = instance;
    struct build *b = host->alloc(host->ctx, sizeof *b, 16);
    int32_t rc = TN_OK;

    if (!b)
        return tn_err_set(err, TN_E_NOMEM, "no memory for a build");
    b->host = host;
    for (uint32_t i = 0; i < n_options && rc == TN_OK; i++)
        rc = set_option(b, &options[i], err);
    if (rc != TN_OK) {
        host->free(host->ctx, b);
        return rc;
    }
    if (b->act == ACT_DYNAMIC)
        *needs &= ~(uint32_t)TN_QUANT_ABSMAX_TENSOR;
    if (b->nearest)
        *needs &= ~(uint32_t)TN_QUANT_HESSIAN;
    *build = b;
    return TN_OK;
}

static void close_build(void *instance, void *build)
{
    const tn_host *host = instance;

    host->free(host->ctx, build);
}

static int32_t plan(void *build, const tn_op *op, const tn_quant_stats *stats, tn_quant_plan *out,
                    tn_err *err)
{
    const struct build *b = build;
    int32_t rc = scheme_check(op, err);

    if (rc != TN_OK)
        return rc;
    if (b->act == ACT_STATIC && !stats && scheme_rounds_rows(op))
        return tn_err_set(err, TN_E_CONFIG, "act=static needs calibration: give --calib-data");
    scheme_by_row(op, TN_OP_LINEAR_FP8, TN_DT_F8E4M3, out);
    if (b->act != ACT_DYNAMIC && scheme_rounds_rows(op) && stats &&
        isnormal(stats->absmax / LARGEST))
        out->attrs[out->n_attrs++] =
            (tn_attr)TN_ATTR_REAL("act_scale", (double)(stats->absmax / LARGEST));
    return TN_OK;
}

/* The scales of all rows; 0 for one too small to divide by. */
static int32_t find_scales(const struct build *b, const tn_op *op, const float *w, float *scale,
                           tn_err *err)
{
    float largest = 0.0f;

    for (uint64_t n = 0; n < scheme_rows(op); n++) {
        scale[n] = scheme_absmax(w + n * scheme_cols(op), scheme_cols(op)) / LARGEST;
        if (isnan(scale[n]))
            return scheme_not_finite(op, n, err);
        largest = fmaxf(largest, scale[n]);
    }
    for (uint64_t n = 0; n < scheme_rows(op); n++) {
        if (b->per_tensor)
            scale[n] = largest;
        if (!isnormal(scale[n]))
            scale[n] = 0.0f;
    }
    return TN_OK;
}

struct matrix {
    uint64_t cols;
    const float *full; /* [rows] scales by which the largest element becomes the largest number */
    float *scale;      /* [rows] those that are taken */
    uint8_t *q;
};

/* Numbers lie in steps that double with their size, so that scales from one power of two to the next are all there are. */
static void choose(const void *arg, uint64_t row, uint32_t attempt)
{
    const struct matrix *m = arg;

    m->scale[row] = m->full[row] * exp2f((float)attempt / ATTEMPTS);
}

static float keep(const void *arg, uint64_t row, uint64_t column, float value)
{
    const struct matrix *m = arg;
    uint8_t q;

    if (m->scale[row] <= 0.0f) {
        m->q[row * m->cols + column] = 0;
        return 0.0f;
    }
    q = tn_f32_to_f8e4m3(value / m->scale[row]);
    m->q[row * m->cols + column] = q;
    return tn_f8e4m3_to_f32(q) * m->scale[row];
}

/* Rounding by itself costs e4m3 little: feedback from a few rows, which say more of themselves than of the model, would cost more. */
static int32_t quantize(void *build, const tn_op *op, const tn_quant_stats *stats, const float *w,
                        void *const *out, tn_err *err)
{
    const struct build *b = build;
    uint64_t rows = scheme_rows(op);
    float *full = b->host->alloc(b->host->ctx, rows * sizeof *full, 64);
    const struct matrix m = {scheme_cols(op), full, out[1], out[0]};
    struct grid_set grids = {.arg = &m, .keep = keep};
    int32_t rc =
        full ? find_scales(b, op, w, out[1], err)
             : tn_err_set(err, TN_E_NOMEM, "no memory for %llu scales", (unsigned long long)rows);
    int feedback;

    if (rc != TN_OK)
        goto done;
    memcpy(full, out[1], rows * sizeof *full);
    feedback = stats && stats->hessian && !b->nearest && stats->n_hessian_rows >= 16 * m.cols;
    if (!b->per_tensor && !b->nearest && m.cols < NARROW) {
        grids.choose = choose;
        grids.n_attempts = ATTEMPTS;
    }
    rc = round_matrix(b->host, feedback ? stats->hessian : NULL, damping_of(op, stats), w, rows,
                      m.cols, &grids, err);
done:
    b->host->free(b->host->ctx, full);
    return rc;
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
    .name = "fp8",
    .summary = "FP8 e4m3 weights and activations",
    .needs = TN_QUANT_ABSMAX_TENSOR | TN_QUANT_HESSIAN,
    .flags = TN_QUANT_NEEDS_OPTIONAL,
    .fallback = "weights stay FP8, activations are not quantized, arithmetic is in 16 or 32 bits",
    .open = open_build,
    .close = close_build,
    .plan = plan,
    .quantize = quantize};

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_QUANT, &scheme}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "fp8",
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
