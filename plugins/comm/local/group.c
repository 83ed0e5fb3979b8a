/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joining, leaving, breaking and waiting. A wait spins for a while, since a meeting of ranks that run side by side takes
 * less than waking a thread does; then it announces itself asleep, looks once more, and sleeps. Whoever changes something
 * looks for sleepers afterwards; both sides are sequentially consistent, so no wake-up is lost.
 */
#include "group.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

#define NS_PER_S 1000000000u

static uint64_t now_ns(const struct local *l)
{
    return l->host->now_ns(l->host->ctx);
}

/* -- Breaking and waiting --------------------------------------------------------------------------------- */

void group_wake(struct group *g)
{
    if (atomic_load(&g->sleepers) == 0)
        return;
    pthread_mutex_lock(&g->lock);
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->lock);
}

int32_t group_break(struct group *g, const tn_err *why, tn_err *err)
{
    pthread_mutex_lock(&g->lock);
    if (atomic_load(&g->broken) == TN_OK) {
        g->why = *why;
        atomic_store(&g->broken, why->code);
    }
    if (err)
        *err = g->why;
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->lock);
    return atomic_load(&g->broken);
}

int32_t group_error(tn_comm_group *me, tn_err *err)
{
    struct group *g = me->g;
    int32_t rc = atomic_load(&g->broken);

    if (rc == TN_OK)
        return TN_OK;
    pthread_mutex_lock(&g->lock);
    if (err)
        *err = g->why;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

void group_abort(tn_comm_group *me)
{
    tn_err why = TN_ERR_INIT;

    tn_err_set(&why, TN_E_CANCELED, "the group was aborted");
    group_break(me->g, &why, NULL);
}

/* True when ready or broken; false when the time to spin is over. */
static bool spin(tn_comm_group *me, bool (*ready)(const tn_comm_group *, const void *),
                 const void *arg)
{
    const struct local *l = me->g->l;
    uint64_t start = now_ns(l);

    do {
        for (int i = 0; i < 32; i++) {
            if (ready(me, arg) || atomic_load(&me->g->broken) != TN_OK)
                return true;
            RELAX();
        }
    } while (now_ns(l) - start < l->spin_ns);
    return false;
}

int32_t group_await(tn_comm_group *me, bool (*ready)(const tn_comm_group *, const void *),
                    const void *arg, uint64_t until_ns, tn_err *err)
{
    struct group *g = me->g;
    struct timespec until = {(time_t)(until_ns / NS_PER_S), (long)(until_ns % NS_PER_S)};
    bool late = false, came;

    if (!spin(me, ready, arg)) {
        pthread_mutex_lock(&g->lock);
        atomic_fetch_add(&g->sleepers, 1);
        while (!ready(me, arg) && atomic_load(&g->broken) == TN_OK && !late) {
            if (until_ns == 0)
                pthread_cond_wait(&g->moved, &g->lock);
            else
                late = pthread_cond_timedwait(&g->moved, &g->lock, &until) == ETIMEDOUT;
        }
        atomic_fetch_sub(&g->sleepers, 1);
        pthread_mutex_unlock(&g->lock);
    }
    came = ready(me, arg);
    if (!came && atomic_load(&g->broken) == TN_OK)
        return TN_E_TIMEOUT;
    return came ? TN_OK : group_error(me, err);
}

/* -- Joining ------------------------------------------------------------------------------------------------ */

int32_t group_can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                       tn_device *const *devices, tn_err *err)
{
    (void)instance;
    (void)devices;
    if (n_local != n_ranks)
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "local: joins ranks of one process, and %u of %u are in another",
                          (unsigned)(n_ranks - n_local), (unsigned)n_ranks);
    if (n_ranks > MAX_RANKS)
        return tn_err_set(err, TN_E_UNSUPPORTED, "local: joins at most %d ranks", MAX_RANKS);
    return TN_OK;
}

/* The token: whose it is, and a number. It means nothing in another process. */
int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err)
{
    struct local *l = instance;
    uint64_t token[2] = {(uintptr_t)l, 0};

    (void)err;
    pthread_mutex_lock(&l->lock);
    token[1] = ++l->next_id;
    pthread_mutex_unlock(&l->lock);
    memset(id, 0, TN_COMM_ID_BYTES);
    memcpy(id, token, sizeof token);
    return TN_OK;
}

static void group_free(struct group *g)
{
    const tn_host *h = g->l->host;

    pthread_cond_destroy(&g->moved);
    pthread_mutex_destroy(&g->lock);
    h->free(h->ctx, g->memory);
    h->free(h->ctx, g->places);
    h->free(h->ctx, g->boxes);
    h->free(h->ctx, g);
}

static struct group *group_new(struct local *l, uint64_t id, const tn_comm_join *how)
{
    const tn_host *h = l->host;
    struct group *g = h->alloc(h->ctx, sizeof *g, 64);
    uint32_t n = how->n_ranks;
    pthread_condattr_t attr;

