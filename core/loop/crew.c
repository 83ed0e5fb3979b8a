/* SPDX-License-Identifier: Apache-2.0 */
/* Threads: the one that opens and closes a crew and the one that steps are its callers, one at a time; crew_failed may be
 * called by any. One lock guards the job, its outcome and the failure. */
#include "loop/crew.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/control.h"
#include "loop/groups.h"
#include "loop/parts.h"

/* How long ranks may take to come back after their groups were aborted. */
#define ABORT_GRACE_NS (2 * NS_PER_S)
#define REASON_GRACE_NS NS_PER_S /* for a process that goes to say why */
#define BEAT_NS (250 * NS_PER_MS)
/* Calls have the same deadline as steps, and know best who is missing: they get the time to say so. */
#define STEP_GRACE_NS (2 * NS_PER_S)

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
    struct member *members;  /* [in->n_ranks]; without threads if there is only one */
    struct control *control; /* NULL: there is only this process */
    struct step_parts parts, received[2];
    struct far_beat *beats; /* [world], for who looks into a failure, and for telling our own */
    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t moved;
    uint64_t job_number;
    crew_job job; /* NULL: end */
    void *arg;
    uint32_t n_busy;
    int32_t status; /* of the job */
    bool failed, wedged;
    tn_err why, let_down; /* the latter: a rank waited in vain, and who is to blame is still open */
};

/* -- Who is late ----------------------------------------------------------------------------------------------- */

/* What the ranks of this process are doing, as others see it; with the lock held. Returns how many are at work. */
static uint32_t own_beats(const struct crew *c, struct far_beat *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->in->n_ranks; i++) {
        const struct rank *r = c->in->ranks[i];
        const struct beat *b = &r->comm.beat;
        const char *call = atomic_load(&b->call);
        if (!c->members[i].busy)
            continue;
        out[n] = (struct far_beat){.rank = r->o.world_rank,
                                   .waits = atomic_load(&b->waits),
                                   .layer = atomic_load(&b->layer),
                                   .peer = atomic_load(&b->peer),
                                   .n_calls = atomic_load(&b->n_calls),
                                   .step = atomic_load(&b->step)};
        snprintf(out[n].call, sizeof out[n].call, "%s", call ? call : "");
        n++;
    }
    return n;
}

static const struct far_beat *beat_of(const struct far_beat *beats, uint32_t n, uint32_t rank)
{
    for (uint32_t i = 0; i < n; i++)
        if (beats[i].rank == rank)
            return &beats[i];
    return NULL;
}

/* Whom a rank in a collective waits for: who made fewer calls than it or does not wait itself. CONTROL_NO_RANK if all of its group
 * have come as far, by what they told. */
static uint32_t slowest(const struct crew *c, const struct far_beat *beats, uint32_t n,
                        const struct far_beat *b)
{
    uint32_t first = b->rank / c->groups.tp_size * c->groups.tp_size, found = CONTROL_NO_RANK;
    uint64_t least = b->n_calls;

    for (uint32_t r = first; r < first + c->groups.tp_size; r++) {
        const struct far_beat *o = beat_of(beats, n, r);
        if (r == b->rank)
            continue;
        if (!o)
            return r; /* not at work at all */
        if (o->n_calls < least || (o->n_calls == least && !o->waits)) {
            least = o->n_calls;
            found = r;
        }
    }
    return found;
}

/* Who is at the end of those that wait for each other, from `start` on, which waits for certain if it is `waiting`; CONTROL_NO_RANK
 * if that cannot be known. */
static uint32_t trace(const struct crew *c, const struct far_beat *beats, uint32_t n,
                      uint32_t start, bool waiting)
{
    uint32_t at = start;

    for (uint32_t hops = 0; hops <= c->groups.world && at != CONTROL_NO_RANK; hops++) {
        const struct far_beat *b = beat_of(beats, n, at);
        if (!b)
            return hops > 0 ? at : CONTROL_NO_RANK;
        if (!b->waits && !(hops == 0 && waiting))
            return at;
        at = b->peer >= 0 ? (uint32_t)b->peer : slowest(c, beats, n, b);
    }
    return CONTROL_NO_RANK;
}

