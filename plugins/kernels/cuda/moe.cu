/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Portable mixture of experts: routing, one warp per row; then the gated feed-forward of each row's experts, one warp
 * per element of the hidden and of the output row. Activations of the hidden rows stay in float32.
 */
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

/* hidden[t][j][i]: grid (inner / warps, top_k, rows). */
template <typename T, typename W> __device__ __forceinline__ void moe_up(const moe_args &p)
{
    uint64_t i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.z;
    uint64_t pair = row * p.top_k + blockIdx.y;
    int64_t e = (int64_t)p.expert[pair] - p.first;

    if (i >= p.inner || e < 0 || e >= p.experts)
        return;
    const T *x = (const T *)p.x + row * p.width;
    const W *g = (const W *)((const char *)p.gate + e * p.gate_stride) + i * p.width;
    const W *u = (const W *)((const char *)p.up + e * p.up_stride) + i * p.width;
    float gate = warp_dot(x, g, p.width), up = warp_dot(x, u, p.width);
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
        const W *d = (const W *)((const char *)p.down + e * p.down_stride) + i * p.inner;
        sum += p.p[pair] * warp_dot(p.hidden + pair * p.inner, d, p.inner);
    }
    if ((threadIdx.x & 31) == 0)
        ((T *)p.y)[row * p.width + i] = narrow<T>(sum);
}

#define STAMP2(x, T, w, W)                                                                         \
    extern "C" __global__ void __launch_bounds__(256) moe_up_##x##_##w(moe_args p)                 \
    {                                                                                              \
        moe_up<T, W>(p);                                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) moe_down_##x##_##w(moe_args p)               \
    {                                                                                              \
        moe_down<T, W>(p);                                                                         \
    }
#define STAMP(x, T)                                                                                \
    STAMP2(x, T, f32, float)                                                                       \
    STAMP2(x, T, f16, f16)                                                                         \
    STAMP2(x, T, bf16, bf16)                                                                       \
    extern "C" __global__ void __launch_bounds__(128) route_##x(route_args p)                      \
    {                                                                                              \
        route<T>(p);                                                                               \
    }

STAMP(f32, float)
STAMP(f16, f16)
STAMP(bf16, bf16)
