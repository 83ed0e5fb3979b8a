/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frequencies f[j] = base^(-2j/d) and their scalings:
 *   linear  positions divided by a factor (Chen et al. 2023, "position interpolation");
 *   dynamic NTK-aware base that grows with the length (done at run time by the rope op);
 *   llama3  long wavelengths divided, short kept, a smooth ramp between (LLaMA 3.1);
 *   yarn    Peng et al. 2023: a ramp over dimensions, and a factor on cos and sin.
 * config.json spells them two ways: rope_theta + rope_scaling, or all in rope_parameters.
 */
#include "rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PI 3.14159265358979323846

struct reading {
    const tn_config_api *api;
    const tn_config *c;
    const char *group; /* "rope_parameters" or "rope_scaling" */
    tn_err *err;
};

/* A real of the group; TN_E_NOTFOUND leaves `out` as it was. */
static int32_t real(const struct reading *r, const char *name, double min, double max, double *out)
{
    char path[96];

    snprintf(path, sizeof path, "%s.%s", r->group, name);
    return r->api->get_real(r->c, path, min, max, out, r->err);
}

static int32_t needed(const struct reading *r, const char *name, double min, double max,
                      double *out)
{
    char path[96];
    int32_t rc = real(r, name, min, max, out);

    if (rc != TN_E_NOTFOUND)
        return rc;
    snprintf(path, sizeof path, "%s.%s", r->group, name);
    return r->api->refuse(r->c, path, "this kind of rope scaling needs it", r->err);
}

