/* SPDX-License-Identifier: Apache-2.0 */
#include "build/build.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/strbuf.h"
#include "build/calibrate.h"
#include "build/emit.h"
#include "build/gate.h"
#include "build/output.h"
#include "build/quant.h"
#include "build/report.h"
#include "build/stored.h"
#include "build/stream.h"
#include "engine/engine.h"
#include "engine/meta.h"
#include "engine/names.h"
#include "exec/graph.h"
#include "tenon/ops.h"

#define DEFAULT_BATCH 64
#define DEFAULT_NUM_TOKENS 2048

struct building {
    const struct build_options *o;
    tn_err *err;
    const struct registry_view *plugins;
    char *config_path;
    json_t *config;
    json_t *generation;            /* generation_config.json, or NULL */
    struct checkpoint *checkpoint; /* NULL: dummy */
    struct stored *stored;         /* who reads its quantized matrices; NULL: it has none */
    const char *model_type;
    const tn_model_arch *arch;
    void *instance;
    uint32_t dtype;
    struct emission emission;               /* of the model plugin */
    struct quant *quant;                    /* NULL: nothing is quantized */
    struct emission quantized;              /* with `quant`: the plan that is written */
    struct token_set calib_data, eval_data; /* as the model takes them; none: no ids */
    struct calibration *calib;              /* NULL: none */
    struct gate_result gate;                /* n_targets 0: not asked for */
    char fallback[64]; /* an op that this machine computes in wider arithmetic; "": none */
    bool plain;        /* float16 took the place of FP8 */
    char *base_file;   /* the model as it is, while it is needed */
    struct output output;
    struct progress bar;
    struct engine_meta meta;
};

/* -- The checkpoint ----------------------------------------------------------------------------------- */

static int32_t read_configs(struct building *b)
{
    char *generation = path_join(b->o->model, "generation_config.json");
    int32_t rc;

    b->config_path = path_join(b->o->model, "config.json");
    if (!b->config_path || !generation) {
        mem_free(generation);
        return err_nomem(b->err, "a file name");
    }
    rc = json_read(b->config_path, LIMIT_CONFIG_JSON_BYTES, &b->config, b->err);
    if (rc == TN_E_NOTFOUND)
        err_remedy(b->err, "give the directory of a Hugging Face checkpoint to --model");
    if (rc == TN_OK && !json_is_object(b->config))
        rc =
            err_at(b->err, TN_E_FORMAT, b->config_path, TN_NO_OFFSET, NULL, "is not a JSON object");
    if (rc == TN_OK && path_exists(generation))
        rc = json_read(generation, LIMIT_CONFIG_JSON_BYTES, &b->generation, b->err);
    mem_free(generation);
    return rc;
}

static int32_t find_arch(struct building *b)
{
    int32_t rc = json_get_str(b->config, b->config_path, "model_type", &b->model_type, b->err);

    if (rc == TN_E_NOTFOUND)
        rc = json_missing(b->config_path, "model_type", b->err);
    if (rc == TN_OK)
        rc = registry_model(b->plugins, b->model_type, &b->arch, &b->instance, b->err);
    return rc;
}

/* The dtype of config.json, in its newer or older spelling; without one, that of the largest share of the
 * checkpoint would be a guess, so: of its first floating-point tensor. */
static int visit_dtype(void *arg, const struct st_tensor *t)
{
    uint32_t *dtype = arg;

    if (t->dtype == TN_DT_F32 || t->dtype == TN_DT_F16 || t->dtype == TN_DT_BF16)
        *dtype = t->dtype;
    return *dtype != 0;
}

