/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary frequencies of the Hugging Face `llama` type and its descendants, with every scaling their config.json can name. */
#ifndef PLUGIN_MODELS_ROPE_H
#define PLUGIN_MODELS_ROPE_H

#include "tenon/model.h"

#define ROPE_MAX_FREQS 4096

struct rope {
    uint32_t n; /* frequencies: half of the rotated dimensions */
    float freqs[ROPE_MAX_FREQS];
    double mscale;        /* factor on cos and sin; 1 without scaling */
    double length_factor; /* by how much the scaling stretches max_position_embeddings */
    int64_t dynamic_from; /* dynamic NTK: length above which frequencies depend on it; 0: static */
    double base, factor;  /* of dynamic NTK */
};

/* Reads rope_theta, rope_scaling and rope_parameters (both spellings). `head_dim` is even, `max_positions`
 * is max_position_embeddings. */
int32_t rope_read(const tn_config_api *api, const tn_config *c, uint32_t head_dim,
                  int64_t max_positions, struct rope *out, tn_err *err);

#endif
