/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Hugging Face `gpt2` type (Radford et al. 2019) as a plan of basic ops. Learned positions, layer norms with biases, and
 * matrices that the checkpoint holds the other way round, q, k and v in one. Per layer: norm, q k v, cache, attention,
 * projection, residual; norm, a matrix, an activation, a matrix back, residual.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../common/model.h"
#include "../common/plugin.h"

MODEL_NOTE("gpt2");

struct shape {
    int64_t vocab, hidden, layers, heads, head_dim, ffn, positions;
    double eps;
    const char *act;
    bool tied, scaled, by_layer;
};

static void read_shape(struct model *m, struct shape *s)
{
    s->vocab = model_int(m, "vocab_size", 1, 1 << 24, MODEL_REQUIRED);
    s->hidden = model_int(m, "n_embd", 1, 1 << 20, MODEL_REQUIRED);
    s->layers = model_int(m, "n_layer", 1, 1000, MODEL_REQUIRED);
    s->heads = model_int(m, "n_head", 1, 65536, MODEL_REQUIRED);
    s->positions = model_int(m, "n_positions", 1, 1 << 26, 1024);
    s->ffn = model_int(m, "n_inner", 1, 1 << 22, 4 * s->hidden);
    s->eps = model_real(m, "layer_norm_epsilon", 0.0, 1.0, 1e-5);
    s->act = model_activation(m, "activation_function", "gelu_new");
    s->tied = model_flag(m, "tie_word_embeddings", true);
    s->scaled = model_flag(m, "scale_attn_weights", true);
    s->by_layer = model_flag(m, "scale_attn_by_inverse_layer_idx", false);
    if (model_flag(m, "add_cross_attention", false))
        model_refuse(m, "add_cross_attention", "there is no encoder to look at");
    if (m->rc == TN_OK && s->hidden % s->heads != 0)
        model_refuse(m, "n_head", "must divide n_embd");
    s->head_dim = s->hidden / s->heads;
}

/* Old checkpoints have the same names without "transformer.". */
static void both_names(const struct model *m, const char *tensor, char out[2][96])
{
    if (m->layer >= 0) { /* the layer's own prefix is put before them */
        snprintf(out[0], 96, "%s", tensor);
        out[1][0] = '\0';
        return;
    }
    snprintf(out[0], 96, "transformer.%s", tensor);
    snprintf(out[1], 96, "%s", tensor);
}

static uint32_t norm(struct model *m, const struct shape *s, const char *name, const char *tensor,
                     uint32_t x)
{
    static const char *const tails[] = {"weight", "bias"};
    struct model_op op = {.name = TN_OP_LAYER_NORM,
                          .in = {x},
                          .n_in = 1,
                          .n_weights = 2,
                          .attrs = {TN_ATTR_REAL("eps", s->eps)},
                          .n_attrs = 1};

    for (int i = 0; i < 2; i++) {
        char canonical[48], stored[48], names[2][96];
        snprintf(canonical, sizeof canonical, "%s.%s", name, tails[i]);
        snprintf(stored, sizeof stored, "%s.%s", tensor, tails[i]);
        both_names(m, stored, names);
        op.weights[i] =
            model_weight(m, &(struct model_weight){.name = canonical,
                                                   .tensor = names[0],
                                                   .other = names[1][0] ? names[1] : NULL,
                                                   .role = i ? TN_ROLE_BIAS : TN_ROLE_NORM,
                                                   .rows = (uint64_t)s->hidden});
    }
    return model_op(m, &op, model_rows(s->hidden, 0));
}

/* The nth of the three matrices that the checkpoint keeps in one. */
static uint32_t part_of_three(struct model *m, const struct shape *s, const char *name, int64_t n,
                              uint32_t x)
{
    const struct model_linear l = {.name = name,
                                   .tensor = "attn.c_attn",
                                   .out = s->hidden,
                                   .in = s->hidden,
                                   .shard = TN_SHARD_AXIS0,
                                   .units = s->heads,
                                   .bias = true,
                                   .transposed = true,
                                   .part = true,
                                   .first = n * s->hidden};

    return model_linear(m, &l, x);
}

static uint32_t attention(struct model *m, const struct shape *s, uint32_t x)
{
    double scale = s->scaled ? 1.0 / sqrt((double)s->head_dim) : 1.0;
    const tn_value_decl cache = {TN_HDR(tn_value_decl), TN_VALUE_KV, 0, 0, 0, 0};
    const struct model_linear o = {.name = "attn.o",
                                   .tensor = "attn.c_proj",
                                   .out = s->hidden,
                                   .in = s->hidden,
                                   .shard = TN_SHARD_AXIS1,
                                   .units = s->heads,
                                   .bias = true,
                                   .transposed = true};
    uint32_t h = norm(m, s, "attn_norm", "ln_1", x);
    uint32_t q = part_of_three(m, s, "attn.q", 0, h);
    struct model_op append = {
        .name = TN_OP_KV_APPEND,
        .n_in = 2,
        .attrs = {TN_ATTR_HEADS("n_kv_heads", s->heads), TN_ATTR_INT("head_dim", s->head_dim)},
        .n_attrs = 2};
    struct model_op op = {
        .name = TN_OP_ATTENTION,
        .in = {q},
        .n_in = 2,
        .attrs = {TN_ATTR_HEADS("n_heads", s->heads), TN_ATTR_HEADS("n_kv_heads", s->heads),
                  TN_ATTR_INT("head_dim", s->head_dim),
                  TN_ATTR_REAL("scale", s->by_layer ? scale / (m->layer + 1) : scale)},
        .n_attrs = 4};

    append.in[0] = part_of_three(m, s, "attn.k", 1, h);
    append.in[1] = part_of_three(m, s, "attn.v", 2, h);
    op.in[1] = model_op(m, &append, cache);
    h = model_op(m, &op, model_rows(s->hidden, s->heads));
    return model_binary(m, TN_OP_ADD, x, model_linear(m, &o, h), model_rows(s->hidden, 0));
}

