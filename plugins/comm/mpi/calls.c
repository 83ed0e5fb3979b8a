/* SPDX-License-Identifier: Apache-2.0 */
/* Collectives and messages. What is larger than an int counts goes in chunks. */
#include <string.h>

#include "../common/sum.h"
#include "group.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int32_t check_dtype(uint32_t dtype, tn_err *err)
{
    return COMM_SUM_DTYPES & TN_DT_BIT(dtype)
               ? TN_OK
               : tn_err_set(err, TN_E_UNSUPPORTED, "mpi: cannot sum %s", tn_dtype_name(dtype));
}

static int32_t begun(tn_comm_group *g, int rc, MPI_Request *request, const char *call, tn_err *err)
{
    return rc == MPI_SUCCESS ? group_await(g, request, call, err)
                             : group_break(g, TN_E_COMM, "mpi: a call could not be begun", err);
}

/* Everybody's `bytes` bytes into g->gathered, rank by rank. */
static int32_t gather(tn_comm_group *g, const void *send, uint64_t bytes, const char *call,
                      tn_err *err)
{
    MPI_Request request = MPI_REQUEST_NULL;
    int32_t rc = group_error(g, err);

    if (rc != TN_OK)
        return rc;
    return begun(g,
                 MPI_Iallgather(send, (int)bytes, MPI_BYTE, g->gathered, (int)bytes, MPI_BYTE,
                                g->comm, &request),
                 &request, call, err);
}

static void sum(const tn_comm_group *g, uint64_t stride, uint64_t offset, void *recv,
                uint64_t count, uint32_t dtype)
{
    const void *src[MAX_RANKS];

    for (uint32_t r = 0; r < g->n; r++)
        src[r] = g->gathered + r * stride + offset;
    comm_sum(recv, src, g->n, count, dtype);
}

int32_t mpi_all_reduce(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, at = 0;
    int32_t rc = check_dtype(dtype, err);

    (void)s;
    while (rc == TN_OK && at < count * size) {
        uint64_t some = least(CHUNK, count * size - at);
        rc = gather(g, (const char *)send + at, some, "all_reduce", err);
        if (rc == TN_OK)
            sum(g, some, 0, (char *)recv + at, some / size, dtype);
        at += some;
    }
    return rc;
}

int32_t mpi_all_gather(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8, at = 0;
    int32_t rc = TN_OK;

    (void)s;
    while (rc == TN_OK && at < bytes) {
        uint64_t some = least(CHUNK, bytes - at);
        rc = gather(g, (const char *)send + at, some, "all_gather", err);
        for (uint32_t r = 0; r < g->n && rc == TN_OK; r++)
            memcpy((char *)recv + r * bytes + at, g->gathered + r * some, some);
        at += some;
    }
    return rc;
}

int32_t mpi_reduce_scatter(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                           uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, bytes = count * size, at = 0;
    MPI_Request request = MPI_REQUEST_NULL;
    int32_t rc = check_dtype(dtype, err);

    (void)s;
    /* One destination after the other, so that what is gathered has the same form as in all_reduce. */
    for (uint32_t dst = 0; dst < g->n && rc == TN_OK; dst++)
        for (at = 0; at < bytes && rc == TN_OK; at += CHUNK) {
            uint64_t some = least(CHUNK, bytes - at);
            rc = group_error(g, err);
            if (rc != TN_OK)
                break;
            rc = begun(g,
                       MPI_Igather((const char *)send + dst * bytes + at, (int)some, MPI_BYTE,
                                   g->gathered, (int)some, MPI_BYTE, (int)dst, g->comm, &request),
                       &request, "reduce_scatter", err);
            if (rc == TN_OK && dst == g->rank)
                sum(g, some, 0, (char *)recv + at, some / size, dtype);
        }
    return rc;
}

int32_t mpi_broadcast(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                      tn_err *err)
{
    int32_t rc = group_error(g, err);

    (void)s;
    if (root >= g->n)
        return tn_err_set(err, TN_E_RANGE, "mpi: there is no rank %u", (unsigned)root);
    for (uint64_t at = 0; at < bytes && rc == TN_OK; at += CHUNK) {
        MPI_Request request = MPI_REQUEST_NULL;
        rc = begun(g,
                   MPI_Ibcast((char *)buf + at, (int)least(CHUNK, bytes - at), MPI_BYTE, (int)root,
                              g->comm, &request),
                   &request, "broadcast", err);
    }
    return rc;
}

static int32_t check_peer(tn_comm_group *g, uint32_t peer, tn_err *err)
{
    if (peer >= g->n || peer == g->rank)
        return tn_err_set(err, TN_E_RANGE, "mpi: rank %u cannot reach rank %u", (unsigned)g->rank,
                          (unsigned)peer);
    return group_error(g, err);
}

int32_t mpi_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err)
{
    int32_t rc = check_peer(g, peer, err);

    (void)s;
    for (uint64_t at = 0; at < bytes && rc == TN_OK; at += CHUNK) {
        MPI_Request request = MPI_REQUEST_NULL;
        rc = begun(g,
                   MPI_Isend((const char *)buf + at, (int)least(CHUNK, bytes - at), MPI_BYTE,
                             (int)peer, 0, g->comm, &request),
                   &request, "send", err);
    }
    return rc;
}

int32_t mpi_recv(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err)
{
    int32_t rc = check_peer(g, peer, err);

    (void)s;
    for (uint64_t at = 0; at < bytes && rc == TN_OK; at += CHUNK) {
        MPI_Request request = MPI_REQUEST_NULL;
        rc = begun(g,
                   MPI_Irecv((char *)buf + at, (int)least(CHUNK, bytes - at), MPI_BYTE, (int)peer,
                             0, g->comm, &request),
                   &request, "recv", err);
    }
    return rc;
}

int32_t mpi_barrier(tn_comm_group *g, tn_stream *s, tn_err *err)
{
    MPI_Request request = MPI_REQUEST_NULL;
    int32_t rc = group_error(g, err);

    (void)s;
    if (rc != TN_OK)
        return rc;
    return begun(g, MPI_Ibarrier(g->comm, &request), &request, "barrier", err);
}
