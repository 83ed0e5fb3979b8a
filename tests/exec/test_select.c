/* SPDX-License-Identifier: Apache-2.0 */
/* Which variant runs an op: requirements with a reason each, pins, costs by rows, packed layouts, ties. */
#include "exec/select.h"

#include <math.h>

#include "base/mem.h"
#include "check_util.h"
#include "engine/sample_plan.h"
#include "exec/fake.h"
#include "exec/judge.h"

static struct plan *p;
static struct select_options o;
static struct selection sel;
static struct graph *g;
static tn_err err;

static void setup(void)
{
    struct sample_model m = SAMPLE_MODEL;

    fake_reset();
    p = sample_model(&m);
    fake_basics();
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

/* Selects with the fakes as they are; `o` may have been changed by `edit`. */
static int32_t choose_with(const struct select_options *options)
{
    struct topology single = TOPOLOGY_SINGLE;

    release();
    err = (tn_err)TN_ERR_INIT;
    ck_assert_ok(graph_new(p, &single, options->act_dtype, &g, &err), &err);
    return select_variants(g, options, &sel, &err);
}

static void choose(void)
{
    o = fake_options();
    ck_assert_ok(choose_with(&o), &err);
}

/* The variant that serves `rows` rows of the first op of that name. */
static const char *chosen(const char *op, uint32_t rows)
{
    return choice_for(&fake_selected(&sel, op, 0)->choice, rows)->v->name;
}

/* Why `variant` lost at the first op of that name; "" if it did not. */
static const char *reason(const char *op, const char *variant)
{
    for (const struct verdict *v = fake_selected(&sel, op, 0)->losers; v; v = v->next)
        if (strcmp(v->candidate->v->name, variant) == 0)
            return v->reason;
    return "";
}

#define ck_assert_reason(op, variant, text)                                                        \
    ck_assert_msg(strstr(reason(op, variant), text) != NULL, "'%s' not in: %s", text,              \
                  reason(op, variant))

/* -- Requirements ---------------------------------------------------------------------------------------- */

START_TEST(whatever_does_not_fit_loses_with_its_reason)
{
    static const tn_gpu_target gpus[] = {{0x10de, 9, 0, TN_GPU_EXACT}, {0, 0, 0, 0}};
    static const tn_range narrow[] = {{"in0.width", 1, 8, 1}};
    static const tn_range odd[] = {{"out0.width", 1, 1 << 20, 7}};
    static const tn_range unknown[] = {{"n_experts", 1, 8, 1}};
    static const tn_range trailing[] = {{"in0.wide", 1, 1 << 20, 1}};
    static const tn_range matrix[] = {{"w0.dim1", 64, 128, 1}};

    fake_add("half", TN_OP_LINEAR)->v.act_dtypes = TN_DT_BIT(TN_DT_F16);
    fake_add("int8", TN_OP_LINEAR)->v.weight_dtypes = TN_DT_BIT(TN_DT_I8);
    fake_add("avx9", TN_OP_LINEAR)->v.cpu[1] = 1;
    fake_add("gpu", TN_OP_LINEAR)->v.gpus = gpus;
    fake_add("shy", TN_OP_LINEAR)->refuse = "the stars are wrong";
    fake_add("narrow", TN_OP_LINEAR)->v.ranges = narrow;
    fake_add("odd", TN_OP_LINEAR)->v.ranges = odd;
    fake_add("unknown", TN_OP_LINEAR)->v.ranges = unknown;
    fake_add("trailing", TN_OP_LINEAR)->v.ranges = trailing;
    struct fake *last = fake_add("matrix", TN_OP_LINEAR);
    last->v.ranges = matrix;
    for (int i = 0; i < 5; i++)
        last[-i].v.n_ranges = 1;
    for (int i = 0; i < 10; i++)
        last[-i].fixed = 0; /* cheaper than the one that fits */
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.f");
    ck_assert_reason(TN_OP_LINEAR, "half", "does not compute in float32");
    ck_assert_reason(TN_OP_LINEAR, "int8", "does not take bfloat16 weights (layers.0.q)");
    ck_assert_reason(TN_OP_LINEAR, "avx9", "CPU features");
    ck_assert_reason(TN_OP_LINEAR, "gpu", "no code for this GPU");
    ck_assert_reason(TN_OP_LINEAR, "shy", "the stars are wrong");
    ck_assert_reason(TN_OP_LINEAR, "narrow", "in0.width is 16; it takes 1 to 8");
    ck_assert_reason(TN_OP_LINEAR, "odd", "steps of 7");
    ck_assert_reason(TN_OP_LINEAR, "unknown", "\"n_experts\", which the op does not have");
    ck_assert_reason(TN_OP_LINEAR, "trailing", "\"in0.wide\", which the op does not have");
    ck_assert_reason(TN_OP_LINEAR, "matrix", "w0.dim1 is 16");
}
END_TEST

/* A time that was measured counts, whatever the variants think of themselves; what was not goes on by its estimate. */
START_TEST(measured_times_go_before_estimates)
{
    struct tuning *t = NULL;

    fake_add("boaster", TN_OP_LINEAR)->fixed = 1;
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "boaster");
    ck_assert_reason(TN_OP_LINEAR, "linear.f", "estimated at 110 ns for one row, against 11 ns");
    ck_assert_ok(tuning_new("here", &t, &err), &err);
    for (size_t i = 0; i < g->n_ops; i++)
        if (strcmp(g->ops[i]->op.name, TN_OP_LINEAR) == 0)
            for (uint32_t rows = 1; rows <= 64; rows *= 2)
                ck_assert_ok(
                    tuning_set(t, "fake",
                               fake_selected(&sel, TN_OP_LINEAR, 0)->choice.ranges[0].candidate->v,
                               &g->ops[i]->op, rows, rows > 8 ? 20 : 5000, &err),
                    &err);
    o.tuning = t;
    ck_assert_ok(choose_with(&o), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.f");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 64), "boaster");
    tuning_free(t);
}
END_TEST

/* What is measured alone does not show what a variant makes its neighbours wait: on devices with streams it is charged for that. */
START_TEST(who_does_not_overlap_is_charged_for_it)
{
    struct fake *slow, *fast;
    const tn_variant *basic;
    struct tuning *t = NULL;

    choose();
    basic = choice_for(&fake_selected(&sel, TN_OP_LINEAR, 0)->choice, 1)->v;
    slow = fake_add("early", TN_OP_LINEAR);
    fast = fake_add("alone", TN_OP_LINEAR);
    slow->v.flags |= TN_VARIANT_EARLY;
    choose();
    ck_assert_ok(tuning_new("here", &t, &err), &err);
    for (size_t i = 0; i < g->n_ops; i++)
        for (uint32_t rows = 1; rows <= 64 && !strcmp(g->ops[i]->op.name, TN_OP_LINEAR);
             rows *= 2) {
            double ns = 20000.0 * rows;
            ck_assert_ok(tuning_set(t, "fake", basic, &g->ops[i]->op, rows, 9 * ns, &err), &err);
            ck_assert_ok(tuning_set(t, "fake", &slow->v, &g->ops[i]->op, rows, ns, &err), &err);
            ns = rows > 8 ? ns - 3000 : ns - 10;
            ck_assert_ok(tuning_set(t, "fake", &fast->v, &g->ops[i]->op, rows, ns, &err), &err);
        }
    o.tuning = t;
    ck_assert_ok(choose_with(&o), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "alone");
    fake_device_flags(TN_DEVICE_STREAMS);
    o = fake_options();
    o.tuning = t;
    ck_assert_ok(choose_with(&o), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "early");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 64), "alone");
    fake_device_flags(0);
    tuning_free(t);
}
END_TEST

