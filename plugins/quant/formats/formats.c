/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which op consumes a quantized matrix, and its tensors. INT8 and FP8 go to "linear.int8" and "linear.fp8", whose scales are
 * per row: a scale per tensor is repeated, so that merging matrices is exact; FP8 with a scale per block or group is
 * rounded anew with one scale per row, and the error is told. 4 bits go to "linear.int4". What no op computes is declined,
 * with the reason, and the host widens it.
 */
#include "formats.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.kinds = TN_KIND_QUANT, .name = "formats", .vendor = "tenon", .version = VERSION);

#define MAX_INT8_COLS 131072 /* what linear.int8 sums exactly */
#define MAX_INT4_GROUP 65536

/* -- Opening ---------------------------------------------------------------------------------------------- */

static const char *const methods[] = {"compressed-tensors", "fp8", "awq", "gptq", NULL};

static void close_build(void *instance, void *build)
{
    const tn_host *host = instance;

    config_release(build);
    host->free(host->ctx, build);
}

static int32_t open_build(void *instance, const tn_quant_source *source, void **build, tn_err *err)
{
    const tn_host *host = instance;
    struct build *b = host->alloc(host->ctx, sizeof *b, 16);
    uint32_t method = 0;
    int32_t rc;

    if (!b)
        return tn_err_set(err, TN_E_NOMEM, "no memory for a build");
    while (methods[method] && strcmp(methods[method], source->method) != 0)
        method++;
    b->host = host;
    b->source = *source;
    b->method = (enum method)method;
    rc = config_read(b, err);
    if (rc != TN_OK) {
        close_build(instance, b);
        return rc;
    }
    *build = b;
    return TN_OK;
}

static int32_t describe(void *build, const char *module, uint64_t dims[2], tn_err *err)
{
    struct module m;
    int32_t rc = module_find(build, module, &m, err);

    if (rc == TN_OK) {
        dims[0] = m.rows;
        dims[1] = m.cols;
    }
    return rc;
}

/* -- Whose a tensor is --------------------------------------------------------------------------------------- */

/* AutoGPTQ stores a bias of zeros for every matrix, even where the model has none. */
static bool is_zero_bias(const struct build *b, const char *tensor, const char *module)
{
    float part[1024] = {0};
    tn_stored_tensor t;
    bool zero = b->method == METHOD_GPTQ && has_tensor(b, module, "qweight") &&
                b->source.tapi->find(b->source.checkpoint, tensor, &t) == TN_OK && t.n_dims == 1;

    for (uint64_t at = 0; zero && at < t.dims[0]; at += 1024) {
        uint64_t n = t.dims[0] - at < 1024 ? t.dims[0] - at : 1024;
        zero = b->source.tapi->read_real(b->source.checkpoint, tensor, at, part, n, NULL) == TN_OK;
        for (uint64_t i = 0; i < n; i++)
            zero = zero && part[i] == 0.0f;
    }
    return zero;
}

static uint32_t owns(void *build, const char *tensor)
{
    static const char *const parts[] = {"weight_scale",
                                        "weight_scale_inv",
                                        "weight_zero_point",
                                        "weight_packed",
                                        "weight_shape",
                                        "weight_g_idx",
                                        "input_scale",
                                        "input_zero_point",
                                        "activation_scale",
                                        "output_scale",
                                        "output_zero_point",
                                        "qweight",
                                        "qzeros",
                                        "scales",
                                        "g_idx"};
    static const char *const extras[] = {"k_scale",    "v_scale",      "q_scale",     "kv_scale",
                                         "prob_scale", "k_zero_point", "v_zero_point"};
    const char *dot = strrchr(tensor, '.');
    char module[MAX_NAME];

    if (!dot)
        return TN_QUANT_OWNS_NOT;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(dot + 1, parts[i]) == 0)
            return TN_QUANT_OWNS_PART;
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++)
        if (strcmp(dot + 1, extras[i]) == 0)
            return TN_QUANT_OWNS_EXTRA;
    snprintf(module, sizeof module, "%.*s", (int)(dot - tensor), tensor);
    return strcmp(dot + 1, "bias") == 0 && is_zero_bias(build, tensor, module) ? TN_QUANT_OWNS_PART
                                                                               : TN_QUANT_OWNS_NOT;
}

