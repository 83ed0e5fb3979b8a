/* SPDX-License-Identifier: Apache-2.0 */
/* Names of matrices become names of modules, and what a plugin says is checked as far as the host relies on it. */
#include "build/stored.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "build/config.h"
#include "build/convert.h"
#include "build/emit.h"

#define WEIGHT ".weight"

/* A pattern that names modules needs a few dozen steps; each step of a hopeless one costs about a nanosecond. */
#define MATCH_STEPS 1000000
#define PATTERN_BYTES 4096

struct tn_checkpoint {
    const struct checkpoint *c;
};

struct stored {
    const tn_quant_format *format;
    const char *plugin;
    void *instance, *build;
    bool opened;
    struct tn_config config;
    struct tn_checkpoint checkpoint;
    tn_quant_source source;
};

/* -- tn_checkpoint_api ----------------------------------------------------------------------------------- */

static int32_t api_find(const tn_checkpoint *c, const char *tensor, tn_stored_tensor *out)
{
    const struct st_tensor *t = checkpoint_find(c->c, tensor);

    if (!t)
        return TN_E_NOTFOUND;
    *out =
        (tn_stored_tensor){.h = TN_HDR(tn_stored_tensor), .dtype = t->dtype, .n_dims = t->n_dims};
    memcpy(out->dims, t->dims, sizeof out->dims);
    return TN_OK;
}

static int32_t api_read(const tn_checkpoint *c, const char *tensor, uint64_t offset, void *out,
                        uint64_t n, tn_err *err)
{
    return checkpoint_read(c->c, tensor, offset, out, (size_t)n, err);
}

static int32_t api_blame(const tn_checkpoint *c, const char *tensor, tn_err *err)
{
    err_file(err, checkpoint_file_of(c->c, tensor));
    err_field(err, tensor);
    return err ? err->code : TN_E_FORMAT;
}

static int32_t api_read_real(const tn_checkpoint *c, const char *tensor, uint64_t first, float *out,
                             uint64_t n, tn_err *err)
{
    const struct st_tensor *t = checkpoint_find(c->c, tensor);
    size_t size = t ? tn_dtype_bits(t->dtype) / 8 : 0;
    uint8_t *raw;
    int32_t rc;

    if (!t || !convert_known(t->dtype, TN_DT_F32)) {
        tn_err_set(err, TN_E_UNSUPPORTED, "is stored as %s, where floating-point numbers belong",
                   t ? tn_dtype_name(t->dtype) : "nothing");
        return api_blame(c, tensor, err);
    }
    raw = mem_array((size_t)n, size);
    if (!raw)
        return err_nomem(err, "reading a tensor");
    rc = checkpoint_read(c->c, tensor, first * size, raw, (size_t)n * size, err);
    if (rc == TN_OK)
        convert_elements(raw, t->dtype, out, TN_DT_F32, (size_t)n);
    mem_free(raw);
    return rc;
}

static int32_t run_pattern(const pcre2_code *code, const char *text, uint32_t *out)
{
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    pcre2_match_data *found = pcre2_match_data_create(1, NULL);
    int n = PCRE2_ERROR_NOMEMORY;

    if (limits && found) {
        pcre2_set_match_limit(limits, MATCH_STEPS);
        pcre2_set_heap_limit(limits, 1024); /* KiB */
        n = pcre2_match(code, (PCRE2_SPTR)text, strlen(text), 0, 0, found, limits);
    }
    pcre2_match_data_free(found);
    pcre2_match_context_free(limits);
    *out = n >= 0;
    return n >= 0 || n == PCRE2_ERROR_NOMATCH ? TN_OK : TN_E_LIMIT;
}

static int32_t api_matches(const tn_checkpoint *c, const char *pattern, const char *text,
                           uint32_t *out, tn_err *err)
{
    pcre2_compile_context *limits = pcre2_compile_context_create(NULL);
    pcre2_code *code = NULL;
    PCRE2_SIZE at = 0;
    int number = 0;
    int32_t rc;

    (void)c;
    if (limits) {
        pcre2_set_max_pattern_length(limits, PATTERN_BYTES);
        pcre2_set_parens_nest_limit(limits, 64);
        code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                             PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &number, &at, limits);
    }
    pcre2_compile_context_free(limits);
    if (!code)
        return tn_err_set(err, TN_E_FORMAT, "\"%.80s\" is no regular expression (at character %zu)",
                          pattern, (size_t)at);
    rc = run_pattern(code, text, out);
    pcre2_code_free(code);
    return rc == TN_OK ? rc
                       : tn_err_set(err, rc, "\"%.80s\" takes too much work to match", pattern);
}