START_TEST(cache_requirements_are_checked)
{
    struct fake *layout = fake_add("other", TN_OP_ATTENTION);
    struct fake *none = fake_add("none", TN_OP_ATTENTION);
    struct fake *fp8 = fake_add("fp8", TN_OP_ATTENTION);

    layout->v.kv_layout = "acme.tiles";
    none->v.kv_layout = NULL;
    fp8->v.kv_dtypes = TN_DT_BIT(TN_DT_F8E4M3);
    layout->fixed = none->fixed = fp8->fixed = 0;
    choose();
    ck_assert_str_eq(chosen(TN_OP_ATTENTION, 1), "attention.f");
    ck_assert_reason(TN_OP_ATTENTION, "other", "cache layout acme.tiles, not hnd");
    ck_assert_reason(TN_OP_ATTENTION, "none", "cache layout none");
    ck_assert_reason(TN_OP_ATTENTION, "fp8", "does not keep the cache in float32");
}
END_TEST

START_TEST(attributes_of_members_are_checked_too)
{
    static const tn_range heads[] = {{"n_heads", 1, 2, 1}};
    struct fake *f = fake_add("norm_rope", "norm_rope");

    f->v.equals = "(x) -> (y): q = linear(x); y = rope(q)";
    f->v.ranges = heads;
    f->v.n_ranges = 1;
    f->fixed = 0;
    choose();
    /* Keys have 2 heads and fuse; queries have 4 and do not. */
    ck_assert_str_eq(fake_sequence(&sel, 0),
                     "rms_norm linear linear rope norm_rope kv_append attention linear add "
                     "rms_norm linear linear silu mul linear add");
    ck_assert_reason(TN_OP_LINEAR, "norm_rope", "n_heads is 4");
}
END_TEST

