/* SPDX-License-Identifier: Apache-2.0 */
#include "base/ledger.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"

struct ledger_owner {
    struct ledger_owner *next;
    char *owner, *place;
    _Atomic uint64_t bytes;
    _Atomic uint64_t peak;
};

struct ledger {
    pthread_mutex_t lock;        /* guards the list; counters are atomic */
    struct ledger_owner *owners; /* in order of creation */
};

int32_t ledger_new(struct ledger **out, tn_err *err)
{
    struct ledger *l = mem_zalloc(sizeof *l);

    if (!l)
        return err_nomem(err, "the byte ledger");
    pthread_mutex_init(&l->lock, NULL);
    *out = l;
    return TN_OK;
}

static void owner_free(struct ledger_owner *o)
{
    mem_free(o->owner);
    mem_free(o->place);
    mem_free(o);
}

void ledger_free(struct ledger *l)
{
    if (!l)
        return;
    while (l->owners) {
        struct ledger_owner *o = l->owners;
        l->owners = o->next;
        owner_free(o);
    }
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

static struct ledger_owner *owner_new(const char *owner, const char *place)
{
    struct ledger_owner *o = mem_zalloc(sizeof *o);

    if (!o)
        return NULL;
    o->owner = mem_strdup(owner);
    o->place = mem_strdup(place);
    if (!o->owner || !o->place) {
        owner_free(o);
        return NULL;
    }
    return o;
}

int32_t ledger_owner(struct ledger *l, const char *owner, const char *place,
                     struct ledger_owner **out, tn_err *err)
{
    struct ledger_owner **p;
    int32_t rc = TN_OK;

    pthread_mutex_lock(&l->lock);
    for (p = &l->owners; *p; p = &(*p)->next)
        if (strcmp((*p)->owner, owner) == 0 && strcmp((*p)->place, place) == 0)
            break;
    if (!*p)
        *p = owner_new(owner, place);
    if (*p)
        *out = *p;
    else
        rc = err_nomem(err, "the byte ledger");
    pthread_mutex_unlock(&l->lock);
    return rc;
}

void ledger_take(struct ledger_owner *o, uint64_t bytes)
{
    uint64_t now = atomic_fetch_add(&o->bytes, bytes) + bytes;
    uint64_t peak = atomic_load(&o->peak);

    while (now > peak && !atomic_compare_exchange_weak(&o->peak, &peak, now))
        ;
}

void ledger_give(struct ledger_owner *o, uint64_t bytes)
{
    uint64_t before = atomic_fetch_sub(&o->bytes, bytes);

    assert(before >= bytes);
    (void)before;
}

uint64_t ledger_total(struct ledger *l)
{
    uint64_t sum = 0;

    pthread_mutex_lock(&l->lock);
    for (struct ledger_owner *o = l->owners; o; o = o->next)
        sum += atomic_load(&o->bytes);
    pthread_mutex_unlock(&l->lock);
    return sum;
}

uint32_t ledger_list(struct ledger *l, struct ledger_line *lines, uint32_t max)
{
    uint32_t n = 0;

    pthread_mutex_lock(&l->lock);
    for (struct ledger_owner *o = l->owners; o; o = o->next, n++)
        if (n < max)
            lines[n] = (struct ledger_line){o->owner, o->place, atomic_load(&o->bytes),
                                            atomic_load(&o->peak)};
    pthread_mutex_unlock(&l->lock);
    return n;
}
