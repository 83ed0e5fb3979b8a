/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Hugging Face `llama` type (Touvron et al. 2023; Grattafiori et al. 2024) as a plan of basic ops.
 *
 * Per layer: norm, q k v, rope, cache, attention, output projection, residual; norm, gate and up, SwiGLU, down,
 * residual. Column-parallel matrices split their rows (heads, or single rows of gate and up), row-parallel ones
 * their columns, and each of the two halves of a layer ends in one all_reduce.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rope.h"
#include "tenon/model.h"
#include "tenon/ops.h"
#include "tenon/plugin.h"

TN_PLUGIN_NOTE(.kinds = TN_KIND_MODEL, .name = "llama", .vendor = "tenon", .version = "0.1.0");

struct shape {
    int64_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn, positions;
    double eps;
    uint32_t tied, attention_bias, mlp_bias;
    const char *act; /* name of the op */
};

/* What emitting needs; ids of things that are used more than once. */
struct emit {
    const tn_plan_api *api;
    tn_plan_builder *b;
    tn_err *err;
    struct shape s;
    struct rope rope;
    uint32_t freqs; /* weight id of the rope frequencies */
    int32_t layer;
};

/* -- Reading config.json ------------------------------------------------------------------------- */

struct field {
    const char *name;
    int64_t min, max;
    int64_t *out;
    int64_t absent; /* value when absent; 0: required */
};

static int32_t read_ints(const tn_config_api *api, const tn_config *c, const struct field *f,
                         size_t n, tn_err *err)
{
    for (size_t i = 0; i < n; i++) {
        int32_t rc = api->get_int(c, f[i].name, f[i].min, f[i].max, f[i].out, err);
        if (rc == TN_E_NOTFOUND && f[i].absent == 0)
            return api->refuse(c, f[i].name, "this field is required", err);
        if (rc == TN_E_NOTFOUND)
            *f[i].out = f[i].absent;
        else if (rc != TN_OK)
            return rc;
    }
    return TN_OK;
}

static int32_t read_flag(const tn_config_api *api, const tn_config *c, const char *name,
                         uint32_t *out, tn_err *err)
{
    int32_t rc = api->get_bool(c, name, out, err);

    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

static int32_t read_activation(const tn_config_api *api, const tn_config *c, struct shape *s,
                               tn_err *err)
{
    static const struct {
        const char *hf, *op;
    } known[] = {{"silu", TN_OP_SILU},
                 {"swish", TN_OP_SILU},
                 {"gelu", TN_OP_GELU},
                 {"gelu_new", TN_OP_GELU_TANH},
                 {"gelu_pytorch_tanh", TN_OP_GELU_TANH},
                 {"relu", TN_OP_RELU},
                 {"relu2", TN_OP_RELU2}};
    const char *name = "silu";
    int32_t rc = api->get_str(c, "hidden_act", &name, err);

    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        return rc;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].hf, name) == 0) {
            s->act = known[i].op;
            return TN_OK;
        }
    }
    return api->refuse(c, "hidden_act",
                       "silu, gelu, gelu_new, gelu_pytorch_tanh, relu and relu2 are "
                       "supported",
                       err);
}

static int32_t read_heads(const tn_config_api *api, const tn_config *c, struct shape *s,
                          tn_err *err)
{
    const struct field fields[] = {
        {"num_attention_heads", 1, 65536, &s->heads, 0},
    };
    const struct field rest[] = {
        {"num_key_value_heads", 1, 65536, &s->kv_heads, 0},
        {"head_dim", 2, 8192, &s->head_dim, 0},
    };
    int32_t rc = read_ints(api, c, fields, 1, err);

    if (rc != TN_OK)
        return rc;
    s->kv_heads = s->heads;
    s->head_dim = s->hidden / s->heads;
    for (size_t i = 0; i < 2; i++) {
        rc = api->get_int(c, rest[i].name, rest[i].min, rest[i].max, rest[i].out, err);
        if (rc != TN_OK && rc != TN_E_NOTFOUND)
            return rc;
        if (rc == TN_E_NOTFOUND && i == 1 && s->hidden % s->heads != 0)
            return api->refuse(c, "num_attention_heads", "must divide hidden_size", err);
    }
    if (s->heads % s->kv_heads != 0)
        return api->refuse(c, "num_key_value_heads", "must divide num_attention_heads", err);
    return TN_OK;
}