START_TEST(gpu_targets_match_by_their_mode)
{
    static const struct {
        tn_gpu_target target;
        bool fits90, fits86;
    } cases[] = {{{0x10de, 9, 0, TN_GPU_EXACT}, true, false},
                 {{0x10de, 8, 0, TN_GPU_SAME_MAJOR}, false, true},
                 {{0x10de, 8, 9, TN_GPU_SAME_MAJOR}, false, false},
                 {{0x10de, 8, 0, TN_GPU_PTX}, true, true},
                 {{0x10de, 8, 9, TN_GPU_PTX}, true, false},
                 {{0x1002, 9, 0, TN_GPU_EXACT}, false, false},
                 {{0x10de, 9, 0, 77}, false, false}};
    tn_device_info info = {.h = TN_HDR(tn_device_info)};

    o = fake_options();
    o.device = &info;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_gpu_target list[2] = {cases[i].target, {0, 0, 0, 0}};
        struct fake *f = fake_add("g", TN_OP_LINEAR);
        f->v.gpus = list;
        info.gpu = (tn_gpu_target){0x10de, 9, 0, 0};
        ck_assert(!judge_device(&o, o.sources[0].set, &f->v) == cases[i].fits90);
        info.gpu = (tn_gpu_target){0x10de, 8, 6, 0};
        ck_assert(!judge_device(&o, o.sources[0].set, &f->v) == cases[i].fits86);
    }
}
END_TEST

START_TEST(op_that_nobody_can_run_is_named)
{
    struct fake *f;

    fake_reset();
    f = fake_add("emb", TN_OP_EMBEDDING);
    o = fake_options();
    ck_assert_int_eq(choose_with(&o), TN_E_UNSUPPORTED);
    ck_assert_str_eq(err.field, TN_OP_RMS_NORM);
    ck_assert_err_has(&err, "layer 0");
    ck_assert_err_has(&err, "none offers it");
    f->refuse = "out of office";
    o = fake_options();
    ck_assert_int_eq(choose_with(&o), TN_E_UNSUPPORTED);
    ck_assert_str_eq(err.field, TN_OP_EMBEDDING);
    ck_assert_err_has(&err, "emb: out of office");
}
END_TEST

START_TEST(set_without_a_cache_layout_is_refused)
{
    tn_kernel_set bare = *fake_source()->set;
    struct kernel_source source = {"bare", &bare, NULL};

    bare.n_kv_layouts = 0;
    o = fake_options();
    o.sources = &source;
    ck_assert_int_eq(choose_with(&o), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "cache layout");
    bare.n_kv_layouts = 1;
    bare.device = "other";
    ck_assert_int_eq(choose_with(&o), TN_E_UNSUPPORTED);
}
END_TEST

START_TEST(pattern_that_does_not_parse_excludes_its_variant)
{
    struct fake *f = fake_add("broken", "broken");

    f->v.equals = "(x) -> (y): y = silu(x";
    choose();
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "broken"));
    for (size_t i = 0; i < sel.n_candidates; i++)
        if (strcmp(sel.candidates[i].v->name, "broken") == 0)
            ck_assert_ptr_nonnull(strstr(sel.candidates[i].excluded, "\")\""));
}
END_TEST

/* -- Costs ------------------------------------------------------------------------------------------------ */

START_TEST(cost_decides_by_number_of_rows)
{
    struct fake *few = fake_add("few", TN_OP_LINEAR), *many = fake_add("many", TN_OP_LINEAR);

    few->fixed = 0;
    few->per_row = 10; /* cheaper up to 10 rows */
    many->fixed = 90;
    many->per_row = 1;
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "few");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 8), "few");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 16), "many");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 64), "many");
    ck_assert_reason(TN_OP_LINEAR, "linear.f", "ns for one row");
    ck_assert_str_eq(reason(TN_OP_LINEAR, "few"), "");
}
END_TEST

