/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sample model plugin: the Hugging Face `qwen2` type (Qwen2 Technical Report, Yang et al. 2024) as a plan of basic ops.
 *
 * A decoder like LLaMA's; its marks are biases on q, k and v only, and a window in upper layers if asked for. For a model
 * of your own: change read_shape to its config.json, and names and ops in layer() and build().
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tenon/model.h"
#include "tenon/ops.h"
#include "tenon/plugin.h"

TN_PLUGIN_NOTE(.kinds = TN_KIND_MODEL, .name = "acme-qwen2", .vendor = "acme", .version = "1.0.0");

enum { MAX_HEAD = 1024 };

struct shape {
    int64_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn, positions;
    int64_t window, window_from; /* layers from window_from on see `window` tokens; 0: all */
    double eps, theta;
    uint32_t tied;
};

/* Reading and emitting alike: the first error stays in `rc`, and what follows does nothing. */
struct build {
    const tn_config_api *capi;
    const tn_config *config;
    const tn_plan_api *papi;
    tn_plan_builder *builder;
    tn_err *err;
    int32_t rc, layer;
    struct shape s;
    uint32_t freqs; /* weight id of the rotary frequencies */
};

/* -- config.json ------------------------------------------------------------------------------------ */

/* Keeps an error; that something is absent is none. */
static void keep(struct build *b, int32_t rc)
{
    if (b->rc == TN_OK && rc != TN_OK && rc != TN_E_NOTFOUND)
        b->rc = rc;
}

/* A whole number up to `max`; `absent` < 0: it is required. Only max_window_layers may be 0. */
static int64_t number(struct build *b, const char *path, int64_t max, int64_t absent)
{
    int64_t v = absent, min = strcmp(path, "max_window_layers") != 0;
    int32_t rc = b->capi->get_int(b->config, path, min, max, &v, b->err);

    if (rc == TN_E_NOTFOUND && absent < 0)
        rc = b->capi->refuse(b->config, path, "is required", b->err);
    keep(b, rc);
    return rc == TN_OK || absent > 0 ? v : 1;
}

static double real(struct build *b, const char *path, double max, double absent)
{
    keep(b, b->capi->get_real(b->config, path, 0.0, max, &absent, b->err));
    return absent;
}

static uint32_t flag(struct build *b, const char *path)
{
    uint32_t v = 0;

    keep(b, b->capi->get_bool(b->config, path, &v, b->err));
    return v;
}

/* A text that must be this one or absent: a model that loads and is wrong is worse than none. */
static void expect(struct build *b, const char *path, const char *want)
{
    const char *v = want;
    int32_t rc = b->capi->get_str(b->config, path, &v, b->err);

    if (rc == TN_OK && strcmp(v, want) != 0)
        rc = b->capi->refuse(b->config, path, "is not supported by this plugin", b->err);
    keep(b, rc);
}

static void read_shape(struct build *b, struct shape *s)
{
    s->vocab = number(b, "vocab_size", 1 << 24, -1);
    s->hidden = number(b, "hidden_size", 1 << 20, -1);
    s->layers = number(b, "num_hidden_layers", 1000, -1);
    s->ffn = number(b, "intermediate_size", 1 << 22, -1);
    s->heads = number(b, "num_attention_heads", 65536, -1);
    s->kv_heads = number(b, "num_key_value_heads", 65536, s->heads);
    s->positions = number(b, "max_position_embeddings", 1 << 26, 32768);
    s->eps = real(b, "rms_norm_eps", 1.0, 1e-6);
    s->theta = real(b, "rope_parameters.rope_theta", 1e12, real(b, "rope_theta", 1e12, 1e4));
    s->tied = flag(b, "tie_word_embeddings");
    expect(b, "hidden_act", "silu");
    expect(b, "rope_parameters.rope_type", "default");
    expect(b, "rope_scaling.rope_type", "default");
    expect(b, "rope_scaling.type", "default");
    s->head_dim = number(b, "head_dim", MAX_HEAD, s->hidden / s->heads);
    if (b->rc == TN_OK && (s->head_dim < 2 || s->head_dim > MAX_HEAD || s->head_dim % 2 != 0))
        b->rc =
            b->capi->refuse(b->config, "num_attention_heads", "gives no even head size", b->err);
    if (b->rc == TN_OK && s->heads % s->kv_heads != 0)
        b->rc = b->capi->refuse(b->config, "num_key_value_heads", "must divide the heads", b->err);
    s->window_from = number(b, "max_window_layers", 1 << 20, 28);
    s->window = flag(b, "use_sliding_window") ? number(b, "sliding_window", 1 << 26, 4096) : 0;
    for (int64_t i = 0; b->rc == TN_OK && s->window > 0 && i < s->layers; i++) {
        char path[40]; /* newer files list what follows from max_window_layers: it must agree */
        snprintf(path, sizeof path, "layer_types[%d]", (int)i);
        expect(b, path, i < s->window_from ? "full_attention" : "sliding_attention");
    }
}

