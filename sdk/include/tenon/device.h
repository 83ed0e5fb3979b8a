/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file device.h
 * A kind of device: memory, order of work, and running it in parallel.
 *
 * One plugin provides it per kind ("cpu", "cuda"); any number of kernel sets run on it. The core
 * touches devices through this table only. Handles are opaque to the core.
 */
#ifndef TENON_DEVICE_H
#define TENON_DEVICE_H

#include "error.h"
#include "note.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_device tn_device; /**< an opened device */
typedef struct tn_stream tn_stream; /**< work in order; of a device without streams: NULL */
typedef struct tn_event tn_event;   /**< a point in a stream */
typedef struct tn_graph tn_graph;   /**< captured work that can be replayed */
typedef struct tn_image tn_image;   /**< device code that the core loaded for a SWAP-class plugin */

enum tn_device_flag {
    TN_DEVICE_HOST_MEMORY = 1, /**< computes in host memory: the core may use pointers directly */
    TN_DEVICE_STREAMS = 2,     /**< asynchronous; without it every call has completed on return */
    TN_DEVICE_GRAPHS = 4,
    TN_DEVICE_IMAGES = 8
};

typedef struct tn_device_info {
    tn_hdr h;
    uint32_t flags;     /**< ::tn_device_flag */
    uint32_t numa_node; /**< UINT32_MAX: unknown */
    uint64_t total_bytes;
    tn_gpu_target gpu; /**< vendor 0: not a GPU; mode unused */
    uint32_t n_units;  /**< cores or multiprocessors */
    uint32_t reserved0;
    char name[64];
    char uuid[48]; /**< stable identity of the device, "" if it has none */
    char driver[32];
    char bus[24]; /**< where it is plugged in ("0000:3b:00.0"), "" if nowhere or unknown */
} tn_device_info;

/** What lies between two devices of a kind. */
typedef struct tn_device_link {
    tn_hdr h;
    char kind[16];    /**< "self", "nvlink", "pcie"; "": unknown */
    uint32_t access;  /**< nonzero: each reaches the other's memory directly */
    uint32_t atomics; /**< nonzero: and atomic operations work there */
} tn_device_link;

/** Most sources of one tn_device_api::sum. */
#define TN_SUM_MAX 64

/** Most devices of one ::tn_device_meet. */
#define TN_MEET_MAX 16

/** Words of tn_device_meet::words. */
enum tn_meet_word {
    TN_MEET_GIVE_UP =
        0, /**< nonzero: whoever waits ends, and so does whoever comes; set by any thread of the host */
    TN_MEET_LATE = 1, /**< 1 + the rank that a kernel has waited for in vain; set by the device */
    TN_MEET_WORDS = 2
};

/**
 * Ranks with a device each, whose kernels wait for each other: no thread of the host takes part, so what is enqueued may be
 * captured. All ranks enqueue the same calls with the same sizes in the same order. A kernel that waits keeps its device
 * busy: no two ranks may share one.
 */
typedef struct tn_device_meet {
    tn_hdr h;
    uint32_t rank, n; /**< n: 2 to TN_MEET_MAX */
    void *const
        *rooms; /**< host array [n]: `meet_bytes` bytes of each rank's device memory, zeroed once */
    volatile uint32_t
        *words; /**< [TN_MEET_WORDS] in page-locked memory, zeroed once: this rank's alone */
    uint64_t timeout_ns; /**< longest wait of a kernel for its peers; 0: until TN_MEET_GIVE_UP */
} tn_device_meet;

/** Most pieces of one tn_device_api::copy_few. */
#define TN_COPY_PIECES 8

/** What tn_device_api::copy_few copies: `bytes` bytes, which may be none, from `src` to `dst`. */
typedef struct tn_copy_piece {
    void *dst;
    const void *src;
    uint64_t bytes;
} tn_copy_piece;

enum tn_copy_kind {
    TN_COPY_HOST_TO_DEVICE = 1,
    TN_COPY_DEVICE_TO_HOST = 2,
    TN_COPY_DEVICE_TO_DEVICE = 3
};

enum tn_launch_flag {
    /** The kernel may begin before the one ahead of it in the stream has ended: it waits itself (CUDA: programmatic
     *  dependent launch, griddepcontrol.wait) before it touches what that one writes. */
    TN_LAUNCH_OVERLAP = 1
};

