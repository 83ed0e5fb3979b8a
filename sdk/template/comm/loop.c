/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sample communication plugin: ranks that are threads of one process and read each other's memory.
 *
 * A collective is three steps: every rank shows its buffer, all meet, every rank takes what it needs from all, all meet
 * again, so that nobody's buffer changes while others read it. Sums are taken in rank order: equal inputs give equal
 * bits. A rank that stays away makes the others fail after `timeout_ms` (a setting; 30000) and leaves the group
 * broken, as `abort` does. One lock guards everything; copying is done outside of it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tenon/comm.h"
#include "tenon/plugin.h"

TN_PLUGIN_NOTE(.kinds = TN_KIND_COMM, .name = "acme-loop", .vendor = "acme", .version = "1.0.0");

enum { MAX_RANKS = 16, MAX_GROUPS = 8 };

struct tn_comm_group { /* one rank's view */
    struct group *g;
    uint32_t rank;
};

struct buffer {
    const void *data;
    uint64_t bytes;
    uint32_t there; /* mail: waits to be taken */
};

struct group {
    struct loop *loop;
    uint64_t id;
    uint32_t n; /* ranks; 0: this place is free */
    uint32_t joined, left, waiting, reading;
    uint64_t round;                           /* meetings so far */
    int32_t broken;                           /* TN_OK, or why nothing works any more */
    struct buffer shown[MAX_RANKS];           /* to all, between two meetings */
    struct buffer mail[MAX_RANKS][MAX_RANKS]; /* from, to */
    struct tn_comm_group ranks[MAX_RANKS];
};

struct loop {
    const tn_host *host;
    uint64_t timeout_ns;
    _Atomic uint64_t next_id;
    pthread_mutex_t lock;
    pthread_cond_t moved; /* something in some group has changed */
    struct group groups[MAX_GROUPS];
};

/* -- Meeting ------------------------------------------------------------------------------------------- */

static struct timespec deadline(const struct loop *l, uint64_t ns)
{
    ns += l->host->now_ns(l->host->ctx); /* CLOCK_MONOTONIC, as `moved` waits by */
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

/* The next three: with the lock held. */
static void change(struct group *g, int32_t broken)
{
    if (g->broken == TN_OK)
        g->broken = broken;
    pthread_cond_broadcast(&g->loop->moved);
}

/* Sleeps until something moves; breaks the group when the time is over. */
static void doze(struct group *g, const struct timespec *until)
{
    if (pthread_cond_timedwait(&g->loop->moved, &g->loop->lock, until) == ETIMEDOUT)
        change(g, TN_E_TIMEOUT);
}

static int32_t tell(const struct group *g, tn_err *err)
{
    return g->broken == TN_OK
               ? TN_OK
               : tn_err_set(err, g->broken, "a rank is late or gone, or sizes differ");
}

enum phase { BARRIER, BEGIN, END };

/* Returns when all ranks have come, or with the reason why they never will. BEGIN shows our buffer; all must be of one size,
 * and may be read until END. Even from a broken group nobody returns, and perhaps frees its buffer, while others read. */
static int32_t meet(tn_comm_group *me, enum phase phase, const void *data, uint64_t bytes,
                    tn_err *err)
{
    struct group *g = me->g;
    struct timespec until = deadline(g->loop, g->loop->timeout_ns);
    uint64_t round;
    int32_t rc;

    pthread_mutex_lock(&g->loop->lock);
    round = g->round;
    if (phase == BEGIN)
        g->shown[me->rank] = (struct buffer){data, bytes, 1};
    g->reading -= phase == END;
    if (++g->waiting == g->n) {
        g->waiting = 0;
        g->round++;
    }
    change(g, TN_OK);
    while (g->broken == TN_OK && g->round == round)
        doze(g, &until);
    for (uint32_t r = 0; phase == BEGIN && g->broken == TN_OK && r < g->n; r++)
        if (g->shown[r].bytes != bytes)
            change(g, TN_E_COMM);
    rc = tell(g, err);
    g->reading += phase == BEGIN && rc == TN_OK;
    while (rc != TN_OK && g->reading > 0)
        pthread_cond_wait(&g->loop->moved, &g->loop->lock);
    pthread_mutex_unlock(&g->loop->lock);
    return rc;
}

/* -- Collectives ---------------------------------------------------------------------------------------- */

/* recv = sum over the ranks of `count` floats from `first` on, of the `total` that each shows. */
static int32_t reduce(tn_comm_group *me, const void *send, float *recv, uint64_t first,
                      uint64_t count, uint64_t total, uint32_t dtype, tn_err *err)
{
    int32_t rc;

    if (dtype != TN_DT_F32)
        return tn_err_set(err, TN_E_UNSUPPORTED, "cannot sum %s", tn_dtype_name(dtype));
    rc = meet(me, BEGIN, send, total * sizeof *recv, err);
    for (uint64_t i = 0; rc == TN_OK && i < count; i++) {
        recv[i] = 0.0f;
        for (uint32_t r = 0; r < me->g->n; r++)
            recv[i] += ((const float *)me->g->shown[r].data)[first + i];
    }
    return rc == TN_OK ? meet(me, END, NULL, 0, err) : rc;
}

static int32_t all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *s TN_UNUSED, tn_err *err)
{
    return reduce(me, send, recv, 0, count, count, dtype, err);
}