START_TEST(ranges_of_rows_are_kept_to_the_row)
{
    static const tn_range upto5[] = {{"rows", 0, 5, 1}}, from6[] = {{"rows", 6, 1 << 30, 1}};
    struct fake *few = fake_add("few", TN_OP_LINEAR), *many = fake_add("many", TN_OP_LINEAR);

    few->fixed = many->fixed = 0;
    few->v.ranges = upto5;
    many->v.ranges = from6;
    few->v.n_ranges = many->v.n_ranges = 1;
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 5), "few");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 6), "many");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 64), "many");
}
END_TEST

START_TEST(absurd_ranges_of_rows_are_refused_with_a_reason)
{
    static const tn_range negative[] = {{"rows", -5, -1, 1}}, beyond[] = {{"rows", 65, 70, 1}};
    static const tn_range huge[] = {{"rows", INT64_C(1) << 40, INT64_MAX, 1}};
    static const tn_range steps[] = {{"rows", 1, 64, 8}};
    static const tn_range *const all[] = {negative, beyond, huge, steps};
    static const char *const names[] = {"r0", "r1", "r2", "r3"};

    for (int i = 0; i < 4; i++) {
        struct fake *f = fake_add(names[i], TN_OP_LINEAR);
        f->v.ranges = all[i];
        f->v.n_ranges = 1;
        f->fixed = 0;
    }
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.f");
    for (int i = 0; i < 3; i++)
        ck_assert_reason(TN_OP_LINEAR, names[i], "no number of rows");
    ck_assert_reason(TN_OP_LINEAR, "r3", "rows in steps of 8");
}
END_TEST

/* Twenty row counts are compared at most. Beyond that a variant still runs only what it said it can. */
START_TEST(more_ranges_than_buckets_stay_correct)
{
    static tn_range ranges[22];
    static char names[22][8];

    for (int i = 0; i < 22; i++) {
        struct fake *f;
        snprintf(names[i], sizeof names[i], "r%d", i);
        ranges[i] = (tn_range){"rows", 3 * i + 1, 3 * i + 3, 1};
        f = fake_add(names[i], TN_OP_ADD);
        f->v.ranges = &ranges[i];
        f->v.n_ranges = 1;
        f->fixed = 0;
    }
    choose();
    for (uint32_t rows = 1; rows <= 64; rows++) {
        const char *name = chosen(TN_OP_ADD, rows);
        int i = name[0] == 'r' ? atoi(name + 1) : -1;
        ck_assert_msg(i < 0 || ((int)rows > 3 * i && (int)rows <= 3 * i + 3), "%u rows run %s",
                      rows, name);
    }
}
END_TEST

START_TEST(gap_between_ranges_is_an_error_that_says_so)
{
    static const tn_range upto5[] = {{"rows", 0, 5, 1}};
    struct fake *f;

    fake_reset();
    fake_basics();
    for (size_t i = 0; i < fake_count(); i++) {
        f = (struct fake *)(uintptr_t)fake_source()->set->variants[i];
        if (strcmp(f->v.op, TN_OP_LINEAR) == 0) {
            f->v.ranges = upto5;
            f->v.n_ranges = 1;
        }
    }
    o = fake_options();
    ck_assert_int_eq(choose_with(&o), TN_E_UNSUPPORTED);
    ck_assert_str_eq(err.field, TN_OP_LINEAR);
    ck_assert_err_has(&err, "1 to 5 rows");
}
END_TEST

START_TEST(costs_that_are_no_numbers_lose)
{
    fake_add("nan", TN_OP_LINEAR)->fixed = NAN;
    fake_add("inf", TN_OP_LINEAR)->fixed = INFINITY;
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.f");
    /* but may run what nothing else runs */
    for (size_t i = 0; i < fake_count(); i++) {
        struct fake *f = (struct fake *)(uintptr_t)fake_source()->set->variants[i];
        if (strcmp(f->v.name, "linear.f") == 0)
            f->refuse = "gone";
    }
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "nan");
}
END_TEST

