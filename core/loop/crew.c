/* SPDX-License-Identifier: Apache-2.0 */
/* Threads: the one that opens and closes a crew and the one that steps are its callers, one at a time; crew_failed may be
 * called by any. One lock guards the job, its outcome and the failure. */
#include "loop/crew.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/groups.h"
#include "loop/parts.h"

/* How long ranks may take to come back after their groups were aborted. */
#define ABORT_GRACE_NS (2 * NS_PER_S)

typedef int32_t (*crew_job)(struct rank *r, void *arg, tn_err *err);

struct member {
    struct crew *crew;
    struct rank *rank;
    pthread_t thread;
    bool started;
    uint64_t seen; /* jobs begun */
    bool busy;     /* guarded by the crew's lock */
};

struct crew {
    struct instance *in;
    struct groups groups;
    struct member *members; /* [in->n_ranks]; without threads if there is only one */
    struct step_parts parts;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t moved;
    uint64_t job_number;
    crew_job job; /* NULL: end */
    void *arg;
    uint32_t n_busy;
    int32_t status; /* of the job */
    bool failed, wedged;
    tn_err why;
};

/* -- Failing ------------------------------------------------------------------------------------------------- */

static void abort_all(struct crew *c)
{
    for (uint32_t i = 0; i < c->in->n_ranks; i++)
        if (c->in->ranks[i])
            comm_abort(&c->in->ranks[i]->comm);
}

/* Notes a failure; the first one stays, but for those that only say that somebody else's was told. */
static void fail(struct crew *c, const struct rank *r, const tn_err *err)
{
    bool first;

    pthread_mutex_lock(&c->lock);
    c->status = c->status == TN_OK ? err->code : c->status;
    first = !c->failed;
    if (first) {
        c->failed = true;
        c->why = *err;
        if (r && c->groups.world > 1)
            err_prefix(&c->why, "rank %" PRIu32, r->o.world_rank);
    }
    pthread_mutex_unlock(&c->lock);
    if (first)
        abort_all(c);
}

bool crew_failed(struct crew *c, tn_err *err)
{
    bool failed;

    pthread_mutex_lock(&c->lock);
    failed = c->failed;
    if (failed && err)
        *err = c->why;
    pthread_mutex_unlock(&c->lock);
    return failed;
}

/* -- Who is late ----------------------------------------------------------------------------------------------- */

/* The rank that keeps the others waiting: one that computes, for it has not come; else the one that made the fewest calls.
 * Of several, the one that has been at it longest. */
static const struct rank *culprit(const struct crew *c)
{
    const struct rank *found = NULL;
    uint64_t least = UINT64_MAX, since = 0;

    for (uint32_t i = 0; i < c->in->n_ranks; i++) {
        const struct rank *r = c->in->ranks[i];
        const struct beat *b = &r->comm.beat;
        uint64_t calls = atomic_load(&b->n_calls) * 2 + atomic_load(&b->waits);
        uint64_t at = atomic_load(&b->since_ns);
        if (!c->members[i].busy)
            continue;
        if (!found || calls < least || (calls == least && at < since)) {
            found = r;
            least = calls;
            since = at;
        }
    }
    return found;
}

/* With the lock held. */
static void describe_late(struct crew *c, uint64_t timeout_ns, tn_err *err)
{
    const struct rank *r = culprit(c);
    const struct beat *b = r ? &r->comm.beat : NULL;
    const char *call = b ? atomic_load(&b->call) : NULL;
    char to[48] = "";

    if (!b) {
        tn_err_set(err, TN_E_COMM, "a step took longer than %" PRIu64 " ms",
                   timeout_ns / NS_PER_MS);
        return;
    }
    if (atomic_load(&b->waits) && atomic_load(&b->peer) >= 0)
        snprintf(to, sizeof to, " with rank %" PRId64, atomic_load(&b->peer));
    tn_err_set(err, TN_E_COMM,
               "rank %" PRIu32 " has not finished step %" PRIu64 " within %" PRIu64
               " ms: it is in %s%s (layer %" PRId32 ", call %" PRIu64 ")",
               r->o.world_rank, atomic_load(&b->step), timeout_ns / NS_PER_MS,
               call ? call : "no op", to, atomic_load(&b->layer), atomic_load(&b->n_calls));
}

/* -- Threads --------------------------------------------------------------------------------------------------- */

