/* SPDX-License-Identifier: Apache-2.0 */
/* Goldens made with transformers (tests/models/make_goldens.py): logits and greedy ids of every architecture and every LLaMA
 * feature, from the checkpoint through the engine, with each kernel set, on one rank and several. */
#include <jansson.h>
#include <math.h>

#include "api/engines.h"
#include "api/tools.h"
#include "base/file.h"
#include "base/mem.h"
#include "build/safetensors.h"
#include "check_util.h"
#include "tenon.h"
#include "tenon/dtype.h"

/* What the product promises; the reference set is usually a hundred times closer. */
#define LOGITS_TOLERANCE 1e-3f
#define MARGIN 2e-3f

static const char *const models[] = {
    "llama-gqa", "llama-mha-tied", "llama-bias", "rope-linear",  "rope-dynamic", "rope-llama3",
    "rope-yarn", "odd-widths",     "head-256",   "sharded-tied", "biases-gelu",  "mistral-swa",
    "qwen2",     "qwen3",          "gemma2",     "mixtral",      "gpt2"};
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

/* How many ranks run a model, and in how many parts at once. */
struct layout {
    const char *tp, *pp, *parts;
};

static const struct layout one_rank = {"1", "1", "0"};

static int number_of(const json_t *config, const char *name, const char *gpt2)
{
    const json_t *v = json_object_get(config, name);

    return (int)json_integer_value(v ? v : json_object_get(config, gpt2));
}

/* Whether the model's heads and layers can be divided so; what cannot must be refused. */
static bool divides(const char *path, const struct layout *l)
{
    char config[300];
    json_t *root;
    int heads, layers, tp = atoi(l->tp), pp = atoi(l->pp);

    snprintf(config, sizeof config, "%s/config.json", path);
    root = json_load_file(config, 0, NULL);
    ck_assert_ptr_nonnull(root);
    heads = number_of(root, "num_attention_heads", "n_head");
    layers = number_of(root, "num_hidden_layers", "n_layer");
    json_decref(root);
    ck_assert(heads > 0 && layers > 0);
    return heads % tp == 0 && pp <= layers;
}

static void check_model(const char *model, const char *dtype, const char *kernels,
                        const char *max_tokens, const struct layout *layout)
{
    tn_kv settings[] = {{"device.kind", device},
                        {"kernels.sets", kernels},
                        {"scheduler.max_num_tokens", max_tokens},
                        {"parallel.tp_size", layout->tp},
                        {"parallel.pp_size", layout->pp},
                        {"parallel.micro_batches", layout->parts}};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;
    struct golden g;
    char what[128], path[256];

    snprintf(what, sizeof what, "%s with %s, tp %s, pp %s", model, kernels, layout->tp, layout->pp);
    snprintf(path, sizeof path, SOURCE_DIR "/tests/models/%s", model);
    golden_read(model, &g);
    build_engine_of(path, dir, dtype);
    o.engine = engine;
    o.settings = settings;
    o.n_settings = sizeof settings / sizeof *settings;
    if (!divides(path, layout)) {
        ck_assert_int_eq(tn_open(&o, &rt, &err), TN_E_CONFIG);
        golden_release(&g);
        return;
    }
    ck_assert_ok(tn_open(&o, &rt, &err), &err);
    check_logits(rt, &g, what);
    check_greedy(rt, &g, what);
    tn_close(rt);
    golden_release(&g);
}

START_TEST(goldens_hold)
{
    check_model(models[_i % N_MODELS], "float32", sets[_i / N_MODELS], "2048", &one_rank);
}
END_TEST

/* As a user gets it who asks for nothing: weights as stored, the cache as precise as the arithmetic. */
START_TEST(goldens_hold_by_default)
{
    check_model(models[_i], "auto", sets[1], "2048", &one_rank);
}
END_TEST

/* The same with prompts cut into chunks of one or two pages. */
START_TEST(goldens_hold_with_chunked_prefill)
{
    check_model(models[_i], "float32", sets[1], "64", &one_rank);
}
END_TEST

/* One engine, any number of ranks. The last two cut every step into more parts than there are stages. */
START_TEST(goldens_hold_on_many_ranks)
{
    static const struct layout layouts[] = {
        {"2", "1", "0"}, {"4", "1", "0"}, {"1", "2", "0"}, {"1", "3", "5"}, {"2", "2", "4"}};

    check_model(models[_i % N_MODELS], "float32", sets[_i % 2], _i % 3 ? "2048" : "64",
                &layouts[_i / N_MODELS]);
}
END_TEST

/* -- Quantized engines ------------------------------------------------------------------------------------- */

