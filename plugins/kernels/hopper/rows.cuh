// SPDX-License-Identifier: Apache-2.0
// What kernels that go row by row share: runs of eight elements, and reductions over a block.
#ifndef HOPPER_ROWS_CUH
#define HOPPER_ROWS_CUH

#include "params.h"
#include "ptx.cuh"
#include "tenon/dtype.h"

template <typename T>
__device__ __forceinline__ void load8(const void *p, uint64_t i, float (&x)[8])
{
    const uint4 v = *reinterpret_cast<const uint4 *>(static_cast<const T *>(p) + i);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};

#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float2 f = element<T>::unpack(words[j]);
        x[2 * j] = f.x;
        x[2 * j + 1] = f.y;
    }
}

template <typename T>
__device__ __forceinline__ void store8(void *p, uint64_t i, const float (&x)[8])
{
    const uint4 v = {element<T>::pack(x[0], x[1]), element<T>::pack(x[2], x[3]),
                     element<T>::pack(x[4], x[5]), element<T>::pack(x[6], x[7])};
    *reinterpret_cast<uint4 *>(static_cast<T *>(p) + i) = v;
}

// Weights of norms may be of another float dtype than the rows.
__device__ __forceinline__ void load_weight8(const void *weight, uint32_t dtype, uint64_t i,
                                             float (&w)[8])
{
    if (dtype == TN_DT_BF16) {
        load8<__nv_bfloat16>(weight, i, w);
    } else if (dtype == TN_DT_F16) {
        load8<__half>(weight, i, w);
    } else {
        const float4 *from =
            reinterpret_cast<const float4 *>(static_cast<const float *>(weight) + i);
        const float4 a = from[0], b = from[1];
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
    }
}

// The sum of `x` over a block of THREADS.
template <int THREADS> __device__ __forceinline__ float block_sum(float x)
{
    __shared__ float sums[THREADS / 32];

    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = sums[threadIdx.x % (THREADS / 32)];
    for (int step = THREADS / 64; step > 0; step /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}

// The largest `x` of a block of THREADS; none is NaN.
template <int THREADS> __device__ __forceinline__ float block_max(float x)
{
    __shared__ float most[THREADS / 32];

    for (int step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    if (threadIdx.x % 32 == 0)
        most[threadIdx.x / 32] = x;
    __syncthreads();
    x = most[threadIdx.x % (THREADS / 32)];
    for (int step = THREADS / 64; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    return x;
}

#endif
