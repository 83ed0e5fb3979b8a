/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin "local": what its files share. Signatures are those of tn_comm_backend; see tenon/comm.h. */
#ifndef LOCAL_LOCAL_H
#define LOCAL_LOCAL_H

#include "../common/meet.h"

#define LOCAL_CALLS(X)                                                                             \
    X(all_reduce, (tn_comm_group * me, const void *send, void *recv, uint64_t count,               \
                   uint32_t dtype, tn_stream *stream, tn_err *err))                                \
    X(all_gather, (tn_comm_group * me, const void *send, void *recv, uint64_t count,               \
                   uint32_t dtype, tn_stream *stream, tn_err *err))                                \
    X(reduce_scatter, (tn_comm_group * me, const void *send, void *recv, uint64_t count,           \
                       uint32_t dtype, tn_stream *stream, tn_err *err))                            \
    X(broadcast, (tn_comm_group * me, void *buf, uint64_t bytes, uint32_t root, tn_stream *stream, \
                  tn_err *err))                                                                    \
    X(send, (tn_comm_group * me, const void *buf, uint64_t bytes, uint32_t peer,                   \
             tn_stream *stream, tn_err *err))                                                      \
    X(recv, (tn_comm_group * me, void *buf, uint64_t bytes, uint32_t peer, tn_stream *stream,      \
             tn_err *err))                                                                         \
    X(barrier, (tn_comm_group * me, tn_stream * stream, tn_err * err))                             \
    X(show, (tn_comm_group * me, const void *send, void *room, uint64_t rows, uint64_t width,      \
             uint32_t dtype, tn_comm_parts *out, tn_stream *stream, tn_err *err))                  \
    X(hide, (tn_comm_group * me, tn_stream * stream, tn_err * err))

/* host_all_reduce, ...: in host memory (calls.c); device_all_reduce, ...: in device memory (device.c). */
#define LOCAL_DECLARE(name, args) int32_t host_##name args;
LOCAL_CALLS(LOCAL_DECLARE)
#undef LOCAL_DECLARE
#define LOCAL_DECLARE(name, args) int32_t device_##name args;
LOCAL_CALLS(LOCAL_DECLARE)
#undef LOCAL_DECLARE

/* Of every group; sums can be captured only where devices meet by themselves. */
#define LOCAL_FLAGS                                                                                \
    (TN_COMM_HOST_MEMORY | TN_COMM_DEVICE_MEMORY | TN_COMM_IN_PLACE | TN_COMM_DETERMINISTIC)

/* captured.c: what devices do by themselves; only of a group for which captured_meets is true. */
int32_t captured_settle(tn_comm_group *me, bool again, tn_err *err);
void captured_close(tn_comm_group *me);
uint32_t captured_flags(tn_comm_group *me);
bool captured_meets(const tn_comm_group *me);
int32_t captured_all_reduce(tn_comm_group *me, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *stream, tn_err *err);
int32_t captured_all_gather(tn_comm_group *me, const void *send, void *recv, uint64_t bytes,
                            tn_stream *stream, tn_err *err);

/* Memory that a rank shows small things in. */
int32_t device_open_member(tn_comm_group *me, tn_err *err);
void device_close_member(tn_comm_group *me);

#endif
