/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing is kept between builds; any thread. */
#include "decoder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rope.h"

/* -- Reading --------------------------------------------------------------------------------------------- */

static void read_heads(struct model *m, const struct decoder_defaults *absent, struct decoder *d)
{
    d->heads = model_int(m, "num_attention_heads", 1, 65536, MODEL_REQUIRED);
    d->kv_heads = model_int(m, "num_key_value_heads", 1, 65536,
                            absent->kv_heads ? absent->kv_heads : d->heads);
    d->head_dim = model_int(m, "head_dim", 2, 8192, absent->head_dim);
    if (d->head_dim == 0 && d->hidden % d->heads != 0)
        model_refuse(m, "num_attention_heads", "must divide hidden_size");
    if (d->head_dim == 0)
        d->head_dim = d->hidden / d->heads;
    if (m->rc == TN_OK && d->heads % d->kv_heads != 0)
        model_refuse(m, "num_key_value_heads", "must divide num_attention_heads");
}

void decoder_read(struct model *m, const struct decoder_defaults *absent, struct decoder *out)
{
    *out = (struct decoder){.embed_scale = 1.0};
    out->vocab = model_int(m, "vocab_size", 1, 1 << 24, MODEL_REQUIRED);
    out->hidden = model_int(m, "hidden_size", 1, 1 << 20, MODEL_REQUIRED);
    out->layers = model_int(m, "num_hidden_layers", 1, DECODER_MAX_LAYERS, MODEL_REQUIRED);
    out->ffn = model_int(m, "intermediate_size", 1, 1 << 22, MODEL_REQUIRED);
    out->positions = model_int(m, "max_position_embeddings", 1, 1 << 26, absent->positions);
    read_heads(m, absent, out);
    out->tied = model_flag(m, "tie_word_embeddings", absent->tied);
    out->eps = model_real(m, "rms_norm_eps", 0.0, 1.0, 1e-6);
    out->attn_scale = 1.0 / sqrt((double)out->head_dim);
}

void decoder_windows(struct model *m, struct decoder *d, int64_t first, int64_t every)
{
    for (int64_t i = 0; i < d->layers && d->window > 0 && m->rc == TN_OK; i++) {
        bool on = i >= first && (i - first) % every == 0;
        const char *usual = on ? "sliding_attention" : "full_attention", *kind;
        char path[40];
        snprintf(path, sizeof path, "layer_types[%d]", (int)i);
        kind = model_text(m, path, usual);
        d->windowed[i] = strcmp(kind, "sliding_attention") == 0;
        if (!d->windowed[i] && strcmp(kind, "full_attention") != 0)
            model_refuse(m, path, "sliding_attention and full_attention are supported");
    }
}

/* -- Emitting -------------------------------------------------------------------------------------------- */

/* What emitting needs beside the model. */
struct emit {
    struct model *m;
    const struct decoder *d;
    const struct rope *rope;
    uint32_t freqs; /* weight id of the rope frequencies */
};

/* A norm over groups of `size` elements of a row of `width`. */
static uint32_t norm(const struct emit *e, const char *name, const char *tensor, uint32_t x,
                     int64_t size, int64_t width, int64_t units)
{
    char canonical[48], stored[64];
    const struct model_weight w = {
        .name = canonical, .tensor = stored, .role = TN_ROLE_NORM, .rows = (uint64_t)size};
    struct model_op op = {.name = TN_OP_RMS_NORM,
                          .in = {x},
                          .n_in = 1,
                          .n_weights = 1,
                          .attrs = {TN_ATTR_REAL("eps", e->d->eps)},
                          .n_attrs = 1};

    snprintf(canonical, sizeof canonical, "%s.weight", name);
    snprintf(stored, sizeof stored, "%s.weight", tensor);
    if (e->d->norm_offset != 0)
        op.attrs[op.n_attrs++] = (tn_attr)TN_ATTR_REAL("offset", e->d->norm_offset);
    op.weights[0] = model_weight(e->m, &w);
    return model_op(e->m, &op, model_rows(width, units));
}

static uint32_t row_norm(const struct emit *e, const char *name, const char *tensor, uint32_t x)
{
    return norm(e, name, tensor, x, e->d->hidden, e->d->hidden, 0);
}

