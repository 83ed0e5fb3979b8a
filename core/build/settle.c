/* SPDX-License-Identifier: Apache-2.0 */
/* What was asked for is settled against the model and the checkpoint. */
#include <inttypes.h>

#include "base/limits.h"
#include "build/building.h"
#include "exec/graph.h"

#define DEFAULT_BATCH 64
#define DEFAULT_NUM_TOKENS 2048

/* The dtype of config.json, in its newer or older spelling; without one, that of the largest share of the
 * checkpoint would be a guess, so: of its first floating-point tensor. */
static int visit_dtype(void *arg, const struct st_tensor *t)
{
    uint32_t *dtype = arg;

    if (t->dtype == TN_DT_F32 || t->dtype == TN_DT_F16 || t->dtype == TN_DT_BF16)
        *dtype = t->dtype;
    return *dtype != 0;
}

int32_t building_choose_dtype(struct building *b)
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

/* What of the checkpoint is quantized already. */
int32_t building_open_stored(struct building *b)
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
int32_t building_check_topology(struct building *b)
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
        rc = graph_new(building_final(b)->plan, &t, TN_DT_F32, &g, b->err);
        graph_free(g);
    }
    return rc;
}

int32_t building_set_limits(struct building *b)
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
    return building_check_topology(b);
}

/* The data that were given, as the model takes them. */
int32_t building_take_data(struct building *b)
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