static int32_t read_shape(const tn_config_api *api, const tn_config *c, struct shape *s,
                          tn_err *err)
{
    const struct field fields[] = {
        {"vocab_size", 1, 1 << 24, &s->vocab, 0},
        {"hidden_size", 1, 1 << 20, &s->hidden, 0},
        {"num_hidden_layers", 1, 1000, &s->layers, 0},
        {"intermediate_size", 1, 1 << 22, &s->ffn, 0},
        {"max_position_embeddings", 1, 1 << 26, &s->positions, 2048},
    };
    int64_t pretraining_tp = 1;
    int32_t rc;

    *s = (struct shape){.eps = 1e-6};
    if ((rc = read_ints(api, c, fields, sizeof fields / sizeof *fields, err)) != TN_OK ||
        (rc = read_heads(api, c, s, err)) != TN_OK ||
        (rc = read_activation(api, c, s, err)) != TN_OK ||
        (rc = read_flag(api, c, "tie_word_embeddings", &s->tied, err)) != TN_OK ||
        (rc = read_flag(api, c, "attention_bias", &s->attention_bias, err)) != TN_OK ||
        (rc = read_flag(api, c, "mlp_bias", &s->mlp_bias, err)) != TN_OK)
        return rc;
    rc = api->get_real(c, "rms_norm_eps", 0.0, 1.0, &s->eps, err);
    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        return rc;
    /* pretraining_tp only reorders sums in transformers; any value means the same model. */
    rc = api->get_int(c, "pretraining_tp", 1, 65536, &pretraining_tp, err);
    return rc == TN_E_NOTFOUND ? TN_OK : rc;
}

/* -- Declaring weights ----------------------------------------------------------------------------- */

struct matrix {
    const char *name;   /* canonical, without ".weight": "attn.q" */
    const char *tensor; /* in the checkpoint: "self_attn.q_proj" */
    int64_t out, in;
    uint32_t shard, units;
    uint32_t bias;       /* nonzero: it has one */
    uint32_t bias_shard; /* ::tn_shard */
};

static int32_t declare(struct emit *e, const char *name, const char *tensor, uint32_t role,
                       int64_t d0, int64_t d1, uint32_t shard, uint32_t units, uint32_t *id)
{
    tn_weight_source source = {TN_HDR(tn_weight_source), tensor, 0, 0, 0, 0};
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl),
                        .name = name,
                        .role = role,
                        .n_dims = d1 ? 2 : 1,
                        .dims = {(uint64_t)d0, (uint64_t)d1},
                        .shard = shard,
                        .shard_units = units,
                        .n_sources = 1,
                        .sources = &source};

    return e->api->weight(e->b, &d, id, e->err);
}

/* The canonical and the checkpoint's name of a thing in the current layer. */
static void layer_names(const struct emit *e, const char *name, const char *tensor,
                        const char *tail, char canonical[128], char stored[128])
{
    snprintf(canonical, 128, "layers.%d.%s.%s", (int)e->layer, name, tail);
    snprintf(stored, 128, "model.layers.%d.%s.%s", (int)e->layer, tensor, tail);
}

