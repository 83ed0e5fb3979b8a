/* SPDX-License-Identifier: Apache-2.0 */
/* build/runner.h over a runtime: requests that want logits go through the same loop as any other, with ops unfused and
 * watched. The tap runs on the loop's thread; what it reads of another device is copied first. */
#include "api/runner.h"

#include "api/runtime.h"
#include "api/session.h"
#include "base/mem.h"
#include "exec/bind.h"
#include "loop/rank.h"
#include "tenon/float.h"

#define MAX_SETTINGS 80

struct running {
    tn_runtime *rt;
    run_tap tap;
    void *tap_arg;
    uint8_t *staging; /* for copies */
    size_t n_staging;
};

/* -- Values of a launch ------------------------------------------------------------------------------- */

struct launch_io {
    struct running *r;
    const tn_launch *l;
};

static const tn_value *value_of(const struct launch_io *io, bool output, uint32_t i)
{
    return output ? io->l->op->out[i] : io->l->op->in[i];
}

static void *address_of(const struct launch_io *io, bool output, uint32_t i)
{
    return output ? io->l->out[i] : (void *)(uintptr_t)io->l->in[i];
}

static size_t elements_of(const struct launch_io *io, bool output, uint32_t i)
{
    return (size_t)io->l->batch->n_rows * (size_t)value_of(io, output, i)->width;
}

static int32_t stage(struct running *r, size_t bytes, tn_err *err)
{
    if (bytes <= r->n_staging)
        return TN_OK;
    mem_free(r->staging);
    r->staging = mem_alloc(bytes);
    r->n_staging = r->staging ? bytes : 0;
    return r->staging ? TN_OK : err_nomem(err, "watching a model");
}

static int32_t copy(const struct launch_io *io, void *dst, const void *src, size_t bytes,
                    uint32_t kind, tn_err *err)
{
    const tn_device_api *api = io->r->rt->instance->api;
    int32_t rc = api->copy(io->l->device, io->l->stream, dst, src, bytes, kind, err);

    if (rc == TN_OK && io->l->stream)
        rc = api->stream_sync(io->l->device, io->l->stream, err);
    return rc;
}

static float widen(const void *p, uint32_t dtype, size_t i)
{
    switch (dtype) {
    case TN_DT_F16: return tn_f16_to_f32(((const uint16_t *)p)[i]);
    case TN_DT_BF16: return tn_bf16_to_f32(((const uint16_t *)p)[i]);
    case TN_DT_I32: return (float)((const int32_t *)p)[i]; /* numbers of experts */
    default: return ((const float *)p)[i];
    }
}

static void narrow(void *p, uint32_t dtype, size_t i, float f)
{
    switch (dtype) {
    case TN_DT_F16: ((uint16_t *)p)[i] = tn_f32_to_f16(f); break;
    case TN_DT_BF16: ((uint16_t *)p)[i] = tn_f32_to_bf16(f); break;
    case TN_DT_I32: ((int32_t *)p)[i] = (int32_t)f; break;
    default: ((float *)p)[i] = f; break;
    }
}

static int32_t get(void *arg, bool output, uint32_t i, float *dst, tn_err *err)
{
    struct launch_io *io = arg;
    uint32_t dtype = value_of(io, output, i)->dtype;
    size_t n = elements_of(io, output, i), bytes = n * tn_dtype_bits(dtype) / 8;
    int32_t rc = stage(io->r, bytes, err);

    if (rc == TN_OK)
        rc =
            copy(io, io->r->staging, address_of(io, output, i), bytes, TN_COPY_DEVICE_TO_HOST, err);
    for (size_t k = 0; k < n && rc == TN_OK; k++)
        dst[k] = widen(io->r->staging, dtype, k);
    return rc;
}

static int32_t set(void *arg, bool output, uint32_t i, const float *src, tn_err *err)
{
    struct launch_io *io = arg;
    uint32_t dtype = value_of(io, output, i)->dtype;
    size_t n = elements_of(io, output, i), bytes = n * tn_dtype_bits(dtype) / 8;
    int32_t rc = stage(io->r, bytes, err);

    if (rc != TN_OK)
        return rc;
    for (size_t k = 0; k < n; k++)
        narrow(io->r->staging, dtype, k, src[k]);
    return copy(io, address_of(io, output, i), io->r->staging, bytes, TN_COPY_HOST_TO_DEVICE, err);
}

