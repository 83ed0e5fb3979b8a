/* SPDX-License-Identifier: Apache-2.0 */
/* tenon/ops.h as a table. Each row has a shape rule: a function that compares widths and dims and says what is
 * wrong. Attributes are checked by the table alone. */
#include "engine/opset.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "engine/names.h"
#include "tenon/ops.h"

struct attr_rule {
    const char *name;
    uint32_t kind;
    bool required;
    double min, max;
    bool heads; /* counts units that tensor parallelism may divide */
};

struct shapes {
    const struct plan *p;
    const struct plan_op *op;
    const struct plan_value *out;
    tn_err *err;
};

struct op_rule {
    const char *name;
    uint32_t n_in, min_weights, max_weights, n_out;
    int32_t (*shape)(const struct shapes *s);
    struct attr_rule attrs[9];
};

/* -- What shape rules are made of ---------------------------------------------------------------- */

static const struct plan_value *in_value(const struct shapes *s, uint32_t i)
{
    return &s->p->values[s->op->in[i]];
}

static const struct plan_weight *weight(const struct shapes *s, uint32_t i)
{
    return &s->p->weights[s->op->weights[i]];
}

static int64_t int_attr(const struct shapes *s, const char *name, int64_t absent)
{
    const tn_attr *a = plan_attr(s->op, name);

    return a ? a->i : absent;
}

static int32_t expect(const struct shapes *s, const char *what, uint64_t have, uint64_t want)
{
    if (have == want)
        return TN_OK;
    return err_at(s->err, TN_E_FORMAT, NULL, TN_NO_OFFSET, s->op->name,
                  "layer %" PRId32 ": %s is %" PRIu64 ", but must be %" PRIu64, s->op->layer, what,
                  have, want);
}

static int32_t expect_text(const struct shapes *s, const char *what, const char *have,
                           const char *want)
{
    if (strcmp(have, want) == 0)
        return TN_OK;
    return err_at(s->err, TN_E_FORMAT, NULL, TN_NO_OFFSET, s->op->name,
                  "layer %" PRId32 ": %s is %s, but must be %s", s->op->layer, what, have, want);
}

/* Kernels size their reads and writes by kind and dtype, so both must be what the op is defined for. */
static int32_t expect_value(const struct shapes *s, const char *what, const struct plan_value *v,
                            uint32_t kind, uint32_t dtype)
{
    char text[64];
    int32_t rc;

    snprintf(text, sizeof text, "the kind of %s", what);
    rc = expect_text(s, text, value_kind_name(v->kind), value_kind_name(kind));
    snprintf(text, sizeof text, "the dtype of %s", what);
    return rc == TN_OK ? expect_text(s, text, tn_dtype_name(v->dtype), tn_dtype_name(dtype)) : rc;
}

/* All inputs and outputs are rows of activations. */
static int32_t expect_rows(const struct shapes *s)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++)
        rc = expect_value(s, "an input", in_value(s, i), TN_VALUE_ROWS, TN_DT_ACT);
    for (uint32_t i = 0; i < s->op->n_out && rc == TN_OK; i++)
        rc = expect_value(s, "an output", &s->out[i], TN_VALUE_ROWS, TN_DT_ACT);
    return rc;
}

static int32_t expect_dims(const struct shapes *s, uint32_t i, uint32_t n, uint64_t d0, uint64_t d1)
{
    const struct plan_weight *w = weight(s, i);
    int32_t rc = expect(s, "the rank of a weight", w->n_dims, n);

    if (rc == TN_OK)
        rc = expect(s, "dimension 0 of a weight", w->dims[0], d0);
    if (rc == TN_OK && n > 1)
        rc = expect(s, "dimension 1 of a weight", w->dims[1], d1);
    return rc;
}

static int32_t name_weight(const struct shapes *s, uint32_t i, int32_t rc)
{
    if (rc != TN_OK)
        err_prefix(s->err, "%s", weight(s, i)->name);
    return rc;
}

/* A float32 vector: norms, biases, scales and tables are stored so, whatever the dtype of the engine. */
static int32_t expect_vector(const struct shapes *s, uint32_t i, uint64_t n)
{
    int32_t rc = expect_dims(s, i, 1, n, 0);

    if (rc == TN_OK)
        rc = expect_text(s, "the dtype of a vector", tn_dtype_name(weight(s, i)->dtype),
                         tn_dtype_name(TN_DT_F32));
    return name_weight(s, i, rc);
}