static int32_t choose_dtype(struct building *b)
{
    const char *name = NULL;
    int32_t rc;

    b->dtype = b->o->dtype;
    if (b->dtype)
        return TN_OK;
    rc = json_get_str(b->config, b->config_path, "dtype", &name, b->err);
    if (rc == TN_E_NOTFOUND)
        rc = json_get_str(b->config, b->config_path, "torch_dtype", &name, b->err);
    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        return rc;
    if (name)
        b->dtype = dtype_number(name);
    if (!name && b->checkpoint)
        checkpoint_each(b->checkpoint, visit_dtype, &b->dtype);
    if (!name && b->dtype == 0)
        b->dtype = TN_DT_BF16;
    if (b->dtype != TN_DT_F32 && b->dtype != TN_DT_F16 && b->dtype != TN_DT_BF16) {
        err_at(b->err, TN_E_FORMAT, b->config_path, TN_NO_OFFSET, "dtype",
               "is \"%.40s\"; float32, float16 and bfloat16 are supported", name);
        err_remedy(b->err, "choose with --dtype");
        return TN_E_FORMAT;
    }
    return TN_OK;
}

static int32_t emit(struct building *b)
{
    struct emit_input in = {.arch = b->arch,
                            .instance = b->instance,
                            .plugin = registry_plugin_of(b->plugins, b->arch),
                            .config = b->config,
                            .config_path = b->config_path,
                            .checkpoint = b->checkpoint,
                            .stored = b->stored,
                            .dtype = b->dtype};
    int32_t rc = emit_plan(&in, &b->emission, b->err);

    if (rc == TN_OK && b->checkpoint)
        rc = emission_check_unused(&b->emission, b->checkpoint, b->stored, b->err);
    return rc;
}

/* The plan that is written. */
static const struct emission * final(const struct building *b)
{
    return b->quantized.plan ? &b->quantized : &b->emission;
}

/* -- Limits and tokens ---------------------------------------------------------------------------------- */

static int32_t set_limit(struct building *b, const char *flag, int64_t asked, int64_t fallback,
                         int64_t max, int64_t *out)
{
    *out = asked ? asked : fallback < max ? fallback : max;
    if (*out >= 1 && *out <= max)
        return TN_OK;
    return err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, flag,
                  "is %" PRId64 ", but must be from 1 to %" PRId64, *out, max);
}

/* One graph per rank would be built at run time; if that can be done here, it can there. */
static int32_t check_topology(struct building *b)
{
    int64_t layers = plan_hyper_int(b->emission.plan, TN_HP_LAYERS, 1);
    int32_t rc = TN_OK;

    if (b->meta.pp_size > layers)
        return err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--pp-size",
                      "is %" PRId64 ", but the model has %" PRId64 " layers", b->meta.pp_size,
                      layers);
    for (int64_t r = 0; r < b->meta.tp_size && rc == TN_OK; r++) {
        struct topology t = {(uint32_t)r, (uint32_t)b->meta.tp_size, 0, 1};
        struct graph *g = NULL;
        rc = graph_new(final(b)->plan, &t, TN_DT_F32, &g, b->err);
        graph_free(g);
    }
    return rc;
}

static int32_t set_limits(struct building *b)
{
    const struct build_options *o = b->o;
    struct engine_meta *m = &b->meta;
    int64_t positions = plan_hyper_int(b->emission.plan, TN_HP_MAX_POSITIONS, 1);
    int32_t rc;

    m->dtype = b->dtype;
    m->kv_dtype = o->quant.kv_dtype;
    if ((rc = set_limit(b, "--max-batch-size", o->max_batch_size, DEFAULT_BATCH, LIMIT_BATCH,
                        &m->max_batch_size)) != TN_OK ||
        (rc = set_limit(b, "--max-input-len", o->max_input_len, positions, positions,
                        &m->max_input_len)) != TN_OK ||
        (rc = set_limit(b, "--max-output-len", o->max_output_len, positions, positions,
                        &m->max_output_len)) != TN_OK ||
        (rc = set_limit(b, "--max-num-tokens", o->max_num_tokens, DEFAULT_NUM_TOKENS,
                        LIMIT_STEP_ROWS, &m->max_num_tokens)) != TN_OK ||
        (rc = set_limit(b, "--tp-size", o->tp_size, 1, 1024, &m->tp_size)) != TN_OK ||
        (rc = set_limit(b, "--pp-size", o->pp_size, 1, 1024, &m->pp_size)) != TN_OK)
        return rc;
    return check_topology(b);
}

