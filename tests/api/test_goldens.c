/* SPDX-License-Identifier: Apache-2.0 */
/* Goldens made with transformers (tests/models/make_goldens.py): logits and greedy ids of every LLaMA feature,
 * from the checkpoint through the engine, with each kernel set. */
#include <math.h>

#include "api/engines.h"
#include "base/file.h"
#include "base/mem.h"
#include "build/safetensors.h"
#include "check_util.h"
#include "tenon.h"
#include "tenon/dtype.h"

/* What the product promises; the reference set is usually a hundred times closer. */
#define LOGITS_TOLERANCE 1e-3f
#define MARGIN 2e-3f

static const char *const models[] = {"llama-gqa",    "llama-mha-tied", "llama-bias", "rope-linear",
                                     "rope-dynamic", "rope-llama3",    "rope-yarn",  "odd-widths",
                                     "head-256",     "sharded-tied",   "biases-gelu"};
static const char *sets[] = {"reference", "cpu,reference"};
static const char *device =
    "cpu"; /* TENON_TEST_DEVICE and TENON_TEST_SETS name another, for machines that have it */

#define N_MODELS (int)(sizeof models / sizeof *models)

static char dir[64], engine[128];

static void setup(void)
{
    temp_dir(dir, sizeof dir);
    snprintf(engine, sizeof engine, "%s/engine", dir);
}

static void teardown(void)
{
    dir_remove(dir, NULL);
}

/* -- Reading a golden file ---------------------------------------------------------------------------- */

struct golden {
    int32_t *ids, *greedy;
    float *logits, *margin;
    uint32_t n_ids, n_greedy, n_margin, vocab;
};

static void *read_tensor(const struct file_reader *f, const struct st_header *h, const char *name,
                         uint64_t dims[2])
{
    const struct st_tensor *t = safetensors_find(h, name);
    tn_err err = TN_ERR_INIT;
    void *data;

    ck_assert_msg(t != NULL, "golden has no %s", name);
    data = mem_alloc((size_t)t->bytes);
    ck_assert_ok(file_reader_at(f, t->offset, data, (size_t)t->bytes, &err), &err);
    dims[0] = t->dims[0];
    dims[1] = t->dims[1];
    return data;
}

static void golden_read(const char *model, struct golden *g)
{
    char path[512];
    struct file_reader f;
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    uint64_t d[2];

    snprintf(path, sizeof path, SOURCE_DIR "/tests/models/%s/golden.safetensors", model);
    ck_assert_ok(file_reader_open(path, &f, &err), &err);
    ck_assert_ok(safetensors_read(&f, &h, &err), &err);
    g->ids = read_tensor(&f, &h, "input_ids", d);
    g->n_ids = (uint32_t)d[0];
    g->logits = read_tensor(&f, &h, "logits", d);
    g->vocab = (uint32_t)d[1];
    g->greedy = read_tensor(&f, &h, "greedy_ids", d);
    g->n_greedy = (uint32_t)d[0];
    g->margin = read_tensor(&f, &h, "greedy_margin", d);
    g->n_margin = (uint32_t)d[0];
    st_header_release(&h);
    file_reader_release(&f);
}

static void golden_release(struct golden *g)
{
    mem_free(g->ids);
    mem_free(g->logits);
    mem_free(g->greedy);
    mem_free(g->margin);
}

/* -- Comparing ------------------------------------------------------------------------------------------ */

struct compare {
    const struct golden *g;
    float worst;
    uint32_t rows;
};

static void on_logits(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    struct compare *c = arg;

    for (size_t i = 0; i < (size_t)n * vocab; i++) {
        float d = fabsf(logits[i] - c->g->logits[(size_t)first * vocab + i]);
        if (!(d <= c->worst)) /* NaN sticks */
            c->worst = d;
    }
    c->rows += n;
}

static void wait_end(tn_request *req, uint32_t finish)
{
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;

    do
        ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
    while (ev.kind != TN_EVENT_FINISHED);
    ck_assert_msg(ev.finish == finish, "finish %u: %s", ev.finish, ev.message);
    tn_release(req);
}

static void check_logits(tn_runtime *rt, const struct golden *g, const char *what)
{
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    struct compare c = {g, 0, 0};
    tn_err err = TN_ERR_INIT;
    tn_request *req = NULL;

    p.prompt = g->ids;
    p.n_prompt = g->n_ids;
    p.max_new_tokens = 0;
    p.on_logits = on_logits;
    p.arg = &c;
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    wait_end(req, TN_FINISH_LENGTH);
    ck_assert_uint_eq(c.rows, g->n_ids);
    ck_assert_msg(c.worst <= LOGITS_TOLERANCE, "%s: logits differ by %g", what, c.worst);
}

static void check_greedy(tn_runtime *rt, const struct golden *g, const char *what)
{
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    uint32_t n_prompt = g->n_greedy - g->n_margin;
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;
    tn_request *req = NULL;

    p.prompt = g->greedy;
    p.n_prompt = n_prompt;
    p.max_new_tokens = g->n_margin;
    p.ignore_eos = 1;
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    for (uint32_t i = 0; i < g->n_margin; i++) {
        ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
        ck_assert_uint_eq(ev.kind, TN_EVENT_TOKEN);
        if (ev.token == g->greedy[n_prompt + i])
            continue;
        ck_assert_msg(g->margin[i] <= MARGIN, "%s: token %u is %d, golden %d, margin %g", what, i,
                      ev.token, g->greedy[n_prompt + i], g->margin[i]);
        break; /* a near tie went the other way: what follows is another text */
    }
    tn_release(req);
}

static void check_model(const char *model, const char *dtype, const char *kernels,
                        const char *max_tokens)
{
    tn_kv settings[] = {{"device.kind", device},
                        {"kernels.sets", kernels},
                        {"scheduler.max_num_tokens", max_tokens}};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;
    struct golden g;
    char what[128], path[256];

    snprintf(what, sizeof what, "%s with %s", model, kernels);
    snprintf(path, sizeof path, SOURCE_DIR "/tests/models/%s", model);
    golden_read(model, &g);
    build_engine_of(path, dir, dtype);
    o.engine = engine;
    o.settings = settings;
    o.n_settings = 3;
    ck_assert_ok(tn_open(&o, &rt, &err), &err);
    check_logits(rt, &g, what);
    check_greedy(rt, &g, what);
    tn_close(rt);
    golden_release(&g);
}

START_TEST(goldens_hold)
{
    check_model(models[_i % N_MODELS], "float32", sets[_i / N_MODELS], "2048");
}
END_TEST

/* As a user gets it who asks for nothing: weights as stored, the cache as precise as the arithmetic. */
START_TEST(goldens_hold_by_default)
{
    check_model(models[_i], "auto", "cpu,reference", "2048");
}
END_TEST

/* The same with prompts cut into chunks of one or two pages. */
START_TEST(goldens_hold_with_chunked_prefill)
{
    check_model(models[_i], "float32", "cpu,reference", "64");
}
END_TEST

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
    tcase_add_loop_test(t, goldens_hold, 0, 2 * N_MODELS);
    tcase_add_loop_test(t, goldens_hold_by_default, 0, N_MODELS);
    tcase_add_loop_test(t, goldens_hold_with_chunked_prefill, 0, N_MODELS);
    suite_add_tcase(s, t);
    return run_suite(s);
}
