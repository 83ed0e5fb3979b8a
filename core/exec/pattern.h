/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The composition that a fused variant states in tn_variant::equals, parsed:
 *
 *     pattern   := "(" names ")" "->" "(" names ")" ":" statement { ";" statement }
 *     statement := names "=" op "(" names ")"
 *     names     := [ name { "," name } ]
 *
 * A name is defined once, before it is used; every input is used; op names are [A-Za-z0-9_.]. The text comes
 * from a plugin and is checked like any input.
 */
#ifndef CORE_EXEC_PATTERN_H
#define CORE_EXEC_PATTERN_H

#include <stdbool.h>

#include "base/err.h"
#include "tenon/op.h"

#define PATTERN_MAX_NAMES 32
#define PATTERN_NAME 32

struct pattern_step {
    char op[64];
    uint32_t n_in, n_out;
    uint8_t in[TN_OP_MAX_VALUES]; /* indexes of names */
    uint8_t out[TN_OP_MAX_VALUES];
};

struct pattern {
    char names[PATTERN_MAX_NAMES][PATTERN_NAME];
    uint32_t n_names;
    uint32_t n_in, n_out;
    uint8_t in[TN_OP_MAX_VALUES];
    uint8_t out[TN_OP_MAX_VALUES];
    uint32_t n_steps;
    struct pattern_step steps[TN_OP_MAX_MEMBERS];
};

/* TN_E_FORMAT with the position (as offset) and what was expected there. */
int32_t pattern_parse(const char *text, struct pattern *out, tn_err *err);

#endif
