/* SPDX-License-Identifier: Apache-2.0 */
/* The comm plugin "tcp": host buffers between processes that found each other without a launcher (--nnodes). It has no settings. */
#include <string.h>

#include "../common/sum.h"
#include "tcp.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_COMM, .name = "tcp", .vendor = "tenon",
               .version = VERSION);

static int32_t link_to(tn_comm_group *g, uint32_t peer, tn_comm_link *out, tn_err *err)
{
    if (peer >= g->n)
        return tn_err_set(err, TN_E_RANGE, "tcp: there is no rank %u", (unsigned)peer);
    *out = (tn_comm_link){.h = TN_HDR(tn_comm_link)};
    snprintf(out->kind, sizeof out->kind, "%s", peer == g->rank ? "self" : "tcp");
    return TN_OK;
}

static const tn_comm_backend backend = {
    .h = TN_HDR(tn_comm_backend),
    .name = "tcp",
    .flags = TN_COMM_HOST_MEMORY | TN_COMM_MULTI_HOST | TN_COMM_IN_PLACE | TN_COMM_DETERMINISTIC,
    .dtypes = COMM_SUM_DTYPES,
    .can_join = tcp_can_join,
    .make_id = tcp_make_id,
    .join = tcp_join,
    .leave = tcp_leave,
    .abort = tcp_abort,
    .async_error = tcp_error,
    .link = link_to,
    .all_reduce = tcp_all_reduce,
    .all_gather = tcp_all_gather,
    .reduce_scatter = tcp_reduce_scatter,
    .broadcast = tcp_broadcast,
    .send = tcp_send,
    .recv = tcp_recv,
    .barrier = tcp_barrier,
};

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct tcp *t;

    if (n_config > 0)
        return tn_err_set(err, TN_E_CONFIG, "tcp: %s is not a setting; it has none", config[0].key);
    t = host->alloc(host->ctx, sizeof *t, 64);
    if (!t)
        return tn_err_set(err, TN_E_NOMEM, "tcp: no memory for an instance");
    t->host = host;
    pthread_mutex_init(&t->lock, NULL);
    *instance = t;
    return TN_OK;
}

static void fini(void *instance)
{
    struct tcp *t = instance;

    tcp_end_meetings(t);
    pthread_mutex_destroy(&t->lock);
    t->host->free(t->host->ctx, t);
}

static const tn_iface ifaces[] = {{.h = TN_HDR(tn_iface), .id = TN_IFACE_COMM, .vtbl = &backend}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "tcp",
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
