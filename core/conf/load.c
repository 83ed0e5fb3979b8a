/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a file to checked values: scan.c judges the text, libconfig parses it, this file walks what came out
 * along the table. libconfig does not check its own allocations: when memory runs out inside it, the
 * process ends; files are small and read at start.
 */
#include "conf/internal.h"

#include <inttypes.h>
#include <libconfig.h>
#include <locale.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"

struct load {
    struct conf *conf;
    struct conf_errors *errors;
    const char *file;
};

int32_t conf_new(const char *file, struct conf **out, tn_err *err)
{
    struct conf *c = mem_zalloc(sizeof *c);
    int32_t rc = TN_OK;

    if (!c)
        return err_nomem(err, "the configuration");
    c->file = arena_strdup(&c->arena, file);
    if (!c->file)
        rc = err_nomem(err, "the configuration");
    for (int i = 0; rc == TN_OK && i < CONF_KEYS; i++) {
        const struct conf_row *row = conf_row((enum conf_key)i);
        rc = value_parse(row, row->value, &c->arena, &c->values[i], err);
    }
    if (rc == TN_OK)
        *out = c;
    else
        conf_free(c);
    return rc;
}

/* -- Values from libconfig ------------------------------------------------------------------------ */

static const char *type_name(const config_setting_t *s)
{
    switch (s->type) {
    case CONFIG_TYPE_GROUP: return "a group { }";
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64: return "a whole number";
    case CONFIG_TYPE_FLOAT: return "a real number";
    case CONFIG_TYPE_STRING: return "a text";
    case CONFIG_TYPE_BOOL: return "true or false";
    case CONFIG_TYPE_ARRAY: return "an array [ ]";
    case CONFIG_TYPE_LIST: return "a list ( )";
    default: return "nothing";
    }
}

static const char *wanted_type(enum conf_type type)
{
    switch (type) {
    case CONF_BOOL: return "true or false";
    case CONF_INT: return "a whole number";
    case CONF_REAL: return "a number";
    case CONF_LIST: return "an array of texts [ \"...\" ]";
    case CONF_PINS: return "a list of groups ( { op = \"...\"; variant = \"...\"; } )";
    case CONF_CHOICE:
    case CONF_TEXT:
    default: return "a text \"...\"";
    }
}

/* An error about this setting may have been found while scanning; one line per mistake is enough. */
static bool reported(const struct load *l, uint32_t line, const char *path)
{
    for (uint32_t i = 0; i < l->errors->count; i++)
        if (l->errors->items[i].offset == line && strcmp(l->errors->items[i].field, path) == 0)
            return true;
    return false;
}

static void wrong_type(struct load *l, const config_setting_t *s, const char *path,
                       enum conf_type type)
{
    if (!reported(l, s->line, path))
        errors_add(l->errors, l->file, s->line, path, "is %s; must be %s", type_name(s),
                   wanted_type(type));
}

static const char *copy_text(struct load *l, const config_setting_t *s)
{
    return arena_strdup(&l->conf->arena, config_setting_get_string(s));
}

enum taken { TAKEN, WRONG, NOMEM };

static enum taken take_list(struct load *l, const config_setting_t *s, struct conf_value *v)
{
    int n = config_setting_length(s);
    const char **list;

    if (s->type != CONFIG_TYPE_ARRAY && s->type != CONFIG_TYPE_LIST)
        return WRONG;
    if (n == 0)
        return TAKEN;
    list = arena_array(&l->conf->arena, (size_t)n, sizeof *list);
    if (!list)
        return NOMEM;
    for (int i = 0; i < n; i++) {
        const config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
        if (e->type != CONFIG_TYPE_STRING)
            return WRONG;
        list[i] = copy_text(l, e);
        if (!list[i])
            return NOMEM;
    }
    v->list = list;
    v->n = (uint32_t)n;
    return TAKEN;
}

static enum taken take_pin(struct load *l, const config_setting_t *group, struct conf_pin *pin)
{
    pin->op = pin->device = pin->variant = "";
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *e = config_setting_get_elem(group, (unsigned)i);
        const char **field = strcmp(e->name, "op") == 0        ? &pin->op
                             : strcmp(e->name, "device") == 0  ? &pin->device
                             : strcmp(e->name, "variant") == 0 ? &pin->variant
                                                               : NULL;
        if (e->name[0] == '*')
            continue;
        if (!field) {
            tn_err *item =
                errors_add(l->errors, l->file, e->line, conf_row(CONF_KERNELS_PINS)->path,
                           "a pin has no \"%s\"", e->name);
            err_remedy(item, "op, device or variant");
            continue;
        }
        if (e->type != CONFIG_TYPE_STRING)
            return WRONG;
        *field = copy_text(l, e);
        if (!*field)
            return NOMEM;
    }
    return TAKEN;
}

