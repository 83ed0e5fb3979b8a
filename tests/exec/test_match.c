/* SPDX-License-Identifier: Apache-2.0 */
/* Fusions over hand-built plans: what matches, what must not, and what the fused op looks like. */
#include "exec/match.h"

#include "check_util.h"
#include "engine/sample_plan.h"
#include "exec/fake.h"
#include "tenon/fusions.h"

#define QKV "(x) -> (q, k, v): q = linear(x); k = linear(x); v = linear(x)"
#define SWIGLU "(x) -> (y): g = linear(x); u = linear(x); s = silu(g); y = mul(s, u)"
#define ADD_NORM "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)"

static struct plan *p;

static void make_plan(void)
{
    fake_reset();
    p = sample_empty();
}

static void free_plan(void)
{
    plan_free(p);
}

/* -- Plans by statements ------------------------------------------------------------------------------------ */

static const tn_attr eps[] = {TN_ATTR_REAL("eps", 1e-5)};

static uint32_t op_in(int32_t layer, const char *name, uint32_t a, uint32_t b)
{
    char weight[32];
    struct sample_op op = {.name = name,
                           .layer = layer,
                           .n_in = b == UINT32_MAX ? 1 : 2,
                           .in = {a, b},
                           .out = {SAMPLE_ROWS(8)}};

    snprintf(weight, sizeof weight, "w%zu", p->n_weights);
    if (strcmp(name, TN_OP_LINEAR) == 0)
        op.weights[op.n_weights++] = sample_matrix(p, weight, 8, 8);
    if (strcmp(name, TN_OP_RMS_NORM) == 0) {
        op.weights[op.n_weights++] = sample_vector(p, weight, 8);
        op.attrs = eps;
        op.n_attrs = 1;
    }
    return sample_add(p, &op);
}

static uint32_t one(const char *name, uint32_t x)
{
    return op_in(0, name, x, UINT32_MAX);
}

static uint32_t two(const char *name, uint32_t a, uint32_t b)
{
    return op_in(0, name, a, b);
}

static struct graph *cut(void)
{
    struct topology single = TOPOLOGY_SINGLE;
    tn_err err = TN_ERR_INIT;
    struct graph *g = NULL;

    ck_assert_ok(graph_new(p, &single, TN_DT_F32, &g, &err), &err);
    return g;
}

/* Whether the pattern matches with its first statement at op `anchor` of the plan. */
static bool matches(const char *pattern, size_t anchor, struct match *m)
{
    struct graph *g = cut();
    struct pattern parsed;
    tn_err err = TN_ERR_INIT;
    bool yes;

    ck_assert_ok(pattern_parse(pattern, &parsed, &err), &err);
    yes = match_at(g, &parsed, anchor, m);
    graph_free(g);
    return yes;
}

START_TEST(queries_keys_and_values_match)
{
    uint32_t x = sample_rows(p, "e", 8);
    struct match m;

    one(TN_OP_LINEAR, x); /* 1 */
    one(TN_OP_LINEAR, x);
    one(TN_OP_LINEAR, x);
    ck_assert(matches(QKV, 1, &m));
    ck_assert_uint_eq(m.members[0], 1);
    ck_assert_uint_eq(m.members[1], 2);
    ck_assert_uint_eq(m.members[2], 3);
    ck_assert_uint_eq(m.at, 3);
    ck_assert(!matches(QKV, 0, &m)); /* not a linear */
}
END_TEST

START_TEST(too_few_members_do_not_match)
{
    uint32_t x = sample_rows(p, "e", 8);
    struct match m;

    one(TN_OP_LINEAR, x);
    one(TN_OP_LINEAR, x);
    ck_assert(!matches(QKV, 1, &m));
    op_in(1, TN_OP_SILU, x, UINT32_MAX);
    op_in(2, TN_OP_LINEAR, x, UINT32_MAX); /* the layer after the next */
    ck_assert(!matches(QKV, 1, &m));
}
END_TEST

