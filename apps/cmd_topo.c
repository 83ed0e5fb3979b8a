/* SPDX-License-Identifier: Apache-2.0 */
/* tenon topo: the devices of this machine, what lies between them, and who would join ranks on them. */
#include <stdio.h>

#include "api/tools.h"
#include "app.h"

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static int number_of(const json_t *o, const char *key)
{
    return (int)json_integer_value(json_object_get(o, key));
}

static double real_of(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_way(const char *name, const json_t *way)
{
    if (!json_is_object(way))
        printf("  %s: none", name);
    else if (!json_is_true(json_object_get(way, "intact")))
        printf("  %s: LOSES what is sent", name);
    else
        printf("  %s: %.1f us, %.1f GB/s", name, real_of(way, "latency_us"),
               real_of(way, "gb_per_s"));
}

static void print_pair(const json_t *p)
{
    printf("  %d to %d:", number_of(p, "from"), number_of(p, "to"));
    print_way("direct", json_object_get(p, "direct"));
    print_way("through the host", json_object_get(p, "staged"));
    printf("%s%s\n", text_of(p, "error")[0] ? "  " : "", text_of(p, "error"));
}

static void print_sum(const json_t *s)
{
    json_t *time;
    size_t i;

    printf("  %2d ranks: %-6s all-reduce", number_of(s, "ranks"), text_of(s, "plugin"));
    json_array_foreach(json_object_get(s, "times"), i, time) printf(
        "%s %d KiB %.1f us", i ? "," : "", number_of(time, "bytes") / 1024, real_of(time, "us"));
    printf("%s%s\n", text_of(s, "error")[0] ? ": " : "", text_of(s, "error"));
}

static void print_kind(const json_t *kind)
{
    const json_t *devices = json_object_get(kind, "devices"),
                 *links = json_object_get(kind, "links");
    size_t n = json_array_size(devices), i, k;
    json_t *path;

    printf("%s: %zu device%s\n", text_of(kind, "kind"), n, n == 1 ? "" : "s");
    for (i = 0; i < n; i++) {
        const json_t *d = json_array_get(devices, i);
        printf("  %-3d %-28s %-14s numa %-3d", number_of(d, "index"), text_of(d, "name"),
               text_of(d, "bus"), number_of(d, "numa"));
        for (k = 0; k < n; k++) {
            const json_t *l = json_array_get(json_array_get(links, i), k);
            printf(" %6s%s", text_of(l, "kind"),
                   json_is_true(json_object_get(l, "access")) ? " " : "!");
        }
        printf("\n");
    }
    json_array_foreach(json_object_get(kind, "paths"), i, path)
        printf("  %2d ranks: %-6s %s\n", number_of(path, "ranks"), text_of(path, "plugin"),
               text_of(path, "why"));
    json_array_foreach(json_object_get(kind, "pairs"), i, path) print_pair(path);
    json_array_foreach(json_object_get(kind, "sums"), i, path) print_sum(path);
}

static int32_t topo(const struct opts *o, tn_err *err)
{
    struct tool_conf conf = {opts_config(o), o->settings, o->n_settings};
    json_t *r = NULL, *item;
    size_t i;
    int32_t rc = tool_topo(&conf, opts_flag(o, "measure"), &r, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(r, err);
    json_array_foreach(json_object_get(r, "kinds"), i, item) print_kind(item);
    json_array_foreach(json_object_get(r, "comm"), i, item)
        printf("%s %-6s moves %s%s%s%s%s%s\n", i == 0 ? "comm:" : "     ", text_of(item, "name"),
               text_of(item, "moves"),
               json_is_true(json_object_get(item, "hosts")) ? ", between hosts" : "",
               json_is_true(json_object_get(item, "captured")) ? ", in graphs" : "",
               json_is_true(json_object_get(item, "own_device")) ? ", a device per rank" : "",
               text_of(item, "found")[0] ? "; " : "", text_of(item, "found"));
    json_decref(r);
    return TN_OK;
}

static int run(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, topo);
}

static const struct opt options[] = {
    {"measure", OPT_FLAG, NULL,
     "time copies between the devices, and sums of ranks on them; they must not be at work", 0, 0,
     NULL, false},
    {"json", OPT_FLAG, NULL, "print the result as JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_topo = {
    .name = "topo",
    .summary =
        "Show the devices of this machine, what joins them, and who would join ranks on them",
    .details = "One row per device: its name, where it is plugged in, its NUMA node, and the way "
               "to each other device of "
               "its kind; an exclamation mark stands behind ways on which neither reaches the "
               "other's memory. Then which "
               "comm plugin would join 2, 4, ... ranks there, and why. Memory of several hosts is "
               "joined by `mpi`, `tcp` or "
               "`nccl`. With --measure, what copies between each two devices take (4 KiB, 16 MiB), "
               "whether they arrive, and what an all-reduce takes with each plugin that could join "
               "ranks there.",
    .own = options,
    .takes_conf = true,
    .run = run};
