/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/instance.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/names.h"
#include "plugin/cpu.h"

/* -- Plugins ------------------------------------------------------------------------------------------- */

static uint32_t plugin_config(const void *arg, const char *plugin, const tn_kv **items)
{
    return conf_plugin_group(arg, plugin, items);
}

int32_t instance_registry(const struct conf *conf, struct ledger *ledger, struct registry **out,
                          tn_err *err)
{
    struct registry_options o = {.allow =
                                     (enum registry_allow)conf_choice(conf, CONF_PLUGINS_ALLOW),
                                 .config = plugin_config,
                                 .config_arg = conf,
                                 .ledger = ledger};

    o.n_paths = conf_list(conf, CONF_PLUGINS_PATH, &o.paths);
    o.n_disable = conf_list(conf, CONF_PLUGINS_DISABLE, &o.disable);
    o.n_kernel_sets = conf_list(conf, CONF_KERNELS_SETS, &o.kernel_sets);
    o.n_libraries = conf_list(conf, CONF_PLUGINS_LIBRARIES, &o.libraries);
    o.n_digests = conf_list(conf, CONF_PLUGINS_DIGESTS, &o.digests);
    return registry_open(&o, out, err);
}

/* -- The device ---------------------------------------------------------------------------------------- */

/* With "auto": the first kind that has a device and is not the host itself, else the host. */
static int32_t find_kind(struct instance *in, const char **kind, tn_err *err)
{
    const struct registry_iface *items;
    uint32_t n = registry_ifaces(in->view, TN_IFACE_DEVICE, &items);
    const char *host = NULL;

    *kind = conf_text(in->o.conf, CONF_DEVICE_KIND);
    if (strcmp(*kind, "auto") != 0)
        return TN_OK;
    for (uint32_t i = 0; i < n; i++) {
        const tn_device_api *api = items[i].vtbl;
        tn_device_info info = {.h = TN_HDR(tn_device_info)};
        uint32_t count = 0;
        if (api->count(items[i].instance, &count, NULL) != TN_OK || count == 0 ||
            api->info(items[i].instance, 0, &info, NULL) != TN_OK)
            continue;
        if (!(info.flags & TN_DEVICE_HOST_MEMORY)) {
            *kind = api->kind;
            return TN_OK;
        }
        host = host ? host : api->kind;
    }
    if (!host) {
        tn_err_set(err, TN_E_NOTFOUND, "no loaded plugin provides a device");
        err_remedy(err, "see `tenon plugin list` and plugins.path in the configuration");
        return TN_E_NOTFOUND;
    }
    *kind = host;
    return TN_OK;
}

static int32_t open_device(struct instance *in, tn_err *err)
{
    uint32_t index = (uint32_t)conf_int(in->o.conf, CONF_DEVICE_INDEX), count = 0;
    const char *kind = NULL;
    int32_t rc;

    if ((rc = find_kind(in, &kind, err)) != TN_OK ||
        (rc = registry_device(in->view, kind, &in->api, &in->device_instance, err)) != TN_OK ||
        (rc = in->api->count(in->device_instance, &count, err)) != TN_OK)
        return rc;
    if (index >= count) {
        err_at(err, TN_E_NOTFOUND, NULL, TN_NO_OFFSET, "device.index",
               "is %" PRIu32 ", but there are %" PRIu32 " devices of kind %s", index, count, kind);
        return TN_E_NOTFOUND;
    }
    in->info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    rc = in->api->info(in->device_instance, index, &in->info, err);
    if (rc == TN_OK)
        rc = in->api->open(in->device_instance, index, &in->device, err);
    snprintf(in->place, sizeof in->place, "%s:%" PRIu32, kind, index);
    if (rc != TN_OK)
        err_plugin(err, registry_plugin_of(in->view, in->api));
    return rc;
}

static int32_t attach_sets(struct instance *in, tn_err *err)
{
    int32_t rc = registry_kernel_sets(in->view, in->api->kind, &in->sets, err);

    for (uint32_t i = 0; i < in->sets.count && rc == TN_OK; i++) {
        const struct registry_set *s = &in->sets.items[i];
        if (s->set->attach)
            rc = s->set->attach(s->instance, in->api, in->device, err);
        if (rc != TN_OK) {
            err_plugin(err, s->plugin_name);
            return rc;
        }
        in->sources[in->n_attached++] = (struct kernel_source){s->plugin_name, s->set, s->instance};
    }
    return rc;
}

/* -- Limits -------------------------------------------------------------------------------------------- */

