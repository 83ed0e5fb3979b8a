/* SPDX-License-Identifier: Apache-2.0 */
/* Which tensors a module has. They decide whether and how it is quantized; the configuration must agree. */
#include "formats.h"

void tensor_name(char out[MAX_NAME], const char *module, const char *suffix)
{
    snprintf(out, MAX_NAME, "%s.%s", module, suffix);
}

static bool find_tensor(const struct build *b, const char *module, const char *suffix,
                        tn_stored_tensor *out)
{
    char name[MAX_NAME];

    tensor_name(name, module, suffix);
    return b->source.tapi->find(b->source.checkpoint, name, out) == TN_OK;
}

bool has_tensor(const struct build *b, const char *module, const char *suffix)
{
    tn_stored_tensor t;

    return suffix && find_tensor(b, module, suffix, &t);
}

int32_t tensor_bad(const struct build *b, const char *module, const char *suffix, tn_err *err,
                   const char *fmt, ...)
{
    char name[MAX_NAME], text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tn_err_set(err, TN_E_FORMAT, "%s", text);
    tensor_name(name, module, suffix);
    b->source.tapi->blame(b->source.checkpoint, name, err);
    if (err && !err->remedy[0])
        snprintf(err->remedy, sizeof err->remedy,
                 "check that %s in config.json belongs to these files, and download them again",
                 b->source.path);
    return TN_E_FORMAT;
}

static uint64_t count_of(const tn_stored_tensor *t)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->dims[i]; /* their product was checked when the file was opened */
    return n;
}

/* A tensor that must be there with this dtype (0: any floating-point one) and two dimensions. */
static int32_t expect(const struct build *b, const struct module *m, const char *suffix,
                      uint32_t dtype, const uint64_t dims[2], tn_err *err)
{
    tn_stored_tensor t;

    if (!find_tensor(b, m->name, suffix, &t))
        return tensor_bad(b, m->name, suffix, err, "the checkpoint lacks this tensor of %.120s",
                          m->name);
    if (dtype && t.dtype != dtype)
        return tensor_bad(b, m->name, suffix, err, "is stored as %s, not as %s",
                          tn_dtype_name(t.dtype), tn_dtype_name(dtype));
    if (!dtype && t.dtype != TN_DT_F32 && t.dtype != TN_DT_F16 && t.dtype != TN_DT_BF16)
        return tensor_bad(b, m->name, suffix, err, "is stored as %s, not as floating-point numbers",
                          tn_dtype_name(t.dtype));
    if (t.n_dims != 2 || t.dims[0] != dims[0] || t.dims[1] != dims[1])
        return tensor_bad(b, m->name, suffix, err,
                          "has %u dimensions, the first of %llu and %llu; [%llu, %llu] are needed",
                          t.n_dims, (unsigned long long)(t.n_dims > 0 ? t.dims[0] : 0),
                          (unsigned long long)(t.n_dims > 1 ? t.dims[1] : 0),
                          (unsigned long long)dims[0], (unsigned long long)dims[1]);
    return TN_OK;
}

static int32_t check_scale_dtype(const struct build *b, const struct module *m,
                                 const tn_stored_tensor *t, tn_err *err)
{
    if (t->dtype == TN_DT_F32 || t->dtype == TN_DT_F16 || t->dtype == TN_DT_BF16)
        return TN_OK;
    return tensor_bad(b, m->name, m->scale, err, "is stored as %s, not as floating-point numbers",
                      tn_dtype_name(t->dtype));
}

/* How scales of [rows, columns] spread, from the rule, or from their shape where the rule leaves that open. */
static int32_t spread_scales(const struct build *b, struct module *m, tn_err *err)
{
    enum spread spread = m->rule->spread;
    uint64_t want[2], n;
    tn_stored_tensor t;
    int32_t rc;

    if (!find_tensor(b, m->name, m->scale, &t))
        return tensor_bad(b, m->name, m->scale, err, "the checkpoint lacks the scales of %.120s",
                          m->name);
    if ((rc = check_scale_dtype(b, m, &t, err)) != TN_OK)
        return rc;
    n = count_of(&t);
    if (spread == PER_ANY)
        spread = n == 1 ? PER_TENSOR : PER_ROW;
    m->group = spread == PER_GROUP   ? (uint64_t)m->rule->group
               : spread == PER_BLOCK ? (uint64_t)m->rule->block[1]
                                     : m->cols;
    m->block = spread == PER_BLOCK    ? (uint64_t)m->rule->block[0]
               : spread == PER_TENSOR ? m->rows
                                      : 1;
    if (spread == PER_GROUP && m->cols % m->group != 0)
        return tensor_bad(b, m->name, m->scale, err, "%llu columns are no whole groups of %llu",
                          (unsigned long long)m->cols, (unsigned long long)m->group);
    m->n_groups = (m->cols + m->group - 1) / m->group;
    want[0] = (m->rows + m->block - 1) / m->block;
    want[1] = m->n_groups;
    if (n != want[0] * want[1] || (t.n_dims > 1 && want[1] > 1 && t.dims[0] != want[0]))
        return tensor_bad(
            b, m->name, m->scale, err, "has %llu scales; a matrix [%llu, %llu] needs %llu x %llu",
            (unsigned long long)n, (unsigned long long)m->rows, (unsigned long long)m->cols,
            (unsigned long long)want[0], (unsigned long long)want[1]);
    return TN_OK;
}

