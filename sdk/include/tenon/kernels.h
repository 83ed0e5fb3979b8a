/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file kernels.h
 * Kernel plugins: sets of variants of ops for one kind of device.
 *
 * The core decides what runs: it drops the variants whose declared needs do not fit, asks the rest `can_run`,
 * obeys a pin in the configuration, then prefers measured time, then `cost_ns`. The outcome and a reason per loser are
 * shown by `tenon plugin explain`.
 *
 * **Fused ops.** A variant may implement a composition of basic ops. It says which in `equals`:
 *
 *     "(x) -> (y): g = linear(x); u = linear(x); s = silu(g); y = mul(s, u)"
 *
 * Names on the left are its inputs, in the order of tn_op::in; then its outputs; then one
 * statement per member op, in the order of tn_op::members. An op with several outputs is written
 * "i, p = moe_route(x)"; optional weights (a bias) are not part of the text, so `can_run` must look.
 * The host replaces a set of ops that is wired so if no intermediate value is used elsewhere. Attributes and
 * weights stay with the members; `can_run` looks at them there. The result must equal the
 * composition of the basic ops up to rounding; intermediates need not be rounded. Variants that state the same
 * text under the same op name are alternatives for one fusion, whichever sets they come from, and may each
 * serve a range of rows; fusions.h names those that Tenon's own sets share.
 *
 * **Packing.** A variant may want its weights in a layout of its own. It names that layout in `pack_layout`,
 * tells its size, and fills it at load from the canonical weights of all members. Variants of one op that
 * serve different numbers of rows share a packed copy if they name the same layout.
 *
 * **Rows.** A fusion may serve few rows only: 1 up to a limit that its variants leave, with canonical weights. In steps of
 * more rows its members run, by themselves or in the other fusions that are best there; so fusions of different size may
 * take turns at one place.
 */
#ifndef TENON_KERNELS_H
#define TENON_KERNELS_H

#include "batch.h"
#include "comm.h"
#include "device.h"
#include "error.h"
#include "note.h"
#include "op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tn_variant_flag {
    TN_VARIANT_GRAPH_SAFE = 1,      /**< may be captured: "Captured steps" in batch.h */
    TN_VARIANT_DETERMINISTIC = 2,   /**< equal inputs give equal bits */
    TN_VARIANT_BATCH_INVARIANT = 4, /**< a row's bits do not depend on the other rows of the step */
    TN_VARIANT_PACK_ON_DEVICE = 8,  /**< `pack` reads and writes device memory on a stream */
    /** Does the op in wider arithmetic than its definition, for want of hardware (linear.fp8); users are told. Variants that
     *  leave rows unrounded set TN_VARIANT_WIDE_ROWS, too. */
    TN_VARIANT_FALLBACK = 16,
    /**
     * Fuses a sum over ranks with what follows: the first member is `all_reduce` of in[0], which the kernel does not read: it
     * finds the addends in tn_launch::parts. Ranks must agree on who does a sum, so what was measured on one of them counts
     * nothing: such a variant is taken wherever it can run, if what joins the ranks can show parts.
     */
    TN_VARIANT_PARTS = 32,
    /**
     * Leaves rows as they are where the definition of its op rounds them and lets variants do without (linear.fp8 in ops.h):
     * more exact, so nobody is told, unless TN_VARIANT_FALLBACK says that it is for want of hardware.
     */
    TN_VARIANT_WIDE_ROWS = 64,
    /**
     * On a device with streams: may start before the kernel ahead has ended, and lets the next start before it ends itself, so
     * that one's weights are on their way while the other computes (CUDA's programmatic dependent launch). Times are measured of
     * one variant alone; one without this flag makes its neighbours wait, too, and is charged for that when variants are chosen.
     */
    TN_VARIANT_EARLY = 128,
    /**
     * Of `embedding` and `embedding.int8`: does the work of `feed`, too, when tn_launch::feed says so. Where the first op of a step is done by
     * such a variant, the core runs no `feed` ahead of it. Steps overlap only where some set of the device offers `feed`, which
     * a set with such a variant had better do, too.
     */
    TN_VARIANT_FEEDS = 256
};

