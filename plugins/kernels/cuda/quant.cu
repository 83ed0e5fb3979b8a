/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantized products (linear.int8, linear.fp8, linear.int4, logits.int8 of tenon/ops.h): rows of activations quantized
 * exactly as the definitions say, products by plain kernels in tiles of 64 by 64 or of few rows, and what is left to do where
 * cuBLASLt made the product.
 */
#include <cuda_fp8.h>

#include "../common/cuda_dtype.cuh"
#include "../common/cuda_e4m3.cuh"
#include "../common/cuda_reduce.cuh"
#include "act.cuh"
#include "args.h"

#define TILE 64
#define DEPTH 16

/* -- Rows of activations ------------------------------------------------------------------------------------ */

__device__ __forceinline__ uint8_t to_int8(float x)
{
    return (uint8_t)(int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(x)));
}

__device__ __forceinline__ uint8_t to_e4m3(float x)
{
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ float from_e4m3(uint8_t x)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(x, __NV_E4M3)));
}

/* What a row is divided by: the static scale, or what its largest element asks for. A row that is not finite gets NaN. */
template <bool INT8>
__device__ __forceinline__ float row_step(const quantize_args &p, float largest)
{
    const float own = INT8 ? largest / 127.0f : e4m3_step(largest);

    return largest == INFINITY ? NAN : p.scale > 0.0f ? p.scale : own;
}

/* One block per row: q = x / step, rounded. */
template <typename T, bool INT8> __device__ __forceinline__ void quantize(const quantize_args &p)
{
    __shared__ float scratch[32];
    const uint64_t row = p.row_index ? (uint64_t)p.row_index[blockIdx.x] : blockIdx.x;
    const T *x = (const T *)p.x + row * p.k;
    uint8_t *q = (uint8_t *)p.q + blockIdx.x * p.pitch;
    float largest = 0.0f;

    for (uint64_t i = threadIdx.x; i < p.k; i += blockDim.x) {
        float a = fabsf(widen(x[i]));
        largest = a <= 3.402823466e38f ? fmaxf(largest, a) : INFINITY;
        if (largest == INFINITY)
            break;
    }
    const float step = row_step<INT8>(p, block_reduce(largest, max_op(), scratch));
    for (uint64_t i = threadIdx.x; i < p.pitch; i += blockDim.x) {
        float v = step > 0.0f && i < p.k ? widen(x[i]) / step : 0.0f;
        q[i] = INT8 ? to_int8(v) : to_e4m3(v);
    }
    if (threadIdx.x == 0)
        p.step[blockIdx.x] = step;
}

/* Of act(x) * u, both rounded as if they had been stored: elements of 16 bits. */
template <typename T>
__device__ __forceinline__ void gate8(const quantize_args &p, uint64_t i, float *y)
{
    float u[8];

    widen16<T>(((const uint4 *)p.x)[i], y);
    widen16<T>(((const uint4 *)p.u)[i], u);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float s = p.kind == MAP_SILU_MUL   ? silu(y[e])
                        : p.kind == MAP_GELU_MUL ? gelu(y[e])
                                                 : gelu_tanh(y[e]);
        y[e] = widen(narrow<T>(widen(narrow<T>(s)) * u[e]));
    }
}

/* The same behind a gate: one block per row, which is computed and read once. */
template <typename T, bool INT8>
__device__ __forceinline__ void quantize_gate(const quantize_args &p)
{
    extern __shared__ __align__(16) uint4 row[];
    __shared__ float scratch[32];
    const uint64_t runs = p.k / 8, first = blockIdx.x * runs;
    float largest = 0.0f, y[8];

    for (uint64_t i = threadIdx.x; i < runs; i += blockDim.x) {
        gate8<T>(p, first + i, y);
        for (int e = 0; e < 8; e++)
            largest = fmaxf(largest, fabsf(y[e]) <= 3.402823466e38f ? fabsf(y[e]) : INFINITY);
        row[i] = narrow16<T>(y);
    }
    const float step = row_step<INT8>(p, block_reduce(largest, max_op(), scratch));
    for (uint64_t i = threadIdx.x; i < runs; i += blockDim.x) {
        uint32_t q[2] = {0, 0};
        widen16<T>(row[i], y);
        for (int e = 0; e < 8; e++) {
            const float v = step > 0.0f ? y[e] / step : 0.0f;
            q[e / 4] |= (uint32_t)(INT8 ? to_int8(v) : to_e4m3(v)) << e % 4 * 8;
        }
        ((uint2 *)p.q)[first + i] = make_uint2(q[0], q[1]);
    }
    if (threadIdx.x == 0)
        p.step[blockIdx.x] = step;
}