/* generation_config.json wins over config.json: it is what transformers stops at. */
static json_t *eos_list(const struct building *b)
{
    const json_t *v = json_at(b->generation, "eos_token_id");
    json_t *list;

    if (!v)
        v = json_at(b->config, "eos_token_id");
    if (json_is_array(v))
        return json_deep_copy(v);
    list = json_array();
    if (json_is_integer(v))
        json_array_append_new(list, json_integer(json_integer_value(v)));
    return list;
}

static json_t *bos_id(const struct building *b)
{
    const json_t *v = json_at(b->generation, "bos_token_id");

    if (!v)
        v = json_at(b->config, "bos_token_id");
    return json_is_integer(v) ? json_integer(json_integer_value(v)) : json_null();
}

/* -- The passport --------------------------------------------------------------------------------------- */

static json_t *passport(const struct building *b)
{
    struct registry_info info = {0};
    char built[32], sha[SHA256_HEX] = "", plugin_sha[SHA256_HEX] = "";
    uint8_t digest[SHA256_BYTES];
    const char *plugin = registry_plugin_of(b->plugins, b->arch);
    json_t *o;
    time_t now = (time_t)clock_wall_s();
    struct tm tm;

    for (uint32_t i = 0; i < registry_count(b->o->registry); i++) {
        registry_info(b->o->registry, i, &info);
        if (info.state == REGISTRY_LOADED && strcmp(info.name, plugin) == 0) {
            registry_digest(b->o->registry, i, plugin_sha);
            break;
        }
    }
    if (sha256_file(b->config_path, digest, NULL) == TN_OK)
        hex_encode(digest, sizeof digest, sha);
    gmtime_r(&now, &tm);
    strftime(built, sizeof built, "%Y-%m-%dT%H:%M:%SZ", &tm);
    o = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s}", "built", built, "source",
                  path_base(b->o->model), "config_sha256", sha, "checkpoint_bytes",
                  (json_int_t)(b->checkpoint ? checkpoint_bytes(b->checkpoint) : 0), "plugin",
                  plugin, "plugin_version", info.version ? info.version : "", "plugin_sha256",
                  plugin_sha, "load_format", b->checkpoint ? "safetensors" : "dummy");
    if (b->stored)
        json_object_set_new(o, "quant_method", json_string(stored_method(b->stored)));
    if (b->fallback[0])
        json_object_set_new(o, "fp8_fallback", json_string(b->plain ? "float16" : "keep"));
    if (b->calib)
        json_object_set_new(o, "calibration_sha256", json_string(b->calib->data_sha256));
    return o;
}

static json_t *quant_json(const struct building *b)
{
    json_t *o = quant_report(b->quant);

    if (b->calib)
        json_object_set_new(o, "calibration",
                            json_pack("{s:s, s:I}", "data_sha256", b->calib->data_sha256, "tokens",
                                      (json_int_t)b->calib->n_tokens));
    if (b->quant->feedback)
        json_object_set_new(o, "cache_rounding", json_string("feedback"));
    if (b->gate.n_targets)
        json_object_set_new(o, "gate",
                            json_pack("{s:f, s:f, s:f, s:I}", "base_perplexity",
                                      b->gate.base_perplexity, "perplexity", b->gate.perplexity,
                                      "kl", b->gate.kl, "targets", (json_int_t)b->gate.n_targets));
    return o;
}

static json_t *meta_json(const struct building *b)
{
    const struct engine_meta *m = &b->meta;
    json_t *limits =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "max_batch_size", (json_int_t)m->max_batch_size,
                  "max_input_len", (json_int_t)m->max_input_len, "max_output_len",
                  (json_int_t)m->max_output_len, "max_num_tokens", (json_int_t)m->max_num_tokens,
                  "tp_size", (json_int_t)m->tp_size, "pp_size", (json_int_t)m->pp_size);

    return json_pack("{s:s, s:s, s:s, s:s?, s:o, s:{s:o, s:o}, s:o, s:o*}", "tenon", TENON_VERSION,
                     "model_type", b->model_type, "dtype", tn_dtype_name(b->dtype), "kv_dtype",
                     m->kv_dtype && b->quantized.plan ? tn_dtype_name(m->kv_dtype) : NULL, "limits",
                     limits, "tokens", "bos", bos_id(b), "eos", eos_list(b), "passport",
                     passport(b), "quant", b->quantized.plan ? quant_json(b) : NULL);
}

