/* SPDX-License-Identifier: Apache-2.0 */
/* Good plans for tests to damage: single ops, a small model, and an engine file made of one. Every step is asserted, so
 * that a test which expects a refusal fails for no other reason. */
#ifndef TESTS_ENGINE_SAMPLE_PLAN_H
#define TESTS_ENGINE_SAMPLE_PLAN_H

#include <jansson.h>

#include "engine/plan.h"
#include "tenon/ops.h"

/* An op to add; zeroed fields are absent. */
struct sample_op {
    const char *name;
    int32_t layer;
    uint32_t n_in, in[TN_OP_MAX_VALUES];
    uint32_t n_weights, weights[TN_OP_MAX_VALUES];
    uint32_t n_attrs;
    const tn_attr *attrs;
    uint32_t n_out; /* 0 means 1 */
    struct plan_value out[TN_OP_MAX_VALUES];
};

#define SAMPLE_ROWS(w)                                                                             \
    {                                                                                              \
        .kind = TN_VALUE_ROWS, .dtype = TN_DT_ACT, .width = (w)                                    \
    }
#define SAMPLE_LOGITS(w)                                                                           \
    {                                                                                              \
        .kind = TN_VALUE_LOGITS, .dtype = TN_DT_F32, .width = (w)                                  \
    }
#define SAMPLE_KV                                                                                  \
    {                                                                                              \
        .kind = TN_VALUE_KV                                                                        \
    }

struct plan *sample_empty(void);
/* The id of the first output. */
uint32_t sample_add(struct plan *p, const struct sample_op *op);
/* The status of adding it. */
int32_t sample_try(struct plan *p, const struct sample_op *op, tn_err *err);
/* Adds a weight: of one dimension if d1 is 0, of two if d2 is 0. */
uint32_t sample_weight(struct plan *p, const char *name, uint32_t role, uint32_t dtype, uint64_t d0,
                       uint64_t d1, uint64_t d2);
/* A float32 vector of role norm. */
uint32_t sample_vector(struct plan *p, const char *name, uint64_t n);
/* A bfloat16 matrix. */
uint32_t sample_matrix(struct plan *p, const char *name, uint64_t rows, uint64_t cols);
/* A row of `width` activations, from an embedding of its own named `name`. */
uint32_t sample_rows(struct plan *p, const char *name, uint64_t width);

struct sample_model {
    uint64_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn;
    uint32_t dtype; /* of matrices */
    bool tied, bias;
};

#define SAMPLE_MODEL                                                                               \
    {                                                                                              \
        .vocab = 32, .hidden = 16, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 4,          \
        .ffn = 24, .dtype = TN_DT_BF16                                                             \
    }

/* A decoder as the llama plugin would emit it. */
struct plan *sample_model(const struct sample_model *m);

/* Writes DIR/model.engine for the plan. Weight i is dummy with seed i if dummy(i), else bytes of a pattern that
 * sample_byte gives. */
enum sample_weights { SAMPLE_STORED, SAMPLE_DUMMY, SAMPLE_MIXED };
void sample_engine(const char *dir, const struct plan *p, enum sample_weights weights);
json_t *sample_meta(void);

/* Byte `at` of weight `i` in a sample engine. */
static inline unsigned char sample_byte(uint64_t i, uint64_t at)
{
    return (unsigned char)(i * 31 + at * 7 + 1);
}

#endif