/* -- Layouts ---------------------------------------------------------------------------------------------- */

static int32_t find_rows(const struct build *b, struct module *m, const tn_stored_tensor *t,
                         tn_err *err)
{
    m->layout = LAYOUT_ROWS;
    m->dtype = m->rule->bits == 4 ? (uint32_t)TN_DT_I4 : t->dtype;
    m->rows = t->n_dims > 0 ? t->dims[0] : 0;
    m->cols = t->n_dims > 1 ? t->dims[1] : 0;
    m->scale = b->method == METHOD_FP8 && !has_tensor(b, m->name, "weight_scale")
                   ? "weight_scale_inv"
                   : "weight_scale";
    m->zero = has_tensor(b, m->name, "weight_zero_point") ? "weight_zero_point" : NULL;
    if (t->n_dims != 2 || m->rows == 0 || m->cols == 0)
        return tensor_bad(b, m->name, "weight", err, "is no matrix: it has %u dimensions",
                          t->n_dims);
    if (m->rule->is_float != (t->dtype == TN_DT_F8E4M3))
        return tensor_bad(
            b, m->name, "weight", err, "is stored as %s; config.json makes it %s of %d bits",
            tn_dtype_name(t->dtype), m->rule->is_float ? "float" : "int", (int)m->rule->bits);
    return spread_scales(b, m, err);
}

/* compressed-tensors' words: [N, K/8] of 4 bits, [N, K/4] of 8. */
static int32_t find_packed(const struct build *b, struct module *m, tn_err *err)
{
    uint64_t want[2] = {0, 0};
    int64_t shape[2] = {0, 0};
    char name[MAX_NAME];
    tn_stored_tensor t;
    int32_t rc;

    m->layout = LAYOUT_PACKED;
    m->dtype = m->rule->bits == 4 ? TN_DT_I4 : TN_DT_I8;
    m->scale = "weight_scale";
    m->zero = has_tensor(b, m->name, "weight_zero_point") ? "weight_zero_point" : NULL;
    m->order = has_tensor(b, m->name, "weight_g_idx") ? "weight_g_idx" : NULL;
    if (m->rule->is_float)
        return tensor_bad(b, m->name, "weight_packed", err,
                          "holds integers; config.json makes it float of %d bits",
                          (int)m->rule->bits);
    if (m->rule->by_importance && !m->order)
        return tensor_bad(b, m->name, "weight_g_idx", err,
                          "is not there, but config.json says that columns are ordered by it");
    if (!find_tensor(b, m->name, "weight_shape", &t) || t.dtype != TN_DT_I64 || count_of(&t) != 2)
        return tensor_bad(b, m->name, "weight_shape", err, "must be two int64");
    tensor_name(name, m->name, "weight_shape");
    rc = b->source.tapi->read(b->source.checkpoint, name, 0, shape, sizeof shape, err);
    if (rc != TN_OK)
        return rc;
    if (shape[0] < 1 || shape[1] < 1 || shape[0] > INT32_MAX || shape[1] > INT32_MAX)
        return tensor_bad(b, m->name, "weight_shape", err, "says [%lld, %lld]", (long long)shape[0],
                          (long long)shape[1]);
    m->rows = (uint64_t)shape[0];
    m->cols = (uint64_t)shape[1];
    want[0] = m->rows;
    want[1] = (m->cols * (uint64_t)m->rule->bits + 31) / 32;
    rc = expect(b, m, "weight_packed", TN_DT_I32, want, err);
    return rc == TN_OK ? spread_scales(b, m, err) : rc;
}

/* [K, N/8] (awq) or [K/8, N] (gptq), scales [K/G, N], zero points [K/G, N/8]; of 8 bits 4 in place of 8. */
static int32_t find_words(const struct build *b, struct module *m, tn_err *err)
{
    uint64_t want[2], some = 32 / (uint64_t)m->rule->bits;
    tn_stored_tensor t;
    int32_t rc;

    if (!find_tensor(b, m->name, "qweight", &t) || t.dtype != TN_DT_I32 || t.n_dims != 2 ||
        t.dims[0] == 0 || t.dims[1] == 0 || t.dims[0] > INT32_MAX || t.dims[1] > INT32_MAX)
        return tensor_bad(b, m->name, "qweight", err, "must be a matrix of int32");
    m->layout = b->method == METHOD_AWQ ? LAYOUT_AWQ : LAYOUT_GPTQ;
    m->dtype = m->rule->bits == 4 ? TN_DT_I4 : TN_DT_I8;
    m->rows = m->layout == LAYOUT_AWQ ? t.dims[1] * some : t.dims[1];
    m->cols = m->layout == LAYOUT_AWQ ? t.dims[0] : t.dims[0] * some;
    m->scale = "scales";
    m->zero = "qzeros";
    m->order = has_tensor(b, m->name, "g_idx") ? "g_idx" : NULL;
    m->block = 1;
    m->group = m->rule->group < 0 ? m->cols : (uint64_t)m->rule->group;
    m->n_groups = (m->cols + m->group - 1) / m->group;
    want[0] = m->n_groups;
    want[1] = m->rows;
    if (m->layout == LAYOUT_AWQ && m->cols % m->group != 0)
        return tensor_bad(b, m->name, "qweight", err, "%llu inputs are no whole groups of %llu",
                          (unsigned long long)m->cols, (unsigned long long)m->group);
    if ((rc = expect(b, m, "scales", 0, want, err)) != TN_OK)
        return rc;
    want[1] = m->rows / some;
    return m->rows % some
               ? tensor_bad(b, m->name, "qweight", err, "%llu outputs are no multiple of %llu",
                            (unsigned long long)m->rows, (unsigned long long)some)
               : expect(b, m, "qzeros", TN_DT_I32, want, err);
}