/* -- Finishing ---------------------------------------------------------------------------------------------- */

/* (a * s) * sum + b, in the order of the definition and without fusing: an exact sum gives exact bits. */
__device__ __forceinline__ float scaled(float step, float scale, float sum, const void *bias,
                                        uint32_t bias_dtype, uint64_t n)
{
    float y = __fmul_rn(__fmul_rn(step, scale), sum);

    return bias ? __fadd_rn(y, load_any(bias, bias_dtype, n)) : y;
}

/* What is stored: of linear ops y as it is. */
__device__ __forceinline__ float finished(float y, float factor, float softcap)
{
    y *= factor;
    return softcap > 0.0f ? softcap * tanhf(y / softcap) : y;
}

/* Sums of a library, [rows, n]; blockIdx.y: the row. */
template <typename T, typename A> __device__ __forceinline__ void finish(const descale_args &p)
{
    uint64_t n = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, at = blockIdx.y * p.n + n;

    if (n < p.n) {
        const float y = scaled(p.step ? p.step[blockIdx.y] : 1.0f, p.scale ? p.scale[n] : 1.0f,
                               (float)((const A *)p.sums)[at], p.bias, p.bias_dtype, n);
        ((T *)p.y)[at] = narrow<T>(finished(y, p.factor, p.softcap));
    }
}

/* A matrix of e4m3 in the dtype of the rows, exactly; blockIdx.y: its row. */
template <typename T> __device__ __forceinline__ void widen_f8(const widen_args &p)
{
    uint64_t k = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (uint64_t n = blockIdx.y; n < p.n && k < p.k; n += gridDim.y)
        ((T *)p.y)[n * p.k + k] = narrow<T>(from_e4m3(((const uint8_t *)p.w)[n * p.stride + k]));
}

/* A matrix of int4 likewise, its scales multiplied in. */
template <typename T> __device__ __forceinline__ void widen_i4(const widen_args &p);

/* -- Plain products ------------------------------------------------------------------------------------------ */

/* What the operands of a plain product are, as float32: x(row, k) and w(n, k), both inside. */
struct e4m3_operands {
    static __device__ __forceinline__ float x(const quant_args &p, uint64_t r, uint64_t k)
    {
        return from_e4m3(((const uint8_t *)p.x)[r * p.pitch + k]);
    }
    static __device__ __forceinline__ float w(const quant_args &p, uint64_t n, uint64_t k)
    {
        return from_e4m3(((const uint8_t *)p.w)[n * p.stride + k]);
    }
};

__device__ __forceinline__ float int4_weight(const void *w, uint64_t stride, const int4_groups &g,
                                             uint64_t n, uint64_t k)
{
    uint32_t pair = ((const uint8_t *)w)[n * stride + k / 2];
    int q = (int)(pair << (k & 1 ? 24 : 28)) >> 28;
    float s = ((const float *)((const char *)g.scale + n * g.scale_stride))[k / g.group];
    int z = g.zero ? ((const int8_t *)g.zero)[n * g.zero_stride + k / g.group] : 0;

    return s * (float)(q - z);
}

/* Rows as they are. */
template <typename T> struct e4m3_wide_operands {
    static __device__ __forceinline__ float x(const quant_args &p, uint64_t r, uint64_t k)
    {
        return widen(((const T *)p.x)[r * p.k + k]);
    }
    static __device__ __forceinline__ float w(const quant_args &p, uint64_t n, uint64_t k)
    {
        return e4m3_operands::w(p, n, k);
    }
};

template <typename T> struct int4_operands {
    static __device__ __forceinline__ float x(const quant_args &p, uint64_t r, uint64_t k)
    {
        return widen(((const T *)p.x)[r * p.k + k]);
    }
    static __device__ __forceinline__ float w(const quant_args &p, uint64_t n, uint64_t k)
    {
        return int4_weight(p.w, p.stride, p.groups, n, k);
    }
};

