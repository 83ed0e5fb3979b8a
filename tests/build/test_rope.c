/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary frequencies of the llama plugin against those of transformers, in data/rope.json (data/make_rope.py). */
#include <math.h>

#include "base/json.h"
#include "base/limits.h"
#include "build/llama_plugin.h"
#include "check_util.h"
#include "tenon/ops.h"

static json_t *golden;

static void read_golden(void)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(json_read(SOURCE_DIR "/tests/build/data/rope.json", 1 * MIB, &golden, &err), &err);
}

static void free_golden(void)
{
    json_decref(golden);
}

static struct emission emit_case(const json_t *c)
{
    json_t *config = llama_config();
    struct emission e;
    tn_err err;

    json_object_update(config, json_object_get(c, "config"));
    json_object_set_new(config, "num_key_value_heads", json_integer(4));
    if (llama_emit(config, NULL, &e, &err) != TN_OK)
        ck_abort_msg("%s: %s: %s", json_string_value(json_object_get(c, "name")), err.field,
                     err.msg);
    json_decref(config);
    return e;
}

static const struct plan_op *rope_op(const struct plan *p)
{
    size_t i = 0;

    while (strcmp(p->ops[i].name, TN_OP_ROPE) != 0)
        i++;
    return &p->ops[i];
}

/* Two units in the last place: pow differs between libraries. */
#define TOLERANCE 2.4e-7

static void check_case(const json_t *c)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    const json_t *want = json_object_get(c, "frequencies");
    struct emission e = emit_case(c);
    const struct plan_op *op = rope_op(e.plan);
    const float *have = e.origins[op->weights[0]].table;

    ck_assert_uint_eq(e.plan->weights[op->weights[0]].dims[0], json_array_size(want));
    for (size_t i = 0; i < json_array_size(want); i++) {
        double f = json_real_value(json_array_get(want, i));
        ck_assert_msg(fabs(have[i] - f) <= TOLERANCE * f, "%s: frequency %zu is %.9g, not %.9g",
                      name, i, have[i], f);
    }
    ck_assert_double_eq_tol(plan_attr(op, "mscale")->f,
                            json_real_value(json_object_get(c, "scaling")), 1e-12);
    emission_release(&e);
}

START_TEST(frequencies_are_those_of_transformers)
{
    const json_t *cases = json_object_get(golden, "cases");

    ck_assert_uint_ge(json_array_size(cases), 19);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(json_array_get(cases, i));
}
END_TEST

static const json_t *case_named(const char *name)
{
    const json_t *cases = json_object_get(golden, "cases");

    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        if (strcmp(json_string_value(json_object_get(c, "name")), name) == 0)
            return c;
    }
    ck_abort_msg("no case %s", name);
    return NULL;
}

START_TEST(dynamic_scaling_is_left_to_the_op)
{
    struct emission e = emit_case(case_named("dynamic"));
    const struct plan_op *op = rope_op(e.plan);

    ck_assert_double_eq(plan_attr(op, "base")->f, 30000.0);
    ck_assert_double_eq(plan_attr(op, "factor")->f, 2.0);
    ck_assert_int_eq(plan_attr(op, "max_position")->i, 4096);
    emission_release(&e);
    e = emit_case(case_named("nothing"));
    ck_assert_ptr_null(plan_attr(rope_op(e.plan), "max_position"));
    emission_release(&e);
}
END_TEST

/* By how much a scaling lengthens the context that max_position_embeddings states. */
START_TEST(scaled_models_take_longer_contexts)
{
    static const struct {
        const char *name;
        int64_t positions;
    } cases[] = {{"nothing", 4096},
                 {"linear, old spelling", 16384},
                 {"dynamic", 8192},
                 {"llama3, old spelling", 4096},
                 {"yarn", 4096}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct emission e = emit_case(case_named(cases[i].name));
        ck_assert_int_eq(plan_hyper_int(e.plan, TN_HP_MAX_POSITIONS, 0), cases[i].positions);
        emission_release(&e);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_rope");
    TCase *t = tcase_create("rope");

    tcase_add_checked_fixture(t, read_golden, free_golden);
    tcase_add_test(t, frequencies_are_those_of_transformers);
    tcase_add_test(t, dynamic_scaling_is_left_to_the_op);
    tcase_add_test(t, scaled_models_take_longer_contexts);
    suite_add_tcase(s, t);
    return run_suite(s);
}
