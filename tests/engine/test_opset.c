/* SPDX-License-Identifier: Apache-2.0 */
/* The opset's rules: each basic op is accepted as ops.h defines it, and refused when a width, a kind, a dtype, a weight
 * or an attribute is another. Kernels rely on these checks and do not repeat them. */
#include "engine/opset.h"

#include <math.h>

#include "check_util.h"
#include "engine/sample_plan.h"

static struct plan *p;
static uint32_t x16, x32; /* rows of activations, 16 and 32 wide */

static void make_plan(void)
{
    p = sample_empty();
    x16 = sample_rows(p, "e16", 16);
    x32 = sample_rows(p, "e32", 32);
}

static void free_plan(void)
{
    plan_free(p);
}

#define ROWS(w)                                                                                    \
    {                                                                                              \
        TN_VALUE_ROWS, TN_DT_ACT, (w), 0, 0                                                        \
    }
#define LOGITS(w)                                                                                  \
    {                                                                                              \
        TN_VALUE_LOGITS, TN_DT_F32, (w), 0, 0                                                      \
    }
#define KV                                                                                         \
    {                                                                                              \
        TN_VALUE_KV, 0, 0, 0, 0                                                                    \
    }
#define IN(...) .n_in = sizeof((uint32_t[]){__VA_ARGS__}) / 4, .in = {__VA_ARGS__}
#define WEIGHTS(...) .n_weights = sizeof((uint32_t[]){__VA_ARGS__}) / 4, .weights = {__VA_ARGS__}
#define ATTRS(list) .n_attrs = sizeof(list) / sizeof *(list), .attrs = (list)
#define OUT(...) .out = {__VA_ARGS__}

#define good(...) sample_add(p, &(struct sample_op){.layer = 0, __VA_ARGS__})
#define bad(code, text, ...) check_bad(code, text, &(struct sample_op){.layer = 0, __VA_ARGS__})

/* The op is refused with that status and a message that holds `text`, and the plan stays as it was. */
static void check_bad(int32_t code, const char *text, const struct sample_op *op)
{
    size_t ops = p->n_ops, values = p->n_values;
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(sample_try(p, op, &err), code);
    ck_assert_err_has(&err, text);
    ck_assert_str_eq(err.field, op->name);
    ck_assert_uint_eq(p->n_ops, ops);
    ck_assert_uint_eq(p->n_values, values);
}

/* A stored weight of any role and dtype under a fresh name. */
static uint32_t odd_weight(uint32_t role, uint32_t dtype, uint64_t d0, uint64_t d1, uint64_t d2)
{
    char name[32];

    snprintf(name, sizeof name, "w%zu", p->n_weights);
    return sample_weight(p, name, role, dtype, d0, d1, d2);
}

static uint32_t matrix(uint64_t d0, uint64_t d1)
{
    return odd_weight(TN_ROLE_MATRIX, TN_DT_BF16, d0, d1, 0);
}

static uint32_t vector(uint64_t n)
{
    return odd_weight(TN_ROLE_NORM, TN_DT_F32, n, 0, 0);
}

START_TEST(table_and_names_agree)
{
    size_t n = 0;

    for (const char *name; (name = opset_name(n)) != NULL; n++) {
        ck_assert(opset_has(name));
        for (size_t i = 0; i < n; i++)
            ck_assert_str_ne(name, opset_name(i));
    }
    ck_assert_uint_eq(n, 30);
    ck_assert(!opset_has("acme.x"));
    ck_assert(!opset_has(""));
}
END_TEST

START_TEST(unknown_op_without_prefix_is_refused)
{
    bad(TN_E_FORMAT, "not a basic op", .name = "linaer", IN(x16), OUT(ROWS(16)));
    good(.name = "acme.linaer", IN(x16), OUT(ROWS(99)));
}
END_TEST