static void *member_main(void *arg)
{
    struct member *m = arg;
    struct crew *c = m->crew;

    for (;;) {
        tn_err err = TN_ERR_INIT;
        crew_job job;
        pthread_mutex_lock(&c->lock);
        while (c->job_number == m->seen)
            pthread_cond_wait(&c->moved, &c->lock);
        m->seen = c->job_number;
        job = c->job;
        pthread_mutex_unlock(&c->lock);
        if (!job)
            return NULL;
        if (job(m->rank, c->arg, &err) != TN_OK)
            fail(c, m->rank, &err);
        pthread_mutex_lock(&c->lock);
        m->busy = false;
        c->n_busy--;
        pthread_cond_broadcast(&c->moved);
        pthread_mutex_unlock(&c->lock);
    }
}

static int32_t start_threads(struct crew *c, tn_err *err)
{
    for (uint32_t i = 0; i < c->in->n_ranks; i++) {
        struct member *m = &c->members[i];
        int e = pthread_create(&m->thread, NULL, member_main, m);
        if (e != 0)
            return err_errno(err, "start a thread for", "a rank", e);
        m->started = true;
    }
    return TN_OK;
}

static void begin_job(struct crew *c, crew_job job, void *arg)
{
    pthread_mutex_lock(&c->lock);
    c->job = job;
    c->arg = arg;
    c->status = TN_OK;
    c->job_number++;
    for (uint32_t i = 0; i < c->in->n_ranks; i++) {
        c->members[i].busy = c->members[i].started;
        c->n_busy += c->members[i].started;
    }
    pthread_cond_broadcast(&c->moved);
    pthread_mutex_unlock(&c->lock);
}

/* With the lock held: waits until all members are done; false when the time is over. */
static bool wait_idle(struct crew *c, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / NS_PER_S), (long)(until_ns % NS_PER_S)};

    while (c->n_busy > 0)
        if (pthread_cond_timedwait(&c->moved, &c->lock, &until) != 0 && c->n_busy > 0 &&
            clock_ns() >= until_ns)
            return false;
    return true;
}

/* Waits for the job. Past its deadline the late rank is named and everything aborted. */
static int32_t end_job(struct crew *c, uint64_t timeout_ns, tn_err *err)
{
    tn_err late = TN_ERR_INIT;
    int32_t rc;

    pthread_mutex_lock(&c->lock);
    if (!wait_idle(c, clock_ns() + timeout_ns)) {
        describe_late(c, timeout_ns, &late);
        pthread_mutex_unlock(&c->lock);
        fail(c, NULL, &late);
        pthread_mutex_lock(&c->lock);
        c->wedged = !wait_idle(c, clock_ns() + ABORT_GRACE_NS);
    }
    rc = c->failed ? c->why.code : c->status;
    if (rc != TN_OK && err)
        *err = c->why;
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int32_t run_job(struct crew *c, crew_job job, void *arg, tn_err *err)
{
    int32_t rc;

    if (c->in->n_ranks == 1 && !c->members[0].started) {
        rc = job(c->in->ranks[0], arg, err);
        return rc;
    }
    begin_job(c, job, arg);
    return end_job(c, 2 * (uint64_t)conf_int(c->in->o.conf, CONF_PARALLEL_JOIN_MS) * NS_PER_MS,
                   err);
}

/* -- Opening ----------------------------------------------------------------------------------------------------- */

static int32_t join(struct rank *r, void *arg, tn_err *err)
{
    return groups_join(arg, r, err);
}

static int32_t bind(struct rank *r, void *arg, tn_err *err)
{
    (void)arg;
    return rank_bind(r, err);
}

static int32_t alloc_kv(struct rank *r, void *arg, tn_err *err)
{
    (void)arg;
    return rank_alloc_kv(r, r->in->n_pages, err);
}

static int32_t open_ranks(struct crew *c, tn_err *err)
{
    struct instance *in = c->in;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < in->n_ranks && rc == TN_OK; i++) {
        struct rank_options o;
        rc = groups_place(&c->groups, in, i, &o, err);
        if (rc == TN_OK)
            rc = rank_open(in, &o, &in->ranks[i], err);
        if (rc == TN_OK)
            groups_lines(&c->groups, in->ranks[i]);
        c->members[i] = (struct member){.crew = c, .rank = in->ranks[i]};
    }
    return rc;
}

static int32_t size_cache(struct crew *c, tn_err *err)
{
    struct instance *in = c->in;
    uint32_t fit = 0;
    int32_t rc = TN_OK;

    in->n_pages = LIMIT_KV_BLOCKS;
    for (uint32_t i = 0; i < in->n_ranks && rc == TN_OK; i++) {
        rc = rank_fit_pages(in->ranks[i], &fit, err);
        in->n_pages = fit < in->n_pages ? fit : in->n_pages;
    }
    return rc == TN_OK ? run_job(c, alloc_kv, NULL, err) : rc;
}

