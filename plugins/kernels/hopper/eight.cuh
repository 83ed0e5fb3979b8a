// SPDX-License-Identifier: Apache-2.0
// What the products of 8 bits of few and of many rows do with their sums.
#ifndef HOPPER_EIGHT_CUH
#define HOPPER_EIGHT_CUH

#include "eight.h"
#include "product.cuh"
#include "wgmma8.cuh"

__device__ __forceinline__ float4 eight_scale(const eight_params &q, uint32_t part, uint32_t n)
{
    return *reinterpret_cast<const float4 *>(q.scale[part] + n);
}

// step * scale * sum (+ bias) of outputs n .. n + 3 of matrix `part`.
__device__ __forceinline__ float4 eight_scaled(const eight_params &q, uint32_t part, uint32_t n,
                                               float step, float4 scale, float4 v)
{
    v = make_float4(step * scale.x * v.x, step * scale.y * v.y, step * scale.z * v.z,
                    step * scale.w * v.w);
    return q.bias[part] ? v + *reinterpret_cast<const float4 *>(q.bias[part] + n) : v;
}

#endif
