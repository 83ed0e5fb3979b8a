/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding rows to e4m3 in device code, as linear.fp8 of tenon/ops.h defines it. */
#ifndef COMMON_CUDA_E4M3_CUH
#define COMMON_CUDA_E4M3_CUH

#include <stdint.h>

/* tn_f8e4m3_step of tenon/float.h, which is not for device code. */
__device__ __forceinline__ float e4m3_step(float largest)
{
    const uint32_t exponent = (__float_as_uint(largest) + 0x1fffffu) >> 23;

    return largest > 0.0f ? __uint_as_float((exponent > 9 ? exponent - 8 : 1) << 23) : 0.0f;
}

#endif