static uint32_t feed_forward(struct model *m, const struct shape *s, uint32_t x)
{
    struct model_linear l = {.name = "mlp.up",
                             .tensor = "mlp.c_fc",
                             .out = s->ffn,
                             .in = s->hidden,
                             .shard = TN_SHARD_AXIS0,
                             .units = s->ffn,
                             .bias = true,
                             .transposed = true};
    uint32_t h = model_linear(m, &l, norm(m, s, "mlp_norm", "ln_2", x));

    h = model_unary(m, s->act, h, model_rows(s->ffn, s->ffn));
    l.name = "mlp.down";
    l.tensor = "mlp.c_proj";
    l.out = s->hidden;
    l.in = s->ffn;
    l.shard = TN_SHARD_AXIS1;
    h = model_linear(m, &l, h);
    return model_binary(m, TN_OP_ADD, x, h, model_rows(s->hidden, 0));
}

/* Embeddings of tokens, of which ranks have parts, and of positions, which all have. */
static uint32_t embedding(struct model *m, const struct shape *s, uint32_t *tokens)
{
    struct model_weight w = {.name = "embed.weight",
                             .tensor = "transformer.wte.weight",
                             .other = "wte.weight",
                             .role = TN_ROLE_EMBEDDING,
                             .rows = (uint64_t)s->vocab,
                             .cols = (uint64_t)s->hidden,
                             .shard = TN_SHARD_AXIS0};
    struct model_op op = {.name = TN_OP_EMBEDDING, .n_weights = 1};
    uint32_t x, at;

    op.weights[0] = *tokens = model_weight(m, &w);
    x = model_all_reduce(m, model_op(m, &op, model_rows(s->hidden, 0)), s->hidden);
    w.name = "position.weight";
    w.tensor = "transformer.wpe.weight";
    w.other = "wpe.weight";
    w.rows = (uint64_t)s->positions;
    w.shard = TN_SHARD_NONE;
    op.name = TN_OP_POSITION;
    op.weights[0] = model_weight(m, &w);
    at = model_op(m, &op, model_rows(s->hidden, 0));
    return model_binary(m, TN_OP_ADD, x, at, model_rows(s->hidden, 0));
}

static void head(struct model *m, const struct shape *s, uint32_t tokens, uint32_t x)
{
    const struct model_weight w = {.name = "head.weight",
                                   .tensor = "lm_head.weight",
                                   .role = TN_ROLE_HEAD,
                                   .rows = (uint64_t)s->vocab,
                                   .cols = (uint64_t)s->hidden,
                                   .shard = TN_SHARD_AXIS0};

    m->layer = -1;
    x = norm(m, s, "norm", "ln_f", x);
    if (s->tied)
        model_ignore(m, "lm_head.weight"); /* some files store the tied copy too */
    model_head(m, s->tied ? tokens : model_weight(m, &w), x, s->vocab, 0.0);
}

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    struct model m = MODEL_BEGIN(capi, config, papi, builder, err);
    struct shape s = {0};
    uint32_t tokens = 0, x;

    (void)instance;
    read_shape(&m, &s);
    m.layers = papi->has_tensor(builder, "wte.weight") ? "h" : "transformer.h";
    model_set(&m, TN_HP_VOCAB, s.vocab);
    model_set(&m, TN_HP_HIDDEN, s.hidden);
    model_set(&m, TN_HP_LAYERS, s.layers);
    model_set(&m, TN_HP_MAX_POSITIONS, s.positions);
    model_set(&m, TN_HP_HEADS, s.heads);
    model_set(&m, TN_HP_KV_HEADS, s.heads);
    model_set(&m, TN_HP_HEAD_DIM, s.head_dim);
    model_set(&m, TN_HP_FFN, s.ffn);
    model_ignore(&m, ".attn.bias"); /* masks, which old checkpoints store */
    model_ignore(&m, ".attn.masked_bias");
    x = embedding(&m, &s, &tokens);
    for (m.layer = 0; m.layer < s.layers && m.rc == TN_OK; m.layer++)
        x = feed_forward(&m, &s, attention(&m, &s, x));
    head(&m, &s, tokens, x);
    return m.rc;
}

static const char *const model_types[] = {"gpt2", NULL};
MODEL_PLUGIN("gpt2", model_types, build)
