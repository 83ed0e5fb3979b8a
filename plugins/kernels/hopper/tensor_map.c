/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors for the tensor copy engine, which the driver encodes. The numbers are those of cuda.h. Any thread. */
#include "hopper.h"

#define TYPE_U8 0
#define TYPE_F16 6
#define TYPE_BF16 9
#define SWIZZLE_NONE 0
#define SWIZZLE_64 2
#define SWIZZLE_128 3
#define PROMOTE_256 3

static int32_t encode(const struct hopper_device *d, uint32_t dtype, uint32_t rank,
                      const void *address, const uint64_t *dims, const uint64_t *strides,
                      const uint32_t *box, int32_t swizzle, struct tensor_map *out, tn_err *err)
{
    static const uint32_t ones[5] = {1, 1, 1, 1, 1};
    int32_t type = dtype == TN_DT_F16 ? TYPE_F16 : dtype == TN_DT_BF16 ? TYPE_BF16 : TYPE_U8;
    int32_t rc = d->encode(out->words, type, rank, (void *)(uintptr_t)address, dims, strides, box,
                           ones, 0, swizzle, PROMOTE_256, 0);

    if (rc == 0)
        return TN_OK;
    if (err)
        err->native = rc;
    return tn_err_set(err, TN_E_DEVICE,
                      "hopper: the driver refuses a tensor of %llu x %llu in boxes of %u x %u",
                      (unsigned long long)dims[1], (unsigned long long)dims[0], box[1], box[0]);
}

int32_t tensor_map_matrix(const struct hopper_device *d, uint32_t dtype, const void *address,
                          uint64_t rows, uint64_t width, uint64_t stride, uint32_t box_rows,
                          struct tensor_map *out, tn_err *err)
{
    uint64_t dims[2] = {width, rows}, strides[1] = {stride};
    uint32_t box[2] = {64, box_rows};

    return encode(d, dtype, 2, address, dims, strides, box, SWIZZLE_128, out, err);
}

int32_t tensor_map_bytes(const struct hopper_device *d, const void *address, uint64_t rows,
                         uint64_t width, uint64_t stride, uint32_t box_rows, struct tensor_map *out,
                         tn_err *err)
{
    uint64_t dims[2] = {width, rows}, strides[1] = {stride};
    uint32_t box[2] = {128, box_rows};

    return encode(d, TN_DT_U8, 2, address, dims, strides, box, SWIZZLE_128, out, err);
}

int32_t tensor_map_chunks(const struct hopper_device *d, const void *address, uint64_t rows,
                          uint64_t width, uint64_t stride, uint32_t box_rows, uint32_t chunks,
                          struct tensor_map *out, tn_err *err)
{
    uint64_t dims[3] = {128, rows, width / 128}, strides[2] = {stride, 128};
    uint32_t box[3] = {128, box_rows, chunks};

    return encode(d, TN_DT_U8, 3, address, dims, strides, box, SWIZZLE_128, out, err);
}

int32_t tensor_map_cache(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                         struct tensor_map *out, tn_err *err)
{
    uint64_t row = (uint64_t)kv->head_dim * 2, tokens = (uint64_t)kv->n_kv_heads * kv->block_tokens;
    uint64_t dims[5] = {64, tokens, kv->head_dim / 64, 2, kv->n_blocks};
    uint64_t strides[4] = {row, 128, tokens * row, kv->block_bytes};
    uint32_t box[5] = {64, box_tokens, kv->head_dim / 64, 2, 1};

    return encode(d, kv->dtype, 5, kv->base, dims, strides, box, SWIZZLE_128, out, err);
}

int32_t tensor_map_cache8(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                          struct tensor_map *out, tn_err *err)
{
    uint64_t row = kv->head_dim, tokens = (uint64_t)kv->n_kv_heads * kv->block_tokens;
    uint64_t dims[4] = {row, tokens, 2, kv->n_blocks};
    uint64_t strides[3] = {row, tokens * row, kv->block_bytes};
    uint32_t box[4] = {kv->head_dim, box_tokens, 2, 1};

    return encode(d, kv->dtype, 4, kv->base, dims, strides, box,
                  kv->head_dim == 64 ? SWIZZLE_64 : SWIZZLE_128, out, err);
}

int32_t tensor_map_pages(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                         struct tensor_map *out, tn_err *err)
{
    uint64_t tokens = (uint64_t)kv->n_kv_heads * kv->block_tokens;
    uint64_t dims[3] = {kv->head_dim, 2 * tokens, kv->n_blocks};
    uint64_t strides[2] = {(uint64_t)kv->head_dim * 2, kv->block_bytes};
    uint32_t box[3] = {64, box_tokens, 1};

    return encode(d, kv->dtype, 3, kv->base, dims, strides, box, SWIZZLE_128, out, err);
}

int32_t tensor_map_pages8(const struct hopper_device *d, const tn_kv_layer *kv, uint32_t box_tokens,
                          struct tensor_map *out, tn_err *err)
{
    uint64_t tokens = (uint64_t)kv->n_kv_heads * kv->block_tokens;
    uint64_t dims[3] = {kv->head_dim, 2 * tokens, kv->n_blocks};
    uint64_t strides[2] = {kv->head_dim, kv->block_bytes};
    uint32_t box[3] = {kv->head_dim, box_tokens, 1};

    return encode(d, kv->dtype, 3, kv->base, dims, strides, box, SWIZZLE_NONE, out, err);
}
