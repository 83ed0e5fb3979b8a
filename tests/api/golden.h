/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints of tests/models with what another implementation computes of them, and runs to compare with it. Inside of a Check
 * test. */
#ifndef TESTS_API_GOLDEN_H
#define TESTS_API_GOLDEN_H

#include <stdbool.h>

#include "tenon.h"

/* What the issue of ranks promises; the margin below which the second-best token is as good. */
#define GOLDEN_TOLERANCE 1e-3f
#define GOLDEN_MARGIN 2e-3f

struct golden {
    char model[32], path[256]; /* of the checkpoint */
    int32_t *ids, *greedy;
    float *logits, *margin; /* logits: [n_ids, vocab] */
    uint32_t n_ids, n_greedy, n_margin, vocab;
};

/* All checkpoints that have goldens; ends with NULL. */
extern const char *const golden_models[];
#define GOLDEN_MODELS 17

/* How many ranks run a model, and in how many parts at once. */
struct layout {
    const char *tp, *pp, *parts;
};

void golden_read(const char *model, struct golden *g);
void golden_release(struct golden *g);

/* Whether the model's heads and layers can be divided so; what cannot must be refused. */
bool golden_divides(const struct golden *g, const struct layout *l);

/* Logits of all rows, as the runtime computes them; [n_ids, vocab], for mem_free. */
float *golden_logits(tn_runtime *rt, const struct golden *g);

/* Largest difference, and root of the mean square. NaN sticks. */
float golden_worst(const struct golden *g, const float *a, const float *b);
double golden_distance(const struct golden *g, const float *a, const float *b);

/* Logits and greedy tokens are those of the golden. */
void golden_check(tn_runtime *rt, const struct golden *g, const char *what);

/* A quantized engine, calibrated with the golden's ids. */
struct scheme {
    const char *name;
    tn_kv option;
    bool exact; /* activations stay as they are: ranks compute the same but for the order of sums */
};

extern const struct scheme golden_schemes[];
#define GOLDEN_SCHEMES 3

void golden_quantize(const struct golden *g, const struct scheme *s, const char *engine);

/* Logits of several ranks beside those of one: as near as the scheme allows, and not further from the golden. */
void golden_agree(const struct golden *g, const struct scheme *s, const struct layout *l,
                  const char *kv, const float *one, const float *many);

#endif
