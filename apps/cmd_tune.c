/* SPDX-License-Identifier: Apache-2.0 */
/* tenon tune: measures kernels for an engine on this machine. */
#include <stdio.h>

#include "api/tools.h"
#include "app.h"

static int32_t tune(const struct opts *o, tn_err *err)
{
    struct tool_conf conf = {opts_config(o), o->settings, o->n_settings};
    json_t *r = NULL;
    int32_t rc = tool_tune(&conf, opts_text(o, "engine"), opts_flag(o, "quiet"), app_interrupted,
                           NULL, &r, err);

    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(r, err);
    printf("%s: %lld times measured in %.1f s, kept in %s\n",
           json_string_value(json_object_get(r, "device")),
           (long long)json_integer_value(json_object_get(r, "times")),
           json_real_value(json_object_get(r, "seconds")),
           json_string_value(json_object_get(r, "file")));
    json_decref(r);
    return TN_OK;
}

static int run(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, tune);
}

static const struct opt options[] = {
    {"engine", OPT_TEXT, "DIR", "engine to measure for", 0, 0, NULL, true},
    {"quiet", OPT_FLAG, NULL, "no progress", 0, 0, NULL, false},
    {"json", OPT_FLAG, NULL, "print the result as JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_tune = {
    .name = "tune",
    .summary = "Measure which kernels are fastest for an engine on this machine",
    .details = "Every kernel that can run an op of the engine is timed with random weights of its "
               "shape, at all numbers of rows that "
               "matter. The times are kept in tuning.json inside the engine's directory, for this "
               "kind of device, driver and these "
               "kernel sets; opening the engine goes by them. The file can be deleted at any time. "
               "`tenon plugin explain` tells what "
               "was measured.",
    .own = options,
    .takes_conf = true,
    .run = run};
