/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/sample_plan.h"

#include <math.h>

#include "base/mem.h"
#include "check_util.h"
#include "engine/engine.h"
#include "engine/writer.h"
#include "tenon/float.h"

struct plan *sample_empty(void)
{
    struct plan *p = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(plan_new(&p, &err), &err);
    return p;
}

int32_t sample_try(struct plan *p, const struct sample_op *s, tn_err *err)
{
    struct plan_op op = {.name = s->name,
                         .layer = s->layer,
                         .n_in = s->n_in,
                         .n_weights = s->n_weights,
                         .n_out = s->n_out ? s->n_out : 1,
                         .n_attrs = s->n_attrs,
                         .attrs = s->attrs};

    memcpy(op.in, s->in, sizeof op.in);
    memcpy(op.weights, s->weights, sizeof op.weights);
    return plan_add_op(p, &op, s->out, NULL, err);
}

uint32_t sample_add(struct plan *p, const struct sample_op *op)
{
    uint32_t id = (uint32_t)p->n_values;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(sample_try(p, op, &err), &err);
    return id;
}

static uint32_t add_weight(struct plan *p, const struct plan_weight *w)
{
    tn_err err = TN_ERR_INIT;
    uint32_t id = 0;

    ck_assert_ok(plan_add_weight(p, w, &id, &err), &err);
    return id;
}

uint32_t sample_weight(struct plan *p, const char *name, uint32_t role, uint32_t dtype, uint64_t d0,
                       uint64_t d1, uint64_t d2)
{
    struct plan_weight w = {.name = name,
                            .role = role,
                            .dtype = dtype,
                            .n_dims = d2   ? 3
                                      : d1 ? 2
                                           : 1,
                            .dims = {d0, d1, d2}};

    return add_weight(p, &w);
}

uint32_t sample_vector(struct plan *p, const char *name, uint64_t n)
{
    return sample_weight(p, name, TN_ROLE_NORM, TN_DT_F32, n, 0, 0);
}

uint32_t sample_matrix(struct plan *p, const char *name, uint64_t rows, uint64_t cols)
{
    return sample_weight(p, name, TN_ROLE_MATRIX, TN_DT_BF16, rows, cols, 0);
}

uint32_t sample_rows(struct plan *p, const char *name, uint64_t width)
{
    uint32_t w = sample_weight(p, name, TN_ROLE_EMBEDDING, TN_DT_BF16, 32, width, 0);

    return sample_add(p, &(struct sample_op){.name = TN_OP_EMBEDDING,
                                             .layer = -1,
                                             .n_weights = 1,
                                             .weights = {w},
                                             .out = {SAMPLE_ROWS(width)}});
}

/* -- A model ---------------------------------------------------------------------------------------- */

struct making {
    struct plan *p;
    const struct sample_model *m;
    int32_t layer;
    uint32_t freqs;
};

static const char *name_of(const struct making *k, const char *tail, char buf[64])
{
    if (k->layer < 0)
        snprintf(buf, 64, "%s", tail);
    else
        snprintf(buf, 64, "layers.%d.%s", (int)k->layer, tail);
    return buf;
}

static uint32_t weight(struct making *k, const char *tail, uint32_t role, uint64_t d0, uint64_t d1,
                       uint32_t shard, uint64_t units)
{
    bool heavy = role == TN_ROLE_MATRIX || role == TN_ROLE_EMBEDDING || role == TN_ROLE_HEAD;
    char buf[64];
    struct plan_weight w = {.name = name_of(k, tail, buf),
                            .role = role,
                            .dtype = heavy ? k->m->dtype : TN_DT_F32,
                            .n_dims = d1 ? 2 : 1,
                            .dims = {d0, d1},
                            .shard = shard,
                            .shard_units = (uint32_t)units};

    return add_weight(k->p, &w);
}

static uint32_t norm(struct making *k, const char *tail, uint32_t x)
{
    static const tn_attr eps[] = {TN_ATTR_REAL("eps", 1e-5)};
    struct sample_op op = {.name = TN_OP_RMS_NORM,
                           .layer = k->layer,
                           .n_in = 1,
                           .in = {x},
                           .n_weights = 1,
                           .n_attrs = 1,
                           .attrs = eps,
                           .out = {SAMPLE_ROWS(k->m->hidden)}};

    op.weights[0] = weight(k, tail, TN_ROLE_NORM, k->m->hidden, 0, TN_SHARD_NONE, 0);
    return sample_add(k->p, &op);
}

/* Column parallel if `units`, else row parallel in `in_units`. */
static uint32_t linear(struct making *k, const char *tail, uint32_t x, uint64_t out, uint64_t in,
                       uint64_t units, uint64_t in_units)
{
    char bias[64];
    struct sample_op op = {.name = TN_OP_LINEAR,
                           .layer = k->layer,
                           .n_in = 1,
                           .in = {x},
                           .n_weights = k->m->bias ? 2 : 1,
                           .out = {SAMPLE_ROWS(out)}};

    op.out[0].shard_units = (uint32_t)units;
    op.weights[0] = weight(k, tail, TN_ROLE_MATRIX, out, in,
                           units ? TN_SHARD_AXIS0 : TN_SHARD_AXIS1, units ? units : in_units);
    snprintf(bias, sizeof bias, "%s.bias", tail);
    if (k->m->bias)
        op.weights[1] =
            weight(k, bias, TN_ROLE_BIAS, out, 0, units ? TN_SHARD_AXIS0 : TN_SHARD_FIRST, units);
    return sample_add(k->p, &op);
}

