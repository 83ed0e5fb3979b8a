/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of the weights and the cache: calibration, and the plan that is written. */
#include <inttypes.h>

#include "base/log.h"
#include "build/building.h"
#include "build/report.h"

static bool eight_bits(uint32_t dtype)
{
    return tn_dtype_bits(dtype) == 8;
}

/* Whether the engine gets quantized matrices from the checkpoint. */
static bool keeps_stored(const struct building *b)
{
    return b->stored && !b->o->quant.dequantize && !b->plain;
}

struct calibrate_options building_calibrating(const struct building *b)
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

/* A file may be of a scheme that asked for less. */
static void tell_missing(const struct building *b)
{
    bool any = false;

    for (size_t i = 0; i < b->calib->n_inputs; i++)
        any = any || b->calib->inputs[i]->keeps_hessian;
    if (!any && b->quant->needs & TN_QUANT_HESSIAN)
        log_warn("%s has no second moments between channels, with which %s rounds better: it was "
                 "saved for a scheme that does not ask for them; give --calib-data",
                 b->o->quant.stats, b->quant->name);
}

/* What is saved is what is used, so that a build from the file makes the same engine. */
static int32_t save_calibration(struct building *b, const struct calibrate_options *o,
                                const char *model)
{
    const char *path = b->o->quant.stats;
    int32_t rc = calibrate_save(b->quant, o, b->calib, path, b->err);

    calibration_free(b->calib);
    b->calib = NULL;
    return rc == TN_OK ? calibration_load(path, model, &b->calib, b->err) : rc;
}

static int32_t find_calibration(struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    struct calibrate_options o;
    char model[CALIBRATION_MODEL];
    int32_t rc;

    if (!b->checkpoint || (!bq->calib && !bq->stats))
        return TN_OK;
    rc = calibrate_identify(&b->emission, b->checkpoint, model, b->err);
    if (rc == TN_OK && !bq->calib) {
        rc = calibration_load(bq->stats, model, &b->calib, b->err);
        if (rc == TN_OK)
            tell_missing(b);
    }
    if (rc != TN_OK || !bq->calib)
        return rc;
    rc = building_write_base(b);
    o = building_calibrating(b);
    if (rc == TN_OK)
        rc = calibrate(b->quant, &o, &b->calib, b->err);
    if (rc == TN_OK)
        memcpy(b->calib->model, model, sizeof model);
    return rc == TN_OK && bq->stats ? save_calibration(b, &o, model) : rc;
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
        log_warn("%" PRIu32
                 " matrices of ops that are neither linears nor experts stay at full precision",
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

int32_t building_quantize(struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    struct quant_options o = {.plugins = b->plugins,
                              .scheme = b->plain ? NULL : bq->scheme,
                              .stored = keeps_stored(b) ? b->stored : NULL,
                              .options = bq->options,
                              .n_options = bq->n_options,
                              .tp_size = b->o->tp_size,
                              .hadamard = bq->kv_dtype == TN_DT_F8E4M3 && !bq->kv_nearest};
    int32_t rc;

    if (bq->n_options > 0 && !bq->scheme)
        return err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--quant-option",
                      "%s = %s: there is no --quant that it could be an option of",
                      bq->options[0].key, bq->options[0].value);
    if (bq->kv_nearest && bq->kv_dtype != TN_DT_F8E4M3) {
        err_at(b->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--kv-cache-rounding",
               "is of caches in fp8, and this engine's is not");
        err_remedy(b->err, "add --kv-cache-dtype fp8, or leave it away");
        return TN_E_CONFIG;
    }
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
    return rc == TN_OK ? building_check_topology(b) : rc;
}
