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

// Stores outputs n .. n + 3 of a token that was divided by `step`, whose sums are v, and u of the second matrix if it is gated.
template <typename T>
__device__ __forceinline__ void eight_finish(const eight_params &q, uint32_t part, uint32_t token,
                                             uint32_t n, float step, float4 v, float4 u)
{
    const product_params &p = q.p;
    float4 r = v;

    if (p.finish == PRODUCT_ADD)
        r = load4<T>(p.residual, static_cast<uint64_t>(token) * p.parts[part].n + n);
    v = eight_scaled(q, part, n, step, eight_scale(q, part, n), v);
    if (is_gated(p))
        u = eight_scaled(q, 1, n, step, eight_scale(q, 1, n), u);
    product_finish<T>(p, p.parts[part], token, n, v, u, r);
}

#endif