static enum taken take_pins(struct load *l, const config_setting_t *s, struct conf_value *v)
{
    int n = config_setting_length(s);
    struct conf_pin *pins;

    if (s->type != CONFIG_TYPE_LIST)
        return s->type == CONFIG_TYPE_ARRAY && n == 0 ? TAKEN : WRONG;
    if (n == 0)
        return TAKEN;
    pins = arena_array(&l->conf->arena, (size_t)n, sizeof *pins);
    if (!pins)
        return NOMEM;
    for (int i = 0; i < n; i++) {
        const config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
        enum taken t = e->type == CONFIG_TYPE_GROUP ? take_pin(l, e, &pins[i]) : WRONG;
        if (t != TAKEN)
            return t;
    }
    v->pins = pins;
    v->n = (uint32_t)n;
    return TAKEN;
}

static enum taken take_value(struct load *l, const struct conf_row *row, const config_setting_t *s,
                             struct conf_value *v)
{
    switch (row->type) {
    case CONF_BOOL:
        v->b = config_setting_get_bool(s);
        return s->type == CONFIG_TYPE_BOOL ? TAKEN : WRONG;
    case CONF_INT:
        v->i = config_setting_get_int64(s);
        return s->type == CONFIG_TYPE_INT64 ? TAKEN : WRONG;
    case CONF_REAL:
        v->r = s->type == CONFIG_TYPE_FLOAT ? config_setting_get_float(s)
                                            : (double)config_setting_get_int64(s);
        return s->type == CONFIG_TYPE_FLOAT || s->type == CONFIG_TYPE_INT64 ? TAKEN : WRONG;
    case CONF_LIST: return take_list(l, s, v);
    case CONF_PINS: return take_pins(l, s, v);
    case CONF_CHOICE:
    case CONF_TEXT:
    default:
        if (s->type != CONFIG_TYPE_STRING)
            return WRONG;
        v->s = copy_text(l, s);
        return v->s ? TAKEN : NOMEM;
    }
}

static void take_setting(struct load *l, const config_setting_t *s, enum conf_key key)
{
    const struct conf_row *row = conf_row(key);
    struct conf_value v = {0};
    tn_err err = TN_ERR_INIT;

    switch (take_value(l, row, s, &v)) {
    case NOMEM: errors_add_nomem(l->errors); return;
    case WRONG: wrong_type(l, s, row->path, row->type); return;
    case TAKEN:
    default: break;
    }
    if (value_check(row, &v, &err) != TN_OK) {
        if (!reported(l, s->line, row->path))
            errors_add_err(l->errors, l->file, s->line, &err);
        return;
    }
    v.origin = CONF_FROM_FILE;
    v.line = s->line;
    l->conf->values[key] = v;
}

/* -- Groups ----------------------------------------------------------------------------------------- */

static void unknown(struct load *l, const config_setting_t *s, const char *path)
{
    const char *meant = conf_suggest(path);
    tn_err *item = errors_add(l->errors, l->file, s->line, path, "is not a setting");

    if (meant)
        err_remedy(item, "%s", meant);
}

static bool is_group_of_table(const char *name)
{
    size_t n = strlen(name);

    for (int i = 0; i < CONF_KEYS; i++) {
        const char *path = conf_row((enum conf_key)i)->path;
        if (strncmp(path, name, n) == 0 && path[n] == '.')
            return true;
    }
    return false;
}

static void take_group(struct load *l, const config_setting_t *group)
{
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *s = config_setting_get_elem(group, (unsigned)i);
        char path[2 * CONF_MAX_NAME + 2];
        enum conf_key key;
        if (s->name[0] == '*') /* a duplicate, reported by the scan */
            continue;
        snprintf(path, sizeof path, "%s.%s", group->name, s->name);
        if (conf_find(path, &key))
            take_setting(l, s, key);
        else
            unknown(l, s, path);
    }
}

/* A scalar of a plugin's group as text; false if it is none. */
static bool scalar_text(const config_setting_t *s, struct strbuf *out)
{
    switch (s->type) {
    case CONFIG_TYPE_BOOL: strbuf_puts(out, config_setting_get_bool(s) ? "true" : "false"); break;
    case CONFIG_TYPE_INT64: strbuf_printf(out, "%lld", config_setting_get_int64(s)); break;
    case CONFIG_TYPE_FLOAT: value_print_real(config_setting_get_float(s), out); break;
    case CONFIG_TYPE_STRING: strbuf_puts(out, config_setting_get_string(s)); break;
    default: return false;
    }
    return true;
}

static bool plugin_value(const config_setting_t *s, struct strbuf *out)
{
    if (s->type != CONFIG_TYPE_ARRAY)
        return scalar_text(s, out);
    for (int i = 0; i < config_setting_length(s); i++) {
        if (i > 0)
            strbuf_putc(out, ',');
        if (!scalar_text(config_setting_get_elem(s, (unsigned)i), out))
            return false;
    }
    return true;
}