START_TEST(gated_mlp_matches_in_any_order_of_its_ops)
{
    uint32_t x = sample_rows(p, "e", 8), g, u, s;
    struct match m;

    u = one(TN_OP_LINEAR, x); /* 1: up stands before gate */
    g = one(TN_OP_LINEAR, x);
    s = one(TN_OP_SILU, g);
    two(TN_OP_MUL, s, u);
    ck_assert(matches(SWIGLU, 2, &m));
    ck_assert_uint_eq(m.members[0], 2); /* gate is what silu reads */
    ck_assert_uint_eq(m.members[1], 1);
    ck_assert_uint_eq(m.at, 4);
    ck_assert(!matches(SWIGLU, 1, &m));
}
END_TEST

START_TEST(operands_the_other_way_round_do_not_match)
{
    uint32_t x = sample_rows(p, "e", 8), g = one(TN_OP_LINEAR, x), u = one(TN_OP_LINEAR, x);
    struct match m;

    two(TN_OP_MUL, u, one(TN_OP_SILU, g));
    ck_assert(!matches(SWIGLU, 1, &m));
}
END_TEST

START_TEST(intermediate_used_elsewhere_does_not_match)
{
    uint32_t x = sample_rows(p, "e", 8), g = one(TN_OP_LINEAR, x), u = one(TN_OP_LINEAR, x), s;
    struct match m;

    s = one(TN_OP_SILU, g);
    two(TN_OP_MUL, s, u);
    ck_assert(matches(SWIGLU, 1, &m));
    one(TN_OP_RELU, s); /* needs what the fused op would not write */
    ck_assert(!matches(SWIGLU, 1, &m));
}
END_TEST

START_TEST(intermediate_used_in_another_layer_does_not_match)
{
    uint32_t x = sample_rows(p, "e", 8), g = one(TN_OP_LINEAR, x), u = one(TN_OP_LINEAR, x), s;
    struct match m;

    s = one(TN_OP_SILU, g);
    two(TN_OP_MUL, s, u);
    op_in(1, TN_OP_RELU, g, UINT32_MAX);
    ck_assert(!matches(SWIGLU, 1, &m));
}
END_TEST

START_TEST(sum_that_is_an_output_may_be_used_later)
{
    uint32_t x = sample_rows(p, "e", 8), y = one(TN_OP_LINEAR, x), s;
    struct match m;

    s = two(TN_OP_ADD, x, y); /* 2 */
    one(TN_OP_RMS_NORM, s);
    two(TN_OP_ADD, s, y);
    ck_assert(matches(ADD_NORM, 2, &m));
    ck_assert(!matches("(a, b) -> (y): s = add(a, b); y = rms_norm(s)", 2, &m));
}
END_TEST

/* The fused op runs where its last member stood: what lies between must not need the sum before that. */
START_TEST(output_read_before_the_last_member_does_not_match)
{
    uint32_t x = sample_rows(p, "e", 8), y = one(TN_OP_LINEAR, x), s;
    struct match m;

    s = two(TN_OP_ADD, x, y); /* 2 */
    one(TN_OP_RELU, s);
    one(TN_OP_RMS_NORM, s);
    ck_assert(!matches(ADD_NORM, 2, &m));
}
END_TEST

/* op between two members both reads from the first and feeds the last: no place for the fused op. */
START_TEST(op_that_must_run_in_between_does_not_match)
{
    uint32_t x = sample_rows(p, "e", 8), g = one(TN_OP_LINEAR, x), r;
    struct match m;

    r = one(TN_OP_RELU, g);
    two(TN_OP_MUL, g, r); /* 3 */
    ck_assert(!matches("(x, r) -> (g, y): g = linear(x); y = mul(g, r)", 1, &m));
}
END_TEST

START_TEST(unrelated_op_in_between_does_not_hinder)
{
    uint32_t x = sample_rows(p, "e", 8), s;
    struct match m;

    s = two(TN_OP_ADD, x, x);
    one(TN_OP_RELU, x);
    one(TN_OP_RMS_NORM, s);
    ck_assert(matches(ADD_NORM, 1, &m));
    ck_assert_uint_eq(m.at, 3);
}
END_TEST

