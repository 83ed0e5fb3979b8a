/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Portable matrix products y = x * W^T for any pair of dtypes, in true float32: tiles of 64 by 64 in shared memory, 4 by
 * 4 sums per thread, and each sum in ascending order of k whatever else is in the step. And linear.int8: rows quantized,
 * then exact products by DP4A.
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

/* -- int8 ------------------------------------------------------------------------------------------------- */

/* One block per row: step = largest |x| / 127, q = x / step to nearest even. NaN for a row that is not finite. */
template <typename T> __device__ __forceinline__ void quantize(const quantize_args &p)
{
    __shared__ float scratch[32];
    const T *x = (const T *)p.x + blockIdx.x * p.k;
    uint64_t padded = (p.k + 15) / 16 * 16;
    int8_t *q = p.q + blockIdx.x * padded;
    float largest = 0.0f;

    for (uint64_t i = threadIdx.x; i < p.k; i += blockDim.x) {
        float a = fabsf(widen(x[i]));
        largest = a <= 3.402823466e38f ? fmaxf(largest, a) : INFINITY;
        if (largest == INFINITY)
            break;
    }
    largest = block_reduce(largest, max_op(), scratch);
    float step = largest == INFINITY ? NAN : largest / 127.0f;
    for (uint64_t i = threadIdx.x; i < padded; i += blockDim.x)
        q[i] = step > 0.0f && i < p.k ? (int8_t)rintf(widen(x[i]) / step) : 0;
    if (threadIdx.x == 0)
        p.step[blockIdx.x] = step;
}

/* Four int8 of row `r`, as one word; 0 outside. Weight rows may begin anywhere. */
__device__ __forceinline__ int weights4(const int8_args &p, uint64_t r, uint64_t k)
{
    const int8_t *w = p.w + r * p.stride + k;
    uint32_t word = 0;

    if (r >= p.n)
        return 0;
    if (k + 4 <= p.k && ((uintptr_t)w & 3) == 0)
        return *(const int *)w;
    for (int i = 0; i < 4; i++)
        if (k + i < p.k)
            word |= (uint32_t)(uint8_t)w[i] << (8 * i);
    return (int)word;
}

template <typename Y> __device__ __forceinline__ void product_int8(int8_args p)
{
    __shared__ int qs[DEPTH][TILE + 4], ws[DEPTH][TILE + 4];
    uint64_t n0 = (uint64_t)blockIdx.x * TILE, m0 = (uint64_t)blockIdx.y * TILE;
    uint64_t padded = (p.k + 15) / 16 * 16;
    uint32_t tid = threadIdx.x, tm = tid / 16 * 4, tn = tid % 16 * 4;
    int sum[4][4] = {};

    for (uint64_t k0 = 0; k0 < p.k; k0 += 4 * DEPTH) {
        for (uint32_t i = tid; i < TILE * DEPTH; i += 256) {
            uint32_t r = i / DEPTH, c = i % DEPTH;
            bool held = m0 + r < p.rows && k0 + 4 * c < padded;
            qs[c][r] = held ? *(const int *)(p.q + (m0 + r) * padded + k0 + 4 * c) : 0;
            ws[c][r] = weights4(p, n0 + r, k0 + 4 * c);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] = __dp4a(qs[k][tm + i], ws[k][tn + j], sum[i][j]);
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            uint64_t m = m0 + tm + i, n = n0 + tn + j;
            if (m >= p.rows || n >= p.n)
                continue;
            float y = __fmul_rn(__fmul_rn(p.step[m], p.scale[n]), (float)sum[i][j]);
            if (p.bias)
                y = __fadd_rn(y, load_any(p.bias, p.bias_dtype, n));
            ((Y *)p.y)[m * p.n + n] = narrow<Y>(y);
        }
}

#define STAMP_INT8(id, T)                                                                          \
    extern "C" __global__ void __launch_bounds__(256) quantize_##id(quantize_args p)               \
    {                                                                                              \
        quantize<T>(p);                                                                            \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) int8_##id(int8_args p)                       \
    {                                                                                              \
        product_int8<T>(p);                                                                        \
    }

STAMP_INT8(f32, float)
STAMP_INT8(f16, f16)
STAMP_INT8(bf16, bf16)