/* -- Writing -------------------------------------------------------------------------------------------- */

static int on_progress(void *arg, uint64_t done)
{
    struct building *b = arg;

    progress_update(&b->bar, done);
    return b->o->stop && b->o->stop(b->o->arg);
}

static int32_t write_dummies(struct building *b, struct engine_writer *w)
{
    const struct plan *p = final(b)->plan;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < p->n_weights && rc == TN_OK; i++) {
        const float *table = final(b)->origins[i].table;
        rc = table
                 ? engine_writer_append(w, table, (size_t)plan_weight_bytes(&p->weights[i]), b->err)
                 : engine_writer_dummy(w, i + 1, b->err);
    }
    return rc;
}

static struct calibrate_options calibrating(const struct building *b)
{
    const struct build_quant *bq = &b->o->quant;

    return (struct calibrate_options){.runner = bq->runner,
                                      .engine = b->base_file,
                                      .data = bq->calib ? &b->calib_data : NULL,
                                      .seed = bq->calib_seed,
                                      .all = bq->stats != NULL,
                                      .quiet = b->o->quiet,
                                      .stop = b->o->stop,
                                      .arg = b->o->arg};
}

static int32_t before_making(void *arg, const struct quantized *m)
{
    struct building *b = arg;
    struct calibrate_options o = calibrating(b);

    return b->calib ? calibrate_hessian(b->quant, &o, m, b->err) : TN_OK;
}

static int32_t write_weights(struct building *b, struct engine_writer *w)
{
    struct stream_options o = {b->checkpoint, w, on_progress, b, before_making};
    const struct plan *p = final(b)->plan;
    uint64_t total = 0;
    int32_t rc;

    if (!b->checkpoint)
        return write_dummies(b, w);
    for (size_t i = 0; i < p->n_weights; i++)
        total += plan_weight_bytes(&p->weights[i]);
    progress_begin(&b->bar, "building", total, b->o->quiet);
    rc = stream_weights(final(b), &o, b->err);
    progress_end(&b->bar, rc == TN_OK);
    return rc;
}

/* config.json of the engine: what was asked, for people. Nothing reads it back. */
static int32_t write_request(struct building *b, const json_t *meta)
{
    char *path = path_join(b->output.temp, ENGINE_CONFIG);
    json_t *v = json_pack("{s:O, s:O}", "engine", meta, "model_config", b->config);
    char *text = v ? json_dumps(v, JSON_INDENT(2)) : NULL;
    int32_t rc = path && text ? file_write_atomic(path, text, strlen(text), b->err)
                              : err_nomem(b->err, "config.json");

    free(text); /* jansson's */
    json_decref(v);
    mem_free(path);
    return rc;
}

/* The metadata must be acceptable to the reader before 13 GB are written. */
static int32_t check_meta(struct building *b, const json_t *meta)
{
    struct engine_meta m;

    return engine_meta_read(meta, b->config_path, plan_hyper_int(b->emission.plan, TN_HP_VOCAB, 1),
                            &m, b->err);
}

/* Writes the plan that is final now as the file `path`. */
static int32_t write_file(struct building *b, const char *path)
{
    struct engine_writer *w = NULL;
    json_t *meta = meta_json(b);
    int32_t rc = meta ? check_meta(b, meta) : err_nomem(b->err, "an engine");

    if (rc == TN_OK)
        rc = engine_writer_open(path, final(b)->plan, &w, b->err);
    if (rc == TN_OK)
        rc = write_weights(b, w);
    if (rc == TN_OK)
        rc = engine_writer_finish(w, meta, b->err);
    engine_writer_free(w);
    json_decref(meta);
    return rc;
}

/* The engine's directory around the file, with the metadata that is final now. */
static int32_t finish_engine(struct building *b, const char *path)
{
    json_t *meta = meta_json(b);
    int32_t rc = meta ? TN_OK : err_nomem(b->err, "an engine");

    if (rc == TN_OK && (b->quant || b->fallback[0]))
        rc = engine_replace_meta(path, meta, b->err);
    if (rc == TN_OK)
        rc = write_request(b, meta);
    if (rc == TN_OK)
        rc = output_copy_companions(&b->output, b->o->model, b->err);
    json_decref(meta);
    return rc;
}

