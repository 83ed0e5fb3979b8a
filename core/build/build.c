/* SPDX-License-Identifier: Apache-2.0 */
#include "build/build.h"

#include <sys/stat.h>

#include "base/clock.h"
#include "base/limits.h"
#include "build/building.h"
#include "engine/engine.h"

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

int32_t building_emit(struct building *b)
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
const struct emission *building_final(const struct building *b)
{
    return b->quantized.plan ? &b->quantized : &b->emission;
}

static int32_t write_engine(struct building *b)
{
    char *path = path_join(b->output.temp, ENGINE_FILE);
    int32_t rc = path ? building_write(b, path) : err_nomem(b->err, "an engine");

    if (rc == TN_OK)
        rc = building_check_arithmetic(b, path);
    if (rc == TN_OK)
        rc = building_check_quality(b, path);
    if (rc == TN_OK)
        rc = building_finish(b, path);
    if (b->base_file)
        remove(b->base_file);
    mem_free(path);
    return rc;
}

static int32_t run(struct building *b)
{
    int32_t rc;

    if ((rc = read_configs(b)) != TN_OK || (rc = find_arch(b)) != TN_OK)
        return rc;
    if (!b->o->dummy && (rc = checkpoint_open(b->o->model, &b->checkpoint, b->err)) != TN_OK)
        return rc;
    if (b->checkpoint && (rc = building_open_stored(b)) != TN_OK)
        return rc;
    if ((rc = building_choose_dtype(b)) != TN_OK || (rc = building_emit(b)) != TN_OK ||
        (rc = building_set_limits(b)) != TN_OK || (rc = building_take_data(b)) != TN_OK ||
        (rc = output_open(b->o->output, &b->output, b->err)) != TN_OK ||
        (rc = building_quantize(b)) != TN_OK || (rc = write_engine(b)) != TN_OK)
        return rc;
    return output_commit(&b->output, b->err);
}

static void fill_report(const struct building *b, uint64_t started, struct build_report *r)
{
    char *path = path_join(b->o->output, ENGINE_FILE);
    struct stat st;

    *r = (struct build_report){.n_weights = building_final(b)->plan->n_weights,
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
