/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing runtimes: the public half of core/loop. */
#include "api/runtime.h"

#include <inttypes.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "loop/crew.h"

const char *tn_version(void)
{
    return TENON_VERSION;
}

const char *tn_status_text(int32_t code)
{
    return status_text(code);
}

/* -- Configuration -------------------------------------------------------------------------------------- */

static int32_t report_errors(const struct conf_errors *errors, tn_err *err)
{
    struct strbuf text = STRBUF_INIT;
    int32_t rc = conf_errors_first(errors, err);

    if (errors->count > 1) {
        /* All of them reach the log; the caller's record has room for one. */
        conf_errors_print(errors, &text);
        log_error("%s", strbuf_str(&text));
        err_prefix(err, "first of %" PRIu32 " errors", errors->count + errors->more);
    }
    strbuf_release(&text);
    return rc;
}

int32_t runtime_load_conf(const char *path, const tn_kv *settings, uint32_t n, struct conf **out,
                          tn_err *err)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *conf = NULL;
    int32_t rc = conf_load(path, &conf, &errors);

    if (rc != TN_OK)
        rc = report_errors(&errors, err);
    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        rc = conf_override(conf, settings[i].key, settings[i].value, err);
    if (rc == TN_OK && conf_check(conf, &errors) != TN_OK)
        rc = report_errors(&errors, err);
    conf_errors_release(&errors);
    if (rc != TN_OK) {
        conf_free(conf);
        return rc;
    }
    *out = conf;
    return TN_OK;
}

static void apply_log_level(const struct conf *conf)
{
    static const uint32_t levels[] = {TN_LOG_ERROR, TN_LOG_WARN, TN_LOG_INFO, TN_LOG_DEBUG};

    log_set_level(levels[conf_choice(conf, CONF_LOG_LEVEL)]);
}

/* -- Opening ---------------------------------------------------------------------------------------------- */

static int32_t open_parts(tn_runtime *rt, const tn_open_options *o, const struct runtime_tap *tap,
                          tn_err *err)
{
    struct instance_options io = {.engine = o->engine, .progress = o->progress, .arg = o->arg};
    int32_t rc;

    rc = runtime_load_conf(o->config, o->settings, o->n_settings, &rt->conf, err);
    if (rc != TN_OK)
        return rc;
    apply_log_level(rt->conf);
    if ((rc = ledger_new(&rt->ledger, err)) != TN_OK ||
        (rc = instance_registry(rt->conf, rt->ledger, &rt->registry, err)) != TN_OK)
        return rc;
    io.conf = rt->conf;
    io.registry = rt->registry;
    io.ledger = rt->ledger;
    io.tap = tap ? tap->fn : NULL;
    io.tap_arg = tap ? tap->arg : NULL;
    rc = instance_open(&io, &rt->instance, err);
    if (rc != TN_OK)
        return rc;
    return crew_leads(rt->instance->crew) ? loop_start(rt->instance, &rt->loop, err)
                                          : loop_follow(rt->instance, err);
}

int32_t tn_open(const tn_open_options *options, tn_runtime **out, tn_err *err)
{
    err_reset(err);
    if (!options || options->h.size < sizeof *options || !options->engine || !out)
        return tn_err_set(err, TN_E_INVALID, "tn_open needs options with an engine");
    return runtime_open(options, NULL, out, err);
}

int32_t runtime_open(const tn_open_options *options, const struct runtime_tap *tap,
                     tn_runtime **out, tn_err *err)
{
    tn_runtime *rt = mem_zalloc(sizeof *rt);
    int32_t rc;

    if (!rt)
        return err_nomem(err, "a runtime");
    rc = open_parts(rt, options, tap, err);
    if (rc != TN_OK) {
        tn_close(rt);
        return rc;
    }
    *out = rt;
    return TN_OK;
}

/* Runtimes with a rank that is still somewhere in a plugin, and uses what would be freed: they are kept, within reach of whoever
 * looks for leaks. */
static _Atomic(tn_runtime *) left_behind;

void tn_close(tn_runtime *rt)
{
    uint64_t left;

    if (!rt)
        return;
    loop_stop(rt->loop);
    if (!instance_close(rt->instance)) {
        log_error("a rank does not come back; what it holds is given back when the process ends");
        rt->next = atomic_exchange(&left_behind, rt);
        return;
    }
    registry_close(rt->registry);
    left = rt->ledger ? ledger_total(rt->ledger) : 0;
    if (left > 0)
        log_error("%" PRIu64 " bytes are still booked after closing a runtime", left);
    ledger_free(rt->ledger);
    conf_free(rt->conf);
    mem_free(rt);
}