/* A plain module has none of the tensors that quantization adds. */
static int32_t plain(const struct build *b, const char *name, const tn_stored_tensor *t,
                     tn_err *err)
{
    static const char *const extra[] = {"weight_scale",     "weight_scale_inv", "weight_packed",
                                        "qweight",          "qzeros",           "scales",
                                        "weight_zero_point"};

    if (t && (t->dtype == TN_DT_I8 || t->dtype == TN_DT_F8E4M3))
        return tensor_bad(b, name, "weight", err, "is stored as %s, which is no layout of %.60s",
                          tn_dtype_name(t->dtype), b->source.method);
    for (size_t i = 0; i < sizeof extra / sizeof *extra; i++)
        if (has_tensor(b, name, extra[i]))
            return tensor_bad(b, name, extra[i], err,
                              "stands beside a matrix that is %s: half of what belongs together",
                              t ? tn_dtype_name(t->dtype) : "absent");
    return TN_E_NOTFOUND;
}

int32_t module_find(const struct build *b, const char *name, struct module *m, tn_err *err)
{
    tn_stored_tensor t = {.dtype = 0};
    bool eight = b->method == METHOD_FP8 || b->method == METHOD_COMPRESSED;
    bool whole = find_tensor(b, name, "weight", &t), ignored = false;
    bool rows = whole && eight &&
                (t.dtype == TN_DT_F8E4M3 || (t.dtype == TN_DT_I8 && b->method != METHOD_FP8));
    bool packed = b->method == METHOD_COMPRESSED && has_tensor(b, name, "weight_packed");
    bool words = !eight && has_tensor(b, name, "qweight");
    int32_t rc;

    *m = (struct module){.name = name};
    if (!rows && !packed && !words)
        return plain(b, name, whole ? &t : NULL, err);
    if ((rc = config_ignores(b, name, &ignored, err)) != TN_OK ||
        (rc = config_rule(b, name, &m->rule, err)) != TN_OK)
        return rc;
    if (ignored || !m->rule)
        return tensor_bad(b, name,
                          words    ? "qweight"
                          : packed ? "weight_packed"
                                   : "weight",
                          err, "is quantized, but %s of config.json leaves this module as it is",
                          b->source.path);
    return rows     ? find_rows(b, m, &t, err)
           : packed ? find_packed(b, m, err)
                    : find_words(b, m, err);
}

/* -- Inputs --------------------------------------------------------------------------------------------------- */

int32_t read_scale(const struct build *b, const char *module, const char *suffix, uint64_t most,
                   float *out, tn_err *err)
{
    char name[MAX_NAME];
    float numbers[MAX_SCALES] = {0};
    tn_stored_tensor t;
    uint64_t n;
    int32_t rc;

    if (!find_tensor(b, module, suffix, &t))
        return tensor_bad(b, module, suffix, err, "the checkpoint lacks this scale of %.120s",
                          module);
    n = count_of(&t);
    if (n < 1 || n > most || n > MAX_SCALES)
        return tensor_bad(b, module, suffix, err, "has %llu numbers; %s needed",
                          (unsigned long long)n, most > 1 ? "one, or one per head, is" : "one is");
    tensor_name(name, module, suffix);
    rc = b->source.tapi->read_real(b->source.checkpoint, name, 0, numbers, n, err);
    *out = 0.0f;
    for (uint64_t i = 0; i < n && rc == TN_OK; i++) {
        if (!(numbers[i] > 0.0f && isfinite(numbers[i])))
            rc = tensor_bad(b, module, suffix, err, "is %g; a scale is finite and above 0",
                            (double)numbers[i]);
        *out = numbers[i] > *out ? numbers[i] : *out;
    }
    return rc;
}

int32_t module_act_scale(const struct build *b, const struct module *m, float *out, tn_err *err)
{
    const char *suffix =
        has_tensor(b, m->name, "activation_scale") ? "activation_scale" : "input_scale";

    return read_scale(b, m->name, suffix, 1, out, err);
}