START_TEST(wrong_number_of_values_is_refused)
{
    uint32_t w = matrix(16, 16);

    bad(TN_E_FORMAT, "2 inputs", .name = TN_OP_LINEAR, IN(x16, x16), WEIGHTS(w), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "0 weights", .name = TN_OP_LINEAR, IN(x16), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "3 weights", .name = TN_OP_LINEAR, IN(x16), WEIGHTS(w, w, w), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "2 outputs", .name = TN_OP_LINEAR, IN(x16), WEIGHTS(w), .n_out = 2,
        OUT(ROWS(16), ROWS(16)));
    bad(TN_E_LIMIT, "13 inputs", .name = "acme.x", .n_in = 13, OUT(ROWS(16)));
    bad(TN_E_LIMIT, "13 outputs", .name = "acme.x", .n_out = 13);
}
END_TEST

START_TEST(embedding_and_position)
{
    uint32_t w = odd_weight(TN_ROLE_EMBEDDING, TN_DT_F16, 32, 16, 0);
    tn_attr scale[] = {TN_ATTR_REAL("scale", 4.0)}, offset[] = {TN_ATTR_INT("offset", 2)};

    good(.name = TN_OP_EMBEDDING, WEIGHTS(w), ATTRS(scale), OUT(ROWS(16)));
    good(.name = TN_OP_POSITION, WEIGHTS(w), ATTRS(offset), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension 1", .name = TN_OP_EMBEDDING, WEIGHTS(w), OUT(ROWS(17)));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_EMBEDDING, WEIGHTS(w),
        OUT({TN_VALUE_ROWS, TN_DT_I8, 16, 0, 0}));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_EMBEDDING, WEIGHTS(w), OUT(LOGITS(16)));
    bad(TN_E_FORMAT, "rank", .name = TN_OP_EMBEDDING, WEIGHTS(vector(16)), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "role", .name = TN_OP_EMBEDDING,
        WEIGHTS(odd_weight(TN_ROLE_NORM, TN_DT_F32, 32, 16, 0)), OUT(ROWS(16)));
    scale[0].f = 1e7;
    bad(TN_E_RANGE, "scale", .name = TN_OP_EMBEDDING, WEIGHTS(w), ATTRS(scale), OUT(ROWS(16)));
    offset[0].i = -1;
    bad(TN_E_RANGE, "offset", .name = TN_OP_POSITION, WEIGHTS(w), ATTRS(offset), OUT(ROWS(16)));
}
END_TEST

START_TEST(norms)
{
    static const tn_attr eps[] = {TN_ATTR_REAL("eps", 1e-5)};
    static const tn_attr wide[] = {TN_ATTR_REAL("eps", 1e-5), TN_ATTR_REAL("offset", 2.0)};
    static const tn_attr whole[] = {TN_ATTR_INT("eps", 1)};

    good(.name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(16)), ATTRS(eps), OUT(ROWS(16)));
    good(.name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(4)), ATTRS(eps), OUT(ROWS(16)));
    good(.name = TN_OP_LAYER_NORM, IN(x16), WEIGHTS(vector(16), vector(16)), ATTRS(eps),
         OUT(ROWS(16)));
    bad(TN_E_FORMAT, "modulo", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(5)), ATTRS(eps),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "modulo", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(32)), ATTRS(eps),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "rank", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(matrix(16, 16)), ATTRS(eps),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "float32", .name = TN_OP_RMS_NORM, IN(x16),
        WEIGHTS(odd_weight(TN_ROLE_NORM, TN_DT_I8, 16, 0, 0)), ATTRS(eps), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "lacks", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(16)), OUT(ROWS(16)));
    bad(TN_E_TYPE, "eps", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(16)), ATTRS(whole),
        OUT(ROWS(16)));
    bad(TN_E_RANGE, "offset", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(16)), ATTRS(wide),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "width", .name = TN_OP_RMS_NORM, IN(x16), WEIGHTS(vector(16)), ATTRS(eps),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_LAYER_NORM, IN(x16), WEIGHTS(vector(4)),
        ATTRS(eps), OUT(ROWS(16)));
}
END_TEST

