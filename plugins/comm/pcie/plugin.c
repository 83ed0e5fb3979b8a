/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comm plugin "pcie": ranks that are threads of one process, on devices that cannot reach each other's memory, or on any.
 * What cannot go directly goes through page-locked memory of the host.
 *
 *     pcie: { staged = false; spin_us = 50; };   staged = true: through the host even where there is a direct way
 *
 * It takes the settings of faults that the plugin local has, too.
 */
#include <string.h>

#include "tenon/plugin.h"
#include "window.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_COMM, .name = "pcie", .vendor = "tenon",
               .version = VERSION);

static int32_t join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    if (!how->info || (how->info->flags & TN_DEVICE_HOST_MEMORY)) {
        if (err)
            snprintf(err->remedy, sizeof err->remedy, "use --comm local");
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "pcie: moves the memory of devices, and this one "
                          "computes in the host's");
    }
    return group_join(instance, how, out, err);
}

static const tn_comm_backend backend = {
    .h = TN_HDR(tn_comm_backend),
    .name = "pcie",
    .flags = TN_COMM_DEVICE_MEMORY | TN_COMM_IN_PLACE | TN_COMM_DETERMINISTIC,
    .dtypes =
        TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16) | TN_DT_BIT(TN_DT_I32),
    .can_join = group_can_join,
    .make_id = group_make_id,
    .join = join,
    .leave = group_leave,
    .abort = group_abort,
    .async_error = group_error,
    .link = group_link,
    .all_reduce = call_all_reduce,
    .all_gather = call_all_gather,
    .reduce_scatter = call_reduce_scatter,
    .broadcast = call_broadcast,
    .send = message_send,
    .recv = message_recv,
    .barrier = call_barrier,
};

static int32_t setting(struct hub *l, const tn_kv *kv, tn_err *err)
{
    if (strcmp(kv->key, "staged") == 0) {
        l->staged = strcmp(kv->value, "true") == 0;
        if (l->staged || strcmp(kv->value, "false") == 0)
            return TN_OK;
        return tn_err_set(err, TN_E_CONFIG, "pcie: staged = \"%s\": must be true or false",
                          kv->value);
    }
    if (err)
        snprintf(err->remedy, sizeof err->remedy,
                 "known keys: staged, spin_us, fault, fault_rank, fault_call, fault_at, "
                 "fault_count, fault_ms");
    return TN_E_NOTFOUND;
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    const struct hub model = {.name = "pcie", .open = window_open, .close = window_close};

    return hub_new(host, &model, config, n_config, setting, instance, err);
}

static const tn_iface ifaces[] = {{.h = TN_HDR(tn_iface), .id = TN_IFACE_COMM, .vtbl = &backend}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "pcie",
    .vendor = "tenon",
    .version = VERSION,
    .n_ifaces = 1,
    .ifaces = ifaces,
    .init = init,
    .fini = hub_free,
};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
