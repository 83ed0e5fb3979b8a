/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "api/tools.h"
#include "app.h"
#include "base/err.h"
#include "base/strbuf.h"
#include "tokens.h"

static const struct opt options[] = {
    {"model", OPT_TEXT, "DIR",
     "Hugging Face checkpoint: config.json, *.safetensors, tokenizer files", 0, 0, NULL, true},
    {"output", OPT_TEXT, "DIR", "engine directory to make; an engine that is there is replaced", 0,
     0, NULL, true},
    {"dtype", OPT_TEXT, "DTYPE",
     "of the weights: auto (as config.json says), float32, float16, bfloat16", 0, 0, NULL, false},
    {"max-batch-size", OPT_INT, "N", "most sequences in one step (64)", 1, 4096, NULL, false},
    {"max-input-len", OPT_INT, "N", "most tokens of a prompt (the model's positions)", 1, 134217728,
     NULL, false},
    {"max-output-len", OPT_INT, "N", "most tokens of an output (the model's positions)", 1,
     134217728, NULL, false},
    {"max-num-tokens", OPT_INT, "N", "most token rows in one step (2048)", 1, 65536, NULL, false},
    {"tp-size", OPT_INT, "N",
     "tensor-parallel ranks to check the model for; engines run at any size", 1, 1024, NULL, false},
    {"pp-size", OPT_INT, "N", "pipeline-parallel ranks to check the model for", 1, 1024, NULL,
     false},
    {"load-format", OPT_TEXT, "FORMAT",
     "safetensors, or dummy: random weights from config.json alone, for benchmarks", 0, 0, NULL,
     false},
    {"quant", OPT_TEXT, "SCHEME",
     "quantize linears with this scheme: int8_sq, fp8, or that of any quantization plugin", 0, 0,
     NULL, false},
    {"dequantize", OPT_FLAG, NULL,
     "widen matrices that the checkpoint has quantized (FP8, INT8, AWQ, GPTQ) instead of taking "
     "them as they are; before --quant, if that is given",
     0, 0, NULL, false},
    {"fp8-fallback", OPT_TEXT, "HOW",
     "on a device without FP8 arithmetic: keep (FP8 weights, wider arithmetic; said at every "
     "load), "
     "or float16, which builds the engine so",
     0, 0, NULL, false},
    {"kv-cache-rounding", OPT_TEXT, "HOW",
     "of a cache in fp8: feedback, or nearest, by scales alone, which is less work and loses more",
     0, 0, NULL, false},
    {"quant-option", OPT_LIST, "KEY=VALUE", "option of the scheme, e.g. alpha=search", 0, 0, NULL,
     false},
    {"calib-data", OPT_TEXT, "FILE",
     "texts to calibrate with: *.jsonl with \"text\", plain text, or ids (*.u16, *.i32)", 0, 0,
     NULL, false},
    {"calib-samples", OPT_INT, "N", "sequences taken of it at random (512)", 1, 1 << 20, NULL,
     false},
    {"calib-seq-len", OPT_INT, "N", "most tokens of each (512)", 2, 1 << 20, NULL, false},
    {"calib-seed", OPT_INT, "N", "which are taken (0)", 0, 1e15, NULL, false},
    {"calib-stats", OPT_TEXT, "FILE",
     "statistics of calibration: written with --calib-data, else read", 0, 0, NULL, false},
    {"eval-data", OPT_TEXT, "FILE",
     "texts or ids that the quantized model is compared on with the model as it is", 0, 0, NULL,
     false},
    {"eval-samples", OPT_INT, "N", "sequences taken from the start of it (64)", 1, 1 << 20, NULL,
     false},
    {"max-ppl-increase", OPT_REAL, "X",
     "perplexity may grow by this share, 0.01 for 1 %; worst linears stay as they are until it "
     "does",
     0, 1e6, NULL, false},
    {"max-kl", OPT_REAL, "X", "likewise for the mean KL divergence, in nats", 0, 1e6, NULL, false},
    {"quiet", OPT_FLAG, NULL, "no progress", 0, 0, NULL, false},
    {"json", OPT_FLAG, NULL, "print the result as JSON", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

static const char *const examples[] = {
    "tenon build --model models/docs-7m --output engines/docs-7m",
    "tenon build --model llama-7b --output engines/dummy --load-format dummy", NULL};

static int32_t check_format(const char *format, bool *dummy, tn_err *err)
{
    *dummy = format && strcmp(format, "dummy") == 0;
    if (!format || *dummy || strcmp(format, "safetensors") == 0 || strcmp(format, "auto") == 0)
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--load-format",
                  "is \"%s\"; safetensors and dummy are supported", format);
}

static int32_t check_fallback(const char *how, bool *float16, tn_err *err)
{
    *float16 = how && strcmp(how, "float16") == 0;
    if (!how || *float16 || strcmp(how, "keep") == 0)
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--fp8-fallback",
                  "is \"%s\"; keep and float16 are supported", how);
}

static int32_t check_rounding(const char *how, bool *nearest, tn_err *err)
{
    *nearest = how && strcmp(how, "nearest") == 0;
    if (!how || *nearest || strcmp(how, "feedback") == 0)
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--kv-cache-rounding",
                  "is \"%s\"; feedback and nearest are supported", how);
}

static void print_report(const char *output, const json_t *r)
{
    struct strbuf size = STRBUF_INIT;

    strbuf_put_bytes(&size, (uint64_t)json_integer_value(json_object_get(r, "engine_bytes")));
    printf("%s: %s, %s, %s, %lld weights, %.1f s\n", output,
           json_string_value(json_object_get(r, "model_type")),
           json_string_value(json_object_get(r, "dtype")), strbuf_str(&size),
           (long long)json_integer_value(json_object_get(r, "weights")),
           json_real_value(json_object_get(r, "seconds")));
    strbuf_release(&size);
}