static void say_where(const struct far_beat *b, char *out, size_t size)
{
    char to[48] = "";

    if (b->waits && b->peer >= 0)
        snprintf(to, sizeof to, " with rank %" PRId64, b->peer);
    snprintf(out, size, "it is in %s%s (step %" PRIu64 ", layer %" PRId32 ", call %" PRIu64 ")",
             b->call[0] ? b->call : "no op", to, b->step, b->layer, b->n_calls);
}

/* Names in `out` who is late, when `reporter` has waited in vain or, if that is CONTROL_NO_RANK, this process's ranks are not done.
 * False if it cannot be known. With the lock held. */
static bool find_late(struct crew *c, uint32_t reporter, char *out, size_t size)
{
    uint32_t n = own_beats(c, c->beats), silent = 0, rank;
    bool reported = reporter != CONTROL_NO_RANK;
    const struct far_beat *b;
    char where[160] = "it is at no step";

    if (c->control && !control_leads(c->control))
        return false; /* only the leader knows of all */
    if (!reported && n > 0)
        reporter = c->beats[0].rank;
    if (c->control)
        n += control_beats(c->control, c->beats + n, c->groups.world - n, &silent);
    if (silent) {
        control_name(c->control, silent, where, sizeof where);
        snprintf(out, size, "%s gives no sign of life", where);
        return true;
    }
    rank = trace(c, c->beats, n, reporter, reported);
    b = beat_of(c->beats, n, rank);
    if (b)
        say_where(b, where, sizeof where);
    snprintf(out, size, "rank %" PRIu32 " is late: %s", rank, where);
    return rank != CONTROL_NO_RANK;
}

/* Whether a rank waited for one other, and not for its group. With the lock held. */
static bool in_message(const struct crew *c, uint32_t rank)
{
    const struct instance *in = c->in;

    for (uint32_t i = 0; i < in->n_ranks; i++)
        if (in->ranks[i]->o.world_rank == rank)
            return atomic_load(&in->ranks[i]->comm.beat.peer) >= 0;
    return false;
}

/* A step took too long. With the lock held. */
static void describe_late(struct crew *c, uint64_t timeout_ns, tn_err *err)
{
    uint64_t ms = timeout_ns / NS_PER_MS;
    char late[200];

    if (find_late(c, CONTROL_NO_RANK, late, sizeof late))
        tn_err_set(err, TN_E_COMM, "a step took longer than %" PRIu64 " ms: %s", ms, late);
    else if (c->let_down.code != TN_OK)
        *err = c->let_down;
    else if (own_beats(c, c->beats) > 0) {
        say_where(&c->beats[0], late, sizeof late);
        tn_err_set(err, TN_E_COMM, "rank %" PRIu32 " took longer than %" PRIu64 " ms: %s",
                   c->beats[0].rank, ms, late);
    } else {
        tn_err_set(err, TN_E_COMM, "a step took longer than %" PRIu64 " ms", ms);
    }
}

/* -- Failing ------------------------------------------------------------------------------------------------- */

static void abort_all(struct crew *c)
{
    for (uint32_t i = 0; i < c->in->n_ranks; i++)
        if (c->in->ranks[i])
            comm_abort(&c->in->ranks[i]->comm);
}

/* Whether it is a failure that somebody else must have caused, who is not known yet: a rank that waited in vain for a message
 * from one which waits itself. Others know more, and will soon tell. With the lock held. */
static bool keep_for_later(struct crew *c, uint32_t rank, const tn_err *err)
{
    if (err->code != TN_E_TIMEOUT || !in_message(c, rank))
        return false;
    if (c->let_down.code == TN_OK) {
        c->let_down = *err;
        err_prefix(&c->let_down, "rank %" PRIu32, rank);
    }
    return true;
}