/* -- Weights ---------------------------------------------------------------------------------------- */

/* Declares `name`, which the checkpoint calls `tensor`, in a layer behind "layers.N." and "model.layers.N."; d1 is 0
 * for vectors. `units` are the heads that ranks must not cut; 0: any row or column may be an edge. */
static uint32_t weight(struct build *b, const char *name, const char *tensor, uint32_t role,
                       int64_t d0, int64_t d1, uint32_t shard, int64_t units)
{
    char canonical[96], stored[96];
    const tn_weight_source source = {TN_HDR(tn_weight_source), stored, 0, 0, 0, 0};
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl), .name = canonical, .n_dims = d1 ? 2 : 1};
    uint32_t id = 0;

    snprintf(canonical, sizeof canonical, "%s", name);
    snprintf(stored, sizeof stored, "%s", tensor);
    if (b->layer >= 0) {
        snprintf(canonical, sizeof canonical, "layers.%d.%s", (int)b->layer, name);
        snprintf(stored, sizeof stored, "model.layers.%d.%s", (int)b->layer, tensor);
    }
    d.role = role;
    d.dims[0] = (uint64_t)d0;
    d.dims[1] = (uint64_t)d1;
    d.shard = shard;
    d.shard_units = (uint32_t)units;
    d.n_sources = 1;
    d.sources = &source;
    if (b->rc == TN_OK)
        b->rc = b->papi->weight(b->builder, &d, &id, b->err);
    return id;
}

/* f[j] = theta^(-2j / head_dim): a constant that this plugin computes. */
static uint32_t rotary_table(struct build *b)
{
    float f[MAX_HEAD / 2];
    uint64_t n = (uint64_t)b->s.head_dim / 2;
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl), .name = "rope.freqs", .role = TN_ROLE_TABLE};
    uint32_t id = 0;

    if (b->rc != TN_OK)
        return 0;
    for (uint64_t j = 0; j < n; j++)
        f[j] = (float)pow(b->s.theta, -2.0 * (double)j / (double)b->s.head_dim);
    d.n_dims = 1;
    d.dims[0] = n;
    d.table = f;
    b->rc = b->papi->weight(b->builder, &d, &id, b->err);
    return id;
}

/* -- Ops ---------------------------------------------------------------------------------------------- */

static tn_value_decl value(uint32_t kind, uint32_t dtype, int64_t width, int64_t units)
{
    return (tn_value_decl){TN_HDR(tn_value_decl), kind, dtype, (uint64_t)width, (uint32_t)units, 0};
}

/* One row per token; ranks divide it into `units` (0: each holds it whole). */
static tn_value_decl rows(int64_t width, int64_t units)
{
    return value(TN_VALUE_ROWS, TN_DT_ACT, width, units);
}

/* What an op takes; see the table in ops.h. */
struct takes {
    uint32_t n_in, in[2], n_weights, weights[2], n_attrs;
    const tn_attr *attrs;
};

static uint32_t op(struct build *b, const char *name, struct takes t, tn_value_decl out)
{
    const tn_op_decl d = {
        TN_HDR(tn_op_decl), name,    b->layer, t.n_in, t.n_weights, t.n_attrs, 1, 0, t.in,
        t.weights,          t.attrs, &out};
    uint32_t id = 0;

    if (b->rc == TN_OK)
        b->rc = b->papi->op(b->builder, &d, &id, b->err);
    return id;
}

static uint32_t unary(struct build *b, const char *name, uint32_t x, tn_value_decl out)
{
    return op(b, name, (struct takes){1, {x}, 0, {0}, 0, NULL}, out);
}