/* -- KV cache layouts --------------------------------------------------------------------------- */

/** One layer's cache, as kernels see it. */
typedef struct tn_kv_layer {
    tn_hdr h;
    uint32_t n_kv_heads; /**< of this rank */
    uint32_t head_dim;
    uint32_t block_tokens;
    uint32_t dtype; /**< of the stored elements */
    uint32_t layer;
    uint32_t n_blocks;
    uint64_t block_bytes; /**< distance between pages */
    void *base;           /**< device address of page 0 */
    /** Of a cache of 8 bits: device addresses of n_kv_heads floats each, by which what is stored is
     *  multiplied (kv_append in ops.h). NULL with other dtypes. */
    const float *k_scale, *v_scale;
    /** Device address of [n_kv_heads, head_dim] floats that kv_append subtracts from keys before it divides them; NULL:
     *  nothing. Attention needs not know: a constant added to all scores of a query does not change their softmax. */
    const float *k_center;
    /** Of a cache of float8_e4m3: [n_kv_heads, head_dim, head_dim] floats that tell kv_append how rounding one element of a
     *  key (or value) may be made good by others. NULL: every element is rounded to the nearest by itself, which a kernel may do
     *  in any case. Both are there, or none; the keys' at a multiple of 16 bytes, the values' behind them. For devices that compute
     *  in host memory; others have the next two in their place. */
    const float *k_feedback, *v_feedback;
    /** For devices that do not: for each kv head a table as kv_feedback.h tells, TN_KV_FEEDBACK_BYTES(head_dim) bytes. Both or
     *  none; the keys' at a multiple of 128 bytes, the values' behind them. */
    const uint16_t *k_feedback_f16, *v_feedback_f16;
} tn_kv_layer;

/** How keys and values of one layer lie inside a page. */
typedef struct tn_kv_layout {
    tn_hdr h;
    const char *name; /**< "hnd": K[kv_head][token][d], then V likewise; or a vendor's own */
    /** Bytes of a page of the layer (base and n_blocks unset); 0 if this layout cannot hold it. */
    uint64_t (*block_bytes)(const tn_kv_layer *layer);
} tn_kv_layout;

/** The layout that Tenon's own kernel sets use: in each page, first all keys as [kv_head][token][head_dim],
 *  then all values likewise. */
#define TN_KV_LAYOUT_HND "hnd"

/* -- Launch ------------------------------------------------------------------------------------- */

/** One execution of a variant within a step. Pointers are device addresses unless said. */
typedef struct tn_launch {
    tn_hdr h;
    const tn_op *op;            /**< host */
    const tn_batch *batch;      /**< host struct; see there for the arrays */
    const void *const *in;      /**< host array of op->n_in pointers; NULL entries for KV */
    void *const *out;           /**< host array of op->n_out pointers */
    const void *const *weights; /**< host array, canonical weights; NULL if the variant packs */
    const void *packed;         /**< what `pack` made, or NULL */
    const tn_kv_layer *kv;      /**< host; the layer's cache if the op touches it, else NULL */
    void *workspace;            /**< at least what `workspace` asked for; contents undefined */
    tn_stream *stream;
    tn_device *device; /**< the attached device that runs this */
    uint32_t tp_rank, tp_size;
    const tn_comm_parts *parts; /**< host; of TN_VARIANT_PARTS, during the call; else NULL */
    void *state;                /**< tn_variant::state_bytes bytes; NULL if the variant has none */
    uint32_t
        feed; /**< of TN_VARIANT_FEEDS: 1 if this is the first kernel of a step and must do what `feed` does, else 0 */
    uint32_t reserved0;
} tn_launch;

/** A condition on a dimension of an op: min <= value <= max and value % multiple == 0. */
typedef struct tn_range {
    const char *
        dim; /**< "rows", or an attribute's name, or "in0.width", "out0.width", "w0.dim0", "w0.dim1" */
    int64_t min, max;
    int64_t multiple; /**< 1: any */
} tn_range;