static uint32_t rotate(const struct emit *e, uint32_t x, int64_t heads)
{
    const struct rope *r = e->rope;
    const struct model_op op = {
        .name = TN_OP_ROPE,
        .in = {x},
        .n_in = 1,
        .weights = {e->freqs},
        .n_weights = 1,
        .attrs = {TN_ATTR_HEADS("n_heads", heads), TN_ATTR_INT("head_dim", e->d->head_dim),
                  TN_ATTR_INT("rotary_dim", 2 * (int64_t)r->n), TN_ATTR_TEXT("style", "half"),
                  TN_ATTR_REAL("mscale", r->mscale), TN_ATTR_REAL("base", r->base),
                  TN_ATTR_REAL("factor", r->factor), TN_ATTR_INT("max_position", r->dynamic_from)},
        .n_attrs = r->dynamic_from ? 8 : 5};

    return model_op(e->m, &op, model_rows(heads * e->d->head_dim, heads));
}

static uint32_t cached_attention(const struct emit *e, uint32_t q, uint32_t k, uint32_t v)
{
    const struct decoder *d = e->d;
    const tn_value_decl cache = {TN_HDR(tn_value_decl), TN_VALUE_KV, 0, 0, 0, 0};
    const struct model_op append = {
        .name = TN_OP_KV_APPEND,
        .in = {k, v},
        .n_in = 2,
        .attrs = {TN_ATTR_HEADS("n_kv_heads", d->kv_heads), TN_ATTR_INT("head_dim", d->head_dim)},
        .n_attrs = 2};
    struct model_op op = {
        .name = TN_OP_ATTENTION,
        .in = {q},
        .n_in = 2,
        .attrs = {TN_ATTR_HEADS("n_heads", d->heads), TN_ATTR_HEADS("n_kv_heads", d->kv_heads),
                  TN_ATTR_INT("head_dim", d->head_dim), TN_ATTR_REAL("scale", d->attn_scale)},
        .n_attrs = 4};

    if (d->window > 0 && d->windowed[e->m->layer])
        op.attrs[op.n_attrs++] = (tn_attr)TN_ATTR_INT("window", d->window);
    if (d->attn_softcap > 0)
        op.attrs[op.n_attrs++] = (tn_attr)TN_ATTR_REAL("softcap", d->attn_softcap);
    op.in[1] = model_op(e->m, &append, cache);
    return model_op(e->m, &op, model_rows(d->heads * d->head_dim, d->heads));
}

/* q, k or v. */
static uint32_t heads_of(const struct emit *e, const char *name, const char *tensor, uint32_t x,
                         int64_t heads)
{
    const struct model_linear l = {.name = name,
                                   .tensor = tensor,
                                   .out = heads * e->d->head_dim,
                                   .in = e->d->hidden,
                                   .shard = TN_SHARD_AXIS0,
                                   .units = heads,
                                   .bias = e->d->qkv_bias};

    return model_linear(e->m, &l, x);
}

static uint32_t head_norm(const struct emit *e, const char *name, const char *tensor, uint32_t x,
                          int64_t heads)
{
    int64_t dim = e->d->head_dim;

    return e->d->head_norms ? norm(e, name, tensor, x, dim, heads * dim, heads) : x;
}

static uint32_t attention(const struct emit *e, uint32_t x)
{
    const struct decoder *d = e->d;
    const struct model_linear o = {.name = "attn.o",
                                   .tensor = "self_attn.o_proj",
                                   .out = d->hidden,
                                   .in = d->heads * d->head_dim,
                                   .shard = TN_SHARD_AXIS1,
                                   .units = d->heads,
                                   .bias = d->o_bias};
    uint32_t h = row_norm(e, "attn_norm", "input_layernorm", x);
    uint32_t q = heads_of(e, "attn.q", "self_attn.q_proj", h, d->heads);
    uint32_t k = heads_of(e, "attn.k", "self_attn.k_proj", h, d->kv_heads);
    uint32_t v = heads_of(e, "attn.v", "self_attn.v_proj", h, d->kv_heads);

    q = head_norm(e, "attn.q_norm", "self_attn.q_norm", q, d->heads);
    k = head_norm(e, "attn.k_norm", "self_attn.k_norm", k, d->kv_heads);
    q = rotate(e, q, d->heads);
    k = rotate(e, k, d->kv_heads);
    h = model_linear(e->m, &o, cached_attention(e, q, k, v));
    if (d->post_norms)
        h = row_norm(e, "attn_post_norm", "post_attention_layernorm", h);
    return model_binary(e->m, TN_OP_ADD, x, h, model_rows(d->hidden, 0));
}

