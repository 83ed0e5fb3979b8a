/* SPDX-License-Identifier: Apache-2.0 */
/* The built llama plugin, a config.json that it accepts, and a checkpoint that belongs to that. */
#ifndef TESTS_BUILD_LLAMA_PLUGIN_H
#define TESTS_BUILD_LLAMA_PLUGIN_H

#include <jansson.h>

#include "build/emit.h"

/* vocab 16, hidden 8, 2 layers, 2 heads of 4, 1 kv head, ffn 12. */
json_t *llama_config(void);

/* Runs the plugin; errors name "config.json". */
int32_t llama_emit(const json_t *config, const struct checkpoint *c, struct emission *out,
                   tn_err *err);

/* How a checkpoint departs from what the config calls for; NULL or 0: it does not. */
struct llama_tweak {
    const char *omit;    /* this tensor is absent */
    const char *resize;  /* this one has one row more */
    const char *flatten; /* this one has one dimension, of as many elements */
    const char *extra;   /* one more tensor, [8] */
    bool no_head;        /* no lm_head.weight */
    bool bias;           /* the attention has biases */
};

/* Writes model.safetensors in `dir`. */
void llama_checkpoint(const char *dir, const struct llama_tweak *t);

#endif
