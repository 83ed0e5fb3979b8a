/* SPDX-License-Identifier: Apache-2.0 */
/* Goldens made with transformers (tests/models/make_goldens.py): logits and greedy ids of every architecture and every LLaMA
 * feature, from the checkpoint through the engine, with each kernel set, on one rank and several. */
#include "api/engines.h"
#include "api/golden.h"
#include "base/file.h"
#include "base/mem.h"
#include "check_util.h"

static const char *sets[] = {"reference", "cpu,reference"};
static const char *device =
    "cpu"; /* TENON_TEST_DEVICE and TENON_TEST_SETS name another, for machines that have it */

static char dir[64], engine[128];

static const struct layout one_rank = {"1", "1", "0"};

static void setup(void)
{
    temp_dir(dir, sizeof dir);
    snprintf(engine, sizeof engine, "%s/engine", dir);
}

static void teardown(void)
{
    dir_remove(dir, NULL);
}

/* Who joins ranks: TENON_TEST_COMM. */
static const char *comm = "auto";

/* parallel.fusion */
static const char *fusion = "true";

static int32_t open_with(const struct layout *l, const char *kernels, const char *max_tokens,
                         const char *kv, tn_runtime **rt, tn_err *err)
{
    tn_kv settings[] = {{"device.kind", device},
                        {"kernels.sets", kernels},
                        {"kernels.tune", "false"}, /* what is chosen shall not hang on the hour */
                        {"scheduler.max_num_tokens", max_tokens},
                        {"parallel.tp_size", l->tp},
                        {"parallel.pp_size", l->pp},
                        {"parallel.micro_batches", l->parts},
                        {"parallel.comm", comm},
                        {"parallel.fusion", fusion},
                        {"kv.dtype", kv}};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;

    o.engine = engine;
    o.settings = settings;
    o.n_settings = sizeof settings / sizeof *settings;
    return tn_open(&o, rt, err);
}

static void check_model(const char *model, const char *dtype, const char *kernels,
                        const char *max_tokens, const struct layout *layout)
{
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;
    struct golden g;
    char what[128];

    snprintf(what, sizeof what, "%s with %s, tp %s, pp %s", model, kernels, layout->tp, layout->pp);
    golden_read(model, &g);
    build_engine_of(g.path, dir, dtype);
    if (!golden_divides(&g, layout)) {
        ck_assert_int_eq(open_with(layout, kernels, max_tokens, "auto", &rt, &err), TN_E_CONFIG);
        golden_release(&g);
        return;
    }
    ck_assert_ok(open_with(layout, kernels, max_tokens, "auto", &rt, &err), &err);
    golden_check(rt, &g, what);
    tn_close(rt);
    golden_release(&g);
}

START_TEST(goldens_hold)
{
    check_model(golden_models[_i % GOLDEN_MODELS], "float32", sets[_i / GOLDEN_MODELS], "2048",
                &one_rank);
}
END_TEST

/* As a user gets it who asks for nothing: weights as stored, the cache as precise as the arithmetic. */
START_TEST(goldens_hold_by_default)
{
    check_model(golden_models[_i], "auto", sets[1], "2048", &one_rank);
}
END_TEST

/* The same with prompts cut into chunks of one or two pages. */
START_TEST(goldens_hold_with_chunked_prefill)
{
    check_model(golden_models[_i], "float32", sets[1], "64", &one_rank);
}
END_TEST

/* One engine, any number of ranks. The last two cut every step into more parts than there are stages. */
START_TEST(goldens_hold_on_many_ranks)
{
    static const struct layout layouts[] = {
        {"2", "1", "0"}, {"4", "1", "0"}, {"1", "2", "0"}, {"1", "3", "5"}, {"2", "2", "4"}};

    check_model(golden_models[_i % GOLDEN_MODELS], "float32", sets[_i % 2], _i % 3 ? "2048" : "64",
                &layouts[_i / GOLDEN_MODELS]);
}
END_TEST

