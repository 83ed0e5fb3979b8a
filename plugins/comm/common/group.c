/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joining, leaving, breaking and waiting. A wait spins for a while, since a meeting of ranks that run side by side takes
 * less than waking a thread does; then it announces itself asleep, looks once more, and sleeps. Whoever changes something
 * looks for sleepers afterwards; both sides are sequentially consistent, so no wake-up is lost.
 */
#include "group.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

#define NS_PER_S 1000000000u

static uint64_t now_ns(const struct hub *l)
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

/* A word that the rank's device shares with threads of the host; NULL: it does not meet others by itself. */
static _Atomic uint32_t *word_of(tn_comm_group *me, uint32_t which)
{
    volatile uint32_t *words = atomic_load(&me->words);

    return words ? (_Atomic uint32_t *)(uintptr_t)(words + which) : NULL;
}

/* Whether the rank's device has waited for another in vain, which breaks the group. */
static int32_t look_at_device(tn_comm_group *me, tn_err *err)
{
    const _Atomic uint32_t *word = word_of(me, TN_MEET_LATE);
    uint32_t late = word ? atomic_load(word) : 0;
    tn_err why = TN_ERR_INIT;

    if (late == 0 || late > me->g->n)
        return TN_OK;
    tn_err_set(&why, TN_E_TIMEOUT, "%s: rank %u has not come within %llu ms, on its device",
               me->g->l->name, (unsigned)me->g->members[late - 1],
               (unsigned long long)(me->call_timeout_ns / 1000000));
    return group_break(me->g, &why, err);
}

int32_t group_error(tn_comm_group *me, tn_err *err)
{
    struct group *g = me->g;
    int32_t rc = atomic_load(&g->broken);

    if (rc == TN_OK)
        rc = look_at_device(me, err);
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
    _Atomic uint32_t *word = word_of(me, TN_MEET_GIVE_UP);
    tn_err why = TN_ERR_INIT;

    if (word)
        atomic_store(word, 1);
    tn_err_set(&why, TN_E_CANCELED, "the group was aborted");
    group_break(me->g, &why, NULL);
}

/* True when ready or broken; false when the time to spin is over. */
static bool spin(tn_comm_group *me, bool (*ready)(const tn_comm_group *, const void *),
                 const void *arg)
{
    const struct hub *l = me->g->l;
    uint64_t start = now_ns(l), most = me->g->n <= l->processors ? l->spin_few_ns : l->spin_ns;

    do {
        for (int i = 0; i < 32; i++) {
            if (ready(me, arg) || atomic_load(&me->g->broken) != TN_OK)
                return true;
            RELAX();
        }
    } while (now_ns(l) - start < most);
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
    const struct hub *l = instance;

    (void)devices;
    if (n_local != n_ranks)
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "%s: joins ranks of one process, and %u of %u are in another", l->name,
                          (unsigned)(n_ranks - n_local), (unsigned)n_ranks);
    if (n_ranks > MAX_RANKS)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s: joins at most %d ranks", l->name, MAX_RANKS);
    return TN_OK;
}

/* The token: whose it is, and a number. It means nothing in another process. */
int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err)
{
    struct hub *l = instance;
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

static struct group *group_new(struct hub *l, uint64_t id, const tn_comm_join *how)
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
static struct group *find_group(struct hub *l, uint64_t id, const tn_comm_join *how)
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
    struct hub *l = g->l;
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
        if (atomic_load(&me->g->places[r].arrived) < me->seq)
            return false;
    return true;
}

static int32_t check_join(const struct hub *l, const tn_comm_join *how, const uint64_t token[2],
                          tn_err *err)
{
    if (token[0] != (uintptr_t)l)
        return tn_err_set(err, TN_E_INVALID, "%s: this token was made in another process", l->name);
    if (how->n_ranks == 0 || how->n_ranks > MAX_RANKS || how->rank >= how->n_ranks)
        return tn_err_set(err, TN_E_INVALID, "%s: there is no rank %u of %u", l->name,
                          (unsigned)how->rank, (unsigned)how->n_ranks);
    return TN_OK;
}