static uint32_t feed_forward(const struct emit *e, uint32_t h)
{
    const struct decoder *d = e->d;
    struct model_linear l = {.name = "mlp.gate",
                             .tensor = "mlp.gate_proj",
                             .out = d->ffn,
                             .in = d->hidden,
                             .shard = TN_SHARD_AXIS0,
                             .units = d->ffn,
                             .bias = d->mlp_bias};
    tn_value_decl inner = model_rows(d->ffn, d->ffn);
    uint32_t gate = model_linear(e->m, &l, h), up;

    l.name = "mlp.up";
    l.tensor = "mlp.up_proj";
    up = model_linear(e->m, &l, h);
    gate = model_unary(e->m, d->act, gate, inner);
    h = model_binary(e->m, TN_OP_MUL, gate, up, inner);
    l = (struct model_linear){.name = "mlp.down",
                              .tensor = "mlp.down_proj",
                              .out = d->hidden,
                              .in = d->ffn,
                              .shard = TN_SHARD_AXIS1,
                              .units = d->ffn,
                              .bias = d->mlp_bias};
    return model_linear(e->m, &l, h);
}

/* One matrix of all experts, [experts, rows, cols]: every rank has a slice of each expert. llm-compressor, which takes experts
 * apart itself, names their matrices otherwise. */
static uint32_t expert_weights(const struct emit *e, const char *name, const char *const tensors[2],
                               int64_t rows, int64_t cols, uint32_t shard)
{
    struct model *m = e->m;
    uint32_t n = (uint32_t)e->d->experts;
    tn_weight_source sources[2 * DECODER_MAX_EXPERTS];
    char names[2 * DECODER_MAX_EXPERTS][96], canonical[48];
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl),
                        .name = canonical,
                        .role = TN_ROLE_MATRIX,
                        .n_dims = 3,
                        .dims = {n, (uint64_t)rows, (uint64_t)cols},
                        .shard = shard,
                        .shard_units = (uint32_t)e->d->ffn,
                        .n_sources = 2 * n,
                        .sources = sources};
    uint32_t id = 0;

    if (m->rc != TN_OK)
        return 0;
    snprintf(canonical, sizeof canonical, "layers.%d.moe.%s.weight", (int)m->layer, name);
    for (uint32_t i = 0; i < 2 * n; i++) {
        snprintf(names[i], sizeof names[i], "%s.%d.block_sparse_moe.experts.%u.%s.weight",
                 m->layers, (int)m->layer, (unsigned)(i % n), tensors[i / n]);
        sources[i] = (tn_weight_source){
            .h = TN_HDR(tn_weight_source), .tensor = names[i], .optional = i < n};
    }
    m->rc = m->papi->weight(m->builder, &d, &id, m->err);
    return id;
}

static uint32_t route(const struct emit *e, uint32_t h, uint32_t chosen[2])
{
    const struct decoder *d = e->d;
    const struct model_linear router = {.name = "moe.router",
                                        .tensor = "block_sparse_moe.gate",
                                        .out = d->experts,
                                        .in = d->hidden};
    uint32_t scores = model_linear(e->m, &router, h);
    const tn_attr attrs[] = {TN_ATTR_INT("top_k", d->top_k), TN_ATTR_TEXT("norm", "softmax_topk")};
    const tn_value_decl out[] = {
        {TN_HDR(tn_value_decl), TN_VALUE_ROWS, TN_DT_I32, (uint64_t)d->top_k, 0, 0},
        {TN_HDR(tn_value_decl), TN_VALUE_ROWS, TN_DT_F32, (uint64_t)d->top_k, 0, 0}};
    const tn_op_decl op = {.h = TN_HDR(tn_op_decl),
                           .name = TN_OP_MOE_ROUTE,
                           .layer = e->m->layer,
                           .n_in = 1,
                           .n_attrs = 2,
                           .n_out = 2,
                           .in = &scores,
                           .attrs = attrs,
                           .out = out};

    if (e->m->rc == TN_OK)
        e->m->rc = e->m->papi->op(e->m->builder, &op, chosen, e->m->err);
    return scores;
}

static uint32_t experts(const struct emit *e, uint32_t h)
{
    static const char *const gate[] = {"gate_proj", "w1"}, *const up[] = {"up_proj", "w3"},
                             *const down[] = {"down_proj", "w2"};
    const struct decoder *d = e->d;
    uint32_t chosen[2] = {0, 0};
    struct model_op op = {.name = TN_OP_MOE_MLP,
                          .n_in = 3,
                          .n_weights = 3,
                          .attrs = {TN_ATTR_TEXT("act", d->act)},
                          .n_attrs = 1};
    uint32_t y;

    route(e, h, chosen);
    op.in[0] = h;
    op.in[1] = chosen[0];
    op.in[2] = chosen[1];
    op.weights[0] = expert_weights(e, "gate", gate, d->ffn, d->hidden, TN_SHARD_AXIS1);
    op.weights[1] = expert_weights(e, "up", up, d->ffn, d->hidden, TN_SHARD_AXIS1);
    op.weights[2] = expert_weights(e, "down", down, d->hidden, d->ffn, TN_SHARD_AXIS2);
    y = model_op(e->m, &op, model_rows(d->hidden, 0));
    return model_all_reduce(e->m, y, d->hidden);
}

