/* SPDX-License-Identifier: Apache-2.0 */
/* The checked settings: getters, flags on top of the file. */
#include "conf/internal.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

void conf_free(struct conf *conf)
{
    if (!conf)
        return;
    arena_release(&conf->arena);
    mem_free(conf->groups);
    mem_free(conf);
}

static const struct conf_value *value_of(const struct conf *conf, enum conf_key key,
                                         enum conf_type type)
{
    assert(conf_row(key)->type == type);
    (void)type;
    return &conf->values[key];
}

bool conf_bool(const struct conf *conf, enum conf_key key)
{
    return value_of(conf, key, CONF_BOOL)->b;
}

int64_t conf_int(const struct conf *conf, enum conf_key key)
{
    return value_of(conf, key, CONF_INT)->i;
}

double conf_real(const struct conf *conf, enum conf_key key)
{
    return value_of(conf, key, CONF_REAL)->r;
}

const char *conf_text(const struct conf *conf, enum conf_key key)
{
    enum conf_type type = conf_row(key)->type == CONF_CHOICE ? CONF_CHOICE : CONF_TEXT;

    return value_of(conf, key, type)->s;
}

uint32_t conf_choice(const struct conf *conf, enum conf_key key)
{
    return (uint32_t)value_of(conf, key, CONF_CHOICE)->i;
}

uint32_t conf_list(const struct conf *conf, enum conf_key key, const char *const **items)
{
    const struct conf_value *v = value_of(conf, key, CONF_LIST);

    *items = v->list;
    return v->n;
}

uint32_t conf_pins(const struct conf *conf, const struct conf_pin **pins)
{
    const struct conf_value *v = value_of(conf, CONF_KERNELS_PINS, CONF_PINS);

    *pins = v->pins;
    return v->n;
}

void conf_print_value(const struct conf *conf, enum conf_key key, struct strbuf *out)
{
    value_print(conf_row(key), &conf->values[key], out);
}

enum conf_origin conf_origin(const struct conf *conf, enum conf_key key, uint32_t *line)
{
    const struct conf_value *v = &conf->values[key];

    if (line)
        *line = v->origin == CONF_FROM_FILE ? v->line : 0;
    return v->origin;
}

/* "plugin.NAME.KEY": the name may have dots, the key has none. */
static int32_t override_plugin(struct conf *conf, const char *path, const char *value, tn_err *err)
{
    const char *name = path + strlen("plugin.");
    const char *dot = strrchr(name, '.');
    char plugin[32] = "";

    if (dot && (size_t)(dot - name) < sizeof plugin)
        memcpy(plugin, name, (size_t)(dot - name));
    if (!dot || dot[1] == '\0' || !value_name_ok(plugin))
        return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, path,
                      "is not of the form plugin.NAME.KEY");
    return group_set(conf, plugin, dot + 1, value, err);
}

int32_t conf_override(struct conf *conf, const char *path, const char *value, tn_err *err)
{
    struct conf_value v;
    enum conf_key key;
    int32_t rc;

    if (strncmp(path, "plugin.", strlen("plugin.")) == 0)
        return override_plugin(conf, path, value, err);
    if (!conf_find(path, &key)) {
        const char *meant = conf_suggest(path);
        err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, path, "is not a setting");
        if (meant)
            err_remedy(err, "%s", meant);
        return TN_E_CONFIG;
    }
    rc = value_parse(conf_row(key), value, &conf->arena, &v, err);
    if (rc != TN_OK)
        return rc;
    v.origin = CONF_FROM_FLAG;
    conf->values[key] = v;
    return TN_OK;
}
