/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin "cuda": the device kind "cuda" and the portable kernels for it. Descriptor, instance and settings.
 *
 * It links nothing of CUDA: the driver's library is opened when an instance is made, and a machine without one refuses the
 * plugin with that reason.
 */
#include <string.h>

#include "device.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_DEVICE | TN_KIND_KERNELS,
               .name = "cuda", .vendor = "tenon", .version = VERSION);

static int32_t apply(const tn_kv *kv, char driver[256], char cublaslt[256], tn_err *err)
{
    char *to = strcmp(kv->key, "driver") == 0     ? driver
               : strcmp(kv->key, "cublaslt") == 0 ? cublaslt
                                                  : NULL;

    if (to && kv->value[0] == '/' && strlen(kv->value) < 256) {
        strcpy(to, kv->value);
        return TN_OK;
    }
    if (err) {
        snprintf(err->plugin, sizeof err->plugin, "cuda");
        snprintf(err->field, sizeof err->field, "%s", kv->key);
        snprintf(err->remedy, sizeof err->remedy,
                 "known keys: driver (absolute path of libcuda.so.1), cublaslt (of "
                 "libcublasLt.so.13)");
    }
    return tn_err_set(err, TN_E_CONFIG, "cuda: %s = \"%s\": %s", kv->key, kv->value,
                      to ? "not an absolute path" : "unknown key");
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    char path[256] = "libcuda.so.1", cublaslt[256] = "";
    struct cuda_instance *in;
    int32_t rc;

    for (uint32_t i = 0; i < n_config; i++)
        if ((rc = apply(&config[i], path, cublaslt, err)))
            return rc;
    in = host->alloc(host->ctx, sizeof *in, 64);
    if (!in)
        return tn_err_set(err, TN_E_NOMEM, "cuda: no memory for an instance");
    in->host = host;
    memcpy(in->set.cublaslt, cublaslt, sizeof cublaslt);
    rc = driver_open(&in->driver, path, err);
    if (rc) {
        host->free(host->ctx, in);
        return rc;
    }
    *instance = in;
    return TN_OK;
}

static void fini(void *instance)
{
    struct cuda_instance *in = instance;

    if (!in)
        return;
    driver_close(&in->driver);
    in->host->free(in->host->ctx, in);
}

static const tn_iface ifaces[] = {
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_DEVICE, .vtbl = &cuda_device_api},
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_KERNELS, .vtbl = &cuda_kernel_set},
};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "cuda",
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
