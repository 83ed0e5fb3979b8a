/* SPDX-License-Identifier: Apache-2.0 */
/* Ops from widths, and fused ops from the text of tn_variant::equals. One thread. */
#include "compose.h"

#include <math.h>

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static uint32_t act(const struct shape *s)
{
    return s->act ? s->act : TN_DT_F32;
}

static uint32_t vector(const struct shape *s)
{
    return s->vector ? s->vector : TN_DT_F32;
}

static void add_out(struct kit *k, tn_op *op, uint32_t kind, uint32_t dtype, uint64_t width)
{
    op_out(op, kit_value(k, kind, dtype, width));
}

/* -- One basic op: weights, attributes and outputs, given its inputs ----------------------------------- */

static void add_groups(struct kit *k, tn_op *op, const struct shape *s, uint64_t n)
{
    uint64_t groups = op->in[0]->width / s->quant_group;

    op_weight(op, kit_weight(k, TN_DT_F32, n, groups, 0.4f / sqrtf((float)op->in[0]->width), 0));
    if (s->zero)
        op_weight(op, kit_weight(k, TN_DT_I8, n, groups, 7.99f, 0));
    op_int(op, "group", (int64_t)s->quant_group);
    op_int(op, "zero", s->zero);
}

static void finish_linear(struct kit *k, tn_op *op, const struct shape *s, uint64_t n,
                          uint32_t kind)
{
    uint64_t width = op->in[0]->width;
    bool logits = strncmp(op->name, TN_OP_LOGITS, strlen(TN_OP_LOGITS)) == 0;
    bool int8 = s->matrix == TN_DT_I8, fp8 = is(op->name, TN_OP_LINEAR_FP8);
    bool int4 = is(op->name, TN_OP_LINEAR_INT4);
    float limit = int8   ? 127.99f
                  : fp8  ? 400.0f
                  : int4 ? 7.99f
                         : 1.7f / sqrtf((float)width); /* outputs about 1 */

    op_weight(op, kit_weight(k, s->matrix, n, width, limit, s->gap));
    if (int8 || fp8)
        op_weight(op,
                  kit_weight(k, TN_DT_F32, n, 0, (int8 ? 0.02f : 0.005f) / sqrtf((float)width), 0));
    if (int8)
        *(int8_t *)op->weights[0]->data = -128; /* random entries stop at -127 */
    if (int8 || fp8)
        op_real(op, "act_scale", s->act_scale);
    if (int4)
        add_groups(k, op, s, n);
    if (s->bias)
        op_weight(op, kit_weight(k, vector(s), n, 0, 1.0f, 0));
    if (logits) {
        op_real(op, "scale", s->scale != 0.0 ? s->scale : 1.0);
        op_real(op, "softcap", s->softcap);
    }
    add_out(k, op, kind, kind == TN_VALUE_LOGITS ? TN_DT_F32 : act(s), n);
}

static bool is_table(const char *name)
{
    return is(name, TN_OP_EMBEDDING) || is(name, TN_OP_EMBEDDING_INT8) || is(name, TN_OP_POSITION);
}

static void finish_table(struct kit *k, tn_op *op, const struct shape *s)
{
    bool int8 = is(op->name, TN_OP_EMBEDDING_INT8);

    op_weight(op, kit_weight(k, s->matrix, (uint64_t)s->table, s->linear_width[0],
                             int8 ? 127.99f : 1.0f, s->gap));
    if (int8) {
        op_weight(op, kit_weight(k, TN_DT_F32, (uint64_t)s->table, 0, 0.02f, 0));
        op_weight(op, kit_weight(k, TN_DT_F32, s->linear_width[0], 0, 1.0f, 0));
        *(int8_t *)op->weights[0]->data = -128; /* random entries stop at -127 */
    }
    if (is(op->name, TN_OP_POSITION)) {
        op_int(op, "offset", (int64_t)s->offset);
    } else {
        op_real(op, "scale", s->scale != 0.0 ? s->scale : 1.0);
        op_int(op, "vocab_first", s->first);
    }
    add_out(k, op, TN_VALUE_ROWS, act(s), s->linear_width[0]);
}

