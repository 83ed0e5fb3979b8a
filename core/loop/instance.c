/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/instance.h"

#include <inttypes.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/crew.h"

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

static int32_t find_device(struct instance *in, tn_err *err)
{
    const char *kind = NULL;
    int32_t rc = find_kind(in, &kind, err);

    if (rc == TN_OK)
        rc = registry_device(in->view, kind, &in->api, &in->device_instance, err);
    if (rc == TN_OK)
        rc = registry_kernel_sets(in->view, kind, &in->sets, err);
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

/* -- Opening ------------------------------------------------------------------------------------------- */

static int32_t assemble(struct instance *in, tn_err *err)
{
    int32_t rc;

    rc = engine_open(in->o.engine, &in->engine, err);
    if (rc == TN_OK)
        rc = engine_meta_read(in->engine->meta, in->engine->path,
                              plan_hyper_int(in->engine->plan, TN_HP_VOCAB, 1), &in->meta, err);
    if (rc != TN_OK || (rc = find_device(in, err)) != TN_OK || (rc = set_limits(in, err)) != TN_OK)
        return rc;
    in->max_logits = logits_rows(in);
    return crew_open(in, &in->crew, err);
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
    *out = rc == TN_OK || !instance_close(in) ? in : NULL;
    return rc;
}

bool instance_close(struct instance *in)
{
    if (!in)
        return true;
    if (!crew_close(in->crew))
        return false;
    engine_close(in->engine);
    registry_release(in->view);
    mem_free(in);
    return true;
}