static const tn_checkpoint_api checkpoint_api = {.h = TN_HDR(tn_checkpoint_api),
                                                 .find = api_find,
                                                 .read = api_read,
                                                 .read_real = api_read_real,
                                                 .blame = api_blame,
                                                 .matches = api_matches};

/* -- Opening --------------------------------------------------------------------------------------------- */

/* Where config.json describes quantization; the second name is what compressed-tensors wrote until 2024. */
static const char *config_name(const json_t *config)
{
    static const char *const names[] = {"quantization_config", "compression_config"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_at(config, names[i]))
            return names[i];
    return NULL;
}

static int32_t find_format(struct stored *s, const struct registry_view *plugins, tn_err *err)
{
    char path[64];
    int32_t rc;

    snprintf(path, sizeof path, "%s.quant_method", s->source.path);
    rc = json_get_str(s->config.root, s->config.path, path, &s->source.method, err);
    if (rc == TN_E_NOTFOUND)
        rc = json_missing(s->config.path, path, err);
    if (rc != TN_OK)
        return rc;
    rc = registry_format(plugins, s->source.method, &s->format, &s->instance, err);
    if (rc != TN_OK) {
        err_file(err, s->config.path);
        err_field(err, path);
        return rc;
    }
    s->plugin = registry_plugin_of(plugins, s->format);
    return TN_OK;
}

int32_t stored_open(const struct registry_view *plugins, const json_t *config,
                    const char *config_path, const struct checkpoint *c, struct stored **out,
                    tn_err *err)
{
    const char *path = config_name(config);
    struct stored *s;
    int32_t rc;

    if (!path)
        return TN_OK;
    s = mem_zalloc(sizeof *s);
    if (!s)
        return err_nomem(err, "a quantized checkpoint");
    s->config = (struct tn_config){config, config_path};
    s->checkpoint.c = c;
    s->source = (tn_quant_source){.h = TN_HDR(tn_quant_source),
                                  .capi = &build_config_api,
                                  .config = &s->config,
                                  .path = path,
                                  .tapi = &checkpoint_api,
                                  .checkpoint = &s->checkpoint};
    rc = find_format(s, plugins, err);
    if (rc == TN_OK) {
        rc = s->format->open(s->instance, &s->source, &s->build, err);
        s->opened = rc == TN_OK;
        if (rc != TN_OK && err) {
            err_plugin(err, s->plugin);
            if (!err->file[0])
                err_file(err, config_path);
        }
    }
    if (rc != TN_OK) {
        stored_close(s);
        return rc;
    }
    *out = s;
    return TN_OK;
}

void stored_close(struct stored *s)
{
    if (!s)
        return;
    if (s->opened)
        s->format->close(s->instance, s->build);
    mem_free(s);
}

const tn_quant_format *stored_format(const struct stored *s)
{
    return s->format;
}

const char *stored_method(const struct stored *s)
{
    return s->source.method;
}

const char *stored_plugin(const struct stored *s)
{
    return s->plugin;
}

/* -- Asking ---------------------------------------------------------------------------------------------- */

/* "X" of "X.weight"; false for other names. */
static bool module_of(const char *tensor, char *out, size_t size)
{
    size_t n = strlen(tensor), tail = strlen(WEIGHT);

    if (n <= tail || n - tail >= size || strcmp(tensor + n - tail, WEIGHT) != 0)
        return false;
    memcpy(out, tensor, n - tail);
    out[n - tail] = '\0';
    return true;
}

static int32_t blame_plugin(const struct stored *s, int32_t rc, tn_err *err)
{
    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        err_plugin(err, s->plugin);
    return rc;
}

int32_t stored_describe(const struct stored *s, const char *tensor, uint64_t dims[2], tn_err *err)
{
    char module[LIMIT_TENSOR_NAME + 1];

    if (!module_of(tensor, module, sizeof module))
        return TN_E_NOTFOUND;
    return blame_plugin(s, s->format->describe(s->build, module, dims, err), err);
}

