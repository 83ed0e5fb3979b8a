/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups over MPI (MPI-4.1; made for Open MPI 4), of processes that an MPI launcher started, one rank each.
 *
 * Every call is begun without blocking and polled, so that abort and deadlines work whatever the others do. Reductions gather
 * the parts and add them in rank order: MPI promises no order, and the same answer at every number of ranks is worth
 * more here than the bytes.
 */
#ifndef MPI_GROUP_H
#define MPI_GROUP_H

#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>

#include "tenon/comm.h"
#include "tenon/host.h"

/* Bytes that each rank contributes to one round of a reduction. */
#define CHUNK (256u * 1024)
#define MAX_RANKS 1024

struct mpi {
    const tn_host *host;
    pthread_mutex_t lock; /* guards what follows */
    int started;          /* MPI_Init_thread was ours */
    int size, rank;
    uint64_t next_id;
    _Atomic int broken; /* a group was: the library cannot be shut down with the others any more */
};

struct tn_comm_group {
    struct mpi *m;
    MPI_Comm comm;
    uint32_t rank, n;
    uint64_t calls, call_timeout_ns;
    uint32_t processes[MAX_RANKS];
    unsigned char *gathered; /* [n][CHUNK] */
    _Atomic int32_t broken;
    pthread_mutex_t lock; /* guards why */
    tn_err why;
};

/* Starts MPI if a launcher is there. Fills size and rank; size 1 without one. */
int32_t mpi_start(struct mpi *m, tn_err *err);

/* Interface functions; see tenon/comm.h. */
int32_t mpi_world(void *instance, uint32_t *rank, uint32_t *size, uint32_t *host_rank,
                  uint32_t *host_size, tn_err *err);
int32_t mpi_spread(void *instance, void *buf, uint64_t bytes, uint64_t timeout_ns, tn_err *err);
int32_t group_can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                       tn_device *const *devices, tn_err *err);
int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err);
int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err);
void group_leave(tn_comm_group *g);
void group_abort(tn_comm_group *g);
int32_t group_error(tn_comm_group *g, tn_err *err);

/* Breaks the group, once; returns the reason in force. */
int32_t group_break(tn_comm_group *g, int32_t code, const char *msg, tn_err *err);

/* Waits for a request that `call` began. */
int32_t group_await(tn_comm_group *g, MPI_Request *request, const char *call, tn_err *err);

int32_t mpi_all_reduce(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err);
int32_t mpi_all_gather(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err);
int32_t mpi_reduce_scatter(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                           uint32_t dtype, tn_stream *s, tn_err *err);
int32_t mpi_broadcast(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                      tn_err *err);
int32_t mpi_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err);
int32_t mpi_recv(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err);
int32_t mpi_barrier(tn_comm_group *g, tn_stream *s, tn_err *err);

#endif
