/* SPDX-License-Identifier: Apache-2.0 */
/* Reading what peers have written, past the first-level cache: it may have changed since the last launch. Sums are added in
 * float32 in the order in which sources are named. */
#ifndef CUDA_PEERS_CUH
#define CUDA_PEERS_CUH

#include "../common/cuda_dtype.cuh"

__device__ __forceinline__ uint4 load_peer(const void *p)
{
    uint4 v;

    asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

template <typename T> __device__ __forceinline__ void add16(uint4 raw, float *acc)
{
    float x[per16<T>];

    widen16<T>(raw, x);
#pragma unroll
    for (int e = 0; e < per16<T>; e++)
        acc[e] += x[e];
}

template <typename T> __device__ __forceinline__ float load_one(const void *p, uint64_t i);

template <> __device__ __forceinline__ float load_one<float>(const void *p, uint64_t i)
{
    return ((const volatile float *)p)[i];
}

template <> __device__ __forceinline__ float load_one<f16>(const void *p, uint64_t i)
{
    return __half2float(__ushort_as_half(((const volatile unsigned short *)p)[i]));
}

template <> __device__ __forceinline__ float load_one<bf16>(const void *p, uint64_t i)
{
    return __uint_as_float((uint32_t)((const volatile unsigned short *)p)[i] << 16);
}

/* acc = the sums of 16 bytes each at vector `i` of the sources. */
template <typename T>
__device__ __forceinline__ void sum16(const void *const *src, uint32_t n, uint64_t i, float *acc)
{
    widen16<T>(load_peer((const uint4 *)src[0] + i), acc);
    for (uint32_t r = 1; r < n; r++)
        add16<T>(load_peer((const uint4 *)src[r] + i), acc);
}

/* The same of one element. */
template <typename T>
__device__ __forceinline__ float sum_one(const void *const *src, uint32_t n, uint64_t i)
{
    float acc = load_one<T>(src[0], i);

    for (uint32_t r = 1; r < n; r++)
        acc += load_one<T>(src[r], i);
    return acc;
}

#endif