/* -- Quantization -------------------------------------------------------------------------------------- */

static bool eight_bits(uint32_t dtype)
{
    return tn_dtype_bits(dtype) == 8;
}

/* Whether the engine gets quantized matrices from the checkpoint. */
static bool keeps_stored(const struct building *b)
{
    return b->stored && !b->o->quant.dequantize && !b->plain;
}

static int32_t write_base(struct building *b)
{
    b->base_file = path_join(b->output.temp, "base.engine");
    return b->base_file ? write_file(b, b->base_file) : err_nomem(b->err, "a file name");
}

/* The data that were given, as the model takes them. */
static int32_t take_data(struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    uint64_t vocab = (uint64_t)plan_hyper_int(b->emission.plan, TN_HP_VOCAB, 1);
    uint64_t most = (uint64_t)b->meta.max_input_len;
    int32_t rc = TN_OK;

    if (bq->calib)
        rc = token_set_fit(bq->calib, "--calib-data", vocab, most, &b->calib_data, b->err);
    if (bq->eval && rc == TN_OK)
        rc = token_set_fit(bq->eval, "--eval-data", vocab, most, &b->eval_data, b->err);
    return rc;
}

static int32_t find_calibration(struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    struct calibrate_options o;
    char model[CALIBRATION_MODEL];
    int32_t rc;

    if (!b->checkpoint || (!bq->calib && !bq->stats))
        return TN_OK;
    if (!bq->calib && (b->quant->needs & TN_QUANT_HESSIAN))
        log_warn("a file of --calib-stats has no second moments between channels, with which %s "
                 "rounds better: give --calib-data for these",
                 b->quant->name);
    rc = calibrate_identify(&b->emission, b->checkpoint, model, b->err);
    if (rc != TN_OK || !bq->calib)
        return rc == TN_OK ? calibration_load(bq->stats, model, &b->calib, b->err) : rc;
    rc = write_base(b);
    o = calibrating(b);
    if (rc == TN_OK)
        rc = calibrate(b->quant, &o, &b->calib, b->err);
    if (rc == TN_OK)
        memcpy(b->calib->model, model, sizeof model);
    if (rc == TN_OK && bq->stats)
        rc = calibration_save(b->calib, bq->stats, b->err);
    return rc;
}

/* What stays as it is although people may expect otherwise. */
static void tell_left(const struct building *b)
{
    uint32_t left = 0, kept = 0;

    if (!b->quant->name)
        return;
    for (size_t i = 0; i < b->emission.plan->n_ops; i++)
        left += report_left(b->emission.plan, &b->emission.plan->ops[i]);
    for (uint32_t i = 0; i < b->quant->n_linears; i++)
        kept += !b->quant->linears[i].chosen;
    if (left)
        log_warn("%" PRIu32 " matrices of ops that are no linears (moe_mlp) stay at full precision",
                 left);
    if (kept)
        log_warn("%" PRIu32 " of %" PRIu32
                 " linears are not quantized in the engine; `tenon engine "
                 "inspect` tells why",
                 kept, b->quant->n_linears);
}

static int32_t no_gate(struct building *b, const char *why)
{
    err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--eval-data",
           "%s: there is nothing to compare", why);
    err_remedy(b->err, "leave --eval-data and the limits away, or quantize with --quant");
    return TN_E_CONFIG;
}

/* Data that would be read for nothing: people who give it expect something of it. */
static int32_t check_no_calibration(const struct building *b)
{
    const struct build_quant *bq = &b->o->quant;

    if (!bq->calib && !bq->stats)
        return TN_OK;
    err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, bq->calib ? "--calib-data" : "--calib-stats",
           "nothing is quantized that statistics could be for");
    err_remedy(b->err, "add --quant, or --kv-cache-dtype fp8 or int8, or leave it away");
    return TN_E_CONFIG;
}

