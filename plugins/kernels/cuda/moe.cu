/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Portable mixture of experts: routing, one warp per row; then the gated feed-forward of each row's experts, one warp
 * per element of the hidden and of the output row. Activations of the hidden rows stay in float32. Weights of 8 and 4 bits are
 * widened as they are read.
 */
#include <cuda_fp8.h>

#include "../common/cuda_dtype.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"

/* True if expert (x, e) ranks before (best, index); index -1: there is none yet. */
__device__ __forceinline__ bool before(float x, int e, float best, int index)
{
    return index < 0 || x > best || (x == best && e < index);
}

/* The top_k largest, one after another: each warp step takes the best that ranks after the one before. */
template <typename T> __device__ __forceinline__ void route(const route_args &p)
{
    uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x & 31, last = -1;
    float bound = INFINITY, largest = 0.0f, sum = 0.0f;

    if (row >= p.rows)
        return;
    const T *x = (const T *)p.x + (uint64_t)row * p.experts;
    for (uint32_t j = 0; j < p.top_k; j++) {
        float best = 0.0f;
        int index = -1;
        for (int e = lane; e < (int)p.experts; e += 32) {
            float v = widen(x[e]);
            bool left = last < 0 || v < bound || (v == bound && e > last);
            if (left && before(v, e, best, index)) {
                best = v;
                index = e;
            }
        }
        for (int step = 16; step > 0; step /= 2) {
            float v = __shfl_xor_sync(FULL_WARP, best, step);
            int e = __shfl_xor_sync(FULL_WARP, index, step);
            if (e >= 0 && before(v, e, best, index)) {
                best = v;
                index = e;
            }
        }
        if (index < 0) /* NaN among the logits: any expert is as good */
            index = (int)j;
        largest = j == 0 ? best : largest;
        bound = best;
        last = index;
        float weight = expf(best - largest);
        sum += weight;
        if (lane == 0) {
            p.chosen[(uint64_t)row * p.top_k + j] = index;
            p.p[(uint64_t)row * p.top_k + j] = weight;
        }
    }
    if (p.over_all) {
        sum = 0.0f;
        for (int e = lane; e < (int)p.experts; e += 32)
            sum += expf(widen(x[e]) - largest);
        sum = warp_sum(sum);
    }
    __syncwarp();
    for (uint32_t j = lane; j < p.top_k; j += 32)
        p.p[(uint64_t)row * p.top_k + j] /= sum;
}

__device__ __forceinline__ float activated(uint32_t act, float x)
{
    float r = x > 0.0f ? x : x * 0.0f;

    switch (act) {
    case MAP_SILU: return x / (1.0f + expf(-x));
    case MAP_GELU: return 0.5f * x * (1.0f + erff(x * 0.707106781f));
    case MAP_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
    case MAP_RELU: return r;
    default: return r * r;
    }
}

/* -- Weights of few bits ------------------------------------------------------------------------------- */

struct e4m3 {
    uint8_t code;
};

/* Two to a byte, the even one in the low half. */
struct packed4 {
    uint8_t pair;
};

__device__ __forceinline__ float widen(int8_t x)
{
    return (float)x;
}

__device__ __forceinline__ float widen(e4m3 x)
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.code, __NV_E4M3)));
}

/* Nibble i of a word, from -8 to 7. */
__device__ __forceinline__ float nibble(uint32_t word, int i)
{
    return (float)((int)(word >> 4 * i & 15u ^ 8u) - 8);
}

/* The warp's sum over k of x[k] * w[k]. */
template <typename T, typename W>
__device__ __forceinline__ float warp_dot(const T *x, const W *w, uint64_t n)
{
    constexpr int per = per16<W>;
    int lane = threadIdx.x & 31;
    float sum = 0.0f;
    uint64_t done = aligned16(w) ? n / (32 * per) * (32 * per) : 0;

    for (uint64_t k = (uint64_t)lane * per; k < done; k += 32 * per) {
        float v[per];
        widen16<W>(*(const uint4 *)(w + k), v);
#pragma unroll
        for (int i = 0; i < per; i++)
            sum += widen(x[k + i]) * v[i];
    }
    for (uint64_t k = done + lane; k < n; k += 32)
        sum += widen(x[k]) * widen(w[k]);
    return warp_sum(sum);
}

/* Row `n` of the matrix of expert `e` times x. */
template <typename T, typename W>
__device__ __forceinline__ float expert_dot(const moe_stack &s, int64_t e, uint64_t n, const T *x,
                                            uint64_t width)
{
    const W *w = (const W *)((const char *)s.w + e * s.stride) + n * width;
    float sum = warp_dot(x, w, width);

    return s.scale ? sum * ((const float *)((const char *)s.scale + e * s.scale_stride))[n] : sum;
}