/* -- Plans ----------------------------------------------------------------------------------------------------- */

/* What the parts of one linear have in common. */
struct whole {
    uint32_t dtype;
    uint64_t rows, cols, group; /* group: columns per scale of the tensors that are made */
    bool zeros, rounded;        /* with zero points; with scales that are no scales of rows */
    enum act act;
    float act_scale;
    uint32_t *columns; /* [cols]: which of the files' each of the tensors' is; NULL: the same */
};

static int32_t decline(tn_err *err, const char *why)
{
    return tn_err_set(err, TN_E_UNSUPPORTED, "%s", why);
}

/* Columns per scale in an op whose groups are all of one length: if the last group of the file is shorter, the
 * largest length that fits them all, with scales repeated. */
static uint64_t even_group(const struct module *m)
{
    uint64_t a = m->group, b = m->cols;

    while (b) {
        uint64_t t = a % b;
        a = b;
        b = t;
    }
    return m->cols % m->group ? a : m->group;
}

/* NULL, or why no op takes the part. */
static const char *misfit(const struct module *m, const struct loaded *l)
{
    bool one_scale = m->n_groups == 1;

    if (m->dtype == TN_DT_I4)
        return l->uneven ? "its groups have unequal numbers of columns (desc_act, g_idx), which no "
                           "op has: the matrix is widened"
               : m->group > MAX_INT4_GROUP || even_group(m) < 2 ? "no op has groups of that size"
               : m->cols % 2 ? "an odd number of columns has no int4"
                             : NULL;
    if (m->rule->act == ACT_NONE)
        return "only its weights are quantized: no op multiplies them by 16-bit activations";
    if (l->zeros)
        return "its 8-bit weights have zero points";
    if (m->dtype == TN_DT_I8 && !one_scale)
        return "its int8 weights have a scale per group of columns";
    if (m->dtype == TN_DT_I8 && m->cols > MAX_INT8_COLS)
        return "it has more columns than int32 can sum";
    return NULL;
}

/* Whether zero points of activations are anything but 0: no op has them. */
static int32_t check_symmetric_input(const struct build *b, const struct module *m, tn_err *err)
{
    char name[MAX_NAME];
    tn_stored_tensor t;
    uint8_t zero[8] = {0};
    uint32_t bytes;

    tensor_name(name, m->name, "input_zero_point");
    if (b->source.tapi->find(b->source.checkpoint, name, &t) != TN_OK)
        return TN_OK;
    bytes = tn_dtype_bits(t.dtype) / 8;
    if (bytes < 1 || bytes > sizeof zero || t.n_dims > 1 || (t.n_dims == 1 && t.dims[0] != 1))
        return tensor_bad(b, m->name, "input_zero_point", err, "must be one number");
    if (b->source.tapi->read(b->source.checkpoint, name, 0, zero, bytes, err) != TN_OK)
        return TN_E_IO;
    for (uint32_t i = 0; i < bytes; i++)
        if (zero[i])
            return decline(err, "its activations have a zero point");
    return TN_OK;
}

/* Adds what the part says of activations: static scales are made one, the largest; one dynamic part makes all so. */
static int32_t join_act(const struct build *b, const struct module *m, bool first, struct whole *w,
                        tn_err *err)
{
    float scale = 0.0f;
    int32_t rc = TN_OK;

    if (m->dtype == TN_DT_I4)
        return TN_OK;
    if (m->rule->act == ACT_STATIC) {
        rc = check_symmetric_input(b, m, err);
        if (rc == TN_OK)
            rc = module_act_scale(b, m, &scale, err);
    }
    w->act = first || m->rule->act == ACT_DYNAMIC ? m->rule->act : w->act;
    w->act_scale = scale > w->act_scale ? scale : w->act_scale;
    return rc;
}

static bool same_columns(const uint32_t *a, const uint32_t *b, uint64_t n)
{
    return a && b ? memcmp(a, b, n * sizeof *a) == 0 : a == b;
}