static int32_t quantize(struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    struct quant_options o = {.plugins = b->plugins,
                              .scheme = b->plain ? NULL : bq->scheme,
                              .stored = keeps_stored(b) ? b->stored : NULL,
                              .options = bq->options,
                              .n_options = bq->n_options,
                              .tp_size = b->o->tp_size,
                              .hadamard = bq->kv_dtype == TN_DT_F8E4M3};
    int32_t rc;

    if (bq->n_options > 0 && !bq->scheme)
        return err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--quant-option",
                      "%s = %s: there is no --quant that it could be an option of",
                      bq->options[0].key, bq->options[0].value);
    if (!b->checkpoint && bq->dequantize)
        return err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--dequantize",
                      "there are no matrices to widen: --load-format is dummy");
    if (!o.scheme && !o.stored && !eight_bits(bq->kv_dtype))
        return bq->eval && !b->plain ? no_gate(b, "nothing of the engine is quantized")
               : bq->scheme          ? TN_OK
                                     : check_no_calibration(b);
    if (!b->checkpoint && bq->eval)
        return no_gate(b, "dummy weights have no perplexity");
    rc = quant_open(&o, &b->emission, &b->quant, b->err);
    if (rc == TN_OK && !b->calib)
        rc = find_calibration(b);
    if (rc == TN_OK && eight_bits(bq->kv_dtype) && b->checkpoint && !b->calib &&
        !quant_has_cache_scales(b->quant)) {
        rc = err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--kv-cache-dtype",
                    "a cache of 8 bits needs ranges of keys and values");
        err_remedy(b->err, "give texts with --calib-data, or --calib-stats of an earlier build");
    }
    if (rc == TN_OK)
        rc = quant_decide(b->quant, b->checkpoint, b->calib, b->err);
    if (rc == TN_OK)
        rc = quant_rewrite(b->quant, b->calib, &b->quantized, b->err);
    if (rc == TN_OK)
        tell_left(b);
    return rc == TN_OK ? check_topology(b) : rc;
}

/* The limit that what was measured exceeds; NULL: it holds. */
static const char *exceeded(const struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    const struct gate_result *g = &b->gate;

    if (bq->max_ppl_increase >= 0.0 &&
        !(g->perplexity <= g->base_perplexity * (1.0 + bq->max_ppl_increase)))
        return "--max-ppl-increase";
    return bq->max_kl >= 0.0 && !(g->kl <= bq->max_kl) ? "--max-kl" : NULL;
}

static int32_t rewrite_engine(struct building *b, const char *path)
{
    int32_t rc;

    emission_release(&b->quantized);
    rc = quant_rewrite(b->quant, b->calib, &b->quantized, b->err);
    if (rc == TN_OK && remove(path) != 0)
        rc = err_errno(b->err, "remove", path, errno);
    return rc == TN_OK ? write_file(b, path) : rc;
}

static int32_t gate_failed(struct building *b, const char *limit, uint32_t raised, uint32_t all)
{
    if (all)
        log_error("relative error of each linear's output:");
    for (uint32_t i = 0; i < b->quant->n_linears && all; i++) {
        const struct quant_linear *l = &b->quant->linears[i];
        char error[16] = "-";
        if (l->error >= 0.0)
            snprintf(error, sizeof error, "%.4f", l->error);
        log_error("  %-44s %8s %s", l->made.source.name, error,
                  l->chosen ? l->made.plan.op : l->why);
    }
    err_at(b->err, TN_E_RANGE, NULL, TN_NO_OFFSET, limit,
           "perplexity is %.4f after %.4f, KL %.5f, with %" PRIu32 " of %" PRIu32
           " quantized linears at full precision, of which half may be",
           b->gate.perplexity, b->gate.base_perplexity, b->gate.kl, raised, all);
    err_remedy(b->err, "allow more, give more calibration data, or choose another scheme");
    return TN_E_RANGE;
}