START_TEST(linear_and_its_int8_form)
{
    uint32_t w = matrix(32, 16), q = odd_weight(TN_ROLE_MATRIX, TN_DT_I8, 32, 16, 0);

    good(.name = TN_OP_LINEAR, IN(x16), WEIGHTS(w), OUT(ROWS(32)));
    good(.name = TN_OP_LINEAR, IN(x16), WEIGHTS(w, vector(32)), OUT(ROWS(32)));
    good(.name = TN_OP_LINEAR_INT8, IN(x16), WEIGHTS(q, vector(32), vector(32)), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_LINEAR, IN(x16), WEIGHTS(w), OUT(ROWS(31)));
    bad(TN_E_FORMAT, "dimension 1", .name = TN_OP_LINEAR, IN(x32), WEIGHTS(w), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_LINEAR, IN(x16), WEIGHTS(w, vector(16)),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "float32", .name = TN_OP_LINEAR, IN(x16),
        WEIGHTS(w, odd_weight(TN_ROLE_BIAS, TN_DT_BF16, 32, 0, 0)), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "role", .name = TN_OP_LINEAR, IN(x16),
        WEIGHTS(odd_weight(TN_ROLE_BIAS, TN_DT_I8, 32, 16, 0)), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "int8", .name = TN_OP_LINEAR_INT8, IN(x16), WEIGHTS(w, vector(32)),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_LINEAR_INT8, IN(x16), WEIGHTS(q, vector(1)),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "dtype of an output", .name = TN_OP_LINEAR, IN(x16), WEIGHTS(w),
        OUT({TN_VALUE_ROWS, TN_DT_I8, 32, 0, 0}));
}
END_TEST

START_TEST(rope)
{
    tn_attr a[] = {TN_ATTR_HEADS("n_heads", 2), TN_ATTR_INT("head_dim", 8),
                   TN_ATTR_INT("rotary_dim", 8), TN_ATTR_TEXT("style", "half")};
    uint32_t f = vector(4);

    good(.name = TN_OP_ROPE, IN(x16), WEIGHTS(f), ATTRS(a), OUT(ROWS(16)));
    a[2].i = 4;
    good(.name = TN_OP_ROPE, IN(x16), WEIGHTS(vector(2)), ATTRS(a), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_ROPE, IN(x16), WEIGHTS(f), ATTRS(a),
        OUT(ROWS(16)));
    a[2].i = 5;
    bad(TN_E_FORMAT, "modulo 2", .name = TN_OP_ROPE, IN(x16), WEIGHTS(vector(2)), ATTRS(a),
        OUT(ROWS(16)));
    a[2].i = 10;
    bad(TN_E_FORMAT, "rotary_dim", .name = TN_OP_ROPE, IN(x16), WEIGHTS(vector(5)), ATTRS(a),
        OUT(ROWS(16)));
    a[2].i = 8;
    a[0].i = 3;
    bad(TN_E_FORMAT, "width", .name = TN_OP_ROPE, IN(x16), WEIGHTS(f), ATTRS(a), OUT(ROWS(16)));
    a[0].i = 0;
    bad(TN_E_RANGE, "n_heads", .name = TN_OP_ROPE, IN(x16), WEIGHTS(f), ATTRS(a), OUT(ROWS(16)));
    a[0].i = INT64_MIN;
    bad(TN_E_RANGE, "n_heads", .name = TN_OP_ROPE, IN(x16), WEIGHTS(f), ATTRS(a), OUT(ROWS(16)));
    a[0].i = 2;
    a[1].flags = TN_ATTR_SHARDED; /* heads may be divided, their size may not */
    bad(TN_E_FORMAT, "head_dim", .name = TN_OP_ROPE, IN(x16), WEIGHTS(f), ATTRS(a), OUT(ROWS(16)));
}
END_TEST

START_TEST(embedding_in_eight_bits)
{
    uint32_t w = odd_weight(TN_ROLE_HEAD, TN_DT_I8, 32, 16, 0);

    good(.name = TN_OP_EMBEDDING_INT8, WEIGHTS(w, vector(32), vector(16)), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "2 weights", .name = TN_OP_EMBEDDING_INT8, WEIGHTS(w, vector(32)),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_EMBEDDING_INT8,
        WEIGHTS(w, vector(16), vector(16)), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_EMBEDDING_INT8,
        WEIGHTS(w, vector(32), vector(32)), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "int8", .name = TN_OP_EMBEDDING_INT8,
        WEIGHTS(odd_weight(TN_ROLE_EMBEDDING, TN_DT_F16, 32, 16, 0), vector(32), vector(16)),
        OUT(ROWS(16)));
}
END_TEST