uint32_t stored_owner(const struct stored *s, const char *tensor, char *weight, size_t size)
{
    const char *dot = strrchr(tensor, '.');
    uint32_t owns = s->format->owns(s->build, tensor);

    if (owns == TN_QUANT_OWNS_PART && dot)
        snprintf(weight, size, "%.*s%s", (int)(dot - tensor), tensor, WEIGHT);
    return owns == TN_QUANT_OWNS_PART && !dot ? TN_QUANT_OWNS_NOT : owns;
}

/* The sources as parts; free with mem_free. Names stand behind the array, in the same block. */
static int32_t make_parts(const struct weight_source *sources, uint32_t n, tn_quant_part **out,
                          tn_err *err)
{
    size_t room = LIMIT_TENSOR_NAME + 1;
    tn_quant_part *parts = mem_array(n, sizeof *parts + room);
    char *names = (char *)(parts + n);

    if (!parts)
        return err_nomem(err, "a quantized matrix");
    for (uint32_t i = 0; i < n; i++) {
        char *name = names + i * room;
        if (!module_of(sources[i].tensor, name, room)) {
            mem_free(parts);
            return tn_err_set(err, TN_E_INTERNAL, "%s is no quantized matrix", sources[i].tensor);
        }
        uint64_t unit = sources[i].unit ? sources[i].unit : 1;
        parts[i] = (tn_quant_part){TN_HDR(tn_quant_part), name, sources[i].row_begin * unit,
                                   sources[i].row_end * unit};
    }
    *out = parts;
    return TN_OK;
}

int32_t stored_plan(const struct stored *s, const struct weight_source *sources, uint32_t n,
                    tn_quant_plan *out, tn_err *err)
{
    tn_quant_part *parts = NULL;
    int32_t rc = make_parts(sources, n, &parts, err);

    if (rc == TN_OK)
        rc = blame_plugin(s, s->format->plan(s->build, parts, n, out, err), err);
    mem_free(parts);
    return rc;
}

int32_t stored_fill(const struct stored *s, const struct weight_source *sources, uint32_t n,
                    void *const *out, double *error, tn_err *err)
{
    tn_quant_part *parts = NULL;
    int32_t rc = make_parts(sources, n, &parts, err);

    *error = 0.0;
    if (rc == TN_OK)
        rc = blame_plugin(s, s->format->fill(s->build, parts, n, out, error, err), err);
    mem_free(parts);
    return rc;
}

static int32_t check_order(const uint32_t *order, uint64_t n, tn_err *err)
{
    bool *seen = mem_zarray((size_t)n, sizeof *seen);
    int32_t rc = seen ? TN_OK : err_nomem(err, "an order of columns");

    for (uint64_t k = 0; k < n && rc == TN_OK; k++) {
        if (order[k] >= n || seen[order[k]])
            rc = tn_err_set(err, TN_E_FORMAT, "the order of its columns is none: column %llu is %u",
                            (unsigned long long)k, order[k]);
        else
            seen[order[k]] = true;
    }
    mem_free(seen);
    return rc;
}

int32_t stored_order(const struct stored *s, const struct weight_source *sources, uint32_t n,
                     uint32_t *order, uint64_t n_columns, tn_err *err)
{
    tn_quant_part *parts = NULL;
    int32_t rc;

    if (!TN_HAS(tn_quant_format, s->format, order) || !s->format->order)
        return TN_E_NOTFOUND;
    rc = make_parts(sources, n, &parts, err);
    if (rc == TN_OK)
        rc = s->format->order(s->build, parts, n, order, err);
    if (rc == TN_OK)
        rc = check_order(order, n_columns, err);
    mem_free(parts);
    return blame_plugin(s, rc, err);
}

int32_t stored_widen(const struct stored *s, const struct weight_source *source, float *w,
                     tn_err *err)
{
    tn_quant_part *part = NULL;
    int32_t rc = make_parts(source, 1, &part, err);

    if (rc == TN_OK)
        rc = blame_plugin(s, s->format->widen(s->build, part, w, err), err);
    mem_free(part);
    return rc;
}

int32_t stored_cache(const struct stored *s, const char *tensor, uint32_t *dtype, float scale[2],
                     tn_err *err)
{
    char module[LIMIT_TENSOR_NAME + 1], *dot;

    if (!TN_HAS(tn_quant_format, s->format, cache) || !s->format->cache ||
        !module_of(tensor, module, sizeof module) || !(dot = strrchr(module, '.')))
        return TN_E_NOTFOUND;
    *dot = '\0';
    return blame_plugin(s, s->format->cache(s->build, module, dtype, scale, err), err);
}
