/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/mailbox.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"

struct mailbox {
    pthread_mutex_t lock; /* guards everything */
    pthread_cond_t wake;
    uint32_t refs;
    struct ticket *first, **last;
    uint32_t n_requests;
    bool closed;
};

int32_t mailbox_new(struct mailbox **out, tn_err *err)
{
    struct mailbox *m = mem_zalloc(sizeof *m);
    pthread_condattr_t attr;

    if (!m)
        return err_nomem(err, "a mailbox");
    m->refs = 1;
    m->last = &m->first;
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_condattr_destroy(&attr);
    *out = m;
    return TN_OK;
}

struct mailbox *mailbox_ref(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->refs++;
    pthread_mutex_unlock(&m->lock);
    return m;
}

void mailbox_unref(struct mailbox *m)
{
    uint32_t left;

    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    left = --m->refs;
    pthread_mutex_unlock(&m->lock);
    if (left > 0)
        return;
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

/* Puts a ticket in line, if it is not there. The lock is held. */
static void enqueue(struct mailbox *m, struct ticket *t)
{
    if (t->posted)
        return;
    t->posted = true;
    t->next = NULL;
    *m->last = t;
    m->last = &t->next;
    ticket_ref(t);
}

bool mailbox_submit(struct mailbox *m, const struct submission *list, uint32_t n)
{
    bool open;

    pthread_mutex_lock(&m->lock);
    open = !m->closed;
    for (uint32_t i = 0; open && i < n; i++) {
        list[i].ticket->request = list[i].request;
        m->n_requests++;
        enqueue(m, list[i].ticket);
    }
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    return open;
}

void mailbox_wish(struct mailbox *m, struct ticket *t, enum ticket_wish wish)
{
    pthread_mutex_lock(&m->lock);
    if (!m->closed) {
        if (t->wish != WISH_CANCEL)
            t->wish = wish;
        enqueue(m, t);
        pthread_cond_signal(&m->wake);
    }
    pthread_mutex_unlock(&m->lock);
}

struct ticket *mailbox_take(struct mailbox *m, struct request **request, enum ticket_wish *wish)
{
    struct ticket *t;

    pthread_mutex_lock(&m->lock);
    t = m->first;
    if (t) {
        m->first = t->next;
        if (!m->first)
            m->last = &m->first;
        *request = t->request;
        *wish = t->wish;
        m->n_requests -= t->request != NULL;
        t->request = NULL;
        t->wish = WISH_NONE;
        t->posted = false;
    }
    pthread_mutex_unlock(&m->lock);
    return t;
}

void mailbox_wait(struct mailbox *m, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                             .tv_nsec = (long)(until_ns % NS_PER_S)};

    pthread_mutex_lock(&m->lock);
    if (!m->first && !m->closed) {
        if (until_ns == UINT64_MAX)
            pthread_cond_wait(&m->wake, &m->lock);
        else
            pthread_cond_timedwait(&m->wake, &m->lock, &until);
    }
    pthread_mutex_unlock(&m->lock);
}

void mailbox_close(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->closed = true;
    pthread_cond_broadcast(&m->wake);
    pthread_mutex_unlock(&m->lock);
}

bool mailbox_closed(struct mailbox *m)
{
    bool closed;

    pthread_mutex_lock(&m->lock);
    closed = m->closed;
    pthread_mutex_unlock(&m->lock);
    return closed;
}

uint32_t mailbox_pending(struct mailbox *m)
{
    uint32_t n;

    pthread_mutex_lock(&m->lock);
    n = m->n_requests;
    pthread_mutex_unlock(&m->lock);
    return n;
}