START_TEST(hadamard)
{
    tn_attr a[] = {TN_ATTR_HEADS("n_heads", 2), TN_ATTR_INT("head_dim", 8)};

    good(.name = TN_OP_HADAMARD, IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].i = 4;
    bad(TN_E_FORMAT, "width", .name = TN_OP_HADAMARD, IN(x16), ATTRS(a), OUT(ROWS(16)));
}
END_TEST

START_TEST(reorder)
{
    uint32_t order = odd_weight(TN_ROLE_SCALE, TN_DT_I32, 16, 0, 0);
    uint32_t shorter = odd_weight(TN_ROLE_SCALE, TN_DT_I32, 8, 0, 0);

    good(.name = TN_OP_REORDER, IN(x16), WEIGHTS(order), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_REORDER, IN(x16), WEIGHTS(shorter),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_REORDER, IN(x16), WEIGHTS(vector(16)), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "width", .name = TN_OP_REORDER, IN(x16), WEIGHTS(order), OUT(ROWS(8)));
    bad(TN_E_FORMAT, "weights", .name = TN_OP_REORDER, IN(x16), OUT(ROWS(16)));
}
END_TEST

static uint32_t append(int64_t heads, int64_t dim, uint32_t x)
{
    tn_attr a[] = {TN_ATTR_HEADS("n_kv_heads", heads), TN_ATTR_INT("head_dim", dim)};

    return good(.name = TN_OP_KV_APPEND, IN(x, x), ATTRS(a), OUT(KV));
}

/* Two heads of 8 elements: ranges, means and feedback of the cache. */
static void feedback_of_the_cache(tn_attr *attrs)
{
    uint32_t r = vector(2), m = vector(16), f = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 16, 8, 0);
    uint32_t flat = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 8, 16, 0);
    uint32_t half = odd_weight(TN_ROLE_SCALE, TN_DT_F16, 16, 8, 0);
    tn_attr a[] = {attrs[0], attrs[1]};

    good(.name = TN_OP_KV_APPEND, IN(x16, x16), WEIGHTS(r, r), ATTRS(a), OUT(KV));
    good(.name = TN_OP_KV_APPEND, IN(x16, x16), WEIGHTS(r, r, m), ATTRS(a), OUT(KV));
    good(.name = TN_OP_KV_APPEND, IN(x16, x16), WEIGHTS(r, r, m, f, f), ATTRS(a), OUT(KV));
    bad(TN_E_FORMAT, "the number of ranges", .name = TN_OP_KV_APPEND, IN(x16, x16),
        WEIGHTS(r, r, m, f), ATTRS(a), OUT(KV));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_KV_APPEND, IN(x16, x16),
        WEIGHTS(r, r, m, f, flat), ATTRS(a), OUT(KV));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_KV_APPEND, IN(x16, x16), WEIGHTS(r, r, m, half, f),
        ATTRS(a), OUT(KV));
    bad(TN_E_FORMAT, "rank", .name = TN_OP_KV_APPEND, IN(x16, x16), WEIGHTS(r, r, m, m, f),
        ATTRS(a), OUT(KV));
}

START_TEST(kv_append)
{
    tn_attr a[] = {TN_ATTR_HEADS("n_kv_heads", 2), TN_ATTR_INT("head_dim", 8)};

    append(2, 8, x16);
    feedback_of_the_cache(a);
    bad(TN_E_FORMAT, "kind", .name = TN_OP_KV_APPEND, IN(x16, x16), ATTRS(a), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "width", .name = TN_OP_KV_APPEND, IN(x16, x32), ATTRS(a), OUT(KV));
    bad(TN_E_RANGE, "no width", .name = TN_OP_KV_APPEND, IN(x16, x16), ATTRS(a),
        OUT({TN_VALUE_KV, 0, 16, 0, 0}));
    a[1].i = 8193;
    bad(TN_E_RANGE, "head_dim", .name = TN_OP_KV_APPEND, IN(x16, x16), ATTRS(a), OUT(KV));
    a[1].i = INT64_MAX;
    bad(TN_E_RANGE, "head_dim", .name = TN_OP_KV_APPEND, IN(x16, x16), ATTRS(a), OUT(KV));
}
END_TEST