static uint32_t binary(struct build *b, const char *name, uint32_t x, uint32_t y, tn_value_decl out)
{
    return op(b, name, (struct takes){2, {x, y}, 0, {0}, 0, NULL}, out);
}

static uint32_t norm(struct build *b, const char *name, const char *tensor, uint32_t x)
{
    const tn_attr eps[] = {TN_ATTR_REAL("eps", b->s.eps)};
    uint32_t w = weight(b, name, tensor, TN_ROLE_NORM, b->s.hidden, 0, TN_SHARD_NONE, 0);

    return op(b, TN_OP_RMS_NORM, (struct takes){1, {x}, 1, {w}, 1, eps}, rows(b->s.hidden, 0));
}

/* A matrix of which each rank holds some output rows. */
static uint32_t column(struct build *b, const char *name, const char *tensor, uint32_t x,
                       int64_t width, int64_t units)
{
    uint32_t w = weight(b, name, tensor, TN_ROLE_MATRIX, width, b->s.hidden, TN_SHARD_AXIS0, units);

    return op(b, TN_OP_LINEAR, (struct takes){1, {x}, 1, {w}, 0, NULL}, rows(width, units));
}

/* q, k or v: such a matrix with a bias, its rows in heads. */
static uint32_t heads(struct build *b, char which, uint32_t x, int64_t n)
{
    int64_t width = n * b->s.head_dim;
    char name[24], tensor[40];
    uint32_t w, bias;

    snprintf(name, sizeof name, "attn.%c.weight", which);
    snprintf(tensor, sizeof tensor, "self_attn.%c_proj.weight", which);
    w = weight(b, name, tensor, TN_ROLE_MATRIX, width, b->s.hidden, TN_SHARD_AXIS0, n);
    snprintf(name, sizeof name, "attn.%c.bias", which);
    snprintf(tensor, sizeof tensor, "self_attn.%c_proj.bias", which);
    bias = weight(b, name, tensor, TN_ROLE_BIAS, width, 0, TN_SHARD_AXIS0, n);
    return op(b, TN_OP_LINEAR, (struct takes){1, {x}, 2, {w, bias}, 0, NULL}, rows(width, n));
}

/* A matrix of which each rank holds some input columns; the ranks' results are summed. */
static uint32_t row(struct build *b, const char *name, const char *tensor, uint32_t x,
                    int64_t width, int64_t units)
{
    uint32_t w = weight(b, name, tensor, TN_ROLE_MATRIX, b->s.hidden, width, TN_SHARD_AXIS1, units);
    tn_value_decl out = rows(b->s.hidden, 0);
    uint32_t part = op(b, TN_OP_LINEAR, (struct takes){1, {x}, 1, {w}, 0, NULL}, out);

    return unary(b, TN_OP_ALL_REDUCE, part, out);
}

static uint32_t rope(struct build *b, uint32_t x, int64_t n)
{
    int64_t d = b->s.head_dim;
    const tn_attr attrs[] = {TN_ATTR_HEADS("n_heads", n), TN_ATTR_INT("head_dim", d),
                             TN_ATTR_INT("rotary_dim", d), TN_ATTR_TEXT("style", "half")};

    return op(b, TN_OP_ROPE, (struct takes){1, {x}, 1, {b->freqs}, 4, attrs}, rows(n * d, n));
}

static uint32_t attention(struct build *b, uint32_t h)
{
    const struct shape *s = &b->s;
    const tn_attr attrs[] = {
        TN_ATTR_HEADS("n_kv_heads", s->kv_heads), TN_ATTR_INT("head_dim", s->head_dim),
        TN_ATTR_HEADS("n_heads", s->heads), TN_ATTR_REAL("scale", 1.0 / sqrt((double)s->head_dim)),
        TN_ATTR_INT("window", b->layer >= s->window_from ? s->window : 0)};
    uint32_t q = rope(b, heads(b, 'q', h, s->heads), s->heads);
    uint32_t k = rope(b, heads(b, 'k', h, s->kv_heads), s->kv_heads);
    uint32_t v = heads(b, 'v', h, s->kv_heads);
    uint32_t kv = op(b, TN_OP_KV_APPEND, (struct takes){2, {k, v}, 0, {0}, 2, attrs},
                     value(TN_VALUE_KV, TN_DT_NONE, 0, 0));

    return op(b, TN_OP_ATTENTION, (struct takes){2, {q, kv}, 0, {0}, 5, attrs},
              rows(s->heads * s->head_dim, s->heads));
}

