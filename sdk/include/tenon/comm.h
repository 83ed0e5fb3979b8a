/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file comm.h
 * Communication backends: groups of ranks, collectives and point-to-point transfers.
 *
 * Every transfer is enqueued on a stream of the device the group was made for (NULL: the call returns when
 * the transfer is locally complete). Errors may surface later: `async_error` tells, and after one only
 * `abort` is safe. Semantics follow MPI-4.1 chapters 3 and 6 where names agree; reductions are sums.
 */
#ifndef TENON_COMM_H
#define TENON_COMM_H

#include "device.h"
#include "dtype.h"
#include "error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_comm_group tn_comm_group;

/** Bytes of the token that rank 0 makes and the launcher carries to the others. */
#define TN_COMM_ID_BYTES 256

enum tn_comm_flag {
    TN_COMM_HOST_MEMORY = 1,   /**< buffers in host memory */
    TN_COMM_DEVICE_MEMORY = 2, /**< buffers in device memory */
    TN_COMM_GRAPH_SAFE = 4,    /**< calls may be captured, once a group has made each before */
    TN_COMM_MULTI_HOST = 8,
    TN_COMM_IN_PLACE = 16,      /**< send and receive buffer may be the same */
    TN_COMM_DETERMINISTIC = 32, /**< the same inputs give the same bits */
    TN_COMM_OWN_DEVICE = 64,    /**< of device memory: no two ranks may share a device */
    TN_COMM_GRAPH_SUMS =
        128 /**< all_reduce, all_gather, show and hide may be captured, other calls not */
};

/** What a backend knows of the path between two ranks. */
typedef struct tn_comm_link {
    tn_hdr h;
    char kind
        [16]; /**< "self", "shm", "peer" (devices reach each other), "host" (through host memory), "nccl", "tcp" */
    double bandwidth;  /**< bytes per second, 0: unknown */
    double latency_ns; /**< 0: unknown */
} tn_comm_link;

enum tn_comm_join_flag {
    /** No device is to touch another's memory, though it may say that it can: that was measured to be slower, or wrong. */
    TN_COMM_JOIN_STAGED = 1,
    /** Other ranks of the run work on this rank's device, in whichever groups: its kernels must not wait for anybody. */
    TN_COMM_JOIN_SHARED = 2
};

/** How a rank joins a group. */
typedef struct tn_comm_join {
    tn_hdr h;
    const uint8_t *id; /**< [TN_COMM_ID_BYTES] from make_id */
    uint32_t rank, n_ranks;
    const uint32_t *members; /**< [n_ranks] number of each rank of the group in the whole run */
    const uint32_t
        *processes; /**< [n_ranks] the process that each is in, as `world` numbers them */
    const tn_device_api *api;
    tn_device *device;   /**< whose memory is moved */
    uint64_t timeout_ns; /**< until all must have joined */
    uint64_t
        call_timeout_ns; /**< longest wait of one call for its peers, then TN_E_TIMEOUT; 0: as long as it takes */
    uint64_t
        max_bytes; /**< most bytes of one call, for buffers that are taken now rather than in steps */
    const tn_device_info *info; /**< of `device` */
    uint64_t flags;             /**< ::tn_comm_join_flag; STAGED is the same on all ranks */
} tn_comm_join;

/**
 * Where a sum over ranks lies before it is added up, or in parts: for kernels that add and go on at once (TN_VARIANT_PARTS in
 * kernels.h). What they make of it must have the bits of all_reduce.
 */
typedef struct tn_comm_parts {
    tn_hdr h;
    const void *const
        *part; /**< host array of n_parts device addresses, until the group's next call */
    uint32_t n_parts;
    uint32_t reserved0;
    /** 0: element i of the sum is part[0][i] + part[1][i] + ..., added in float32 in this order and rounded once, or part[0][i]
     *  alone where there is one. Else element i is part[i / each][i], added already; `each` is a number of whole rows. */
    uint64_t each;
} tn_comm_parts;

/**
 * Interface "comm.backend". A group is used by one thread, except `abort` and `async_error`. Calls of a group are made
 * by all its ranks in the same order (send and recv: by both sides). A call that fails leaves the group broken: the
 * message names the rank that is late or gone if it is known, and later calls fail too.
 */
