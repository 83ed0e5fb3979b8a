/* SPDX-License-Identifier: Apache-2.0 */
/* tools.h: plugins and building, the tools that load plugins. */
#include <inttypes.h>
#include <stdio.h>

#include "api/runner.h"
#include "api/runtime.h"
#include "api/session.h"
#include "api/tools.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/strbuf.h"
#include "build/build.h"
#include "engine/names.h"
#include "exec/judge.h"
#include "loop/crew.h"
#include "loop/loop.h"
#include "loop/rank.h"
#include "loop/tune.h"

/* -- build --------------------------------------------------------------------------------------------- */

static int32_t parse_dtype(const char *name, uint32_t *dtype, tn_err *err)
{
    *dtype = 0;
    if (!name || strcmp(name, "auto") == 0)
        return TN_OK;
    *dtype = dtype_number(name);
    if (*dtype == TN_DT_F32 || *dtype == TN_DT_F16 || *dtype == TN_DT_BF16)
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--dtype",
                  "is \"%s\"; auto, float32, float16 and bfloat16 are supported", name);
}

/* The cache's dtype that the user named on the command line becomes the engine's default; 0: none. */
static uint32_t kv_default(const struct conf *conf)
{
    const char *name = conf_text(conf, CONF_KV_DTYPE);

    if (conf_origin(conf, CONF_KV_DTYPE, NULL) != CONF_FROM_FLAG || strcmp(name, "auto") == 0)
        return 0;
    return strcmp(name, "fp8") == 0    ? TN_DT_F8E4M3
           : strcmp(name, "int8") == 0 ? TN_DT_I8
                                       : dtype_number(name);
}

static struct token_set tokens_of(const struct tool_tokens *t)
{
    return t ? (struct token_set){t->ids, t->begin, t->n_seqs, t->path} : (struct token_set){0};
}

int32_t tool_build_engine(const struct tool_build *b, json_t **out, tn_err *err)
{
    struct build_options o = {.model = b->model,
                              .output = b->output,
                              .dummy = b->dummy,
                              .max_batch_size = b->max_batch_size,
                              .max_input_len = b->max_input_len,
                              .max_output_len = b->max_output_len,
                              .max_num_tokens = b->max_num_tokens,
                              .tp_size = b->tp_size,
                              .pp_size = b->pp_size,
                              .quant = {.scheme = b->quant,
                                        .dequantize = b->dequantize,
                                        .options = b->quant_options,
                                        .n_options = b->n_quant_options},
                              .quiet = b->quiet,
                              .stop = b->stop,
                              .arg = b->arg};
    struct token_set calib = tokens_of(b->calib), eval = tokens_of(b->eval);
    struct runner runner = api_runner(&b->conf);
    struct build_report r;
    struct session s;
    int32_t rc = parse_dtype(b->dtype, &o.dtype, err);

    if (rc == TN_OK)
        rc = session_open(&b->conf, &s, err);
    if (rc != TN_OK)
        return rc;
    o.registry = s.registry;
    o.quant.kv_dtype = kv_default(s.conf);
    o.quant.calib = b->calib ? &calib : NULL;
    o.quant.eval = b->eval ? &eval : NULL;
    o.quant.calib_seed = b->calib_seed;
    o.quant.stats = b->calib_stats;
    o.quant.max_ppl_increase = b->max_ppl_increase;
    o.quant.max_kl = b->max_kl;
    o.quant.fp8_as_float16 = b->fp8_as_float16;
    o.quant.kv_nearest = b->kv_nearest;
    o.quant.runner = &runner;
    rc = build_engine(&o, &r, err);
    session_close(&s);
    if (rc != TN_OK)
        return rc;
    *out = json_pack("{s:s, s:s, s:I, s:I, s:f, s:s?, s:s?, s:i, s:i}", "model_type", r.model_type,
                     "dtype", r.dtype, "engine_bytes", (json_int_t)r.engine_bytes, "weights",
                     (json_int_t)r.n_weights, "seconds", r.seconds, "quant",
                     r.scheme[0] ? r.scheme : NULL, "fp8_fallback", r.fp8_fallback, "linears",
                     (int)r.n_linears, "quantized", (int)r.n_quantized);
    return *out ? TN_OK : err_nomem(err, "a report");
}