static int32_t join(const struct build *b, const tn_quant_part *part, bool first, struct whole *w,
                    tn_err *err)
{
    struct loaded l = {0};
    struct module m;
    const char *why;
    uint64_t group;
    int32_t rc = module_find(b, part->module, &m, err);

    if (rc == TN_OK)
        rc = module_load(b, &m, part->row_begin, part->row_end, false, &l, err);
    if (rc != TN_OK)
        return rc;
    group = even_group(&m);
    why = misfit(&m, &l);
    if (!why && !first && (m.dtype != w->dtype || m.cols != w->cols))
        why = "its parts are quantized in different ways";
    else if (!why && !first && !same_columns(l.columns, w->columns, w->cols))
        why = "its parts have their columns in groups that differ (desc_act, g_idx)";
    if (first) {
        w->dtype = m.dtype;
        w->cols = m.cols;
        w->group = group;
        w->columns = l.columns;
        l.columns = NULL;
    } else if (w->group % group == 0) {
        w->group = group;
    } else if (group % w->group != 0) {
        why = "its parts have groups that do not divide each other";
    }
    w->rows += l.rows;
    w->zeros = w->zeros || l.zeros;
    w->rounded = w->rounded || (m.dtype == TN_DT_F8E4M3 && m.n_groups > 1);
    loaded_release(b, &l);
    return why ? decline(err, why) : join_act(b, &m, first, w, err);
}

static void whole_release(const struct build *b, struct whole *w)
{
    b->host->free(b->host->ctx, w->columns);
    w->columns = NULL;
}

/* Released if it fails. */
static int32_t join_all(const struct build *b, const tn_quant_part *parts, uint32_t n,
                        struct whole *w, tn_err *err)
{
    int32_t rc = TN_OK;

    *w = (struct whole){0};
    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        rc = join(b, &parts[i], i == 0, w, err);
    if (rc != TN_OK)
        whole_release(b, w);
    return rc;
}

static tn_quant_tensor tensor(const struct whole *w, const char *suffix, uint32_t dtype,
                              uint64_t group)
{
    return (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                             .suffix = suffix,
                             .dtype = dtype,
                             .n_dims = 2,
                             .dims = {w->rows, group ? w->cols / group : w->cols},
                             .rows = 1,
                             .group = group};
}

static int32_t plan(void *build, const tn_quant_part *parts, uint32_t n_parts, tn_quant_plan *out,
                    tn_err *err)
{
    struct whole w;
    int32_t rc = join_all(build, parts, n_parts, &w, err);

    if (rc != TN_OK)
        return rc;
    whole_release(build, &w);
    out->n_tensors = 2;
    out->tensors[0] = tensor(&w, ".qweight", w.dtype, 0);
    if (w.dtype == TN_DT_I4) {
        out->op = TN_OP_LINEAR_INT4;
        out->tensors[1] = tensor(&w, ".scale", TN_DT_F32, w.group);
        if (w.zeros)
            out->tensors[out->n_tensors++] = tensor(&w, ".zero", TN_DT_I8, w.group);
        out->attrs[out->n_attrs++] = (tn_attr)TN_ATTR_INT("group", (int64_t)w.group);
        out->attrs[out->n_attrs++] = (tn_attr)TN_ATTR_INT("zero", (int64_t)w.zeros);
        return TN_OK;
    }
    out->op = w.dtype == TN_DT_I8 ? TN_OP_LINEAR_INT8 : TN_OP_LINEAR_FP8;
    out->tensors[1] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                        .suffix = ".scale",
                                        .dtype = TN_DT_F32,
                                        .n_dims = 1,
                                        .dims = {w.rows},
                                        .rows = 1};
    if (w.act == ACT_STATIC)
        out->attrs[out->n_attrs++] = (tn_attr)TN_ATTR_REAL("act_scale", (double)w.act_scale);
    if (w.rounded)
        out->note = "scales per block became scales per row: its FP8 numbers are rounded anew";
    return TN_OK;
}

static int32_t order(void *build, const tn_quant_part *parts, uint32_t n_parts, uint32_t *out,
                     tn_err *err)
{
    struct whole w;
    int32_t rc = join_all(build, parts, n_parts, &w, err);

    if (rc != TN_OK)
        return rc;
    if (w.columns)
        memcpy(out, w.columns, w.cols * sizeof *out);
    else
        rc = TN_E_NOTFOUND;
    whole_release(build, &w);
    return rc;
}

