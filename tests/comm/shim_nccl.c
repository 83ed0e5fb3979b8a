/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A false libnccl.so.2 for tests on machines without a GPU: ranks are threads, "device memory" is what the false CUDA driver gives
 * out, which is the host's. A call stays in progress until its peers have made theirs, whoever comes last moves the data for
 * all, and ncclCommGetAsyncError tells; so whoever uses it must poll, as with communicators that do not block.
 */
#include "comm/shim_nccl.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../plugins/comm/common/sum.h"
#include "../../plugins/comm/nccl/library.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX_RANKS 8
#define MAX_NAMES 256

enum call {
    NOTHING,
    REDUCE,
    REDUCE_TO,
    GATHER,
    SCATTER,
    BROADCAST,
    SEND,
    RECV,
    ENLIST,
    DISMISS,
    FINALIZE
};

struct world {
    char id[128];
    int n, joined, left;
    struct ncclComm *ranks[MAX_RANKS];
};

struct ncclComm {
    struct world *w;
    int rank;
    enum call call; /* in progress; NOTHING: none */
    const void *send;
    void *recv;
    size_t count;
    int dtype, peer;
    int windows; /* that it has */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    struct world *worlds[64];
    int n_worlds, n_ids, version, live, struck, memory, windows;
    const char *fail_name;
    int fail_in, fail_result;
    struct {
        const char *name;
        int calls;
    } names[MAX_NAMES];
} shim;

/* Notes a call; its result if it is to fail, else NCCL_SUCCESS. */
static int enter(const char *name)
{
    int i = 0;

    while (i < MAX_NAMES - 1 && shim.names[i].name && strcmp(shim.names[i].name, name) != 0)
        i++;
    shim.names[i].name = name;
    shim.names[i].calls++;
    if (shim.fail_in > 0 && strcmp(shim.fail_name, name) == 0 && --shim.fail_in == 0)
        return shim.fail_result;
    return NCCL_SUCCESS;
}

static size_t size_of(int dtype)
{
    return dtype == NCCL_INT8 ? 1 : dtype == NCCL_FLOAT16 || dtype == NCCL_BFLOAT16 ? 2 : 4;
}

static uint32_t tenon_dtype(int dtype)
{
    return dtype == NCCL_FLOAT32    ? TN_DT_F32
           : dtype == NCCL_FLOAT16  ? TN_DT_F16
           : dtype == NCCL_BFLOAT16 ? TN_DT_BF16
                                    : TN_DT_I32;
}

/* -- Moving data, with the lock held ------------------------------------------------------------------------- */

static void add_up(const struct world *w, struct ncclComm *c, size_t skip)
{
    const void *src[MAX_RANKS];

    for (int r = 0; r < w->n; r++)
        src[r] = (const char *)w->ranks[r]->send + skip;
    comm_sum(c->recv, src, (uint32_t)w->n, c->count, tenon_dtype(c->dtype));
}

static void move(const struct world *w, struct ncclComm *c)
{
    size_t bytes = c->count * size_of(c->dtype);

    if (c->call == GATHER)
        for (int r = 0; r < w->n; r++)
            memcpy((char *)c->recv + (size_t)r * bytes, w->ranks[r]->send, bytes);
    if (c->call == BROADCAST && c->recv != w->ranks[c->peer]->send)
        memcpy(c->recv, w->ranks[c->peer]->send, bytes);
}

/* In place, one rank's sum would be another's summand: all are computed before any is written. */
static void reduce_all(const struct world *w)
{
    void *sums[MAX_RANKS];

    for (int r = 0; r < w->n; r++) {
        struct ncclComm c = *w->ranks[r];
        size_t bytes = c.count * size_of(c.dtype);
        sums[r] = c.recv = malloc(bytes + 1);
        add_up(w, &c, c.call == SCATTER ? (size_t)r * bytes : 0);
    }
    for (int r = 0; r < w->n; r++) {
        const struct ncclComm *c = w->ranks[r];
        if (c->call != REDUCE_TO || c->peer == r)
            memcpy(c->recv, sums[r], c->count * size_of(c->dtype));
        free(sums[r]);
    }
}

static bool all_in(const struct world *w, enum call call)
{
    for (int r = 0; r < w->n; r++)
        if (!w->ranks[r] || w->ranks[r]->call != call)
            return false;
    return true;
}

static void meet(struct ncclComm *c)
{
    struct world *w = c->w;
    struct ncclComm *peer;

    if (c->call == SEND || c->call == RECV) {
        peer = w->ranks[c->peer];
        if (!peer || peer->peer != c->rank || peer->call != (c->call == SEND ? RECV : SEND))
            return;
        memcpy(c->call == SEND ? peer->recv : c->recv, c->call == SEND ? c->send : peer->send,
               c->count);
        c->call = peer->call = NOTHING;
        return;
    }
    if (!all_in(w, c->call))
        return;
    if (c->call == REDUCE || c->call == REDUCE_TO || c->call == SCATTER)
        reduce_all(w);
    else
        for (int r = 0; r < w->n; r++)
            move(w, w->ranks[r]);
    for (int r = 0; r < w->n; r++)
        w->ranks[r]->call = NOTHING;
}

