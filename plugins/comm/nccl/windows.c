/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symmetric memory: a window that every rank has at the same offset, so that NCCL's kernels read and write the peers' directly.
 * Registering is something that all ranks do together, and memory is used as a window by all or by none: so they agree before it
 * is allocated, before it is registered, and afterwards. Whatever fails is told in the log, and ordinary memory is used.
 *
 * A window goes before its communicator if all is well; an abort takes it along. The memory goes last.
 */
#include <stdio.h>
#include <string.h>

#include "group.h"

/* What ranks tell each other. */
struct word {
    uint64_t ok, bytes, layout;
};

/* Whether all ranks told the same, and `ok`. */
static bool all_same(const tn_comm_group *g, const struct word *all)
{
    for (uint32_t r = 0; r < g->n; r++)
        if (!all[r].ok || memcmp(&all[r], &all[0], sizeof *all) != 0)
            return false;
    return true;
}

/* Tells `mine` to all: *same if all told the same. */
static int32_t agree(tn_comm_group *g, const struct word *mine, bool *same, tn_err *err)
{
    const tn_host *h = g->in->host;
    const tn_device_api *api = g->api;
    uint64_t bytes = (g->n + 1) * sizeof *mine;
    struct word *all = h->alloc(h->ctx, bytes, 64);
    tn_stream *s = NULL;
    void *device = NULL;
    int32_t rc = all ? TN_OK : tn_err_set(err, TN_E_NOMEM, "nccl: no memory");

    if (rc == TN_OK)
        rc = api->stream_new(g->device, &s, err);
    if (rc == TN_OK)
        rc = api->mem_alloc(g->device, bytes, &device, err);
    if (rc == TN_OK)
        rc = api->copy(g->device, s, device, mine, sizeof *mine, TN_COPY_HOST_TO_DEVICE, err);
    if (rc == TN_OK)
        rc = call_all_gather(g, device, (char *)device + sizeof *mine, sizeof *mine, TN_DT_I8, s,
                             err);
    if (rc == TN_OK)
        rc = api->copy(g->device, s, all, (char *)device + sizeof *mine, g->n * sizeof *mine,
                       TN_COPY_DEVICE_TO_HOST, err);
    if (s && api->stream_sync(g->device, s, rc == TN_OK ? err : NULL) != TN_OK && rc == TN_OK)
        rc = TN_E_DEVICE;
    *same = all && rc == TN_OK && all_same(g, all);
    if (device)
        api->mem_free(g->device, device);
    if (s)
        api->stream_free(g->device, s);
    h->free(h->ctx, all);
    return rc;
}

static void tell(const tn_comm_group *g, uint32_t level, const char *msg)
{
    g->in->host->log(g->in->host->ctx, level, msg);
}

/* NULL if there is none; not an error, since there is other memory. */
static int32_t allocate(tn_comm_group *g, uint64_t bytes, void **out, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    int result;
    int32_t rc = group_begin(g, err);

    if (rc != TN_OK)
        return rc;
    result = g->in->library.mem_alloc(out, bytes);
    if (nccl_status(&g->in->library, g->comm, result, "allocating symmetric memory", &why) !=
        TN_OK) {
        *out = NULL;
        tell(g, TN_LOG_WARN, why.msg);
    }
    pthread_mutex_unlock(&g->lock);
    return TN_OK;
}

/* Windows are made and ended in the background also where the call says that all is well: that is when the communicator says so. */
static int finished(tn_comm_group *g, int result, uint64_t until_ns)
{
    return group_settle(g, result == NCCL_SUCCESS ? NCCL_IN_PROGRESS : result, until_ns);
}