/** One launch of a kernel of an image. Zero in a cluster dimension means 1. */
typedef struct tn_kernel_launch {
    tn_hdr h;
    void *entry; /**< from image_entry */
    uint32_t grid[3], block[3], cluster[3];
    uint32_t shared_bytes; /**< dynamic shared memory */
    uint32_t flags;        /**< ::tn_launch_flag */
    uint32_t reserved0;
    void *
        *params; /**< host array of addresses of the kernel's parameters, copied during the call */
} tn_kernel_launch;

/** Work for one worker of a parallel region: part `index` of `count`. */
typedef void (*tn_parallel_fn)(void *arg, uint32_t index, uint32_t count);

/**
 * Interface "device". Functions marked (opt) may be NULL when the matching flag is absent. Unless
 * said, functions may be called from any thread; a stream is used by one thread at a time.
 */
typedef struct tn_device_api {
    tn_hdr h;
    const char *kind; /**< "cpu", "cuda" */

    /** Devices that are there. 0 with TN_OK is a proper answer. */
    int32_t (*count)(void *instance, uint32_t *n, tn_err *err);
    int32_t (*info)(void *instance, uint32_t index, tn_device_info *info, tn_err *err);
    /** Opens device `index` for a rank. If `n_shares` ranks of this process run side by side on it, each opens it, as
     *  `share` 0, 1, ...; what is owned per opening, as worker threads are, is divided among them. */
    int32_t (*open)(void *instance, uint32_t index, uint32_t share, uint32_t n_shares,
                    tn_device **out, tn_err *err);
    /** Waits for outstanding work, then closes. All memory must have been freed. */
    void (*close)(tn_device *d);
    /** The dtype in which this device best computes activations for weights of `weight_dtype`. */
    uint32_t (*act_dtype)(tn_device *d, uint32_t weight_dtype);

    /** Device memory, aligned to at least 256 bytes, contents undefined. TN_E_NOSPACE with the sizes. */
    int32_t (*mem_alloc)(tn_device *d, uint64_t bytes, void **out, tn_err *err);
    void (*mem_free)(tn_device *d, void *ptr);
    int32_t (*mem_info)(tn_device *d, uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err);
    /** (opt, without: ordinary memory) Host memory that copies reach fastest. */
    int32_t (*pinned_alloc)(tn_device *d, uint64_t bytes, void **out, tn_err *err);
    void (*pinned_free)(tn_device *d, void *ptr);

    /** Copies in order on `s`. Host memory must stay valid until the stream has passed. */
    int32_t (*copy)(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                    uint32_t kind, tn_err *err);
    int32_t (*fill)(tn_device *d, tn_stream *s, void *dst, uint8_t byte, uint64_t bytes,
                    tn_err *err);

    /* (opt) TN_DEVICE_STREAMS */
    int32_t (*stream_new)(tn_device *d, tn_stream **out, tn_err *err);
    void (*stream_free)(tn_device *d, tn_stream *s);
    /** Waits until all work in `s` is done; reports errors of that work. */
    int32_t (*stream_sync)(tn_device *d, tn_stream *s, tn_err *err);
    int32_t (*event_new)(tn_device *d, tn_event **out, tn_err *err);
    void (*event_free)(tn_device *d, tn_event *e);
    int32_t (*event_record)(tn_device *d, tn_event *e, tn_stream *s, tn_err *err);
    /** TN_OK when passed, TN_E_BUSY while not, else the error of the work before it. */
    int32_t (*event_query)(tn_device *d, tn_event *e, tn_err *err);
    int32_t (*event_sync)(tn_device *d, tn_event *e, tn_err *err);
    int32_t (*event_elapsed_ns)(tn_device *d, tn_event *from, tn_event *to, double *ns,
                                tn_err *err);
    /** Work after this call in `s` waits for `e`, which was recorded, perhaps in a stream of another device of this kind. */
    int32_t (*stream_wait)(tn_device *d, tn_stream *s, tn_event *e, tn_err *err);

    /* (opt) TN_DEVICE_GRAPHS */
    int32_t (*capture_begin)(tn_device *d, tn_stream *s, tn_err *err);
    int32_t (*capture_end)(tn_device *d, tn_stream *s, tn_graph **out, tn_err *err);
    int32_t (*graph_launch)(tn_device *d, tn_graph *g, tn_stream *s, tn_err *err);
    void (*graph_free)(tn_device *d, tn_graph *g);

    /* (opt) TN_DEVICE_IMAGES: device code, so that a kernel set needs no library of the device's vendor */
    /** Loads an image (CUDA: a cubin or fatbin) and makes its kernels ready. Not on the step path. */
    int32_t (*image_load)(tn_device *d, const void *image, uint64_t bytes, tn_image **out,
                          tn_err *err);
    /** A kernel by name, ready to launch; its limit of dynamic shared memory is what the device allows. */
    int32_t (*image_entry)(tn_device *d, tn_image *image, const char *name, void **out,
                           tn_err *err);
    void (*image_unload)(tn_device *d, tn_image *image);
    /** Enqueues one kernel; allocates nothing, waits for nothing, may be captured. */
    int32_t (*launch)(tn_device *d, tn_stream *s, const tn_kernel_launch *k, tn_err *err);
    /** A function of the driver by name ("cuTensorMapEncodeTiled"), for what this table lacks. TN_E_NOTFOUND. */
    int32_t (*native_symbol)(tn_device *d, const char *name, void **out, tn_err *err);
    /** The driver's own handles: context and stream (CUDA: CUcontext, CUstream), for libraries that want them. */
    void *(*native_context)(tn_device *d);
    void *(*native_stream)(tn_device *d, tn_stream *s);

    /** (opt) Nonzero in *yes if `d` can reach the memory of `peer` directly; from then on it may: in copies, in `sum`, and
     *  in kernels. Two openings of one device always can. */
    int32_t (*peer_access)(tn_device *d, tn_device *peer, uint32_t *yes, tn_err *err);

    /**
     * (opt) Of a device that computes in host memory: runs fn(arg, i, n) for all i < n at once on its n
     * workers (the caller is one of them) and returns when all have. Called from one thread at a time.
     */
    void (*parallel)(tn_device *d, tn_parallel_fn fn, void *arg);
    /** Number of workers of `parallel`; 1 if it is NULL. */
    uint32_t (*n_workers)(tn_device *d);

    /** (opt) Copies `rows` rows of `width` bytes in device memory, which lie dst_stride and src_stride bytes apart; in
     *  order on `s`. May be captured. */
    int32_t (*copy_rows)(tn_device *d, tn_stream *s, void *dst, uint64_t dst_stride,
                         const void *src, uint64_t src_stride, uint64_t width, uint64_t rows,
                         tn_err *err);
    /** (opt) What lies between devices `a` and `b`, by their indices; nothing need be open. */
    int32_t (*link)(void *instance, uint32_t a, uint32_t b, tn_device_link *out, tn_err *err);
    /**
     * (opt, with TN_DEVICE_STREAMS) dst[i] = src[0][i] + src[1][i] + ... for i < count, in order on `s`: float32, float16,
     * bfloat16 (added in float32 in this order, rounded once) or int32. `src` is a host array of 1 to TN_SUM_MAX device
     * addresses, which may be those of peers that `peer_access` has let in; `dst` may be one of them. May be captured.
     * With count 0 nothing is computed, but what the first call needs is made ready.
     */
    int32_t (*sum)(tn_device *d, tn_stream *s, void *dst, const void *const *src, uint32_t n_src,
                   uint64_t count, uint32_t dtype, tn_err *err);

    /** (opt, with meet_sum and meet_gather) Bytes of each rank's room for `n` ranks; makes ready what the calls need.
     *  TN_E_UNSUPPORTED: so many cannot meet. */
    int32_t (*meet_bytes)(tn_device *d, uint32_t n, uint64_t *bytes, tn_err *err);
    /** (opt) dst[i] = the sum over ranks, in their order, of src[i], i < count, as `sum` adds; `dst` may be `src`. After a
     *  wait in vain `dst` is undefined, and no later call of these ranks waits any more. */
    int32_t (*meet_sum)(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                        const void *src, uint64_t count, uint32_t dtype, tn_err *err);
    /** (opt) dst = `bytes` bytes from each rank's `src`, in rank order. Otherwise as meet_sum. */
    int32_t (*meet_gather)(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                           const void *src, uint64_t bytes, tn_err *err);

    /**
     * (opt, with pinned_alloc) Copies n <= ::TN_COPY_PIECES pieces between memory of the device and memory of its pinned_alloc,
     * each either way, in order on `s`, among themselves in any order: for few bytes, where what a stream loses on the way counts
     * more than the rate (CUDA: one kernel copies them all, since a copy engine costs a stream some 8 us each way). With n = 0
     * nothing is copied, but what the first call needs is made ready. `pieces` is read during the call only. May be captured.
     */
    int32_t (*copy_few)(tn_device *d, tn_stream *s, const tn_copy_piece *pieces, uint32_t n,
                        tn_err *err);
} tn_device_api;

#ifdef __cplusplus
}
#endif
#endif