/* A tenth of the linears at a time is raised to full precision, worst first, until the limits hold; half at most. */
static int32_t pass_gate(struct building *b, const struct gate_pair *pair, const char *path)
{
    uint32_t all = 0, step, raised = 0;
    const char *limit;
    int32_t rc = gate_compare(pair, &b->eval_data, &b->gate, b->err);

    for (uint32_t i = 0; i < b->quant->n_linears; i++)
        all += b->quant->linears[i].chosen;
    step = (all + 9) / 10;
    while (rc == TN_OK && (limit = exceeded(b)) != NULL) {
        if (step == 0 || raised + step > all / 2)
            return gate_failed(b, limit, raised, all);
        raised += gate_raise(b->quant, step);
        log_warn("perplexity %.4f after %.4f, KL %.5f: %" PRIu32 " of %" PRIu32
                 " linears stay at full precision",
                 b->gate.perplexity, b->gate.base_perplexity, b->gate.kl, raised, all);
        rc = rewrite_engine(b, path);
        if (rc == TN_OK)
            rc = gate_compare(pair, &b->eval_data, &b->gate, b->err);
    }
    return rc;
}

#define MEASURED_TOKENS 64

static int32_t check_quality(struct building *b, const char *path)
{
    const struct build_quant *bq = &b->o->quant;
    const struct token_set *t = bq->eval ? &b->eval_data : &b->calib_data;
    struct gate_pair pair = {bq->runner, b->base_file, path, b->o->quiet, b->o->stop, b->o->arg};
    uint32_t n;
    int32_t rc = TN_OK;

    if (!b->quant || !b->checkpoint || t->n_seqs == 0 || (!b->quant->name && !bq->eval))
        return TN_OK;
    if (!b->base_file) {
        struct emission quantized = b->quantized;
        b->quantized = (struct emission){0};
        rc = write_base(b);
        b->quantized = quantized;
        pair.base = b->base_file;
    }
    n = (uint32_t)(t->begin[1] - t->begin[0]);
    if (rc == TN_OK && b->quant->name)
        rc = gate_measure_linears(&pair, b->quant, t->ids,
                                  n < MEASURED_TOKENS ? n : MEASURED_TOKENS, b->err);
    if (rc == TN_OK && bq->eval)
        rc = pass_gate(b, &pair, path);
    return rc;
}

/* The engine anew, with linears in float16; what quantizes the cache stays. */
static int32_t rewrite_plain(struct building *b, const char *path)
{
    int32_t rc;

    emission_release(&b->quantized);
    quant_close(b->quant);
    b->quant = NULL;
    emission_release(&b->emission);
    b->plain = true;
    b->dtype = TN_DT_F16;
    if ((rc = emit(b)) != TN_OK || (rc = set_limits(b)) != TN_OK || (rc = quantize(b)) != TN_OK)
        return rc;
    if (remove(path) != 0)
        return err_errno(b->err, "remove", path, errno);
    return write_file(b, path);
}

static bool has_fp8(const struct plan *p)
{
    for (size_t i = 0; i < p->n_ops; i++)
        if (strcmp(p->ops[i].name, TN_OP_LINEAR_FP8) == 0)
            return true;
    return false;
}

/* Whether this machine computes FP8; opening the engine so far has said it if not. A machine that cannot run the
 * engine at all may still build it for another. */
static int32_t check_arithmetic(struct building *b, const char *path)
{
    const struct runner *r = b->o->quant.runner;
    tn_err why = TN_ERR_INIT;

    if (!r || !has_fp8(final(b)->plan))
        return TN_OK;
    if (r->probe(r->arg, path, b->fallback, sizeof b->fallback, &why) != TN_OK) {
        log_warn("whether this machine computes FP8 could not be found out: %s", why.msg);
        return TN_OK;
    }
    if (!b->fallback[0])
        return TN_OK;
    if (!b->o->quant.fp8_as_float16) {
        log_warn("--fp8-fallback float16 would build this engine in float16 instead");
        return TN_OK;
    }
    log_warn("the engine is built anew in float16, as --fp8-fallback says");
    return rewrite_plain(b, path);
}