START_TEST(fused_op_has_the_wires_of_its_pattern)
{
    uint32_t x = sample_rows(p, "e", 8), u, gate;
    struct pattern swiglu;
    struct match m;
    struct graph *g;
    const tn_op *f;
    tn_err err = TN_ERR_INIT;

    u = one(TN_OP_LINEAR, x);    /* 1, w1 */
    gate = one(TN_OP_LINEAR, x); /* 2, w2 */
    two(TN_OP_MUL, one(TN_OP_SILU, gate), u);
    g = cut();
    ck_assert_ok(pattern_parse(SWIGLU, &swiglu, &err), &err);
    ck_assert(match_at(g, &swiglu, 2, &m));
    ck_assert_ok(match_fuse(g, &swiglu, "swiglu", &m, &err), &err);
    f = &m.fused->op;
    ck_assert_str_eq(f->name, "swiglu");
    ck_assert_uint_eq(f->n_in, 1);
    ck_assert_uint_eq(f->in[0]->id, x);
    ck_assert_uint_eq(f->n_out, 1);
    ck_assert_uint_eq(f->out[0]->id, p->n_values - 1);
    ck_assert_uint_eq(f->n_members, 4);
    ck_assert_str_eq(f->members[2]->name, TN_OP_SILU);
    ck_assert_uint_eq(f->n_weights, 2);
    ck_assert_str_eq(f->weights[0]->name, "w2"); /* gate first: the order of the statements */
    ck_assert_str_eq(f->weights[1]->name, "w1");
    ck_assert_uint_eq(m.fused->weight_ids[0], 2);
    ck_assert_uint_eq(m.fused->weight_ids[1], 1);
    graph_free(g);
}
END_TEST

/* -- Through the selection ------------------------------------------------------------------------------------ */

static struct fake *fused(const char *name, const char *op, const char *equals, double fixed)
{
    struct fake *f = fake_add(name, op);

    f->v.equals = equals;
    f->fixed = fixed;
    return f;
}

static const char *sequence(void)
{
    static char text[4096];
    struct select_options o = fake_options();
    struct selection s;
    struct graph *g = cut();
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(select_variants(g, &o, &s, &err), &err);
    snprintf(text, sizeof text, "%s", fake_sequence(&s, -2));
    selection_release(&s);
    graph_free(g);
    return text;
}

START_TEST(overlapping_fusions_go_to_the_larger_gain)
{
    uint32_t x = sample_rows(p, "e", 8), s;
    struct fake *relu_add, *add_norm;

    fake_basics();
    s = two(TN_OP_ADD, one(TN_OP_RELU, x), x);
    one(TN_OP_RMS_NORM, s);
    relu_add = fused("ra", "relu_add", "(a, b) -> (s): r = relu(a); s = add(r, b)", 100);
    add_norm = fused("an", "add_norm", ADD_NORM, 90);
    ck_assert_str_eq(sequence(), "embedding relu add_norm");
    relu_add->fixed = 80;
    ck_assert_str_eq(sequence(), "embedding relu_add rms_norm");
    add_norm->fixed = 1e6; /* dearer than its members */
    ck_assert_str_eq(sequence(), "embedding relu_add rms_norm");
    relu_add->fixed = 1e6;
    ck_assert_str_eq(sequence(), "embedding relu add rms_norm");
}
END_TEST

/* Each alone is fine; both together would each have to run before the other. */
START_TEST(two_fusions_that_wait_for_each_other_are_not_both_taken)
{
    uint32_t x = sample_rows(p, "e", 8), a, b;

    fake_basics();
    a = one(TN_OP_RELU, x); /* 1 */
    b = one(TN_OP_GELU, a); /* 2 */
    two(TN_OP_ADD, b, b);   /* 3: of the second fusion */
    one(TN_OP_SILU, a);     /* 4: of the first */
    fused("f1", "first", "(x) -> (a, y): a = relu(x); y = silu(a)", 1);
    fused("f2", "second", "(a) -> (b, y): b = gelu(a); y = add(b, b)", 1);
    ck_assert_str_eq(sequence(), "embedding relu second silu");
}
END_TEST