static uint32_t plain(struct making *k, const char *name, uint32_t a, uint32_t b, uint64_t width,
                      uint64_t units)
{
    struct sample_op op = {.name = name,
                           .layer = k->layer,
                           .n_in = b == UINT32_MAX ? 1 : 2,
                           .in = {a, b},
                           .out = {SAMPLE_ROWS(width)}};

    op.out[0].shard_units = (uint32_t)units;
    return sample_add(k->p, &op);
}

static uint32_t rope(struct making *k, uint32_t x, uint64_t heads)
{
    const tn_attr attrs[] = {
        TN_ATTR_HEADS("n_heads", (int64_t)heads), TN_ATTR_INT("head_dim", (int64_t)k->m->head_dim),
        TN_ATTR_INT("rotary_dim", (int64_t)k->m->head_dim), TN_ATTR_TEXT("style", "half")};
    struct sample_op op = {.name = TN_OP_ROPE,
                           .layer = k->layer,
                           .n_in = 1,
                           .in = {x},
                           .n_weights = 1,
                           .weights = {k->freqs},
                           .n_attrs = 4,
                           .attrs = attrs,
                           .out = {SAMPLE_ROWS(heads * k->m->head_dim)}};

    op.out[0].shard_units = (uint32_t)heads;
    return sample_add(k->p, &op);
}

static uint32_t cached_attention(struct making *k, uint32_t q, uint32_t key, uint32_t value)
{
    const struct sample_model *m = k->m;
    const tn_attr append[] = {TN_ATTR_HEADS("n_kv_heads", (int64_t)m->kv_heads),
                              TN_ATTR_INT("head_dim", (int64_t)m->head_dim)};
    const tn_attr attention[] = {TN_ATTR_HEADS("n_heads", (int64_t)m->heads),
                                 TN_ATTR_HEADS("n_kv_heads", (int64_t)m->kv_heads),
                                 TN_ATTR_INT("head_dim", (int64_t)m->head_dim),
                                 TN_ATTR_REAL("scale", 1.0 / sqrt((double)m->head_dim))};
    uint32_t kv = sample_add(k->p, &(struct sample_op){.name = TN_OP_KV_APPEND,
                                                       .layer = k->layer,
                                                       .n_in = 2,
                                                       .in = {key, value},
                                                       .n_attrs = 2,
                                                       .attrs = append,
                                                       .out = {SAMPLE_KV}});
    struct sample_op op = {.name = TN_OP_ATTENTION,
                           .layer = k->layer,
                           .n_in = 2,
                           .in = {q, kv},
                           .n_attrs = 4,
                           .attrs = attention,
                           .out = {SAMPLE_ROWS(m->heads * m->head_dim)}};

    op.out[0].shard_units = (uint32_t)m->heads;
    return sample_add(k->p, &op);
}

static uint32_t one_layer(struct making *k, uint32_t x)
{
    const struct sample_model *m = k->m;
    uint64_t qw = m->heads * m->head_dim, kw = m->kv_heads * m->head_dim;
    uint32_t h = norm(k, "attn_norm", x), q, key, value, a, g, u;

    q = linear(k, "q", h, qw, m->hidden, m->heads, 0);
    key = linear(k, "k", h, kw, m->hidden, m->kv_heads, 0);
    value = linear(k, "v", h, kw, m->hidden, m->kv_heads, 0);
    q = rope(k, q, m->heads);
    key = rope(k, key, m->kv_heads);
    a = cached_attention(k, q, key, value);
    a = linear(k, "o", a, m->hidden, qw, 0, m->heads);
    a = plain(k, TN_OP_ALL_REDUCE, a, UINT32_MAX, m->hidden, 0);
    x = plain(k, TN_OP_ADD, x, a, m->hidden, 0);
    h = norm(k, "mlp_norm", x);
    g = linear(k, "gate", h, m->ffn, m->hidden, m->ffn, 0);
    u = linear(k, "up", h, m->ffn, m->hidden, m->ffn, 0);
    g = plain(k, TN_OP_SILU, g, UINT32_MAX, m->ffn, m->ffn);
    g = plain(k, TN_OP_MUL, g, u, m->ffn, m->ffn);
    g = linear(k, "down", g, m->hidden, m->ffn, 0, m->ffn);
    g = plain(k, TN_OP_ALL_REDUCE, g, UINT32_MAX, m->hidden, 0);
    return plain(k, TN_OP_ADD, x, g, m->hidden, 0);
}

