/* SPDX-License-Identifier: Apache-2.0 */
/* From config.json and a checkpoint to a plan, through the llama plugin: every field out of its range, every tensor
 * that is missing, too many or of another shape, is refused by name. */
#include "build/emit.h"

#include "base/json.h"
#include "base/mem.h"
#include "build/checkpoint_maker.h"
#include "build/llama_plugin.h"
#include "check_util.h"
#include "engine/plan_json.h"
#include "exec/graph.h"
#include "tenon/ops.h"

static char dir[64];

static void make_dir(void)
{
    temp_dir(dir, sizeof dir);
}

static void remove_dir(void)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_remove(dir, &err), &err);
}

/* -- config.json ------------------------------------------------------------------------------------------ */

static void set(json_t *config, const char *key, const char *value)
{
    tn_err err = TN_ERR_INIT;
    json_t *v = NULL;

    if (!value) {
        json_object_del(config, key);
        return;
    }
    ck_assert_ok(json_parse(value, strlen(value), key, &v, &err), &err);
    json_object_set_new(config, key, v);
}

static int32_t emit(const json_t *config, tn_err *err)
{
    struct emission e = {0};
    int32_t rc = llama_emit(config, NULL, &e, err);

    emission_release(&e);
    return rc;
}

/* With `key` set to the JSON text `value` (NULL: removed) the config is refused and the error names the key. */
static void check_bad(const char *key, const char *value, const char *text)
{
    json_t *config = llama_config();
    tn_err err;
    int32_t rc;

    set(config, key, value);
    rc = emit(config, &err);
    ck_assert_msg(rc == TN_E_FORMAT || rc == TN_E_RANGE || rc == TN_E_TYPE, "%s = %s: %d: %s", key,
                  value ? value : "-", rc, err.msg);
    ck_assert_str_eq(err.file, "config.json");
    ck_assert_str_eq(err.plugin, "llama");
    ck_assert_msg(strstr(err.field, text) != NULL, "%s = %s names %s: %s", key, value ? value : "-",
                  err.field, err.msg);
    json_decref(config);
}

static void check_good(const char *key, const char *value)
{
    json_t *config = llama_config();
    tn_err err;

    set(config, key, value);
    ck_assert_ok(emit(config, &err), &err);
    json_decref(config);
}