template <typename T> __device__ __forceinline__ void widen_i4(const widen_args &p)
{
    uint64_t k = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (uint64_t n = blockIdx.y; n < p.n && k < p.k; n += gridDim.y)
        ((T *)p.y)[n * p.k + k] = narrow<T>(int4_weight(p.w, p.stride, p.groups, n, k));
}

/* Output `n` of row `m`. */
template <typename Y>
__device__ __forceinline__ void store(const quant_args &p, uint64_t m, uint64_t n, float sum)
{
    const float y = scaled(p.step ? p.step[m] : 1.0f, p.scale ? p.scale[n] : 1.0f, sum, p.bias,
                           p.bias_dtype, n);

    ((Y *)p.y)[m * p.n + n] = narrow<Y>(finished(y, p.factor, p.softcap));
}

/* Where a thread's 4 by 4 outputs go. */
template <typename Y, typename S>
__device__ __forceinline__ void store_tile(const quant_args &p, const S (&sum)[4][4])
{
    uint32_t tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;

    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            uint64_t m = (uint64_t)blockIdx.y * TILE + tm + i;
            uint64_t n = (uint64_t)blockIdx.x * TILE + tn + j;
            if (m < p.rows && n < p.n)
                store<Y>(p, m, n, (float)sum[i][j]);
        }
}

