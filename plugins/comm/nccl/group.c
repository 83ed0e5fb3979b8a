/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators: joining, leaving, errors, abort. They are non-blocking: NCCL takes a call and goes on with it in the background,
 * and we ask until it has. So a rank that waits for another can be told to stop; only `abort` does that, which the watchdog
 * calls. One lock per rank's group guards the communicator, since an abort frees it while the rank may be in a call; the
 * lock is never held while anybody waits.
 */
#include "group.h"

#include <limits.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define POLL_NS 20000
#define EAGER_NS                                                                                   \
    200000 /* a nap takes 70 us or more: a call within a step is looked after without, so long */
#define LEAVE_NS UINT64_C(5000000000)

static uint64_t now_ns(const tn_comm_group *g)
{
    return g->in->host->now_ns(g->in->host->ctx);
}

/* With the lock held: the first reason stays. */
static int32_t break_group(tn_comm_group *g, const tn_err *why, tn_err *err)
{
    if (g->broken == TN_OK) {
        g->why = *why;
        g->broken = why->code;
    }
    if (err)
        *err = g->why;
    return g->broken;
}

int group_settle(tn_comm_group *g, int result, uint64_t until_ns)
{
    const struct timespec nap = {0, POLL_NS};
    uint64_t begin = now_ns(g);

    while (result == NCCL_IN_PROGRESS && g->comm && g->broken == TN_OK) {
        int state = NCCL_SUCCESS;
        result = g->in->library.async_error(g->comm, &state);
        result = result == NCCL_SUCCESS ? state : result;
        if (result != NCCL_IN_PROGRESS || (until_ns && now_ns(g) > until_ns))
            break;
        pthread_mutex_unlock(&g->lock);
        if (now_ns(g) - begin < EAGER_NS)
            sched_yield();
        else
            nanosleep(&nap, NULL);
        pthread_mutex_lock(&g->lock);
    }
    return result;
}

int32_t group_begin(tn_comm_group *g, tn_err *err)
{
    int32_t rc;

    pthread_mutex_lock(&g->lock);
    rc = g->broken;
    if (rc != TN_OK && err)
        *err = g->why;
    if (rc == TN_OK && g->enter(g->context) != 0)
        rc = tn_err_set(err, TN_E_DEVICE, "nccl: the device's context cannot be made current");
    if (rc != TN_OK)
        pthread_mutex_unlock(&g->lock);
    return rc;
}

uint64_t group_deadline(const tn_comm_group *g)
{
    return g->call_timeout_ns ? now_ns(g) + g->call_timeout_ns : 0;
}

int32_t group_end(tn_comm_group *g, int result, const char *call, tn_err *err)
{
    uint64_t until = group_deadline(g);
    tn_err why = TN_ERR_INIT;
    int32_t rc = TN_OK;

    result = group_settle(g, result, until);
    if (g->broken != TN_OK)
        rc = break_group(g, &why, err);
    else if (result == NCCL_IN_PROGRESS)
        tn_err_set(&why, TN_E_TIMEOUT, "nccl: %s: not begun within %llu ms: some rank has not come",
                   call, (unsigned long long)(g->call_timeout_ns / 1000000));
    else
        nccl_status(&g->in->library, g->comm, result, call, &why);
    if (rc == TN_OK && why.code != TN_OK)
        rc = break_group(g, &why, err);
    pthread_mutex_unlock(&g->lock);
    return rc;
}

void group_abort(tn_comm_group *g)
{
    tn_err why = TN_ERR_INIT;

    tn_err_set(&why, TN_E_CANCELED, "the group was aborted");
    pthread_mutex_lock(&g->lock);
    break_group(g, &why, NULL);
    if (g->comm && g->enter(g->context) == 0) {
        g->in->library.abort(g->comm);
        g->comm = NULL;
    }
    pthread_mutex_unlock(&g->lock);
}

int32_t group_error(tn_comm_group *g, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    int state = NCCL_SUCCESS, result;
    int32_t rc;

    pthread_mutex_lock(&g->lock);
    if (g->broken == TN_OK && g->comm) {
        result = g->in->library.async_error(g->comm, &state);
        result = result == NCCL_SUCCESS ? state : result;
        if (result != NCCL_SUCCESS && result != NCCL_IN_PROGRESS) {
            nccl_status(&g->in->library, g->comm, result, "in the background", &why);
            break_group(g, &why, NULL);
        }
    }
    rc = g->broken;
    if (rc != TN_OK && err)
        *err = g->why;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

int32_t group_link(tn_comm_group *g, uint32_t peer, tn_comm_link *out, tn_err *err)
{
    if (peer >= g->n)
        return tn_err_set(err, TN_E_RANGE, "nccl: there is no rank %u", (unsigned)peer);
    *out = (tn_comm_link){.h = TN_HDR(tn_comm_link)};
    snprintf(out->kind, sizeof out->kind, "%s", peer == g->rank ? "self" : "nccl");
    return TN_OK;
}

/* -- Joining ------------------------------------------------------------------------------------------------ */

int32_t group_can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                       tn_device *const *devices, tn_err *err)
{
    (void)instance;
    (void)n_local;
    (void)devices;
    (void)err;
    return n_ranks > 0 ? TN_OK : tn_err_set(err, TN_E_INVALID, "nccl: a group of no ranks");
}