/* -- plugin list --------------------------------------------------------------------------------------- */

static json_t *kinds_json(uint32_t kinds)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {{TN_KIND_MODEL, "model"},
                 {TN_KIND_QUANT, "quant"},
                 {TN_KIND_COMM, "comm"},
                 {TN_KIND_KERNELS, "kernels"},
                 {TN_KIND_DEVICE, "device"}};
    json_t *list = json_array();

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (kinds & names[i].bit)
            json_array_append_new(list, json_string(names[i].name));
    return list;
}

static json_t *variants_json(const struct registry_view *view, const char *plugin)
{
    const struct registry_iface *items;
    uint32_t n = registry_ifaces(view, TN_IFACE_KERNELS, &items);
    json_t *list = json_array();

    for (uint32_t i = 0; i < n; i++) {
        const tn_kernel_set *set = items[i].vtbl;
        if (strcmp(items[i].plugin_name, plugin) != 0)
            continue;
        for (uint32_t k = 0; k < set->n_variants; k++)
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:s, s:s?}", "name", set->variants[k]->name,
                                            "op", set->variants[k]->op, "device", set->device,
                                            "equals", set->variants[k]->equals));
    }
    return list;
}

/* The whole error but for plugin and file, which stand beside it. */
static void put_reason(const tn_err *err, struct strbuf *out)
{
    tn_err e = *err;

    if (e.code == TN_OK)
        return;
    e.plugin[0] = e.file[0] = '\0';
    err_print(&e, out);
}

static json_t *candidate_json(const struct registry_view *view, const struct registry_info *info,
                              const char *digest)
{
    static const char *const states[] = {"loaded", "disabled", "refused"};
    struct strbuf reason = STRBUF_INIT;
    json_t *o;

    put_reason(info->err, &reason);
    o = json_pack("{s:s, s:s, s:s, s:o, s:s, s:s, s:s, s:s, s:s}", "name", info->name, "vendor",
                  info->vendor, "version", info->version, "kinds", kinds_json(info->kinds), "state",
                  states[info->state], "path", info->path, "sha256", digest, "class",
                  info->swap_class == TN_CLASS_SWAP ? "swap" : "pin", "reason",
                  strbuf_str(&reason));
    strbuf_release(&reason);
    if (info->state == REGISTRY_LOADED && (info->kinds & TN_KIND_KERNELS))
        json_object_set_new(o, "variants", variants_json(view, info->name));
    return o;
}

int32_t tool_plugin_list(const struct tool_conf *c, json_t **out, tn_err *err)
{
    const struct registry_view *view;
    struct session s;
    json_t *list = json_array();
    int32_t rc = list ? session_open(c, &s, err) : err_nomem(err, "a list");

    if (rc != TN_OK) {
        json_decref(list);
        return rc;
    }
    view = registry_acquire(s.registry);
    for (uint32_t i = 0; i < registry_count(s.registry); i++) {
        struct registry_info info;
        char digest[SHA256_HEX];
        registry_info(s.registry, i, &info);
        registry_digest(s.registry, i, digest);
        json_array_append_new(list, candidate_json(view, &info, digest));
    }
    registry_release(view);
    session_close(&s);
    *out = list;
    return TN_OK;
}

/* -- plugin explain ------------------------------------------------------------------------------------ */

static json_t *variant_name(const struct candidate *c)
{
    return json_sprintf("%s/%s", c->source->plugin, c->v->name);
}

/* The numbers of rows for which it runs, as pairs of the first and the last. */
static json_t *turns_json(const struct selected *s)
{
    uint32_t served = s->choice.ranges[s->choice.n - 1].max_rows;
    json_t *list = json_array();

    for (uint32_t i = (s->n_turns + 1) / 2 * 2; i > 0; i -= 2) {
        uint32_t first = i < s->n_turns + 1 ? s->turns[i - 1] + 1 : 1, last = s->turns[i - 2];
        json_array_append_new(
            list, json_pack("[i, i]", (int)first, (int)(last < served ? last : served)));
    }
    return list;
}