static int32_t optional(const struct reading *r, const char *name, double min, double max,
                        double *out)
{
    int32_t rc = real(r, name, min, max, out);

    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

static void plain(struct rope *out, double base, uint32_t dim)
{
    out->n = dim / 2;
    for (uint32_t j = 0; j < out->n; j++)
        out->freqs[j] = 1.0f / powf((float)base, (float)(2 * j) / (float)dim);
}

static int32_t linear(const struct reading *r, struct rope *out)
{
    double factor = 1.0;
    int32_t rc = needed(r, "factor", 1.0, 1e6, &factor);

    for (uint32_t j = 0; j < out->n && rc == TN_OK; j++)
        out->freqs[j] /= (float)factor;
    out->length_factor = factor;
    return rc;
}

static int32_t dynamic(const struct reading *r, int64_t max_positions, struct rope *out)
{
    int32_t rc;

    if (out->n < 2)
        return r->api->refuse(r->c, "head_dim", "dynamic rope scaling needs at least 4", r->err);
    rc = needed(r, "factor", 1.0, 1e6, &out->factor);

    out->dynamic_from = max_positions;
    out->length_factor = out->factor;
    return rc;
}

/* The context the model was trained on: a top-level key wins over the group's, as in transformers. */
static int32_t original_positions(const struct reading *r, double *out)
{
    const char *key = "original_max_position_embeddings";
    int32_t rc = r->api->get_real(r->c, key, 1, 1e9, out, r->err);

    return rc == TN_E_NOTFOUND ? optional(r, key, 1, 1e9, out) : rc;
}

static int32_t llama3(const struct reading *r, int64_t max_positions, struct rope *out)
{
    double factor = 1, low = 1, high = 4, original = (double)max_positions;
    int32_t rc;

    if ((rc = needed(r, "factor", 1.0, 1e6, &factor)) != TN_OK ||
        (rc = needed(r, "low_freq_factor", 1e-6, 1e6, &low)) != TN_OK ||
        (rc = needed(r, "high_freq_factor", 1e-6, 1e6, &high)) != TN_OK ||
        (rc = original_positions(r, &original)) != TN_OK)
        return rc;
    if (high <= low)
        return r->api->refuse(r->c, r->group, "high_freq_factor must exceed low_freq_factor",
                              r->err);
    for (uint32_t j = 0; j < out->n; j++) {
        float f = out->freqs[j];
        float wavelength = (float)(2.0 * PI) / f;
        float smooth = ((float)original / wavelength - (float)low) / (float)(high - low);
        if (wavelength > (float)(original / low))
            out->freqs[j] = f / (float)factor;
        else if (wavelength >= (float)(original / high))
            out->freqs[j] = (1.0f - smooth) * f / (float)factor + smooth * f;
    }
    return TN_OK;
}

/* Dimension whose wavelength makes `rotations` turns over the original context (yarn, eq. 17 ff.). */
static double yarn_dim(double rotations, double dim, double base, double original)
{
    return dim * log(original / (rotations * 2 * PI)) / (2 * log(base));
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

struct yarn {
    double factor, original, beta_fast, beta_slow, attention, mscale, mscale_all;
    uint32_t truncate;
};

static int32_t yarn_read(const struct reading *r, int64_t max_positions, struct yarn *y)
{
    char path[96];
    int32_t rc;

    *y = (struct yarn){1, (double)max_positions, 32, 1, 0, 0, 0, 1};
    snprintf(path, sizeof path, "%s.truncate", r->group);
    if ((rc = original_positions(r, &y->original)) != TN_OK)
        return rc;
    y->factor = (double)max_positions / y->original;
    if ((rc = optional(r, "factor", 1.0, 1e6, &y->factor)) != TN_OK ||
        (rc = optional(r, "beta_fast", 1e-6, 1e6, &y->beta_fast)) != TN_OK ||
        (rc = optional(r, "beta_slow", 1e-6, 1e6, &y->beta_slow)) != TN_OK ||
        (rc = optional(r, "attention_factor", 1e-6, 1e6, &y->attention)) != TN_OK ||
        (rc = optional(r, "mscale", 0, 1e6, &y->mscale)) != TN_OK ||
        (rc = optional(r, "mscale_all_dim", 0, 1e6, &y->mscale_all)) != TN_OK)
        return rc;
    rc = r->api->get_bool(r->c, path, &y->truncate, r->err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

static int32_t yarn(const struct reading *r, double base, int64_t max_positions, struct rope *out)
{
    double dim = 2.0 * out->n, low, high;
    struct yarn y;
    int32_t rc = yarn_read(r, max_positions, &y);

    if (rc != TN_OK)
        return rc;
    if (base <= 1.0)
        return r->api->refuse(r->c, "rope_theta", "yarn needs a base above 1", r->err);
    low = yarn_dim(y.beta_fast, dim, base, y.original);
    high = yarn_dim(y.beta_slow, dim, base, y.original);
    if (y.truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low < 0 ? 0 : low;
    high = high > dim - 1 ? dim - 1 : high;
    if (high == low)
        high += 0.001; /* a step instead of a division by zero, as in the reference code */
    for (uint32_t j = 0; j < out->n; j++) {
        double ramp = ((double)j - low) / (high - low);
        float keep = 1.0f - (float)(ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
        float inverse = powf((float)base, (float)(2 * j) / (float)dim);
        out->freqs[j] = 1.0f / ((float)y.factor * inverse) * (1.0f - keep) + 1.0f / inverse * keep;
    }
    if (y.attention > 0)
        out->mscale = y.attention;
    else if (y.mscale > 0 && y.mscale_all > 0)
        out->mscale = yarn_scale(y.factor, y.mscale) / yarn_scale(y.factor, y.mscale_all);
    else
        out->mscale = yarn_scale(y.factor, 1.0);
    out->length_factor = y.factor * y.original / (double)max_positions;
    if (out->length_factor < 1.0)
        out->length_factor = 1.0;
    return TN_OK;
}

/* The kind of scaling: "rope_type", or "type" in older files; "default" if neither is there. */
static int32_t scaling_kind(const struct reading *r, const char **kind)
{
    char path[96];
    int32_t rc;

    snprintf(path, sizeof path, "%s.rope_type", r->group);
    rc = r->api->get_str(r->c, path, kind, r->err);
    if (rc != TN_E_NOTFOUND)
        return rc;
    snprintf(path, sizeof path, "%s.type", r->group);
    rc = r->api->get_str(r->c, path, kind, r->err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

/* rope_scaling unless it is absent or empty, else rope_parameters: that is how transformers chooses. */
static int32_t find_group(struct reading *r)
{
    static const char *const groups[] = {"rope_scaling", "rope_parameters"};

    for (int i = 0; i < 2; i++) {
        char first[32];
        const char *text;
        uint64_t n = 0;
        int32_t rc = r->api->get_count(r->c, groups[i], &n, r->err);
        if (rc != TN_OK && rc != TN_E_NOTFOUND)
            return rc;
        r->group = groups[i];
        snprintf(first, sizeof first, "%s[0]", groups[i]);
        if (n > 0 && r->api->get_str(r->c, first, &text, NULL) != TN_E_NOTFOUND)
            return r->api->refuse(r->c, groups[i], "must be an object, not a list", r->err);
        if (n > 0)
            return TN_OK;
    }
    return TN_OK;
}

static int32_t read_base(const struct reading *r, double *base)
{
    int32_t rc = real(r, "rope_theta", 1.0, 1e12, base);

    if (rc == TN_E_NOTFOUND)
        rc = r->api->get_real(r->c, "rope_theta", 1.0, 1e12, base, r->err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

/* Heads rotate whole. A partial_rotary_factor means one thing to one program and nothing to the next for this type of
 * model (transformers 5 ignores it without scaling), so only 1 is taken. */
static int32_t check_whole(const struct reading *r)
{
    const char *key = "partial_rotary_factor";
    double inside = 1.0, outside = 1.0;
    char path[96];
    int32_t rc = optional(r, key, 0.0, 1.0, &inside);

    if (rc == TN_OK)
        rc = r->api->get_real(r->c, key, 0.0, 1.0, &outside, r->err);
    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        return rc;
    snprintf(path, sizeof path, "%s.%s", r->group, key);
    if (inside != 1.0 || outside != 1.0)
        return r->api->refuse(r->c, inside != 1.0 ? path : key, "llama models rotate whole heads",
                              r->err);
    return TN_OK;
}

int32_t rope_read(const tn_config_api *api, const tn_config *c, uint32_t head_dim,
                  int64_t max_positions, struct rope *out, tn_err *err)
{
    struct reading r = {api, c, NULL, err};
    const char *kind = "default";
    double base = 10000.0;
    int32_t rc;

    *out = (struct rope){.mscale = 1.0, .length_factor = 1.0};
    if ((rc = find_group(&r)) != TN_OK || (rc = read_base(&r, &base)) != TN_OK ||
        (rc = scaling_kind(&r, &kind)) != TN_OK || (rc = check_whole(&r)) != TN_OK)
        return rc;
    if (head_dim < 2 || head_dim % 2 != 0 || head_dim / 2 > ROPE_MAX_FREQS)
        return api->refuse(c, "head_dim", "must be an even number, 2 to 8192", err);
    plain(out, base, head_dim);
    out->base = base;
    if (strcmp(kind, "default") == 0)
        return TN_OK;
    if (strcmp(kind, "linear") == 0)
        return linear(&r, out);
    if (strcmp(kind, "dynamic") == 0)
        return dynamic(&r, max_positions, out);
    if (strcmp(kind, "llama3") == 0)
        return llama3(&r, max_positions, out);
    if (strcmp(kind, "yarn") == 0)
        return yarn(&r, base, max_positions, out);
    return api->refuse(
        c, r.group,
        "unknown kind of rope scaling; default, linear, dynamic, llama3 and yarn are "
        "supported",
        err);
}
