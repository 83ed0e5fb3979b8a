/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a build runs a model: for calibration and for the gate. The step loop is this room's neighbour, so whoever calls
 * build_engine (core/api) brings it. Ops run one by one, without fusion, so that every basic op can be watched.
 */
#ifndef CORE_BUILD_RUNNER_H
#define CORE_BUILD_RUNNER_H

#include <stdbool.h>

#include "tenon/error.h"
#include "tenon/op.h"

/* An op of a step, before it runs or after. */
struct run_moment {
    const tn_op *op;
    bool after;
    uint32_t n_rows;
    void *io; /* for the functions below */
    /* Copies input (or output) `i`, [n_rows, width], to or from float32 on the host. */
    int32_t (*get)(void *io, bool output, uint32_t i, float *dst, tn_err *err);
    int32_t (*set)(void *io, bool output, uint32_t i, const float *src, tn_err *err);
};

typedef int32_t (*run_tap)(void *arg, const struct run_moment *m, tn_err *err);

/* Receives logits of rows [first, first + n): float32 [n, vocab]. */
typedef void (*run_logits)(void *arg, const float *logits, uint32_t first, uint32_t n,
                           uint32_t vocab);

struct runner {
    void *arg;
    /* Opens the engine file for sequences of up to max_len tokens. `tap` may be NULL. */
    int32_t (*open)(void *arg, const char *engine, uint32_t max_len, run_tap tap, void *tap_arg,
                    void **run, tn_err *err);
    /* Runs one sequence from its start. `fn` is called on another thread, before this returns. */
    int32_t (*run)(void *run, const int32_t *ids, uint32_t n, run_logits fn, void *arg,
                   tn_err *err);
    void (*close)(void *run); /* NULL is allowed */
    /* The first op of the engine that the device has no arithmetic for; "" if there is none. Loads nothing. */
    int32_t (*probe)(void *arg, const char *engine, char *op, size_t size, tn_err *err);
};

#endif
