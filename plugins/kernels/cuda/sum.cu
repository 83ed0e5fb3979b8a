/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums of several arrays, element by element, in the order in which they are named: what tn_device_api::sum launches. Sources
 * may lie in the memory of peers, which is read past the first-level cache: it may have changed since the last launch.
 */
#include "../common/cuda_dtype.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"

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

template <typename T> __device__ __forceinline__ void sum_floats(const sum_args &p)
{
    constexpr int per = per16<T>;
    uint64_t at = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x, vectors = p.aligned ? p.n / per : 0;

    wait_for_previous();
    for (uint64_t i = at; i < vectors; i += step) {
        float acc[per];
        widen16<T>(load_peer((const uint4 *)p.src[0] + i), acc);
        for (uint32_t r = 1; r < p.n_src; r++)
            add16<T>(load_peer((const uint4 *)p.src[r] + i), acc);
        ((uint4 *)p.dst)[i] = narrow16<T>(acc);
    }
    for (uint64_t i = vectors * per + at; i < p.n; i += step) {
        float acc = load_one<T>(p.src[0], i);
        for (uint32_t r = 1; r < p.n_src; r++)
            acc += load_one<T>(p.src[r], i);
        ((T *)p.dst)[i] = narrow<T>(acc);
    }
}

/* Four blocks per multiprocessor are plenty, and leave registers for the loads under way. */
#define SUM(name, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 4) name(const __grid_constant__ sum_args p)  \
    {                                                                                              \
        sum_floats<T>(p);                                                                          \
    }
SUM(sum_f32, float)
SUM(sum_f16, f16)
SUM(sum_bf16, bf16)

/* Wraps around, as unsigned numbers do. */
extern "C" __global__ void __launch_bounds__(256) sum_i32(const __grid_constant__ sum_args p)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < p.n;
         i += (uint64_t)gridDim.x * blockDim.x) {
        uint32_t acc = 0;
        for (uint32_t r = 0; r < p.n_src; r++)
            acc += ((const volatile uint32_t *)p.src[r])[i];
        ((uint32_t *)p.dst)[i] = acc;
    }
}