/* The configuration's number if somebody set it, else the engine's. */
static uint32_t limit(const struct instance *in, enum conf_key key, int64_t engine)
{
    bool set = conf_origin(in->o.conf, key, NULL) != CONF_FROM_DEFAULT;
    int64_t v = conf_int(in->o.conf, key);

    return (uint32_t)(set && v > 0 ? v : engine);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static int32_t set_limits(struct instance *in, tn_err *err)
{
    const struct plan *p = in->engine->plan;
    uint32_t positions = (uint32_t)plan_hyper_int(p, TN_HP_MAX_POSITIONS, 1);

    in->vocab = (uint32_t)plan_hyper_int(p, TN_HP_VOCAB, 1);
    in->block_tokens = (uint32_t)conf_int(in->o.conf, CONF_KV_BLOCK_TOKENS);
    in->max_seq_len =
        limit(in, CONF_SCHED_MAX_SEQ_LEN,
              least(positions, (uint32_t)(in->meta.max_input_len + in->meta.max_output_len)));
    if (in->max_seq_len > positions) {
        err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "scheduler.max_seq_len",
               "is %" PRIu32 ", but the model is made for %" PRIu32 " positions", in->max_seq_len,
               positions);
        return TN_E_CONFIG;
    }
    in->max_input_len =
        least(limit(in, CONF_LIMITS_INPUT, in->meta.max_input_len), in->max_seq_len);
    in->max_output_len =
        least(limit(in, CONF_LIMITS_OUTPUT, in->meta.max_output_len), in->max_seq_len);
    in->max_batch_size = limit(in, CONF_SCHED_MAX_BATCH, in->meta.max_batch_size);
    in->max_num_tokens = limit(in, CONF_SCHED_MAX_TOKENS, in->meta.max_num_tokens);
    /* A step never needs more rows than all its sequences could have. */
    if (in->max_num_tokens / in->max_batch_size >= in->max_seq_len)
        in->max_num_tokens = in->max_batch_size * in->max_seq_len;
    if (in->max_num_tokens < in->max_batch_size)
        in->max_num_tokens = in->max_batch_size;
    if (in->max_num_tokens < in->block_tokens)
        in->max_num_tokens = in->block_tokens;
    return TN_OK;
}

/* Rows of logits per step: one per sequence, and room for whole prompts when somebody asks for their logits, as
 * far as 256 MiB go. */
static uint32_t logits_rows(const struct instance *in)
{
    uint64_t fit = 256 * MIB / (in->vocab * sizeof(float));

    if (fit > in->max_num_tokens)
        fit = in->max_num_tokens;
    return fit > in->max_batch_size ? (uint32_t)fit : in->max_batch_size;
}

static void set_dtypes(struct instance *in)
{
    const char *act = conf_text(in->o.conf, CONF_DEVICE_DTYPE);
    const char *kv = conf_text(in->o.conf, CONF_KV_DTYPE);

    in->act_dtype = strcmp(act, "auto") == 0 ? in->api->act_dtype(in->device, in->meta.dtype)
                                             : dtype_number(act);
    in->kv_dtype = strcmp(kv, "auto") == 0   ? in->meta.dtype
                   : strcmp(kv, "fp8") == 0  ? TN_DT_F8E4M3
                   : strcmp(kv, "int8") == 0 ? TN_DT_I8
                                             : dtype_number(kv);
}

/* -- Binding ------------------------------------------------------------------------------------------- */

static int32_t copy_pins(struct instance *in, uint32_t *n, tn_err *err)
{
    const struct conf_pin *pins;
    uint32_t count = conf_pins(in->o.conf, &pins);

    *n = 0;
    in->pins = mem_zarray(count, sizeof *in->pins);
    if (!in->pins)
        return err_nomem(err, "pins");
    for (uint32_t i = 0; i < count; i++)
        if (pins[i].device[0] == '\0' || strcmp(pins[i].device, in->place) == 0)
            in->pins[(*n)++] = (struct pin){pins[i].op, pins[i].variant};
    return TN_OK;
}

