/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of a few bytes by a kernel. It is loaded by the first call, which is made before steps are captured. Threads: the one whose
 * streams it is; the first call of a device by one at a time. */
#include "args.h"
#include "device.h"

#include "../common/cuda_host.h"

extern const unsigned char tenon_image_cuda_few[];
extern const uint64_t tenon_image_cuda_few_bytes;

#define FEW_MOST_BLOCKS 16

static int32_t load(tn_device *d, tn_err *err)
{
    int32_t rc;

    if (d->few_image)
        return TN_OK;
    rc = device_image_load(d, tenon_image_cuda_few, tenon_image_cuda_few_bytes, &d->few_image, err);
    if (rc == TN_OK)
        rc = device_image_entry(d, d->few_image, "copy_few", &d->few_entry, err);
    if (rc != TN_OK) {
        device_image_unload(d, d->few_image);
        d->few_image = NULL;
    }
    return rc;
}

int32_t device_copy_few(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                        tn_err *err)
{
    struct few_args args = {.dst = dst,
                            .src = src,
                            .bytes = (uint32_t)bytes,
                            .aligned = (((uintptr_t)dst | (uintptr_t)src) & 15) == 0};
    uint64_t blocks = (bytes + 16 * FEW_THREADS - 1) / (16 * FEW_THREADS);
    void *params[] = {&args};
    int32_t rc;

    if (bytes > UINT32_MAX)
        return tn_err_set(err, TN_E_RANGE, "cuda: %llu bytes are not few",
                          (unsigned long long)bytes);
    rc = load(d, err);
    if (rc != TN_OK || bytes == 0)
        return rc;
    return device_launch(
        d, s,
        &(tn_kernel_launch){
            .h = TN_HDR(tn_kernel_launch),
            .entry = d->few_entry,
            .grid = {(uint32_t)(blocks < FEW_MOST_BLOCKS ? blocks : FEW_MOST_BLOCKS), 1, 1},
            .block = {FEW_THREADS, 1, 1},
            .params = params},
        err);
}
