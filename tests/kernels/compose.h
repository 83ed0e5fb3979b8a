/* SPDX-License-Identifier: Apache-2.0 */
/* Building any op of ops.h, or any composition of them that a variant declares, from a few widths. */
#ifndef TESTS_KERNELS_COMPOSE_H
#define TESTS_KERNELS_COMPOSE_H

#include "harness.h"

/* What an op needs to know; what it has no use for is ignored. Zeros mean the op's defaults. */
struct shape {
    uint64_t in_width[4];     /* of the inputs */
    uint64_t linear_width[8]; /* outputs of the first, second, ... matrix; embedding: row length */
    uint64_t group;           /* rms_norm: elements normalised together; 0: all */
    uint32_t act;             /* dtype of rows; 0: float32 */
    uint32_t matrix;          /* dtype of matrices */
    uint32_t vector;          /* dtype of norms and biases; 0: float32 */
    bool bias;
    uint64_t gap; /* bytes between rows of matrices */
    uint32_t heads, kv_heads, head_dim, rotary;
    bool pairs;
    int64_t max_position; /* rope: dynamic scaling */
    int64_t window;
    double softcap, scale, offset;
    int64_t table, first; /* entries of a table; vocab_first */
    uint32_t experts, top_k;
    const char *norm, *act_name;
    double act_scale;     /* of quantized linears; 0: dynamic */
    uint64_t quant_group; /* of linear.int4, and of experts in int4 */
    bool zero;            /* these with zero points */
};

/* Basic op `name` with fresh inputs. */
tn_op *compose_basic(struct kit *k, const char *name, const struct shape *s);
/* The fused op of `v`, wired as v->equals says; for a basic op, the same as compose_basic. */
tn_op *compose(struct kit *k, const tn_variant *v, const struct shape *s);

/* A shape of moderate size that fits the op of `v`, odd where it may be. */
struct shape shape_for(const tn_variant *v);

/* `op` with every linear.fp8 as variants of TN_VARIANT_WIDE_ROWS compute it, for run_reference. */
const tn_op *compose_wide_rows(struct kit *k, const tn_op *op);

#endif
