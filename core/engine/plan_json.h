/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stored form of a plan, version 1:
 *
 *   {"format": 1,
 *    "hyper":   {"vocab_size": 8192, ...},
 *    "weights": [{"name": "embed.weight", "role": "embedding", "dtype": "bfloat16",
 *                 "dims": [8192, 256], "shard": "axis0", "units": 0}, ...],
 *    "ops":     [{"op": "linear", "layer": 0, "in": [3], "w": [5],
 *                 "attrs": {"n_heads*": 4}, "out": [["rows", "act", 256, 4]]}, ...]}
 *
 * Values are numbered in order of appearance in "out"; an entry there is [kind, dtype, width, units]. An
 * attribute whose name ends in "*" is divided by tensor parallelism (::TN_ATTR_SHARDED).
 * Reading checks everything that building a plan checks: the text may come from anywhere.
 */
#ifndef CORE_ENGINE_PLAN_JSON_H
#define CORE_ENGINE_PLAN_JSON_H

#include <jansson.h>

#include "engine/plan.h"

int32_t plan_to_json(const struct plan *p, json_t **out, tn_err *err);

/* `file` names the source in errors. */
int32_t plan_from_json(const json_t *root, const char *file, struct plan **out, tn_err *err);

#endif