/* A matrix (or a stack of them), of a role whose dtype is compared with what a kernel takes. */
static int32_t expect_matrix(const struct shapes *s, uint32_t i, uint32_t n, uint64_t d0,
                             uint64_t d1)
{
    uint32_t role = weight(s, i)->role;
    int32_t rc = expect_dims(s, i, n, d0, d1);

    if (rc == TN_OK && role != TN_ROLE_EMBEDDING && role != TN_ROLE_HEAD)
        rc = expect_text(s, "the role of a matrix", role_name(role), role_name(TN_ROLE_MATRIX));
    return name_weight(s, i, rc);
}

/* Float32, a square of `dim` per head. */
static int32_t expect_feedback(const struct shapes *s, uint32_t i, uint64_t width, uint64_t dim)
{
    int32_t rc = expect_dims(s, i, 2, width, dim);

    if (rc == TN_OK)
        rc = expect_text(s, "the dtype of feedback", tn_dtype_name(weight(s, i)->dtype),
                         tn_dtype_name(TN_DT_F32));
    return name_weight(s, i, rc);
}

static int32_t expect_dtype(const struct shapes *s, uint32_t i, const char *what, uint32_t dtype)
{
    int32_t rc = expect_text(s, what, tn_dtype_name(weight(s, i)->dtype), tn_dtype_name(dtype));

    return name_weight(s, i, rc);
}

/* -- Shape rules --------------------------------------------------------------------------------- */

static int32_t shape_embedding(const struct shapes *s)
{
    int32_t rc = expect_rows(s);

    return rc == TN_OK ? expect_matrix(s, 0, 2, weight(s, 0)->dims[0], s->out[0].width) : rc;
}

/* The matrix, as the output projection has it, scales of its rows, and a factor per column. */
static int32_t shape_embedding_int8(const struct shapes *s)
{
    int32_t rc = shape_embedding(s);

    if (rc == TN_OK)
        rc = expect_dtype(s, 0, "the dtype of the matrix", TN_DT_I8);
    if (rc == TN_OK)
        rc = expect_vector(s, 1, weight(s, 0)->dims[0]);
    return rc == TN_OK ? expect_vector(s, 2, s->out[0].width) : rc;
}

static int32_t equal_widths(const struct shapes *s)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++)
        rc = expect(s, "the width of an input", in_value(s, i)->width, s->out[0].width);
    return rc;
}

/* Element by element: rows of activations, or logits. */
static int32_t shape_same(const struct shapes *s)
{
    bool logits = s->out[0].kind == TN_VALUE_LOGITS;
    int32_t rc = logits ? TN_OK : expect_rows(s);

    if (logits)
        rc = expect_value(s, "the output", &s->out[0], TN_VALUE_LOGITS, TN_DT_F32);
    for (uint32_t i = 0; i < s->op->n_in && logits && rc == TN_OK; i++)
        rc = expect_value(s, "an input", in_value(s, i), TN_VALUE_LOGITS, TN_DT_F32);
    return rc == TN_OK ? equal_widths(s) : rc;
}

static int32_t shape_rms_norm(const struct shapes *s)
{
    uint64_t group = weight(s, 0)->dims[0];
    int32_t rc = expect_rows(s);

    if (rc == TN_OK)
        rc = equal_widths(s);
    if (rc == TN_OK)
        rc = expect_vector(s, 0, group);
    return rc == TN_OK ? expect(s, "the width modulo the group", s->out[0].width % group, 0) : rc;
}

static int32_t shape_layer_norm(const struct shapes *s)
{
    int32_t rc = expect_rows(s);

    if (rc == TN_OK)
        rc = equal_widths(s);
    for (uint32_t i = 0; i < s->op->n_weights && rc == TN_OK; i++)
        rc = expect_vector(s, i, s->out[0].width);
    return rc;
}

static int32_t shape_linear(const struct shapes *s)
{
    int32_t rc = expect_rows(s);

    if (rc == TN_OK)
        rc = expect_matrix(s, 0, 2, s->out[0].width, in_value(s, 0)->width);
    for (uint32_t i = 1; i < s->op->n_weights && rc == TN_OK; i++)
        rc = expect_vector(s, i, s->out[0].width);
    return rc;
}