START_TEST(attention)
{
    tn_attr a[] = {TN_ATTR_HEADS("n_heads", 4), TN_ATTR_HEADS("n_kv_heads", 2),
                   TN_ATTR_INT("head_dim", 8), TN_ATTR_REAL("scale", 0.35)};
    uint32_t kv = append(2, 8, x16);
    uint32_t foreign = good(.name = "acme.append", IN(x16, x16), OUT(KV));

    good(.name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_ATTENTION, IN(kv, kv), ATTRS(a), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_ATTENTION, IN(x32, x16), ATTRS(a), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "kv_append", .name = TN_OP_ATTENTION, IN(x32, foreign), ATTRS(a),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "query", .name = TN_OP_ATTENTION, IN(x16, kv), ATTRS(a), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "output", .name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a), OUT(ROWS(16)));
    a[1].i = 1;
    bad(TN_E_FORMAT, "n_kv_heads", .name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a), OUT(ROWS(32)));
    a[1].i = 2;
    a[2].i = 16;
    bad(TN_E_FORMAT, "head_dim", .name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a), OUT(ROWS(32)));
    a[2].i = 8;
    a[0].i = 3;
    bad(TN_E_FORMAT, "modulo n_kv_heads", .name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a),
        OUT(ROWS(32)));
    a[0].i = 4;
    a[3].f = NAN;
    bad(TN_E_RANGE, "scale", .name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a), OUT(ROWS(32)));
    a[3].f = INFINITY;
    bad(TN_E_RANGE, "scale", .name = TN_OP_ATTENTION, IN(x32, kv), ATTRS(a), OUT(ROWS(32)));
}
END_TEST

START_TEST(elementwise_ops)
{
    static const char *const unary[] = {TN_OP_SILU,  TN_OP_GELU,       TN_OP_GELU_TANH, TN_OP_RELU,
                                        TN_OP_RELU2, TN_OP_ALL_REDUCE, TN_OP_ALL_GATHER};
    uint32_t kv = append(2, 8, x16);
    tn_attr factor[] = {TN_ATTR_REAL("factor", 2.0)}, cap[] = {TN_ATTR_REAL("cap", 30.0)};

    for (size_t i = 0; i < sizeof unary / sizeof *unary; i++) {
        good(.name = unary[i], IN(x16), OUT(ROWS(16)));
        bad(TN_E_FORMAT, "width", .name = unary[i], IN(x16), OUT(ROWS(8)));
        bad(TN_E_FORMAT, "kind", .name = unary[i], IN(kv), OUT(KV));
        bad(TN_E_FORMAT, "kind", .name = unary[i], IN(kv), OUT(ROWS(16)));
        bad(TN_E_FORMAT, "dtype", .name = unary[i], IN(x16),
            OUT({TN_VALUE_ROWS, TN_DT_I8, 16, 0, 0}));
        bad(TN_E_FORMAT, "attribute", .name = unary[i], IN(x16), ATTRS(cap), OUT(ROWS(16)));
    }
    good(.name = TN_OP_ADD, IN(x16, x16), OUT(ROWS(16)));
    good(.name = TN_OP_MUL, IN(x16, x16), OUT(ROWS(16)));
    good(.name = TN_OP_SCALE, IN(x16), ATTRS(factor), OUT(ROWS(16)));
    good(.name = TN_OP_SOFTCAP, IN(x16), ATTRS(cap), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "width", .name = TN_OP_ADD, IN(x16, x32), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_ADD, IN(x16, kv), OUT(ROWS(16)));
    cap[0].f = 0.0;
    bad(TN_E_RANGE, "cap", .name = TN_OP_SOFTCAP, IN(x16), ATTRS(cap), OUT(ROWS(16)));
    factor[0].f = -INFINITY;
    bad(TN_E_RANGE, "factor", .name = TN_OP_SCALE, IN(x16), ATTRS(factor), OUT(ROWS(16)));
}
END_TEST

