/* SPDX-License-Identifier: Apache-2.0 */
/* Files of an engine: the plan that is final with its weights, and what lies beside it in the directory. */
#include "base/limits.h"
#include "build/building.h"
#include "build/stream.h"
#include "engine/engine.h"

static int on_progress(void *arg, uint64_t done)
{
    struct building *b = arg;

    progress_update(&b->bar, done);
    return b->o->stop && b->o->stop(b->o->arg);
}

static int32_t write_dummies(struct building *b, struct engine_writer *w)
{
    const struct plan *p = building_final(b)->plan;
    int32_t rc = TN_OK;

    for (size_t i = 0; i < p->n_weights && rc == TN_OK; i++) {
        const void *table = building_final(b)->origins[i].table;
        rc = table
                 ? engine_writer_append(w, table, (size_t)plan_weight_bytes(&p->weights[i]), b->err)
                 : engine_writer_dummy(w, i + 1, b->err);
    }
    return rc;
}

static int32_t before_making(void *arg, const struct quantized *m, uint32_t expert)
{
    struct building *b = arg;
    struct calibrate_options o = building_calibrating(b);

    return b->calib ? calibrate_hessian(b->quant, &o, b->calib, m, expert, b->err) : TN_OK;
}

static int32_t write_weights(struct building *b, struct engine_writer *w)
{
    struct stream_options o = {b->checkpoint, w, on_progress, b, before_making};
    const struct plan *p = building_final(b)->plan;
    uint64_t total = 0;
    int32_t rc;

    if (!b->checkpoint)
        return write_dummies(b, w);
    for (size_t i = 0; i < p->n_weights; i++)
        total += plan_weight_bytes(&p->weights[i]);
    progress_begin(&b->bar, "building", total, b->o->quiet);
    rc = stream_weights(building_final(b), &o, b->err);
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
int32_t building_write(struct building *b, const char *path)
{
    struct engine_writer *w = NULL;
    json_t *meta = building_meta(b);
    int32_t rc = meta ? check_meta(b, meta) : err_nomem(b->err, "an engine");

    if (rc == TN_OK)
        rc = engine_writer_open(path, building_final(b)->plan, &w, b->err);
    if (rc == TN_OK)
        rc = write_weights(b, w);
    if (rc == TN_OK)
        rc = engine_writer_finish(w, meta, b->err);
    engine_writer_free(w);
    json_decref(meta);
    return rc;
}

int32_t building_write_base(struct building *b)
{
    b->base_file = path_join(b->output.temp, "base.engine");
    return b->base_file ? building_write(b, b->base_file) : err_nomem(b->err, "a file name");
}

/* The engine's directory around the file, with the metadata that is final now. */
int32_t building_finish(struct building *b, const char *path)
{
    json_t *meta = building_meta(b);
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
