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

// What finishing four neighbouring outputs wants from memory: of their rows of the matrix, and of their token.
struct eight_column {
    float4 scale, bias, up_scale, up_bias;
};

struct eight_row {
    float step;
    uint2 residual;
};

__device__ __forceinline__ eight_column eight_load_column(const eight_params &q, uint32_t part,
                                                          uint32_t n)
{
    const bool gated = is_gated(q.p);
    const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float *bias = q.bias[part], *up_bias = gated ? q.bias[1] : nullptr;

    return {eight_scale(q, part, n), bias ? *reinterpret_cast<const float4 *>(bias + n) : none,
            gated ? eight_scale(q, 1, n) : none,
            up_bias ? *reinterpret_cast<const float4 *>(up_bias + n) : none};
}

// Without steps, tokens were divided by 1.
template <typename T>
__device__ __forceinline__ eight_row eight_load_row(const eight_params &q, uint32_t part,
                                                    uint32_t token, uint32_t n)
{
    const uint64_t at = static_cast<uint64_t>(token) * q.p.parts[part].n + n;

    return {q.step ? q.step[token] : 1.0f,
            q.p.residual ? load4_raw<T>(q.p.residual, at) : make_uint2(0, 0)};
}

__device__ __forceinline__ float4 eight_apply(float step, float4 scale, float4 bias, float4 v)
{
    return make_float4(step * scale.x * v.x, step * scale.y * v.y, step * scale.z * v.z,
                       step * scale.w * v.w) +
           bias;
}

// The same, rounded after each step: logits have the bits of tenon/ops.h, whichever kernel makes them.
__device__ __forceinline__ float eight_exact(float step, float scale, float bias, float v)
{
    return __fadd_rn(__fmul_rn(__fmul_rn(step, scale), v), bias);
}

__device__ __forceinline__ float4 eight_exact(float step, float4 scale, float4 bias, float4 v)
{
    return make_float4(
        eight_exact(step, scale.x, bias.x, v.x), eight_exact(step, scale.y, bias.y, v.y),
        eight_exact(step, scale.z, bias.z, v.z), eight_exact(step, scale.w, bias.w, v.w));
}

// Stores outputs n .. n + 3 of a token, whose sums are v, and u of the second matrix if it is gated.
template <typename T, int FINISH>
__device__ __forceinline__ float4 eight_finish(const eight_params &q, uint32_t part, uint32_t token,
                                               uint32_t n, float4 v, float4 u,
                                               const eight_column &c, const eight_row &r)
{
    if constexpr (FINISH == PRODUCT_LOGITS)
        v = eight_exact(r.step, c.scale, c.bias, v);
    else
        v = eight_apply(r.step, c.scale, c.bias, v);
    if constexpr (FINISH != PRODUCT_ADD && FINISH != PRODUCT_ADD_NORM)
        u = eight_apply(r.step, c.up_scale, c.up_bias, u);
    return product_output<T, FINISH>(q.p, q.p.parts[part], token, n, v, u, unpack4<T>(r.residual));
}

// What kernels of these products have in common; T: of the outputs.
template <typename T> struct eight_outputs {
    using params = eight_params;
    using column = eight_column;
    using row = eight_row;

    static __device__ __forceinline__ const product_params &product(const params &q)
    {
        return q.p;
    }

    static __device__ __forceinline__ column load_column(const params &q, uint32_t part, uint32_t n)
    {
        return eight_load_column(q, part, n);
    }

    static __device__ __forceinline__ row load_row(const params &q, uint32_t part, uint32_t token,
                                                   uint32_t n)
    {
        return eight_load_row<T>(q, part, token, n);
    }

    template <int FINISH>
    static __device__ __forceinline__ float4 finish(const params &q, uint32_t part, uint32_t token,
                                                    uint32_t n, float4 v, float4 u, const column &c,
                                                    const row &r)
    {
        return eight_finish<T, FINISH>(q, part, token, n, v, u, c, r);
    }
};

#endif
