/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVIDIA's NCCL, found at run time: what this plugin uses of its C interface, declared here so that nothing of NCCL is needed to
 * build. Versions 2.18 and later 2.x keep these; an older or another major one is refused by its ncclGetVersion.
 */
#ifndef NCCL_LIBRARY_H
#define NCCL_LIBRARY_H

#include <stddef.h>
#include <stdint.h>

#include "tenon/dtype.h"
#include "tenon/error.h"

typedef struct ncclComm *nccl_comm;

typedef struct nccl_id {
    char bytes[128];
} nccl_id;

enum nccl_result {
    NCCL_SUCCESS,
    NCCL_CUDA_ERROR,
    NCCL_SYSTEM_ERROR,
    NCCL_INTERNAL_ERROR,
    NCCL_INVALID_ARGUMENT,
    NCCL_INVALID_USAGE,
    NCCL_REMOTE_ERROR,
    NCCL_IN_PROGRESS
};

enum nccl_dtype {
    NCCL_INT8 = 0,
    NCCL_INT32 = 2,
    NCCL_FLOAT16 = 6,
    NCCL_FLOAT32 = 7,
    NCCL_BFLOAT16 = 9
};

#define NCCL_SUM 0
#define NCCL_LEAST 21800 /* 2.18.0 */
#define NCCL_BEYOND 30000

/* ncclConfig_t as 2.17 had it; later versions go by `size` and `version`, and take their defaults for what came since. */
typedef struct nccl_config {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
} nccl_config;

#define NCCL_MAGIC 0xcafebeefu
#define NCCL_CONFIG_VERSION 21700
#define NCCL_UNDEFINED INT_MIN

/* X(field, exported name, parameters); all return an ::nccl_result. `stream` is a CUstream. */
#define NCCL_FUNCTIONS(X)                                                                          \
    X(get_version, "ncclGetVersion", (int *version))                                               \
    X(get_id, "ncclGetUniqueId", (nccl_id * id))                                                   \
    X(init, "ncclCommInitRankConfig",                                                              \
      (nccl_comm * comm, int n, nccl_id id, int rank, nccl_config *config))                        \
    X(finalize, "ncclCommFinalize", (nccl_comm comm))                                              \
    X(destroy, "ncclCommDestroy", (nccl_comm comm))                                                \
    X(abort, "ncclCommAbort", (nccl_comm comm))                                                    \
    X(async_error, "ncclCommGetAsyncError", (nccl_comm comm, int *state))                          \
    X(all_reduce, "ncclAllReduce",                                                                 \
      (const void *send, void *recv, size_t count, int dtype, int op, nccl_comm comm,              \
       void *stream))                                                                              \
    X(all_gather, "ncclAllGather",                                                                 \
      (const void *send, void *recv, size_t count, int dtype, nccl_comm comm, void *stream))       \
    X(reduce_scatter, "ncclReduceScatter",                                                         \
      (const void *send, void *recv, size_t count, int dtype, int op, nccl_comm comm,              \
       void *stream))                                                                              \
    X(reduce, "ncclReduce",                                                                        \
      (const void *send, void *recv, size_t count, int dtype, int op, int root, nccl_comm comm,    \
       void *stream))                                                                              \
    X(broadcast, "ncclBroadcast",                                                                  \
      (const void *send, void *recv, size_t count, int dtype, int root, nccl_comm comm,            \
       void *stream))                                                                              \
    X(send, "ncclSend",                                                                            \
      (const void *send, size_t count, int dtype, int peer, nccl_comm comm, void *stream))         \
    X(recv, "ncclRecv",                                                                            \
      (void *recv, size_t count, int dtype, int peer, nccl_comm comm, void *stream))

/* Memory that all ranks see at the same offset of a window, since 2.27. A library has all of these, or none counts. */
typedef void *nccl_window;

#define NCCL_SYMMETRIC 1

/*
 * What the kernels for symmetric memory of some versions get wrong, as NCCL's own history has it. From 2.28 until 2.30.7 they are
 * launched so that they may begin before the kernel ahead of them in the stream has ended, but do not wait for it: they read
 * what it has not written yet. Until 2.30 those for small gathers and scatters read parts wrongly that begin at odd addresses, as
 * they do where a rank's part is no multiple of 8 bytes; some also take blocks for aligned that are not.
 */
#define NCCL_EAGER(version) ((version) >= 22800 && (version) < 23007)
#define NCCL_MISALIGNS(version) ((version) >= 22700 && (version) < 23000)

#define NCCL_WINDOW_FUNCTIONS(X)                                                                   \
    X(mem_alloc, "ncclMemAlloc", (void **out, size_t bytes))                                       \
    X(mem_free, "ncclMemFree", (void *ptr))                                                        \
    X(window_register, "ncclCommWindowRegister",                                                   \
      (nccl_comm comm, void *ptr, size_t bytes, nccl_window *out, int flags))                      \
    X(window_deregister, "ncclCommWindowDeregister", (nccl_comm comm, nccl_window window))

struct nccl_library {
    void *file;
    int version;
    char text[64]; /* "NCCL 2.28.9, symmetric memory" */
    int windows;   /* nonzero: it has NCCL_WINDOW_FUNCTIONS */
#define NCCL_FIELD(field, name, args) int(*field) args;
    NCCL_FUNCTIONS(NCCL_FIELD)
    NCCL_WINDOW_FUNCTIONS(NCCL_FIELD)
#undef NCCL_FIELD
    const char *(*error_text)(int result);
    const char *(*last_error)(nccl_comm comm); /* NULL allowed */
};

/* Loads "libnccl.so.2" or an absolute path. TN_E_UNSUPPORTED with the reason; then nothing is kept. */
int32_t nccl_open(struct nccl_library *l, const char *path, tn_err *err);
void nccl_close(struct nccl_library *l); /* zeroed is allowed */

/* The status for a result, and a message: "nccl: WHAT: cause (last error)". `comm` may be NULL. */
int32_t nccl_status(const struct nccl_library *l, nccl_comm comm, int result, const char *what,
                    tn_err *err);

#endif
