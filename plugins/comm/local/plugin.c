/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comm plugin "local": ranks that are threads of one process, on any device that computes in host memory. Nothing to
 * install and nothing to set up; and, through faults that its group of the configuration asks for, the way to try what
 * a run of many ranks does when one of them fails.
 *
 *     local: { spin_us = 50; verify = false;
 *              fault = "stall"; fault_rank = 1; fault_call = "all_reduce"; fault_at = 100; };
 */
#include <stdlib.h>
#include <string.h>

#include "../common/sum.h"
#include "group.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_COMM, .name = "local",
               .vendor = "tenon", .version = VERSION);

static int32_t link_to(tn_comm_group *me, uint32_t peer, tn_comm_link *out, tn_err *err)
{
    if (peer >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "local: there is no rank %u", (unsigned)peer);
    *out = (tn_comm_link){.h = TN_HDR(tn_comm_link)};
    snprintf(out->kind, sizeof out->kind, "%s", peer == me->rank ? "self" : "shm");
    return TN_OK;
}

static const tn_comm_backend backend = {
    .h = TN_HDR(tn_comm_backend),
    .name = "local",
    .flags = TN_COMM_HOST_MEMORY | TN_COMM_IN_PLACE | TN_COMM_DETERMINISTIC,
    .dtypes = COMM_SUM_DTYPES,
    .can_join = group_can_join,
    .make_id = group_make_id,
    .join = group_join,
    .leave = group_leave,
    .abort = group_abort,
    .async_error = group_error,
    .link = link_to,
    .all_reduce = call_all_reduce,
    .all_gather = call_all_gather,
    .reduce_scatter = call_reduce_scatter,
    .broadcast = call_broadcast,
    .send = call_send,
    .recv = call_recv,
    .barrier = call_barrier,
};

static int32_t setting(struct local *l, const tn_kv *kv, tn_err *err)
{
    int32_t rc = fault_setting(&l->fault, kv, err);
    char *end;

    if (rc != TN_E_NOTFOUND)
        return rc;
    if (strcmp(kv->key, "verify") == 0) {
        l->verify = strcmp(kv->value, "true") == 0;
        if (l->verify || strcmp(kv->value, "false") == 0)
            return TN_OK;
        return tn_err_set(err, TN_E_CONFIG, "local: verify = \"%s\": must be true or false",
                          kv->value);
    }
    if (strcmp(kv->key, "spin_us") == 0) {
        unsigned long us = strtoul(kv->value, &end, 10);
        l->spin_ns = (uint64_t)us * 1000;
        if (end != kv->value && !*end && us <= 1000000)
            return TN_OK;
        return tn_err_set(err, TN_E_CONFIG, "local: spin_us = \"%s\": must be 0 to 1000000",
                          kv->value);
    }
    if (err)
        snprintf(err->remedy, sizeof err->remedy,
                 "known keys: spin_us, verify, fault, fault_rank, fault_call, fault_at, "
                 "fault_count, fault_ms");
    return tn_err_set(err, TN_E_CONFIG, "local: %s is not a setting", kv->key);
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct local *l = host->alloc(host->ctx, sizeof *l, 64);
    int32_t rc = TN_OK;

    if (!l)
        return tn_err_set(err, TN_E_NOMEM, "local: no memory for an instance");
    l->host = host;
    l->spin_ns = 50000;
    for (uint32_t i = 0; i < n_config && rc == TN_OK; i++)
        rc = setting(l, &config[i], err);
    if (rc != TN_OK) {
        host->free(host->ctx, l);
        return rc;
    }
    pthread_mutex_init(&l->lock, NULL);
    *instance = l;
    return TN_OK;
}

static void fini(void *instance)
{
    struct local *l = instance;

    pthread_mutex_destroy(&l->lock);
    l->host->free(l->host->ctx, l);
}

static const tn_iface ifaces[] = {{.h = TN_HDR(tn_iface), .id = TN_IFACE_COMM, .vtbl = &backend}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "local",
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