/* The exact sum of that many products of 127 * 127 just fits int32. */
#define INT8_MAX_INPUTS 131072

static int32_t expect_int8(const struct shapes *s)
{
    uint64_t width = in_value(s, 0)->width;
    int32_t rc = width > INT8_MAX_INPUTS
                     ? expect(s, "the width of the input", width, INT8_MAX_INPUTS)
                     : TN_OK;

    return rc == TN_OK ? expect_dtype(s, 0, "the dtype of the matrix", TN_DT_I8) : rc;
}

static int32_t shape_linear_int8(const struct shapes *s)
{
    int32_t rc = shape_linear(s);

    return rc == TN_OK ? expect_int8(s) : rc;
}

static int32_t shape_linear_fp8(const struct shapes *s)
{
    int32_t rc = shape_linear(s);

    return rc == TN_OK ? expect_dtype(s, 0, "the dtype of the matrix", TN_DT_F8E4M3) : rc;
}

/* Matrix, scales, zero points if the attribute says so, a bias if there is one more. */
static int32_t shape_linear_int4(const struct shapes *s)
{
    uint64_t k = in_value(s, 0)->width, group = (uint64_t)int_attr(s, "group", 1);
    uint32_t zero = int_attr(s, "zero", 0) != 0;
    int32_t rc;

    if ((rc = expect_rows(s)) || (rc = expect_matrix(s, 0, 2, s->out[0].width, k)) ||
        (rc = expect_dtype(s, 0, "the dtype of the matrix", TN_DT_I4)) ||
        (rc = expect(s, "the width of the input modulo the group", k % group, 0)))
        return rc;
    if (s->op->n_weights < 2 + zero || s->op->n_weights > 3 + zero)
        return expect(s, "the number of weights", s->op->n_weights, 2 + zero);
    for (uint32_t i = 1; i < 2 + zero && rc == TN_OK; i++) {
        rc = name_weight(s, i, expect_dims(s, i, 2, s->out[0].width, k / group));
        if (rc == TN_OK)
            rc = expect_dtype(s, i, i == 1 ? "the dtype of scales" : "the dtype of zero points",
                              i == 1 ? TN_DT_F32 : TN_DT_I8);
    }
    return rc == TN_OK && s->op->n_weights > 2 + zero ? expect_vector(s, 2 + zero, s->out[0].width)
                                                      : rc;
}

static int32_t shape_rope(const struct shapes *s)
{
    uint64_t heads = (uint64_t)int_attr(s, "n_heads", 0);
    uint64_t dim = (uint64_t)int_attr(s, "head_dim", 0);
    uint64_t rotary = (uint64_t)int_attr(s, "rotary_dim", 0);
    int32_t rc = expect_rows(s);

    if (rc == TN_OK)
        rc = equal_widths(s);
    if (rc == TN_OK)
        rc = expect(s, "the width", s->out[0].width, heads * dim);
    if (rc == TN_OK)
        rc = expect(s, "rotary_dim modulo 2", rotary % 2, 0);
    if (rc == TN_OK && rotary > dim)
        rc = expect(s, "rotary_dim", rotary, dim);
    return rc == TN_OK ? expect_vector(s, 0, rotary / 2) : rc;
}

static int32_t shape_hadamard(const struct shapes *s)
{
    int32_t rc = expect_rows(s);

    if (rc == TN_OK)
        rc = equal_widths(s);
    return rc == TN_OK
               ? expect(s, "the width", s->out[0].width,
                        (uint64_t)int_attr(s, "n_heads", 0) * (uint64_t)int_attr(s, "head_dim", 0))
               : rc;
}

static int32_t shape_reorder(const struct shapes *s)
{
    int32_t rc = expect_rows(s);

    if (rc == TN_OK)
        rc = equal_widths(s);
    if (rc == TN_OK)
        rc = name_weight(s, 0, expect_dims(s, 0, 1, s->out[0].width, 0));
    return rc == TN_OK ? expect_dtype(s, 0, "the dtype of an order", TN_DT_I32) : rc;
}