START_TEST(mixture_of_experts)
{
    tn_attr k[] = {TN_ATTR_INT("top_k", 2), TN_ATTR_TEXT("norm", "softmax")};
    struct plan_value who = {TN_VALUE_ROWS, TN_DT_I32, 2, 0, 0};
    struct plan_value how = {TN_VALUE_ROWS, TN_DT_F32, 2, 0, 0};
    uint32_t i = good(.name = TN_OP_MOE_ROUTE, IN(x16), ATTRS(k), .n_out = 2, OUT(who, how));
    uint32_t g = odd_weight(TN_ROLE_MATRIX, TN_DT_BF16, 4, 8, 16), u = g;
    uint32_t d = odd_weight(TN_ROLE_MATRIX, TN_DT_BF16, 4, 16, 8);

    good(.name = TN_OP_MOE_MLP, IN(x16, i, i + 1), WEIGHTS(g, u, d), OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_MOE_MLP, IN(x16, i + 1, i), WEIGHTS(g, u, d),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_MOE_MLP, IN(x16, x16, x16), WEIGHTS(g, u, d),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension", .name = TN_OP_MOE_MLP, IN(x16, i, i + 1), WEIGHTS(g, d, u),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dimension", .name = TN_OP_MOE_MLP, IN(x32, i, i + 1), WEIGHTS(g, u, d),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "rank", .name = TN_OP_MOE_MLP, IN(x16, i, i + 1), WEIGHTS(matrix(4, 8), u, d),
        OUT(ROWS(16)));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_MOE_ROUTE, IN(x16), ATTRS(k), .n_out = 2,
        OUT(how, how));
    k[0].i = 3;
    bad(TN_E_FORMAT, "width of an output", .name = TN_OP_MOE_ROUTE, IN(x16), ATTRS(k), .n_out = 2,
        OUT(who, how));
    k[0].i = 17;
    who.width = how.width = 17;
    bad(TN_E_FORMAT, "top_k", .name = TN_OP_MOE_ROUTE, IN(x16), ATTRS(k), .n_out = 2,
        OUT(who, how));
}
END_TEST

START_TEST(experts_of_few_bits)
{
    struct plan_value who = {TN_VALUE_ROWS, TN_DT_I32, 2, 0, 0};
    struct plan_value how = {TN_VALUE_ROWS, TN_DT_F32, 2, 0, 0};
    tn_attr k[] = {TN_ATTR_INT("top_k", 2)};
    uint32_t i = good(.name = TN_OP_MOE_ROUTE, IN(x16), ATTRS(k), .n_out = 2, OUT(who, how));
    uint32_t g = odd_weight(TN_ROLE_MATRIX, TN_DT_I8, 4, 8, 16);
    uint32_t d = odd_weight(TN_ROLE_MATRIX, TN_DT_I8, 4, 16, 8);
    uint32_t sg = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 4, 8, 0);
    uint32_t sd = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 4, 16, 0);
    uint32_t g4 = odd_weight(TN_ROLE_MATRIX, TN_DT_I4, 4, 8, 16);
    uint32_t d4 = odd_weight(TN_ROLE_MATRIX, TN_DT_I4, 4, 16, 8);
    uint32_t sg4 = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 4, 8, 2);
    uint32_t sd4 = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 4, 16, 4);
    uint32_t zg4 = odd_weight(TN_ROLE_SCALE, TN_DT_I8, 4, 8, 2);
    uint32_t zd4 = odd_weight(TN_ROLE_SCALE, TN_DT_I8, 4, 16, 4);
    uint32_t odd = odd_weight(TN_ROLE_SCALE, TN_DT_F32, 4, 16, 3);
    uint32_t bf16 = odd_weight(TN_ROLE_MATRIX, TN_DT_BF16, 4, 8, 16);

