/* SPDX-License-Identifier: Apache-2.0 */
/* Runtimes of several ranks that fail, by faults of the comm plugin local: whoever waits gets a typed error that names the rank,
 * within the deadline and a little; the runtime says that it is over, and closes. And what ranks move, against theory. */
#include "api/engines.h"
#include "api/tools.h"
#include "base/clock.h"
#include "base/file.h"
#include "check_util.h"
#include "tenon.h"

static char dir[64], engine[128];

static void setup(void)
{
    temp_dir(dir, sizeof dir);
    build_engine_of(SOURCE_DIR "/tests/models/llama-gqa", dir, "float32");
    snprintf(engine, sizeof engine, "%s/engine", dir);
}

static void teardown(void)
{
    dir_remove(dir, NULL);
}

static tn_runtime *open_with(const tn_kv *settings, uint32_t n)
{
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;

    o.engine = engine;
    o.settings = settings;
    o.n_settings = n;
    ck_assert_ok(tn_open(&o, &rt, &err), &err);
    return rt;
}

static tn_request *submit(tn_runtime *rt, uint32_t max_new)
{
    static const int32_t prompt[] = {5, 6, 7, 8, 9};
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_request *r = NULL;

    p.prompt = prompt;
    p.n_prompt = 5;
    p.max_new_tokens = max_new;
    p.ignore_eos = 1;
    ck_assert_ok(tn_submit(rt, &p, &r, &err), &err);
    return r;
}

static tn_event finish(tn_request *r)
{
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;

    do
        ck_assert_ok(tn_next_event(r, 60000, &ev, &err), &err);
    while (ev.kind != TN_EVENT_FINISHED);
    return ev;
}

struct failure {
    const char *kind, *rank, *call, *ms, *tp, *pp, *named;
};

static const struct failure failures[] = {
    {"stall", "1", "all_reduce", "0", "2", "1", "rank 1"},
    {"stall", "3", "all_gather", "0", "4", "1", "rank 3"},
    {"stall", "1", "send", "0", "1", "2", "rank 1"}, /* the first stage is the last rank */
    {"stall", "0", "recv", "0", "1", "2", "rank 0"},
    {"dead", "1", "all_reduce", "0", "2", "1", "rank 1"},
    {"dead", "2", "all_reduce", "0", "2", "2", "rank 2"},
    {"drop", "1", "all_reduce", "0", "2", "1", "rank 1"},
    {"delay", "1", "all_reduce", "60000", "2", "1", "rank 1"}, /* a hundred times too slow */
};

START_TEST(a_failing_rank_is_named_and_everybody_is_told)
{
    const struct failure *f = &failures[_i];
    tn_kv settings[] = {{"parallel.tp_size", f->tp},          {"parallel.pp_size", f->pp},
                        {"parallel.step_timeout_ms", "400"},  {"plugin.local.fault", f->kind},
                        {"plugin.local.fault_rank", f->rank}, {"plugin.local.fault_call", f->call},
                        {"plugin.local.fault_ms", f->ms},     {"plugin.local.fault_at", "3"}};
    tn_runtime_stats stats = {.h = TN_HDR(tn_runtime_stats)};
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    static const int32_t prompt[] = {1};
    tn_request *r[3], *refused = NULL;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = open_with(settings, 8);
    uint64_t begin;

    tn_stats(rt, &stats);
    ck_assert_int_eq(stats.status, TN_OK);
    begin = clock_ns();
    for (int i = 0; i < 3; i++)
        r[i] = submit(rt, 50);
    for (int i = 0; i < 3; i++) {
        tn_event ev = finish(r[i]);
        ck_assert_msg(ev.finish == TN_FINISH_ERROR && ev.status == TN_E_COMM, "%u: %d: %s",
                      ev.finish, (int)ev.status, ev.message);
        ck_assert_msg(strstr(ev.message, f->named) != NULL, "%s", ev.message);
        tn_release(r[i]);
    }
    ck_assert_msg(clock_ns() - begin < 30 * NS_PER_S, "took too long");
    tn_stats(rt, &stats);
    ck_assert_int_eq(stats.status, TN_E_COMM);
    p.prompt = prompt;
    p.n_prompt = 1;
    ck_assert_int_eq(tn_submit(rt, &p, &refused, &err), TN_E_COMM);
    ck_assert_err_has(&err, f->named);
    tn_close(rt);
}
END_TEST