static int32_t bind_engine(struct instance *in, tn_err *err)
{
    struct bind_options o = {.engine = in->engine,
                             .api = in->api,
                             .device = in->device,
                             .place = in->place,
                             .ledger = in->o.ledger,
                             .topo = TOPOLOGY_SINGLE,
                             .select = {.sources = in->sources,
                                        .n_sources = in->n_attached,
                                        .device = &in->info,
                                        .device_kind = in->api->kind,
                                        .act_dtype = in->act_dtype,
                                        .kv_dtype = in->kv_dtype,
                                        .max_rows = in->max_num_tokens,
                                        .max_logits = in->max_logits,
                                        .fusion = conf_bool(in->o.conf, CONF_KERNELS_FUSION)},
                             .max_seqs = in->max_batch_size,
                             .max_context = in->max_seq_len,
                             .block_tokens = in->block_tokens,
                             .progress = in->o.progress,
                             .arg = in->o.arg,
                             .dry = in->o.dry};
    int32_t rc = copy_pins(in, &o.select.n_pins, err);

    if (rc != TN_OK)
        return rc;
    o.select.pins = in->pins;
    cpu_features(o.select.cpu);
    return binding_new(&o, &in->binding, err);
}

/* As many pages as all sequences could fill, as far as the memory allowed for the cache goes. */
static int32_t size_cache(struct instance *in, tn_err *err)
{
    uint64_t page = binding_page_bytes(in->binding);
    uint64_t want = (uint64_t)in->max_batch_size * ceil_div(in->max_seq_len, in->block_tokens);
    uint64_t cap = (uint64_t)conf_int(in->o.conf, CONF_KV_MAX_BYTES);
    uint64_t free_bytes = 0, total = 0, budget, fit;
    int32_t rc;

    rc = in->api->mem_info(in->device, &free_bytes, &total, err);
    if (rc != TN_OK)
        return rc;
    budget = (uint64_t)((double)free_bytes * conf_real(in->o.conf, CONF_KV_FRACTION));
    if (cap && cap < budget)
        budget = cap;
    fit = page ? budget / page : want;
    in->n_pages = (uint32_t)(fit < want ? fit : want);
    if (in->n_pages > LIMIT_KV_BLOCKS)
        in->n_pages = LIMIT_KV_BLOCKS;
    if (in->n_pages == 0) {
        err_at(err, TN_E_NOSPACE, NULL, TN_NO_OFFSET, "kv.max_bytes",
               "the cache may take %" PRIu64 " bytes, less than one page of %" PRIu64, budget,
               page);
        err_remedy(err, "free memory on %s, or raise kv.max_bytes or kv.free_mem_fraction",
                   in->place);
        return TN_E_NOSPACE;
    }
    log_info("%s: %" PRIu32 " cache pages of %" PRIu64 " bytes", in->place, in->n_pages, page);
    return binding_alloc_kv(in->binding, in->n_pages, err);
}

/* -- Opening ------------------------------------------------------------------------------------------- */

static int32_t check_topology(const struct instance *in, tn_err *err)
{
    if (in->meta.tp_size == 1 && in->meta.pp_size == 1)
        return TN_OK;
    log_info("the engine was built for tp %" PRId64 " x pp %" PRId64 "; running on one rank",
             in->meta.tp_size, in->meta.pp_size);
    (void)err;
    return TN_OK;
}

static int32_t assemble(struct instance *in, tn_err *err)
{
    int32_t rc;

    rc = engine_open(in->o.engine, &in->engine, err);
    if (rc == TN_OK)
        rc = engine_meta_read(in->engine->meta, in->engine->path,
                              plan_hyper_int(in->engine->plan, TN_HP_VOCAB, 1), &in->meta, err);
    if (rc != TN_OK || (rc = check_topology(in, err)) != TN_OK ||
        (rc = open_device(in, err)) != TN_OK || (rc = attach_sets(in, err)) != TN_OK ||
        (rc = set_limits(in, err)) != TN_OK)
        return rc;
    in->max_logits = logits_rows(in);
    set_dtypes(in);
    rc = bind_engine(in, err);
    return rc == TN_OK && !in->o.dry ? size_cache(in, err) : rc;
}

int32_t instance_open(const struct instance_options *o, struct instance **out, tn_err *err)
{
    struct instance *in = mem_zalloc(sizeof *in);
    int32_t rc;

    if (!in)
        return err_nomem(err, "a runtime");
    in->o = *o;
    in->view = registry_acquire(o->registry);
    rc = assemble(in, err);
    if (rc != TN_OK) {
        instance_close(in);
        return rc;
    }
    *out = in;
    return TN_OK;
}

void instance_close(struct instance *in)
{
    if (!in)
        return;
    binding_free(in->binding);
    while (in->n_attached > 0) {
        const struct kernel_source *s = &in->sources[--in->n_attached];
        if (s->set->detach)
            s->set->detach(s->instance, in->device);
    }
    if (in->device)
        in->api->close(in->device);
    engine_close(in->engine);
    registry_release(in->view);
    mem_free(in->pins);
    mem_free(in);
}
