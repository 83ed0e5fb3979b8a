/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/rank.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/names.h"
#include "plugin/cpu.h"

/* -- The device ---------------------------------------------------------------------------------------- */

static int32_t open_device(struct rank *r, tn_err *err)
{
    const struct instance *in = r->in;
    uint32_t index = r->o.device_index, count = 0;
    int32_t rc = in->api->count(in->device_instance, &count, err);

    if (rc == TN_OK && index >= count) {
        err_at(err, TN_E_NOTFOUND, NULL, TN_NO_OFFSET, "device.index",
               "is %" PRIu32 ", but there are %" PRIu32 " devices of kind %s", index, count,
               in->api->kind);
        return TN_E_NOTFOUND;
    }
    snprintf(r->place, sizeof r->place, "%s:%" PRIu32, in->api->kind, index);
    r->info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    if (rc == TN_OK)
        rc = in->api->info(in->device_instance, index, &r->info, err);
    if (rc == TN_OK)
        rc = in->api->open(in->device_instance, index, r->o.share, r->o.n_shares, &r->device, err);
    if (rc != TN_OK)
        err_plugin(err, registry_plugin_of(in->view, in->api));
    return rc;
}

static int32_t attach_sets(struct rank *r, tn_err *err)
{
    const struct registry_sets *sets = &r->in->sets;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < sets->count && rc == TN_OK; i++) {
        const struct registry_set *s = &sets->items[i];
        if (s->set->attach)
            rc = s->set->attach(s->instance, r->in->api, r->device, err);
        if (rc != TN_OK) {
            err_plugin(err, s->plugin_name);
            return rc;
        }
        r->sources[r->n_attached++] = (struct kernel_source){s->plugin_name, s->set, s->instance};
    }
    return rc;
}

static void set_dtypes(struct rank *r)
{
    const struct instance *in = r->in;
    const char *act = conf_text(in->o.conf, CONF_DEVICE_DTYPE);
    const char *kv = conf_text(in->o.conf, CONF_KV_DTYPE);

    r->act_dtype = strcmp(act, "auto") == 0 ? in->api->act_dtype(r->device, in->meta.dtype)
                                            : dtype_number(act);
    r->kv_dtype = strcmp(kv, "auto") == 0   ? r->act_dtype
                  : strcmp(kv, "fp8") == 0  ? TN_DT_F8E4M3
                  : strcmp(kv, "int8") == 0 ? TN_DT_I8
                                            : dtype_number(kv);
}

/* -- Binding ------------------------------------------------------------------------------------------- */

static int32_t copy_pins(struct rank *r, uint32_t *n, tn_err *err)
{
    const struct conf_pin *pins;
    uint32_t count = conf_pins(r->in->o.conf, &pins);

    *n = 0;
    r->pins = mem_zarray(count, sizeof *r->pins);
    if (!r->pins)
        return err_nomem(err, "pins");
    for (uint32_t i = 0; i < count; i++)
        if (pins[i].device[0] == '\0' || strcmp(pins[i].device, r->place) == 0)
            r->pins[(*n)++] = (struct pin){pins[i].op, pins[i].variant};
    return TN_OK;
}

static int32_t bind_engine(struct rank *r, tn_err *err)
{
    const struct instance *in = r->in;
    struct bind_options o = {.engine = in->engine,
                             .api = in->api,
                             .device = r->device,
                             .place = r->place,
                             .ledger = in->o.ledger,
                             .topo = r->o.topo,
                             .select = {.sources = r->sources,
                                        .n_sources = r->n_attached,
                                        .device = &r->info,
                                        .device_kind = in->api->kind,
                                        .act_dtype = r->act_dtype,
                                        .kv_dtype = r->kv_dtype,
                                        .max_rows = in->max_num_tokens,
                                        .max_logits = in->max_logits,
                                        .fusion = conf_bool(in->o.conf, CONF_KERNELS_FUSION)},
                             .max_seqs = in->max_batch_size,
                             .max_context = in->max_seq_len,
                             .block_tokens = in->block_tokens,
                             .progress = in->o.progress,
                             .arg = in->o.arg,
                             .dry = in->o.dry};
    int32_t rc = copy_pins(r, &o.select.n_pins, err);

    if (rc != TN_OK)
        return rc;
    o.select.pins = r->pins;
    cpu_features(o.select.cpu);
    return binding_new(&o, &r->binding, err);
}

