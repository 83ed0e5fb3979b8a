/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin "ampere": kernels for NVIDIA GPUs of compute capability 8.0 and up, on the device of the plugin "cuda".
 * Descriptor and instance. It links nothing of CUDA: its code is images that the device loads.
 */
#include "tenon/plugin.h"
#include "set.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_KERNELS, .name = "ampere",
               .vendor = "tenon", .version = VERSION, .gpus = {CUDA_TARGETS});

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct ampere_instance *in;

    if (n_config > 0) {
        if (err)
            snprintf(err->field, sizeof err->field, "%s", config[0].key);
        return tn_err_set(err, TN_E_CONFIG, "ampere: %s: the plugin has no settings",
                          config[0].key);
    }
    in = host->alloc(host->ctx, sizeof *in, 64);
    if (!in)
        return tn_err_set(err, TN_E_NOMEM, "ampere: no memory for an instance");
    in->host = host;
    *instance = in;
    return TN_OK;
}

static void fini(void *instance)
{
    struct ampere_instance *in = instance;

    if (in)
        in->host->free(in->host->ctx, in);
}

static const tn_iface ifaces[] = {
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_KERNELS, .vtbl = &ampere_kernel_set}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "ampere",
    .vendor = "tenon",
    .version = VERSION,
    .n_ifaces = 1,
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
