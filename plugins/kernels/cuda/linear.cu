/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Portable matrix products y = x * W^T for any pair of float dtypes, in true float32: tiles of 64 by 64 in shared memory,
 * 4 by 4 sums per thread, and each sum in ascending order of k whatever else is in the step.
 */
#include "../common/cuda_dtype.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"

#define TILE 64
#define DEPTH 16

/* Element (r, c) of a matrix whose rows lie `stride` bytes apart; 0 outside. */
template <typename T>
__device__ __forceinline__ float at(const void *base, uint64_t stride, uint64_t r, uint64_t rows,
                                    uint64_t c, uint64_t cols)
{
    return r < rows && c < cols ? widen(((const T *)((const char *)base + r * stride))[c]) : 0.0f;
}

__device__ __forceinline__ float finished(float sum, const void *bias, uint32_t dtype, uint64_t n,
                                          float scale, float softcap)
{
    if (bias)
        sum += load_any(bias, dtype, n);
    sum *= scale;
    return softcap > 0.0f ? softcap * tanhf(sum / softcap) : sum;
}

/* Block (x, y): columns from 64 x on, rows from 64 y on. 256 threads. Y: dtype of the result. */
template <typename T, typename W, typename Y> __device__ __forceinline__ void product(linear_args p)
{
    __shared__ float xs[DEPTH][TILE + 4], ws[DEPTH][TILE + 4];
    uint64_t n0 = (uint64_t)blockIdx.x * TILE, m0 = (uint64_t)blockIdx.y * TILE;
    uint32_t tid = threadIdx.x, tm = tid / 16 * 4, tn = tid % 16 * 4;
    float sum[4][4] = {};

    for (uint64_t k0 = 0; k0 < p.k; k0 += DEPTH) {
        for (uint32_t i = tid; i < TILE * DEPTH; i += 256) {
            uint32_t r = i / DEPTH, c = i % DEPTH;
            uint64_t row = m0 + r;
            if (p.row_index && row < p.rows)
                row = (uint64_t)p.row_index[row];
            xs[c][r] =
                m0 + r < p.rows ? at<T>(p.x, p.k * sizeof(T), row, UINT64_MAX, k0 + c, p.k) : 0.0f;
            ws[c][r] = at<W>(p.w, p.stride, n0 + r, p.n, k0 + c, p.k);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float4 a = *(float4 *)&xs[k][tm], b = *(float4 *)&ws[k][tn];
            float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += av[i] * bv[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (m0 + tm + i < p.rows && n0 + tn + j < p.n)
                ((Y *)p.y)[(m0 + tm + i) * p.n + n0 + tn + j] = narrow<Y>(
                    finished(sum[i][j], p.bias, p.bias_dtype, n0 + tn + j, p.scale, p.softcap));
}

#define STAMP2(x, T, w, W)                                                                         \
    extern "C" __global__ void __launch_bounds__(256) linear_##x##_##w(linear_args p)              \
    {                                                                                              \
        product<T, W, T>(p);                                                                       \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) logits_##x##_##w(linear_args p)              \
    {                                                                                              \
        product<T, W, float>(p);                                                                   \
    }
#define STAMP(x, T)                                                                                \
    STAMP2(x, T, f32, float)                                                                       \
    STAMP2(x, T, f16, f16)                                                                         \
    STAMP2(x, T, bf16, bf16)

STAMP(f32, float)
STAMP(f16, f16)
STAMP(bf16, bf16)

/* y[rows, n] in place; one block per row. */
extern "C" __global__ void __launch_bounds__(256) finish(finish_args p)
{
    float *y = p.y + blockIdx.x * p.n;

    for (uint64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        y[i] = finished(y[i], p.bias, p.bias_dtype, i, p.scale, p.softcap);
}