/* Declares weight and bias of a matrix in the current layer; returns how many ids it wrote. */
static int32_t declare_matrix(struct emit *e, const struct matrix *m, uint32_t ids[2], uint32_t *n)
{
    char canonical[128], stored[128];
    int32_t rc;

    layer_names(e, m->name, m->tensor, "weight", canonical, stored);
    rc = declare(e, canonical, stored, TN_ROLE_MATRIX, m->out, m->in, m->shard, m->units, &ids[0]);
    *n = 1;
    if (rc != TN_OK || !m->bias)
        return rc;
    layer_names(e, m->name, m->tensor, "bias", canonical, stored);
    *n = 2;
    return declare(e, canonical, stored, TN_ROLE_BIAS, m->out, 0, m->bias_shard, m->units, &ids[1]);
}

/* -- Emitting ops ---------------------------------------------------------------------------------- */

static tn_value_decl rows(int64_t width, uint32_t units)
{
    return (tn_value_decl){TN_HDR(tn_value_decl), TN_VALUE_ROWS, TN_DT_ACT,
                           (uint64_t)width,       units,         0};
}

struct op_args {
    const char *name;
    uint32_t in[3];
    uint32_t n_in;
    uint32_t weights[3];
    uint32_t n_weights;
    const tn_attr *attrs;
    uint32_t n_attrs;
    tn_value_decl out;
};

static int32_t emit_op(struct emit *e, const struct op_args *a, uint32_t *out)
{
    tn_op_decl d = {.h = TN_HDR(tn_op_decl),
                    .name = a->name,
                    .layer = e->layer,
                    .n_in = a->n_in,
                    .n_weights = a->n_weights,
                    .n_attrs = a->n_attrs,
                    .n_out = 1,
                    .in = a->in,
                    .weights = a->weights,
                    .attrs = a->attrs,
                    .out = &a->out};

    return e->api->op(e->b, &d, out, e->err);
}

static int32_t emit_norm(struct emit *e, const char *name, const char *tensor, uint32_t x,
                         uint32_t *out)
{
    const tn_attr eps[] = {TN_ATTR_REAL("eps", e->s.eps)};
    char canonical[128], stored[128];
    struct op_args a = {.name = TN_OP_RMS_NORM,
                        .in = {x},
                        .n_in = 1,
                        .n_weights = 1,
                        .attrs = eps,
                        .n_attrs = 1,
                        .out = rows(e->s.hidden, 0)};
    int32_t rc;

    if (e->layer >= 0) {
        layer_names(e, name, tensor, "weight", canonical, stored);
    } else {
        snprintf(canonical, sizeof canonical, "%s.weight", name);
        snprintf(stored, sizeof stored, "%s.weight", tensor);
    }
    rc = declare(e, canonical, stored, TN_ROLE_NORM, e->s.hidden, 0, TN_SHARD_NONE, 0,
                 &a.weights[0]);
    return rc == TN_OK ? emit_op(e, &a, out) : rc;
}

static int32_t emit_linear(struct emit *e, const struct matrix *m, uint32_t x, uint32_t *out)
{
    uint32_t units = m->shard == TN_SHARD_AXIS0 ? m->units : 0;
    struct op_args a = {.name = TN_OP_LINEAR, .in = {x}, .n_in = 1, .out = rows(m->out, units)};
    int32_t rc = declare_matrix(e, m, a.weights, &a.n_weights);

    return rc == TN_OK ? emit_op(e, &a, out) : rc;
}

static int32_t emit_binary(struct emit *e, const char *op, uint32_t x, uint32_t y,
                           tn_value_decl shape, uint32_t *out)
{
    struct op_args a = {.name = op, .in = {x, y}, .n_in = 2, .out = shape};

    return emit_op(e, &a, out);
}

static int32_t emit_unary(struct emit *e, const char *op, uint32_t x, tn_value_decl shape,
                          uint32_t *out)
{
    struct op_args a = {.name = op, .in = {x}, .n_in = 1, .out = shape};

    return emit_op(e, &a, out);
}