#define EXPERTS .name = TN_OP_MOE_MLP, IN(x16, i, i + 1), OUT(ROWS(16))
    good(EXPERTS, WEIGHTS(g, g, d, sg, sg, sd));
    good(EXPERTS, WEIGHTS(g4, g4, d4, sg4, sg4, sd4));
    good(EXPERTS, WEIGHTS(g4, g4, d4, sg4, sg4, sd4, zg4, zg4, zd4));
    bad(TN_E_FORMAT, "number of weights", EXPERTS, WEIGHTS(g, g, d));
    bad(TN_E_FORMAT, "number of weights", EXPERTS, WEIGHTS(g, g, d, sg, sg));
    bad(TN_E_FORMAT, "number of weights", EXPERTS, WEIGHTS(g, g, d, sg, sg, sd, zg4, zg4, zd4));
    bad(TN_E_FORMAT, "dtype of a matrix", EXPERTS, WEIGHTS(g, bf16, d, sg, sg, sd));
    bad(TN_E_FORMAT, "dimension 1", EXPERTS, WEIGHTS(g, g, d, sg, sd, sd));
    bad(TN_E_FORMAT, "rank", EXPERTS, WEIGHTS(g4, g4, d4, sg, sg, sd));
    bad(TN_E_FORMAT, "modulo its groups", EXPERTS, WEIGHTS(g4, g4, d4, sg4, sg4, odd));
    bad(TN_E_FORMAT, "dtype of scales", EXPERTS, WEIGHTS(g4, g4, d4, sg4, zg4, sd4));
    bad(TN_E_FORMAT, "dtype of zero points", EXPERTS,
        WEIGHTS(g4, g4, d4, sg4, sg4, sd4, zg4, sg4, zd4));
#undef EXPERTS
}
END_TEST

