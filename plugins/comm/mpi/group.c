/* SPDX-License-Identifier: Apache-2.0 */
/* Starting MPI, groups, waiting. MPI is started with MPI_THREAD_MULTIPLE, since a rank's thread and the one that opens and closes
 * both call it. */
#include "group.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "watch.h"

#define SPINS 100 /* calls of MPI_Test, of a microsecond or so */

static uint64_t now_ns(const struct mpi *m)
{
    return m->host->now_ns(m->host->ctx);
}

static int32_t failed(int code, const char *call, tn_err *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    MPI_Error_string(code, text, &n);
    if (err)
        err->native = code;
    return tn_err_set(err, TN_E_COMM, "mpi: %s: %.300s", call, text);
}

/* -- The library -------------------------------------------------------------------------------------------- */

static long number_in(const char *name)
{
    const char *text = getenv(name);

    return text ? strtol(text, NULL, 10) : -1;
}

/* What launchers leave in the environment: Open MPI's mpirun, PMIx (srun --mpi=pmix), PMI. */
static int launched(void)
{
    return number_in("OMPI_COMM_WORLD_SIZE") > 1 || number_in("PMI_SIZE") > 1 ||
           (getenv("PMIX_RANK") && number_in("SLURM_NTASKS") > 1);
}

int32_t mpi_start(struct mpi *m, tn_err *err)
{
    int provided = 0, there = 0, rc = MPI_SUCCESS;
    struct watch w;

    m->size = 1;
    m->rank = 0;
    MPI_Initialized(&there);
    if (!there && !launched())
        return TN_OK;
    if (!there) {
        watch_begin(&w, m->host, "MPI_Init_thread");
        rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
        watch_end(&w);
        if (rc != MPI_SUCCESS)
            return tn_err_set(err, TN_E_COMM, "mpi: MPI_Init_thread failed with %d", rc);
        m->started = 1;
    } else {
        MPI_Query_thread(&provided);
    }
    if (provided < MPI_THREAD_MULTIPLE)
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "mpi: this MPI cannot be called by several threads at once (level %d)",
                          provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_size(MPI_COMM_WORLD, &m->size);
    MPI_Comm_rank(MPI_COMM_WORLD, &m->rank);
    return TN_OK;
}

/* How many processes share this host, and which of them this is. */
static int32_t count_host(const struct mpi *m, uint32_t *rank, uint32_t *size, tn_err *err)
{
    MPI_Comm host = MPI_COMM_NULL;
    int r = 0, n = 1, rc;
    struct watch w;

    watch_begin(&w, m->host, "MPI_Comm_split_type");
    rc = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    watch_end(&w);
    if (rc != MPI_SUCCESS)
        return failed(rc, "MPI_Comm_split_type", err);
    MPI_Comm_rank(host, &r);
    MPI_Comm_size(host, &n);
    MPI_Comm_free(&host);
    *rank = (uint32_t)r;
    *size = (uint32_t)n;
    return TN_OK;
}

int32_t mpi_world(void *instance, uint32_t *rank, uint32_t *size, uint32_t *host_rank,
                  uint32_t *host_size, tn_err *err)
{
    struct mpi *m = instance;
    int32_t rc = TN_OK;

    pthread_mutex_lock(&m->lock);
    if (m->size == 0)
        rc = mpi_start(m, err);
    pthread_mutex_unlock(&m->lock);
    if (rc != TN_OK)
        return rc;
    *rank = (uint32_t)m->rank;
    *size = (uint32_t)m->size;
    *host_rank = 0;
    *host_size = 1;
    return m->size > 1 ? count_host(m, host_rank, host_size, err) : TN_OK;
}

/* TN_OK when the request is done, else TN_E_TIMEOUT. Spins shortly, then sleeps: where ranks outnumber cores, who only yields is in
 * the way of those that it waits for. */
static int32_t poll_request(const struct mpi *m, MPI_Request *request,
                            const _Atomic int32_t *broken, uint64_t until_ns, const char *call,
                            tn_err *err)
{
    const struct timespec pause = {0, 50000};

    for (uint64_t i = 0;; i++) {
        int done = 0, rc = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (rc != MPI_SUCCESS)
            return failed(rc, call, err);
        if (done)
            return TN_OK;
        if (broken && atomic_load(broken) != TN_OK)
            return TN_E_CANCELED;
        if (i < SPINS)
            continue;
        if (until_ns && now_ns(m) >= until_ns)
            return TN_E_TIMEOUT;
        if (i < 2 * SPINS)
            sched_yield();
        else
            nanosleep(&pause, NULL);
    }
}

int32_t mpi_spread(void *instance, void *buf, uint64_t bytes, uint64_t timeout_ns, tn_err *err)
{
    struct mpi *m = instance;
    MPI_Request request = MPI_REQUEST_NULL;
    int rc = bytes > 1 << 20 ? MPI_ERR_COUNT
                             : MPI_Ibcast(buf, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    int32_t code;

    if (rc != MPI_SUCCESS)
        return failed(rc, "MPI_Ibcast", err);
    code = poll_request(m, &request, NULL, now_ns(m) + timeout_ns, "MPI_Ibcast", err);
    if (code == TN_E_TIMEOUT)
        return tn_err_set(err, TN_E_TIMEOUT, "mpi: the other processes did not come in time");
    return code;
}

/* -- Groups ------------------------------------------------------------------------------------------------- */

int32_t group_can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                       tn_device *const *devices, tn_err *err)
{
    struct mpi *m = instance;
    uint32_t rank, size, host_rank, host_size;
    int32_t rc = mpi_world(m, &rank, &size, &host_rank, &host_size, err);

    (void)devices;
    if (rc != TN_OK)
        return rc;
    if (n_local > 1)
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "mpi: a process has one rank of a group, and this one is to have %u",
                          (unsigned)n_local);
    if (n_ranks > size || n_ranks > MAX_RANKS) {
        if (err)
            snprintf(err->remedy, sizeof err->remedy,
                     "start as many processes as ranks: mpirun -n %u tenon ...", (unsigned)n_ranks);
        return tn_err_set(err, TN_E_UNSUPPORTED, "mpi: %u ranks wanted, the launcher started %u",
                          (unsigned)n_ranks, (unsigned)size);
    }
    return TN_OK;
}