static int begin(const char *name, struct ncclComm *c, struct ncclComm call)
{
    int result;

    pthread_mutex_lock(&lock);
    result = enter(name);
    if (result == NCCL_SUCCESS && c->call != NOTHING)
        result = NCCL_INVALID_USAGE;
    if (result == NCCL_SUCCESS) {
        call.w = c->w;
        call.rank = c->rank;
        call.windows = c->windows;
        *c = call;
        meet(c);
        result = c->call == NOTHING ? NCCL_SUCCESS : NCCL_IN_PROGRESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* -- The library -------------------------------------------------------------------------------------------- */

#define NCCL_PROTOTYPE(field, name, args) EXPORT int shim_##field args __asm__(name);
NCCL_FUNCTIONS(NCCL_PROTOTYPE)
EXPORT const char *shim_error_text(int result) __asm__("ncclGetErrorString");
EXPORT const char *shim_last_error(nccl_comm comm) __asm__("ncclGetLastError");

int shim_get_version(int *version)
{
    int result;

    pthread_mutex_lock(&lock);
    result = enter("ncclGetVersion");
    *version = shim.version;
    pthread_mutex_unlock(&lock);
    return result;
}

int shim_get_id(nccl_id *id)
{
    int result;

    pthread_mutex_lock(&lock);
    result = enter("ncclGetUniqueId");
    memset(id, 0, sizeof *id);
    memcpy(id->bytes, &shim.n_ids, sizeof shim.n_ids);
    shim.n_ids++;
    pthread_mutex_unlock(&lock);
    return result;
}

static struct world *world_of(const nccl_id *id, int n)
{
    for (int i = 0; i < shim.n_worlds; i++)
        if (memcmp(shim.worlds[i]->id, id->bytes, sizeof id->bytes) == 0)
            return shim.worlds[i];
    shim.worlds[shim.n_worlds] = calloc(1, sizeof(struct world));
    memcpy(shim.worlds[shim.n_worlds]->id, id->bytes, sizeof id->bytes);
    shim.worlds[shim.n_worlds]->n = n;
    return shim.worlds[shim.n_worlds++];
}

int shim_init(nccl_comm *comm, int n, nccl_id id, int rank, nccl_config *config)
{
    struct world *w;
    int result;

    pthread_mutex_lock(&lock);
    result = enter("ncclCommInitRankConfig");
    if (result == NCCL_SUCCESS &&
        (config->magic != NCCL_MAGIC || config->blocking != 0 || config->size < 40 ||
         config->cga_cluster_size != INT_MIN || n > MAX_RANKS || rank >= n))
        result = NCCL_INVALID_ARGUMENT;
    if (result == NCCL_SUCCESS) {
        w = world_of(&id, n);
        *comm = calloc(1, sizeof **comm);
        **comm = (struct ncclComm){.w = w, .rank = rank};
        w->ranks[rank] = *comm;
        w->joined++;
        shim.live++;
        result = NCCL_IN_PROGRESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int drop(const char *name, nccl_comm c)
{
    int result;

    pthread_mutex_lock(&lock);
    result = enter(name);
    if (result == NCCL_SUCCESS) {
        c->w->ranks[c->rank] = NULL;
        shim.live--;
        shim.windows -= c->windows;
        free(c);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int shim_finalize(nccl_comm comm)
{
    return begin("ncclCommFinalize", comm, (struct ncclComm){.call = FINALIZE});
}

int shim_destroy(nccl_comm comm)
{
    return drop("ncclCommDestroy", comm);
}

int shim_abort(nccl_comm comm)
{
    return drop("ncclCommAbort", comm);
}

int shim_async_error(nccl_comm comm, int *state)
{
    int result;

    pthread_mutex_lock(&lock);
    result = enter("ncclCommGetAsyncError");
    *state = shim.struck                                             ? shim.struck
             : comm->w->joined < comm->w->n || comm->call != NOTHING ? NCCL_IN_PROGRESS
                                                                     : NCCL_SUCCESS;
    pthread_mutex_unlock(&lock);
    return result;
}

int shim_all_reduce(const void *send, void *recv, size_t count, int dtype, int op, nccl_comm comm,
                    void *stream)
{
    (void)op;
    (void)stream;
    return begin("ncclAllReduce", comm,
                 (struct ncclComm){
                     .call = REDUCE, .send = send, .recv = recv, .count = count, .dtype = dtype});
}

int shim_all_gather(const void *send, void *recv, size_t count, int dtype, nccl_comm comm,
                    void *stream)
{
    (void)stream;
    return begin("ncclAllGather", comm,
                 (struct ncclComm){
                     .call = GATHER, .send = send, .recv = recv, .count = count, .dtype = dtype});
}

int shim_reduce_scatter(const void *send, void *recv, size_t count, int dtype, int op,
                        nccl_comm comm, void *stream)
{
    (void)op;
    (void)stream;
    return begin("ncclReduceScatter", comm,
                 (struct ncclComm){
                     .call = SCATTER, .send = send, .recv = recv, .count = count, .dtype = dtype});
}

int shim_reduce(const void *send, void *recv, size_t count, int dtype, int op, int root,
                nccl_comm comm, void *stream)
{
    (void)op;
    (void)stream;
    return begin("ncclReduce", comm,
                 (struct ncclComm){.call = REDUCE_TO,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .peer = root});
}

int shim_broadcast(const void *send, void *recv, size_t count, int dtype, int root, nccl_comm comm,
                   void *stream)
{
    (void)stream;
    return begin("ncclBroadcast", comm,
                 (struct ncclComm){.call = BROADCAST,
                                   .send = send,
                                   .recv = recv,
                                   .count = count,
                                   .dtype = dtype,
                                   .peer = root});
}

int shim_send(const void *send, size_t count, int dtype, int peer, nccl_comm comm, void *stream)
{
    (void)stream;
    return begin("ncclSend", comm,
                 (struct ncclComm){
                     .call = SEND, .send = send, .count = count, .dtype = dtype, .peer = peer});
}

int shim_recv(void *recv, size_t count, int dtype, int peer, nccl_comm comm, void *stream)
{
    (void)stream;
    return begin("ncclRecv", comm,
                 (struct ncclComm){
                     .call = RECV, .recv = recv, .count = count, .dtype = dtype, .peer = peer});
}

#ifndef SHIM_WITHOUT_WINDOWS
NCCL_WINDOW_FUNCTIONS(NCCL_PROTOTYPE)

int shim_mem_alloc(void **out, size_t bytes)
{
    int result;

    pthread_mutex_lock(&lock);
    result = enter("ncclMemAlloc");
    if (result == NCCL_SUCCESS) {
        *out = malloc(bytes);
        shim.memory++;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int shim_mem_free(void *ptr)
{
    pthread_mutex_lock(&lock);
    shim.memory--;
    pthread_mutex_unlock(&lock);
    free(ptr);
    return NCCL_SUCCESS;
}

int shim_window_register(nccl_comm comm, void *ptr, size_t bytes, nccl_window *out, int flags)
{
    int result = flags == NCCL_SYMMETRIC && bytes > 0
                     ? begin("ncclCommWindowRegister", comm, (struct ncclComm){.call = ENLIST})
                     : NCCL_INVALID_ARGUMENT;

    if (result != NCCL_SUCCESS && result != NCCL_IN_PROGRESS)
        return result;
    pthread_mutex_lock(&lock);
    comm->windows++;
    shim.windows++;
    pthread_mutex_unlock(&lock);
    *out = ptr;
    return NCCL_SUCCESS; /* though it goes on in the background, as the library does */
}

int shim_window_deregister(nccl_comm comm, nccl_window window)
{
    int result = begin("ncclCommWindowDeregister", comm, (struct ncclComm){.call = DISMISS});

    if (!window || (result != NCCL_SUCCESS && result != NCCL_IN_PROGRESS))
        return result;
    pthread_mutex_lock(&lock);
    comm->windows--;
    shim.windows--;
    pthread_mutex_unlock(&lock);
    return result;
}
#endif

const char *shim_error_text(int result)
{
    return result == NCCL_REMOTE_ERROR ? "remote process exited or there was a network error"
                                       : "it failed as it was told to";
}

const char *shim_last_error(nccl_comm comm)
{
    (void)comm;
    return "the shim's last words";
}

/* -- For the test --------------------------------------------------------------------------------------------- */

static void reset(void)
{
    for (int i = 0; i < shim.n_worlds; i++)
        free(shim.worlds[i]);
    memset(&shim, 0, sizeof shim);
    shim.version = 22809;
}

static void arrange(const char *name, int nth, int result)
{
    shim.fail_name = name;
    shim.fail_in = nth;
    shim.fail_result = result;
}

static void strike(int result)
{
    pthread_mutex_lock(&lock);
    shim.struck = result;
    pthread_mutex_unlock(&lock);
}

static void set_version(int version)
{
    shim.version = version;
}

static int calls(const char *name)
{
    for (int i = 0; i < MAX_NAMES; i++)
        if (shim.names[i].name && strcmp(shim.names[i].name, name) == 0)
            return shim.names[i].calls;
    return 0;
}

static int live(void)
{
    return shim.live;
}

static int memory(void)
{
    return shim.memory;
}

static int windows(void)
{
    return shim.windows;
}

EXPORT extern const struct shim_api shim_api;
const struct shim_api shim_api = {.reset = reset,
                                  .arrange = arrange,
                                  .strike = strike,
                                  .set_version = set_version,
                                  .calls = calls,
                                  .live = live,
                                  .memory = memory,
                                  .windows = windows};

__attribute__((constructor)) static void start(void)
{
    reset();
}