/* -- Filling --------------------------------------------------------------------------------------------------- */

static float value(const struct module *m, const struct loaded *l, uint64_t r, uint64_t k)
{
    uint64_t g = r * l->n_groups + l->order[k];
    uint8_t code = l->codes[r * l->cols + k];

    return m->dtype == TN_DT_F8E4M3
               ? l->scale[g] * tn_f8e4m3_to_f32(code)
               : l->scale[g] * (float)((int8_t)code - (l->zero ? l->zero[g] : 0));
}

/* Where the rows of a part go. */
struct target {
    const struct whole *w;
    uint8_t *codes;
    float *scale;
    int8_t *zero;
    uint64_t row;
    double error, sum; /* squares of what was lost, and of all */
};

static void put_int4(const struct loaded *l, uint64_t group, struct target *t)
{
    uint64_t n_groups = t->w->cols / t->w->group;

    for (uint64_t r = 0; r < l->rows; r++)
        for (uint64_t k = 0; k < l->cols; k++) {
            uint64_t at = (t->row + r) * l->cols + k, from = l->columns ? l->columns[k] : k;
            t->codes[at / 2] |= (uint8_t)((l->codes[r * l->cols + from] & 15) << (at % 2 * 4));
        }
    for (uint64_t r = 0; r < l->rows; r++)
        for (uint64_t g = 0; g < n_groups; g++) {
            uint64_t from = r * l->n_groups + g * t->w->group / group;
            t->scale[(t->row + r) * n_groups + g] = l->scale[from];
            if (t->zero && l->zero)
                t->zero[(t->row + r) * n_groups + g] = l->zero[from];
        }
}

/* Codes and the scale of their row, as they are. */
static void put_rows(const struct loaded *l, struct target *t)
{
    memcpy(t->codes + t->row * l->cols, l->codes, l->rows * l->cols);
    memcpy(t->scale + t->row, l->scale, l->rows * sizeof *l->scale);
}

/* What becomes of each of the 256 codes of a group, and what that loses. */
struct recode {
    uint8_t code[256];
    double lost[256], sum[256]; /* squares */
};

static void make_recode(float from, float to, struct recode *out)
{
    for (uint32_t c = 0; c < 256; c++) {
        float v = from * tn_f8e4m3_to_f32((uint8_t)c);
        double d;
        out->code[c] = tn_f32_to_f8e4m3(v / to);
        d = (double)v - (double)(to * tn_f8e4m3_to_f32(out->code[c]));
        out->lost[c] = d * d;
        out->sum[c] = (double)v * (double)v;
    }
}

/* FP8 with several scales per row: rounded anew with the largest of them, whose group stays exact. Rows of a block share their
 * scales, and so what becomes of codes. */
static int32_t put_rounded(const struct build *b, const struct loaded *l, struct target *t,
                           tn_err *err)
{
    struct recode *groups = take(b, l->n_groups, sizeof *groups, err);

    if (!groups)
        return TN_E_NOMEM;
    for (uint64_t r = 0; r < l->rows; r++) {
        const float *scale = l->scale + r * l->n_groups;
        float most = scale[0];
        for (uint64_t g = 1; g < l->n_groups; g++)
            most = fmaxf(most, scale[g]);
        if (r == 0 || memcmp(scale, scale - l->n_groups, l->n_groups * sizeof *scale) != 0)
            for (uint64_t g = 0; g < l->n_groups; g++)
                make_recode(scale[g], most, &groups[g]);
        t->scale[t->row + r] = most;
        for (uint64_t k = 0; k < l->cols; k++) {
            const struct recode *by = &groups[l->order[k]];
            uint8_t code = l->codes[r * l->cols + k];
            t->codes[(t->row + r) * l->cols + k] = by->code[code];
            t->error += by->lost[code];
            t->sum += by->sum[code];
        }
    }
    b->host->free(b->host->ctx, groups);
    return TN_OK;
}