static int32_t shape_kv_append(const struct shapes *s)
{
    uint64_t width = (uint64_t)int_attr(s, "n_kv_heads", 0) * (uint64_t)int_attr(s, "head_dim", 0);
    int32_t rc = expect_text(s, "the kind of the output", value_kind_name(s->out[0].kind),
                             value_kind_name(TN_VALUE_KV));

    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++) {
        rc = expect_value(s, "an input", in_value(s, i), TN_VALUE_ROWS, TN_DT_ACT);
        if (rc == TN_OK)
            rc = expect(s, "the width of an input", in_value(s, i)->width, width);
    }
    if (rc == TN_OK && (s->op->n_weights == 1 || s->op->n_weights == 4))
        rc = expect(s, "the number of ranges, means and feedback", s->op->n_weights,
                    s->op->n_weights + 1);
    for (uint32_t i = 0; i < s->op->n_weights && i < 3 && rc == TN_OK; i++)
        rc = expect_vector(s, i, i < 2 ? (uint64_t)int_attr(s, "n_kv_heads", 0) : width);
    for (uint32_t i = 3; i < s->op->n_weights && rc == TN_OK; i++)
        rc = expect_feedback(s, i, width, (uint64_t)int_attr(s, "head_dim", 0));
    return rc;
}

/* The cache that attention reads is the one that its kv_append writes: heads and their width must agree. */
static int32_t shape_cache(const struct shapes *s, uint64_t kv_heads, uint64_t dim)
{
    const struct plan_value *kv = in_value(s, 1);
    const struct plan_op *append = &s->p->ops[kv->producer];
    int32_t rc = expect_text(s, "the kind of the second input", value_kind_name(kv->kind),
                             value_kind_name(TN_VALUE_KV));

    if (rc == TN_OK)
        rc = expect_text(s, "the op that wrote the cache", append->name, TN_OP_KV_APPEND);
    if (rc == TN_OK)
        rc = expect(s, "n_kv_heads", kv_heads, (uint64_t)plan_attr(append, "n_kv_heads")->i);
    return rc == TN_OK ? expect(s, "head_dim", dim, (uint64_t)plan_attr(append, "head_dim")->i)
                       : rc;
}

static int32_t shape_attention(const struct shapes *s)
{
    uint64_t heads = (uint64_t)int_attr(s, "n_heads", 0);
    uint64_t kv_heads = (uint64_t)int_attr(s, "n_kv_heads", 0);
    uint64_t dim = (uint64_t)int_attr(s, "head_dim", 0);
    int32_t rc;

    if ((rc = expect_value(s, "the first input", in_value(s, 0), TN_VALUE_ROWS, TN_DT_ACT)) ||
        (rc = expect_value(s, "the output", &s->out[0], TN_VALUE_ROWS, TN_DT_ACT)) ||
        (rc = shape_cache(s, kv_heads, dim)) ||
        (rc = expect(s, "n_heads modulo n_kv_heads", heads % kv_heads, 0)) ||
        (rc = expect(s, "the width of the query", in_value(s, 0)->width, heads * dim)))
        return rc;
    return expect(s, "the width of the output", s->out[0].width, heads * dim);
}

static int32_t shape_moe_route(const struct shapes *s)
{
    uint64_t k = (uint64_t)int_attr(s, "top_k", 0);
    int32_t rc;

    if ((rc = expect_value(s, "the input", in_value(s, 0), TN_VALUE_ROWS, TN_DT_ACT)) ||
        (rc = expect_value(s, "the first output", &s->out[0], TN_VALUE_ROWS, TN_DT_I32)) ||
        (rc = expect_value(s, "the second output", &s->out[1], TN_VALUE_ROWS, TN_DT_F32)))
        return rc;
    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++)
        rc = expect(s, "the width of an output", s->out[i].width, k);
    if (rc == TN_OK && k > in_value(s, 0)->width)
        rc = expect(s, "top_k", k, in_value(s, 0)->width);
    return rc;
}

/* What stands beside stack `i` of experts: of int8 and float8_e4m3 a scale per row, of int4 scales of groups, and zero points if
 * there are nine weights. */
static int32_t shape_expert_scales(const struct shapes *s, uint32_t i)
{
    const struct plan_weight *w = weight(s, i);
    bool grouped = w->dtype == TN_DT_I4;
    int32_t rc = TN_OK;

    for (uint32_t at = i + 3; at < s->op->n_weights && rc == TN_OK; at += 3) {
        const struct plan_weight *scale = weight(s, at);
        rc = expect_dims(s, at, grouped ? 3 : 2, w->dims[0], w->dims[1]);
        if (rc == TN_OK && grouped)
            rc = expect(s, "the width of a row modulo its groups", w->dims[2] % scale->dims[2], 0);
        if (rc == TN_OK && at > 5)
            rc = expect(s, "the groups of zero points", scale->dims[2], weight(s, i + 3)->dims[2]);
        rc = name_weight(s, at, rc);
        if (rc == TN_OK)
            rc = expect_dtype(s, at, at > 5 ? "the dtype of zero points" : "the dtype of scales",
                              at > 5 ? TN_DT_I8 : TN_DT_F32);
    }
    return rc;
}