static int32_t open_all(struct crew *c, tn_err *err)
{
    struct instance *in = c->in;
    int32_t rc;

    if ((rc = groups_init(&c->groups, in, err)) != TN_OK)
        return rc;
    in->n_ranks = in->o.dry ? 1 : c->groups.n_local;
    in->ranks = mem_zarray(in->n_ranks, sizeof(struct rank *));
    c->members = mem_zarray(in->n_ranks, sizeof *c->members);
    if (!in->ranks || !c->members)
        return err_nomem(err, "ranks");
    if ((rc = open_ranks(c, err)) != TN_OK || in->o.dry)
        return rc == TN_OK ? rank_bind(in->ranks[0], err) : rc;
    if (c->groups.world > 1 &&
        ((rc = start_threads(c, err)) != TN_OK || (rc = groups_ids(&c->groups, err)) != TN_OK ||
         (rc = run_job(c, join, &c->groups, err)) != TN_OK))
        return rc;
    rc = run_job(c, bind, NULL, err);
    return rc == TN_OK ? size_cache(c, err) : rc;
}

int32_t crew_open(struct instance *in, struct crew **out, tn_err *err)
{
    struct crew *c = mem_zalloc(sizeof *c);
    pthread_condattr_t attr;
    int32_t rc;

    if (!c)
        return err_nomem(err, "ranks");
    c->in = in;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->moved, &attr);
    pthread_condattr_destroy(&attr);
    rc = open_all(c, err);
    if (rc != TN_OK) {
        crew_close(c);
        return rc;
    }
    *out = c;
    return TN_OK;
}

/* A rank that did not come back is still somewhere in a plugin, and uses what would be freed here. */
static void leave_behind(struct crew *c)
{
    log_error("a rank does not come back; what it holds is given back when the process ends");
    c->in->ranks = NULL;
}

void crew_close(struct crew *c)
{
    struct instance *in;

    if (!c)
        return;
    in = c->in;
    if (c->wedged) {
        leave_behind(c);
        return;
    }
    begin_job(c, NULL, NULL);
    for (uint32_t i = 0; c->members && i < in->n_ranks; i++)
        if (c->members[i].started)
            pthread_join(c->members[i].thread, NULL);
    for (uint32_t i = in->ranks ? in->n_ranks : 0; i > 0; i--)
        rank_close(in->ranks[i - 1]);
    mem_free(in->ranks);
    in->ranks = NULL;
    parts_release(&c->parts);
    groups_release(&c->groups);
    pthread_cond_destroy(&c->moved);
    pthread_mutex_destroy(&c->lock);
    mem_free(c->members);
    mem_free(c);
}

int32_t crew_prepare(struct crew *c, const struct sched *s, tn_err *err)
{
    if (c->groups.world == 1)
        return rank_prepare(c->in->ranks[0], s, err);
    return parts_init(&c->parts, s, c->in->o.ledger, err);
}

uint32_t crew_depth(const struct crew *c)
{
    return c->groups.world == 1 ? rank_depth(c->in->ranks[0]) : 1;
}

uint32_t crew_world(const struct crew *c)
{
    return c->groups.world;
}

/* -- Steps ------------------------------------------------------------------------------------------------------- */

static int32_t run_parts(struct rank *r, void *arg, tn_err *err)
{
    return rank_run_parts(r, arg, err);
}

int32_t crew_submit(struct crew *c, const struct sched *s, const struct sched_step *step,
                    tn_err *err)
{
    uint32_t wanted = (uint32_t)conf_int(c->in->o.conf, CONF_PARALLEL_MICRO);

    if (c->groups.world == 1)
        return rank_submit(c->in->ranks[0], s, step, err);
    if (crew_failed(c, err))
        return TN_E_COMM;
    parts_fill(&c->parts, s, step, parts_count(step, c->groups.pp_size, wanted));
    begin_job(c, run_parts, &c->parts);
    return TN_OK;
}

int32_t crew_wait(struct crew *c, struct rank_result *out, tn_err *err)
{
    int32_t rc;

    if (c->groups.world == 1)
        return rank_wait(c->in->ranks[0], out, err);
    rc = end_job(c, (uint64_t)conf_int(c->in->o.conf, CONF_PARALLEL_STEP_MS) * NS_PER_MS, err);
    rank_parts_result(c->in->ranks[0], out);
    if (rc != TN_OK && err)
        err->code = TN_E_COMM;
    return rc == TN_OK ? TN_OK : TN_E_COMM;
}
