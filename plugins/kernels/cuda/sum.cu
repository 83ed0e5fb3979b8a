/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums of several arrays, element by element, in the order in which they are named: what tn_device_api::sum launches. Sources
 * may lie in the memory of peers, which is read past the first-level cache: it may have changed since the last launch.
 */
#include "../common/cuda_dtype.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"
#include "peers.cuh"

template <typename T> __device__ __forceinline__ void sum_floats(const sum_args &p)
{
    constexpr int per = per16<T>;
    uint64_t at = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x, vectors = p.aligned ? p.n / per : 0;

    wait_for_previous();
    for (uint64_t i = at; i < vectors; i += step) {
        float acc[per];
        sum16<T>(p.src, p.n_src, i, acc);
        ((uint4 *)p.dst)[i] = narrow16<T>(acc);
    }
    for (uint64_t i = vectors * per + at; i < p.n; i += step)
        ((T *)p.dst)[i] = narrow<T>(sum_one<T>(p.src, p.n_src, i));
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
