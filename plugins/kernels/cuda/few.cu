// SPDX-License-Identifier: Apache-2.0
// Copies of a few bytes between the device and page-locked memory of the host: what tn_device_api::copy_few launches. The host's
// side is read past all caches: it has changed since the last launch.
#include "../common/cuda_reduce.cuh"
#include "args.h"

extern "C" __global__ void __launch_bounds__(FEW_THREADS) copy_few(few_args args)
{
    const few_piece p = args.piece[blockIdx.y];
    const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
    const uint32_t vectors = p.aligned ? p.bytes / 16 : 0;

    wait_for_previous();
    for (uint32_t i = at; i < vectors; i += step)
        ((uint4 *)p.dst)[i] = __ldcv((const uint4 *)p.src + i);
    for (uint32_t i = vectors * 16 + at; i < p.bytes; i += step)
        ((char *)p.dst)[i] = __ldcv((const char *)p.src + i);
}