/* A variant with a range makes more row counts to compare; that must not make its op look dearer to fusions. */
START_TEST(fusion_is_not_judged_by_the_number_of_ranges)
{
    static const tn_range odd[] = {{"rows", 3, 61, 1}};
    struct fake *f = fake_add("fused", "add_norm"), *ranged = fake_add("ranged", TN_OP_ADD);

    f->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    f->fixed = 200 + 1;
    f->per_row = 20 + 1; /* a little dearer than add and rms_norm: 200 + 20 per row */
    ranged->v.ranges = odd;
    ranged->v.n_ranges = 1;
    choose();
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "add_norm"));
    ck_assert_reason(TN_OP_ADD, "fused", "ns per row more");
}
END_TEST

/* What adds up over ranks must say so, and have somebody who shows it their parts. */
START_TEST(parts_of_sums_are_not_given_to_what_does_not_add_them_up)
{
    static const char *const texts[] = {NULL, "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)",
                                        "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)"};
    struct fake *f = fake_add("fused", "add_norm");

    f->v.equals = texts[_i];
    f->v.flags = _i == 2 ? 0 : TN_VARIANT_PARTS;
    f->fixed = 1;
    f->per_row = 1;
    choose();
    ck_assert((strstr(fake_sequence(&sel, -2), "add_norm") != NULL) == (_i == 2));
}
END_TEST

static const tn_range upto_5[] = {{"rows", 0, 5, 1}}, from_6[] = {{"rows", 6, 1 << 30, 1}};

/* Variants of one composition share the fused op, each for the rows that it serves. */
START_TEST(variants_of_one_fusion_share_it_by_rows)
{
    struct fake *few = fake_add("few", "add_norm"), *many = fake_add("many", "add_norm");

    few->v.equals = many->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    few->v.ranges = upto_5;
    many->v.ranges = from_6;
    few->v.n_ranges = many->v.n_ranges = 1;
    few->fixed = many->fixed = 0;
    choose();
    ck_assert_str_eq(chosen("add_norm", 5), "few");
    ck_assert_str_eq(chosen("add_norm", 6), "many");
    for (int i = 0; fake_selected(&sel, TN_OP_ADD, i); i++) /* where no norm follows */
        ck_assert(selected_runs(fake_selected(&sel, TN_OP_ADD, i), 1));
}
END_TEST

/* A fused op for few rows takes turns with its members. */
START_TEST(members_run_where_the_fused_op_ends)
{
    struct fake *few = fake_add("few", "add_norm"), *many = fake_add("many", "add_norm");
    const struct selected *fused, *add;

    few->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    many->v.equals = "(b, a) -> (s, y): s = add(b, a); y = rms_norm(s)"; /* another fusion */
    few->v.ranges = upto_5;
    many->v.ranges = from_6;
    few->v.n_ranges = many->v.n_ranges = 1;
    few->fixed = many->fixed = 0;
    choose();
    fused = fake_selected(&sel, "add_norm", 0);
    add = fake_selected(&sel, TN_OP_ADD, 0);
    ck_assert(fused && selected_runs(fused, 1) && selected_runs(fused, 5));
    ck_assert(!selected_runs(fused, 6));
    ck_assert(add && !selected_runs(add, 5) && selected_runs(add, 6) && selected_runs(add, 64));
    ck_assert(add < fused);
    ck_assert_reason("add_norm", "many", "serves 6 to 64 rows");
    few->fixed = 200 + 1; /* dearer than its members for the rows that count */
    few->per_row = 20;
    choose();
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "add_norm"));
}
END_TEST

/* Weights in a layout of its own for few rows, and the members' for the rest: that is too much memory. */
START_TEST(fusion_for_few_rows_does_not_pack)
{
    struct fake *few = fake_add("few", "norm_linear");

    few->v.equals = "(x) -> (h, y): h = rms_norm(x); y = linear(h)";
    few->v.ranges = upto_5;
    few->v.n_ranges = 1;
    few->v.pack_layout = "few";
    few->fixed = 0;
    choose();
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "norm_linear"));
    ck_assert_reason(TN_OP_RMS_NORM, "few", "kept twice");
}
END_TEST