static int32_t reduce_scatter(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                              uint32_t dtype, tn_stream *s TN_UNUSED, tn_err *err)
{
    return reduce(me, send, recv, count * me->rank, count, count * me->g->n, dtype, err);
}

/* recv = what the ranks [first, end) show, one behind the other. */
static int32_t gather(tn_comm_group *me, const void *send, unsigned char *recv, uint64_t bytes,
                      uint32_t first, uint32_t end, tn_err *err)
{
    int32_t rc = meet(me, BEGIN, send, bytes, err);

    for (uint32_t r = first; rc == TN_OK && bytes > 0 && r < end; r++)
        memmove(recv + (r - first) * bytes, me->g->shown[r].data, bytes);
    return rc == TN_OK ? meet(me, END, NULL, 0, err) : rc;
}

static int32_t all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *s TN_UNUSED, tn_err *err)
{
    return gather(me, send, recv, count * tn_dtype_bits(dtype) / 8, 0, me->g->n, err);
}

static int32_t broadcast(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t root,
                         tn_stream *s TN_UNUSED, tn_err *err)
{
    if (root >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "there is no rank %u", (unsigned)root);
    return gather(me, buf, buf, bytes, root, me->rank == root ? root : root + 1, err);
}

static int32_t barrier(tn_comm_group *me, tn_stream *s TN_UNUSED, tn_err *err)
{
    return meet(me, BARRIER, NULL, 0, err);
}

/* -- Point to point --------------------------------------------------------------------------------------- */

/* The sender puts its buffer into the box of the pair and waits until it is empty again; the receiver waits until it
 * is full. `out` is NULL for the sender. */
static int32_t deliver(struct group *g, uint32_t from, uint32_t to, const void *in, void *out,
                       uint64_t bytes, tn_err *err)
{
    struct timespec until = deadline(g->loop, g->loop->timeout_ns);
    struct buffer *box;
    int32_t rc;

    if (from >= g->n || to >= g->n || from == to)
        return tn_err_set(err, TN_E_RANGE, "no way from rank %u to %u", (unsigned)from,
                          (unsigned)to);
    box = &g->mail[from][to];
    pthread_mutex_lock(&g->loop->lock);
    if (!out)
        *box = (struct buffer){in, bytes, 1};
    change(g, TN_OK);
    while (g->broken == TN_OK && box->there == (out == NULL))
        doze(g, &until);
    if (out && g->broken == TN_OK) {
        if (box->bytes == bytes && bytes > 0)
            memcpy(out, box->data, bytes);
        box->there = 0;
        change(g, box->bytes == bytes ? TN_OK : TN_E_COMM);
    }
    rc = tell(g, err);
    pthread_mutex_unlock(&g->loop->lock);
    return rc;
}

static int32_t send_to(tn_comm_group *me, const void *buf, uint64_t bytes, uint32_t peer,
                       tn_stream *s TN_UNUSED, tn_err *err)
{
    return deliver(me->g, me->rank, peer, buf, NULL, bytes, err);
}

static int32_t recv_from(tn_comm_group *me, void *buf, uint64_t bytes, uint32_t peer,
                         tn_stream *s TN_UNUSED, tn_err *err)
{
    return deliver(me->g, peer, me->rank, NULL, bytes > 0 ? buf : me, bytes, err);
}

/* -- Groups -------------------------------------------------------------------------------------------------- */

static int32_t can_join(void *instance TN_UNUSED, uint32_t n_ranks, uint32_t n_local,
                        tn_device *const *devices TN_UNUSED, tn_err *err)
{
    return n_local == n_ranks && n_ranks <= MAX_RANKS
               ? TN_OK
               : tn_err_set(err, TN_E_UNSUPPORTED, "joins up to %d ranks of one process",
                            MAX_RANKS);
}

