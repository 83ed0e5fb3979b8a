/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elements of a cache of 8 bits (kv_append in tenon/ops.h) in device code: what is stored, without the scale that belongs
 * to it. Every value of either dtype is a float16, so that is what kernels multiply; scales are left to the scores and to
 * the outputs. How the bytes are made and read is known here only.
 */
#ifndef COMMON_CUDA_KV8_CUH
#define COMMON_CUDA_KV8_CUH

#include <cuda_fp8.h>

#include "cuda_dtype.cuh"

struct e4m3 {
    uint8_t bits;
};

/* Bytes of an element of a cache. */
__device__ __forceinline__ uint32_t kv_element_bytes(uint32_t dtype)
{
    return dtype == TN_DT_F32 ? 4 : dtype == TN_DT_I8 || dtype == TN_DT_F8E4M3 ? 1 : 2;
}

/* -- Reading ------------------------------------------------------------------------------------------- */

/* Two bytes of e4m3, in the halves of `raw` that `high` names, as f16x2. */
__device__ __forceinline__ uint32_t e4m3_pair(uint32_t raw, bool high)
{
    uint32_t pair;

#if __CUDA_ARCH__ >= 890
    const uint16_t two = (uint16_t)(high ? raw >> 16 : raw);
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(two));
#else
    /* Sign to the top, the rest seven bits up: a float16 that is 2^-8 of it. The one NaN carries into the sign's place. */
    const uint32_t spread = __byte_perm(raw, 0, high ? 0x3424 : 0x1404);
    const uint32_t rest = spread & 0x7f007f00u, nan = (rest + 0x01000100u) & 0x80008000u;
    const uint32_t bits = (spread & 0x80008000u) | (rest >> 1);
    const __half2 x = __hmul2(*(const __half2 *)&bits, __float2half2_rn(256.0f));
    pair = *(const uint32_t *)&x | (nan - (nan >> 6));
#endif
    return pair;
}

/* int8: with its sign turned a byte is x + 128, and below the exponent of 1024 a float16 of 1152 + x. */
__device__ __forceinline__ uint32_t int8_pair(uint32_t raw, uint32_t selector)
{
    const uint32_t bits = __byte_perm(raw ^ 0x80808080u, 0x64646464u, selector);
    const __half2 x = __hsub2(*(const __half2 *)&bits, __float2half2_rn(1152.0f));

    return *(const uint32_t *)&x;
}

/* Bytes 0 and 1 of `raw`, then 2 and 3, as f16x2. */
template <typename E>
__device__ __forceinline__ void kv8_widen(uint32_t raw, uint32_t &low, uint32_t &high);

template <>
__device__ __forceinline__ void kv8_widen<e4m3>(uint32_t raw, uint32_t &low, uint32_t &high)
{
    low = e4m3_pair(raw, false);
    high = e4m3_pair(raw, true);
}

template <>
__device__ __forceinline__ void kv8_widen<int8_t>(uint32_t raw, uint32_t &low, uint32_t &high)
{
    low = int8_pair(raw, 0x4140);
    high = int8_pair(raw, 0x4342);
}

/* Bytes 0 and 2 of `raw`, then 1 and 3. */
template <typename E>
__device__ __forceinline__ void kv8_widen_columns(uint32_t raw, uint32_t &even, uint32_t &odd);

template <>
__device__ __forceinline__ void kv8_widen_columns<e4m3>(uint32_t raw, uint32_t &even, uint32_t &odd)
{
    kv8_widen<e4m3>(__byte_perm(raw, 0, 0x3120), even, odd);
}

template <>
__device__ __forceinline__ void kv8_widen_columns<int8_t>(uint32_t raw, uint32_t &even,
                                                          uint32_t &odd)
{
    even = int8_pair(raw, 0x4240);
    odd = int8_pair(raw, 0x4341);
}

template <typename E> __device__ __forceinline__ void kv8_widen16(uint4 raw, float *out)
{
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t pair[2];
        kv8_widen<E>(words[i], pair[0], pair[1]);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float2 f = __half22float2(*(const __half2 *)&pair[j]);
            out[4 * i + 2 * j] = f.x;
            out[4 * i + 2 * j + 1] = f.y;
        }
    }
}

template <> __device__ __forceinline__ void widen16<e4m3>(uint4 raw, float *out)
{
    kv8_widen16<e4m3>(raw, out);
}

template <> __device__ __forceinline__ void widen16<int8_t>(uint4 raw, float *out)
{
    kv8_widen16<int8_t>(raw, out);
}

__device__ __forceinline__ float widen(int8_t x)
{
    return (float)x;
}

__device__ __forceinline__ float widen(e4m3 x)
{
    uint32_t low, high;

    kv8_widen<e4m3>(x.bits, low, high);
    return __low2float(*(const __half2 *)&low);
}

/* -- Writing ------------------------------------------------------------------------------------------- */

/* x / c to nearest even, without the call that a division would be: r = 1 / c rounded, one step of correction (Markstein
 * 1990). What overflows is left as it is. */
__device__ __forceinline__ float kv8_divide(float x, float c, float r)
{
    const float q = x * r, rest = fmaf(-q, c, x);

    return fabsf(q) < 1e30f ? fmaf(rest, r, q) : q;
}

/* Nearest even, saturating. NaN stays NaN, and becomes 0 among integers. */
template <typename E> __device__ __forceinline__ uint8_t kv8_narrow(float x);

template <> __device__ __forceinline__ uint8_t kv8_narrow<e4m3>(float x)
{
    return (uint8_t)__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

template <> __device__ __forceinline__ uint8_t kv8_narrow<int8_t>(float x)
{
    return x == x ? (uint8_t)(int8_t)__float2int_rn(fminf(fmaxf(x, -127.0f), 127.0f)) : 0;
}

/* What the cache has for `x` (keys: less their center), a multiple of `unit`. */
template <typename E> __device__ __forceinline__ uint8_t kv8_store(float x, float unit)
{
    return kv8_narrow<E>(kv8_divide(x, unit, __frcp_rn(unit)));
}

/* A query that meets stored keys, scales included: float16, saturating, so that nothing meets zero as infinity. */
__device__ __forceinline__ __half kv8_query(float x)
{
    return __float2half_rn(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

#endif
