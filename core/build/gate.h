/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much quantization costs: a quantized engine beside the model as it is. Perplexity and divergence over evaluation
 * data decide whether a build may stand; the error of each linear, given the same inputs, tells which to raise.
 */
#ifndef CORE_BUILD_GATE_H
#define CORE_BUILD_GATE_H

#include "build/build.h"
#include "build/quant.h"
#include "build/runner.h"

struct gate_pair {
    const struct runner *runner;
    const char *base, *quantized; /* engine files */
    bool quiet;
    int (*stop)(void *arg);
    void *arg;
};

struct gate_result {
    double base_perplexity, perplexity;
    double kl; /* mean over predictions of KL(model || quantized), in nats */
    uint64_t n_targets;
};

/* Runs both over the data. */
int32_t gate_compare(const struct gate_pair *p, const struct token_set *data,
                     struct gate_result *out, tn_err *err);

/*
 * Fills quant_linear::error of all linears: |y' - y| / |y| over the rows of one sequence, where y' is what the linear of the
 * quantized engine makes of the input that the model itself has. So errors do not add up from layer to layer.
 */
int32_t gate_measure_linears(const struct gate_pair *p, struct quant *q, const int32_t *ids,
                             uint32_t n, tn_err *err);

/* Marks the worst `n` linears that are quantized as raised. Returns how many there were. */
uint32_t gate_raise(struct quant *q, uint32_t n);

#endif