int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err)
{
    const struct nccl_instance *in = instance;
    nccl_id token;
    int32_t rc =
        nccl_status(&in->library, NULL, in->library.get_id(&token), "making a group's token", err);

    memset(id, 0, TN_COMM_ID_BYTES);
    if (rc == TN_OK)
        memcpy(id, token.bytes, sizeof token.bytes);
    return rc;
}

static int32_t find_device(tn_comm_group *g, const tn_comm_join *how, tn_err *err)
{
    void *enter = NULL;
    int32_t rc;

    if (!how->api || !how->device || strcmp(how->api->kind, "cuda") != 0 ||
        !how->api->native_symbol || !how->api->native_context)
        return tn_err_set(err, TN_E_UNSUPPORTED, "nccl: joins devices of kind cuda");
    if (how->n_ranks == 0 || how->rank >= how->n_ranks)
        return tn_err_set(err, TN_E_INVALID, "nccl: there is no rank %u of %u", (unsigned)how->rank,
                          (unsigned)how->n_ranks);
    rc = how->api->native_symbol(how->device, "cuCtxSetCurrent", &enter, err);
    if (rc != TN_OK)
        return rc;
    memcpy(&g->enter, &enter, sizeof g->enter);
    g->api = how->api;
    g->device = how->device;
    g->context = how->api->native_context(how->device);
    return how->api->mem_alloc(how->device, 256, &g->word, err);
}

static int32_t make_communicator(tn_comm_group *g, const tn_comm_join *how, tn_err *err)
{
    nccl_config config = {.size = sizeof config,
                          .magic = NCCL_MAGIC,
                          .version = NCCL_CONFIG_VERSION,
                          .blocking = 0,
                          .cga_cluster_size = NCCL_UNDEFINED,
                          .min_ctas = NCCL_UNDEFINED,
                          .max_ctas = NCCL_UNDEFINED,
                          .split_share = NCCL_UNDEFINED};
    nccl_id token;
    int result;
    int32_t rc = group_begin(g, err);

    if (rc != TN_OK)
        return rc;
    memcpy(token.bytes, how->id, sizeof token.bytes);
    result = g->in->library.init(&g->comm, (int)g->n, token, (int)g->rank, &config);
    result = group_settle(g, result, now_ns(g) + how->timeout_ns);
    if (result == NCCL_IN_PROGRESS)
        rc = tn_err_set(err, TN_E_TIMEOUT, "nccl: some of %u ranks has not joined within %llu ms",
                        (unsigned)g->n, (unsigned long long)(how->timeout_ns / 1000000));
    else
        rc = nccl_status(&g->in->library, g->comm, result, "joining", err);
    pthread_mutex_unlock(&g->lock);
    return rc;
}

int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    struct nccl_instance *in = instance;
    tn_comm_group *g = in->host->alloc(in->host->ctx, sizeof *g, 64);
    int32_t rc;

    if (!g)
        return tn_err_set(err, TN_E_NOMEM, "nccl: no memory for a group");
    g->in = in;
    g->rank = how->rank;
    g->n = how->n_ranks;
    g->call_timeout_ns = how->call_timeout_ns;
    pthread_mutex_init(&g->lock, NULL);
    rc = find_device(g, how, err);
    if (rc == TN_OK)
        rc = make_communicator(g, how, err);
    if (rc != TN_OK) {
        /* What did not come about can only be torn down. */
        if (g->comm)
            group_abort(g);
        group_leave(g);
        return rc;
    }
    *out = g;
    return TN_OK;
}

/* In good order if all is well; else the communicator is torn down, since nobody else will come to finish it. */
static void finish(tn_comm_group *g)
{
    const struct nccl_library *l = &g->in->library;
    int result;

    if (!g->comm || g->enter(g->context) != 0)
        return;
    windows_deregister(g, now_ns(g) + LEAVE_NS);
    if (!g->comm)
        return;
    result = g->broken == TN_OK ? l->finalize(g->comm) : NCCL_INTERNAL_ERROR;
    result = group_settle(g, result, now_ns(g) + LEAVE_NS);
    if (!g->comm)
        return;
    if (result == NCCL_SUCCESS)
        l->destroy(g->comm);
    else
        l->abort(g->comm);
    g->comm = NULL;
}

void group_leave(tn_comm_group *g)
{
    const tn_host *h = g->in->host;

    pthread_mutex_lock(&g->lock);
    finish(g);
    windows_free(g);
    pthread_mutex_unlock(&g->lock);
    if (g->word)
        g->api->mem_free(g->device, g->word);
    pthread_mutex_destroy(&g->lock);
    h->free(h->ctx, g);
}