int32_t tn_follow(tn_runtime *rt, int (*stop)(void *arg), void *arg, tn_err *err)
{
    err_reset(err);
    if (crew_leads(rt->instance->crew))
        return tn_err_set(err, TN_E_INVALID, "this process leads the run; it follows nobody");
    return crew_follow(rt->instance->crew, stop, arg, err);
}

/* -- Asking ------------------------------------------------------------------------------------------------ */

/* Copies as much of a struct as its receiver knows. */
static void copy_known(void *dst, const void *src, uint32_t known, uint32_t size)
{
    tn_hdr h;

    memcpy(&h, dst, sizeof h);
    memcpy(dst, src, known < size ? known : size);
    memcpy(dst, &h, sizeof h);
}

static uint32_t default_output_len(const tn_runtime *rt)
{
    int64_t n = conf_int(rt->conf, CONF_LIMITS_DEFAULT_OUTPUT);
    uint32_t max = rt->instance->max_output_len;

    return n > 0 && n < max ? (uint32_t)n : max;
}

void tn_info(const tn_runtime *rt, tn_runtime_info *info)
{
    const struct instance *in = rt->instance;
    const struct rank *r = in->ranks[0];
    tn_runtime_info full = {.h = TN_HDR(tn_runtime_info),
                            .device = r->place,
                            .device_name = r->info.name,
                            .vocab = in->vocab,
                            .max_seq_len = in->max_seq_len,
                            .max_input_len = in->max_input_len,
                            .max_output_len = in->max_output_len,
                            .max_batch_size = in->max_batch_size,
                            .max_num_tokens = in->max_num_tokens,
                            .default_output_len = default_output_len(rt),
                            .max_stop_strings =
                                (uint32_t)conf_int(rt->conf, CONF_LIMITS_STOP_STRINGS),
                            .bos = (int32_t)in->meta.bos,
                            .n_eos = in->meta.n_eos,
                            .eos = in->meta.eos,
                            .weight_bytes = binding_weight_bytes(r->binding),
                            .streamed_bytes = binding_streamed_bytes(r->binding),
                            .kv_pages = in->n_pages,
                            .kv_page_tokens = in->block_tokens,
                            .kv_page_bytes = binding_page_bytes(r->binding),
                            .n_ranks = crew_world(in->crew),
                            .n_graphs = r->graphs.n,
                            .tune_ns = r->tune_ns,
                            .load_ns = binding_load_ns(r->binding),
                            .capture_ns = r->graphs.capture_ns};

    crew_processes(in->crew, &full.process, &full.n_processes);
    copy_known(info, &full, info->h.size, sizeof full);
}

int32_t tn_measure_bandwidth(tn_runtime *rt, double *bytes_per_s, tn_err *err)
{
    return binding_bandwidth(rt->instance->ranks[0]->binding, bytes_per_s, err);
}

void tn_stats(tn_runtime *rt, tn_runtime_stats *stats)
{
    struct loop_stats l;
    tn_runtime_stats full;
    tn_err why = TN_ERR_INIT;

    memset(&l, 0, sizeof l);
    l.last_progress_ns = clock_ns();
    if (rt->loop)
        loop_get_stats(rt->loop, &l);
    full = (tn_runtime_stats){.h = TN_HDR(tn_runtime_stats),
                              .n_running = l.sched.n_running,
                              .n_waiting = l.sched.n_waiting,
                              .kv_pages_used = l.sched.kv.n_held,
                              .kv_pages_cached = l.sched.kv.n_cached,
                              .n_steps = l.sched.steps,
                              .n_prompt_tokens = l.sched.prompt_tokens,
                              .n_cached_tokens = l.sched.cached_tokens,
                              .n_output_tokens = l.sched.output_tokens,
                              .n_preemptions = l.sched.preemptions,
                              .last_step_age_ns = clock_ns() - l.last_progress_ns};
    crew_moved(rt->instance->crew, &full.comm_calls, &full.comm_bytes);
    if (crew_failed(rt->instance->crew, &why))
        full.status = TN_E_COMM;
    copy_known(stats, &full, stats->h.size, sizeof full);
}