static int32_t emit_rope(struct emit *e, uint32_t x, int64_t heads, uint32_t *out)
{
    const tn_attr attrs[] = {TN_ATTR_HEADS("n_heads", heads),
                             TN_ATTR_INT("head_dim", e->s.head_dim),
                             TN_ATTR_INT("rotary_dim", 2 * (int64_t)e->rope.n),
                             TN_ATTR_TEXT("style", "half"),
                             TN_ATTR_REAL("mscale", e->rope.mscale),
                             TN_ATTR_REAL("base", e->rope.base),
                             TN_ATTR_REAL("factor", e->rope.factor),
                             TN_ATTR_INT("max_position", e->rope.dynamic_from)};
    struct op_args a = {.name = TN_OP_ROPE,
                        .in = {x},
                        .n_in = 1,
                        .weights = {e->freqs},
                        .n_weights = 1,
                        .attrs = attrs,
                        .n_attrs = e->rope.dynamic_from ? 8 : 5,
                        .out = rows(heads * e->s.head_dim, (uint32_t)heads)};

    return emit_op(e, &a, out);
}

static int32_t emit_cached_attention(struct emit *e, uint32_t q, uint32_t k, uint32_t v,
                                     uint32_t *out)
{
    const struct shape *s = &e->s;
    const tn_attr kv_attrs[] = {TN_ATTR_HEADS("n_kv_heads", s->kv_heads),
                                TN_ATTR_INT("head_dim", s->head_dim)};
    const tn_attr attrs[] = {TN_ATTR_HEADS("n_heads", s->heads),
                             TN_ATTR_HEADS("n_kv_heads", s->kv_heads),
                             TN_ATTR_INT("head_dim", s->head_dim),
                             TN_ATTR_REAL("scale", 1.0 / sqrt((double)s->head_dim))};
    struct op_args append = {.name = TN_OP_KV_APPEND,
                             .in = {k, v},
                             .n_in = 2,
                             .attrs = kv_attrs,
                             .n_attrs = 2,
                             .out = {TN_HDR(tn_value_decl), TN_VALUE_KV, 0, 0, 0, 0}};
    struct op_args attention = {.name = TN_OP_ATTENTION,
                                .in = {q},
                                .n_in = 2,
                                .attrs = attrs,
                                .n_attrs = 4,
                                .out = rows(s->heads * s->head_dim, (uint32_t)s->heads)};
    int32_t rc = emit_op(e, &append, &attention.in[1]);

    return rc == TN_OK ? emit_op(e, &attention, out) : rc;
}

/* A row-parallel projection, its all_reduce, and the residual. */
static int32_t emit_output(struct emit *e, const struct matrix *m, uint32_t x, uint32_t residual,
                           uint32_t *out)
{
    uint32_t y, sum;
    int32_t rc;

    if ((rc = emit_linear(e, m, x, &y)) != TN_OK ||
        (rc = emit_unary(e, TN_OP_ALL_REDUCE, y, rows(e->s.hidden, 0), &sum)) != TN_OK)
        return rc;
    return emit_binary(e, TN_OP_ADD, residual, sum, rows(e->s.hidden, 0), out);
}