static void finish_norm(struct kit *k, tn_op *op, const struct shape *s)
{
    uint64_t width = op->in[0]->width;
    bool rms = is(op->name, TN_OP_RMS_NORM);

    op_weight(op, kit_weight(k, vector(s), rms && s->group ? s->group : width, 0, 2.0f, 0));
    if (!rms && s->bias)
        op_weight(op, kit_weight(k, vector(s), width, 0, 1.0f, 0));
    op_real(op, "eps", 1e-5);
    if (rms)
        op_real(op, "offset", s->offset);
    add_out(k, op, TN_VALUE_ROWS, act(s), width);
}

static void finish_rope(struct kit *k, tn_op *op, const struct shape *s)
{
    uint64_t width = op->in[0]->width;
    uint32_t rotary = s->rotary ? s->rotary : s->head_dim;
    tn_weight *f = kit_weight(k, TN_DT_F32, rotary / 2, 0, 1.0f, 0);

    for (uint32_t j = 0; j < rotary / 2; j++)
        ((float *)f->data)[j] = powf(10000.0f, -2.0f * (float)j / (float)rotary);
    op_weight(op, f);
    op_int(op, "n_heads", (int64_t)(width / s->head_dim));
    op_int(op, "head_dim", s->head_dim);
    op_int(op, "rotary_dim", rotary);
    op_text(op, "style", s->pairs ? "pairs" : "half");
    op_real(op, "mscale", s->scale != 0.0 ? s->scale : 1.0);
    if (s->max_position) {
        op_real(op, "base", 10000.0);
        op_real(op, "factor", 2.0);
        op_int(op, "max_position", s->max_position);
    }
    add_out(k, op, TN_VALUE_ROWS, act(s), width);
}

static void finish_hadamard(struct kit *k, tn_op *op, const struct shape *s)
{
    op_int(op, "n_heads", (int64_t)(op->in[0]->width / s->head_dim));
    op_int(op, "head_dim", s->head_dim);
    add_out(k, op, TN_VALUE_ROWS, act(s), op->in[0]->width);
}

/* An order with entries that stand twice, and others nowhere. */
static void finish_reorder(struct kit *k, tn_op *op, const struct shape *s)
{
    uint64_t width = op->in[0]->width;
    tn_weight *w = kit_weight(k, TN_DT_I32, width, 0, 1.0f, 0);

    for (uint64_t i = 0; i < width; i++)
        ((int32_t *)w->data)[i] = (int32_t)((i * 7919 + i / 3) % width);
    op_weight(op, w);
    add_out(k, op, TN_VALUE_ROWS, act(s), width);
}

static void finish_attention(struct kit *k, tn_op *op, const struct shape *s)
{
    op_int(op, "n_kv_heads", s->kv_heads);
    op_int(op, "head_dim", s->head_dim);
    if (is(op->name, TN_OP_KV_APPEND)) {
        add_out(k, op, TN_VALUE_KV, 0, 0);
        return;
    }
    op_int(op, "n_heads", s->heads);
    op_real(op, "scale", s->scale != 0.0 ? s->scale : 1.0 / sqrt(s->head_dim));
    op_int(op, "window", s->window);
    op_real(op, "softcap", s->softcap);
    add_out(k, op, TN_VALUE_ROWS, act(s), op->in[0]->width);
}