static int32_t write_engine(struct building *b)
{
    char *path = path_join(b->output.temp, ENGINE_FILE);
    int32_t rc = path ? write_file(b, path) : err_nomem(b->err, "an engine");

    if (rc == TN_OK)
        rc = check_arithmetic(b, path);
    if (rc == TN_OK)
        rc = check_quality(b, path);
    if (rc == TN_OK)
        rc = finish_engine(b, path);
    if (b->base_file)
        remove(b->base_file);
    mem_free(path);
    return rc;
}

/* -- All ------------------------------------------------------------------------------------------------ */

/* What of the checkpoint is quantized already. */
static int32_t open_stored(struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    int32_t rc =
        stored_open(b->plugins, b->config, b->config_path, b->checkpoint, &b->stored, b->err);

    if (rc == TN_OK && !b->stored && bq->dequantize)
        rc = err_at(b->err, TN_E_CONFIG, b->config_path, TN_NO_OFFSET, "--dequantize",
                    "the checkpoint is not quantized: its config.json has no quantization_config");
    if (rc != TN_OK || !b->stored || bq->dequantize)
        return rc;
    if (bq->scheme) {
        err_at(b->err, TN_E_CONFIG, b->config_path, TN_NO_OFFSET, "--quant",
               "the checkpoint is quantized already (quant_method %.60s), and %.60s was asked for",
               stored_method(b->stored), bq->scheme);
        err_remedy(b->err, "leave --quant away to take its matrices as they are, or add "
                           "--dequantize to widen them first and quantize them anew");
        return TN_E_CONFIG;
    }
    return TN_OK;
}

static int32_t run(struct building *b)
{
    int32_t rc;

    if ((rc = read_configs(b)) != TN_OK || (rc = find_arch(b)) != TN_OK)
        return rc;
    if (!b->o->dummy && (rc = checkpoint_open(b->o->model, &b->checkpoint, b->err)) != TN_OK)
        return rc;
    if (b->checkpoint && (rc = open_stored(b)) != TN_OK)
        return rc;
    if ((rc = choose_dtype(b)) != TN_OK || (rc = emit(b)) != TN_OK ||
        (rc = set_limits(b)) != TN_OK || (rc = take_data(b)) != TN_OK ||
        (rc = output_open(b->o->output, &b->output, b->err)) != TN_OK ||
        (rc = quantize(b)) != TN_OK || (rc = write_engine(b)) != TN_OK)
        return rc;
    return output_commit(&b->output, b->err);
}

static void fill_report(const struct building *b, uint64_t started, struct build_report *r)
{
    char *path = path_join(b->o->output, ENGINE_FILE);
    struct stat st;

    *r = (struct build_report){.n_weights = final(b)->plan->n_weights,
                               .seconds = (double)(clock_ns() - started) / 1e9,
                               .dtype = tn_dtype_name(b->dtype)};
    for (uint32_t i = 0; b->quant && i < b->quant->n_linears; i++) {
        r->n_linears++;
        r->n_quantized += b->quant->linears[i].chosen;
    }
    snprintf(r->model_type, sizeof r->model_type, "%s", b->model_type);
    if (b->fallback[0])
        r->fp8_fallback = b->plain ? "float16" : "keep";
    if (b->quant && b->quant->name)
        snprintf(r->scheme, sizeof r->scheme, "%s", b->quant->name);
    if (path && stat(path, &st) == 0)
        r->engine_bytes = (uint64_t)st.st_size;
    mem_free(path);
}

int32_t build_engine(const struct build_options *o, struct build_report *report, tn_err *err)
{
    struct building b = {.o = o, .err = err, .plugins = registry_acquire(o->registry)};
    uint64_t started = clock_ns();
    int32_t rc = run(&b);

    if (rc == TN_OK)
        fill_report(&b, started, report);
    output_release(&b.output);
    if (b.quantized.plan)
        emission_release(&b.quantized);
    quant_close(b.quant);
    calibration_free(b.calib);
    mem_free((void *)b.calib_data.begin);
    mem_free((void *)b.eval_data.begin);
    mem_free(b.base_file);
    if (b.emission.plan)
        emission_release(&b.emission);
    stored_close(b.stored);
    checkpoint_close(b.checkpoint);
    json_decref(b.config);
    json_decref(b.generation);
    mem_free(b.config_path);
    registry_release(b.plugins);
    return rc;
}
