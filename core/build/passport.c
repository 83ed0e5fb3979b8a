/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata of an engine: limits, tokens that end a text, where it comes from, and what quantization did. */
#include <time.h>

#include "base/clock.h"
#include "build/building.h"
#include "build/report.h"

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
    if (b->quant->feedback || b->o->quant.kv_nearest)
        json_object_set_new(o, "cache_rounding",
                            json_string(b->quant->feedback ? "feedback" : "nearest"));
    if (b->gate.n_targets)
        json_object_set_new(o, "gate",
                            json_pack("{s:f, s:f, s:f, s:I}", "base_perplexity",
                                      b->gate.base_perplexity, "perplexity", b->gate.perplexity,
                                      "kl", b->gate.kl, "targets", (json_int_t)b->gate.n_targets));
    return o;
}

json_t *building_meta(const struct building *b)
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