/* Waits until a failure is known; false when the time is over. With the lock held. */
static bool await_failure(struct crew *c, uint64_t ns)
{
    uint64_t until_ns = clock_ns() + ns;
    struct timespec until = {(time_t)(until_ns / NS_PER_S), (long)(until_ns % NS_PER_S)};

    while (!c->failed)
        if (pthread_cond_timedwait(&c->moved, &c->lock, &until) != 0 && clock_ns() >= until_ns)
            break;
    return c->failed;
}

/* Whether a rank's peer may have gone because its process has found a failure, which it tells the leader in another way: what
 * it closes may be seen before what it says. */
static bool may_be_told_why(const struct crew *c, uint32_t rank, bool own, const tn_err *err)
{
    return own && rank != CONTROL_NO_RANK && err->code == TN_E_COMM && c->control &&
           control_leads(c->control);
}

/* Notes a failure that `rank` of the run (CONTROL_NO_RANK: nobody in particular) has found; the first one stays. Who waited in
 * vain was let down by somebody else, who is named where that can be known. `own`: this process has found it. */
static void fail(struct crew *c, uint32_t rank, bool own, const tn_err *err)
{
    char late[200];
    bool first = false;

    pthread_mutex_lock(&c->lock);
    c->status = c->status == TN_OK ? err->code : c->status;
    if (may_be_told_why(c, rank, own, err))
        await_failure(c, REASON_GRACE_NS);
    if (!c->failed) {
        bool known = err->code == TN_E_TIMEOUT && find_late(c, rank, late, sizeof late);
        first = known || !own || !keep_for_later(c, rank, err);
        if (first) {
            c->failed = true;
            c->why = *err;
        }
        if (first && own && rank != CONTROL_NO_RANK && c->groups.world > 1)
            err_prefix(&c->why, "rank %" PRIu32, rank);
        if (first && known)
            err_prefix(&c->why, "%s", late);
        pthread_cond_broadcast(&c->moved);
    }
    pthread_mutex_unlock(&c->lock);
    if (!first)
        return;
    abort_all(c);
    if (c->control)
        control_tell(c->control, own ? rank : CONTROL_NO_RANK, err);
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

uint64_t crew_pulse(const struct crew *c)
{
    const struct beat *b = &c->in->ranks[0]->comm.beat;

    return atomic_load(&b->n_ops) + atomic_load(&b->step);
}

void crew_give_up(struct crew *c, uint64_t timeout_ns)
{
    const struct beat *b = &c->in->ranks[0]->comm.beat;
    const char *call = atomic_load(&b->call);
    tn_err why = TN_ERR_INIT;

    tn_err_set(&why, TN_E_COMM,
               "rank 0 has not got on with step %" PRIu64 " for %" PRIu64
               " ms: it is in %s (layer %" PRId32 ")",
               atomic_load(&b->step), timeout_ns / NS_PER_MS, call ? call : "no op",
               atomic_load(&b->layer));
    pthread_mutex_lock(&c->lock);
    c->failed = c->wedged = true;
    c->why = why;
    pthread_mutex_unlock(&c->lock);
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
            fail(c, m->rank->o.world_rank, true, &err);
        pthread_mutex_lock(&c->lock);
        if (m->seen == c->job_number) { /* else the next job waits already, and it is still busy */
            m->busy = false;
            c->n_busy--;
            pthread_cond_broadcast(&c->moved);
        }
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
        struct member *m = &c->members[i];
        if (m->started &&
            !m->busy) { /* a follower that gives up leaves while its last step goes on */
            m->busy = true;
            c->n_busy++;
        }
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

/* After a rank was let down: gives the others time to tell who is to blame. False if nobody did. With the lock held. */
static bool hear_others(struct crew *c)
{
    return c->let_down.code == TN_OK || c->failed || await_failure(c, STEP_GRACE_NS);
}

/* Waits for the job. Past its deadline the late rank is named and everything aborted. */
static int32_t end_job(struct crew *c, uint64_t timeout_ns, tn_err *err)
{
    tn_err late = TN_ERR_INIT;
    int32_t rc;

    pthread_mutex_lock(&c->lock);
    if (!wait_idle(c, clock_ns() + timeout_ns) || !hear_others(c)) {
        describe_late(c, timeout_ns, &late);
        pthread_mutex_unlock(&c->lock);
        fail(c, CONTROL_NO_RANK, true, &late);
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
    if (rc == TN_OK && c->control)
        rc = control_least(c->control, &in->n_pages, err);
    return rc == TN_OK ? run_job(c, alloc_kv, NULL, err) : rc;
}

/* Something went wrong in another process; on the control's thread. */
static void far_failure(void *arg, uint32_t rank, const tn_err *err)
{
    fail(arg, rank, false, err);
}

/* Meets the other processes and agrees with them on the groups' tokens. */
static int32_t meet_others(struct crew *c, const struct control_plan *plan, tn_err *err)
{
    int32_t rc = TN_OK;

    if (plan->n_processes > 1)
        rc = control_open(plan, &c->groups, &c->control, err);
    if (rc == TN_OK)
        rc = groups_ids(&c->groups, err);
    return rc == TN_OK && c->control ? control_ids(c->control, &c->groups, err) : rc;
}

static int32_t open_ready(struct crew *c, const struct control_plan *plan, tn_err *err)
{
    int32_t rc;

    if (c->groups.world > 1 &&
        ((rc = start_threads(c, err)) != TN_OK || (rc = meet_others(c, plan, err)) != TN_OK ||
         (rc = run_job(c, join, &c->groups, err)) != TN_OK))
        return rc;
    rc = run_job(c, bind, NULL, err);
    if (rc == TN_OK)
        rc = size_cache(c, err);
    if (rc == TN_OK && c->control && control_leads(c->control))
        rc = control_watch(c->control, far_failure, c, err);
    return rc;
}

static int32_t find_others(struct crew *c, struct control_plan *plan, tn_err *err)
{
    struct groups *g = &c->groups;
    int32_t rc = control_find(c->in, plan, err);

    g->process = plan->process;
    g->n_processes = plan->n_processes;
    g->host_rank = plan->host_rank;
    g->host_size = plan->host_size;
    memcpy(g->far_comm, plan->comm, sizeof g->far_comm);
    return rc == TN_OK ? groups_init(g, c->in, err) : rc;
}

static int32_t open_all(struct crew *c, struct control_plan *plan, tn_err *err)
{
    struct instance *in = c->in;
    int32_t rc;

    if ((rc = find_others(c, plan, err)) != TN_OK)
        return rc;
    in->n_ranks = in->o.dry ? 1 : c->groups.n_local;
    in->ranks = mem_zarray(in->n_ranks, sizeof(struct rank *));
    c->members = mem_zarray(in->n_ranks, sizeof *c->members);
    c->beats = mem_zarray(c->groups.world, sizeof *c->beats);
    if (!in->ranks || !c->members || !c->beats)
        return err_nomem(err, "ranks");
    if ((rc = open_ranks(c, err)) != TN_OK || in->o.dry)
        return rc == TN_OK ? rank_bind(in->ranks[0], err) : rc;
    return open_ready(c, plan, err);
}

int32_t crew_open(struct instance *in, struct crew **out, tn_err *err)
{
    struct crew *c = mem_zalloc(sizeof *c);
    struct control_plan plan = {.listener = -1};
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
    rc = open_all(c, &plan, err);
    if (plan.listener >= 0)
        close(plan.listener);
    if (rc != TN_OK) {
        if (c->control && err)
            control_tell(c->control, CONTROL_NO_RANK, err);
        *out = crew_close(c) ? NULL : c;
        return rc;
    }
    *out = c;
    return TN_OK;
}

static int32_t leave(struct rank *r, void *arg, tn_err *err)
{
    (void)arg;
    (void)err;
    comm_leave(&r->comm);
    return TN_OK;
}

bool crew_close(struct crew *c)
{
    struct instance *in;

    if (!c)
        return true;
    in = c->in;
    if (c->wedged) {
        if (crew_leads(c)) { /* a follower's rank may still read the step that lies in there */
            control_close(c->control);
            c->control = NULL;
        }
        return false;
    }
    for (uint32_t i = 0; in->ranks && i < in->n_ranks; i++)
        rank_quiet(in->ranks[i]);
    /* On their own threads, since leaving may be something that ranks do together. */
    if (c->groups.world > 1 && c->members && c->members[0].started)
        run_job(c, leave, NULL, NULL);
    begin_job(c, NULL, NULL);
    for (uint32_t i = 0; c->members && i < in->n_ranks; i++)
        if (c->members[i].started)
            pthread_join(c->members[i].thread, NULL);
    control_close(
        c->control); /* after the ranks of a follower have come to the end of its last step */
    for (uint32_t i = in->ranks ? in->n_ranks : 0; i > 0; i--)
        rank_close(in->ranks[i - 1]);
    mem_free(in->ranks);
    in->ranks = NULL;
    parts_release(&c->parts);
    groups_release(&c->groups);
    pthread_cond_destroy(&c->moved);
    pthread_mutex_destroy(&c->lock);
    mem_free(c->members);
    mem_free(c->beats);
    mem_free(c);
    return true;
}

static int32_t prepare(struct rank *r, void *arg, tn_err *err)
{
    return rank_prepare(r, arg, err);
}

/* Ranks that pad a step differently would not fit together: either all have the same graphs, or none has any. */
static void agree_on_graphs(struct crew *c)
{
    const struct step_graphs *first = &c->in->ranks[0]->graphs;
    bool same = true;

    for (uint32_t i = 1; i < c->in->n_ranks; i++) {
        const struct step_graphs *g = &c->in->ranks[i]->graphs;
        same =
            same && g->n == first->n && memcmp(g->rows, first->rows, g->n * sizeof *g->rows) == 0;
    }
    if (same)
        return;
    log_warn("some ranks could not capture steps that others did: all run op by op");
    for (uint32_t i = 0; i < c->in->n_ranks; i++)
        step_graphs_release(&c->in->ranks[i]->graphs);
}

int32_t crew_prepare(struct crew *c, const struct sched *s, tn_err *err)
{
    struct batch_capacity capacity = batch_capacity(s);
    int32_t rc = run_job(c, prepare, &capacity, err);

    if (rc != TN_OK || c->groups.world == 1)
        return rc;
    agree_on_graphs(c);
    return crew_leads(c) ? parts_init(&c->parts, s, c->in->o.ledger, err) : TN_OK;
}

uint32_t crew_depth(const struct crew *c)
{
    return c->groups.world == 1 ? rank_depth(c->in->ranks[0]) : 1;
}

uint32_t crew_world(const struct crew *c)
{
    return c->groups.world;
}

const char *crew_joined_by(const struct crew *c, bool pipeline, const char **why)
{
    const struct group_plan *p = pipeline ? &c->groups.pipeline[0] : &c->groups.tensor[0];

    *why = p->why;
    return p->n > 1 ? p->plugin : NULL;
}

void crew_processes(const struct crew *c, uint32_t *process, uint32_t *n_processes)
{
    *process = c->groups.process;
    *n_processes = c->groups.n_processes;
}

void crew_moved(const struct crew *c, uint64_t *calls, uint64_t *bytes)
{
    *calls = *bytes = 0;
    for (uint32_t i = 0; i < c->in->n_ranks; i++)
        for (uint32_t k = 0; k < COMM_CALLS; k++) {
            *calls += atomic_load(&c->in->ranks[i]->comm.counts.calls[k]);
            *bytes += atomic_load(&c->in->ranks[i]->comm.counts.bytes[k]);
        }
}

/* -- Steps ------------------------------------------------------------------------------------------------------- */

static uint64_t step_deadline(const struct crew *c)
{
    return (uint64_t)conf_int(c->in->o.conf, CONF_PARALLEL_STEP_MS) * NS_PER_MS + STEP_GRACE_NS;
}

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
    c->parts.wants_logits = rank_wants_logits(step);
    if (c->control) {
        int32_t rc = control_step(c->control, &c->parts, err);
        if (rc != TN_OK) {
            fail(c, CONTROL_NO_RANK, true, err);
            return TN_E_COMM;
        }
    }
    begin_job(c, run_parts, &c->parts);
    return TN_OK;
}

int32_t crew_wait(struct crew *c, struct rank_result *out, tn_err *err)
{
    int32_t rc;

    if (c->groups.world == 1)
        return rank_wait(c->in->ranks[0], out, err);
    rc = end_job(c, step_deadline(c), err);
    rank_parts_result(c->in->ranks[0], out);
    if (rc != TN_OK && err)
        err->code = TN_E_COMM;
    return rc == TN_OK ? TN_OK : TN_E_COMM;
}

/* -- Following --------------------------------------------------------------------------------------------------- */

bool crew_leads(const struct crew *c)
{
    return c->groups.process == 0;
}

static int32_t tell_beats(struct crew *c, tn_err *err)
{
    uint32_t n;

    pthread_mutex_lock(&c->lock);
    n = own_beats(c, c->beats);
    pthread_mutex_unlock(&c->lock);
    return control_beat(c->control, c->beats, n, err);
}

/* Takes one step, if one has come. The ranks may still be at the one before: they come to its end without the leader. */
static int32_t follow_once(struct crew *c, const struct wire_limits *limits, uint32_t *slot,
                           tn_err *err)
{
    bool got = false;
    int32_t rc = control_next(c->control, limits, step_deadline(c), &c->received[*slot], &got, err);

    if (rc != TN_OK || !got)
        return rc;
    rc = end_job(c, step_deadline(c), err);
    if (rc == TN_OK)
        begin_job(c, run_parts, &c->received[*slot]);
    *slot = 1 - *slot;
    return rc;
}

int32_t crew_follow(struct crew *c, int (*stop)(void *arg), void *arg, tn_err *err)
{
    const struct instance *in = c->in;
    struct wire_limits limits = {.rows = in->max_num_tokens,
                                 .seqs = in->max_batch_size + 1,
                                 .logits = in->max_logits,
                                 .block_tokens = in->block_tokens,
                                 .n_pages = in->n_pages,
                                 .vocab = in->vocab,
                                 .max_context = in->max_seq_len};
    tn_err why = TN_ERR_INIT;
    uint64_t beat = 0;
    uint32_t slot = 0;
    int32_t rc = TN_OK;

    while (rc == TN_OK && !crew_failed(c, NULL)) {
        if (stop && stop(arg))
            rc = tn_err_set(&why, TN_E_CANCELED, "interrupted");
        if (rc == TN_OK)
            rc = follow_once(c, &limits, &slot, &why);
        if (rc == TN_OK && clock_ns() - beat > BEAT_NS) {
            rc = tell_beats(c, &why);
            beat = clock_ns();
        }
    }
    /* A leader that has been told of a failure says farewell, too. */
    if (rc == TN_E_CLOSED && !crew_failed(c, NULL))
        return TN_OK;
    if (rc != TN_OK && rc != TN_E_CLOSED)
        fail(c, CONTROL_NO_RANK, true, &why);
    crew_failed(c, err);
    if (err && rc != TN_E_CANCELED)
        err->code = TN_E_COMM;
    return rc == TN_E_CANCELED ? rc : TN_E_COMM;
}
