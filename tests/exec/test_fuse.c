/* SPDX-License-Identifier: Apache-2.0 */
/* Fusions that take turns by the rows of a step: a whole layer for few rows, other fusions and single ops beyond. */
#include "check_util.h"
#include "engine/sample_plan.h"
#include "exec/fake.h"
#include "tenon/fusions.h"

static struct plan *p;
static struct selection sel;
static struct graph *g;
static struct fake *layer, *gate;

static const tn_range upto_5[] = {{"rows", 1, 5, 1}}, upto_16[] = {{"rows", 1, 16, 1}};

static struct fake *fuse(const char *name, const char *text, const tn_range *rows)
{
    struct fake *f = fake_add(name, name);

    f->v.equals = text;
    f->v.ranges = rows;
    f->v.n_ranges = rows != NULL;
    f->v.kv_dtypes = FAKE_FLOATS;
    f->v.kv_layout = TN_KV_LAYOUT_HND;
    f->fixed = 1;
    f->per_row = 1;
    return f;
}

static void setup(void)
{
    struct sample_model m = SAMPLE_MODEL;

    fake_reset();
    p = sample_model(&m);
    fake_basics();
    layer = fuse("layer", TN_TEXT_DECODER_LAYER("linear"), upto_5);
    gate = fuse("gate", TN_FUSED_GATE_SILU_TEXT, NULL);
}

static void release(void)
{
    selection_release(&sel);
    graph_free(g);
    g = NULL;
}

static void teardown(void)
{
    release();
    plan_free(p);
}

static void choose_pinned(const char *op, const char *variant)
{
    struct topology single = TOPOLOGY_SINGLE;
    struct select_options o = fake_options();
    struct pin pin = {op, variant};
    tn_err err = TN_ERR_INIT;

    o.pins = &pin;
    o.n_pins = op ? 1 : 0;
    release();
    ck_assert_ok(graph_new(p, &single, o.act_dtype, &g, &err), &err);
    ck_assert_ok(select_variants(g, &o, &sel, &err), &err);
}

static void choose(void)
{
    choose_pinned(NULL, NULL);
}

/* Whether the nth op of that name runs in steps of so many rows; false if there is none. */
static bool runs(const char *op, int n, uint32_t rows)
{
    const struct selected *s = fake_selected(&sel, op, n);

    return s && selected_runs(s, rows);
}

/* The first reason why `variant` lost anywhere; "" if there is none. */
static const char *reason(const char *variant)
{
    for (size_t i = 0; i < sel.n_ops; i++)
        for (const struct verdict *v = sel.ops[i].losers; v; v = v->next)
            if (strcmp(v->candidate->v->name, variant) == 0)
                return v->reason;
    return "";
}

#define ck_assert_reason(variant, text)                                                            \
    ck_assert_msg(strstr(reason(variant), text) != NULL, "'%s' not in: %s", text, reason(variant))

/* In steps of every size, each basic op of a layer is done once: by itself, or in one fused op that runs then. */
static void check_covered(void)
{
    for (uint32_t rows = 1; rows <= 64; rows++) {
        for (size_t i = 0; i < g->n_ops; i++) {
            const tn_op *op = &g->ops[i]->op;
            uint32_t done = 0;
            for (size_t k = 0; k < sel.n_ops; k++) {
                const tn_op *s = &sel.ops[k].op->op;
                if (!selected_runs(&sel.ops[k], rows))
                    continue;
                done += s == op;
                for (uint32_t m = 0; m < s->n_members; m++)
                    done += s->members[m] == op;
            }
            ck_assert_msg(done == 1, "%s is done %u times in steps of %u rows", op->name, done,
                          rows);
        }
    }
}

START_TEST(a_layer_for_few_rows_leaves_the_rest_to_other_fusions)
{
    choose();
    check_covered();
    for (int i = 0; i < 2; i++) {
        ck_assert(runs("layer", i, 1) && runs("layer", i, 5) && !runs("layer", i, 6));
        ck_assert(!runs("gate", i, 5) && runs("gate", i, 6) && runs("gate", i, 64));
    }
    ck_assert_ptr_null(fake_selected(&sel, "layer", 2));
    ck_assert_ptr_null(fake_selected(&sel, TN_OP_SILU, 0));
    ck_assert(!runs(TN_OP_LINEAR, 0, 5) && runs(TN_OP_LINEAR, 0, 6));
}
END_TEST

/* All members by themselves cost 1700 + 170 per row, with the other fusion 1301 + 131 per row. */
START_TEST(a_layer_is_held_against_the_other_fusions)
{
    layer->fixed = 1310;
    layer->per_row = 131;
    choose();
    check_covered();
    ck_assert_ptr_null(fake_selected(&sel, "layer", 0));
    ck_assert(runs("gate", 0, 1));
    ck_assert_reason("layer", "than what runs there else");
    layer->fixed = 1290;
    choose();
    check_covered();
    ck_assert(runs("layer", 0, 1) && runs("gate", 0, 6));
}
END_TEST