struct scheme {
    const char *name;
    tn_kv option;
    bool exact; /* activations stay as they are: ranks compute the same but for the order of sums */
};

/* Whole rows are quantized on one rank, parts of them on several, each with a scale of its own: finer, and so not the same. */
static const struct scheme schemes[] = {{"fp8", {NULL, NULL}, true},
                                        {"int4_g128", {"group", "16"}, true},
                                        {"int8_sq", {NULL, NULL}, false}};

static void build_quantized(const char *path, const struct scheme *s, const struct golden *g)
{
    const uint64_t begin[] = {0, g->n_ids};
    const struct tool_tokens calib = {g->ids, begin, 1};
    const struct tool_build b = {.model = path,
                                 .output = engine,
                                 .dtype = "float32",
                                 .quant = s->name,
                                 .calib = &calib,
                                 .quant_options = &s->option,
                                 .n_quant_options = s->option.key ? 1 : 0,
                                 .max_ppl_increase = -1,
                                 .max_kl = -1,
                                 .quiet = true};
    tn_err err = TN_ERR_INIT;
    json_t *report = NULL;

    ck_assert_ok(tool_build_engine(&b, &report, &err), &err);
    json_decref(report);
}

static void keep_logits(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    memcpy((float *)arg + (size_t)first * vocab, logits, (size_t)n * vocab * sizeof *logits);
}

static float *logits_of(const struct golden *g, const struct layout *l, const char *kv)
{
    tn_kv settings[] = {{"device.kind", "cpu"},
                        {"parallel.tp_size", l->tp},
                        {"parallel.pp_size", l->pp},
                        {"parallel.micro_batches", l->parts},
                        {"kv.dtype", kv}};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    float *logits = mem_zarray((size_t)g->n_ids * g->vocab, sizeof *logits);
    tn_err err = TN_ERR_INIT;
    tn_request *req = NULL;
    tn_runtime *rt = NULL;

    o.engine = engine;
    o.settings = settings;
    o.n_settings = sizeof settings / sizeof *settings;
    ck_assert_ok(tn_open(&o, &rt, &err), &err);
    p.prompt = g->ids;
    p.n_prompt = g->n_ids;
    p.max_new_tokens = 0;
    p.on_logits = keep_logits;
    p.arg = logits;
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    wait_end(req, TN_FINISH_LENGTH);
    tn_close(rt);
    return logits;
}

static double distance(const struct golden *g, const float *a, const float *b)
{
    size_t n = (size_t)g->n_ids * g->vocab;
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
    return sqrt(sum / (double)n);
}

/* Scales, groups and zeros follow the matrices that ranks share out, ranges of the cache its heads. */
START_TEST(quantized_engines_agree_with_one_rank)
{
    static const char *const which[] = {"llama-gqa", "qwen3", "mixtral", "gpt2"};
    static const struct layout layouts[] = {{"2", "1", "0"}, {"1", "2", "0"}, {"2", "2", "3"}};
    const struct scheme *s = &schemes[_i % 3];
    const char *model = which[_i / 3 % 4], *kv = _i / 12 == 0 ? "auto" : _i % 2 ? "fp8" : "int8";
    struct golden g;
    double error;
    float *one;
    char path[256];

    snprintf(path, sizeof path, SOURCE_DIR "/tests/models/%s", model);
    golden_read(model, &g);
    build_quantized(path, s, &g);
    one = logits_of(&g, &one_rank, kv);
    error = distance(&g, one, g.logits);
    ck_assert(error > 1e-3 && error < 2.0);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        float *many = logits_of(&g, &layouts[i], kv);
        bool same = s->exact || strcmp(layouts[i].tp, "1") == 0;
        double apart = distance(&g, many, one), off = distance(&g, many, g.logits);
        /* With a cache of 8 bits the order of sums can move a value to the next step of it. */
        ck_assert_msg(apart <= (same ? strcmp(kv, "auto") == 0 ? 1e-4 : 0.3 * error : error) &&
                          off <= 1.2 * error,
                      "%s %s, tp %s, pp %s, cache %s: %g apart, %g off, one rank %g", model,
                      s->name, layouts[i].tp, layouts[i].pp, kv, apart, off, error);
        mem_free(many);
    }
    mem_free(one);
    golden_release(&g);
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
    if (strcmp(device, "cpu") == 0) { /* ranks of one process share no other device yet */
        tcase_add_loop_test(t, goldens_hold_on_many_ranks, 0, 5 * N_MODELS);
        tcase_add_loop_test(t, quantized_engines_agree_with_one_rank, 0, 24);
    }
    suite_add_tcase(s, t);
    return run_suite(s);
}