/** One implementation of one op. */
typedef struct tn_variant {
    tn_hdr h;
    const char *name;    /**< unique in its set: "linear.f32.avx512" */
    const char *op;      /**< the op it implements; of a fused variant, the name of the fused op */
    const char *equals;  /**< NULL, or the composition that a fused variant replaces */
    uint32_t flags;      /**< ::tn_variant_flag */
    uint32_t act_dtypes; /**< mask of TN_DT_BIT: what ::TN_DT_ACT may be */
    uint32_t weight_dtypes; /**< mask: dtypes of MATRIX, EMBEDDING and HEAD weights; 0: has none */
    uint32_t kv_dtypes;     /**< mask; 0: does not touch the cache */
    const char *kv_layout;  /**< layout it reads or writes; NULL: does not touch the cache */
    uint64_t cpu[2];        /**< CPU features it needs */
    const tn_gpu_target *gpus; /**< ends with vendor 0; NULL: not a GPU variant */
    const tn_range *ranges;    /**< shapes it is limited to */
    uint32_t n_ranges;
    uint32_t reserved0;
    const char *pack_layout; /**< NULL: reads canonical weights */

    /** TN_OK if it can run `op`, else TN_E_UNSUPPORTED with the reason in `err`. Optional. */
    int32_t (*can_run)(void *instance, const tn_op *op, tn_err *err);
    /** Prior estimate of the time for `rows` rows, in nanoseconds; negative: only if pinned. */
    double (*cost_ns)(void *instance, const tn_op *op, uint32_t rows);
    /** Bytes of the packed weights. Required with pack_layout. */
    int32_t (*pack_size)(void *instance, const tn_op *op, uint64_t *bytes, tn_err *err);
    /** Fills `packed` (64-byte aligned, pack_size bytes) from op->weights[i]->data. Host memory, unless
     *  TN_VARIANT_PACK_ON_DEVICE: then device memory, in order on `stream`. Called at load. */
    int32_t (*pack)(void *instance, const tn_op *op, void *packed, tn_stream *stream, tn_err *err);
    /** Bytes of workspace for up to `max_rows` rows, `max_seqs` sequences. Optional: none needed. */
    int32_t (*workspace)(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                         uint32_t max_context, uint64_t *bytes, tn_err *err);
    /** Enqueues the work on l->stream (or does it at once on a device without streams). Allocates
     *  nothing, waits for nothing. Called from the thread that runs the step. */
    int32_t (*launch)(void *instance, const tn_launch *l, tn_err *err);
    /** Bytes of device memory that launches of this variant hand to each other in tn_launch::state, aligned as `mem_alloc`
     *  aligns: counters of a kernel whose blocks meet, say. One piece per rank serves all ops that the variant does there; it
     *  is zero before the first launch, and nobody else writes it. Launches that share it follow each other in stream order,
     *  those of a captured step whenever it is replayed. A launch that failed on the device leaves it undefined, and no other
     *  follows. Several openings of an engine, and measuring, have pieces of their own. At most 16 MiB; 0: none. `feed` and
     *  other ops that stand in no plan get none. */
    uint64_t state_bytes;
} tn_variant;

/** Interface "kernel.set". */
typedef struct tn_kernel_set {
    tn_hdr h;
    const char *device; /**< kind of device it runs on: "cpu", "cuda", ... (tn_device_api::kind) */
    uint32_t n_variants, n_kv_layouts;
    const tn_variant *const *variants;
    const tn_kv_layout *const *kv_layouts;
    /** Called once per device that the set will run on, before any other function that takes an
     *  instance; may be NULL. `device` stays valid until `detach`. */
    int32_t (*attach)(void *instance, const tn_device_api *api, tn_device *device, tn_err *err);
    void (*detach)(void *instance, tn_device *device);
    /** What the times of its variants on an attached device depend on beside the device, its driver and this plugin: libraries
     *  that were found at run time, with their versions ("cuBLASLt 130002"). Measured times are used only while this stays the
     *  same. Owned by the set, constant until `detach`. NULL: nothing; optional. */
    const char *(*depends_on)(void *instance, tn_device *device);
} tn_kernel_set;

#ifdef __cplusplus
}
#endif
#endif