static json_t *op_json(const struct selected *s)
{
    json_t *chosen = json_array(), *losers = json_array(), *members = json_array();

    for (uint32_t i = 0; i < s->choice.n; i++)
        json_array_append_new(
            chosen,
            json_pack("{s:o, s:i, s:b, s:b}", "variant",
                      variant_name(s->choice.ranges[i].candidate), "max_rows",
                      (int)s->choice.ranges[i].max_rows, "measured",
                      (int)judge_measured(s->choice.ranges[i].candidate, s->op), "fallback",
                      (s->choice.ranges[i].candidate->v->flags & TN_VARIANT_FALLBACK) != 0));
    for (const struct verdict *v = s->losers; v; v = v->next)
        json_array_append_new(losers, json_pack("{s:o, s:s}", "variant", variant_name(v->candidate),
                                                "reason", v->reason));
    for (uint32_t i = 0; i < s->op->op.n_members; i++)
        json_array_append_new(members, json_string(s->op->op.members[i]->name));
    return json_pack("{s:s, s:o, s:o, s:o, s:o}", "op", s->op->op.name, "replaces", members, "rows",
                     turns_json(s), "chosen", chosen, "losers", losers);
}

/* Layers mostly look alike: an op that repeats with the same verdicts is told once, with its layers. */
static void append_op(json_t *ops, const struct selected *s)
{
    json_t *o = op_json(s), *layer = json_integer(s->op->op.layer);
    size_t i;

    for (i = 0; i < json_array_size(ops); i++) {
        json_t *other = json_array_get(ops, i), *layers = json_object_get(other, "layers");
        json_incref(layers);
        json_object_del(other, "layers");
        if (json_equal(o, other)) {
            if (json_equal(json_array_get(layers, json_array_size(layers) - 1), layer))
                json_decref(layer); /* twice in one layer */
            else
                json_array_append_new(layers, layer);
            json_object_set_new(other, "layers", layers);
            json_decref(o);
            return;
        }
        json_object_set_new(other, "layers", layers);
    }
    json_object_set_new(o, "layers", json_pack("[o]", layer));
    json_array_append_new(ops, o);
}

/* Who joins the ranks, if there are several. */
static json_t *joined_json(const struct instance *in)
{
    static const char *const groups[] = {"tensor", "pipeline"};
    json_t *list = json_array();

    for (int i = 0; i < 2; i++) {
        const char *why = NULL, *plugin = crew_joined_by(in->crew, i == 1, &why);
        if (plugin)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "group", groups[i], "plugin",
                                                  plugin, "why", why));
    }
    return list;
}

static json_t *explanation(const struct instance *in)
{
    const struct rank *r = in->ranks[0];
    const struct selection *s = binding_selection(r->binding);
    json_t *ops = json_array();

    for (size_t i = 0; i < s->n_ops; i++)
        append_op(ops, &s->ops[i]);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s?, s:o, s:o}", "device", r->place, "device_name",
                     r->info.name, "activation_dtype", tn_dtype_name(r->act_dtype), "kv_dtype",
                     tn_dtype_name(r->kv_dtype), "kv_layout",
                     s->kv_layout ? s->kv_layout->name : "", "fallback",
                     binding_fallback(r->binding) ? rank_fallback_text(r) : NULL, "comm",
                     joined_json(in), "ops", ops);
}

int32_t tool_plugin_explain(const struct tool_conf *c, const char *engine, json_t **out,
                            tn_err *err)
{
    struct instance *in = NULL;
    struct session s;
    int32_t rc = session_dry(c, engine, &s, &in, err);

    if (rc != TN_OK)
        return rc;
    *out = explanation(in);
    rc = *out ? TN_OK : err_nomem(err, "an explanation");
    instance_close(in);
    session_close(&s);
    return rc;
}

/* -- tune ----------------------------------------------------------------------------------------------- */

struct tune_progress {
    struct progress bar;
    int (*stop)(void *);
    void *arg;
};

