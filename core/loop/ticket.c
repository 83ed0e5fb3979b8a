/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/ticket.h"

#include <assert.h>
#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "loop/mailbox.h"

int32_t ticket_new(struct mailbox *m, uint32_t max_tokens, struct ticket **out, tn_err *err)
{
    struct ticket *t = mem_zalloc(sizeof *t);
    pthread_condattr_t attr;

    if (!t)
        return err_nomem(err, "a request");
    t->capacity = max_tokens + 1;
    t->events = mem_array(t->capacity, sizeof *t->events);
    if (!t->events) {
        mem_free(t);
        return err_nomem(err, "a request's events");
    }
    t->refs = 1;
    t->mailbox = mailbox_ref(m);
    t->submitted_ns = clock_ns();
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->arrived, &attr);
    pthread_condattr_destroy(&attr);
    *out = t;
    return TN_OK;
}

void ticket_ref(struct ticket *t)
{
    pthread_mutex_lock(&t->lock);
    t->refs++;
    pthread_mutex_unlock(&t->lock);
}

void ticket_unref(struct ticket *t)
{
    uint32_t left;

    pthread_mutex_lock(&t->lock);
    left = --t->refs;
    pthread_mutex_unlock(&t->lock);
    if (left > 0)
        return;
    request_free(t->request);
    mailbox_unref(t->mailbox);
    pthread_cond_destroy(&t->arrived);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->events);
    mem_free(t);
}

static void append(struct ticket *t, const struct ticket_event *e)
{
    assert(t->n_events < t->capacity && !t->finished);
    t->events[t->n_events++] = *e;
    pthread_cond_signal(&t->arrived);
}

void ticket_post(struct ticket *t, const struct ticket_event *e)
{
    pthread_mutex_lock(&t->lock);
    append(t, e);
    pthread_mutex_unlock(&t->lock);
}

void ticket_close(struct ticket *t, const struct sched_usage *usage, const char *message)
{
    pthread_mutex_lock(&t->lock);
    if (usage)
        t->usage = *usage;
    snprintf(t->message, sizeof t->message, "%s", message);
    pthread_mutex_unlock(&t->lock);
}

void ticket_finish(struct ticket *t, const struct ticket_event *e)
{
    pthread_mutex_lock(&t->lock);
    append(t, e);
    t->finished = true;
    pthread_mutex_unlock(&t->lock);
}

static struct timespec deadline_after(uint64_t timeout_ns)
{
    uint64_t at = clock_ns();

    at = timeout_ns > UINT64_MAX / 2 - at ? UINT64_MAX / 2 : at + timeout_ns;
    return (struct timespec){.tv_sec = (time_t)(at / NS_PER_S), .tv_nsec = (long)(at % NS_PER_S)};
}

int32_t ticket_next(struct ticket *t, uint64_t timeout_ns, struct ticket_event *out)
{
    struct timespec until = deadline_after(timeout_ns);
    int32_t rc = TN_OK;

    pthread_mutex_lock(&t->lock);
    while (t->n_read == t->n_events && !t->finished_read && rc == TN_OK) {
        if (timeout_ns == UINT64_MAX)
            pthread_cond_wait(&t->arrived, &t->lock);
        else if (pthread_cond_timedwait(&t->arrived, &t->lock, &until) == ETIMEDOUT)
            rc = TN_E_TIMEOUT;
    }
    if (t->n_read < t->n_events) {
        *out = t->events[t->n_read++];
        t->finished_read = out->kind == TICKET_FINISHED;
        rc = TN_OK;
    } else if (rc == TN_OK) {
        rc = TN_E_CLOSED;
    }
    pthread_mutex_unlock(&t->lock);
    return rc;
}

const struct sched_usage *ticket_usage(const struct ticket *t)
{
    return &t->usage;
}

const char *ticket_message(const struct ticket *t)
{
    return t->message;
}

uint64_t ticket_submitted_ns(const struct ticket *t)
{
    return t->submitted_ns;
}

/* A ticket that has finished asks nothing more of the loop. */
static void wish(struct ticket *t, enum ticket_wish w)
{
    bool finished;

    pthread_mutex_lock(&t->lock);
    finished = t->finished;
    pthread_mutex_unlock(&t->lock);
    if (!finished)
        mailbox_wish(t->mailbox, t, w);
}

void ticket_cancel(struct ticket *t)
{
    wish(t, WISH_CANCEL);
}

void ticket_stop(struct ticket *t)
{
    wish(t, WISH_STOP);
}

void ticket_release(struct ticket *t)
{
    if (!t)
        return;
    ticket_cancel(t);
    ticket_unref(t);
}
