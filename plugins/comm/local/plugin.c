/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comm plugin "local": ranks that are threads of one process, on any device. Nothing to
 * install and nothing to set up; and, through faults that its group of the configuration asks for, the way to try what
 * a run of many ranks does when one of them fails.
 *
 *     local: { spin_us = 50; verify = false; devices_meet = true;
 *              fault = "stall"; fault_rank = 1; fault_call = "all_reduce"; fault_at = 100; };
 */
#include <string.h>

#include "../common/sum.h"
#include "local.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_COMM, .name = "local",
               .vendor = "tenon", .version = VERSION);

#define NAMES_5 (me, send, recv, count, dtype, stream, err)
#define NAMES_SPREAD (me, buf, bytes, root, stream, err)
#define NAMES_MESSAGE (me, buf, bytes, peer, stream, err)
#define NAMES_SHOW (me, send, room, rows, width, dtype, out, stream, err)
#define NAMES_NONE (me, stream, err)

/* Where the group's memory is decides who moves it. */
#define CALL(name, args, names)                                                                    \
    static int32_t call_##name args                                                                \
    {                                                                                              \
        return me->api ? device_##name names : host_##name names;                                  \
    }
#define REDUCTION                                                                                  \
    (tn_comm_group * me, const void *send, void *recv, uint64_t count, uint32_t dtype,             \
     tn_stream *stream, tn_err *err)
CALL(all_reduce, REDUCTION, NAMES_5)
CALL(all_gather, REDUCTION, NAMES_5)
CALL(reduce_scatter, REDUCTION, NAMES_5)
CALL(broadcast,
     (tn_comm_group * me, void *buf, uint64_t bytes, uint32_t root, tn_stream *stream, tn_err *err),
     NAMES_SPREAD)
CALL(send,
     (tn_comm_group * me, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,
      tn_err *err),
     NAMES_MESSAGE)
CALL(recv,
     (tn_comm_group * me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream, tn_err *err),
     NAMES_MESSAGE)
CALL(barrier, (tn_comm_group * me, tn_stream *stream, tn_err *err), NAMES_NONE)
CALL(show,
     (tn_comm_group * me, const void *send, void *room, uint64_t rows, uint64_t width,
      uint32_t dtype, tn_comm_parts *out, tn_stream *stream, tn_err *err),
     NAMES_SHOW)
CALL(hide, (tn_comm_group * me, tn_stream *stream, tn_err *err), NAMES_NONE)

static const tn_comm_backend backend = {
    .h = TN_HDR(tn_comm_backend),
    .name = "local",
    .flags = LOCAL_FLAGS | TN_COMM_GRAPH_SUMS,
    .dtypes = COMM_SUM_DTYPES,
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
    .show = call_show,
    .hide = call_hide,
    .group_flags = captured_flags,
};

/* A setting that is true or false. */
static int32_t truth(const tn_kv *kv, bool *out, tn_err *err)
{
    *out = strcmp(kv->value, "true") == 0;
    return *out || strcmp(kv->value, "false") == 0
               ? TN_OK
               : tn_err_set(err, TN_E_CONFIG, "local: %s = \"%s\": must be true or false", kv->key,
                            kv->value);
}

static int32_t setting(struct hub *l, const tn_kv *kv, tn_err *err)
{
    if (strcmp(kv->key, "verify") == 0)
        return truth(kv, &l->verify, err);
    if (strcmp(kv->key, "devices_meet") == 0)
        return truth(kv, &l->devices_meet, err);
    if (err)
        snprintf(
            err->remedy, sizeof err->remedy,
            "known keys: devices_meet, spin_us, verify, fault, fault_rank, fault_call, fault_at, "
            "fault_count, fault_ms");
    return TN_E_NOTFOUND;
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    const struct hub model = {.name = "local",
                              .open = device_open_member,
                              .close = device_close_member,
                              .settle = captured_settle,
                              .devices_meet = true};

    return hub_new(host, &model, config, n_config, setting, instance, err);
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
    .fini = hub_free,
};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