static int on_tuned(void *arg, uint32_t done, uint32_t total)
{
    struct tune_progress *p = arg;

    p->bar.total = total;
    progress_update(&p->bar, done);
    return p->stop ? p->stop(p->arg) : 0;
}

static int32_t tune_instance(struct instance *in, struct tune_progress *p, json_t **out,
                             tn_err *err)
{
    struct rank *r = in->ranks[0];
    struct tune_options o = {.rank = r, .tuning = r->tuning, .progress = on_tuned, .arg = p};
    uint64_t begin = clock_ns();
    char *path;
    int32_t rc;

    if (!in->engine->dir)
        return tn_err_set(err, TN_E_INVALID, "the engine is no directory to keep times in");
    path = path_join(in->engine->dir, TUNING_FILE);
    if (!path)
        return err_nomem(err, "measuring kernels");
    rc = tune_rank(&o, r->binding, err);
    if (rc == TN_OK)
        rc = tuning_save(r->tuning, path, err);
    if (rc == TN_OK)
        *out =
            json_pack("{s:s, s:s, s:i, s:f}", "device", r->place, "file", path, "times",
                      (int)tuning_count(r->tuning), "seconds", (double)(clock_ns() - begin) / 1e9);
    mem_free(path);
    return rc;
}

int32_t tool_tune(const struct tool_conf *c, const char *engine, bool quiet, int (*stop)(void *),
                  void *arg, json_t **out, tn_err *err)
{
    struct tune_progress p = {.stop = stop, .arg = arg};
    struct instance *in = NULL;
    struct session s;
    int32_t rc = session_dry(c, engine, &s, &in, err);

    if (rc != TN_OK)
        return rc;
    progress_begin(&p.bar, "measuring", 1, quiet);
    p.bar.counted = true;
    rc = tune_instance(in, &p, out, err);
    progress_end(&p.bar, rc == TN_OK);
    instance_close(in);
    session_close(&s);
    return rc;
}

/* -- memory ---------------------------------------------------------------------------------------------- */

static json_t *line_json(const char *owner, const char *place, uint64_t bytes)
{
    return json_pack("{s:s, s:s, s:I}", "owner", owner, "place", place, "bytes", (json_int_t)bytes);
}

#define MAX_LINES 64

static int32_t account(struct instance *in, uint32_t n_pages, const struct binding *b, json_t **out,
                       tn_err *err)
{
    struct rank *r = in->ranks[0];
    struct ledger_line lines[MAX_LINES];
    uint32_t n = ledger_list(in->o.ledger, lines, MAX_LINES);
    uint64_t host = 0, device = 0, left = 0, total = 0;
    json_t *list = json_array();
    int32_t rc = loop_array_bytes(in, &r->info, &host, &device, err);

    if (rc == TN_OK)
        rc = in->api->mem_info(r->device, &left, &total, err);
    for (uint32_t i = 0; i < n && i < MAX_LINES; i++)
        if (lines[i].bytes > 0)
            json_array_append_new(list, line_json(lines[i].owner, lines[i].place, lines[i].bytes));
    json_array_append_new(list, line_json("step arrays", r->place, device));
    if (host > 0)
        json_array_append_new(list, line_json("step arrays", "host", host));
    *out = json_pack("{s:s, s:I, s:i, s:I, s:o}", "device", r->place, "free_bytes",
                     (json_int_t)left, "kv_pages", (int)n_pages, "kv_page_bytes",
                     (json_int_t)binding_page_bytes(b), "bytes", list);
    return rc != TN_OK ? rc : *out ? TN_OK : err_nomem(err, "an account of memory");
}

int32_t tool_memory(const struct tool_conf *c, const char *engine, json_t **out, tn_err *err)
{
    struct instance *in = NULL;
    struct binding *b = NULL;
    struct session s;
    uint32_t n_pages = 0;
    int32_t rc = session_dry(c, engine, &s, &in, err);

    if (rc != TN_OK)
        return rc;
    rc = rank_count(in->ranks[0], &b, &n_pages, err);
    in->n_pages = n_pages;
    if (rc == TN_OK)
        rc = account(in, n_pages, b, out, err);
    binding_free(b);
    instance_close(in);
    session_close(&s);
    return rc;
}
