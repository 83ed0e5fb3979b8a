/* SPDX-License-Identifier: Apache-2.0 */
/* tenon/ops.h as a table. Each row has a shape rule: a function that compares widths and dims and says what is
 * wrong. Attributes are checked by the table alone. */
#include "engine/opset.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/limits.h"
#include "tenon/ops.h"

struct attr_rule {
    const char *name;
    uint32_t kind;
    bool required;
    double min, max;
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

static int32_t expect_dims(const struct shapes *s, uint32_t i, uint32_t n, uint64_t d0, uint64_t d1)
{
    const struct plan_weight *w = weight(s, i);
    int32_t rc = expect(s, "the rank of a weight", w->n_dims, n);

    if (rc == TN_OK)
        rc = expect(s, "dimension 0 of a weight", w->dims[0], d0);
    if (rc == TN_OK && n > 1)
        rc = expect(s, "dimension 1 of a weight", w->dims[1], d1);
    if (rc != TN_OK && s->err)
        err_prefix(s->err, "%s", w->name);
    return rc;
}

static int32_t expect_kinds(const struct shapes *s, uint32_t in_kind, uint32_t out_kind)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++)
        rc = expect(s, "the kind of an input", in_value(s, i)->kind, in_kind);
    for (uint32_t i = 0; i < s->op->n_out && rc == TN_OK; i++)
        rc = expect(s, "the kind of an output", s->out[i].kind, out_kind);
    return rc;
}

/* -- Shape rules --------------------------------------------------------------------------------- */

static int32_t shape_embedding(const struct shapes *s)
{
    int32_t rc = expect_kinds(s, TN_VALUE_ROWS, TN_VALUE_ROWS);

    if (rc == TN_OK)
        rc = expect_dims(s, 0, 2, weight(s, 0)->dims[0], s->out[0].width);
    return rc;
}

static int32_t shape_same(const struct shapes *s)
{
    int32_t rc = expect(s, "the kind of the output", s->out[0].kind, in_value(s, 0)->kind);

    for (uint32_t i = 0; i < s->op->n_in && rc == TN_OK; i++)
        rc = expect(s, "the width of an input", in_value(s, i)->width, s->out[0].width);
    return rc;
}

static int32_t shape_rms_norm(const struct shapes *s)
{
    int32_t rc = shape_same(s);
    uint64_t group = weight(s, 0)->dims[0];

    if (rc == TN_OK)
        rc = expect(s, "the rank of the weight", weight(s, 0)->n_dims, 1);
    if (rc == TN_OK)
        rc = expect(s, "the width modulo the group", s->out[0].width % group, 0);
    return rc;
}

static int32_t shape_layer_norm(const struct shapes *s)
{
    int32_t rc = shape_same(s);

    for (uint32_t i = 0; i < s->op->n_weights && rc == TN_OK; i++)
        rc = expect_dims(s, i, 1, s->out[0].width, 0);
    return rc;
}

static int32_t shape_linear(const struct shapes *s)
{
    int32_t rc = expect_kinds(s, TN_VALUE_ROWS, TN_VALUE_ROWS);

    if (rc == TN_OK)
        rc = expect_dims(s, 0, 2, s->out[0].width, in_value(s, 0)->width);
    if (rc == TN_OK && s->op->n_weights > 1)
        rc = expect_dims(s, 1, 1, s->out[0].width, 0);
    return rc;
}

static int32_t shape_linear_int8(const struct shapes *s)
{
    int32_t rc = expect_kinds(s, TN_VALUE_ROWS, TN_VALUE_ROWS);

    if (rc == TN_OK)
        rc = expect_dims(s, 0, 2, s->out[0].width, in_value(s, 0)->width);
    for (uint32_t i = 1; i < s->op->n_weights && rc == TN_OK; i++)
        rc = expect_dims(s, i, 1, s->out[0].width, 0);
    return rc;
}

