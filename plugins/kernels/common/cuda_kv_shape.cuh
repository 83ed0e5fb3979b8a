/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storing a head of a cache in float8_e4m3 with feedback (kv_append in tenon/ops.h) in device code: the first pass, with the bits
 * that kv_feedback.h makes on hosts. The two passes that settle elements one by one are left out: they gain little, and each element
 * would wait for the one before.
 */
#ifndef COMMON_CUDA_KV_SHAPE_CUH
#define COMMON_CUDA_KV_SHAPE_CUH

#include "cuda_kv8.cuh"
#include "tenon/kernels.h"

#define KV_SHAPE_RUN TN_KV_FEEDBACK_RUN

__device__ __forceinline__ float kv_error(uint8_t stored, float y)
{
    const float error = widen(e4m3{stored}) - y;

    return fabsf(error) <= 448.0f ? error : 0.0f;
}

/* N floats; VECTORS: at a multiple of what they take. */
template <int N, bool VECTORS>
__device__ __forceinline__ void kv_shape_load(const float *p, float (&x)[N])
{
    if constexpr (VECTORS && N % 4 == 0) {
#pragma unroll
        for (int n = 0; n < N; n += 4) {
            const float4 f = *(const float4 *)(p + n);
            x[n] = f.x, x[n + 1] = f.y, x[n + 2] = f.z, x[n + 3] = f.w;
        }
    } else if constexpr (VECTORS && N == 2) {
        const float2 f = *(const float2 *)p;
        x[0] = f.x, x[1] = f.y;
    } else {
#pragma unroll
        for (int n = 0; n < N; n++)
            x[n] = p[n];
    }
}

/* A table [dim, dim] as the op has it. */
struct kv_table {
    const float *at;
    uint32_t dim;
    static constexpr bool vectors = false;

    __device__ __forceinline__ const float *row(uint32_t j) const
    {
        return at + (uint64_t)j * dim;
    }
};

/* What is read of it, and no more: run by run eight rows of the elements before that run. At a multiple of 32 bytes. */
struct kv_packed_table {
    const float *at;
    static constexpr bool vectors = true;

    static __device__ __forceinline__ uint32_t offset(uint32_t j)
    {
        const uint32_t run = j / KV_SHAPE_RUN, length = run * KV_SHAPE_RUN;

        return KV_SHAPE_RUN * KV_SHAPE_RUN / 2 * run * (run - 1) + j % KV_SHAPE_RUN * length;
    }
    __device__ __forceinline__ const float *row(uint32_t j) const
    {
        return at + offset(j);
    }
};

/* What is stored of a head of `dim` elements, of which lane l of a warp has y[0, N), elements N l and on; lanes behind the last take
 * part. N is 2, 4 or 8, and 32 N >= dim. */
template <int N, typename Table>
__device__ __forceinline__ void kv_shape(const float (&y)[N], const Table &table, uint32_t dim,
                                         uint8_t (&to)[N])
{
    constexpr uint32_t LANES = KV_SHAPE_RUN / N; /* that a run is spread over */
    const uint32_t lane = threadIdx.x % 32;
    float target[N], error[N];

#pragma unroll
    for (int n = 0; n < N; n++) {
        target[n] = y[n];
        error[n] = 0.0f;
        to[n] = 0;
    }
    for (uint32_t run = (dim - 1) / KV_SHAPE_RUN + 1; run-- > 0;) {
        if (lane / LANES == run) {
#pragma unroll
            for (int n = 0; n < N; n++) {
                to[n] = kv8_narrow<e4m3>(target[n]);
                error[n] = kv_error(to[n], y[n]);
            }
        }
#pragma unroll
        for (int i = 0; i < KV_SHAPE_RUN; i++) {
            const uint32_t j = run * KV_SHAPE_RUN + i;
            const float by = __shfl_sync(0xFFFFFFFFu, error[i % N], run * LANES + i / N);
            float row[N];
            if (j >= dim || lane / LANES >= run)
                continue;
            kv_shape_load<N, Table::vectors>(table.row(j) + lane * N, row);
#pragma unroll
            for (int n = 0; n < N; n++) /* not fused: hosts round the product, too */
                target[n] = __fsub_rn(target[n], __fmul_rn(row[n], by));
        }
    }
}

#endif