/* Scales of three stacks of 8 or 4 bits, and zero points. Groups of stacks of other widths are of other lengths. */
static void add_expert_scales(struct kit *k, tn_op *op, const struct shape *s, float limit)
{
    bool int4 = s->matrix == TN_DT_I4;
    float largest = s->matrix == TN_DT_I8 ? 128.0f : int4 ? 12.0f : 400.0f;

    for (uint32_t i = 0; i < (s->zero ? 6u : 3u); i++) {
        const tn_weight *w = op->weights[i % 3];
        uint64_t groups = int4 ? w->dims[2] / s->quant_group : 0;
        uint32_t dtype = i < 3 ? TN_DT_F32 : TN_DT_I8;
        float most = i < 3 ? limit / largest : 7.99f;
        op_weight(op, int4 ? kit_stack(k, dtype, w->dims[0], w->dims[1], groups, most)
                           : kit_weight(k, dtype, w->dims[0], w->dims[1], most, 8));
    }
}

static void finish_moe(struct kit *k, tn_op *op, const struct shape *s)
{
    uint64_t width = op->in[0]->width, inner = s->linear_width[0];
    bool scaled = tn_dtype_bits(s->matrix) < 16;
    float largest = 1.7f / sqrtf((float)width); /* outputs about 1 */
    float limit = s->matrix == TN_DT_I8       ? 127.99f
                  : s->matrix == TN_DT_I4     ? 7.99f
                  : s->matrix == TN_DT_F8E4M3 ? 400.0f
                                              : largest;

    if (is(op->name, TN_OP_MOE_ROUTE)) {
        op_int(op, "top_k", s->top_k);
        if (s->norm)
            op_text(op, "norm", s->norm);
        add_out(k, op, TN_VALUE_ROWS, TN_DT_I32, s->top_k);
        add_out(k, op, TN_VALUE_ROWS, TN_DT_F32, s->top_k);
        return;
    }
    op_weight(op, kit_stack(k, s->matrix, s->experts, inner, width, limit));
    op_weight(op, kit_stack(k, s->matrix, s->experts, inner, width, limit));
    op_weight(op, kit_stack(k, s->matrix, s->experts, width, inner, limit));
    if (scaled)
        add_expert_scales(k, op, s, 2.0f * largest);
    op_text(op, "act", s->act_name ? s->act_name : "silu");
    op_int(op, "expert_first", s->first);
    add_out(k, op, TN_VALUE_ROWS, act(s), width);
}

/* `linears` counts the matrices of a composition so far. */
static void finish(struct kit *k, tn_op *op, const struct shape *s, uint32_t *linears)
{
    const char *name = op->name;

    if (strncmp(name, TN_OP_LINEAR, strlen(TN_OP_LINEAR)) == 0)
        finish_linear(k, op, s, s->linear_width[(*linears)++], TN_VALUE_ROWS);
    else if (strncmp(name, TN_OP_LOGITS, strlen(TN_OP_LOGITS)) == 0)
        finish_linear(k, op, s, s->linear_width[0], TN_VALUE_LOGITS);
    else if (is_table(name))
        finish_table(k, op, s);
    else if (is(name, TN_OP_RMS_NORM) || is(name, TN_OP_LAYER_NORM))
        finish_norm(k, op, s);
    else if (is(name, TN_OP_ROPE))
        finish_rope(k, op, s);
    else if (is(name, TN_OP_HADAMARD))
        finish_hadamard(k, op, s);
    else if (is(name, TN_OP_REORDER))
        finish_reorder(k, op, s);
    else if (is(name, TN_OP_KV_APPEND) || is(name, TN_OP_ATTENTION))
        finish_attention(k, op, s);
    else if (is(name, TN_OP_MOE_ROUTE) || is(name, TN_OP_MOE_MLP))
        finish_moe(k, op, s);
    else if (is(name, TN_OP_SAMPLE))
        add_out(k, op, TN_VALUE_LOGITS, TN_DT_I32, 1);
    else
        add_out(k, op, op->in[0]->kind, act(s), op->in[0]->width);
    if (is(name, TN_OP_SCALE))
        op_real(op, "factor", s->scale != 0.0 ? s->scale : 0.37);
    if (is(name, TN_OP_SOFTCAP))
        op_real(op, "cap", s->softcap > 0.0 ? s->softcap : 1.5);
}

