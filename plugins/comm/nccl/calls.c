/* SPDX-License-Identifier: Apache-2.0 */
/* The contract's calls, each NCCL's own on the caller's stream. The rank's thread. */
#include "group.h"

static int dtype_of(uint32_t dtype)
{
    switch (dtype) {
    case TN_DT_F32: return NCCL_FLOAT32;
    case TN_DT_F16: return NCCL_FLOAT16;
    case TN_DT_BF16: return NCCL_BFLOAT16;
    default: return NCCL_INT32;
    }
}

static void *native(const tn_comm_group *g, tn_stream *s)
{
    return g->api->native_stream(g->device, s);
}

static int32_t check_dtype(uint32_t dtype, tn_err *err)
{
    return dtype < 64 && (NCCL_DTYPES & TN_DT_BIT(dtype))
               ? TN_OK
               : tn_err_set(err, TN_E_UNSUPPORTED, "nccl: cannot sum %s", tn_dtype_name(dtype));
}

static int32_t check_peer(const tn_comm_group *g, uint32_t peer, tn_err *err)
{
    return peer < g->n && peer != g->rank
               ? TN_OK
               : tn_err_set(err, TN_E_RANGE, "nccl: rank %u cannot reach rank %u",
                            (unsigned)g->rank, (unsigned)peer);
}

int32_t call_all_reduce(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *s, tn_err *err)
{
    int32_t rc = check_dtype(dtype, err);

    if (rc == TN_OK)
        rc = windows_wait(g, send, recv, s, err);
    if (rc == TN_OK)
        rc = group_begin(g, err);
    return rc != TN_OK ? rc
                       : group_end(g,
                                   g->in->library.all_reduce(send, recv, count, dtype_of(dtype),
                                                             NCCL_SUM, g->comm, native(g, s)),
                                   "all_reduce", err);
}

/* Rank after rank, by calls that know no windows. */
static int32_t gather_by_rank(tn_comm_group *g, const void *send, char *recv, uint64_t bytes,
                              tn_stream *s, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t r = 0; r < g->n && rc == TN_OK; r++)
        if ((rc = group_begin(g, err)) == TN_OK)
            rc = group_end(g,
                           g->in->library.broadcast(send, recv + r * bytes, bytes, NCCL_INT8,
                                                    (int)r, g->comm, native(g, s)),
                           "all_gather", err);
    return rc;
}

/* Bytes, so that any dtype may be gathered. */
int32_t call_all_gather(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    int32_t rc;

    if (windows_misalign(g, bytes))
        return gather_by_rank(g, send, recv, bytes, s, err);
    rc = windows_wait(g, send, recv, s, err);
    if (rc == TN_OK)
        rc = group_begin(g, err);
    return rc != TN_OK ? rc
                       : group_end(g,
                                   g->in->library.all_gather(send, recv, bytes, NCCL_INT8, g->comm,
                                                             native(g, s)),
                                   "all_gather", err);
}

/* As gather_by_rank. */
static int32_t scatter_by_rank(tn_comm_group *g, const char *send, void *recv, uint64_t count,
                               uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    int32_t rc = TN_OK;

    for (uint32_t r = 0; r < g->n && rc == TN_OK; r++)
        if ((rc = group_begin(g, err)) == TN_OK)
            rc = group_end(g,
                           g->in->library.reduce(send + r * bytes, recv, count, dtype_of(dtype),
                                                 NCCL_SUM, (int)r, g->comm, native(g, s)),
                           "reduce_scatter", err);
    return rc;
}

int32_t call_reduce_scatter(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *s, tn_err *err)
{
    int32_t rc = check_dtype(dtype, err);

    if (rc == TN_OK && windows_misalign(g, count * tn_dtype_bits(dtype) / 8))
        return scatter_by_rank(g, send, recv, count, dtype, s, err);
    if (rc == TN_OK)
        rc = windows_wait(g, send, recv, s, err);
    if (rc == TN_OK)
        rc = group_begin(g, err);
    return rc != TN_OK ? rc
                       : group_end(g,
                                   g->in->library.reduce_scatter(send, recv, count, dtype_of(dtype),
                                                                 NCCL_SUM, g->comm, native(g, s)),
                                   "reduce_scatter", err);
}

int32_t call_broadcast(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                       tn_err *err)
{
    int32_t rc = root < g->n
                     ? group_begin(g, err)
                     : tn_err_set(err, TN_E_RANGE, "nccl: there is no rank %u", (unsigned)root);

    return rc != TN_OK ? rc
                       : group_end(g,
                                   g->in->library.broadcast(buf, buf, bytes, NCCL_INT8, (int)root,
                                                            g->comm, native(g, s)),
                                   "broadcast", err);
}

int32_t call_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                  tn_err *err)
{
    int32_t rc = check_peer(g, peer, err);

    if (rc == TN_OK)
        rc = group_begin(g, err);
    return rc != TN_OK ? rc
                       : group_end(g,
                                   g->in->library.send(buf, bytes, NCCL_INT8, (int)peer, g->comm,
                                                       native(g, s)),
                                   "send", err);
}

int32_t call_recv(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                  tn_err *err)
{
    int32_t rc = check_peer(g, peer, err);

    if (rc == TN_OK)
        rc = group_begin(g, err);
    return rc != TN_OK ? rc
                       : group_end(g,
                                   g->in->library.recv(buf, bytes, NCCL_INT8, (int)peer, g->comm,
                                                       native(g, s)),
                                   "recv", err);
}

int32_t call_barrier(tn_comm_group *g, tn_stream *s, tn_err *err)
{
    return call_all_reduce(g, g->word, g->word, 1, TN_DT_I32, s, err);
}
