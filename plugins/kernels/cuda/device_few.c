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

static int32_t check(const tn_copy_piece *pieces, uint32_t n, tn_err *err)
{
    if (n > TN_COPY_PIECES)
        return tn_err_set(err, TN_E_RANGE, "cuda: %u pieces are more than a copy of few bytes has",
                          (unsigned)n);
    for (uint32_t i = 0; i < n; i++)
        if (pieces[i].bytes > UINT32_MAX)
            return tn_err_set(err, TN_E_RANGE, "cuda: %llu bytes are not few",
                              (unsigned long long)pieces[i].bytes);
    return TN_OK;
}

/* The pieces that there is something to copy of; how many, and the bytes of the longest. */
static uint32_t gather(const tn_copy_piece *pieces, uint32_t n, struct few_args *args,
                       uint64_t *longest)
{
    uint32_t used = 0;

    *longest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const tn_copy_piece *p = &pieces[i];
        if (p->bytes == 0)
            continue;
        args->piece[used++] =
            (struct few_piece){.dst = p->dst,
                               .src = p->src,
                               .bytes = (uint32_t)p->bytes,
                               .aligned = (((uintptr_t)p->dst | (uintptr_t)p->src) & 15) == 0};
        *longest = p->bytes > *longest ? p->bytes : *longest;
    }
    return used;
}

int32_t device_copy_few(tn_device *d, tn_stream *s, const tn_copy_piece *pieces, uint32_t n,
                        tn_err *err)
{
    struct few_args args = {{{0}}};
    void *params[] = {&args};
    uint64_t longest, blocks;
    uint32_t used;
    int32_t rc = check(pieces, n, err);

    if (rc == TN_OK)
        rc = load(d, err);
    if (rc != TN_OK || (used = gather(pieces, n, &args, &longest)) == 0)
        return rc;
    blocks = (longest + 16 * FEW_THREADS - 1) / (16 * FEW_THREADS);
    blocks = blocks < FEW_MOST_BLOCKS ? blocks : FEW_MOST_BLOCKS;
    return device_launch(d, s,
                         &(tn_kernel_launch){.h = TN_HDR(tn_kernel_launch),
                                             .entry = d->few_entry,
                                             .grid = {(uint32_t)blocks, used, 1},
                                             .block = {FEW_THREADS, 1, 1},
                                             .params = params},
                         err);
}