START_TEST(ties_go_to_the_earlier_source)
{
    struct kernel_source two[2];
    size_t half = fake_count();

    for (size_t i = 0; i < 1; i++)
        fake_add("linear.second", TN_OP_LINEAR);
    two[0] = *fake_source_of("first", 0, half);
    two[1] = *fake_source_of("second", half, fake_count());
    o = fake_options();
    o.sources = two;
    o.n_sources = 2;
    ck_assert_ok(choose_with(&o), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.f");
    two[1] = *fake_source_of("first", 0, half);
    two[0] = *fake_source_of("second", half, fake_count());
    ck_assert_ok(choose_with(&o), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.second");
}
END_TEST

START_TEST(logits_ops_are_costed_by_logits_rows)
{
    choose();
    ck_assert_uint_eq(fake_selected(&sel, TN_OP_LOGITS, 0)->choice.ranges[0].max_rows, 8);
    ck_assert_uint_eq(fake_selected(&sel, TN_OP_LINEAR, 0)->choice.ranges[0].max_rows, 64);
}
END_TEST

/* -- Packed layouts ----------------------------------------------------------------------------------------- */

/* One copy of the weights serves all rows, so variants of different layouts are not mixed in one op. */
START_TEST(variants_of_one_op_share_a_layout)
{
    struct fake *few = fake_add("few", TN_OP_LINEAR), *many = fake_add("many", TN_OP_LINEAR);
    struct fake *both = fake_add("both", TN_OP_LINEAR);

    few->fixed = 0;
    few->per_row = 10;
    many->fixed = 90;
    many->per_row = 1;
    few->v.pack_layout = "tiles";
    many->v.pack_layout = "rows";
    both->fixed = 1000;
    choose();
    ck_assert_uint_eq(fake_selected(&sel, TN_OP_LINEAR, 0)->choice.n, 1);
    many->v.pack_layout = "tiles";
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "few");
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 64), "many");
}
END_TEST

/* -- Pins ----------------------------------------------------------------------------------------------------- */

static int32_t choose_pinned(const char *op, const char *variant)
{
    static struct pin pin;

    pin = (struct pin){op, variant};
    o = fake_options();
    o.pins = &pin;
    o.n_pins = 1;
    return choose_with(&o);
}

START_TEST(pin_wins_over_cost)
{
    struct fake *slow = fake_add("slow", TN_OP_LINEAR);

    slow->fixed = 1e9;
    ck_assert_ok(choose_pinned(TN_OP_LINEAR, "fake/slow"), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "slow");
    ck_assert_reason(TN_OP_LINEAR, "linear.f", "pinned");
    slow->fixed = -1; /* taken only if it is pinned */
    slow->per_row = 0;
    ck_assert_ok(choose_pinned(TN_OP_LINEAR, "fake/slow"), &err);
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "slow");
    choose();
    ck_assert_str_eq(chosen(TN_OP_LINEAR, 1), "linear.f");
    ck_assert_reason(TN_OP_LINEAR, "slow", "only if it is pinned");
}
END_TEST

START_TEST(pin_to_what_is_not_there_is_refused)
{
    static const char *const wrong[] = {"fake/none", "linear.f",     "other/linear.f",
                                        "fake/",     "fakelinear.f", ""};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ck_assert_int_eq(choose_pinned(TN_OP_LINEAR, wrong[i]), TN_E_CONFIG);
        ck_assert_str_eq(err.field, "kernels.pins");
        ck_assert_err_has(&err, "PLUGIN/VARIANT");
    }
    ck_assert_int_eq(choose_pinned(TN_OP_LINEAR, "fake/add.f"), TN_E_CONFIG); /* of another op */
}
END_TEST

START_TEST(pin_that_cannot_be_obeyed_says_why)
{
    static const tn_range upto5[] = {{"rows", 0, 5, 1}};
    struct fake *f = fake_add("shy", TN_OP_LINEAR);

    f->refuse = "the stars are wrong";
    ck_assert_int_eq(choose_pinned(TN_OP_LINEAR, "fake/shy"), TN_E_CONFIG);
    ck_assert_err_has(&err, "the stars are wrong"); /* and not that another one is pinned */
    f->refuse = NULL;
    f->v.ranges = upto5;
    f->v.n_ranges = 1;
    ck_assert_int_eq(choose_pinned(TN_OP_LINEAR, "fake/shy"), TN_E_CONFIG);
    ck_assert_err_has(&err, "1 to 5 rows");
}
END_TEST

