/* SPDX-License-Identifier: Apache-2.0 */
/* tenon engine inspect|verify|diff|plan */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/tools.h"
#include "app.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/strbuf.h"

static const struct opt json_options[] = {
    {"json", OPT_FLAG, NULL, "print JSON", 0, 0, NULL, false},
    {"tensors", OPT_FLAG, NULL, "list every weight", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

/* -- inspect ------------------------------------------------------------------------------------------- */

static void print_flat(const char *title, const json_t *o)
{
    const char *key;
    json_t *v;

    printf("%s\n", title);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        printf("  %-18s %s\n", key, text ? text : "?");
        free(text);
    }
}

static void print_tensors(const json_t *list)
{
    size_t i;
    json_t *t;

    json_array_foreach((json_t *)(uintptr_t)list, i, t)
    {
        char *dims = json_dumps(json_object_get(t, "dims"), JSON_COMPACT);
        printf("  %-40s %-10s %-9s %s%s\n", json_string_value(json_object_get(t, "name")),
               json_string_value(json_object_get(t, "dtype")),
               json_string_value(json_object_get(t, "role")), dims ? dims : "?",
               json_is_true(json_object_get(t, "dummy")) ? " dummy" : "");
        free(dims);
    }
}

static void print_inspection(const json_t *r)
{
    const json_t *weights = json_object_get(r, "weights");
    struct strbuf bytes = STRBUF_INIT;

    strbuf_put_bytes(&bytes, (uint64_t)json_integer_value(json_object_get(weights, "bytes")));
    printf("%s\n", json_string_value(json_object_get(r, "file")));
    printf("  %-18s %s\n", "build id", json_string_value(json_object_get(r, "build_id")));
    printf("  %-18s %lld, %s, %.1f M parameters\n", "weights",
           (long long)json_integer_value(json_object_get(weights, "count")), strbuf_str(&bytes),
           (double)json_integer_value(json_object_get(weights, "parameters")) / 1e6);
    print_flat("model", json_object_get(r, "hyper"));
    print_flat("meta", json_object_get(r, "meta"));
    if (json_object_get(weights, "tensors"))
        print_tensors(json_object_get(weights, "tensors"));
    strbuf_release(&bytes);
}

static int32_t inspect(const struct opts *o, tn_err *err)
{
    json_t *r = NULL;
    int32_t rc = tool_engine_inspect(o->positional[0], opts_flag(o, "tensors"), &r, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(r, err);
    print_inspection(r);
    json_decref(r);
    return TN_OK;
}

/* -- verify -------------------------------------------------------------------------------------------- */

static int32_t verify(const struct opts *o, tn_err *err)
{
    struct strbuf size = STRBUF_INIT;
    uint64_t bytes = 0;
    int32_t rc = tool_engine_verify(o->positional[0], opts_flag(o, "finite"), opts_flag(o, "quiet"),
                                    app_interrupted, NULL, &bytes, err);

    if (rc != TN_OK)
        return rc;
    strbuf_put_bytes(&size, bytes);
    printf("%s: %s, every digest matches%s\n", o->positional[0], strbuf_str(&size),
           opts_flag(o, "finite") ? ", every weight is finite" : "");
    strbuf_release(&size);
    return TN_OK;
}

/* -- diff ---------------------------------------------------------------------------------------------- */

static void print_differences(const json_t *list)
{
    size_t i;
    json_t *d;

    json_array_foreach((json_t *)(uintptr_t)list, i, d)
    {
        char *a = json_dumps(json_object_get(d, "a"), JSON_ENCODE_ANY | JSON_COMPACT);
        char *b = json_dumps(json_object_get(d, "b"), JSON_ENCODE_ANY | JSON_COMPACT);
        printf("%s\n  - %s\n  + %s\n", json_string_value(json_object_get(d, "what")),
               a ? a : "absent", b ? b : "absent");
        free(a);
        free(b);
    }
    printf("%zu differences\n", json_array_size(list));
}

static int32_t diff(const struct opts *o, tn_err *err)
{
    json_t *list = NULL;
    int32_t rc = tool_engine_diff(o->positional[0], o->positional[1], &list, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(list, err);
    print_differences(list);
    json_decref(list);
    return TN_OK;
}

/* -- plan ---------------------------------------------------------------------------------------------- */

static void print_memory(const json_t *r)
{
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(r, "bytes"), i, v)
        printf("%-14s %-10s %16lld\n", json_string_value(json_object_get(v, "owner")),
               json_string_value(json_object_get(v, "place")),
               (long long)json_integer_value(json_object_get(v, "bytes")));
    printf("%s: %lld bytes free now; the cache has %lld pages of %lld bytes\n",
           json_string_value(json_object_get(r, "device")),
           (long long)json_integer_value(json_object_get(r, "free_bytes")),
           (long long)json_integer_value(json_object_get(r, "kv_pages")),
           (long long)json_integer_value(json_object_get(r, "kv_page_bytes")));
}

static int32_t memory(const struct opts *o, tn_err *err)
{
    struct tool_conf conf = {opts_config(o), o->settings, o->n_settings};
    json_t *r = NULL;
    int32_t rc = tool_memory(&conf, o->positional[0], &r, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(r, err);
    print_memory(r);
    json_decref(r);
    return TN_OK;
}

static int32_t plan(const struct opts *o, tn_err *err)
{
    char *text = NULL;
    int32_t rc;

    if (opts_flag(o, "memory"))
        return memory(o, err);
    rc = tool_engine_plan(o->positional[0], &text, err);

    if (rc == TN_OK)
        fputs(text, stdout);
    mem_free(text);
    return rc;
}

static int run_inspect(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, inspect);
}

static int run_verify(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, verify);
}

static int run_diff(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, diff);
}

static int run_plan(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, plan);
}

const struct command cmd_engine_inspect = {.name = "engine inspect",
                                           .summary = "Show what an engine holds and what made it",
                                           .positional = "ENGINE",
                                           .n_positional = 1,
                                           .own = json_options,
                                           .run = run_inspect};

static const struct opt verify_options[] = {
    {"finite", OPT_FLAG, NULL, "also look for NaN and infinity among the weights", 0, 0, NULL,
     false},
    {"quiet", OPT_FLAG, NULL, "no progress", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_engine_verify = {.name = "engine verify",
                                          .summary = "Read a whole engine and check every digest",
                                          .positional = "ENGINE",
                                          .n_positional = 1,
                                          .own = verify_options,
                                          .run = run_verify};

static const struct opt diff_options[] = {{"json", OPT_FLAG, NULL, "print JSON", 0, 0, NULL, false},
                                          {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_engine_diff = {.name = "engine diff",
                                        .summary = "Tell what differs between two engines",
                                        .positional = "ENGINE ENGINE",
                                        .n_positional = 2,
                                        .own = diff_options,
                                        .run = run_diff};

static const struct opt plan_options[] = {
    {"memory", OPT_FLAG, NULL, "print what running it would take, by owner, instead", 0, 0, NULL,
     false},
    {"json", OPT_FLAG, NULL, "with --memory: print JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_engine_plan = {.name = "engine plan",
                                        .summary = "Print the plan of an engine, one op per line",
                                        .positional = "ENGINE",
                                        .n_positional = 1,
                                        .own = plan_options,
                                        .takes_conf = true,
                                        .run = run_plan};
