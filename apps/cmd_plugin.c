/* SPDX-License-Identifier: Apache-2.0 */
/* tenon plugin list|explain */
#include <stdio.h>
#include <string.h>

#include "api/tools.h"
#include "app.h"
#include "base/strbuf.h"

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

/* -- list ---------------------------------------------------------------------------------------------- */

static void print_candidate(const json_t *p, bool variants)
{
    struct strbuf kinds = STRBUF_INIT;
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(p, "kinds"), i, v)
        strbuf_printf(&kinds, "%s%s", i ? "," : "", json_string_value(v));
    printf("%-9s %-12s %-8s %-16s %s\n", text_of(p, "state"),
           text_of(p, "name")[0] ? text_of(p, "name") : "?", text_of(p, "version"),
           strbuf_str(&kinds), text_of(p, "path"));
    if (text_of(p, "reason")[0])
        printf("          because: %s\n", text_of(p, "reason"));
    if (variants)
        json_array_foreach(json_object_get(p, "variants"), i, v)
            printf("          %-28s %s%s%s\n", text_of(v, "name"), text_of(v, "op"),
                   text_of(v, "equals")[0] ? "  = " : "", text_of(v, "equals"));
    strbuf_release(&kinds);
}

static int32_t list(const struct opts *o, tn_err *err)
{
    struct tool_conf conf = {opts_config(o), o->settings, o->n_settings};
    json_t *all = NULL, *p;
    size_t i;
    int32_t rc = tool_plugin_list(&conf, &all, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(all, err);
    json_array_foreach(all, i, p) print_candidate(p, opts_flag(o, "variants"));
    json_decref(all);
    return TN_OK;
}

/* -- explain ------------------------------------------------------------------------------------------- */

/* "0-21" for consecutive layers. */
static void put_layers(const json_t *layers, struct strbuf *out)
{
    size_t n = json_array_size(layers);

    for (size_t i = 0; i < n;) {
        size_t k = i;
        long long first = json_integer_value(json_array_get(layers, i));
        while (k + 1 < n && json_integer_value(json_array_get(layers, k + 1)) ==
                                json_integer_value(json_array_get(layers, k)) + 1)
            k++;
        strbuf_puts(out, out->len ? "," : "");
        if (first < 0)
            strbuf_puts(out, "-");
        else if (k == i)
            strbuf_printf(out, "%lld", first);
        else
            strbuf_printf(out, "%lld-%lld", first, first + (long long)(k - i));
        i = k + 1;
    }
}

/* For which numbers of rows an op runs. */
static void put_rows(const json_t *rows)
{
    size_t i;
    json_t *pair;

    json_array_foreach((json_t *)(uintptr_t)rows, i, pair) printf(
        "%s%lld to %lld", i ? ", " : "", (long long)json_integer_value(json_array_get(pair, 0)),
        (long long)json_integer_value(json_array_get(pair, 1)));
    printf(" rows");
}

static void print_op(const json_t *op)
{
    const json_t *replaces = json_object_get(op, "replaces"),
                 *chosen = json_object_get(op, "chosen");
    struct strbuf layers = STRBUF_INIT;
    size_t i;
    json_t *v;

    put_layers(json_object_get(op, "layers"), &layers);
    printf("%s  (layers %s; ", text_of(op, "op"), strbuf_str(&layers));
    put_rows(json_object_get(op, "rows"));
    printf(")\n");
    if (json_array_size(replaces) > 0) {
        printf("    replaces");
        json_array_foreach((json_t *)(uintptr_t)replaces, i, v) printf(" %s", json_string_value(v));
        printf("\n");
    }
    json_array_foreach((json_t *)(uintptr_t)chosen, i, v)
        printf("  + %-32s up to %lld rows%s\n", text_of(v, "variant"),
               (long long)json_integer_value(json_object_get(v, "max_rows")),
               json_is_true(json_object_get(v, "fallback")) ? ", in wider arithmetic" : "");
    json_array_foreach(json_object_get(op, "losers"), i, v)
        printf("  - %-32s %s\n", text_of(v, "variant"), text_of(v, "reason"));
    strbuf_release(&layers);
}

static int32_t explain(const struct opts *o, tn_err *err)
{
    struct tool_conf conf = {opts_config(o), o->settings, o->n_settings};
    json_t *r = NULL, *op;
    size_t i;
    int32_t rc = tool_plugin_explain(&conf, opts_text(o, "engine"), &r, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(r, err);
    printf("%s (%s): activations %s, cache %s in layout %s\n\n", text_of(r, "device"),
           text_of(r, "device_name"), text_of(r, "activation_dtype"), text_of(r, "kv_dtype"),
           text_of(r, "kv_layout"));
    if (json_is_string(json_object_get(r, "fallback")))
        printf("no arithmetic of its own for some ops: %s\n\n", text_of(r, "fallback"));
    json_array_foreach(json_object_get(r, "comm"), i, op)
        printf("%s parallel: joined by %s (%s)\n\n", text_of(op, "group"), text_of(op, "plugin"),
               text_of(op, "why"));
    json_array_foreach(json_object_get(r, "ops"), i, op) print_op(op);
    json_decref(r);
    return TN_OK;
}

static int run_list(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, list);
}

static int run_explain(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, explain);
}

static const struct opt list_options[] = {
    {"variants", OPT_FLAG, NULL, "list the kernel variants of each plugin", 0, 0, NULL, false},
    {"json", OPT_FLAG, NULL, "print JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_plugin_list = {.name = "plugin list",
                                        .summary =
                                            "Show every plugin found, loaded or refused, and why",
                                        .own = list_options,
                                        .takes_conf = true,
                                        .run = run_list};

static const struct opt explain_options[] = {
    {"engine", OPT_TEXT, "DIR", "engine to choose kernels for", 0, 0, NULL, true},
    {"json", OPT_FLAG, NULL, "print JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_plugin_explain = {
    .name = "plugin explain",
    .summary = "Show which kernel was chosen for each op of an engine, and why the others were not",
    .own = explain_options,
    .takes_conf = true,
    .run = run_explain};
