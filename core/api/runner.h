/* SPDX-License-Identifier: Apache-2.0 */
/* Runs models for core/build: a runtime of its own per engine, with one sequence at a time. */
#ifndef CORE_API_RUNNER_H
#define CORE_API_RUNNER_H

#include "api/tools.h"
#include "build/runner.h"

/* A runner with the configuration `conf`, which outlives it. */
struct runner api_runner(const struct tool_conf *conf);

#endif