/* Takes the rank's place; whoever does not fit breaks the group for all, since it can never work. */
static int32_t take_place(struct group *g, const tn_comm_join *how, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    bool taken;

    if (g->n != how->n_ranks) {
        tn_err_set(&why, TN_E_COMM, "%s: one rank joins a group of %u, another one of %u",
                   g->l->name, (unsigned)g->n, (unsigned)how->n_ranks);
        return group_break(g, &why, err);
    }
    pthread_mutex_lock(&g->lock);
    taken = g->places[how->rank].joined;
    g->places[how->rank].joined = true;
    pthread_mutex_unlock(&g->lock);
    if (taken) {
        tn_err_set(&why, TN_E_COMM, "%s: rank %u has joined twice", g->l->name,
                   (unsigned)how->rank);
        return group_break(g, &why, err);
    }
    return TN_OK;
}

/* Joining is the first meetings. */
static int32_t wait_for_all(tn_comm_group *me, const tn_comm_join *how, tn_err *err)
{
    struct group *g = me->g;
    tn_err why = TN_ERR_INIT;
    int32_t rc;

    atomic_store(&g->places[me->rank].arrived, ++me->seq);
    group_wake(g);
    rc = group_await(me, all_joined, NULL, now_ns(g->l) + how->timeout_ns, err);
    if (rc != TN_E_TIMEOUT)
        return rc;
    for (uint32_t r = 0; r < g->n; r++)
        if (atomic_load(&g->places[r].arrived) < me->seq) {
            tn_err_set(&why, TN_E_TIMEOUT, "%s: rank %u has not joined within %llu ms", g->l->name,
                       (unsigned)g->members[r], (unsigned long long)how->timeout_ns / 1000000);
            break;
        }
    return why.code == TN_OK ? group_error(me, err) : group_break(g, &why, err);
}

/* What device memory needs; a rank that cannot have it breaks the group. */
static int32_t open_member(tn_comm_group *me, const tn_comm_join *how, tn_err *err)
{
    struct hub *l = me->g->l;
    tn_err why = TN_ERR_INIT;
    int32_t rc = TN_OK;

    if (how->info && !(how->info->flags & TN_DEVICE_HOST_MEMORY)) {
        me->api = how->api;
        me->device = how->device;
        me->shares = (how->flags & TN_COMM_JOIN_SHARED) != 0;
        memcpy(me->uuid, how->info->uuid, sizeof me->uuid);
        if (!(how->info->flags & TN_DEVICE_STREAMS) || !TN_HAS(tn_device_api, me->api, sum) ||
            !me->api->sum)
            rc = tn_err_set(&why, TN_E_UNSUPPORTED, "%s: devices of kind %s cannot sum", l->name,
                            me->api->kind);
    }
    for (uint32_t i = 0; i < 2 && rc == TN_OK && me->api; i++)
        rc = me->api->event_new(me->device, &me->events[i], &why);
    if (rc == TN_OK && me->api)
        rc = me->api->event_new(me->device, &me->sent, &why);
    if (rc == TN_OK && me->api)
        rc = me->api->event_new(me->device, &me->took, &why);
    if (rc == TN_OK && me->api)
        rc = l->open(me, &why);
    me->g->places[me->rank].member = me;
    return rc == TN_OK ? TN_OK : group_break(me->g, &why, err);
}

/* Each finds out whose memory its device reaches; a plugin for which it must be all says so in its next step. */
static int32_t look_around(tn_comm_group *me, bool staged, tn_err *err)
{
    const struct group *g = me->g;
    int32_t rc = TN_OK;

    for (uint32_t r = 0; r < g->n && me->api && rc == TN_OK; r++) {
        tn_device *peer = g->places[r].member->device;
        uint32_t yes = r == me->rank;
        if (!yes && peer && !staged && me->api->peer_access)
            rc = me->api->peer_access(me->device, peer, &yes, err);
        me->reaches[r] = yes != 0;
    }
    return rc;
}

/* What each has found is for all to see. */
static int32_t settle(tn_comm_group *me, const tn_comm_join *how, tn_err *err)
{
    const struct hub *l = me->g->l;
    int32_t rc = wait_for_all(me, how, err);

    if (rc != TN_OK || !l->settle)
        return rc;
    rc = l->settle(me, false, err);
    if (rc == TN_OK)
        rc = wait_for_all(me, how, err);
    return rc == TN_OK ? l->settle(me, true, err) : rc;
}