START_TEST(logits_and_sample)
{
    uint32_t w = odd_weight(TN_ROLE_HEAD, TN_DT_BF16, 32, 16, 0);
    struct plan_value token = {TN_VALUE_LOGITS, TN_DT_I32, 1, 0, 0}, real = LOGITS(1);
    uint32_t y = good(.name = TN_OP_LOGITS, IN(x16), WEIGHTS(w), OUT(LOGITS(32)));

    good(.name = TN_OP_LOGITS, IN(x16), WEIGHTS(w, vector(32)), OUT(LOGITS(32)));
    good(.name = TN_OP_SAMPLE, IN(y), OUT(token));
    good(.name = TN_OP_ALL_GATHER, IN(y), OUT(LOGITS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_LOGITS, IN(x16), WEIGHTS(w), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_LOGITS, IN(y), WEIGHTS(w), OUT(LOGITS(32)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_LOGITS, IN(x16), WEIGHTS(w), OUT(LOGITS(31)));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_LOGITS, IN(x16), WEIGHTS(w),
        OUT({TN_VALUE_LOGITS, TN_DT_ACT, 32, 0, 0}));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_SAMPLE, IN(x16), OUT(token));
    bad(TN_E_FORMAT, "dtype", .name = TN_OP_SAMPLE, IN(y), OUT(real));
    token.width = 2;
    bad(TN_E_FORMAT, "width", .name = TN_OP_SAMPLE, IN(y), OUT(token));
    w = odd_weight(TN_ROLE_HEAD, TN_DT_I8, 32, 16, 0);
    good(.name = TN_OP_LOGITS_INT8, IN(x16), WEIGHTS(w, vector(32)), OUT(LOGITS(32)));
    good(.name = TN_OP_LOGITS_INT8, IN(x16), WEIGHTS(w, vector(32), vector(32)), OUT(LOGITS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_LOGITS_INT8, IN(x16), WEIGHTS(w, vector(32)),
        OUT(ROWS(32)));
    bad(TN_E_FORMAT, "dimension 0", .name = TN_OP_LOGITS_INT8, IN(x16),
        WEIGHTS(w, vector(32), vector(31)), OUT(LOGITS(32)));
    bad(TN_E_FORMAT, "int8", .name = TN_OP_LOGITS_INT8, IN(x16),
        WEIGHTS(odd_weight(TN_ROLE_HEAD, TN_DT_BF16, 32, 16, 0), vector(32)), OUT(LOGITS(32)));
    /* A row of logits is not a row of tokens: there may be fewer. */
    bad(TN_E_FORMAT, "kind", .name = TN_OP_ADD, IN(x32, y), OUT(ROWS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_ADD, IN(y, x32), OUT(LOGITS(32)));
    bad(TN_E_FORMAT, "kind", .name = TN_OP_SILU, IN(y), OUT(ROWS(32)));
}
END_TEST

START_TEST(attributes_that_cannot_be_stored_are_refused)
{
    char name[200];
    tn_attr a[] = {TN_ATTR_INT("n", 1), TN_ATTR_INT("m", 2)};

    memset(name, 'a', sizeof name);
    good(.name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].name = "n";
    bad(TN_E_EXISTS, "twice", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].name = "m*";
    bad(TN_E_FORMAT, "ends in", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].name = "m";
    a[1].kind = 7;
    bad(TN_E_RANGE, "\"m\"", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].kind = TN_ATTR_STR;
    bad(TN_E_RANGE, "\"m\"", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].s = "\xff";
    bad(TN_E_FORMAT, "UTF-8", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].s = "text";
    a[1].flags = TN_ATTR_SHARDED;
    bad(TN_E_FORMAT, "flags", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].kind = TN_ATTR_F64;
    a[1].flags = 0;
    a[1].f = NAN;
    bad(TN_E_RANGE, "\"m\"", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    a[1].f = 0.5;
    a[1].name = name;
    name[126] = '\0';
    good(.name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
    name[126] = 'a';
    name[127] = '\0';
    bad(TN_E_FORMAT, "126", .name = "acme.x", IN(x16), ATTRS(a), OUT(ROWS(16)));
}
END_TEST

START_TEST(values_out_of_range_are_refused)
{
    bad(TN_E_RANGE, "kind", .name = "acme.x", IN(x16), OUT({9, TN_DT_ACT, 1, 0, 0}));
    bad(TN_E_RANGE, "dtype", .name = "acme.x", IN(x16), OUT({TN_VALUE_ROWS, 99, 1, 0, 0}));
    bad(TN_E_RANGE, "wide", .name = "acme.x", IN(x16), OUT(ROWS(0)));
    bad(TN_E_RANGE, "wide", .name = "acme.x", IN(x16), OUT(ROWS(UINT64_MAX)));
    bad(TN_E_RANGE, "wide", .name = "acme.x", IN(x16), OUT(ROWS((UINT64_C(1) << 24) + 1)));
    bad(TN_E_RANGE, "shard units", .name = "acme.x", IN(x16),
        OUT({TN_VALUE_ROWS, TN_DT_ACT, 16, 3, 0}));
    bad(TN_E_RANGE, "no earlier op", .name = "acme.x", IN((uint32_t)p->n_values), OUT(ROWS(16)));
    bad(TN_E_RANGE, "does not exist", .name = "acme.x", IN(x16), WEIGHTS((uint32_t)p->n_weights),
        OUT(ROWS(16)));
    check_bad(TN_E_RANGE, "layer -2", &(struct sample_op){.name = "acme.x", .layer = -2});
    check_bad(TN_E_RANGE, "layer 1024", &(struct sample_op){.name = "acme.x", .layer = 1024});
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine_opset");
    TCase *t = tcase_create("opset");

    tcase_add_checked_fixture(t, make_plan, free_plan);
    tcase_add_test(t, table_and_names_agree);
    tcase_add_test(t, unknown_op_without_prefix_is_refused);
    tcase_add_test(t, wrong_number_of_values_is_refused);
    tcase_add_test(t, embedding_and_position);
    tcase_add_test(t, norms);
    tcase_add_test(t, linear_and_its_int8_form);
    tcase_add_test(t, rope);
    tcase_add_test(t, embedding_in_eight_bits);
    tcase_add_test(t, hadamard);
    tcase_add_test(t, reorder);
    tcase_add_test(t, kv_append);
    tcase_add_test(t, attention);
    tcase_add_test(t, elementwise_ops);
    tcase_add_test(t, mixture_of_experts);
    tcase_add_test(t, experts_of_few_bits);
    tcase_add_test(t, logits_and_sample);
    tcase_add_test(t, attributes_that_cannot_be_stored_are_refused);
    tcase_add_test(t, values_out_of_range_are_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