START_TEST(required_sizes_out_of_range_are_refused)
{
    static const char *const keys[] = {"vocab_size", "hidden_size", "num_hidden_layers",
                                       "num_attention_heads", "intermediate_size"};
    static const char *const bad[] = {NULL,    "null",  "0",    "-1",  "1.5",
                                      "1e300", "\"8\"", "true", "[8]", "9223372036854775807"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
            check_bad(keys[i], bad[k], keys[i]);
    check_bad("num_hidden_layers", "1000000000", "num_hidden_layers");
    check_bad("num_hidden_layers", "1001", "num_hidden_layers");
    check_bad("vocab_size", "16777217", "vocab_size");
}
END_TEST

START_TEST(heads_that_do_not_fit_are_refused)
{
    check_bad("num_attention_heads", "3", "num_attention_heads");
    check_bad("num_attention_heads", "16", "num_attention_heads");
    check_bad("num_key_value_heads", "0", "num_key_value_heads");
    check_bad("num_key_value_heads", "3", "num_key_value_heads");
    check_bad("num_key_value_heads", "-2", "num_key_value_heads");
    check_bad("head_dim", "3", "head_dim");
    check_bad("head_dim", "1", "head_dim");
    check_bad("head_dim", "0", "head_dim");
    check_bad("head_dim", "8193", "head_dim");
    check_bad("head_dim", "\"64\"", "head_dim");
    check_good("head_dim", "6");
    check_good("head_dim", "null");
    check_good("num_key_value_heads", NULL);
    check_good("num_attention_heads", "2.0"); /* some exporters write every number as a real */
}
END_TEST

START_TEST(other_fields_out_of_range_are_refused)
{
    check_bad("rms_norm_eps", "-1e-5", "rms_norm_eps");
    check_bad("rms_norm_eps", "2", "rms_norm_eps");
    check_bad("rms_norm_eps", "\"1e-5\"", "rms_norm_eps");
    check_bad("hidden_act", "\"swiglu9\"", "hidden_act");
    check_bad("hidden_act", "7", "hidden_act");
    check_bad("max_position_embeddings", "0", "max_position_embeddings");
    check_bad("max_position_embeddings", "1e12", "max_position_embeddings");
    check_bad("tie_word_embeddings", "\"yes\"", "tie_word_embeddings");
    check_bad("attention_bias", "1", "attention_bias");
    check_bad("mlp_bias", "[]", "mlp_bias");
    check_bad("pretraining_tp", "0", "pretraining_tp");
    check_good("rms_norm_eps", NULL);
    check_good("hidden_act", "\"gelu_pytorch_tanh\"");
    check_good("max_position_embeddings", NULL);
}
END_TEST

START_TEST(rope_fields_out_of_range_are_refused)
{
    check_bad("rope_theta", "-1", "rope_theta");
    check_bad("rope_theta", "0", "rope_theta");
    check_bad("rope_theta", "\"NaN\"", "rope_theta");
    check_bad("rope_theta", "1e300", "rope_theta");
    check_bad("rope_parameters", "{\"rope_theta\":-5}", "rope_theta");
    check_bad("rope_parameters", "7", "rope_parameters");
    check_bad("rope_scaling", "\"linear\"", "rope_scaling");
    check_bad("rope_scaling", "[{\"type\":\"linear\",\"factor\":2}]", "rope_scaling");
    check_bad("rope_scaling", "{\"type\":\"su\",\"factor\":2}", "rope_scaling");
    check_bad("rope_scaling", "{\"type\":7,\"factor\":2}", "rope_scaling");
    check_bad("rope_scaling", "{\"type\":\"linear\"}", "factor");
    check_bad("rope_scaling", "{\"type\":\"linear\",\"factor\":0.5}", "factor");
    check_bad("rope_scaling", "{\"type\":\"linear\",\"factor\":\"2\"}", "factor");
    check_bad("rope_scaling", "{\"type\":\"dynamic\",\"factor\":null}", "factor");
    check_bad("rope_scaling", "{\"type\":\"llama3\",\"factor\":8}", "low_freq_factor");
    check_bad("rope_scaling",
              "{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
              "rope_scaling");
    check_bad("rope_scaling",
              "{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":0,\"high_freq_factor\":4}",
              "low_freq_factor");
    check_bad("rope_scaling", "{\"type\":\"yarn\",\"factor\":-4}", "factor");
    check_bad("rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"truncate\":\"no\"}", "truncate");
    check_bad("rope_scaling",
              "{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}",
              "original_max_position_embeddings");
    check_bad("partial_rotary_factor", "0.5", "partial_rotary_factor");
    check_bad("rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}",
              "rope_parameters.partial_rotary_factor");
    check_good("partial_rotary_factor", "1.0");
}
END_TEST

/* log(1) is 0, and yarn divides by it. */
START_TEST(base_of_one_makes_no_frequencies_of_nothing)
{
    json_t *config = llama_config();
    tn_err err;

    set(config, "rope_theta", "1");
    set(config, "rope_scaling", "{\"type\":\"yarn\",\"factor\":4}");
    ck_assert_int_eq(emit(config, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "rope_theta");
    json_decref(config);
}
END_TEST

START_TEST(dynamic_scaling_needs_four_dimensions)
{
    json_t *config = llama_config();
    tn_err err;

    set(config, "head_dim", "2"); /* the exponent is d / (d - 2) */
    ck_assert_ok(emit(config, &err), &err);
    set(config, "rope_scaling", "{\"type\":\"dynamic\",\"factor\":4}");
    ck_assert_int_eq(emit(config, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "head_dim");
    json_decref(config);
}
END_TEST

/* -- The plan --------------------------------------------------------------------------------------------- */

static const struct plan_op *find_op(const struct plan *p, const char *name)
{
    for (size_t i = 0; i < p->n_ops; i++)
        if (strcmp(p->ops[i].name, name) == 0)
            return &p->ops[i];
    return NULL;
}

START_TEST(plan_has_the_shape_of_the_config)
{
    json_t *config = llama_config();
    struct emission e;
    tn_err err;

    ck_assert_ok(llama_emit(config, NULL, &e, &err), &err);
    ck_assert_int_eq(plan_hyper_int(e.plan, TN_HP_VOCAB, 0), 16);
    ck_assert_int_eq(plan_hyper_int(e.plan, TN_HP_LAYERS, 0), 2);
    ck_assert_int_eq(plan_hyper_int(e.plan, TN_HP_MAX_POSITIONS, 0), 64);
    ck_assert_uint_eq(plan_kv_layers(e.plan, NULL, 0), 2);
    ck_assert_uint_eq(e.plan->n_weights, 1 + 1 + 2 * 9 + 2);
    ck_assert_uint_eq(e.plan->n_ops, 2 + 2 * 19 + 4);
    ck_assert_double_eq_tol(plan_attr(find_op(e.plan, TN_OP_ATTENTION), "scale")->f, 0.5, 1e-12);
    ck_assert_str_eq(e.plan->ops[e.plan->n_ops - 1].name, TN_OP_SAMPLE);
    emission_release(&e);
    json_decref(config);
}
END_TEST

/* Tensor parallelism: what the head computes are this rank's columns, what it gathers are all of them. */
START_TEST(logits_are_shared_like_their_matrix)
{
    json_t *config = llama_config();
    struct emission e;
    tn_err err;

    ck_assert_ok(llama_emit(config, NULL, &e, &err), &err);
    const struct plan_op *logits = find_op(e.plan, TN_OP_LOGITS);
    const struct plan_op *gather = find_op(e.plan, TN_OP_ALL_GATHER);
    ck_assert_uint_eq(e.plan->weights[logits->weights[0]].shard, TN_SHARD_AXIS0);
    ck_assert_uint_eq(e.plan->values[logits->out[0]].shard_units, 16);
    ck_assert_uint_eq(e.plan->values[gather->out[0]].shard_units, 0);
    emission_release(&e);
    json_decref(config);
}
END_TEST

START_TEST(plan_can_be_cut_for_several_ranks)
{
    json_t *config = llama_config();
    struct emission e;
    tn_err err;

    set(config, "attention_bias", "true");
    set(config, "mlp_bias", "true");
    ck_assert_ok(llama_emit(config, NULL, &e, &err), &err);
    for (uint32_t rank = 0; rank < 2; rank++) {
        struct topology t = {rank, 2, 0, 1};
        struct graph *g = NULL;
        ck_assert_ok(graph_new(e.plan, &t, TN_DT_F32, &g, &err), &err);
        graph_free(g);
    }
    emission_release(&e);
    json_decref(config);
}
END_TEST

START_TEST(both_spellings_give_the_same_plan)
{
    static const char *const scalings[] = {
        "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":16,\"rope_type\":\"llama3\"",
        "\"factor\":2.0,\"rope_type\":\"linear\"", "\"factor\":2.0,\"rope_type\":\"dynamic\""};

    for (size_t i = 0; i < sizeof scalings / sizeof *scalings; i++) {
        json_t *old = llama_config(), *new = llama_config(), *a = NULL, *b = NULL;
        struct emission x, y;
        char text[512];
        tn_err err;
        set(old, "rope_theta", "500000.0");
        snprintf(text, sizeof text, "{%s}", scalings[i]);
        set(old, "rope_scaling", text);
        set(new, "torch_dtype", NULL);
        set(new, "dtype", "\"bfloat16\"");
        snprintf(text, sizeof text, "{%s,\"rope_theta\":500000.0}", scalings[i]);
        set(new, "rope_parameters", text);
        ck_assert_ok(llama_emit(old, NULL, &x, &err), &err);
        ck_assert_ok(llama_emit(new, NULL, &y, &err), &err);
        ck_assert_ok(plan_to_json(x.plan, &a, &err), &err);
        ck_assert_ok(plan_to_json(y.plan, &b, &err), &err);
        ck_assert(json_equal(a, b));
        ck_assert_mem_eq(x.origins[0].table, y.origins[0].table, 2 * sizeof(float));
        json_decref(a);
        json_decref(b);
        json_decref(old);
        json_decref(new);
        emission_release(&x);
        emission_release(&y);
    }
}
END_TEST

/* -- The checkpoint ------------------------------------------------------------------------------------------ */

/* Emits the plan for a checkpoint with that tweak and checks that nothing is left over. */
static int32_t emit_from(const struct llama_tweak *t, const json_t *config, tn_err *err)
{
    struct checkpoint *c = NULL;
    struct emission e = {0};
    int32_t rc;

    *err = (tn_err)TN_ERR_INIT;
    llama_checkpoint(dir, t);
    ck_assert_ok(checkpoint_open(dir, &c, err), err);
    rc = llama_emit(config, c, &e, err);
    if (rc == TN_OK)
        rc = emission_check_unused(&e, c, NULL, err);
    emission_release(&e);
    checkpoint_close(c);
    return rc;
}

static void check_tensor(const struct llama_tweak *t, const char *field, const char *text)
{
    json_t *config = llama_config();
    tn_err err;

    ck_assert_msg(emit_from(t, config, &err) == TN_E_FORMAT, "%s: %d: %s", field, err.code,
                  err.msg);
    ck_assert_str_eq(err.field, field);
    ck_assert_err_has(&err, text);
    json_decref(config);
}

START_TEST(matching_checkpoint_is_accepted)
{
    json_t *config = llama_config();
    struct llama_tweak t = {0};
    tn_err err;

    ck_assert_ok(emit_from(&t, config, &err), &err);
    t.bias = true;
    set(config, "attention_bias", "true");
    ck_assert_ok(emit_from(&t, config, &err), &err);
    json_decref(config);
}
END_TEST

START_TEST(missing_tensor_is_named)
{
    static const char *const names[] = {"model.embed_tokens.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.layers.1.self_attn.k_proj.weight",
                                        "model.layers.1.mlp.down_proj.weight",
                                        "model.norm.weight",
                                        "lm_head.weight"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_tensor(&(struct llama_tweak){.omit = names[i]}, names[i], "lacks this tensor");
}
END_TEST

START_TEST(tensor_of_another_shape_is_named)
{
    static const char *const names[] = {
        "model.embed_tokens.weight", /* vocab_size against its rows */
        "model.layers.0.self_attn.q_proj.weight", "model.layers.1.post_attention_layernorm.weight",
        "lm_head.weight"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_tensor(&(struct llama_tweak){.resize = names[i]}, names[i], "rows");
    check_tensor(&(struct llama_tweak){.flatten = names[1]}, names[1], "dimensions");
}
END_TEST

START_TEST(width_of_another_model_is_named)
{
    json_t *config = llama_config();
    tn_err err;

    set(config, "intermediate_size", "13");
    ck_assert_int_eq(emit_from(&(struct llama_tweak){0}, config, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "model.layers.0.mlp.gate_proj.weight");
    set(config, "intermediate_size", "12");
    set(config, "hidden_size", "16");
    ck_assert_int_eq(emit_from(&(struct llama_tweak){0}, config, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "model.embed_tokens.weight");
    ck_assert_err_has(&err, "dimension 1 is 8");
    json_decref(config);
}
END_TEST

START_TEST(tensor_that_nothing_uses_is_named)
{
    json_t *config = llama_config();
    tn_err err;

    check_tensor(&(struct llama_tweak){.extra = "model.layers.2.mlp.up_proj.weight"},
                 "model.layers.2.mlp.up_proj.weight", "knows no use");
    check_tensor(&(struct llama_tweak){.bias = true}, "model.layers.0.self_attn.q_proj.bias",
                 "knows no use");
    ck_assert_ok(emit_from(&(struct llama_tweak){.extra = "model.layers.0.self_attn.rotary_emb."
                                                          "inv_freq"},
                           config, &err),
                 &err);
    json_decref(config);
}
END_TEST

START_TEST(tied_embeddings_work_with_and_without_the_copy)
{
    json_t *config = llama_config();
    struct llama_tweak with = {0}, without = {.no_head = true};
    tn_err err;

    check_tensor(&without, "lm_head.weight", "lacks this tensor"); /* not tied: needed */
    set(config, "tie_word_embeddings", "true");
    ck_assert_ok(emit_from(&with, config, &err), &err);
    ck_assert_ok(emit_from(&without, config, &err), &err);
    json_decref(config);
}
END_TEST

/* -- A plugin with bugs --------------------------------------------------------------------------------------- */

static int (*misbehave)(const tn_plan_api *api, tn_plan_builder *b, tn_err *err);

static int32_t buggy_build(void *instance, const tn_config_api *capi, const tn_config *config,
                           const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    (void)instance;
    (void)capi;
    (void)config;
    return misbehave(papi, builder, err);
}

static void check_buggy(int (*fn)(const tn_plan_api *, tn_plan_builder *, tn_err *), int32_t code,
                        const char *text)
{
    static const tn_model_arch arch = {.h = TN_HDR(tn_model_arch), .build = buggy_build};
    struct emit_input in = {
        .arch = &arch, .plugin = "buggy", .config_path = "c", .dtype = TN_DT_F32};
    struct checkpoint *c = NULL;
    struct emission e = {0};
    tn_err err = TN_ERR_INIT;

    llama_checkpoint(dir, &(struct llama_tweak){0});
    ck_assert_ok(checkpoint_open(dir, &c, &err), &err);
    in.checkpoint = c;
    misbehave = fn;
    ck_assert_int_eq(emit_plan(&in, &e, &err), code);
    ck_assert_str_eq(err.plugin, "buggy");
    ck_assert_err_has(&err, text);
    checkpoint_close(c);
}

static int emits_nothing(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    (void)api;
    (void)b;
    (void)err;
    return TN_OK;
}

static int passes_not_found(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    (void)api;
    (void)b;
    (void)err;
    return TN_E_NOTFOUND;
}

static int declares(const tn_plan_api *api, tn_plan_builder *b, uint32_t role, uint32_t n_sources,
                    uint64_t row_begin, uint64_t row_end, tn_err *err)
{
    const tn_weight_source s = {.h = TN_HDR(tn_weight_source),
                                .tensor = "model.embed_tokens.weight",
                                .row_begin = row_begin,
                                .row_end = row_end};
    tn_weight_decl d = {.h = TN_HDR(tn_weight_decl),
                        .name = "w",
                        .role = role,
                        .n_dims = 2,
                        .dims = {16, 8},
                        .n_sources = n_sources,
                        .sources = &s};
    uint32_t id;

    return api->weight(b, &d, &id, err);
}

static int weight_from_nowhere(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    return declares(api, b, TN_ROLE_MATRIX, 0, 0, 0, err);
}

static int table_without_values(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    return declares(api, b, TN_ROLE_TABLE, 0, 0, 0, err);
}

static int rows_beyond_the_end(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    return declares(api, b, TN_ROLE_MATRIX, 1, 4, 20, err);
}

static int rows_backwards(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    return declares(api, b, TN_ROLE_MATRIX, 1, 8, 4, err);
}

static int too_few_rows(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    return declares(api, b, TN_ROLE_MATRIX, 1, 0, 15, err);
}

static int too_many_outputs(const tn_plan_api *api, tn_plan_builder *b, tn_err *err)
{
    tn_op_decl d = {.h = TN_HDR(tn_op_decl), .name = "acme.x", .n_out = TN_OP_MAX_VALUES + 1};

    return api->op(b, &d, NULL, err);
}

START_TEST(plugin_bugs_are_reported_with_its_name)
{
    check_buggy(emits_nothing, TN_E_FORMAT, "vocab_size");
    check_buggy(passes_not_found, TN_E_INTERNAL, "not found");
    check_buggy(weight_from_nowhere, TN_E_INVALID, "source");
    check_buggy(table_without_values, TN_E_INVALID, "table without values");
    check_buggy(rows_beyond_the_end, TN_E_FORMAT, "16 rows");
    check_buggy(rows_backwards, TN_E_FORMAT, "16 rows");
    check_buggy(too_few_rows, TN_E_FORMAT, "15 rows");
    check_buggy(too_many_outputs, TN_E_LIMIT, "more than 12");
}
END_TEST

START_TEST(emitting_survives_memory_running_out)
{
    json_t *config = llama_config();
    struct checkpoint *c = NULL;
    struct emission e;
    int32_t rc = TN_E_NOMEM;
    tn_err err = TN_ERR_INIT;

    llama_checkpoint(dir, &(struct llama_tweak){0});
    ck_assert_ok(checkpoint_open(dir, &c, &err), &err);
    for (uint64_t n = 1; rc != TN_OK; n++) {
        mem_fail_nth(n, false);
        rc = llama_emit(config, c, &e, &err);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
    }
    mem_fail_nth(0, false);
    emission_release(&e);
    checkpoint_close(c);
    json_decref(config);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_emit");
    TCase *t = tcase_create("config"), *p = tcase_create("checkpoint");

    tcase_add_test(t, required_sizes_out_of_range_are_refused);
    tcase_add_test(t, heads_that_do_not_fit_are_refused);
    tcase_add_test(t, other_fields_out_of_range_are_refused);
    tcase_add_test(t, rope_fields_out_of_range_are_refused);
    tcase_add_test(t, base_of_one_makes_no_frequencies_of_nothing);
    tcase_add_test(t, dynamic_scaling_needs_four_dimensions);
    tcase_add_test(t, plan_has_the_shape_of_the_config);
    tcase_add_test(t, logits_are_shared_like_their_matrix);
    tcase_add_test(t, plan_can_be_cut_for_several_ranks);
    tcase_add_test(t, both_spellings_give_the_same_plan);
    tcase_add_checked_fixture(p, make_dir, remove_dir);
    tcase_add_test(p, matching_checkpoint_is_accepted);
    tcase_add_test(p, missing_tensor_is_named);
    tcase_add_test(p, tensor_of_another_shape_is_named);
    tcase_add_test(p, width_of_another_model_is_named);
    tcase_add_test(p, tensor_that_nothing_uses_is_named);
    tcase_add_test(p, tied_embeddings_work_with_and_without_the_copy);
    tcase_add_test(p, plugin_bugs_are_reported_with_its_name);
    tcase_add_test(p, emitting_survives_memory_running_out);
    suite_add_tcase(s, t);
    suite_add_tcase(s, p);
    return run_suite(s);
}