int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    struct hub *l = instance;
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
        return tn_err_set(err, TN_E_NOMEM, "%s: no memory for a group", l->name);
    }
    me->g = g;
    me->rank = how->rank;
    me->call_timeout_ns = how->call_timeout_ns;
    rc = take_place(g, how, err);
    if (rc == TN_OK)
        rc = open_member(me, how, err);
    if (rc == TN_OK)
        rc = wait_for_all(me, how, err);
    if (rc == TN_OK)
        rc = look_around(me, (how->flags & TN_COMM_JOIN_STAGED) != 0, err);
    if (rc == TN_OK)
        rc = settle(me, how, err);
    if (rc != TN_OK) {
        group_leave(me);
        return rc;
    }
    *out = me;
    return TN_OK;
}

void group_leave(tn_comm_group *me)
{
    const tn_host *h = me->g->l->host;

    if (me->api) {
        me->g->l->close(me);
        for (uint32_t i = 0; i < 2; i++)
            me->api->event_free(me->device, me->events[i]);
        me->api->event_free(me->device, me->sent);
        me->api->event_free(me->device, me->took);
    }
    depart(me->g);
    h->free(h->ctx, me);
}

int32_t group_link(tn_comm_group *me, uint32_t peer, tn_comm_link *out, tn_err *err)
{
    if (peer >= me->g->n)
        return tn_err_set(err, TN_E_RANGE, "%s: there is no rank %u", me->g->l->name,
                          (unsigned)peer);
    *out = (tn_comm_link){.h = TN_HDR(tn_comm_link)};
    snprintf(out->kind, sizeof out->kind, "%s",
             peer == me->rank                         ? "self"
             : !me->api                               ? "shm"
             : me->reaches[peer] && !me->g->l->staged ? "peer"
                                                      : "host");
    return TN_OK;
}

/* -- The plugin's instance ---------------------------------------------------------------------------------- */

static int32_t apply(struct hub *l, const tn_kv *kv,
                     int32_t (*setting)(struct hub *, const tn_kv *, tn_err *), tn_err *err)
{
    int32_t rc = fault_setting(&l->fault, kv, err);
    char *end;

    if (rc != TN_E_NOTFOUND || (rc = setting(l, kv, err)) != TN_E_NOTFOUND)
        return rc;
    if (strcmp(kv->key, "spin_us") == 0) {
        unsigned long us = strtoul(kv->value, &end, 10);
        l->spin_ns = l->spin_few_ns = (uint64_t)us * 1000;
        if (end != kv->value && !*end && us <= 1000000)
            return TN_OK;
        return tn_err_set(err, TN_E_CONFIG, "%s: spin_us = \"%s\": must be 0 to 1000000", l->name,
                          kv->value);
    }
    return tn_err_set(err, TN_E_CONFIG, "%s: %s is not a setting", l->name, kv->key);
}

int32_t hub_new(const tn_host *host, const struct hub *model, const tn_kv *config,
                uint32_t n_config, int32_t (*setting)(struct hub *, const tn_kv *, tn_err *),
                void **instance, tn_err *err)
{
    struct hub *l = host->alloc(host->ctx, sizeof *l, 64);
    int32_t rc = TN_OK;

    if (!l)
        return tn_err_set(err, TN_E_NOMEM, "%s: no memory for an instance", model->name);
    *l = *model;
    l->host = host;
    l->processors = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    /* Waking a thread takes 50 to 100 us. Who sleeps too early comes late to the next meeting, where the others then fall
     * asleep, and so on for ever: with a processor for every rank it is better to spin through. */
    l->spin_ns = 50000;
    l->spin_few_ns = 400000;
    for (uint32_t i = 0; i < n_config && rc == TN_OK; i++)
        rc = apply(l, &config[i], setting, err);
    if (rc != TN_OK) {
        host->free(host->ctx, l);
        return rc;
    }
    pthread_mutex_init(&l->lock, NULL);
    *instance = l;
    return TN_OK;
}

void hub_free(void *instance)
{
    struct hub *l = instance;

    pthread_mutex_destroy(&l->lock);
    l->host->free(l->host->ctx, l);
}