/* Block (x, y): columns from 64 x on, rows from 64 y on. 256 threads, float32 sums in ascending order of k. */
template <typename O, typename Y> __device__ __forceinline__ void product(const quant_args &p)
{
    __shared__ float xs[DEPTH][TILE + 4], ws[DEPTH][TILE + 4];
    uint64_t n0 = (uint64_t)blockIdx.x * TILE, m0 = (uint64_t)blockIdx.y * TILE;
    uint32_t tid = threadIdx.x, tm = tid / 16 * 4, tn = tid % 16 * 4;
    float sum[4][4] = {};

    for (uint64_t k0 = 0; k0 < p.k; k0 += DEPTH) {
        for (uint32_t i = tid; i < TILE * DEPTH; i += 256) {
            uint32_t r = i / DEPTH, c = i % DEPTH;
            bool inside = k0 + c < p.k;
            xs[c][r] = inside && m0 + r < p.rows ? O::x(p, m0 + r, k0 + c) : 0.0f;
            ws[c][r] = inside && n0 + r < p.n ? O::w(p, n0 + r, k0 + c) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += xs[k][tm + i] * ws[k][tn + j];
        __syncthreads();
    }
    store_tile<Y>(p, sum);
}

/* Four int8 of row `r` of the matrix, as one word; 0 outside. Rows may begin anywhere. */
__device__ __forceinline__ int weights4(const quant_args &p, uint64_t r, uint64_t k)
{
    const uint8_t *w = (const uint8_t *)p.w + r * p.stride + k;
    uint32_t word = 0;

    if (r >= p.n)
        return 0;
    if (k + 4 <= p.k && ((uintptr_t)w & 3) == 0)
        return *(const int *)w;
    for (int i = 0; i < 4; i++)
        if (k + i < p.k)
            word |= (uint32_t)w[i] << (8 * i);
    return (int)word;
}

/* The same for int8, whose sums are exact, by DP4A. */
template <typename Y> __device__ __forceinline__ void product_int8(const quant_args &p)
{
    __shared__ int qs[DEPTH][TILE + 4], ws[DEPTH][TILE + 4];
    uint64_t n0 = (uint64_t)blockIdx.x * TILE, m0 = (uint64_t)blockIdx.y * TILE;
    uint32_t tid = threadIdx.x, tm = tid / 16 * 4, tn = tid % 16 * 4;
    int sum[4][4] = {};

    for (uint64_t k0 = 0; k0 < p.k; k0 += 4 * DEPTH) {
        for (uint32_t i = tid; i < TILE * DEPTH; i += 256) {
            uint32_t r = i / DEPTH, c = i % DEPTH;
            bool held = m0 + r < p.rows && k0 + 4 * c < p.pitch;
            qs[c][r] =
                held ? *(const int *)((const int8_t *)p.x + (m0 + r) * p.pitch + k0 + 4 * c) : 0;
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
    store_tile<Y>(p, sum);
}

/* -- Few rows ------------------------------------------------------------------------------------------------- */

/* In blocks of FEW_WARPS warps, a warp makes outputs n and n + 1 of M rows: blockIdx.x tells which rows, so that blocks that read
 * the same weights follow on each other, blockIdx.y which outputs. Rows of the matrix begin at multiples of 16 bytes. */
#define FEW_WARPS 8

/* sum + the products of 16 int8 weights with as many elements of a row. */
__device__ __forceinline__ int dot16(const uint4 &w, const uint4 &q, int sum)
{
    sum = __dp4a((int)w.x, (int)q.x, sum);
    sum = __dp4a((int)w.y, (int)q.y, sum);
    sum = __dp4a((int)w.z, (int)q.z, sum);
    return __dp4a((int)w.w, (int)q.w, sum);
}

/* sum += the products of 16 weights of two rows at w0 and w1, and of as many of every 512 behind these, with M rows from x[m] on.
 * All weights are on their way before the first is multiplied. */
template <int M, int STEPS>
__device__ __forceinline__ void few_steps(const int8_t *w0, const int8_t *w1,
                                          const int8_t *const x[M], uint64_t k, int sum[2][M])
{
    uint4 w[STEPS][2];

#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        w[s][0] = load_once(w0 + k + s * 512);
        w[s][1] = load_once(w1 + k + s * 512);
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            const uint4 q = *(const uint4 *)(x[m] + k + s * 512);
            sum[0][m] = dot16(w[s][0], q, sum[0][m]);
            sum[1][m] = dot16(w[s][1], q, sum[1][m]);
        }
}

/* int8, in rows of a multiple of 16 elements. Y: dtype of the result. */
template <typename Y, int M> __device__ __forceinline__ void few_int8(const quant_args &p)
{
    const uint32_t n0 = 2 * (blockIdx.y * FEW_WARPS + threadIdx.x / 32), row = blockIdx.x * M;
    const uint32_t n1 = n0 + 1 < p.n ? n0 + 1 : n0, lane = threadIdx.x & 31;
    const int8_t *w0 = (const int8_t *)p.w + n0 * p.stride, *x[M];
    const int8_t *w1 = (const int8_t *)p.w + n1 * p.stride;
    constexpr int steps = M == 1 ? 4 : 2;
    uint64_t k = lane * 16;
    int sum[2][M] = {}, mine = 0;

    if (n0 >= p.n)
        return;
#pragma unroll
    for (int m = 0; m < M; m++)
        x[m] = (const int8_t *)p.x + (uint64_t)(row + m < p.rows ? row + m : row) * p.pitch;
    for (; k + (steps - 1) * 512 < p.k; k += steps * 512)
        few_steps<M, steps>(w0, w1, x, k, sum);
#pragma unroll 1
    for (; k < p.k; k += 512)
        few_steps<M, 1>(w0, w1, x, k, sum);
#pragma unroll
    for (int i = 0; i < 2 * M; i++) { /* each to a lane of its own */
        const int all = warp_reduce(sum[i % 2][i / 2], plus_op());
        mine = lane == i ? all : mine;
    }
    const uint32_t m = row + lane / 2, n = n0 + lane % 2;
    if (lane < 2 * M && m < p.rows && n < p.n)
        store<Y>(p, m, n, (float)mine);
}

/* sum[m] += the products of 32 int4 weights, all of one group, with the elements of M rows from x[m] + k on. A nibble q becomes
 * 136 + q, which is a bfloat16 and so half of a word, and then exactly q - zero. */
template <typename T, int M>
__device__ __forceinline__ void few_step(const uint4 &raw, const T *const x[M], uint64_t k,
                                         float scale, float zero, float sum[M])
{
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    float w[32];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t word = words[i] ^ 0x88888888u;
#pragma unroll
        for (int j = 0; j < 4; j++) { /* nibbles j and j + 4 of the word */
            uint32_t pair = ((word >> (4 * j)) & 0x000f000fu) | 0x43004300u;
            w[8 * i + j] = __uint_as_float(pair << 16) - (136.0f + zero);
            w[8 * i + j + 4] = __uint_as_float(pair & 0xffff0000u) - (136.0f + zero);
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        float part = 0.0f;
#pragma unroll
        for (int i = 0; i < 32 / per16<T>; i++) {
            float v[per16<T>];
            widen16<T>(*(const uint4 *)(x[m] + k + i * per16<T>), v);
#pragma unroll
            for (int j = 0; j < per16<T>; j++)
                part += w[i * per16<T> + j] * v[j];
        }
        sum[m] += scale * part;
    }
}

/* int4: groups are multiples of 32 inputs. */
template <typename T, int M> __device__ __forceinline__ void few_int4(const quant_args &p)
{
    const uint32_t n0 = 2 * (blockIdx.y * FEW_WARPS + threadIdx.x / 32), row = blockIdx.x * M;
    const uint32_t n1 = n0 + 1 < p.n ? n0 + 1 : n0;
    const T *x[M];
    float sum[2][M] = {};

    if (n0 >= p.n)
        return;
#pragma unroll
    for (int m = 0; m < M; m++)
        x[m] = (const T *)p.x + (uint64_t)(row + m < p.rows ? row + m : row) * p.k;
#pragma unroll(M == 1 ? 2 : 1)
    for (uint64_t k = (threadIdx.x & 31) * 32; k < p.k; k += 1024) {
        const uint64_t g = k / p.groups.group;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint64_t n = i ? n1 : n0;
            const int4_groups &q = p.groups;
            few_step<T, M>(load_once((const char *)p.w + n * p.stride + k / 2), x, k,
                           ((const float *)((const char *)q.scale + n * q.scale_stride))[g],
                           q.zero ? (float)((const int8_t *)q.zero)[n * q.zero_stride + g] : 0.0f,
                           sum[i]);
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float y = warp_sum(sum[i][m]);
            const uint64_t n = n0 + i;
            if ((threadIdx.x & 31) == 0 && row + m < p.rows && n < p.n)
                ((T *)p.y)[(row + m) * p.n + n] =
                    narrow<T>(p.bias ? y + load_any(p.bias, p.bias_dtype, n) : y);
        }
}

#define KERNEL(name, args, call)                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 1) name(args p)                              \
    {                                                                                              \
        call(p);                                                                                   \
    }
#define STAMP(id, T)                                                                               \
    KERNEL(quantize_i8_##id, quantize_args, (quantize<T, true>))                                   \
    KERNEL(quantize_f8_##id, quantize_args, (quantize<T, false>))                                  \
    KERNEL(finish_i32_##id, descale_args, (finish<T, int>))                                        \
    KERNEL(finish_f32_##id, descale_args, (finish<T, float>))                                      \
    KERNEL(widen_f8_##id, widen_args, widen_f8<T>)                                                 \
    KERNEL(widen_i4_##id, widen_args, widen_i4<T>)                                                 \
    KERNEL(few_i4_1_##id, quant_args, (few_int4<T, 1>))                                            \
    KERNEL(few_i4_4_##id, quant_args, (few_int4<T, 4>))                                            \
    KERNEL(few_i8_1_##id, quant_args, (few_int8<T, 1>))                                            \
    KERNEL(few_i8_4_##id, quant_args, (few_int8<T, 4>))                                            \
    KERNEL(few_i8_8_##id, quant_args, (few_int8<T, 8>))                                            \
    KERNEL(product_i8_##id, quant_args, product_int8<T>)                                           \
    KERNEL(product_f8_##id, quant_args, (product<e4m3_operands, T>))                               \
    KERNEL(product_f8_wide_##id, quant_args, (product<e4m3_wide_operands<T>, T>))                  \
    KERNEL(product_i4_##id, quant_args, (product<int4_operands<T>, T>))

STAMP(f32, float)
STAMP(f16, f16)
STAMP(bf16, bf16)

#define STAMP_GATE(T)                                                                              \
    KERNEL(quantize_gate_i8_##T, quantize_args, (quantize_gate<T, true>))                          \
    KERNEL(quantize_gate_f8_##T, quantize_args, (quantize_gate<T, false>))

STAMP_GATE(f16)
STAMP_GATE(bf16)