static int32_t fill(void *build, const tn_quant_part *parts, uint32_t n_parts, void *const *out,
                    double *error, tn_err *err)
{
    const struct build *b = build;
    struct whole w;
    struct target t = {.w = &w, .codes = out[0], .scale = out[1]};
    int32_t rc = join_all(b, parts, n_parts, &w, err);

    if (rc == TN_OK && w.zeros)
        t.zero = out[2];
    for (uint32_t i = 0; i < n_parts && rc == TN_OK; i++) {
        struct loaded l = {0};
        struct module m;
        rc = module_find(b, parts[i].module, &m, err);
        if (rc == TN_OK)
            rc = module_load(b, &m, parts[i].row_begin, parts[i].row_end, true, &l, err);
        if (rc != TN_OK)
            break;
        if (w.dtype == TN_DT_I4)
            put_int4(&l, m.group, &t);
        else if (w.dtype == TN_DT_F8E4M3 && m.n_groups > 1)
            rc = put_rounded(b, &l, &t, err);
        else
            put_rows(&l, &t);
        t.row += l.rows;
        loaded_release(b, &l);
    }
    if (rc == TN_OK)
        *error = t.sum > 0.0 ? sqrt(t.error / t.sum) : 0.0;
    whole_release(b, &w);
    return rc;
}

static int32_t widen(void *build, const tn_quant_part *part, float *out, tn_err *err)
{
    const struct build *b = build;
    struct loaded l = {0};
    struct module m;
    int32_t rc = module_find(b, part->module, &m, err);

    if (rc == TN_OK)
        rc = module_load(b, &m, part->row_begin, part->row_end, true, &l, err);
    if (rc != TN_OK)
        return rc;
    for (uint64_t r = 0; r < l.rows; r++)
        for (uint64_t k = 0; k < l.cols; k++)
            out[r * l.cols + k] = value(&m, &l, r, k);
    loaded_release(b, &l);
    return TN_OK;
}

/* -- The cache ------------------------------------------------------------------------------------------------- */

/* vLLM's names, and what compressed-tensors wrote until 2024: the scale of what the projection puts out. Of scales per head
 * the largest is taken, whose range holds all of them. */
static int32_t cache(void *build, const char *attention, uint32_t *dtype, float scale[2],
                     tn_err *err)
{
    static const char *const names[2][4] = {
        {"k_scale", "kv_scale", "k_proj.k_scale", "k_proj.output_scale"},
        {"v_scale", "kv_scale", "v_proj.v_scale", "v_proj.output_scale"}};
    const struct build *b = build;
    int32_t rc = TN_E_NOTFOUND;

    if (b->cache_dtype == 0)
        return TN_E_NOTFOUND;
    for (uint32_t i = 0; i < 4 && rc == TN_E_NOTFOUND; i++) {
        if (!has_tensor(b, attention, names[0][i]))
            continue;
        rc = read_scale(b, attention, names[0][i], MAX_SCALES, &scale[0], err);
        if (rc == TN_OK)
            rc = read_scale(b, attention, names[1][i], MAX_SCALES, &scale[1], err);
    }
    if (rc == TN_OK)
        *dtype = b->cache_dtype;
    return rc;
}

/* -- The plugin ------------------------------------------------------------------------------------------------ */

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    if (n_config > 0)
        return tn_err_set(err, TN_E_CONFIG, "%s: there is no such setting", config[0].key);
    *instance = (void *)(uintptr_t)host; /* const: it is only called through */
    return TN_OK;
}

static void fini(void *instance)
{
    (void)instance;
}

static const tn_quant_format format = {
    .h = TN_HDR(tn_quant_format),
    .name = "formats",
    .summary = "checkpoints quantized by compressed-tensors, as FP8, by AWQ and by GPTQ",
    .fallback = "weights stay as they are stored, activations of FP8 linears are not quantized, "
                "arithmetic is in 16 or 32 bits",
    .methods = methods,
    .open = open_build,
    .close = close_build,
    .describe = describe,
    .owns = owns,
    .plan = plan,
    .fill = fill,
    .widen = widen,
    .cache = cache,
    .order = order};

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_FORMAT, &format}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "formats",
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