/* Two sums per layer, one behind the embedding, and the logits: per token and rank, and not one byte more. */
START_TEST(ranks_move_what_theory_says)
{
    enum { LAYERS = 3, HIDDEN = 128, VOCAB = 512, NEW = 20, PROMPT = 5 };
    tn_kv settings[] = {{"parallel.tp_size", "2"}};
    tn_runtime_stats stats = {.h = TN_HDR(tn_runtime_stats)};
    tn_runtime *rt = open_with(settings, 1);
    tn_request *r = submit(rt, NEW);
    uint64_t rows = PROMPT + NEW - 1, calls, bytes;

    ck_assert_uint_eq(finish(r).finish, TN_FINISH_LENGTH);
    tn_stats(rt, &stats);
    calls = NEW * (2 * LAYERS + 1 + 1);
    bytes = rows * (2 * LAYERS + 1) * HIDDEN * 4 + NEW * (VOCAB / 2) * 4;
    ck_assert_uint_eq(stats.n_steps, NEW);
    ck_assert_uint_eq(stats.comm_calls, 2 * calls);
    ck_assert_uint_eq(stats.comm_bytes, 2 * bytes);
    tn_release(r);
    tn_close(rt);
}
END_TEST

/* Layers in which rank 0 would run ops of that name, with these settings. */
static size_t layers_with(const tn_kv *settings, uint32_t n, const char *name)
{
    struct tool_conf conf = {NULL, settings, n};
    json_t *r = NULL, *op;
    tn_err err = TN_ERR_INIT;
    size_t i, count = 0;

    ck_assert_ok(tool_plugin_explain(&conf, engine, &r, &err), &err);
    json_array_foreach(json_object_get(r, "ops"), i, op)
    {
        const char *which = json_string_value(json_object_get(op, "op"));
        if (strcmp(which, name) == 0 &&
            json_integer_value(json_array_get(json_array_get(json_object_get(op, "rows"), 0), 0)) ==
                1)
            count += json_array_size(json_object_get(op, "layers"));
    }
    json_decref(r);
    return count;
}

/* Both halves of every layer end in a sum, a residual and a norm, be it the next layer's or the last of all. */
START_TEST(kernels_finish_sums_where_parts_are_shown)
{
    tn_kv settings[] = {{"parallel.tp_size", "2"},
                        {"parallel.pp_size", "1"},
                        {"parallel.fusion", "true"},
                        {"kernels.sets", "cpu,reference"}};

    ck_assert_uint_ge(layers_with(settings, 4, "reduce_add_rms_norm"), 3);
    ck_assert_uint_eq(layers_with(settings, 4, "all_reduce"), 1); /* behind the embedding */
    settings[2].value = "false";
    ck_assert_uint_eq(layers_with(settings, 4, "reduce_add_rms_norm"), 0);
    ck_assert_uint_ge(layers_with(settings, 4, "all_reduce"), 3 + 1);
    settings[2].value = "true";
    settings[0].value = "1";
    ck_assert_uint_eq(layers_with(settings, 4, "reduce_add_rms_norm"), 0);
}
END_TEST

/* A late rank that still comes in time changes nothing but the time. */
START_TEST(a_slow_rank_is_waited_for)
{
    tn_kv settings[] = {{"parallel.tp_size", "2"},        {"parallel.pp_size", "2"},
                        {"parallel.micro_batches", "3"},  {"plugin.local.fault", "delay"},
                        {"plugin.local.fault_rank", "1"}, {"plugin.local.fault_ms", "1"}};
    tn_runtime *rt = open_with(settings, 6);
    tn_request *r[4];

    for (int i = 0; i < 4; i++)
        r[i] = submit(rt, 10);
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq(finish(r[i]).finish, TN_FINISH_LENGTH);
        tn_release(r[i]);
    }
    tn_close(rt);
}
END_TEST

START_TEST(sizes_that_cannot_be_are_refused)
{
    static const tn_kv bad[][2] = {{{"parallel.tp_size", "3"}, {"parallel.pp_size", "1"}},
                                   {{"parallel.tp_size", "1"}, {"parallel.pp_size", "4"}},
                                   {{"parallel.tp_size", "2"}, {"parallel.comm", "nobody"}},
                                   {{"parallel.nnodes", "2"}, {"parallel.tp_size", "2"}}};
    static const int32_t status[] = {TN_E_CONFIG, TN_E_CONFIG, TN_E_NOTFOUND, TN_E_CONFIG};
    static const char *const text[] = {"3", "parallel.pp_size", "nobody", "parallel.key_file"};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;

    o.engine = engine;
    o.settings = bad[_i];
    o.n_settings = 2;
    ck_assert_int_eq(tn_open(&o, &rt, &err), status[_i]);
    ck_assert_err_has(&err, text[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ranks");
    TCase *t = tcase_create("ranks");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, a_failing_rank_is_named_and_everybody_is_told, 0,
                        sizeof failures / sizeof *failures);
    tcase_add_test(t, ranks_move_what_theory_says);
    tcase_add_test(t, kernels_finish_sums_where_parts_are_shown);
    tcase_add_test(t, a_slow_rank_is_waited_for);
    tcase_add_loop_test(t, sizes_that_cannot_be_are_refused, 0, 4);
    suite_add_tcase(s, t);
    return run_suite(s);
}
