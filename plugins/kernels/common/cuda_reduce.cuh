/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reductions over a warp and over a block, in an order that depends on the shape of the block only. Every thread gets the
 * result. Also the generator of the sampling procedure (tenon/batch.h).
 */
#ifndef COMMON_CUDA_REDUCE_CUH
#define COMMON_CUDA_REDUCE_CUH

#include <stdint.h>

#define FULL_WARP 0xffffffffu

struct plus_op {
    template <typename T> __device__ __forceinline__ T operator()(T a, T b) const
    {
        return a + b;
    }
};

struct max_op {
    template <typename T> __device__ __forceinline__ T operator()(T a, T b) const
    {
        return a > b ? a : b;
    }
};

template <typename T, typename Op> __device__ __forceinline__ T warp_reduce(T x, Op op)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x = op(x, __shfl_xor_sync(FULL_WARP, x, step));
    return x;
}

__device__ __forceinline__ float warp_sum(float x)
{
    return warp_reduce(x, plus_op());
}

__device__ __forceinline__ float warp_max(float x)
{
    return warp_reduce(x, max_op());
}

/* `scratch` has one T per warp, at most 32, and may be used again at once. All threads of the block take part. */
template <typename T, typename Op> __device__ __forceinline__ T block_reduce(T x, Op op, T *scratch)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    T y;

    x = warp_reduce(x, op);
    if (warps == 1)
        return x;
    if (lane == 0)
        scratch[warp] = x;
    __syncthreads();
    y = scratch[0];
    for (int i = 1; i < warps; i++)
        y = op(y, scratch[i]);
    __syncthreads();
    return y;
}

/* Programmatic dependent launch: wait for what the kernel ahead wrote; allow the one behind to begin. No-ops where the
 * hardware or the launch does not overlap. */
__device__ __forceinline__ void wait_for_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" :::);
#endif
}

/* Philox4x32-10, word 0; tn_philox_word0 in device code. */
__device__ __forceinline__ uint32_t philox_word0(uint64_t key, uint64_t counter)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0;

#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

#endif