/* Whether kernels finish the sums over ranks or not, not a bit differs. */
START_TEST(fused_sums_over_ranks_have_the_same_bits)
{
    static const struct layout layouts[] = {
        {"2", "1", "0"}, {"4", "1", "0"}, {"2", "2", "3"}, {"2", "3", "0"}};
    const struct layout *l = &layouts[_i / GOLDEN_MODELS];
    float *logits[2];
    struct golden g;

    golden_read(golden_models[_i % GOLDEN_MODELS], &g);
    build_engine_of(g.path, dir, "float32");
    for (int i = 0; i < 2 && golden_divides(&g, l); i++) {
        tn_err err = TN_ERR_INIT;
        tn_runtime *rt = NULL;
        fusion = i ? "false" : "true";
        ck_assert_ok(open_with(l, sets[1], "2048", "auto", &rt, &err), &err);
        logits[i] = golden_logits(rt, &g);
        tn_close(rt);
    }
    if (golden_divides(&g, l)) {
        ck_assert_msg(memcmp(logits[0], logits[1], sizeof(float) * g.n_ids * g.vocab) == 0,
                      "%s, tp %s, pp %s", g.model, l->tp, l->pp);
        mem_free(logits[0]);
        mem_free(logits[1]);
    }
    golden_release(&g);
}
END_TEST

/* Scales, groups and zeros follow the matrices that ranks share out, ranges of the cache its heads. */
START_TEST(quantized_engines_agree_with_one_rank)
{
    static const char *const which[] = {"llama-gqa", "qwen3", "mixtral", "gpt2"};
    static const struct layout layouts[] = {
        {"1", "1", "0"}, {"2", "1", "0"}, {"1", "2", "0"}, {"2", "2", "3"}};
    const struct scheme *s = &golden_schemes[_i % 3];
    const char *kv = _i / 12 == 0 ? "auto" : _i % 2 ? "fp8" : "int8";
    float *one = NULL;
    struct golden g;

    golden_read(which[_i / 3 % 4], &g);
    golden_quantize(&g, s, engine);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        tn_err err = TN_ERR_INIT;
        tn_runtime *rt = NULL;
        float *logits;
        ck_assert_ok(open_with(&layouts[i], sets[1], "2048", kv, &rt, &err), &err);
        logits = golden_logits(rt, &g);
        tn_close(rt);
        if (one) {
            golden_agree(&g, s, &layouts[i], kv, one, logits);
            mem_free(logits);
        } else {
            one = logits;
        }
    }
    mem_free(one);
    golden_release(&g);
}
END_TEST

/* Cases one by one, so that processes can share them. */
static void add_loop(TCase *t, const TTest *test, int n)
{
    for (int i = 0; i < n; i++)
        if (test_turn())
            tcase_add_loop_test(t, test, i, i + 1);
}

int main(void)
{
    Suite *s = suite_create("goldens");
    const char *there = getenv("TENON_TEST_SETS");

    if (getenv("TENON_TEST_DEVICE"))
        device = getenv("TENON_TEST_DEVICE");
    if (there)
        sets[0] = sets[1] = there;
    TCase *t = tcase_create("goldens");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    add_loop(t, goldens_hold, 2 * GOLDEN_MODELS);
    if (strcmp(device, "cpu") == 0) /* a GPU computes in 16 bits by default */
        add_loop(t, goldens_hold_by_default, GOLDEN_MODELS);
    add_loop(t, goldens_hold_with_chunked_prefill, GOLDEN_MODELS);
    suite_add_tcase(s, t);
    if (getenv("TENON_TEST_COMM"))
        comm = getenv("TENON_TEST_COMM");
    t = tcase_create("ranks");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    add_loop(t, goldens_hold_on_many_ranks, 5 * GOLDEN_MODELS);
    if (strcmp(device, "cpu") == 0)
        add_loop(t, fused_sums_over_ranks_have_the_same_bits, 4 * GOLDEN_MODELS);
    if (strcmp(device, "cpu") == 0)
        add_loop(t, quantized_engines_agree_with_one_rank, 24);
    suite_add_tcase(s, t);
    return run_suite(s);
}