static int32_t shape_rope(const struct shapes *s)
{
    uint64_t heads = (uint64_t)int_attr(s, "n_heads", 0);
    uint64_t dim = (uint64_t)int_attr(s, "head_dim", 0);
    uint64_t rotary = (uint64_t)int_attr(s, "rotary_dim", 0);
    int32_t rc = shape_same(s);

    if (rc == TN_OK)
        rc = expect(s, "the width", s->out[0].width, heads * dim);
    if (rc == TN_OK)
        rc = expect(s, "rotary_dim modulo 2", rotary % 2, 0);
    if (rc == TN_OK && rotary > dim)
        rc = expect(s, "rotary_dim", rotary, dim);
    if (rc == TN_OK)
        rc = expect_dims(s, 0, 1, rotary / 2, 0);
    if (rc == TN_OK)
        rc = expect(s, "the dtype of the frequencies", weight(s, 0)->dtype, TN_DT_F32);
    return rc;
}

static int32_t shape_kv_append(const struct shapes *s)
{
    uint64_t width = (uint64_t)int_attr(s, "n_kv_heads", 0) * (uint64_t)int_attr(s, "head_dim", 0);
    int32_t rc = expect_kinds(s, TN_VALUE_ROWS, TN_VALUE_KV);

    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++)
        rc = expect(s, "the width of an input", in_value(s, i)->width, width);
    return rc;
}

static int32_t shape_attention(const struct shapes *s)
{
    uint64_t heads = (uint64_t)int_attr(s, "n_heads", 0);
    uint64_t kv_heads = (uint64_t)int_attr(s, "n_kv_heads", 0);
    uint64_t dim = (uint64_t)int_attr(s, "head_dim", 0);
    const struct plan_value *kv = in_value(s, 1);
    const struct plan_op *append = &s->p->ops[kv->producer];
    int32_t rc = expect(s, "the kind of the first input", in_value(s, 0)->kind, TN_VALUE_ROWS);

    if (rc == TN_OK)
        rc = expect(s, "the kind of the second input", kv->kind, TN_VALUE_KV);
    if (rc == TN_OK)
        rc = expect(s, "n_heads modulo n_kv_heads", heads % kv_heads, 0);
    if (rc == TN_OK)
        rc = expect(s, "the width of the query", in_value(s, 0)->width, heads * dim);
    if (rc == TN_OK)
        rc = expect(s, "the width of the output", s->out[0].width, heads * dim);
    if (rc == TN_OK && strcmp(append->name, TN_OP_KV_APPEND) == 0) {
        rc = expect(s, "n_kv_heads", kv_heads, (uint64_t)plan_attr(append, "n_kv_heads")->i);
        if (rc == TN_OK)
            rc = expect(s, "head_dim", dim, (uint64_t)plan_attr(append, "head_dim")->i);
    }
    return rc;
}

static int32_t shape_moe_route(const struct shapes *s)
{
    uint64_t k = (uint64_t)int_attr(s, "top_k", 0);
    int32_t rc = expect_kinds(s, TN_VALUE_ROWS, TN_VALUE_ROWS);

    for (uint32_t i = 0; i < 2 && rc == TN_OK; i++)
        rc = expect(s, "the width of an output", s->out[i].width, k);
    if (rc == TN_OK)
        rc = expect(s, "the dtype of the expert numbers", s->out[0].dtype, TN_DT_I32);
    if (rc == TN_OK)
        rc = expect(s, "the dtype of the expert weights", s->out[1].dtype, TN_DT_F32);
    if (rc == TN_OK && k > in_value(s, 0)->width)
        rc = expect(s, "top_k", k, in_value(s, 0)->width);
    return rc;
}

