/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elements of float32, float16 and bfloat16 in device code: widening exactly, rounding to nearest even, and runs of
 * 16 bytes. Numbers of dtypes are those of tenon/dtype.h.
 */
#ifndef COMMON_CUDA_DTYPE_CUH
#define COMMON_CUDA_DTYPE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "tenon/dtype.h"

typedef __half f16;
typedef __nv_bfloat16 bf16;

template <typename T> struct dtype_of;
template <> struct dtype_of<float> {
    static constexpr uint32_t value = TN_DT_F32;
};
template <> struct dtype_of<f16> {
    static constexpr uint32_t value = TN_DT_F16;
};
template <> struct dtype_of<bf16> {
    static constexpr uint32_t value = TN_DT_BF16;
};

__device__ __forceinline__ float widen(float x)
{
    return x;
}

__device__ __forceinline__ float widen(f16 x)
{
    return __half2float(x);
}

__device__ __forceinline__ float widen(bf16 x)
{
    return __bfloat162float(x);
}

template <typename T> __device__ __forceinline__ T narrow(float x);

template <> __device__ __forceinline__ float narrow<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ f16 narrow<f16>(float x)
{
    return __float2half_rn(x);
}

template <> __device__ __forceinline__ bf16 narrow<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* Element `i` at `p`, of a dtype that is known at run time only. */
__device__ __forceinline__ float load_any(const void *p, uint32_t dtype, size_t i)
{
    if (dtype == TN_DT_BF16)
        return widen(((const bf16 *)p)[i]);
    if (dtype == TN_DT_F16)
        return widen(((const f16 *)p)[i]);
    return ((const float *)p)[i];
}

__device__ __forceinline__ void store_any(void *p, uint32_t dtype, size_t i, float x)
{
    if (dtype == TN_DT_BF16)
        ((bf16 *)p)[i] = narrow<bf16>(x);
    else if (dtype == TN_DT_F16)
        ((f16 *)p)[i] = narrow<f16>(x);
    else
        ((float *)p)[i] = x;
}

/* -- Sixteen bytes at a time ------------------------------------------------------------------------- */

template <typename T> constexpr int per16 = 16 / (int)sizeof(T);

/* The elements in 16 bytes, widened. */
template <typename T> __device__ __forceinline__ void widen16(uint4 raw, float *out)
{
    const T *x = (const T *)&raw;

#pragma unroll
    for (int i = 0; i < per16<T>; i++)
        out[i] = widen(x[i]);
}

template <> __device__ __forceinline__ void widen16<bf16>(uint4 raw, float *out)
{
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};

#pragma unroll
    for (int i = 0; i < 4; i++) { /* bfloat16 is the upper half of float32 */
        out[2 * i] = __uint_as_float(word[i] << 16);
        out[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
}

template <typename T> __device__ __forceinline__ uint4 narrow16(const float *in)
{
    uint4 raw;
    T *x = (T *)&raw;

#pragma unroll
    for (int i = 0; i < per16<T>; i++)
        x[i] = narrow<T>(in[i]);
    return raw;
}

/* Weights are read once per step: they pass by the first-level cache. */
__device__ __forceinline__ uint4 load_once(const void *p)
{
    uint4 v;

    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ __forceinline__ bool aligned16(const void *p)
{
    return ((uintptr_t)p & 15) == 0;
}

#endif