static int32_t emit_attention_block(struct emit *e, uint32_t x, uint32_t *out)
{
    const struct shape *s = &e->s;
    int64_t q_width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    uint32_t heads = (uint32_t)s->heads, kv_heads = (uint32_t)s->kv_heads, bias = s->attention_bias;
    const struct matrix q = {"attn.q",  "self_attn.q_proj", q_width,
                             s->hidden, TN_SHARD_AXIS0,     heads,
                             bias,      TN_SHARD_AXIS0};
    const struct matrix k = {"attn.k",       "self_attn.k_proj", kv_width, s->hidden,
                             TN_SHARD_AXIS0, kv_heads,           bias,     TN_SHARD_AXIS0};
    const struct matrix v = {"attn.v",       "self_attn.v_proj", kv_width, s->hidden,
                             TN_SHARD_AXIS0, kv_heads,           bias,     TN_SHARD_AXIS0};
    const struct matrix o = {"attn.o", "self_attn.o_proj", s->hidden,
                             q_width,  TN_SHARD_AXIS1,     heads,
                             bias,     TN_SHARD_FIRST};
    uint32_t h, vq, vk, vv, rq, rk, a;
    int32_t rc;

    if ((rc = emit_norm(e, "attn_norm", "input_layernorm", x, &h)) != TN_OK ||
        (rc = emit_linear(e, &q, h, &vq)) != TN_OK || (rc = emit_linear(e, &k, h, &vk)) != TN_OK ||
        (rc = emit_linear(e, &v, h, &vv)) != TN_OK ||
        (rc = emit_rope(e, vq, s->heads, &rq)) != TN_OK ||
        (rc = emit_rope(e, vk, s->kv_heads, &rk)) != TN_OK ||
        (rc = emit_cached_attention(e, rq, rk, vv, &a)) != TN_OK)
        return rc;
    return emit_output(e, &o, a, x, out);
}

static int32_t emit_mlp_block(struct emit *e, uint32_t x, uint32_t *out)
{
    const struct shape *s = &e->s;
    uint32_t units = (uint32_t)s->ffn, bias = s->mlp_bias;
    const struct matrix gate = {"mlp.gate",     "mlp.gate_proj", s->ffn, s->hidden,
                                TN_SHARD_AXIS0, units,           bias,   TN_SHARD_AXIS0};
    const struct matrix up = {"mlp.up",       "mlp.up_proj", s->ffn, s->hidden,
                              TN_SHARD_AXIS0, units,         bias,   TN_SHARD_AXIS0};
    const struct matrix down = {"mlp.down",     "mlp.down_proj", s->hidden, s->ffn,
                                TN_SHARD_AXIS1, units,           bias,      TN_SHARD_FIRST};
    tn_value_decl inner = rows(s->ffn, units);
    uint32_t h, g, u, act, m;
    int32_t rc;

    if ((rc = emit_norm(e, "mlp_norm", "post_attention_layernorm", x, &h)) != TN_OK ||
        (rc = emit_linear(e, &gate, h, &g)) != TN_OK ||
        (rc = emit_linear(e, &up, h, &u)) != TN_OK ||
        (rc = emit_unary(e, s->act, g, inner, &act)) != TN_OK ||
        (rc = emit_binary(e, TN_OP_MUL, act, u, inner, &m)) != TN_OK)
        return rc;
    return emit_output(e, &down, m, x, out);
}

static int32_t emit_embedding(struct emit *e, uint32_t *weight, uint32_t *out)
{
    struct op_args a = {.name = TN_OP_EMBEDDING, .n_weights = 1, .out = rows(e->s.hidden, 0)};
    uint32_t x;
    int32_t rc = declare(e, "embed.weight", "model.embed_tokens.weight", TN_ROLE_EMBEDDING,
                         e->s.vocab, e->s.hidden, TN_SHARD_AXIS0, 0, &a.weights[0]);

    *weight = a.weights[0];
    if (rc == TN_OK)
        rc = emit_op(e, &a, &x);
    return rc == TN_OK ? emit_unary(e, TN_OP_ALL_REDUCE, x, rows(e->s.hidden, 0), out) : rc;
}