static int32_t on_launch(void *arg, const tn_launch *l, bool after, tn_err *err)
{
    struct running *r = arg;
    struct launch_io io = {r, l};
    struct run_moment m = {
        .op = l->op, .after = after, .n_rows = l->batch->n_rows, .io = &io, .get = get, .set = set};

    return r->tap(r->tap_arg, &m, err);
}

/* -- Opening and running --------------------------------------------------------------------------------- */

static void close_run(void *arg)
{
    struct running *r = arg;

    if (!r)
        return;
    tn_close(r->rt);
    mem_free(r->staging);
    mem_free(r);
}

/* Settings of the command line but the cache's dtype, which is to be the engine's own; room is left for eight more. */
static uint32_t copy_settings(const struct tool_conf *conf, tn_kv *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < conf->n_settings && n < MAX_SETTINGS - 8; i++)
        if (strcmp(conf->settings[i].key, "kv.dtype") != 0)
            out[n++] = conf->settings[i];
    return n;
}

static int32_t open_run(void *arg, const char *engine, uint32_t max_len, run_tap tap, void *tap_arg,
                        void **run, tn_err *err)
{
    const struct tool_conf *conf = arg;
    tn_kv settings[MAX_SETTINGS];
    char len[16];
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    struct runtime_tap watch = {on_launch, NULL};
    struct running *r = mem_zalloc(sizeof *r);
    uint32_t n = 0;
    int32_t rc;

    if (!r)
        return err_nomem(err, "running a model");
    r->tap = tap;
    r->tap_arg = tap_arg;
    watch.arg = r;
    snprintf(len, sizeof len, "%u", max_len);
    n = copy_settings(conf, settings);
    settings[n++] = (tn_kv){"scheduler.max_batch_size", "1"};
    settings[n++] = (tn_kv){"scheduler.max_seq_len", len};
    settings[n++] = (tn_kv){"kernels.graphs", "false"};
    settings[n++] = (tn_kv){"parallel.tp_size", "1"};
    settings[n++] = (tn_kv){"parallel.pp_size", "1"};
    if (tap)
        settings[n++] = (tn_kv){"kernels.fusion", "false"};
    o.engine = engine;
    o.config = conf->path;
    o.settings = settings;
    o.n_settings = n;
    rc = runtime_open(&o, tap ? &watch : NULL, &r->rt, err);
    if (rc != TN_OK) {
        close_run(r);
        return rc;
    }
    *run = r;
    return TN_OK;
}

static void ignore_logits(void *arg, const float *logits, uint32_t first, uint32_t n,
                          uint32_t vocab)
{
    (void)arg, (void)logits, (void)first, (void)n, (void)vocab;
}

static int32_t run_ids(void *run, const int32_t *ids, uint32_t n, run_logits fn, void *arg,
                       tn_err *err)
{
    struct running *r = run;
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    tn_event ev = TN_EVENT_INIT;
    tn_request *req = NULL;
    int32_t rc;

    p.prompt = ids;
    p.n_prompt = n;
    p.max_new_tokens = 0;
    p.on_logits = fn ? fn : ignore_logits;
    p.arg = arg;
    rc = tn_submit(r->rt, &p, &req, err);
    if (rc != TN_OK)
        return rc;
    do {
        rc = tn_next_event(req, -1, &ev, err);
    } while (rc == TN_OK && ev.kind != TN_EVENT_FINISHED);
    if (rc == TN_OK && ev.finish != TN_FINISH_LENGTH)
        rc = tn_err_set(err, ev.status ? ev.status : TN_E_INTERNAL, "%s", ev.message);
    tn_release(req);
    return rc;
}

static int32_t probe(void *arg, const char *engine, char *op, size_t size, tn_err *err)
{
    const struct tool_conf *conf = arg;
    struct instance *in = NULL;
    struct session s;
    const char *name;
    tn_kv settings[MAX_SETTINGS];
    struct tool_conf own = {conf->path, settings, copy_settings(conf, settings)};
    int32_t rc = session_dry(&own, engine, &s, &in, err);

    if (rc != TN_OK)
        return rc;
    name = binding_fallback(in->ranks[0]->binding);
    snprintf(op, size, "%s", name ? name : "");
    instance_close(in);
    session_close(&s);
    return TN_OK;
}

struct runner api_runner(const struct tool_conf *conf)
{
    return (struct runner){(void *)(uintptr_t)conf, open_run, run_ids, close_run, probe};
}