/* -- Opening ------------------------------------------------------------------------------------------- */

int32_t rank_open(const struct instance *in, const struct rank_options *o, struct rank **out,
                  tn_err *err)
{
    struct rank *r = mem_zalloc(sizeof *r);
    int32_t rc;

    if (!r)
        return err_nomem(err, "a rank");
    r->in = in;
    r->o = *o;
    rc = open_device(r, err);
    if (rc == TN_OK)
        rc = attach_sets(r, err);
    if (rc == TN_OK) {
        set_dtypes(r);
        rc = bind_engine(r, err);
    }
    if (rc != TN_OK) {
        rank_close(r);
        return rc;
    }
    *out = r;
    return TN_OK;
}

void rank_close(struct rank *r)
{
    if (!r)
        return;
    step_arrays_release(&r->arrays);
    binding_free(r->binding);
    while (r->n_attached > 0) {
        const struct kernel_source *s = &r->sources[--r->n_attached];
        if (s->set->detach)
            s->set->detach(s->instance, r->device);
    }
    if (r->device)
        r->in->api->close(r->device);
    mem_free(r->pins);
    mem_free(r);
}

int32_t rank_fit_pages(const struct rank *r, uint32_t *n, tn_err *err)
{
    const struct instance *in = r->in;
    uint64_t page = binding_page_bytes(r->binding);
    uint64_t want = (uint64_t)in->max_batch_size * ceil_div(in->max_seq_len, in->block_tokens);
    uint64_t cap = (uint64_t)conf_int(in->o.conf, CONF_KV_MAX_BYTES);
    uint64_t free_bytes = 0, total = 0, budget, fit;
    int32_t rc = in->api->mem_info(r->device, &free_bytes, &total, err);

    if (rc != TN_OK)
        return rc;
    budget =
        (uint64_t)((double)free_bytes * conf_real(in->o.conf, CONF_KV_FRACTION)) / r->o.n_shares;
    if (cap && cap < budget)
        budget = cap;
    fit = page ? budget / page : want;
    fit = fit < want ? fit : want;
    *n = fit < LIMIT_KV_BLOCKS ? (uint32_t)fit : LIMIT_KV_BLOCKS;
    if (*n == 0) {
        err_at(err, TN_E_NOSPACE, NULL, TN_NO_OFFSET, "kv.max_bytes",
               "the cache may take %" PRIu64 " bytes, less than one page of %" PRIu64, budget,
               page);
        err_remedy(err, "free memory on %s, or raise kv.max_bytes or kv.free_mem_fraction",
                   r->place);
        return TN_E_NOSPACE;
    }
    return TN_OK;
}

int32_t rank_alloc_kv(struct rank *r, uint32_t n_pages, tn_err *err)
{
    log_info("%s: %" PRIu32 " cache pages of %" PRIu64 " bytes", r->place, n_pages,
             binding_page_bytes(r->binding));
    return binding_alloc_kv(r->binding, n_pages, err);
}

/* -- Steps --------------------------------------------------------------------------------------------- */

int32_t rank_prepare(struct rank *r, const struct sched *s, tn_err *err)
{
    if (!(r->info.flags & TN_DEVICE_HOST_MEMORY))
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "the step loop runs devices that compute in host memory; %s does not",
                          r->place);
    return step_arrays_init(&r->arrays, s, r->in->api, r->device, r->place, r->in->o.ledger, err);
}

int32_t rank_submit(struct rank *r, const struct sched *s, const struct sched_step *step,
                    tn_err *err)
{
    step_arrays_fill(&r->arrays, s, step);
    return binding_run(r->binding, &r->arrays.batch, err);
}

int32_t rank_wait(struct rank *r, struct rank_result *out, tn_err *err)
{
    *out = (struct rank_result){.sampled = r->arrays.sampled,
                                .logprob = r->arrays.logprob,
                                .logits = binding_logits(r->binding)};
    return binding_wait(r->binding, err);
}