static void take_plugin_setting(struct load *l, const char *plugin, const config_setting_t *s)
{
    struct strbuf text = STRBUF_INIT;
    tn_err err = TN_ERR_INIT;
    char path[2 * CONF_MAX_NAME + 16];

    if (s->name[0] == '*')
        return;
    snprintf(path, sizeof path, "plugin.%s.%s", plugin, s->name);
    if (!plugin_value(s, &text))
        errors_add(l->errors, l->file, s->line, path, "is %s; must be a plain value or an array",
                   type_name(s));
    else if (text.failed || group_set(l->conf, plugin, s->name, strbuf_str(&text), &err) != TN_OK)
        errors_add_nomem(l->errors);
    strbuf_release(&text);
}

static void take_plugins(struct load *l, const config_setting_t *plugins)
{
    tn_err err = TN_ERR_INIT;

    for (int i = 0; i < config_setting_length(plugins); i++) {
        const config_setting_t *g = config_setting_get_elem(plugins, (unsigned)i);
        char path[CONF_MAX_NAME + 16];
        if (g->name[0] == '*')
            continue;
        snprintf(path, sizeof path, "plugin.%s", g->name);
        if (g->type != CONFIG_TYPE_GROUP) {
            errors_add(l->errors, l->file, g->line, path, "is %s; must be a group of settings { }",
                       type_name(g));
            continue;
        }
        if (!value_name_ok(g->name)) {
            errors_add(l->errors, l->file, g->line, path, "no plugin can have this name");
            continue;
        }
        if (group_set(l->conf, g->name, NULL, NULL, &err) != TN_OK)
            errors_add_nomem(l->errors);
        for (int j = 0; j < config_setting_length(g); j++)
            take_plugin_setting(l, g->name, config_setting_get_elem(g, (unsigned)j));
    }
}

static void take_root(struct load *l, const config_setting_t *root)
{
    for (int i = 0; i < config_setting_length(root); i++) {
        const config_setting_t *g = config_setting_get_elem(root, (unsigned)i);
        bool plugins = strcmp(g->name, "plugin") == 0;
        if (g->name[0] == '*')
            continue;
        if (!plugins && !is_group_of_table(g->name))
            unknown(l, g, g->name);
        else if (g->type != CONFIG_TYPE_GROUP)
            errors_add(l->errors, l->file, g->line, g->name, "is %s; must be a group { }",
                       type_name(g));
        else if (plugins)
            take_plugins(l, g);
        else
            take_group(l, g);
    }
}

/* -- Entry points --------------------------------------------------------------------------------- */

static void parse_with_libconfig(struct load *l, const char *text)
{
    locale_t before = uselocale((locale_t)0); /* libconfig 1.5 leaves the global one behind */
    config_t cfg;
    int ok;

    config_init(&cfg);
    ok = config_read_string(&cfg, text);
    uselocale(before);
    if (ok)
        take_root(l, config_root_setting(&cfg));
    else /* conf_scan lets through what libconfig takes; getting here is our bug, but no reason to die */
        errors_add(l->errors, l->file, (uint32_t)config_error_line(&cfg), NULL, "libconfig: %s",
                   config_error_text(&cfg) ? config_error_text(&cfg) : "no reason given");
    config_destroy(&cfg);
}

int32_t conf_parse(const char *text, size_t len, const char *name, struct conf **out,
                   struct conf_errors *errors)
{
    struct strbuf clean = STRBUF_INIT;
    struct load l = {NULL, errors, name};
    uint32_t before = errors_total(errors);
    tn_err err = TN_ERR_INIT;
    int32_t rc;

    rc = conf_new(name, &l.conf, &err);
    if (rc != TN_OK) {
        errors_add_err(errors, name, 0, &err);
        return rc;
    }
    if (conf_scan(text, len, name, &clean, errors))
        parse_with_libconfig(&l, strbuf_str(&clean));
    strbuf_release(&clean);
    if (errors_total(errors) > before) {
        conf_free(l.conf);
        return errors_status(errors);
    }
    *out = l.conf;
    return TN_OK;
}

int32_t conf_load(const char *path, struct conf **out, struct conf_errors *errors)
{
    tn_err err = TN_ERR_INIT;
    char *text = NULL;
    size_t len;
    int32_t rc;

    if (!path)
        return conf_parse("", 0, "", out, errors);
    rc = file_read(path, LIMIT_CONF_BYTES, &text, &len, &err);
    if (rc != TN_OK) {
        errors_add_err(errors, path, 0, &err);
        return rc == TN_E_NOMEM ? rc : TN_E_CONFIG;
    }
    rc = conf_parse(text, len, path, out, errors);
    mem_free(text);
    return rc;
}