/* Matrices of fewer bits than 16 and their scales come together. */
static int32_t shape_experts(const struct shapes *s)
{
    uint32_t dtype = weight(s, 0)->dtype, n = s->op->n_weights;
    bool scaled = dtype == TN_DT_I8 || dtype == TN_DT_F8E4M3 || dtype == TN_DT_I4;
    int32_t rc = TN_OK;

    if (scaled ? n != 6 && !(n == 9 && dtype == TN_DT_I4) : n != 3)
        return name_weight(s, 0, expect(s, "the number of weights", n, scaled ? 6 : 3));
    for (uint32_t i = 0; i < 3 && scaled && rc == TN_OK; i++) {
        rc = expect_dtype(s, i, "the dtype of a matrix", dtype);
        if (rc == TN_OK)
            rc = shape_expert_scales(s, i);
    }
    return rc;
}

static int32_t shape_moe_mlp(const struct shapes *s)
{
    uint64_t width = in_value(s, 0)->width;
    const struct plan_weight *gate = weight(s, 0);
    uint64_t experts = gate->dims[0], inner = gate->n_dims == 3 ? gate->dims[1] : 0;
    int32_t rc;

    if ((rc = expect_value(s, "the first input", in_value(s, 0), TN_VALUE_ROWS, TN_DT_ACT)) ||
        (rc = expect_value(s, "the second input", in_value(s, 1), TN_VALUE_ROWS, TN_DT_I32)) ||
        (rc = expect_value(s, "the third input", in_value(s, 2), TN_VALUE_ROWS, TN_DT_F32)) ||
        (rc = expect_value(s, "the output", &s->out[0], TN_VALUE_ROWS, TN_DT_ACT)) ||
        (rc = expect(s, "the width of the third input", in_value(s, 2)->width,
                     in_value(s, 1)->width)))
        return rc;
    rc = expect(s, "the width of the output", s->out[0].width, width);
    for (uint32_t i = 0; i < 3 && rc == TN_OK; i++) {
        rc = expect_matrix(s, i, 3, experts, i < 2 ? inner : width);
        if (rc == TN_OK)
            rc = expect(s, "dimension 2 of a weight", weight(s, i)->dims[2], i < 2 ? width : inner);
    }
    return rc == TN_OK ? shape_experts(s) : rc;
}

static int32_t shape_logits(const struct shapes *s)
{
    int32_t rc = expect_value(s, "the input", in_value(s, 0), TN_VALUE_ROWS, TN_DT_ACT);

    if (rc == TN_OK)
        rc = expect_value(s, "the output", &s->out[0], TN_VALUE_LOGITS, TN_DT_F32);
    if (rc == TN_OK)
        rc = expect_matrix(s, 0, 2, s->out[0].width, in_value(s, 0)->width);
    if (rc == TN_OK && s->op->n_weights > 1)
        rc = expect_vector(s, 1, s->out[0].width);
    return rc;
}

static int32_t shape_logits_int8(const struct shapes *s)
{
    int32_t rc = shape_logits(s);

    for (uint32_t i = 2; i < s->op->n_weights && rc == TN_OK; i++)
        rc = expect_vector(s, i, s->out[0].width);
    return rc == TN_OK ? expect_int8(s) : rc;
}

static int32_t shape_sample(const struct shapes *s)
{
    int32_t rc = expect_value(s, "the input", in_value(s, 0), TN_VALUE_LOGITS, TN_DT_F32);

    if (rc == TN_OK)
        rc = expect_value(s, "the output", &s->out[0], TN_VALUE_LOGITS, TN_DT_I32);
    return rc == TN_OK ? expect(s, "the width of the output", s->out[0].width, 1) : rc;
}

/* -- The table ----------------------------------------------------------------------------------- */

