// SPDX-License-Identifier: Apache-2.0
// What the products of few and of many rows do with their sums.
#ifndef HOPPER_PRODUCT_CUH
#define HOPPER_PRODUCT_CUH

#include "params.h"
#include "ptx.cuh"

__device__ __forceinline__ bool is_gated(const product_params &p)
{
    return p.finish >= PRODUCT_SILU && p.finish <= PRODUCT_GELU_TANH;
}

// Whether rows times a norm's weights, before they are divided, fit in T: float16 ends at 65504.
template <typename T> constexpr bool PRODUCT_NORMS = false;
template <> constexpr bool PRODUCT_NORMS<__nv_bfloat16> = true;

// The matrix that a tile belongs to.
__device__ __forceinline__ uint32_t product_find(const product_params &p, uint32_t tile)
{
    uint32_t part = 0;

    if (p.finish == PRODUCT_STORE)
        while (part + 1 < p.n_parts && tile >= p.parts[part + 1].first)
            part++;
    return part;
}

__device__ __forceinline__ float4 operator+(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

template <typename T> __device__ __forceinline__ float4 unpack4(uint2 v)
{
    const float2 a = element<T>::unpack(v.x), b = element<T>::unpack(v.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

template <typename T> __device__ __forceinline__ uint2 load4_raw(const void *p, uint64_t i)
{
    return *reinterpret_cast<const uint2 *>(static_cast<const T *>(p) + i);
}

template <typename T> __device__ __forceinline__ float4 load4(const void *p, uint64_t i)
{
    return unpack4<T>(load4_raw<T>(p, i));
}

template <typename T> __device__ __forceinline__ uint2 pack4(float4 v)
{
    return {element<T>::pack(v.x, v.y), element<T>::pack(v.z, v.w)};
}

template <typename T> __device__ __forceinline__ void store4(void *p, uint64_t i, float4 v)
{
    *reinterpret_cast<uint2 *>(static_cast<T *>(p) + i) = pack4<T>(v);
}

__device__ __forceinline__ float product_act(float g, uint32_t finish)
{
    if (finish == PRODUCT_SILU)
        return __fdividef(g, 1.0f + __expf(-g));
    if (finish == PRODUCT_GELU)
        return 0.5f * g * (1.0f + erff(g * 0.70710678f));
    return 0.5f * g * (1.0f + tanhf(0.79788456f * (g + 0.044715f * g * g * g)));
}

// Of outputs n .. n + 3.
template <typename T>
__device__ __forceinline__ float4 product_bias(const product_part &part, uint32_t n)
{
    if (part.bias_wide)
        return *reinterpret_cast<const float4 *>(static_cast<const float *>(part.bias) + n);
    return load4<T>(part.bias, n);
}

// Stores outputs n .. n + 3 of a token, whose sums with biases are v, and u of the second matrix if it is gated; r is the
// residual, or zero. FINISH: p.finish, known to the compiler, so that what others need is not in the way of what is run once;
// PRODUCT_ADD for PRODUCT_STORE, too. Returns them, not rounded.
template <typename T, int FINISH>
__device__ __forceinline__ float4 product_output(const product_params &p, const product_part &part,
                                                 uint64_t token, uint32_t n, float4 v, float4 u,
                                                 float4 r)
{
    const uint64_t at = token * part.n + n;

    if constexpr (FINISH == PRODUCT_LOGITS) {
        v = make_float4(v.x * p.scale, v.y * p.scale, v.z * p.scale, v.w * p.scale);
        if (p.softcap > 0.0f)
            v = make_float4(p.softcap * tanhf(v.x / p.softcap), p.softcap * tanhf(v.y / p.softcap),
                            p.softcap * tanhf(v.z / p.softcap), p.softcap * tanhf(v.w / p.softcap));
        *reinterpret_cast<float4 *>(static_cast<float *>(part.out) + at) = v;
        return v;
    } else if constexpr (FINISH == PRODUCT_ADD || FINISH == PRODUCT_ADD_NORM) {
        v = v + r;
    } else {
        v = make_float4(product_act(v.x, FINISH) * u.x, product_act(v.y, FINISH) * u.y,
                        product_act(v.z, FINISH) * u.z, product_act(v.w, FINISH) * u.w);
    }
    store4<T>(part.out, at, v);
    return v;
}

// The same of sums without biases, and of any p.finish.
template <typename T>
__device__ __forceinline__ void product_finish(const product_params &p, const product_part &part,
                                               uint64_t token, uint32_t n, float4 v, float4 u,
                                               float4 r)
{
    if (part.bias)
        v = v + product_bias<T>(part, n);
    if (is_gated(p) && p.parts[1].bias)
        u = u + product_bias<T>(p.parts[1], n);
    switch (p.finish) {
    case PRODUCT_SILU: product_output<T, PRODUCT_SILU>(p, part, token, n, v, u, r); break;
    case PRODUCT_GELU: product_output<T, PRODUCT_GELU>(p, part, token, n, v, u, r); break;
    case PRODUCT_GELU_TANH: product_output<T, PRODUCT_GELU_TANH>(p, part, token, n, v, u, r); break;
    case PRODUCT_LOGITS: product_output<T, PRODUCT_LOGITS>(p, part, token, n, v, u, r); break;
    default: product_output<T, PRODUCT_ADD>(p, part, token, n, v, u, r); break;
    }
}

#endif