static int32_t emit_head(struct emit *e, uint32_t embedding, uint32_t x)
{
    tn_value_decl logits = {
        TN_HDR(tn_value_decl), TN_VALUE_LOGITS, TN_DT_F32, (uint64_t)e->s.vocab, 0, 0};
    tn_value_decl part = logits; /* of one rank, as its rows of the matrix are */
    tn_value_decl token = {TN_HDR(tn_value_decl), TN_VALUE_LOGITS, TN_DT_I32, 1, 0, 0};
    struct op_args a = {.name = TN_OP_LOGITS, .n_in = 1, .weights = {embedding}, .n_weights = 1};
    uint32_t y, all, sampled;
    int32_t rc;

    part.shard_units = (uint32_t)e->s.vocab;
    a.out = part;
    e->layer = -1;
    rc = emit_norm(e, "norm", "model.norm", x, &a.in[0]);
    if (rc == TN_OK && !e->s.tied)
        rc = declare(e, "head.weight", "lm_head.weight", TN_ROLE_HEAD, e->s.vocab, e->s.hidden,
                     TN_SHARD_AXIS0, 0, &a.weights[0]);
    if (rc == TN_OK && e->s.tied)
        rc =
            e->api->ignore(e->b, "lm_head.weight", e->err); /* some files store the tied copy too */
    if (rc == TN_OK)
        rc = emit_op(e, &a, &y);
    if (rc == TN_OK)
        rc = emit_unary(e, TN_OP_ALL_GATHER, y, logits, &all);
    return rc == TN_OK ? emit_unary(e, TN_OP_SAMPLE, all, token, &sampled) : rc;
}

/* -- The plan -------------------------------------------------------------------------------------- */

static int32_t set_hyper(struct emit *e)
{
    const struct shape *s = &e->s;
    const struct {
        const char *name;
        int64_t value;
    } hyper[] = {{TN_HP_VOCAB, s->vocab},
                 {TN_HP_HIDDEN, s->hidden},
                 {TN_HP_LAYERS, s->layers},
                 {TN_HP_MAX_POSITIONS, (int64_t)((double)s->positions * e->rope.length_factor)},
                 {TN_HP_HEADS, s->heads},
                 {TN_HP_KV_HEADS, s->kv_heads},
                 {TN_HP_HEAD_DIM, s->head_dim},
                 {TN_HP_FFN, s->ffn}};

    for (size_t i = 0; i < sizeof hyper / sizeof *hyper; i++) {
        int32_t rc = e->api->set_int(e->b, hyper[i].name, hyper[i].value, e->err);
        if (rc != TN_OK)
            return rc;
    }
    return TN_OK;
}

static int32_t declare_freqs(struct emit *e)
{
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl),
                        .name = "rope.freqs",
                        .role = TN_ROLE_TABLE,
                        .n_dims = 1,
                        .dims = {e->rope.n},
                        .table = e->rope.freqs};
    int32_t rc = e->api->weight(e->b, &d, &e->freqs, e->err);

    if (rc == TN_OK) /* old checkpoints store the buffer; it is computed here */
        rc = e->api->ignore(e->b, "rotary_emb.inv_freq", e->err);
    return rc;
}

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    struct emit e = {.api = papi, .b = builder, .err = err, .layer = -1};
    uint32_t embedding, x;
    int32_t rc;

    (void)instance;
    if ((rc = read_shape(capi, config, &e.s, err)) != TN_OK ||
        (rc = rope_read(capi, config, (uint32_t)e.s.head_dim, e.s.positions, &e.rope, err)) !=
            TN_OK ||
        (rc = set_hyper(&e)) != TN_OK || (rc = declare_freqs(&e)) != TN_OK ||
        (rc = emit_embedding(&e, &embedding, &x)) != TN_OK)
        return rc;
    for (e.layer = 0; e.layer < e.s.layers; e.layer++) {
        if ((rc = emit_attention_block(&e, x, &x)) != TN_OK ||
            (rc = emit_mlp_block(&e, x, &x)) != TN_OK)
            return rc;
    }
    return emit_head(&e, embedding, x);
}

/* -- The plugin ------------------------------------------------------------------------------------ */

static const char *const model_types[] = {"llama", NULL};

static const tn_model_arch arch = {
    .h = TN_HDR(tn_model_arch), .model_types = model_types, .build = build};

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_MODEL, &arch}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "llama",
                                 .vendor = "tenon",
                                 .version = "0.1.0",
                                 .n_ifaces = 1,
                                 .ifaces = ifaces};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
