/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin "hopper": kernels for NVIDIA's H100 and H200, beside those of the plugin "cuda". Descriptor and instance. */
#include "tenon/plugin.h"
#include "hopper.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_KERNELS, .name = "hopper",
               .vendor = "tenon", .version = VERSION,
               .gpus = {{.vendor = 0x10de, .major = 9, .minor = 0, .mode = TN_GPU_EXACT}});

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct hopper_instance *in;

    if (n_config) {
        if (err)
            snprintf(err->field, sizeof err->field, "%s", config[0].key);
        return tn_err_set(err, TN_E_CONFIG, "hopper: %s is no setting of this plugin; it has none",
                          config[0].key);
    }
    in = host->alloc(host->ctx, sizeof *in, 64);
    if (!in)
        return tn_err_set(err, TN_E_NOMEM, "hopper: no memory for an instance");
    in->host = host;
    *instance = in;
    return TN_OK;
}

static void fini(void *instance)
{
    struct hopper_instance *in = instance;

    if (in)
        in->host->free(in->host->ctx, in);
}

static const tn_iface ifaces[] = {
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_KERNELS, .vtbl = &hopper_kernel_set},
};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "hopper",
    .vendor = "tenon",
    .version = VERSION,
    .n_ifaces = sizeof ifaces / sizeof *ifaces,
    .ifaces = ifaces,
    .init = init,
    .fini = fini,
};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