static uint32_t mlp(const struct emit *e, uint32_t x)
{
    const struct decoder *d = e->d;
    const char *before = d->post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    uint32_t h = row_norm(e, "mlp_norm", before, x);

    h = d->experts ? experts(e, h) : feed_forward(e, h);
    if (d->post_norms)
        h = row_norm(e, "mlp_post_norm", "post_feedforward_layernorm", h);
    return model_binary(e->m, TN_OP_ADD, x, h, model_rows(d->hidden, 0));
}

static uint32_t embedding(const struct emit *e, uint32_t *weight)
{
    const struct decoder *d = e->d;
    const struct model_weight w = {.name = "embed.weight",
                                   .tensor = "model.embed_tokens.weight",
                                   .role = TN_ROLE_EMBEDDING,
                                   .rows = (uint64_t)d->vocab,
                                   .cols = (uint64_t)d->hidden,
                                   .shard = TN_SHARD_AXIS0};
    struct model_op op = {.name = TN_OP_EMBEDDING, .n_weights = 1};

    if (d->embed_scale != 1.0)
        op.attrs[op.n_attrs++] = (tn_attr)TN_ATTR_REAL("scale", d->embed_scale);
    op.weights[0] = *weight = model_weight(e->m, &w);
    return model_all_reduce(e->m, model_op(e->m, &op, model_rows(d->hidden, 0)), d->hidden);
}

static void head(const struct emit *e, uint32_t embedding, uint32_t x)
{
    const struct decoder *d = e->d;
    const struct model_weight w = {.name = "head.weight",
                                   .tensor = "lm_head.weight",
                                   .role = TN_ROLE_HEAD,
                                   .rows = (uint64_t)d->vocab,
                                   .cols = (uint64_t)d->hidden,
                                   .shard = TN_SHARD_AXIS0};

    e->m->layer = -1;
    x = row_norm(e, "norm", "model.norm", x);
    if (d->tied)
        model_ignore(e->m, "lm_head.weight"); /* some files store the tied copy too */
    model_head(e->m, d->tied ? embedding : model_weight(e->m, &w), x, d->vocab, d->softcap);
}

/* -- The plan -------------------------------------------------------------------------------------------- */

static void set_hyper(const struct emit *e)
{
    const struct decoder *d = e->d;

    model_set(e->m, TN_HP_VOCAB, d->vocab);
    model_set(e->m, TN_HP_HIDDEN, d->hidden);
    model_set(e->m, TN_HP_LAYERS, d->layers);
    model_set(e->m, TN_HP_MAX_POSITIONS, (int64_t)((double)d->positions * e->rope->length_factor));
    model_set(e->m, TN_HP_HEADS, d->heads);
    model_set(e->m, TN_HP_KV_HEADS, d->kv_heads);
    model_set(e->m, TN_HP_HEAD_DIM, d->head_dim);
    model_set(e->m, TN_HP_FFN, d->ffn);
}

static uint32_t frequencies(const struct emit *e)
{
    struct model *m = e->m;
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl),
                        .name = "rope.freqs",
                        .role = TN_ROLE_TABLE,
                        .n_dims = 1,
                        .dims = {e->rope->n},
                        .table = e->rope->freqs};
    uint32_t id = 0;

    if (m->rc == TN_OK)
        m->rc = m->papi->weight(m->builder, &d, &id, m->err);
    model_ignore(m,
                 "rotary_emb.inv_freq"); /* old checkpoints store the buffer; it is computed here */
    return id;
}

int32_t decoder_build(struct model *m, const struct decoder *d)
{
    struct rope rope;
    struct emit e = {.m = m, .d = d, .rope = &rope};
    uint32_t embedded = 0, x;

    if (m->rc == TN_OK)
        m->rc = rope_read(m->capi, m->config, (uint32_t)d->head_dim, d->positions, &rope, m->err);
    if (m->rc != TN_OK)
        return m->rc;
    m->layers = "model.layers";
    m->layer = -1;
    set_hyper(&e);
    e.freqs = frequencies(&e);
    x = embedding(&e, &embedded);
    for (m->layer = 0; m->layer < d->layers && m->rc == TN_OK; m->layer++)
        x = mlp(&e, attention(&e, x));
    head(&e, embedded, x);
    return m->rc;
}