/* Of int4: sum over k of x[k] * scale[k / group] * (w[k] - zero[k / group]), eight columns to a word where that is whole. */
template <typename T>
__device__ __forceinline__ float int4_dot(const moe_stack &s, int64_t e, uint64_t n, const T *x,
                                          uint64_t width)
{
    const uint8_t *w = (const uint8_t *)s.w + e * s.stride + n * (width / 2);
    const float *scale = (const float *)((const char *)s.scale + e * s.scale_stride) + n * s.groups;
    const int8_t *zero = s.zero ? (const int8_t *)s.zero + e * s.zero_stride + n * s.groups : NULL;
    uint32_t group = (uint32_t)(width / s.groups), lane = threadIdx.x & 31;
    bool words = group % 8 == 0 && ((uintptr_t)w & 3) == 0;
    float sum = 0.0f;

    for (uint32_t k = words ? lane * 8 : width; k < width; k += 256) {
        uint32_t raw = *(const uint32_t *)(w + k / 2), g = k / group;
        float z = zero ? (float)zero[g] : 0.0f, part = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++)
            part += widen(x[k + i]) * (nibble(raw, i) - z);
        sum += part * scale[g];
    }
    for (uint32_t k = words ? width : lane; k < width; k += 32) {
        uint32_t g = k / group;
        float z = zero ? (float)zero[g] : 0.0f;
        sum += widen(x[k]) * (nibble(w[k / 2], k & 1) - z) * scale[g];
    }
    return warp_sum(sum);
}

#define INT4_DOT(T)                                                                                \
    template <>                                                                                    \
    __device__ __forceinline__ float expert_dot<T, packed4>(                                       \
        const moe_stack &s, int64_t e, uint64_t n, const T *x, uint64_t width)                     \
    {                                                                                              \
        return int4_dot(s, e, n, x, width);                                                        \
    }
INT4_DOT(float)
INT4_DOT(f16)
INT4_DOT(bf16)

/* hidden[t][j][i]: grid (inner / warps, top_k, rows). */
template <typename T, typename W> __device__ __forceinline__ void moe_up(const moe_args &p)
{
    uint64_t i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.z;
    uint64_t pair = row * p.top_k + blockIdx.y;
    int64_t e = (int64_t)p.expert[pair] - p.first;

    if (i >= p.inner || e < 0 || e >= p.experts)
        return;
    const T *x = (const T *)p.x + row * p.width;
    float gate = expert_dot<T, W>(p.gate, e, i, x, p.width);
    float up = expert_dot<T, W>(p.up, e, i, x, p.width);
    if ((threadIdx.x & 31) == 0)
        p.hidden[pair * p.inner + i] = activated(p.act, gate) * up;
}

/* y[t][i]: grid (width / warps, 1, rows). */
template <typename T, typename W> __device__ __forceinline__ void moe_down(const moe_args &p)
{
    uint64_t i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.z;
    float sum = 0.0f;

    if (i >= p.width)
        return;
    for (uint32_t j = 0; j < p.top_k; j++) {
        uint64_t pair = row * p.top_k + j;
        int64_t e = (int64_t)p.expert[pair] - p.first;
        if (e < 0 || e >= p.experts)
            continue; /* another rank's */
        sum += p.p[pair] * expert_dot<float, W>(p.down, e, i, p.hidden + pair * p.inner, p.inner);
    }
    if ((threadIdx.x & 31) == 0)
        ((T *)p.y)[row * p.width + i] = narrow<T>(sum);
}

#define STAMP2(name, T, W)                                                                         \
    extern "C" __global__ void __launch_bounds__(256) moe_up_##name(moe_args p)                    \
    {                                                                                              \
        moe_up<T, W>(p);                                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) moe_down_##name(moe_args p)                  \
    {                                                                                              \
        moe_down<T, W>(p);                                                                         \
    }
#define STAMP(x, T)                                                                                \
    STAMP2(x##_f32, T, float)                                                                      \
    STAMP2(x##_f16, T, f16)                                                                        \
    STAMP2(x##_bf16, T, bf16)                                                                      \
    STAMP2(i8_##x, T, int8_t)                                                                      \
    STAMP2(f8_##x, T, e4m3)                                                                        \
    STAMP2(i4_##x, T, packed4)                                                                     \
    extern "C" __global__ void __launch_bounds__(128) route_##x(route_args p)                      \
    {                                                                                              \
        route<T>(p);                                                                               \
    }

STAMP(f32, float)
STAMP(f16, f16)
STAMP(bf16, bf16)
