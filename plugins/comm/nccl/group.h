/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin "nccl": what its files share. */
#ifndef NCCL_GROUP_H
#define NCCL_GROUP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "library.h"
#include "tenon/comm.h"
#include "tenon/host.h"

#define NCCL_DTYPES                                                                                \
    (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16) | TN_DT_BIT(TN_DT_I32))

#define MAX_WINDOWS 4

struct nccl_instance {
    const tn_host *host;
    bool symmetric; /* use the library's windows, if it has them */
    struct nccl_library library;
};

struct tn_comm_group {
    struct nccl_instance *in;
    uint32_t rank, n;
    uint64_t call_timeout_ns;
    const tn_device_api *api;
    tn_device *device;
    int (*enter)(void *context); /* cuCtxSetCurrent */
    void *context;
    void *
        word; /* [2] device memory, 128 bytes apart: what barriers sum, and what windows_wait fills */
    pthread_mutex_t lock;
    nccl_comm comm; /* NULL once it was aborted; guarded, like what follows */
    int32_t broken; /* TN_OK, or why nothing works any more */
    tn_err why;
    /* Symmetric memory, until the group is left. */
    struct {
        void *ptr;
        uint64_t bytes;
        nccl_window handle;
    } windows[MAX_WINDOWS];
    uint32_t n_windows;
    bool windows_used; /* all ranks have registered one: the same on all of them */
};

/* Of tn_comm_backend. */
int32_t group_can_join(void *instance, uint32_t n_ranks, uint32_t n_local,
                       tn_device *const *devices, tn_err *err);
int32_t group_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err);
int32_t group_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err);
void group_leave(tn_comm_group *g);
void group_abort(tn_comm_group *g);
int32_t group_error(tn_comm_group *g, tn_err *err);
int32_t group_link(tn_comm_group *g, uint32_t peer, tn_comm_link *out, tn_err *err);

/* Begins a call: the device becomes the thread's, and the lock is held if it returns TN_OK. */
int32_t group_begin(tn_comm_group *g, tn_err *err);

/* Ends it: waits until NCCL has taken the call, notes what failed, and lets go of the lock. `result` is the call's. */
int32_t group_end(tn_comm_group *g, int result, const char *call, tn_err *err);

/* With the lock held, let go while it waits: until NCCL has done what it does in the background, until_ns has come (0: no such
 * time), or nothing works any more. Returns what came of `result`. */
int group_settle(tn_comm_group *g, int result, uint64_t until_ns);
uint64_t group_deadline(const tn_comm_group *g); /* of a call that begins now */

/* windows.c */
int32_t windows_memory(tn_comm_group *g, uint64_t bytes, uint64_t layout, void **out, tn_err *err);
/* With the lock held: ends windows in good order, which all ranks do together. */
void windows_deregister(tn_comm_group *g, uint64_t until_ns);
void windows_free(tn_comm_group *g); /* once there is no communicator */
/* Before a sum or gather: what is ahead in `s` has ended before NCCL's kernel begins, if that reads or writes a window and does
 * not wait by itself (NCCL_EAGER). */
int32_t windows_wait(tn_comm_group *g, const void *send, const void *recv, tn_stream *s,
                     tn_err *err);
/* Whether a gather or scatter of parts of `bytes` bytes must do without NCCL's kernels for windows; the same on all ranks. */
bool windows_misalign(const tn_comm_group *g, uint64_t bytes);

/* calls.c */
int32_t call_all_reduce(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *s, tn_err *err);
int32_t call_all_gather(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                        uint32_t dtype, tn_stream *s, tn_err *err);
int32_t call_reduce_scatter(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                            uint32_t dtype, tn_stream *s, tn_err *err);
int32_t call_broadcast(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                       tn_err *err);
int32_t call_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                  tn_err *err);
int32_t call_recv(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                  tn_err *err);
int32_t call_barrier(tn_comm_group *g, tn_stream *s, tn_err *err);

#endif
