/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comm plugin "nccl": ranks with a GPU of NVIDIA's each, in one process or in many, over whatever NCCL finds between them.
 * NCCL is looked for when an instance is made; where there is none the plugin is listed as refused, with the reason.
 *
 *     nccl: { library = "/opt/nccl/lib/libnccl.so.2";        absolute; without it libnccl.so.2 by the usual ways
 *             symmetric = false; };                          true: windows of symmetric memory, where the library has them; no
 *                                                            faster on two H200 (bench/RESULTS.md)
 */
#include <string.h>

#include "group.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_COMM, .name = "nccl", .vendor = "tenon",
               .version = VERSION);

static const char *describe(void *instance)
{
    return ((const struct nccl_instance *)instance)->library.text;
}

static const tn_comm_backend backend = {
    .h = TN_HDR(tn_comm_backend),
    .name = "nccl",
    .device = "cuda",
    .flags = TN_COMM_DEVICE_MEMORY | TN_COMM_MULTI_HOST | TN_COMM_IN_PLACE | TN_COMM_OWN_DEVICE,
    .dtypes = NCCL_DTYPES,
    .can_join = group_can_join,
    .make_id = group_make_id,
    .join = group_join,
    .leave = group_leave,
    .abort = group_abort,
    .async_error = group_error,
    .link = group_link,
    .all_reduce = call_all_reduce,
    .all_gather = call_all_gather,
    .reduce_scatter = call_reduce_scatter,
    .broadcast = call_broadcast,
    .send = call_send,
    .recv = call_recv,
    .barrier = call_barrier,
    .memory = windows_memory,
    .describe = describe,
};

static int32_t refuse(const tn_kv *kv, const char *why, tn_err *err)
{
    if (err)
        snprintf(err->remedy, sizeof err->remedy,
                 "known keys: library (absolute path of libnccl.so.2), symmetric (true or false)");
    return tn_err_set(err, TN_E_CONFIG, "nccl: %s = \"%s\": %s", kv->key, kv->value, why);
}

static int32_t setting(const tn_kv *kv, const char **path, bool *symmetric, tn_err *err)
{
    if (strcmp(kv->key, "symmetric") == 0) {
        *symmetric = strcmp(kv->value, "true") == 0;
        return *symmetric || strcmp(kv->value, "false") == 0
                   ? TN_OK
                   : refuse(kv, "must be true or false", err);
    }
    if (strcmp(kv->key, "library") != 0)
        return refuse(kv, "unknown key", err);
    *path = kv->value;
    return kv->value[0] == '/' ? TN_OK : refuse(kv, "not an absolute path", err);
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    const char *path = "libnccl.so.2";
    struct nccl_instance *in;
    bool symmetric = false;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < n_config && rc == TN_OK; i++)
        rc = setting(&config[i], &path, &symmetric, err);
    if (rc != TN_OK)
        return rc;
    in = host->alloc(host->ctx, sizeof *in, 64);
    if (!in)
        return tn_err_set(err, TN_E_NOMEM, "nccl: no memory for an instance");
    in->host = host;
    in->symmetric = symmetric;
    rc = nccl_open(&in->library, path, err);
    if (rc != TN_OK) {
        host->free(host->ctx, in);
        return rc;
    }
    *instance = in;
    return TN_OK;
}

static void fini(void *instance)
{
    struct nccl_instance *in = instance;

    nccl_close(&in->library);
    in->host->free(in->host->ctx, in);
}

static const tn_iface ifaces[] = {{.h = TN_HDR(tn_iface), .id = TN_IFACE_COMM, .vtbl = &backend}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "nccl",
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