static uint32_t inputs_of(const char *name)
{
    if (is_table(name))
        return 0;
    if (is(name, TN_OP_MOE_MLP))
        return 3;
    return is(name, TN_OP_ADD) || is(name, TN_OP_MUL) || is(name, TN_OP_KV_APPEND) ||
                   is(name, TN_OP_ATTENTION)
               ? 2
               : 1;
}

tn_op *compose_basic(struct kit *k, const char *name, const struct shape *s)
{
    tn_op *op = kit_op(k, name);
    uint32_t linears = 0;

    for (uint32_t i = 0; i < inputs_of(name); i++) {
        uint32_t kind = is(name, TN_OP_SAMPLE)                ? TN_VALUE_LOGITS
                        : is(name, TN_OP_ATTENTION) && i == 1 ? TN_VALUE_KV
                                                              : TN_VALUE_ROWS;
        uint32_t dtype = is(name, TN_OP_SAMPLE)              ? TN_DT_F32
                         : is(name, TN_OP_MOE_MLP) && i == 1 ? TN_DT_I32
                         : is(name, TN_OP_MOE_MLP) && i == 2 ? TN_DT_F32
                                                             : act(s);
        op_in(op, kit_value(k, kind, dtype, s->in_width[i]));
    }
    finish(k, op, s, &linears);
    return op;
}

/* -- Compositions --------------------------------------------------------------------------------------- */

/* Names that a composition has given to values so far. */
struct names {
    char name[32][32];
    const tn_value *value[32];
    uint32_t n;
};

/* Moves past spaces and reads a word of letters, digits, '_' and '.'. */
static const char *word(const char *at, char *out, size_t size)
{
    size_t n = 0;

    at += strspn(at, " ,;:=()->");
    n = strcspn(at, " ,;:=()");
    ck_assert_msg(n > 0 && n < size, "no name at: %s", at);
    memcpy(out, at, n);
    out[n] = '\0';
    return at + n;
}

/* Reads "a, b)" or "a, b =": words up to one of `end`. Returns how many; moves *at past the end. */
static uint32_t words(const char **at, const char *end, char out[8][32])
{
    uint32_t n = 0;

    while (!strchr(end, *(*at += strspn(*at, " ,("))))
        *at = word(*at, out[n++], 32);
    ++*at;
    return n;
}

static const tn_value *lookup(const struct names *names, const char *name)
{
    for (uint32_t i = 0; i < names->n; i++)
        if (is(names->name[i], name))
            return names->value[i];
    ck_abort_msg("the composition uses %s before it is made", name);
    return NULL;
}

static void define(struct names *names, const char *name, const tn_value *value)
{
    ck_assert_uint_lt(names->n, 32);
    snprintf(names->name[names->n], 32, "%s", name);
    names->value[names->n++] = value;
}

static void op_member(tn_op *op, const tn_op *m)
{
    ((const tn_op **)op->members)[op->n_members++] = m;
    for (uint32_t i = 0; i < m->n_weights; i++)
        op_weight(op, m->weights[i]);
}

/* One statement "i, p = moe_route(x)". */
static const char *statement(struct kit *k, const char *at, const struct shape *s,
                             struct names *names, tn_op *fused, uint32_t *linears)
{
    char outs[8][32], ins[8][32], *name = kit_alloc(k, 32);
    uint32_t n_out, n_in;
    tn_op *m;

    n_out = words(&at, "=", outs);
    at = word(at, name, 32);
    at += strspn(at, " ");
    ck_assert_int_eq(*at, '(');
    n_in = words(&at, ")", ins);
    m = kit_op(k, name);
    for (uint32_t i = 0; i < n_in; i++)
        op_in(m, lookup(names, ins[i]));
    finish(k, m, s, linears);
    ck_assert_msg(m->n_out == n_out, "%s has %u outputs", name, m->n_out);
    for (uint32_t i = 0; i < n_out; i++)
        define(names, outs[i], m->out[i]);
    op_member(fused, m);
    return at + strspn(at, " ;");
}

