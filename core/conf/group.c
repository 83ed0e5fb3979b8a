/* SPDX-License-Identifier: Apache-2.0 */
/* The groups that belong to plugins: names and values that this room passes on unread. */
#include "conf/internal.h"

#include <string.h>

#include "base/mem.h"

/* Plugin names may have dots, names in files may not: both are compared with underscores. */
static bool same_plugin(const char *written, const char *plugin)
{
    for (; *written && *plugin; written++, plugin++)
        if (*written != *plugin && !(*written == '_' && *plugin == '.'))
            return false;
    return *written == *plugin;
}

static struct conf_group *find_group(const struct conf *conf, const char *plugin)
{
    for (size_t i = 0; i < conf->n_groups; i++)
        if (same_plugin(conf->groups[i].name, plugin))
            return &conf->groups[i];
    return NULL;
}

static struct conf_group *add_group(struct conf *conf, const char *plugin)
{
    char *name = arena_strdup(&conf->arena, plugin);
    struct conf_group *g;

    if (!name || !mem_grow(&conf->groups, &conf->cap_groups, conf->n_groups + 1, sizeof *g))
        return NULL;
    for (char *p = name; *p; p++)
        *p = *p == '.' ? '_' : *p;
    g = &conf->groups[conf->n_groups++];
    *g = (struct conf_group){name, NULL, 0, 0};
    return g;
}

/* Room for one more; arrays are replaced, not freed: the arena owns them. */
static bool grow_group(struct conf *conf, struct conf_group *g)
{
    uint32_t cap = g->cap > 0 ? 2 * g->cap : 8;
    tn_kv *items;

    if (g->n < g->cap)
        return true;
    items = arena_array(&conf->arena, cap, sizeof *items);
    if (!items)
        return false;
    if (g->n > 0)
        memcpy(items, g->items, g->n * sizeof *items);
    g->items = items;
    g->cap = cap;
    return true;
}

int32_t group_set(struct conf *conf, const char *plugin, const char *key, const char *value,
                  tn_err *err)
{
    struct conf_group *g = find_group(conf, plugin);
    char *k, *v;

    if (!g)
        g = add_group(conf, plugin);
    if (!g)
        return err_nomem(err, "the configuration");
    if (!key)
        return TN_OK;
    v = arena_strdup(&conf->arena, value);
    for (uint32_t i = 0; v && i < g->n; i++)
        if (strcmp(g->items[i].key, key) == 0) {
            g->items[i].value = v;
            return TN_OK;
        }
    k = arena_strdup(&conf->arena, key);
    if (!v || !k || !grow_group(conf, g))
        return err_nomem(err, "the configuration");
    g->items[g->n++] = (tn_kv){k, v};
    return TN_OK;
}

uint32_t conf_plugin_group(const struct conf *conf, const char *plugin, const tn_kv **items)
{
    const struct conf_group *g = find_group(conf, plugin);

    *items = g ? g->items : NULL;
    return g ? g->n : 0;
}

uint32_t conf_plugin_count(const struct conf *conf)
{
    return (uint32_t)conf->n_groups;
}

const char *conf_plugin_name(const struct conf *conf, uint32_t index)
{
    return conf->groups[index].name;
}