static void head(struct making *k, uint32_t x, uint32_t w)
{
    uint64_t vocab = k->m->vocab;
    struct plan_value token = {.kind = TN_VALUE_LOGITS, .dtype = TN_DT_I32, .width = 1};
    struct sample_op op = {.name = TN_OP_LOGITS,
                           .layer = -1,
                           .n_in = 1,
                           .in = {x},
                           .n_weights = 1,
                           .weights = {w},
                           .out = {SAMPLE_LOGITS(vocab)}};

    op.out[0].shard_units = (uint32_t)vocab;
    x = sample_add(k->p, &op);
    x = sample_add(k->p, &(struct sample_op){.name = TN_OP_ALL_GATHER,
                                             .layer = -1,
                                             .n_in = 1,
                                             .in = {x},
                                             .out = {SAMPLE_LOGITS(vocab)}});
    sample_add(k->p, &(struct sample_op){
                         .name = TN_OP_SAMPLE, .layer = -1, .n_in = 1, .in = {x}, .out = {token}});
}

static void set_hyper(struct plan *p, const struct sample_model *m)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(plan_set_int(p, TN_HP_VOCAB, (int64_t)m->vocab, &err), &err);
    ck_assert_ok(plan_set_int(p, TN_HP_HIDDEN, (int64_t)m->hidden, &err), &err);
    ck_assert_ok(plan_set_int(p, TN_HP_LAYERS, (int64_t)m->layers, &err), &err);
    ck_assert_ok(plan_set_int(p, TN_HP_MAX_POSITIONS, 128, &err), &err);
    ck_assert_ok(plan_set_real(p, "rope_theta", 10000.5, &err), &err);
    ck_assert_ok(plan_set_str(p, "model_type", "sample", &err), &err);
}

struct plan *sample_model(const struct sample_model *m)
{
    struct making k = {sample_empty(), m, -1, 0};
    tn_err err = TN_ERR_INIT;
    uint32_t embed, x;

    set_hyper(k.p, m);
    k.freqs = weight(&k, "rope.freqs", TN_ROLE_TABLE, m->head_dim / 2, 0, TN_SHARD_NONE, 0);
    embed = weight(&k, "embed", TN_ROLE_EMBEDDING, m->vocab, m->hidden, TN_SHARD_AXIS0, 0);
    x = sample_add(k.p, &(struct sample_op){.name = TN_OP_EMBEDDING,
                                            .layer = -1,
                                            .n_weights = 1,
                                            .weights = {embed},
                                            .out = {SAMPLE_ROWS(m->hidden)}});
    x = plain(&k, TN_OP_ALL_REDUCE, x, UINT32_MAX, m->hidden, 0);
    for (k.layer = 0; k.layer < (int32_t)m->layers; k.layer++)
        x = one_layer(&k, x);
    k.layer = -1;
    x = norm(&k, "norm", x);
    head(&k, x,
         m->tied ? embed
                 : weight(&k, "head", TN_ROLE_HEAD, m->vocab, m->hidden, TN_SHARD_AXIS0, 0));
    ck_assert_ok(plan_check(k.p, &err), &err);
    return k.p;
}

/* -- An engine -------------------------------------------------------------------------------------- */

json_t *sample_meta(void)
{
    json_t *meta = json_pack("{s:s, s:s, s:{s:i, s:i, s:i, s:i, s:i, s:i}, s:{s:i, s:[i]}}",
                             "tenon", "test", "dtype", "bfloat16", "limits", "max_batch_size", 4,
                             "max_input_len", 64, "max_output_len", 64, "max_num_tokens", 64,
                             "tp_size", 1, "pp_size", 1, "tokens", "bos", 1, "eos", 2);

    ck_assert_ptr_nonnull(meta);
    return meta;
}

static void append_pattern(struct engine_writer *w, uint64_t i, uint64_t bytes)
{
    tn_err err = TN_ERR_INIT;
    unsigned char part[1000];

    for (uint64_t at = 0; at < bytes;) {
        size_t n = bytes - at < sizeof part ? (size_t)(bytes - at) : sizeof part;
        for (size_t k = 0; k < n; k++)
            part[k] = sample_byte(i, at + k);
        ck_assert_ok(engine_writer_append(w, part, n, &err), &err);
        at += n;
    }
}

void sample_engine(const char *dir, const struct plan *p, enum sample_weights weights)
{
    char *path = path_join(dir, ENGINE_FILE);
    struct engine_writer *w = NULL;
    json_t *meta = sample_meta();
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(engine_writer_open(path, p, &w, &err), &err);
    for (size_t i = 0; i < p->n_weights; i++) {
        if (weights == SAMPLE_DUMMY || (weights == SAMPLE_MIXED && i % 2 == 0))
            ck_assert_ok(engine_writer_dummy(w, i, &err), &err);
        else
            append_pattern(w, i, plan_weight_bytes(&p->weights[i]));
    }
    ck_assert_ok(engine_writer_finish(w, meta, &err), &err);
    engine_writer_free(w);
    json_decref(meta);
    mem_free(path);
}
