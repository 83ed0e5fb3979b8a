/* SPDX-License-Identifier: Apache-2.0 */
/* tools.h: the devices of this machine and what joins them, as drivers tell and as measured. */
#include <stdio.h>

#include "api/session.h"
#include "api/tools.h"
#include "loop/groups.h"

#define MAX_TOPO 64

static json_t *device_json(const struct registry_iface *d, uint32_t index)
{
    const tn_device_api *api = d->vtbl;
    tn_device_info info = {.h = TN_HDR(tn_device_info)};

    if (api->info(d->instance, index, &info, NULL) != TN_OK)
        snprintf(info.name, sizeof info.name, "?");
    return json_pack("{s:i, s:s, s:s, s:i}", "index", (int)index, "name", info.name, "bus",
                     info.bus, "numa", info.numa_node == UINT32_MAX ? -1 : (int)info.numa_node);
}

static json_t *link_json(const struct registry_iface *d, uint32_t a, uint32_t b)
{
    const tn_device_api *api = d->vtbl;
    tn_device_link link = {.h = TN_HDR(tn_device_link), .access = a == b};

    snprintf(link.kind, sizeof link.kind, "%s", a == b ? "self" : "?");
    if (TN_HAS(tn_device_api, api, link) && api->link)
        api->link(d->instance, a, b, &link, NULL);
    return json_pack("{s:s, s:b}", "kind", link.kind, "access", (int)link.access);
}

/* -- Measured ------------------------------------------------------------------------------------------- */

static json_t *way_json(const struct measured_way *w)
{
    return w->tried ? json_pack("{s:b, s:f, s:f}", "intact", (int)w->intact, "latency_us",
                                w->latency_ns / 1e3, "gb_per_s", w->bandwidth / 1e9)
                    : json_null();
}

/* Every device to every other. */
static json_t *pairs_json(const struct registry_iface *d, uint32_t n)
{
    json_t *list = json_array();

    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++) {
            struct measured_pair t;
            tn_err err = TN_ERR_INIT;
            if (a == b)
                continue;
            measure_pair(d->vtbl, d->instance, a, b, &t, &err);
            json_array_append_new(list, json_pack("{s:i, s:i, s:o, s:o, s:s}", "from", (int)a, "to",
                                                  (int)b, "direct", way_json(&t.direct), "staged",
                                                  way_json(&t.staged), "error",
                                                  err.code == TN_OK ? "" : err.msg));
        }
    return list;
}

/* Whether the ranks of one process on such devices are what the backend is for. */
static bool joins(const tn_comm_backend *b, const struct measure_sums *m, bool host)
{
    return (host ? (b->flags & TN_COMM_HOST_MEMORY) && !(b->flags & TN_COMM_MULTI_HOST)
                 : (b->flags & TN_COMM_DEVICE_MEMORY) &&
                       (!b->device || strcmp(b->device, m->api->kind) == 0)) &&
           !(!host && (b->flags & TN_COMM_OWN_DEVICE) && m->n_ranks > m->n_devices) &&
           b->can_join(m->instance, m->n_ranks, m->n_ranks, NULL, NULL) == TN_OK;
}

/* Sums of `n_ranks` ranks by each comm plugin that could join them. */
static void append_sums(json_t *list, const struct registry_view *view,
                        const struct registry_iface *d, uint32_t n_devices, uint32_t n_ranks)
{
    const struct registry_iface *items;
    uint32_t n = registry_ifaces(view, TN_IFACE_COMM, &items);
    tn_device_info info = {.h = TN_HDR(tn_device_info)};
    struct measure_sums m = {
        .api = d->vtbl, .device_instance = d->instance, .n_ranks = n_ranks, .n_devices = n_devices};

    if (m.api->info(d->instance, 0, &info, NULL) != TN_OK)
        return;
    for (uint32_t i = 0; i < n; i++) {
        double ns[MEASURED_SUMS] = {0};
        json_t *times = json_array();
        tn_err err = TN_ERR_INIT;
        m.backend = items[i].vtbl;
        m.instance = items[i].instance;
        if (joins(m.backend, &m, (info.flags & TN_DEVICE_HOST_MEMORY) != 0) &&
            measure_sums(&m, ns, &err) == TN_OK)
            for (uint32_t k = 0; k < MEASURED_SUMS; k++)
                json_array_append_new(times, json_pack("{s:I, s:f}", "bytes",
                                                       (json_int_t)measured_sum_bytes[k], "us",
                                                       ns[k] / 1e3));
        if (json_array_size(times) > 0 || err.code != TN_OK)
            json_array_append_new(list, json_pack("{s:i, s:s, s:O, s:s}", "ranks", (int)n_ranks,
                                                  "plugin", items[i].plugin_name, "times", times,
                                                  "error", err.code == TN_OK ? "" : err.msg));
        json_decref(times);
    }
}