#define INT(name, required, min, max)                                                              \
    {                                                                                              \
        name, TN_ATTR_I64, required, (double)(min), (double)(max), false                           \
    }
#define REAL(name, required, min, max)                                                             \
    {                                                                                              \
        name, TN_ATTR_F64, required, (min), (max), false                                           \
    }
#define TEXT(name, required)                                                                       \
    {                                                                                              \
        name, TN_ATTR_STR, required, 0, 0, false                                                   \
    }
#define COUNT(name)                                                                                \
    {                                                                                              \
        name, TN_ATTR_I64, true, 1, 65536, true                                                    \
    }
#define HEADS COUNT("n_heads")
#define KV_HEADS COUNT("n_kv_heads")
#define HEAD_DIM INT("head_dim", true, 1, 8192)
#define EPS REAL("eps", true, 0.0, 1.0)
#define ACT_SCALE REAL("act_scale", false, 0.0, 1e30)

static const struct op_rule rules[] = {
    {TN_OP_EMBEDDING, 0, 1, 1, 1, shape_embedding, {REAL("scale", false, -1e6, 1e6)}},
    {TN_OP_EMBEDDING_INT8, 0, 3, 3, 1, shape_embedding_int8, {REAL("scale", false, -1e6, 1e6)}},
    {TN_OP_POSITION, 0, 1, 1, 1, shape_embedding, {INT("offset", false, 0, 65536)}},
    {TN_OP_RMS_NORM, 1, 1, 1, 1, shape_rms_norm, {EPS, REAL("offset", false, -1.0, 1.0)}},
    {TN_OP_LAYER_NORM, 1, 1, 2, 1, shape_layer_norm, {EPS}},
    {TN_OP_LINEAR, 1, 1, 2, 1, shape_linear, {{0}}},
    {TN_OP_LINEAR_INT8, 1, 2, 3, 1, shape_linear_int8, {ACT_SCALE}},
    {TN_OP_LINEAR_FP8, 1, 2, 3, 1, shape_linear_fp8, {ACT_SCALE}},
    {TN_OP_LINEAR_INT4,
     1,
     2,
     4,
     1,
     shape_linear_int4,
     {INT("group", true, 2, 65536), INT("zero", false, 0, 1)}},
    {TN_OP_ROPE,
     1,
     1,
     1,
     1,
     shape_rope,
     {HEADS, HEAD_DIM, INT("rotary_dim", true, 2, 8192), TEXT("style", false),
      REAL("mscale", false, 0.0, 1e6), REAL("base", false, 0.0, 1e12),
      REAL("factor", false, 0.0, 1e6), INT("max_position", false, 0, LIMIT_POSITIONS)}},
    {TN_OP_HADAMARD, 1, 0, 0, 1, shape_hadamard, {HEADS, HEAD_DIM}},
    {TN_OP_REORDER, 1, 1, 1, 1, shape_reorder, {{0}}},
    {TN_OP_KV_APPEND, 2, 0, 5, 1, shape_kv_append, {KV_HEADS, HEAD_DIM}},
    {TN_OP_ATTENTION,
     2,
     0,
     0,
     1,
     shape_attention,
     {HEADS, KV_HEADS, HEAD_DIM, REAL("scale", true, -1e6, 1e6),
      INT("window", false, 0, LIMIT_POSITIONS), REAL("softcap", false, 0.0, 1e6)}},
    {TN_OP_ADD, 2, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_MUL, 2, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_SILU, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_GELU, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_GELU_TANH, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_RELU, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_RELU2, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_SCALE, 1, 0, 0, 1, shape_same, {REAL("factor", true, -1e6, 1e6)}},
    {TN_OP_SOFTCAP, 1, 0, 0, 1, shape_same, {REAL("cap", true, 1e-6, 1e6)}},
    {TN_OP_MOE_ROUTE,
     1,
     0,
     0,
     2,
     shape_moe_route,
     {INT("top_k", true, 1, 1024), TEXT("norm", false)}},
    {TN_OP_MOE_MLP,
     3,
     3,
     9,
     1,
     shape_moe_mlp,
     {TEXT("act", false), INT("expert_first", false, 0, 65536)}},
    {TN_OP_ALL_REDUCE, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_ALL_GATHER, 1, 0, 0, 1, shape_same, {{0}}},
    {TN_OP_LOGITS,
     1,
     1,
     2,
     1,
     shape_logits,
     {REAL("scale", false, -1e6, 1e6), REAL("softcap", false, 0.0, 1e6)}},
    {TN_OP_LOGITS_INT8,
     1,
     2,
     3,
     1,
     shape_logits_int8,
     {REAL("scale", false, -1e6, 1e6), REAL("softcap", false, 0.0, 1e6), ACT_SCALE}},
    {TN_OP_SAMPLE, 1, 0, 0, 1, shape_sample, {{0}}},
};

