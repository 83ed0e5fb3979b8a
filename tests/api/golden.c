/* SPDX-License-Identifier: Apache-2.0 */
#include "api/golden.h"

#include <jansson.h>
#include <math.h>

#include "api/tools.h"
#include "base/file.h"
#include "base/mem.h"
#include "build/safetensors.h"
#include "check_util.h"

const char *const golden_models[] = {
    "llama-gqa", "llama-mha-tied", "llama-bias", "rope-linear",  "rope-dynamic", "rope-llama3",
    "rope-yarn", "odd-widths",     "head-256",   "sharded-tied", "biases-gelu",  "mistral-swa",
    "qwen2",     "qwen3",          "gemma2",     "mixtral",      "gpt2",         NULL};

/* Whole rows are quantized on one rank, parts of them on several, each with a scale of its own: finer, and so not the same. */
const struct scheme golden_schemes[] = {{"fp8", {NULL, NULL}, true},
                                        {"int4_g128", {"group", "16"}, true},
                                        {"int8_sq", {NULL, NULL}, false}};

/* -- Reading ---------------------------------------------------------------------------------------------- */

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

void golden_read(const char *model, struct golden *g)
{
    char path[300];
    struct file_reader f;
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    uint64_t d[2];

    snprintf(g->model, sizeof g->model, "%s", model);
    snprintf(g->path, sizeof g->path, SOURCE_DIR "/tests/models/%s", model);
    snprintf(path, sizeof path, "%s/golden.safetensors", g->path);
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

void golden_release(struct golden *g)
{
    mem_free(g->ids);
    mem_free(g->logits);
    mem_free(g->greedy);
    mem_free(g->margin);
}

static int number_of(const json_t *config, const char *name, const char *gpt2)
{
    const json_t *v = json_object_get(config, name);

    return (int)json_integer_value(v ? v : json_object_get(config, gpt2));
}

bool golden_divides(const struct golden *g, const struct layout *l)
{
    char config[300];
    json_t *root;
    int heads, layers, tp = atoi(l->tp), pp = atoi(l->pp);

    snprintf(config, sizeof config, "%s/config.json", g->path);
    root = json_load_file(config, 0, NULL);
    ck_assert_ptr_nonnull(root);
    heads = number_of(root, "num_attention_heads", "n_head");
    layers = number_of(root, "num_hidden_layers", "n_layer");
    json_decref(root);
    ck_assert(heads > 0 && layers > 0);
    return heads % tp == 0 && pp <= layers;
}

/* -- Comparing -------------------------------------------------------------------------------------------- */

static void keep_logits(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    memcpy((float *)arg + (size_t)first * vocab, logits, (size_t)n * vocab * sizeof *logits);
}

float *golden_logits(tn_runtime *rt, const struct golden *g)
{
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    size_t n = (size_t)g->n_ids * g->vocab;
    float *logits = mem_zarray(n, sizeof *logits);
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;
    tn_request *req = NULL;

    for (size_t i = 0; i < n; i++)
        logits[i] = NAN; /* a row that never comes is seen */
    p.prompt = g->ids;
    p.n_prompt = g->n_ids;
    p.max_new_tokens = 0;
    p.on_logits = keep_logits;
    p.arg = logits;
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    do
        ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
    while (ev.kind != TN_EVENT_FINISHED);
    ck_assert_msg(ev.finish == TN_FINISH_LENGTH, "finish %u: %s", ev.finish, ev.message);
    tn_release(req);
    return logits;
}

float golden_worst(const struct golden *g, const float *a, const float *b)
{
    float worst = 0;

    for (size_t i = 0; i < (size_t)g->n_ids * g->vocab; i++)
        if (!(fabsf(a[i] - b[i]) <= worst))
            worst = fabsf(a[i] - b[i]);
    return worst;
}

double golden_distance(const struct golden *g, const float *a, const float *b)
{
    size_t n = (size_t)g->n_ids * g->vocab;
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
    return sqrt(sum / (double)n);
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
        ck_assert_msg(g->margin[i] <= GOLDEN_MARGIN, "%s: token %u is %d, golden %d, margin %g",
                      what, i, ev.token, g->greedy[n_prompt + i], g->margin[i]);
        break; /* a near tie went the other way: what follows is another text */
    }
    tn_release(req);
}

void golden_check(tn_runtime *rt, const struct golden *g, const char *what)
{
    float *logits = golden_logits(rt, g), worst = golden_worst(g, logits, g->logits);

    ck_assert_msg(worst <= GOLDEN_TOLERANCE, "%s: logits differ by %g", what, worst);
    mem_free(logits);
    check_greedy(rt, g, what);
}

/* -- Quantized engines ------------------------------------------------------------------------------------ */

void golden_quantize(const struct golden *g, const struct scheme *s, const char *engine)
{
    const uint64_t begin[] = {0, g->n_ids};
    const struct tool_tokens calib = {g->ids, begin, 1, NULL};
    const tn_kv alone = {"parallel.comm", "local"}; /* also where a launcher has started several */
    const struct tool_build b = {.conf = {NULL, &alone, 1},
                                 .model = g->path,
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

void golden_agree(const struct golden *g, const struct scheme *s, const struct layout *l,
                  const char *kv, const float *one, const float *many)
{
    bool plain = strcmp(kv, "auto") == 0, same = s->exact || strcmp(l->tp, "1") == 0;
    double error = golden_distance(g, one, g->logits), apart = golden_distance(g, many, one);
    double off = golden_distance(g, many, g->logits);
    /* With a cache of 8 bits the order of sums can move a value to the next step of it, and a router to another expert; CPU
     * kernels of int4 round rows to 16 bits, which the order of sums can move, too. */
    double most = !same ? 1.5 * error : plain ? 1e-3 : 0.3 * error;

    ck_assert(error > 1e-3 && error < 2.0);
    ck_assert_msg(apart <= most && off <= 1.5 * error,
                  "%s %s, tp %s, pp %s, cache %s: %g apart, %g off, one rank %g", g->model, s->name,
                  l->tp, l->pp, kv, apart, off, error);
}
