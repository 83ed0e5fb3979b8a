/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel sets for NVIDIA GPUs share on the host: an image with its entries, launching one of them, and
 * the questions that can_run functions ask. Any thread, but for code_load and code_unload: the one that binds.
 *
 * None of these sets packs weights of float dtypes: kernels of several matrices (query, key and value; gate and up)
 * take several pointers. So all variants of such an op, of whichever set, can share its rows among them, and weights
 * are loaded by copying.
 */
#ifndef COMMON_CUDA_HOST_H
#define COMMON_CUDA_HOST_H

#include "tenon/fusions.h"
#include "tenon/kernels.h"
#include "tenon/ops.h"

#define CUDA_FLOATS (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))
#define CUDA_KV8 (TN_DT_BIT(TN_DT_I8) | TN_DT_BIT(TN_DT_F8E4M3))
#define CUDA_CACHES (CUDA_FLOATS | CUDA_KV8)

/* Initialiser of a tn_gpu_target; CUDA_TARGETS, which the build defines, is a row of these. */
#define CUDA_TARGET(major, minor, mode) {0x10de, major, minor, mode},

/* Devices that one set can be attached to at a time. */
#define CUDA_MAX_DEVICES 16

/* -- Device code ----------------------------------------------------------------------------------- */

/* An image on one device: entries[i] is the kernel called names[i]. */
struct cuda_code {
    const tn_device_api *api;
    tn_device *device; /* NULL: not loaded */
    tn_image *image;
    tn_device_info info;
    void *entries[256];
};

static inline void code_unload(struct cuda_code *c)
{
    if (c->image)
        c->api->image_unload(c->device, c->image);
    *c = (struct cuda_code){.api = NULL};
}

/* Loads `image` and finds its `n` entries; leaves `c` unloaded on failure. */
static inline int32_t code_load(struct cuda_code *c, const tn_device_api *api, tn_device *device,
                                const void *image, uint64_t bytes, const char *const *names,
                                uint32_t n, tn_err *err)
{
    int32_t rc;

    *c = (struct cuda_code){.api = api, .device = device};
    if (n > sizeof c->entries / sizeof *c->entries)
        return tn_err_set(err, TN_E_INTERNAL, "an image with %u kernels", n);
    rc = api->image_load(device, image, bytes, &c->image, err);
    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        rc = api->image_entry(device, c->image, names[i], &c->entries[i], err);
    if (rc != TN_OK)
        code_unload(c);
    return rc;
}

/* The shape of one launch. Zero in a dimension means 1. */
struct cuda_grid {
    uint32_t x, y, z;
    uint32_t threads;
    uint32_t shared_bytes;
    uint32_t cluster; /* blocks along x */
    uint32_t flags;   /* ::tn_launch_flag */
};

/* Launches entry `entry` with one parameter, the struct at `args`. Nothing at all if the grid is empty in x. */
static inline int32_t code_launch(const struct cuda_code *c, tn_stream *stream, uint32_t entry,
                                  struct cuda_grid g, void *args, tn_err *err)
{
    void *params[] = {args};
    tn_kernel_launch k = {.h = TN_HDR(tn_kernel_launch),
                          .entry = c->entries[entry],
                          .grid = {g.x, g.y ? g.y : 1, g.z ? g.z : 1},
                          .block = {g.threads, 1, 1},
                          .cluster = {g.cluster ? g.cluster : 1, 1, 1},
                          .shared_bytes = g.shared_bytes,
                          .flags = g.flags,
                          .params = params};

    return g.x ? c->api->launch(c->device, stream, &k, err) : TN_OK;
}

/* -- Questions ------------------------------------------------------------------------------------- */

/* 0, 1, 2 for float32, float16, bfloat16: the order in which kernels are stamped out; 3: none of them. */
static inline uint32_t cuda_float_index(uint32_t dtype)
{
    return dtype == TN_DT_F32 ? 0 : dtype == TN_DT_F16 ? 1 : dtype == TN_DT_BF16 ? 2 : 3;
}

/* TN_OK if `holds`, else TN_E_UNSUPPORTED with `why`. */
static inline int32_t cuda_require(const tn_op *op, int holds, const char *why, tn_err *err)
{
    return holds ? TN_OK : tn_err_set(err, TN_E_UNSUPPORTED, "%s: %s", op->name, why);
}

static inline int cuda_is_float(uint32_t dtype)
{
    return dtype == TN_DT_ACT || cuda_float_index(dtype) < 3;
}

/* Nonzero if `op` has these numbers of inputs, outputs and weights, and all its rows are floats. */
static inline int cuda_form(const tn_op *op, uint32_t n_in, uint32_t n_out, uint32_t min_weights,
                            uint32_t max_weights)
{
    int fits = op->n_in == n_in && op->n_out == n_out && op->n_weights >= min_weights &&
               op->n_weights <= max_weights;

    for (uint32_t i = 0; fits && i < n_in; i++)
        fits = op->in[i]->kind == TN_VALUE_KV || cuda_is_float(op->in[i]->dtype);
    for (uint32_t i = 0; fits && i < n_out; i++)
        fits = op->out[i]->kind == TN_VALUE_KV || cuda_is_float(op->out[i]->dtype);
    return fits;
}

/* Nonzero if `w` is a vector of `n` floats of any width. */
static inline int cuda_vector(const tn_weight *w, uint64_t n)
{
    return w->n_dims == 1 && w->dims[0] == n && cuda_float_index(w->dtype) < 3;
}

/* Nonzero if `w` is a matrix [rows, cols] of floats. */
static inline int cuda_matrix(const tn_weight *w, uint64_t rows, uint64_t cols)
{
    return w->n_dims == 2 && w->dims[0] == rows && w->dims[1] == cols &&
           cuda_float_index(w->dtype) < 3;
}

/* Rows of output 0 in this step: the bucket's, padding included. */
static inline uint32_t cuda_rows(const tn_launch *l)
{
    return l->op->out[0]->kind == TN_VALUE_LOGITS ? l->batch->n_logits : l->batch->n_rows;
}

static inline uint32_t cuda_div_up(uint64_t a, uint64_t b)
{
    return (uint32_t)((a + b - 1) / b);
}

/* Bytes of a page in layout "hnd": all keys [kv_head][token][d], then all values likewise. */
static inline uint64_t cuda_hnd_block_bytes(const tn_kv_layer *layer)
{
    uint64_t elements = (uint64_t)layer->n_kv_heads * layer->block_tokens * layer->head_dim;

    return 2 * elements * tn_dtype_bits(layer->dtype) / 8;
}

#endif