static json_t *sums_json(const struct registry_view *view, const struct registry_iface *d,
                         uint32_t n_devices)
{
    json_t *list = json_array();

    append_sums(list, view, d, n_devices, 2);
    if (n_devices > 2)
        append_sums(list, view, d, n_devices, n_devices);
    return list;
}

/* -- Told ----------------------------------------------------------------------------------------------- */

/* Who would join 2, 4, ... ranks on the devices of a kind. */
static json_t *paths_json(const struct session *s, const struct registry_view *view,
                          const struct registry_iface *d, uint32_t n_devices, bool measure)
{
    struct instance in = {
        .o.conf = s->conf, .view = view, .api = d->vtbl, .device_instance = d->instance};
    uint32_t most = n_devices > 2 ? n_devices : 2;
    json_t *list = json_array();

    for (uint32_t n = 2; n <= 2 * most && n <= 16; n *= 2) {
        const char *plugin = "";
        char why[192] = "";
        tn_err err = TN_ERR_INIT;
        if (groups_foresee(&in, n, measure, &plugin, why, &err) != TN_OK) {
            plugin = "-";
            snprintf(why, sizeof why, "%s", err.msg);
        }
        json_array_append_new(
            list, json_pack("{s:i, s:s, s:s}", "ranks", (int)n, "plugin", plugin, "why", why));
    }
    return list;
}

static json_t *kind_json(const struct session *s, const struct registry_view *view,
                         const struct registry_iface *d, bool measure)
{
    const tn_device_api *api = d->vtbl;
    json_t *devices = json_array(), *links = json_array(), *o;
    uint32_t n = 0;

    if (api->count(d->instance, &n, NULL) != TN_OK)
        n = 0;
    n = n < MAX_TOPO ? n : MAX_TOPO;
    for (uint32_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (uint32_t k = 0; k < n; k++)
            json_array_append_new(row, link_json(d, i, k));
        json_array_append_new(devices, device_json(d, i));
        json_array_append_new(links, row);
    }
    o = json_pack("{s:s, s:o, s:o, s:o}", "kind", api->kind, "devices", devices, "links", links,
                  "paths", n > 0 ? paths_json(s, view, d, n, measure) : json_array());
    if (measure && n > 0) {
        json_object_set_new(o, "pairs", pairs_json(d, n));
        json_object_set_new(o, "sums", sums_json(view, d, n));
    }
    return o;
}

static json_t *backend_json(const tn_comm_backend *b, void *instance)
{
    static const char *const moves[] = {"", "host", "device", "host, device"};

    const char *found =
        TN_HAS(tn_comm_backend, b, describe) && b->describe ? b->describe(instance) : "";

    return json_pack("{s:s, s:s, s:s, s:b, s:b, s:b}", "found", found, "name", b->name, "moves",
                     moves[b->flags & (TN_COMM_HOST_MEMORY | TN_COMM_DEVICE_MEMORY)], "captured",
                     (int)((b->flags & (TN_COMM_GRAPH_SAFE | TN_COMM_GRAPH_SUMS)) != 0), "hosts",
                     (int)((b->flags & TN_COMM_MULTI_HOST) != 0), "own_device",
                     (int)((b->flags & TN_COMM_OWN_DEVICE) != 0));
}

int32_t tool_topo(const struct tool_conf *c, bool measure, json_t **out, tn_err *err)
{
    const struct registry_iface *items;
    const struct registry_view *view;
    json_t *kinds = json_array(), *comm = json_array();
    struct session s;
    uint32_t n;
    int32_t rc = session_open(c, &s, err);

    if (rc != TN_OK) {
        json_decref(kinds);
        json_decref(comm);
        return rc;
    }
    view = registry_acquire(s.registry);
    n = registry_ifaces(view, TN_IFACE_DEVICE, &items);
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(kinds, kind_json(&s, view, &items[i], measure));
    n = registry_ifaces(view, TN_IFACE_COMM, &items);
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(comm, backend_json(items[i].vtbl, items[i].instance));
    registry_release(view);
    session_close(&s);
    *out = json_pack("{s:o, s:o}", "kinds", kinds, "comm", comm);
    return *out ? TN_OK : err_nomem(err, "a topology");
}
