/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comm plugin "mpi": host buffers between the processes of an MPI launcher, and the bootstrap of the others: through it
 * the processes of `mpirun -n 4 tenon ...` learn of each other. It has no settings; Open MPI's own (OMPI_MCA_*) apply.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/sum.h"
#include "group.h"
#include "tenon/plugin.h"
#include "watch.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_COMM, .name = "mpi", .vendor = "tenon",
               .version = VERSION);

static int32_t link_to(tn_comm_group *g, uint32_t peer, tn_comm_link *out, tn_err *err)
{
    if (peer >= g->n)
        return tn_err_set(err, TN_E_RANGE, "mpi: there is no rank %u", (unsigned)peer);
    *out = (tn_comm_link){.h = TN_HDR(tn_comm_link)};
    memcpy(out->kind, peer == g->rank ? "self" : "mpi", 5);
    return TN_OK;
}

static const tn_comm_backend backend = {
    .h = TN_HDR(tn_comm_backend),
    .name = "mpi",
    .flags = TN_COMM_HOST_MEMORY | TN_COMM_MULTI_HOST | TN_COMM_IN_PLACE | TN_COMM_DETERMINISTIC,
    .dtypes = COMM_SUM_DTYPES,
    .can_join = group_can_join,
    .make_id = group_make_id,
    .join = group_join,
    .leave = group_leave,
    .abort = group_abort,
    .async_error = group_error,
    .link = link_to,
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .broadcast = mpi_broadcast,
    .send = mpi_send,
    .recv = mpi_recv,
    .barrier = mpi_barrier,
    .world = mpi_world,
    .spread = mpi_spread,
};

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct mpi *m;

    if (n_config > 0)
        return tn_err_set(err, TN_E_CONFIG, "mpi: %s is not a setting; it has none", config[0].key);
    m = host->alloc(host->ctx, sizeof *m, 64);
    if (!m)
        return tn_err_set(err, TN_E_NOMEM, "mpi: no memory for an instance");
    m->host = host;
    pthread_mutex_init(&m->lock, NULL);
    *instance = m;
    return TN_OK;
}

/* The exit status of a run of which a rank has failed; and how long others wait for rank 0, who has the callers to answer. */
#define FAILED_STATUS 4
#define LAST_WORDS_S 3

static int waits_for_first;

/* At the end of a process whose run has failed. Shutting down is collective, and somebody would not come: so everything is ended
 * here, which also gives the launcher its exit status. */
static void end_run(void)
{
    fflush(NULL);
    if (waits_for_first)
        sleep(LAST_WORDS_S);
    MPI_Abort(MPI_COMM_WORLD, FAILED_STATUS);
}

static void fini(void *instance)
{
    struct mpi *m = instance;
    struct watch w;
    int over = 0;

    MPI_Finalized(&over);
    waits_for_first = m->rank != 0;
    if (m->started && !over && !atomic_load(&m->broken)) {
        watch_begin(&w, m->host, "MPI_Finalize");
        MPI_Finalize();
        watch_end(&w);
    } else if (m->started && !over)
        atexit(end_run);
    pthread_mutex_destroy(&m->lock);
    m->host->free(m->host->ctx, m);
}

static const tn_iface ifaces[] = {{.h = TN_HDR(tn_iface), .id = TN_IFACE_COMM, .vtbl = &backend}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "mpi",
    .vendor = "tenon",
    .version = VERSION,
    .n_ifaces = 1,
    .ifaces = ifaces,
    .init = init,
    .fini = fini,
};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