#define N_RULES (sizeof rules / sizeof *rules)

bool opset_makes_logits(const char *name)
{
    return strcmp(name, TN_OP_LOGITS) == 0 || strcmp(name, TN_OP_LOGITS_INT8) == 0;
}

bool opset_embeds(const char *name)
{
    return strcmp(name, TN_OP_EMBEDDING) == 0 || strcmp(name, TN_OP_EMBEDDING_INT8) == 0;
}

const char *opset_name(size_t i)
{
    return i < N_RULES ? rules[i].name : NULL;
}

static const struct op_rule *rule_of(const char *name)
{
    for (size_t i = 0; i < N_RULES; i++)
        if (strcmp(rules[i].name, name) == 0)
            return &rules[i];
    return NULL;
}

bool opset_has(const char *name)
{
    return rule_of(name) != NULL;
}

/* -- Checking ------------------------------------------------------------------------------------ */

static const struct attr_rule *attr_rule_of(const struct op_rule *r, const char *name)
{
    for (size_t i = 0; i < sizeof r->attrs / sizeof *r->attrs && r->attrs[i].name; i++)
        if (strcmp(r->attrs[i].name, name) == 0)
            return &r->attrs[i];
    return NULL;
}

static int32_t check_attr(const struct plan_op *op, const tn_attr *a, const struct attr_rule *r,
                          tn_err *err)
{
    double v = a->kind == TN_ATTR_I64 ? (double)a->i : a->f;

    if (!r)
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name, "has no attribute \"%s\"",
                      a->name);
    if (a->kind != r->kind)
        return err_at(err, TN_E_TYPE, NULL, TN_NO_OFFSET, op->name,
                      "attribute \"%s\" has the wrong type", a->name);
    if ((a->flags & TN_ATTR_SHARDED) && !r->heads)
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                      "attribute \"%s\" is no count of heads that ranks could share", a->name);
    if (r->kind != TN_ATTR_STR && !(v >= r->min && v <= r->max))
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "attribute \"%s\" is %g, but must be from %g to %g", a->name, v, r->min,
                      r->max);
    return TN_OK;
}

static int32_t check_attrs(const struct op_rule *r, const struct plan_op *op, tn_err *err)
{
    int32_t rc;

    for (uint32_t i = 0; i < op->n_attrs; i++) {
        rc = check_attr(op, &op->attrs[i], attr_rule_of(r, op->attrs[i].name), err);
        if (rc != TN_OK)
            return rc;
    }
    for (size_t i = 0; i < sizeof r->attrs / sizeof *r->attrs && r->attrs[i].name; i++)
        if (r->attrs[i].required && !plan_attr(op, r->attrs[i].name))
            return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                          "lacks the attribute \"%s\"", r->attrs[i].name);
    return TN_OK;
}

int32_t opset_check(const struct plan *p, const struct plan_op *op, const struct plan_value *out,
                    tn_err *err)
{
    const struct op_rule *r = rule_of(op->name);
    struct shapes s = {p, op, out, err};
    int32_t rc;

    if (!r && strchr(op->name, '.'))
        return TN_OK;
    if (!r) {
        err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name, "is not a basic op");
        err_remedy(err, "a vendor's op needs a prefix: \"vendor.%s\"", op->name);
        return TN_E_FORMAT;
    }
    if (op->n_in != r->n_in || op->n_weights < r->min_weights || op->n_weights > r->max_weights ||
        op->n_out != r->n_out)
        return err_at(
            err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
            "has %" PRIu32 " inputs, %" PRIu32 " weights, %" PRIu32
            " outputs; its definition says %" PRIu32 ", %" PRIu32 "-%" PRIu32 ", %" PRIu32,
            op->n_in, op->n_weights, op->n_out, r->n_in, r->min_weights, r->max_weights, r->n_out);
    rc = check_attrs(r, op, err);
    return rc == TN_OK ? r->shape(&s) : rc;
}
