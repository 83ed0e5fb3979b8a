/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and strided copies in device memory: what communication backends need beside copies. The kernels are loaded by the first
 * call, which is made before steps begin. Threads: the one whose streams it is; the first sum of a device by one at a time. */
#include "args.h"
#include "device.h"

#include "../common/cuda_host.h"

extern const unsigned char tenon_image_cuda_sum[];
extern const uint64_t tenon_image_cuda_sum_bytes;

static int32_t load(tn_device *d, tn_err *err)
{
    static const char *const names[] = {"sum_f32", "sum_f16", "sum_bf16", "sum_i32"};
    int32_t rc;

    if (d->sum_image)
        return TN_OK;
    rc = device_image_load(d, tenon_image_cuda_sum, tenon_image_cuda_sum_bytes, &d->sum_image, err);
    for (uint32_t i = 0; i < 4 && rc == TN_OK; i++)
        rc = device_image_entry(d, d->sum_image, names[i], &d->sum_entries[i], err);
    if (rc != TN_OK) {
        device_image_unload(d, d->sum_image);
        d->sum_image = NULL;
    }
    return rc;
}

int32_t device_sum(tn_device *d, tn_stream *s, void *dst, const void *const *src, uint32_t n_src,
                   uint64_t count, uint32_t dtype, tn_err *err)
{
    uint32_t kind = dtype == TN_DT_I32 ? 3 : cuda_float_index(dtype);
    uint64_t blocks = (count + 2047) / 2048;
    struct sum_args args = {.dst = dst, .n = count, .n_src = n_src};
    void *params[] = {&args};
    uintptr_t bits = (uintptr_t)dst;
    int32_t rc;

    if (dtype != TN_DT_I32 && kind == 3)
        return tn_err_set(err, TN_E_UNSUPPORTED, "cuda: cannot sum %s", tn_dtype_name(dtype));
    if (n_src < 1 || n_src > TN_SUM_MAX)
        return tn_err_set(err, TN_E_RANGE, "cuda: a sum of %u arrays", (unsigned)n_src);
    rc = load(d, err);
    if (rc != TN_OK || count == 0)
        return rc;
    for (uint32_t i = 0; i < n_src; i++) {
        args.src[i] = src[i];
        bits |= (uintptr_t)src[i];
    }
    args.aligned = bits % 16 == 0;
    return device_launch(
        d, s,
        &(tn_kernel_launch){.h = TN_HDR(tn_kernel_launch),
                            .entry = d->sum_entries[kind],
                            .grid = {(uint32_t)(blocks < 1024 ? blocks : 1024), 1, 1},
                            .block = {256, 1, 1},
                            .params = params},
        err);
}

int32_t device_copy_rows(tn_device *d, tn_stream *s, void *dst, uint64_t dst_stride,
                         const void *src, uint64_t src_stride, uint64_t width, uint64_t rows,
                         tn_err *err)
{
    CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = (CUdeviceptr)(uintptr_t)src,
                          .srcPitch = src_stride,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                          .dstDevice = (CUdeviceptr)(uintptr_t)dst,
                          .dstPitch = dst_stride,
                          .WidthInBytes = width,
                          .Height = rows};
    int32_t rc = device_enter(d, err);

    if (rc != TN_OK || width == 0 || rows == 0)
        return rc;
    return driver_status(d->driver, d->driver->copy_rows(&copy, (CUstream)(void *)s), err,
                         "copying %llu rows of %llu bytes", (unsigned long long)rows,
                         (unsigned long long)width);
}