START_TEST(pinned_fusion_is_taken_at_a_loss_and_before_others)
{
    struct fake *dear = fake_add("dear", "add_norm"), *cheap = fake_add("cheap", "norm_linear");

    dear->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    dear->fixed = 1e9;
    cheap->v.equals = "(x) -> (h, y): h = rms_norm(x); y = linear(h)";
    cheap->fixed = 0;
    choose();
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "add_norm"));
    ck_assert_ok(choose_pinned("add_norm", "fake/dear"), &err);
    ck_assert_ptr_nonnull(strstr(fake_sequence(&sel, -2), "add_norm"));
    dear->fixed = -1;
    dear->per_row = 0;
    ck_assert_ok(choose_pinned("add_norm", "fake/dear"), &err);
    ck_assert_ptr_nonnull(strstr(fake_sequence(&sel, -2), "add_norm"));
}
END_TEST

START_TEST(pinned_basic_op_is_not_fused_away)
{
    struct fake *f = fake_add("fused", "add_norm");

    f->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    f->fixed = 0;
    choose();
    ck_assert_ptr_nonnull(strstr(fake_sequence(&sel, -2), "add_norm"));
    ck_assert_ok(choose_pinned(TN_OP_RMS_NORM, "fake/rms_norm.f"), &err);
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "add_norm"));
}
END_TEST

START_TEST(fusion_can_be_switched_off)
{
    struct fake *f = fake_add("fused", "add_norm");

    f->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    f->fixed = 0;
    o = fake_options();
    o.fusion = false;
    ck_assert_ok(choose_with(&o), &err);
    ck_assert_ptr_null(strstr(fake_sequence(&sel, -2), "add_norm"));
}
END_TEST

START_TEST(choosing_survives_memory_running_out)
{
    struct fake *f = fake_add("fused", "add_norm");
    struct topology single = TOPOLOGY_SINGLE;
    int32_t rc = TN_E_NOMEM;

    f->v.equals = "(a, b) -> (s, y): s = add(a, b); y = rms_norm(s)";
    f->fixed = 0;
    o = fake_options();
    for (uint64_t n = 1; rc != TN_OK; n++) {
        release();
        ck_assert_ok(graph_new(p, &single, TN_DT_F32, &g, &err), &err);
        mem_fail_nth(n, false);
        rc = select_variants(g, &o, &sel, &err);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
        mem_fail_nth(0, false);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_select");
    TCase *t = tcase_create("select");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, whatever_does_not_fit_loses_with_its_reason);
    tcase_add_test(t, cache_requirements_are_checked);
    tcase_add_test(t, measured_times_go_before_estimates);
    tcase_add_test(t, who_does_not_overlap_is_charged_for_it);
    tcase_add_test(t, attributes_of_members_are_checked_too);
    tcase_add_test(t, gpu_targets_match_by_their_mode);
    tcase_add_test(t, op_that_nobody_can_run_is_named);
    tcase_add_test(t, set_without_a_cache_layout_is_refused);
    tcase_add_test(t, pattern_that_does_not_parse_excludes_its_variant);
    tcase_add_test(t, cost_decides_by_number_of_rows);
    tcase_add_test(t, ranges_of_rows_are_kept_to_the_row);
    tcase_add_test(t, absurd_ranges_of_rows_are_refused_with_a_reason);
    tcase_add_test(t, more_ranges_than_buckets_stay_correct);
    tcase_add_test(t, gap_between_ranges_is_an_error_that_says_so);
    tcase_add_test(t, costs_that_are_no_numbers_lose);
    tcase_add_test(t, fusion_is_not_judged_by_the_number_of_ranges);
    tcase_add_loop_test(t, parts_of_sums_are_not_given_to_what_does_not_add_them_up, 0, 3);
    tcase_add_test(t, variants_of_one_fusion_share_it_by_rows);
    tcase_add_test(t, members_run_where_the_fused_op_ends);
    tcase_add_test(t, fusion_for_few_rows_does_not_pack);
    tcase_add_test(t, ties_go_to_the_earlier_source);
    tcase_add_test(t, logits_ops_are_costed_by_logits_rows);
    tcase_add_test(t, variants_of_one_op_share_a_layout);
    tcase_add_test(t, pin_wins_over_cost);
    tcase_add_test(t, pin_to_what_is_not_there_is_refused);
    tcase_add_test(t, pin_that_cannot_be_obeyed_says_why);
    tcase_add_test(t, pinned_fusion_is_taken_at_a_loss_and_before_others);
    tcase_add_test(t, pinned_basic_op_is_not_fused_away);
    tcase_add_test(t, fusion_can_be_switched_off);
    tcase_add_test(t, choosing_survives_memory_running_out);
    suite_add_tcase(s, t);
    return run_suite(s);
}