static uint32_t layer(struct build *b, uint32_t x)
{
    const struct shape *s = &b->s;
    tn_value_decl whole = rows(s->hidden, 0), inner = rows(s->ffn, s->ffn);
    uint32_t h, g, u;

    h = attention(b, norm(b, "attn_norm.weight", "input_layernorm.weight", x));
    h = row(b, "attn.o.weight", "self_attn.o_proj.weight", h, s->heads * s->head_dim, s->heads);
    x = binary(b, TN_OP_ADD, x, h, whole);
    h = norm(b, "mlp_norm.weight", "post_attention_layernorm.weight", x);
    g = column(b, "mlp.gate.weight", "mlp.gate_proj.weight", h, s->ffn, s->ffn);
    u = column(b, "mlp.up.weight", "mlp.up_proj.weight", h, s->ffn, s->ffn);
    h = binary(b, TN_OP_MUL, unary(b, TN_OP_SILU, g, inner), u, inner);
    h = row(b, "mlp.down.weight", "mlp.down_proj.weight", h, s->ffn, s->ffn);
    return binary(b, TN_OP_ADD, x, h, whole);
}

/* -- The plan ------------------------------------------------------------------------------------------ */

static void set(struct build *b, const char *name, int64_t v)
{
    if (b->rc == TN_OK)
        b->rc = b->papi->set_int(b->builder, name, v, b->err);
}

static void set_hyper_parameters(struct build *b)
{
    set(b, TN_HP_VOCAB, b->s.vocab);
    set(b, TN_HP_HIDDEN, b->s.hidden);
    set(b, TN_HP_LAYERS, b->s.layers);
    set(b, TN_HP_MAX_POSITIONS, b->s.positions);
    set(b, TN_HP_HEADS, b->s.heads);
    set(b, TN_HP_KV_HEADS, b->s.kv_heads);
    set(b, TN_HP_HEAD_DIM, b->s.head_dim);
    set(b, TN_HP_FFN, b->s.ffn);
}

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    struct build b = {capi, config, papi, builder, err, TN_OK, -1, {0}, 0};
    const struct shape *s = &b.s;
    tn_value_decl logits;
    uint32_t x, embed, head;

    (void)instance;
    read_shape(&b, &b.s);
    set_hyper_parameters(&b);
    logits = value(TN_VALUE_LOGITS, TN_DT_F32, s->vocab, 0);
    b.freqs = rotary_table(&b);
    embed = weight(&b, "embed.weight", "model.embed_tokens.weight", TN_ROLE_EMBEDDING, s->vocab,
                   s->hidden, TN_SHARD_AXIS0, 0);
    x = op(&b, TN_OP_EMBEDDING, (struct takes){0, {0}, 1, {embed}, 0, NULL}, rows(s->hidden, 0));
    x = unary(&b, TN_OP_ALL_REDUCE, x, rows(s->hidden, 0));
    for (b.layer = 0; b.layer < s->layers && b.rc == TN_OK; b.layer++)
        x = layer(&b, x);
    b.layer = -1;
    x = norm(&b, "norm.weight", "model.norm.weight", x);
    head = embed;
    if (!s->tied)
        head = weight(&b, "head.weight", "lm_head.weight", TN_ROLE_HEAD, s->vocab, s->hidden,
                      TN_SHARD_AXIS0, 0);
    else if (b.rc == TN_OK) /* some files store the tied copy, too */
        b.rc = papi->ignore(builder, "lm_head.weight", err);
    x = op(&b, TN_OP_LOGITS, (struct takes){1, {x}, 1, {head}, 0, NULL}, logits);
    x = unary(&b, TN_OP_ALL_GATHER, x, logits);
    unary(&b, TN_OP_SAMPLE, x, value(TN_VALUE_LOGITS, TN_DT_I32, 1, 0));
    return b.rc;
}

static const char *const types[] = {"qwen2", NULL};
static const tn_model_arch arch = {TN_HDR(tn_model_arch), types, build};
static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_MODEL, &arch}};
static const tn_plugin plugin = {
    TN_HDR(tn_plugin), "acme-qwen2", "acme", "1.0.0", 1, 0, ifaces, NULL, NULL, NULL};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