/* *handle stays NULL if it cannot be registered. */
static int32_t enlist(tn_comm_group *g, void *ptr, uint64_t bytes, nccl_window *handle, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    int result;
    int32_t rc = group_begin(g, err);

    if (rc != TN_OK)
        return rc;
    result = g->in->library.window_register(g->comm, ptr, bytes, handle, NCCL_SYMMETRIC);
    result = finished(g, result, group_deadline(g));
    if (g->broken != TN_OK || result == NCCL_IN_PROGRESS) {
        pthread_mutex_unlock(&g->lock);
        return group_error(g, err) != TN_OK
                   ? g->broken
                   : tn_err_set(err, TN_E_TIMEOUT,
                                "nccl: registering symmetric memory: some rank has not come");
    }
    if (nccl_status(&g->in->library, g->comm, result, "registering symmetric memory", &why) !=
        TN_OK) {
        *handle = NULL;
        tell(g, TN_LOG_WARN, why.msg);
    }
    pthread_mutex_unlock(&g->lock);
    return TN_OK;
}

/* Two megabytes are what the driver hands out. */
static uint64_t rounded(uint64_t bytes)
{
    const uint64_t page = 2u << 20;

    return (bytes + page - 1) / page * page;
}

int32_t windows_memory(tn_comm_group *g, uint64_t bytes, uint64_t layout, void **out, tn_err *err)
{
    struct word mine = {.ok = g->in->symmetric && g->in->library.windows && bytes > 0 &&
                              bytes < UINT64_MAX / 2 && g->n_windows < MAX_WINDOWS,
                        .bytes = bytes,
                        .layout = layout};
    void *ptr = NULL;
    nccl_window handle = NULL;
    bool same = false;
    char msg[128];
    int32_t rc = agree(g, &mine, &same, err);

    *out = NULL;
    if (rc != TN_OK || !same)
        return rc;
    rc = allocate(g, rounded(bytes), &ptr, err);
    if (ptr) {
        g->windows[g->n_windows].ptr = ptr;
        g->windows[g->n_windows++].bytes = bytes;
    }
    mine.ok = ptr != NULL;
    if (rc == TN_OK)
        rc = agree(g, &mine, &same, err);
    if (rc == TN_OK && same)
        rc = enlist(g, ptr, rounded(bytes), &handle, err);
    if (rc != TN_OK || !same)
        return rc;
    g->windows[g->n_windows - 1].handle = handle;
    mine.ok = handle != NULL;
    rc = agree(g, &mine, &same, err);
    if (rc != TN_OK)
        return rc;
    snprintf(msg, sizeof msg, "nccl: %s symmetric memory, %llu bytes",
             same ? "uses" : "cannot register", (unsigned long long)bytes);
    tell(g, same ? TN_LOG_INFO : TN_LOG_WARN, msg);
    *out = same ? ptr : NULL;
    g->windows_used = g->windows_used || same;
    return TN_OK;
}

static bool in_window(const tn_comm_group *g, const void *p)
{
    for (uint32_t i = 0; i < g->n_windows; i++)
        if ((uintptr_t)p - (uintptr_t)g->windows[i].ptr < g->windows[i].bytes)
            return true;
    return false;
}

/* A fill is no kernel that lets others begin: it waits for all that is ahead of it, and what follows waits for it. */
int32_t windows_wait(tn_comm_group *g, const void *send, const void *recv, tn_stream *s,
                     tn_err *err)
{
    if (!g->windows_used || !NCCL_EAGER(g->in->library.version) ||
        (!in_window(g, send) && !in_window(g, recv)))
        return TN_OK;
    return g->api->fill(g->device, s, (char *)g->word + 128, 0, 4, err);
}

bool windows_misalign(const tn_comm_group *g, uint64_t bytes)
{
    return g->windows_used && bytes % 8 && NCCL_MISALIGNS(g->in->library.version);
}

void windows_deregister(tn_comm_group *g, uint64_t until_ns)
{
    const struct nccl_library *l = &g->in->library;

    for (uint32_t i = 0; i < g->n_windows && g->comm && g->broken == TN_OK; i++) {
        nccl_window handle = g->windows[i].handle;
        g->windows[i].handle = NULL;
        if (handle)
            finished(g, l->window_deregister(g->comm, handle), until_ns);
    }
}

void windows_free(tn_comm_group *g)
{
    if (g->n_windows > 0 && g->enter(g->context) == 0)
        while (g->n_windows > 0)
            g->in->library.mem_free(g->windows[--g->n_windows].ptr);
}