tn_op *compose(struct kit *k, const tn_variant *v, const struct shape *s)
{
    struct names names = {.n = 0};
    char ins[8][32], outs[8][32];
    uint32_t n_in, n_out, linears = 0;
    const char *at = v->equals;
    tn_op *op;

    if (!at)
        return compose_basic(k, v->op, s);
    op = kit_op(k, v->op);
    n_in = words(&at, ")", ins);
    for (uint32_t i = 0; i < n_in; i++) {
        define(&names, ins[i], kit_value(k, TN_VALUE_ROWS, act(s), s->in_width[i]));
        op_in(op, names.value[i]);
    }
    at += strspn(at, " ->");
    n_out = words(&at, ")", outs);
    at += strspn(at, " :");
    while (*at)
        at = statement(k, at, s, &names, op, &linears);
    for (uint32_t i = 0; i < n_out; i++)
        op_out(op, lookup(&names, outs[i]));
    return op;
}

struct shape shape_for(const tn_variant *v)
{
    struct shape s = {
        .in_width = {200, 77, 77}, .linear_width = {77, 77, 77}, .bias = true, .quant_group = 40};

    while (v->weight_dtypes && !(v->weight_dtypes & TN_DT_BIT(s.matrix)))
        s.matrix++;
    if (is_table(v->op))
        s.table = 2000;
    if (!v->pack_layout && !v->kv_dtypes) /* row by row: all inputs are equally wide */
        s.in_width[1] = s.in_width[0];
    if (is(v->op, TN_OP_MOE_MLP)) {
        s.in_width[1] = s.in_width[2] = 3;
        s.experts = 6;
    }
    if (is(v->op, TN_OP_ROPE) || is(v->op, TN_OP_HADAMARD) || v->kv_dtypes) {
        uint64_t width;
        s.head_dim = 64;
        s.kv_heads = 2;
        s.heads = 6;
        width = s.head_dim * s.kv_heads;
        s.in_width[0] = is(v->op, TN_OP_KV_APPEND) ? width : 3 * width;
        s.in_width[1] = s.in_width[2] = width;
    }
    return s;
}

/* -- Rows that are not rounded -------------------------------------------------------------------------- */

/* linear.fp8 without rounding rows: linear, with the scales multiplied in. */
static const tn_op *wide_linear(struct kit *k, const tn_op *op)
{
    const tn_weight *matrix = op->weights[0];
    uint64_t n = matrix->dims[0], width = matrix->dims[1];
    tn_weight *w = kit_weight(k, TN_DT_F32, n, width, 1.0f, 0);
    tn_op *wide = kit_op(k, TN_OP_LINEAR);

    for (uint64_t i = 0; i < n; i++)
        for (uint64_t j = 0; j < width; j++)
            ((float *)w->data)[i * width + j] =
                ((const float *)op->weights[1]->data)[i] *
                tn_f8e4m3_to_f32(((const uint8_t *)matrix->data)[i * matrix->stride0 + j]);
    op_in(wide, op->in[0]);
    op_out(wide, op->out[0]);
    op_weight(wide, w);
    if (op->n_weights > 2)
        op_weight(wide, op->weights[2]);
    return wide;
}

const tn_op *compose_wide_rows(struct kit *k, const tn_op *op)
{
    const tn_op **members = kit_alloc(k, (op->n_members + 1) * sizeof *members);
    tn_op *copy = kit_alloc(k, sizeof *copy);

    if (strcmp(op->name, TN_OP_LINEAR_FP8) == 0)
        return wide_linear(k, op);
    *copy = *op;
    for (uint32_t i = 0; i < op->n_members; i++) /* members have none of their own */
        members[i] = strcmp(op->members[i]->name, TN_OP_LINEAR_FP8) == 0
                         ? wide_linear(k, op->members[i])
                         : op->members[i];
    copy->members = members;
    return copy;
}