typedef struct tn_comm_backend {
    tn_hdr h;
    const char *name;   /**< "local", "nccl", "pcie", "mpi" */
    const char *device; /**< kind of device whose memory it moves; NULL: any, see `flags` */
    uint32_t flags;     /**< ::tn_comm_flag; of device memory, of devices with streams and `sum` */
    uint32_t dtypes;    /**< mask of TN_DT_BIT that reductions take */

    /** Whether it can join `n_ranks` ranks; `devices` are those of this process, `n_local` of them. */
    int32_t (*can_join)(void *instance, uint32_t n_ranks, uint32_t n_local,
                        tn_device *const *devices, tn_err *err);
    /** Makes the token of a new group; called once, in the process of one of its ranks. */
    int32_t (*make_id)(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err);
    /** Joins; returns when all ranks have, or with TN_E_TIMEOUT. */
    int32_t (*join)(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err);
    /** Leaves after all outstanding work is done. Of a group in device memory, the caller has seen to it that all ranks
     *  are through with what they called: others may still be reading what a rank shows them. */
    void (*leave)(tn_comm_group *g);
    /** Ends all outstanding work of the group at once, from any thread; then only `leave`. */
    void (*abort)(tn_comm_group *g);
    /** TN_OK, TN_E_BUSY while joining, or the error that struck. From any thread. */
    int32_t (*async_error)(tn_comm_group *g, tn_err *err);
    int32_t (*link)(tn_comm_group *g, uint32_t peer, tn_comm_link *out, tn_err *err);

    int32_t (*all_reduce)(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *s, tn_err *err);
    /** recv holds n_ranks * count elements in rank order. */
    int32_t (*all_gather)(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                          uint32_t dtype, tn_stream *s, tn_err *err);
    /** recv holds count elements: this rank's share of the sum of n_ranks * count. */
    int32_t (*reduce_scatter)(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                              uint32_t dtype, tn_stream *s, tn_err *err);
    int32_t (*broadcast)(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                         tn_err *err);
    int32_t (*send)(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                    tn_err *err);
    int32_t (*recv)(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                    tn_err *err);
    int32_t (*barrier)(tn_comm_group *g, tn_stream *s, tn_err *err);

    /** (opt) If a launcher started this process as one of several that the backend can join: its number, theirs, and how
     *  many of them share this host. Cheap and harmless where none did: then `size` is 1. */
    int32_t (*world)(void *instance, uint32_t *rank, uint32_t *size, uint32_t *host_rank,
                     uint32_t *host_size, tn_err *err);
    /** (opt) Carries `bytes` bytes from process 0 of that world to all; returns when this one has sent or got them. */
    int32_t (*spread)(void *instance, void *buf, uint64_t bytes, uint64_t timeout_ns, tn_err *err);

    /** (opt) `flags` as they hold for this group, which may be less, by where its ranks are. */
    uint32_t (*group_flags)(tn_comm_group *g);

    /**
     * (opt) The first half of all_reduce over rows * width elements, for a kernel that does the rest: shows `send` to all
     * ranks and tells where the addends lie, for what follows in the stream. `room` has space for as many elements, which the
     * backend may use. Neither may change before `hide` is through, and the group makes no other call before it. If a call
     * fails, others may still be reading both: they stay until all ranks are through, in host memory, too.
     */
    int32_t (*show)(tn_comm_group *g, const void *send, void *room, uint64_t rows, uint64_t width,
                    uint32_t dtype, tn_comm_parts *out, tn_stream *s, tn_err *err);
    /** (opt, with `show`) What follows in the stream may change what was shown. Called behind the kernel, by all ranks. */
    int32_t (*hide)(tn_comm_group *g, tn_stream *s, tn_err *err);

    /**
     * (opt) Device memory that sums and gathers of this group move best: `bytes` of it, at a multiple of 256, or NULL with
     * TN_OK where there is none better than the device's own. All ranks of the group ask for it in the same order. `layout`
     * stands for what lies where in it: if bytes or layouts of two ranks differ, all get NULL. It goes when the group is left.
     */
    int32_t (*memory)(tn_comm_group *g, uint64_t bytes, uint64_t layout, void **out, tn_err *err);
    /** (opt) What the instance found and works with, a line for people ("NCCL 2.28.9, symmetric memory"), until it ends. */
    const char *(*describe)(void *instance);
} tn_comm_backend;

#ifdef __cplusplus
}
#endif
#endif
