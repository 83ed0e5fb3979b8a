/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoders of LLaMA's build, and what its descendants changed: a plugin fills in a struct decoder from its config.json, and
 * this makes the plan. Per layer: norm, q k v, rope, cache, attention, output projection, residual; norm, gate and up,
 * their product, down (or a mixture of experts), residual. Column-parallel matrices split their rows (heads, or single rows
 * of gate and up), row-parallel ones their columns, and each of the two halves of a layer ends in one all_reduce.
 */
#ifndef PLUGIN_MODELS_DECODER_H
#define PLUGIN_MODELS_DECODER_H

#include "model.h"

#define DECODER_MAX_LAYERS 1000
#define DECODER_MAX_EXPERTS 64

struct decoder {
    int64_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn, positions;
    double eps;
    const char *act; /* name of the op */
    bool tied;       /* the head is the embedding */
    bool qkv_bias, o_bias, mlp_bias;
    bool head_norms;    /* every head of q and k is normed before it is rotated */
    bool post_norms;    /* norms behind attention and feed-forward, too, as Gemma 2 calls them */
    double norm_offset; /* norms store w - norm_offset */
    double embed_scale; /* 1: none */
    double attn_scale;  /* of q k */
    double attn_softcap, softcap; /* of q k and of logits; 0: none */
    int64_t window;               /* tokens that windowed layers see */
    bool windowed[DECODER_MAX_LAYERS];
    int64_t experts, top_k; /* 0: one feed-forward */
};

/* What all descendants spell alike: sizes, heads, eps, and whether the head is tied. Where Transformers gives a field that is
 * absent a number of one published model, it is required here: better none than another model. */
struct decoder_defaults {
    int64_t kv_heads; /* when absent; 0: as many as heads; or MODEL_REQUIRED, like the others */
    int64_t head_dim; /* when absent; 0: hidden_size over the heads */
    int64_t positions;
    bool tied;
};

void decoder_read(struct model *m, const struct decoder_defaults *absent, struct decoder *out);

/* Marks the layers that see a window only: by layer_types where that is there, else those from `first` on with a step of
 * `every`. */
void decoder_windows(struct model *m, struct decoder *d, int64_t first, int64_t every);

/* Reads how positions are rotated, and emits the plan. Returns what tn_model_arch::build does. */
int32_t decoder_build(struct model *m, const struct decoder *d);

#endif