    if (!g)
        return NULL;
    g->l = l;
    g->id = id;
    g->n = n;
    memcpy(g->members, how->members, n * sizeof *how->members);
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->moved, &attr);
    pthread_condattr_destroy(&attr);
    g->places = h->alloc(h->ctx, n * sizeof *g->places, 64);
    g->boxes = h->alloc(h->ctx, (uint64_t)n * n * sizeof *g->boxes, 64);
    g->memory = h->alloc(h->ctx, (uint64_t)n * 2 * CHUNK, 4096);
    if (!g->places || !g->boxes || !g->memory) {
        group_free(g);
        return NULL;
    }
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t k = 0; k < 2; k++)
            g->places[r].shown[k].data = g->memory + ((uint64_t)r * 2 + k) * CHUNK;
    return g;
}

/* The group of the token, made by whoever comes first. NULL: no memory. */
static struct group *find_group(struct local *l, uint64_t id, const tn_comm_join *how)
{
    struct group *g;

    pthread_mutex_lock(&l->lock);
    g = l->groups;
    while (g && g->id != id)
        g = g->next;
    if (!g && (g = group_new(l, id, how)) != NULL) {
        g->next = l->groups;
        l->groups = g;
    }
    if (g)
        g->n_joined++; /* also those that are turned away: they leave again */
    pthread_mutex_unlock(&l->lock);
    return g;
}

/* The last of those that came frees the group. */
static void depart(struct group *g)
{
    struct local *l = g->l;
    bool last;

    pthread_mutex_lock(&l->lock);
    last = ++g->n_left == g->n_joined;
    if (last) {
        struct group **at = &l->groups;
        while (*at != g)
            at = &(*at)->next;
        *at = g->next;
    }
    pthread_mutex_unlock(&l->lock);
    if (last)
        group_free(g);
}

static bool all_joined(const tn_comm_group *me, const void *arg)
{
    (void)arg;
    for (uint32_t r = 0; r < me->g->n; r++)
        if (atomic_load(&me->g->places[r].arrived) == 0)
            return false;
    return true;
}

static int32_t check_join(const struct local *l, const tn_comm_join *how, const uint64_t token[2],
                          tn_err *err)
{
    if (token[0] != (uintptr_t)l)
        return tn_err_set(err, TN_E_INVALID, "local: this token was made in another process");
    if (how->n_ranks == 0 || how->n_ranks > MAX_RANKS || how->rank >= how->n_ranks)
        return tn_err_set(err, TN_E_INVALID, "local: there is no rank %u of %u",
                          (unsigned)how->rank, (unsigned)how->n_ranks);
    return TN_OK;
}

/* Takes the rank's place; whoever does not fit breaks the group for all, since it can never work. */
static int32_t take_place(struct group *g, const tn_comm_join *how, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    bool taken;

    if (g->n != how->n_ranks) {
        tn_err_set(&why, TN_E_COMM, "local: one rank joins a group of %u, another one of %u",
                   (unsigned)g->n, (unsigned)how->n_ranks);
        return group_break(g, &why, err);
    }
    pthread_mutex_lock(&g->lock);
    taken = g->places[how->rank].joined;
    g->places[how->rank].joined = true;
    pthread_mutex_unlock(&g->lock);
    if (taken) {
        tn_err_set(&why, TN_E_COMM, "local: rank %u has joined twice", (unsigned)how->rank);
        return group_break(g, &why, err);
    }
    return TN_OK;
}

static int32_t wait_for_all(tn_comm_group *me, const tn_comm_join *how, tn_err *err)
{
    struct group *g = me->g;
    tn_err why = TN_ERR_INIT;
    int32_t rc;

    atomic_store(&g->places[me->rank].arrived, 1); /* joining is the first meeting */
    me->seq = 1;
    group_wake(g);
    rc = group_await(me, all_joined, NULL, now_ns(g->l) + how->timeout_ns, err);
    if (rc != TN_E_TIMEOUT)
        return rc;
    for (uint32_t r = 0; r < g->n; r++)
        if (atomic_load(&g->places[r].arrived) == 0) {
            tn_err_set(&why, TN_E_TIMEOUT, "local: rank %u has not joined within %llu ms",
                       (unsigned)g->members[r], (unsigned long long)how->timeout_ns / 1000000);
            break;
        }
    return why.code == TN_OK ? group_error(me, err) : group_break(g, &why, err);
}

int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    struct local *l = instance;
    const tn_host *h = l->host;
    tn_comm_group *me;
    struct group *g;
    uint64_t token[2];
    int32_t rc;

    memcpy(token, how->id, sizeof token);
    rc = check_join(l, how, token, err);
    if (rc != TN_OK)
        return rc;
    me = h->alloc(h->ctx, sizeof *me, 64);
    g = me ? find_group(l, token[1], how) : NULL;
    if (!g) {
        h->free(h->ctx, me);
        return tn_err_set(err, TN_E_NOMEM, "local: no memory for a group");
    }
    *me = (tn_comm_group){.g = g, .rank = how->rank, .call_timeout_ns = how->call_timeout_ns};
    rc = take_place(g, how, err);
    if (rc == TN_OK)
        rc = wait_for_all(me, how, err);
    if (rc != TN_OK) {
        depart(g);
        h->free(h->ctx, me);
        return rc;
    }
    *out = me;
    return TN_OK;
}

void group_leave(tn_comm_group *me)
{
    const tn_host *h = me->g->l->host;

    depart(me->g);
    h->free(h->ctx, me);
}