#define MAX_QUANT_OPTIONS 32

/* Options KEY=VALUE of the scheme. The keys are copies in `keys`. */
struct quant_options {
    char keys[MAX_QUANT_OPTIONS][64];
    tn_kv items[MAX_QUANT_OPTIONS];
    uint32_t n;
};

static int32_t parse_quant_options(const struct opts *o, struct quant_options *q, tn_err *err)
{
    const char *text;

    for (q->n = 0; (text = opts_nth(o, "quant-option", q->n)) != NULL; q->n++) {
        const char *equals = strchr(text, '=');
        size_t len = equals ? (size_t)(equals - text) : 0;
        if (q->n == MAX_QUANT_OPTIONS || len == 0 || len >= sizeof q->keys[0])
            return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--quant-option",
                          "is \"%s\", but must be KEY=VALUE, at most %d times", text,
                          MAX_QUANT_OPTIONS);
        memcpy(q->keys[q->n], text, len);
        q->keys[q->n][len] = '\0';
        q->items[q->n] = (tn_kv){q->keys[q->n], equals + 1};
    }
    return TN_OK;
}

/* Sequences for calibration and for the gate. */
static int32_t read_data(const struct opts *o, struct tool_build *b, struct tokens *calib,
                         struct tokens *eval, tn_err *err)
{
    uint32_t len = (uint32_t)opts_int(o, "calib-seq-len", 512);
    struct tokens_options c = {opts_text(o, "calib-data"), b->model, len,
                               (uint32_t)opts_int(o, "calib-samples", 512), b->calib_seed};
    struct tokens_options e = {opts_text(o, "eval-data"), b->model, len, 0, 0};
    int32_t rc = c.path ? tokens_read(&c, calib, err) : TN_OK;

    if (rc == TN_OK && e.path)
        rc = tokens_read(&e, eval, err);
    if (rc == TN_OK && !e.path && (b->max_ppl_increase >= 0.0 || b->max_kl >= 0.0))
        rc = err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--eval-data",
                    "is needed for --max-ppl-increase and --max-kl");
    if (c.path && rc == TN_OK)
        b->calib = &calib->set;
    if (e.path && rc == TN_OK) {
        uint64_t most = (uint64_t)opts_int(o, "eval-samples", 64);
        eval->set.n_seqs = eval->set.n_seqs < most ? eval->set.n_seqs : most;
        b->eval = &eval->set;
    }
    return rc;
}

static int32_t body(const struct opts *o, tn_err *err)
{
    struct tool_build b = {.conf = {opts_config(o), o->settings, o->n_settings},
                           .model = opts_text(o, "model"),
                           .output = opts_text(o, "output"),
                           .dtype = opts_text(o, "dtype"),
                           .max_batch_size = opts_int(o, "max-batch-size", 0),
                           .max_input_len = opts_int(o, "max-input-len", 0),
                           .max_output_len = opts_int(o, "max-output-len", 0),
                           .max_num_tokens = opts_int(o, "max-num-tokens", 0),
                           .tp_size = opts_int(o, "tp-size", 0),
                           .pp_size = opts_int(o, "pp-size", 0),
                           .quant = opts_text(o, "quant"),
                           .dequantize = opts_flag(o, "dequantize"),
                           .calib_stats = opts_text(o, "calib-stats"),
                           .calib_seed = (uint64_t)opts_int(o, "calib-seed", 0),
                           .max_ppl_increase = opts_real(o, "max-ppl-increase", -1.0),
                           .max_kl = opts_real(o, "max-kl", -1.0),
                           .quiet = opts_flag(o, "quiet"),
                           .stop = app_interrupted};
    struct quant_options quant = {.n = 0};
    struct tokens calib = {.ids = NULL}, eval = {.ids = NULL};
    json_t *report = NULL;
    int32_t rc = check_format(opts_text(o, "load-format"), &b.dummy, err);

    if (rc == TN_OK)
        rc = check_fallback(opts_text(o, "fp8-fallback"), &b.fp8_as_float16, err);
    if (rc == TN_OK)
        rc = check_rounding(opts_text(o, "kv-cache-rounding"), &b.kv_nearest, err);
    if (rc == TN_OK)
        rc = parse_quant_options(o, &quant, err);
    b.quant_options = quant.items;
    b.n_quant_options = quant.n;
    if (rc == TN_OK)
        rc = read_data(o, &b, &calib, &eval, err);
    if (rc == TN_OK)
        rc = tool_build_engine(&b, &report, err);
    tokens_release(&calib);
    tokens_release(&eval);
    if (rc != TN_OK)
        return rc;
    if (opts_flag(o, "json"))
        return app_print_json(report, err);
    print_report(b.output, report);
    json_decref(report);
    return TN_OK;
}

static int run(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, body);
}

const struct command cmd_build = {.name = "build",
                                  .summary = "Turn a Hugging Face checkpoint into an engine",
                                  .details =
                                      "Weights stream tensor by tensor, so memory stays within 256 "
                                      "MiB and twice the largest tensor. "
                                      "The engine fits any machine, device and number of ranks; "
                                      "--tp-size and --pp-size are checked "
                                      "and recorded. An interrupted build leaves nothing behind.",
                                  .own = options,
                                  .takes_conf = true,
                                  .examples = examples,
                                  .run = run};