static int32_t shape_moe_mlp(const struct shapes *s)
{
    uint64_t width = in_value(s, 0)->width;
    const struct plan_weight *gate = weight(s, 0);
    uint64_t experts = gate->dims[0], inner = gate->n_dims == 3 ? gate->dims[1] : 0;
    int32_t rc = expect(s, "the width of the output", s->out[0].width, width);

    for (uint32_t i = 0; i < 3 && rc == TN_OK; i++) {
        rc = expect_dims(s, i, 3, experts, i < 2 ? inner : width);
        if (rc == TN_OK)
            rc = expect(s, "dimension 2 of a weight", weight(s, i)->dims[2], i < 2 ? width : inner);
    }
    return rc;
}

static int32_t shape_logits(const struct shapes *s)
{
    int32_t rc = expect_kinds(s, TN_VALUE_ROWS, TN_VALUE_LOGITS);

    if (rc == TN_OK)
        rc = expect(s, "the dtype of the output", s->out[0].dtype, TN_DT_F32);
    if (rc == TN_OK)
        rc = expect_dims(s, 0, 2, s->out[0].width, in_value(s, 0)->width);
    if (rc == TN_OK && s->op->n_weights > 1)
        rc = expect_dims(s, 1, 1, s->out[0].width, 0);
    if (rc == TN_OK)
        rc = expect(s, "the width of the logits", s->out[0].width,
                    (uint64_t)plan_hyper_int(s->p, TN_HP_VOCAB, (int64_t)s->out[0].width));
    return rc;
}

static int32_t shape_sample(const struct shapes *s)
{
    int32_t rc = expect_kinds(s, TN_VALUE_LOGITS, TN_VALUE_LOGITS);

    if (rc == TN_OK)
        rc = expect(s, "the width of the output", s->out[0].width, 1);
    return rc;
}

/* -- The table ----------------------------------------------------------------------------------- */

#define INT(name, required, min, max)                                                              \
    {                                                                                              \
        name, TN_ATTR_I64, required, (double)(min), (double)(max)                                  \
    }
#define REAL(name, required, min, max)                                                             \
    {                                                                                              \
        name, TN_ATTR_F64, required, (min), (max)                                                  \
    }
#define TEXT(name, required)                                                                       \
    {                                                                                              \
        name, TN_ATTR_STR, required, 0, 0                                                          \
    }
#define HEADS INT("n_heads", true, 1, 65536)
#define KV_HEADS INT("n_kv_heads", true, 1, 65536)
#define HEAD_DIM INT("head_dim", true, 1, 8192)
#define EPS REAL("eps", true, 0.0, 1.0)

static const struct op_rule rules[] = {
    {TN_OP_EMBEDDING, 0, 1, 1, 1, shape_embedding, {REAL("scale", false, -1e6, 1e6)}},
    {TN_OP_POSITION, 0, 1, 1, 1, shape_embedding, {INT("offset", false, 0, 65536)}},
    {TN_OP_RMS_NORM, 1, 1, 1, 1, shape_rms_norm, {EPS, REAL("offset", false, -1.0, 1.0)}},
    {TN_OP_LAYER_NORM, 1, 1, 2, 1, shape_layer_norm, {EPS}},
    {TN_OP_LINEAR, 1, 1, 2, 1, shape_linear, {{0}}},
    {TN_OP_LINEAR_INT8, 1, 2, 3, 1, shape_linear_int8, {{0}}},
    {TN_OP_ROPE,
     1,
     1,
     1,
     1,
     shape_rope,
     {HEADS, HEAD_DIM, INT("rotary_dim", true, 2, 8192), TEXT("style", false),
      REAL("mscale", false, 0.0, 1e6), REAL("base", false, 0.0, 1e12),
      REAL("factor", false, 0.0, 1e6), INT("max_position", false, 0, LIMIT_POSITIONS)}},
    {TN_OP_KV_APPEND, 2, 0, 0, 1, shape_kv_append, {KV_HEADS, HEAD_DIM}},
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
     3,
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
    {TN_OP_SAMPLE, 1, 0, 0, 1, shape_sample, {{0}}},
};

#define N_RULES (sizeof rules / sizeof *rules)

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
