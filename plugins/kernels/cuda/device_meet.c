/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and gathers whose kernels wait for those of other devices (meet.cu). The kernels are loaded by device_meet_bytes, which is
 * called before steps begin. Threads: the one whose streams it is. */
#include <string.h>

#include "args.h"
#include "device.h"

#include "../common/cuda_host.h"

extern const unsigned char tenon_image_cuda_meet[];
extern const uint64_t tenon_image_cuda_meet_bytes;

#define MEET_GATHER 8 /* in the order of entries */

static uint32_t dtype_index(uint32_t dtype)
{
    uint32_t i = cuda_float_index(dtype);

    return i < 3 ? i : dtype == TN_DT_I32 ? 3 : 4;
}

static int32_t load(tn_device *d, tn_err *err)
{
    static const char *const names[DEVICE_MEET_ENTRIES] = {
        "meet_small_f32", "meet_small_f16",  "meet_small_bf16", "meet_small_i32", "meet_large_f32",
        "meet_large_f16", "meet_large_bf16", "meet_large_i32",  "meet_gather"};
    int32_t rc;

    if (d->meet_image)
        return TN_OK;
    rc = device_image_load(d, tenon_image_cuda_meet, tenon_image_cuda_meet_bytes, &d->meet_image,
                           err);
    for (uint32_t i = 0; i < DEVICE_MEET_ENTRIES && rc == TN_OK; i++)
        rc = device_image_entry(d, d->meet_image, names[i], &d->meet_entries[i], err);
    if (rc != TN_OK) {
        device_image_unload(d, d->meet_image);
        d->meet_image = NULL;
    }
    return rc;
}

/* Flags are released and acquired as chips from 7.0 on can. */
int32_t device_meet_bytes(tn_device *d, uint32_t n, uint64_t *bytes, tn_err *err)
{
    if (n < 2 || n > TN_MEET_MAX)
        return tn_err_set(err, TN_E_UNSUPPORTED, "cuda: %u devices cannot meet", (unsigned)n);
    if (d->major < 7)
        return tn_err_set(err, TN_E_UNSUPPORTED, "cuda: compute capability %d.%d cannot meet",
                          d->major, d->minor);
    *bytes = MEET_ROOM_BYTES(n);
    return load(d, err);
}

static int32_t launch(tn_device *d, tn_stream *s, const tn_device_meet *m, struct meet_args *args,
                      uint32_t entry, uint64_t blocks, uint32_t threads, tn_err *err)
{
    void *params[] = {args};

    if (!d->meet_image)
        return tn_err_set(err, TN_E_INVALID, "cuda: nothing is ready for a meeting");
    if (m->n < 2 || m->n > TN_MEET_MAX || m->rank >= m->n)
        return tn_err_set(err, TN_E_RANGE, "cuda: rank %u of %u devices that meet",
                          (unsigned)m->rank, (unsigned)m->n);
    memcpy(args->room, m->rooms, m->n * sizeof *m->rooms);
    args->timeout_ns = m->timeout_ns;
    args->words = m->words;
    args->rank = m->rank;
    args->n = m->n;
    return device_launch(d, s,
                         &(tn_kernel_launch){.h = TN_HDR(tn_kernel_launch),
                                             .entry = d->meet_entries[entry],
                                             .grid = {(uint32_t)blocks, 1, 1},
                                             .block = {threads, 1, 1},
                                             .flags = TN_LAUNCH_OVERLAP,
                                             .params = params},
                         err);
}

static uint32_t is_aligned(const struct meet_args *args, uint64_t more)
{
    return ((uintptr_t)args->src | (uintptr_t)args->dst | more) % 16 == 0;
}

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

static uint64_t large_blocks(uint64_t bytes)
{
    uint64_t blocks = ceil_div(ceil_div(bytes, 16), MEET_THREADS);

    return blocks < MEET_BLOCKS ? blocks : MEET_BLOCKS;
}

int32_t device_meet_sum(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                        const void *src, uint64_t count, uint32_t dtype, tn_err *err)
{
    uint32_t kind = dtype_index(dtype);
    struct meet_args args = {.src = src, .dst = dst, .bytes = count * tn_dtype_bits(dtype) / 8};

    if (kind > 3)
        return tn_err_set(err, TN_E_UNSUPPORTED, "cuda: cannot sum %s", tn_dtype_name(dtype));
    if (count == 0)
        return TN_OK;
    args.aligned = is_aligned(&args, 0);
    if (args.bytes <= MEET_SMALL_BYTES)
        return launch(d, s, m, &args, kind, ceil_div(args.bytes, 8 * MEET_SMALL_THREADS),
                      MEET_SMALL_THREADS, err);
    return launch(d, s, m, &args, 4 + kind, large_blocks(ceil_div(args.bytes, m->n)), MEET_THREADS,
                  err);
}

int32_t device_meet_gather(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                           const void *src, uint64_t bytes, tn_err *err)
{
    struct meet_args args = {.src = src, .dst = dst, .bytes = bytes};

    args.aligned = is_aligned(&args, bytes); /* each rank's part begins behind the one before */
    return bytes == 0 ? TN_OK
                      : launch(d, s, m, &args, MEET_GATHER, large_blocks(bytes), MEET_THREADS, err);
}