START_TEST(every_layer_of_a_model_is_fused)
{
    struct sample_model m = SAMPLE_MODEL;

    plan_free(p);
    p = sample_model(&m);
    fake_basics();
    fused("qkv", "qkv", QKV, 1);
    fused("mlp", "swiglu", SWIGLU, 1);
    fused("an", "add_norm", ADD_NORM, 1);
    ck_assert_str_eq(sequence(),
                     "embedding rms_norm qkv rope rope kv_append attention linear add_norm swiglu "
                     "linear add_norm qkv rope rope kv_append attention linear add_norm swiglu "
                     "linear add_norm logits sample");
}
END_TEST

/* `down` ends one layer, the norm that reads its sum begins the next. */
START_TEST(fusion_reaches_into_the_next_layer)
{
    struct sample_model m = SAMPLE_MODEL;

    plan_free(p);
    p = sample_model(&m);
    fake_basics();
    fused("pair", "pair", TN_TEXT_LINEAR_ADD_NORM_QKV("linear"), 1);
    ck_assert_str_eq(
        sequence(), "embedding rms_norm linear linear linear rope rope kv_append attention linear "
                    "add rms_norm linear linear silu mul pair rope rope kv_append attention linear "
                    "add rms_norm linear linear silu mul linear add rms_norm logits sample");
}
END_TEST

/* Everything reads x: the number of ways to choose members explodes, the search must not. */
START_TEST(search_among_thousands_of_equal_ops_ends)
{
    uint32_t x = sample_rows(p, "e", 8);
    struct match m;
    struct graph *g;
    struct pattern parsed;
    tn_err err = TN_ERR_INIT;

    for (int i = 0; i < 3000; i++)
        one(TN_OP_RELU, x);
    g = cut();
    ck_assert_ok(pattern_parse("(x) -> (h): a = relu(x); b = relu(x); c = relu(x); d = relu(x); "
                               "e = relu(x); f = relu(x); g = relu(x); h = gelu(x)",
                               &parsed, &err),
                 &err);
    for (size_t i = 1; i < g->n_ops; i++)
        ck_assert(!match_at(g, &parsed, i, &m));
    graph_free(g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_match");
    TCase *t = tcase_create("match"), *w = tcase_create("selection");

    tcase_add_checked_fixture(t, make_plan, free_plan);
    tcase_add_test(t, queries_keys_and_values_match);
    tcase_add_test(t, too_few_members_do_not_match);
    tcase_add_test(t, gated_mlp_matches_in_any_order_of_its_ops);
    tcase_add_test(t, operands_the_other_way_round_do_not_match);
    tcase_add_test(t, intermediate_used_elsewhere_does_not_match);
    tcase_add_test(t, intermediate_used_in_another_layer_does_not_match);
    tcase_add_test(t, sum_that_is_an_output_may_be_used_later);
    tcase_add_test(t, output_read_before_the_last_member_does_not_match);
    tcase_add_test(t, op_that_must_run_in_between_does_not_match);
    tcase_add_test(t, unrelated_op_in_between_does_not_hinder);
    tcase_add_test(t, fused_op_has_the_wires_of_its_pattern);
    tcase_add_checked_fixture(w, make_plan, free_plan);
    tcase_add_test(w, overlapping_fusions_go_to_the_larger_gain);
    tcase_add_test(w, two_fusions_that_wait_for_each_other_are_not_both_taken);
    tcase_add_test(w, every_layer_of_a_model_is_fused);
    tcase_add_test(w, fusion_reaches_into_the_next_layer);
    tcase_add_test(w, search_among_thousands_of_equal_ops_ends);
    suite_add_tcase(s, t);
    suite_add_tcase(s, w);
    return run_suite(s);
}