/* What made up for its slowness with the rows that another one takes now. */
START_TEST(a_fusion_that_only_paid_for_few_rows_is_left_out)
{
    gate->fixed = 0;
    gate->per_row = 100; /* its members: 400 + 40 per row */
    layer->fixed = 1e6;
    choose();
    ck_assert(runs("gate", 0, 1) && runs("gate", 0, 64));
    layer->fixed = 1;
    choose();
    check_covered();
    ck_assert(runs("layer", 0, 5));
    ck_assert_ptr_null(fake_selected(&sel, "gate", 0));
    ck_assert(runs(TN_OP_SILU, 0, 6));
    ck_assert_reason("gate", "saves nothing beyond 5 rows");
}
END_TEST

START_TEST(three_fusions_take_turns)
{
    fuse("norm_gate", TN_TEXT_NORM_GATE("linear", "silu"), upto_16);
    choose();
    check_covered();
    ck_assert(runs("layer", 0, 5) && !runs("norm_gate", 0, 5) && !runs("gate", 0, 5));
    ck_assert(runs("norm_gate", 0, 6) && runs("norm_gate", 0, 16) && !runs("gate", 0, 16));
    ck_assert(runs("gate", 0, 17) && runs("gate", 0, 64));
    ck_assert(runs(TN_OP_RMS_NORM, 1, 17) && !runs(TN_OP_RMS_NORM, 1, 16));
}
END_TEST

/* One that shares some ops with another: the rest of these run by themselves where it runs, and only there. */
START_TEST(a_fusion_is_broken_up_for_few_rows_only)
{
    fuse("add_norm", TN_FUSED_ADD_RMS_NORM_TEXT, NULL)->fixed = 150;
    fuse("norm_gate", TN_TEXT_NORM_GATE("linear", "silu"), upto_16);
    gate->fixed = 300;
    layer->fixed = 1e6;
    choose();
    check_covered();
    ck_assert(runs("norm_gate", 0, 1) && runs("norm_gate", 0, 16) && !runs("norm_gate", 0, 17));
    ck_assert(!runs("add_norm", 0, 16) && runs("add_norm", 0, 17));
    ck_assert(runs(TN_OP_ADD, 0, 16) && !runs(TN_OP_ADD, 0, 17));
    layer->fixed = 1;
    choose();
    check_covered();
    ck_assert(!runs(TN_OP_ADD, 0, 5) && runs(TN_OP_ADD, 0, 6) && !runs(TN_OP_ADD, 0, 17));
}
END_TEST

/* Two that end at the same number of rows: the larger one leaves nothing to the smaller, which is told of. */
START_TEST(a_fusion_without_turns_is_gone)
{
    fuse("norm_gate", TN_TEXT_NORM_GATE("linear", "silu"), upto_5);
    choose();
    check_covered();
    ck_assert(runs("layer", 0, 5));
    ck_assert_ptr_null(fake_selected(&sel, "norm_gate", 0));
    ck_assert_reason("norm_gate", "fake/layer costs less");
}
END_TEST

START_TEST(no_turns_where_weights_would_be_kept_twice)
{
    gate->v.pack_layout = "tiles";
    choose();
    check_covered();
    ck_assert(runs("gate", 0, 1));
    ck_assert_ptr_null(fake_selected(&sel, "layer", 0));
    ck_assert_reason("layer", "kept twice");
}
END_TEST

START_TEST(pins_go_before_costs_in_turns_too)
{
    layer->fixed = 1e6;
    choose_pinned("layer", "fake/layer");
    check_covered();
    ck_assert(runs("layer", 0, 5) && runs("gate", 0, 6));
    layer->fixed = 1;
    choose_pinned(TN_OP_SILU, "fake/silu.f");
    check_covered();
    ck_assert_ptr_null(fake_selected(&sel, "layer", 0));
    ck_assert_ptr_null(fake_selected(&sel, "gate", 0));
    fuse("norm_gate", TN_TEXT_NORM_GATE("linear", "silu"), upto_16);
    choose_pinned("norm_gate", "fake/norm_gate");
    check_covered();
    ck_assert(runs("norm_gate", 0, 1) && runs("gate", 0, 17));
    ck_assert_reason("layer", "goes before all");
}
END_TEST

/* More limits of rows than an op keeps turns for. */
START_TEST(turns_have_an_end)
{
    static tn_range rows[12];

    for (int i = 0; i < 12; i++) {
        static char names[12][16];
        snprintf(names[i], sizeof names[i], "norm_gate%d", i);
        rows[i] = (tn_range){"rows", 1, 8 + 4 * i, 1};
        fuse(names[i], TN_TEXT_NORM_GATE("linear", "silu"), &rows[i])->fixed = 13.0 - i;
    }
    choose();
    check_covered();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_fuse");
    TCase *t = tcase_create("fuse");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_layer_for_few_rows_leaves_the_rest_to_other_fusions);
    tcase_add_test(t, a_layer_is_held_against_the_other_fusions);
    tcase_add_test(t, a_fusion_that_only_paid_for_few_rows_is_left_out);
    tcase_add_test(t, three_fusions_take_turns);
    tcase_add_test(t, a_fusion_is_broken_up_for_few_rows_only);
    tcase_add_test(t, a_fusion_without_turns_is_gone);
    tcase_add_test(t, no_turns_where_weights_would_be_kept_twice);
    tcase_add_test(t, pins_go_before_costs_in_turns_too);
    tcase_add_test(t, turns_have_an_end);
    suite_add_tcase(s, t);
    return run_suite(s);
}
