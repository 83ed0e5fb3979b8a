/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of the one binary share. */
#ifndef APPS_APP_H
#define APPS_APP_H

#include <jansson.h>

#include "opt.h"
#include "tenon.h"

extern const struct command cmd_bench_latency, cmd_build, cmd_run, cmd_eval_logits,
    cmd_eval_perplexity, cmd_text_encode, cmd_text_decode, cmd_text_chat, cmd_plugin_list,
    cmd_plugin_explain, cmd_engine_inspect, cmd_engine_verify, cmd_engine_diff, cmd_engine_plan,
    cmd_tune, cmd_topo;

/* All commands, in the order of the documentation; ends with NULL. */
extern const struct command *const commands[];

/* Runs `body` with parsed options, or prints the help. The usual body of a command's `run`. */
int app_main(const struct command *c, int argc, char **argv,
             int32_t (*body)(const struct opts *, tn_err *));

/* Prints an error for people to stderr; returns the exit code of its status. */
int app_fail(const tn_err *err);

/* Nonzero once SIGINT or SIGTERM has come; long tasks poll it. Installs the handlers on the first call. */
int app_interrupted(void *unused);

/* Prints JSON to stdout, indented on a terminal, with a newline; drops the reference. */
int32_t app_print_json(json_t *v, tn_err *err);

/* Opens a runtime with the options of the command line; --engine names the engine. */
int32_t app_open(const struct opts *o, const tn_kv *more, uint32_t n_more, tn_runtime **out,
                 tn_err *err);

#endif