/* The token: whose it is, and a number. It means nothing in another process. */
static int32_t make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err TN_UNUSED)
{
    struct loop *l = instance;
    uint64_t token[2] = {(uintptr_t)l, atomic_fetch_add(&l->next_id, 1)};

    memset(id, 0, TN_COMM_ID_BYTES);
    memcpy(id, token, sizeof token);
    return TN_OK;
}

/* The last of those that came gives the place free. With the lock held. */
static void depart(struct group *g)
{
    if (++g->left == g->joined)
        g->n = 0;
}

static int32_t join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    struct loop *l = instance;
    struct timespec until = deadline(l, how->timeout_ns);
    uint32_t rank = how->rank, n_ranks = how->n_ranks;
    struct group *g;
    uint64_t token[2];
    int32_t rc;

    memcpy(token, how->id, sizeof token);
    if (token[0] != (uintptr_t)l || rank >= n_ranks || n_ranks > MAX_RANKS)
        return tn_err_set(err, TN_E_INVALID, "no such rank, or a token of another process");
    pthread_mutex_lock(&l->lock);
    g = &l->groups[token[1] % MAX_GROUPS];
    if (g->n == 0)
        *g = (struct group){.loop = l, .id = token[1], .n = n_ranks};
    if (g->id != token[1] || g->n != n_ranks || g->ranks[rank].g) {
        rc = tn_err_set(err, TN_E_BUSY, "rank %u or its place is taken", (unsigned)rank);
    } else {
        g->ranks[rank] = (struct tn_comm_group){g, rank};
        g->joined++;
        change(g, TN_OK);
        while (g->broken == TN_OK && g->joined < n_ranks)
            doze(g, &until);
        rc = tell(g, err);
        if (rc == TN_OK)
            *out = &g->ranks[rank];
        else
            depart(g);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static void leave(tn_comm_group *me)
{
    struct loop *l = me->g->loop;

    pthread_mutex_lock(&l->lock);
    depart(me->g);
    pthread_mutex_unlock(&l->lock);
}

static int32_t break_group(tn_comm_group *me, int32_t why, tn_err *err)
{
    struct loop *l = me->g->loop;
    int32_t rc;

    pthread_mutex_lock(&l->lock);
    change(me->g, why);
    rc = tell(me->g, err);
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static void abort_group(tn_comm_group *me)
{
    break_group(me, TN_E_CANCELED, NULL);
}

static int32_t async_error(tn_comm_group *me, tn_err *err)
{
    return break_group(me, TN_OK, err);
}

static int32_t link_to(tn_comm_group *me, uint32_t peer, tn_comm_link *out, tn_err *err TN_UNUSED)
{
    *out = (tn_comm_link){.h = TN_HDR(tn_comm_link)};
    memcpy(out->kind, peer == me->rank ? "self" : "shm", 4);
    return TN_OK;
}

/* -- The plugin ------------------------------------------------------------------------------------------------- */

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    uint64_t ms = 30000;
    pthread_condattr_t attr;
    struct loop *l;

    for (uint32_t i = 0; i < n_config; i++) {
        ms = strtoull(config[i].value, NULL, 10);
        if (strcmp(config[i].key, "timeout_ms") != 0 || ms < 1 || ms > 86400000)
            return tn_err_set(err, TN_E_CONFIG, "%s = %s: only timeout_ms, 1 to 86400000, is known",
                              config[i].key, config[i].value);
    }
    l = host->alloc(host->ctx, sizeof *l, 64);
    if (!l)
        return tn_err_set(err, TN_E_NOMEM, "no memory for an instance");
    l->host = host;
    l->timeout_ns = ms * 1000000;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->moved, &attr);
    pthread_condattr_destroy(&attr);
    *instance = l;
    return TN_OK;
}

static void fini(void *instance)
{
    struct loop *l = instance;

    pthread_cond_destroy(&l->moved);
    pthread_mutex_destroy(&l->lock);
    l->host->free(l->host->ctx, l);
}

/* clang-format off */
static const tn_comm_backend backend = {
    TN_HDR(tn_comm_backend), "loop", NULL, TN_COMM_HOST_MEMORY | TN_COMM_DETERMINISTIC, TN_DT_BIT(TN_DT_F32),
    can_join, make_id, join, leave, abort_group, async_error, link_to,
    all_reduce, all_gather, reduce_scatter, broadcast, send_to, recv_from, barrier, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL};
/* clang-format on */

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_COMM, &backend}};
static const tn_plugin plugin = {
    TN_HDR(tn_plugin), "acme-loop", "acme", "1.0.0", 1, 0, ifaces, init, NULL, fini};

const tn_plugin *tn_plugin_query_v1(const tn_host *host TN_UNUSED, uint32_t host_minor TN_UNUSED)
{
    return &plugin;
}
