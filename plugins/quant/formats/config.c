/* SPDX-License-Identifier: Apache-2.0 */
/* What the quantization_config claims. Every field that says how numbers are to be read is checked; what only describes how
 * they were found is not looked at. */
#include <stdlib.h>
#include <strings.h>

#include "formats.h"

#define MAX_PATH 512
#define MAX_KEY 128

/* -- Fields ------------------------------------------------------------------------------------------------- */

/* Names that come from outside are at most MAX_KEY long, so that no path is cut. */
static void field_path(char out[MAX_PATH], const char *object, const char *name)
{
    if (snprintf(out, MAX_PATH, "%s.%s", object, name) >= MAX_PATH)
        out[0] = '\0';
}

static int32_t refuse(const struct build *b, const char *object, const char *name, const char *why,
                      tn_err *err)
{
    char path[MAX_PATH];

    field_path(path, object, name);
    return b->source.capi->refuse(b->source.config, path, why, err);
}

/* Each leaves `out` as it is if the field is absent. */
static int32_t get_int(const struct build *b, const char *object, const char *name, int64_t min,
                       int64_t max, int64_t *out, tn_err *err)
{
    char path[MAX_PATH];
    int32_t rc;

    field_path(path, object, name);
    rc = b->source.capi->get_int(b->source.config, path, min, max, out, err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

static int32_t get_flag(const struct build *b, const char *object, const char *name, bool *out,
                        tn_err *err)
{
    char path[MAX_PATH];
    uint32_t v = *out;
    int32_t rc;

    field_path(path, object, name);
    rc = b->source.capi->get_bool(b->source.config, path, &v, err);
    *out = v != 0;
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

static int32_t get_text(const struct build *b, const char *object, const char *name,
                        const char **out, tn_err *err)
{
    char path[MAX_PATH];
    int32_t rc;

    field_path(path, object, name);
    rc = b->source.capi->get_str(b->source.config, path, out, err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

/* Entries of a list or object; 0 if it is absent. */
static int32_t get_count(const struct build *b, const char *object, const char *name, uint64_t *out,
                         tn_err *err)
{
    char path[MAX_PATH];
    int32_t rc;

    *out = 0;
    field_path(path, object, name);
    rc = b->source.capi->get_count(b->source.config, path, out, err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

static bool is_pattern(const char *name)
{
    return strncmp(name, "re:", 3) == 0;
}

static int32_t get_names(const struct build *b, const char *object, const char *name, uint64_t most,
                         struct names *out, tn_err *err)
{
    char path[MAX_PATH];
    uint64_t n = 0, patterns = 0;
    int32_t rc = get_count(b, object, name, &n, err);

    if (rc != TN_OK || n == 0)
        return rc;
    if (n > most)
        return refuse(b, object, name, "has too many entries", err);
    b->host->free(b->host->ctx, (void *)out->items);
    out->n = 0;
    out->items = take(b, n, sizeof *out->items, err);
    for (uint64_t i = 0; i < n && out->items && rc == TN_OK; i++) {
        snprintf(path, sizeof path, "%s.%s[%llu]", object, name, (unsigned long long)i);
        rc = b->source.capi->get_str(b->source.config, path, &out->items[i], err);
        if (rc == TN_E_NOTFOUND)
            rc = b->source.capi->refuse(b->source.config, path, "a name is needed", err);
        if (rc == TN_OK && is_pattern(out->items[i]) && ++patterns > MAX_PATTERNS)
            rc = refuse(b, object, name, "has more than 256 regular expressions", err);
        out->n += rc == TN_OK;
    }
    return out->items ? rc : (int32_t)TN_E_NOMEM;
}

/* -- compressed-tensors ----------------------------------------------------------------------------------------- */

static int32_t check_format(const struct build *b, const char *object, tn_err *err)
{
    static const char *const known[] = {"float-quantized", "int-quantized",   "naive-quantized",
                                        "pack-quantized",  "mixed-precision", "dense"};
    const char *format = NULL;
    int32_t rc = get_text(b, object, "format", &format, err);

    if (rc != TN_OK || !format)
        return rc;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], format) == 0)
            return TN_OK;
    return refuse(b, object, "format",
                  "float-quantized, int-quantized, naive-quantized, pack-quantized, "
                  "mixed-precision and dense are read",
                  err);
}

static int32_t read_block(const struct build *b, const char *object, const char *name,
                          struct rule *r, tn_err *err)
{
    char field[64];
    uint64_t n = 0;
    int32_t rc = get_count(b, object, name, &n, err);

    if (rc != TN_OK)
        return rc;
    if (n != 2)
        return refuse(b, object, name, "two sizes are needed", err);
    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++) {
        r->block[i] = 0;
        snprintf(field, sizeof field, "%s[%u]", name, i);
        rc = get_int(b, object, field, 1, 1 << 20, &r->block[i], err);
        if (rc == TN_OK && r->block[i] == 0)
            rc = refuse(b, object, field, "a size is needed", err);
    }
    r->spread = PER_BLOCK;
    return rc;
}

static int32_t read_spread(const struct build *b, const char *object, struct rule *r, tn_err *err)
{
    const char *text = NULL;
    int32_t rc = get_int(b, object, "group_size", -1, 1 << 20, &r->group, err);

    if (rc == TN_OK)
        rc = get_text(b, object, "strategy", &text, err);
    if (rc != TN_OK)
        return rc;
    if (!text)
        text = r->group == 0 ? "tensor" : r->group > 0 ? "group" : "channel";
    if (strcmp(text, "tensor") == 0)
        r->spread = PER_TENSOR;
    else if (strcmp(text, "channel") == 0)
        r->spread = PER_ROW;
    else if (strcmp(text, "group") == 0)
        r->spread = PER_GROUP;
    else if (strcmp(text, "block") == 0)
        return read_block(b, object, "block_structure", r, err);
    else
        return refuse(b, object, "strategy", "tensor, channel, group and block are read", err);
    if (r->spread == PER_GROUP && r->group < 1)
        return refuse(b, object, "group_size", "the strategy needs a group size", err);
    return TN_OK;
}

/* "group" (or its other name) means that a tensor lists the group of each column; any other value is about how numbers were
 * found. May be a text, false or null. */
static bool by_importance(const struct build *b, const char *object)
{
    const char *order = NULL;
    char path[MAX_PATH];

    field_path(path, object, "actorder");
    return b->source.capi->get_str(b->source.config, path, &order, NULL) == TN_OK &&
           (strcasecmp(order, "group") == 0 || strcasecmp(order, "dynamic") == 0);
}

static int32_t read_weights(const struct build *b, const char *group, struct rule *r, tn_err *err)
{
    char object[MAX_PATH];
    const char *type = "int";
    bool dynamic = false;
    uint64_t n = 0;
    int32_t rc;

    field_path(object, group, "weights");
    r->bits = 8;
    r->symmetric = true;
    if ((rc = get_count(b, group, "weights", &n, err)) != TN_OK)
        return rc;
    if (n == 0)
        return refuse(b, group, "weights", "a group without quantized weights is not read", err);
    if ((rc = get_int(b, object, "num_bits", 1, 32, &r->bits, err)) != TN_OK ||
        (rc = get_text(b, object, "type", &type, err)) != TN_OK ||
        (rc = get_flag(b, object, "symmetric", &r->symmetric, err)) != TN_OK ||
        (rc = get_flag(b, object, "dynamic", &dynamic, err)) != TN_OK ||
        (rc = read_spread(b, object, r, err)) != TN_OK)
        return rc;
    r->is_float = strcasecmp(type, "float") == 0;
    r->by_importance = by_importance(b, object);
    if (!r->is_float && strcasecmp(type, "int") != 0)
        return refuse(b, object, "type", "int and float are read", err);
    if (dynamic)
        return refuse(b, object, "dynamic", "weights are static", err);
    if (r->bits != 8 && (r->bits != 4 || r->is_float))
        return refuse(b, object, "num_bits", "int of 4 and 8 bits and float of 8 bits are read",
                      err);
    return TN_OK;
}

static int32_t read_inputs(const struct build *b, const char *group, struct rule *r, tn_err *err)
{
    char object[MAX_PATH];
    const char *type = "int";
    bool dynamic = false;
    int64_t bits = 8;
    uint64_t n = 0;
    int32_t rc = get_count(b, group, "input_activations", &n, err);

    if (rc != TN_OK || n == 0)
        return rc;
    field_path(object, group, "input_activations");
    if ((rc = get_int(b, object, "num_bits", 1, 32, &bits, err)) != TN_OK ||
        (rc = get_text(b, object, "type", &type, err)) != TN_OK ||
        (rc = get_flag(b, object, "dynamic", &dynamic, err)) != TN_OK)
        return rc;
    if (bits != 8)
        return refuse(b, object, "num_bits", "activations of 8 bits are computed with", err);
    /* 4-bit weights meet activations as they are, whatever the quantizer rounded them to. */
    if (r->bits == 8 && strcasecmp(type, r->is_float ? "float" : "int") != 0)
        return refuse(b, object, "type", "activations have the type of the weights", err);
    r->act = dynamic ? ACT_DYNAMIC : ACT_STATIC;
    return TN_OK;
}

static int32_t read_group(struct build *b, const char *object, struct rule *r, tn_err *err)
{
    int32_t rc = check_format(b, object, err);

    if (rc == TN_OK)
        rc = get_names(b, object, "targets", MAX_TARGETS, &r->targets, err);
    if (rc == TN_OK)
        rc = read_weights(b, object, r, err);
    return rc == TN_OK ? read_inputs(b, object, r, err) : rc;
}

static int32_t read_cache_scheme(struct build *b, tn_err *err)
{
    char object[MAX_PATH];
    const char *type = "float";
    int64_t bits = 8;
    uint64_t n = 0;
    int32_t rc = get_count(b, b->source.path, "kv_cache_scheme", &n, err);

    if (rc != TN_OK || n == 0)
        return rc;
    field_path(object, b->source.path, "kv_cache_scheme");
    if ((rc = get_int(b, object, "num_bits", 1, 32, &bits, err)) != TN_OK ||
        (rc = get_text(b, object, "type", &type, err)) != TN_OK)
        return rc;
    if (bits == 8)
        b->cache_dtype = strcasecmp(type, "int") == 0 ? TN_DT_I8 : TN_DT_F8E4M3;
    return TN_OK;
}

static int32_t read_compressed(struct build *b, tn_err *err)
{
    const char *root = b->source.path, *key = NULL, *sparse = NULL;
    char groups[MAX_PATH], object[MAX_PATH];
    uint64_t n = 0;
    int32_t rc = check_format(b, root, err);

    if (rc == TN_OK)
        rc = get_text(b, root, "sparsity_config.format", &sparse, err);
    if (rc == TN_OK && sparse && strcmp(sparse, "dense") != 0)
        rc = refuse(b, root, "sparsity_config.format", "sparse matrices are not read", err);
    if (rc == TN_OK)
        rc = get_count(b, root, "transform_config.config_groups", &n, err);
    if (rc == TN_OK && n > 0)
        rc = refuse(b, root, "transform_config.config_groups",
                    "inputs that must be transformed are not computed with", err);
    if (rc == TN_OK)
        rc = get_count(b, root, "config_groups", &n, err);
    if (rc == TN_OK)
        rc = read_cache_scheme(b, err);
    if (rc == TN_OK && ((n == 0 && b->cache_dtype == 0) || n > MAX_RULES))
        rc = refuse(b, root, "config_groups",
                    "1 to 32 groups are needed, or none and a kv_cache_scheme", err);
    field_path(groups, root, "config_groups");
    for (uint64_t i = 0; i < n && rc == TN_OK; i++) {
        rc = b->source.capi->get_key(b->source.config, groups, i, &key, err);
        if (rc != TN_OK || strlen(key) > MAX_KEY)
            return refuse(b, root, "config_groups", "is no object of groups with short names", err);
        field_path(object, groups, key);
        rc = read_group(b, object, &b->rules[b->n_rules], err);
        b->n_rules += rc == TN_OK;
    }
    if (rc == TN_OK)
        rc = get_names(b, root, "ignore", MAX_IGNORED, &b->ignored, err);
    return rc;
}

/* -- fp8 ---------------------------------------------------------------------------------------------------------- */

static int32_t read_fp8(struct build *b, tn_err *err)
{
    const char *root = b->source.path, *act = "dynamic", *fmt = "e4m3";
    struct rule *r = &b->rules[0];
    uint64_t n = 0;
    int32_t rc;

    *r = (struct rule){.bits = 8, .is_float = true, .symmetric = true, .spread = PER_ANY};
    b->n_rules = 1;
    b->cache_dtype = TN_DT_F8E4M3;
    if ((rc = get_text(b, root, "activation_scheme", &act, err)) != TN_OK ||
        (rc = get_text(b, root, "fmt", &fmt, err)) != TN_OK ||
        (rc = get_count(b, root, "weight_block_size", &n, err)) != TN_OK ||
        (rc = get_names(b, root, "ignored_layers", MAX_IGNORED, &b->ignored, err)) != TN_OK)
        return rc;
    if (b->ignored.n == 0)
        rc = get_names(b, root, "modules_to_not_convert", MAX_IGNORED, &b->ignored, err);
    if (rc != TN_OK)
        return rc;
    r->act = strcmp(act, "static") == 0 ? ACT_STATIC : ACT_DYNAMIC;
    if (r->act == ACT_DYNAMIC && strcmp(act, "dynamic") != 0)
        return refuse(b, root, "activation_scheme", "static and dynamic are computed with", err);
    if (strcmp(fmt, "e4m3") != 0 && strcmp(fmt, "float8_e4m3fn") != 0)
        return refuse(b, root, "fmt", "e4m3 is read", err);
    return n ? read_block(b, root, "weight_block_size", r, err) : TN_OK;
}

/* -- awq and gptq --------------------------------------------------------------------------------------------------- */

static int32_t read_words(struct build *b, tn_err *err)
{
    const char *root = b->source.path;
    struct rule *r = &b->rules[0];
    int32_t rc;

    *r = (struct rule){.bits = 4, .group = 128, .spread = PER_GROUP};
    b->n_rules = 1;
    if ((rc = get_int(b, root, "bits", 1, 32, &r->bits, err)) != TN_OK ||
        (rc = get_int(b, root, "group_size", -1, 1 << 20, &r->group, err)) != TN_OK ||
        (rc = get_names(b, root, "modules_to_not_convert", MAX_IGNORED, &b->ignored, err)) != TN_OK)
        return rc;
    if (r->bits != 4 && (r->bits != 8 || b->method != METHOD_GPTQ))
        return refuse(b, root, "bits",
                      b->method == METHOD_GPTQ ? "4 and 8 bits are read" : "4 bits are read", err);
    return r->group == 0 ? refuse(b, root, "group_size", "a size or -1 is needed", err) : TN_OK;
}

/* The layout goes by several names, one of which each writer uses, or all. */
static int32_t read_layout(const struct build *b, const char *const *fields,
                           const char *const *known, const char *why, const char **out, tn_err *err)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; fields[i] && rc == TN_OK; i++) {
        const char *text = NULL;
        size_t k = 0;
        rc = get_text(b, b->source.path, fields[i], &text, err);
        while (text && known[k] && strcasecmp(known[k], text) != 0)
            k++;
        if (rc == TN_OK && text && !known[k])
            rc = refuse(b, b->source.path, fields[i], why, err);
        if (rc == TN_OK && text)
            *out = known[k];
    }
    return rc;
}

/* AutoAWQ calls it version, transformers format, GPTQModel both of the others. Whether zero points are all alike
 * ("zero_point") is of no matter: they are there in either case. */
static int32_t read_awq(struct build *b, tn_err *err)
{
    static const char *const fields[] = {"version", "format", "checkpoint_format", NULL};
    static const char *const known[] = {"gemm", NULL};
    const char *root = b->source.path, *layout = NULL, *backend = "autoawq";
    int32_t rc = read_words(b, err);

    if (rc == TN_OK)
        rc = read_layout(b, fields, known, "the layout \"gemm\" is read", &layout, err);
    if (rc == TN_OK)
        rc = get_text(b, root, "backend", &backend, err);
    if (rc == TN_OK && strcmp(backend, "llm-awq") == 0)
        return refuse(b, root, "backend", "the layout of llm-awq is not read", err);
    return rc;
}

/* Rules of GPTQModel for single modules: those that except modules ("-:") leave plain tensors, which need no rule. */
static int32_t check_dynamic(const struct build *b, tn_err *err)
{
    char path[MAX_PATH];
    const char *key = NULL;
    uint64_t n = 0;
    int32_t rc = get_count(b, b->source.path, "dynamic", &n, err);

    field_path(path, b->source.path, "dynamic");
    for (uint64_t i = 0; i < n && i < MAX_IGNORED && rc == TN_OK; i++) {
        rc = b->source.capi->get_key(b->source.config, path, i, &key, err);
        if (rc != TN_OK || strncmp(key, "-:", 2) != 0)
            return refuse(b, b->source.path, "dynamic",
                          "modules that are quantized in other ways than the rest are not read",
                          err);
    }
    return rc;
}

static int32_t read_gptq(struct build *b, tn_err *err)
{
    static const char *const fields[] = {"format", "checkpoint_format", NULL};
    static const char *const known[] = {"gptq", "gptq_v2", NULL};
    const char *root = b->source.path, *format = known[0], *pack = "int32";
    bool marlin = false;
    int32_t rc = read_words(b, err);

    if (rc != TN_OK || (rc = check_dynamic(b, err)) != TN_OK ||
        (rc = read_layout(b, fields, known, "gptq and gptq_v2 are read", &format, err)) != TN_OK ||
        (rc = get_text(b, root, "pack_dtype", &pack, err)) != TN_OK ||
        (rc = get_flag(b, root, "is_marlin_format", &marlin, err)) != TN_OK)
        return rc;
    b->zero_offset = format == known[0];
    if (marlin)
        return refuse(b, root, "is_marlin_format", "the layout of Marlin is not read", err);
    if (strcmp(pack, "int32") != 0)
        return refuse(b, root, "pack_dtype", "int32 is read", err);
    return TN_OK;
}

/* -- All ------------------------------------------------------------------------------------------------------------ */

int32_t config_read(struct build *b, tn_err *err)
{
    switch (b->method) {
    case METHOD_COMPRESSED: return read_compressed(b, err);
    case METHOD_FP8: return read_fp8(b, err);
    case METHOD_AWQ: return read_awq(b, err);
    default: return read_gptq(b, err);
    }
}

void config_release(struct build *b)
{
    for (uint32_t i = 0; i < MAX_RULES; i++)
        b->host->free(b->host->ctx, (void *)b->rules[i].targets.items);
    b->host->free(b->host->ctx, (void *)b->ignored.items);
}

/* -- Asking ----------------------------------------------------------------------------------------------------------- */

/* Whether one of the names is the module's, or one of the patterns matches it. */
static int32_t names_match(const struct build *b, const struct names *n, const char *module,
                           bool *out, tn_err *err)
{
    uint32_t found = 0;
    int32_t rc = TN_OK;

    for (uint64_t i = 0; i < n->n && !found && rc == TN_OK; i++) {
        if (is_pattern(n->items[i]))
            rc =
                b->source.tapi->matches(b->source.checkpoint, n->items[i] + 3, module, &found, err);
        else
            found = strcmp(n->items[i], module) == 0;
    }
    *out = found != 0;
    return rc;
}

int32_t config_ignores(const struct build *b, const char *module, bool *out, tn_err *err)
{
    return names_match(b, &b->ignored, module, out, err);
}

/* Names and patterns go before classes of modules ("Linear"), which any matrix may be one of. */
int32_t config_rule(const struct build *b, const char *module, const struct rule **out, tn_err *err)
{
    bool found = false;
    int32_t rc = TN_OK;

    *out = b->n_rules == 1 ? &b->rules[0] : NULL;
    for (uint32_t i = 0; i < b->n_rules && !*out && rc == TN_OK; i++) {
        rc = names_match(b, &b->rules[i].targets, module, &found, err);
        if (found)
            *out = &b->rules[i];
    }
    for (uint32_t i = 0; i < b->n_rules && !*out; i++)
        for (uint64_t k = 0; k < b->rules[i].targets.n; k++)
            if (strcmp(b->rules[i].targets.items[k], "Linear") == 0)
                *out = &b->rules[i];
    return rc;
}