/* A number: each communicator is made under its own. */
int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err)
{
    struct mpi *m = instance;
    uint64_t number;

    (void)err;
    pthread_mutex_lock(&m->lock);
    number = ++m->next_id;
    pthread_mutex_unlock(&m->lock);
    memset(id, 0, TN_COMM_ID_BYTES);
    memcpy(id, &number, sizeof number);
    return TN_OK;
}

static int32_t make_comm(tn_comm_group *g, const uint8_t *id, tn_err *err)
{
    MPI_Group world, members;
    int ranks[MAX_RANKS], rc;
    struct watch w;
    uint64_t number;

    memcpy(&number, id, sizeof number);
    for (uint32_t i = 0; i < g->n; i++)
        ranks[i] = (int)g->processes[i];
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    rc = MPI_Group_incl(world, (int)g->n, ranks, &members);
    MPI_Group_free(&world);
    if (rc != MPI_SUCCESS)
        return failed(rc, "MPI_Group_incl", err);
    watch_begin(&w, g->m->host, "MPI_Comm_create_group");
    rc = MPI_Comm_create_group(MPI_COMM_WORLD, members, (int)(number % 30000), &g->comm);
    watch_end(&w);
    MPI_Group_free(&members);
    if (rc != MPI_SUCCESS)
        return failed(rc, "MPI_Comm_create_group", err);
    MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN);
    return TN_OK;
}

int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    struct mpi *m = instance;
    const tn_host *h = m->host;
    tn_comm_group *g;
    int32_t rc;

    if (how->n_ranks > MAX_RANKS || how->rank >= how->n_ranks ||
        how->processes[how->rank] != (uint32_t)m->rank)
        return tn_err_set(err, TN_E_INVALID, "mpi: this process is not rank %u of the group",
                          (unsigned)how->rank);
    g = h->alloc(h->ctx, sizeof *g, 64);
    if (!g)
        return tn_err_set(err, TN_E_NOMEM, "mpi: no memory for a group");
    *g = (tn_comm_group){.m = m,
                         .comm = MPI_COMM_NULL,
                         .rank = how->rank,
                         .n = how->n_ranks,
                         .call_timeout_ns = how->call_timeout_ns,
                         .gathered = h->alloc(h->ctx, (uint64_t)how->n_ranks * CHUNK, 4096)};
    memcpy(g->processes, how->processes, how->n_ranks * sizeof *how->processes);
    pthread_mutex_init(&g->lock, NULL);
    rc = g->gathered ? make_comm(g, how->id, err)
                     : tn_err_set(err, TN_E_NOMEM, "mpi: no memory for a group");
    if (rc != TN_OK) {
        group_leave(g);
        return rc;
    }
    *out = g;
    return TN_OK;
}

void group_leave(tn_comm_group *g)
{
    const tn_host *h = g->m->host;
    struct watch w;

    /* Freeing is collective: with a group that is broken some would not come. */
    if (g->comm != MPI_COMM_NULL && atomic_load(&g->broken) == TN_OK) {
        watch_begin(&w, h, "MPI_Comm_free");
        MPI_Comm_free(&g->comm);
        watch_end(&w);
    }
    pthread_mutex_destroy(&g->lock);
    h->free(h->ctx, g->gathered);
    h->free(h->ctx, g);
}

int32_t group_break(tn_comm_group *g, int32_t code, const char *msg, tn_err *err)
{
    pthread_mutex_lock(&g->lock);
    if (atomic_load(&g->broken) == TN_OK) {
        g->why = (tn_err)TN_ERR_INIT;
        tn_err_set(&g->why, code, "%s", msg);
        atomic_store(&g->broken, code);
        atomic_store(&g->m->broken, 1);
    }
    if (err)
        *err = g->why;
    pthread_mutex_unlock(&g->lock);
    return atomic_load(&g->broken);
}

void group_abort(tn_comm_group *g)
{
    group_break(g, TN_E_CANCELED, "the group was aborted", NULL);
}

int32_t group_error(tn_comm_group *g, tn_err *err)
{
    return atomic_load(&g->broken) == TN_OK ? TN_OK : group_break(g, TN_E_CANCELED, "", err);
}

int32_t group_await(tn_comm_group *g, MPI_Request *request, const char *call, tn_err *err)
{
    uint64_t until = g->call_timeout_ns ? now_ns(g->m) + g->call_timeout_ns : 0;
    tn_err why = TN_ERR_INIT;
    int32_t rc = poll_request(g->m, request, &g->broken, until, call, &why);
    char msg[160];

    g->calls++;
    if (rc == TN_OK)
        return TN_OK;
    if (rc == TN_E_CANCELED)
        return group_error(g, err);
    if (rc == TN_E_TIMEOUT)
        snprintf(msg, sizeof msg, "mpi: %s %llu: somebody has not come within %llu ms", call,
                 (unsigned long long)g->calls, (unsigned long long)g->call_timeout_ns / 1000000);
    return group_break(g, rc, rc == TN_E_TIMEOUT ? msg : why.msg, err);
}
