/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Portable attention over the paged cache, in any dtype and for head sizes up to 256. One block per row and head walks
 * the row's context in chunks of one key per thread, with the running softmax of Milakov and Gimelshein 2018. What a
 * row gets depends on its own context only, never on the rest of the batch.
 */
#include "../common/cuda_dtype.cuh"
#include "../common/cuda_kv8.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"

#define THREADS 128
#define CHUNK THREADS
#define MAX_DIM 256

/* What one block works on. */
struct span {
    const char *keys; /* of the kv head in page 0 */
    uint64_t value_offset, block_bytes, token_bytes;
    const int32_t *table;
    uint32_t block_tokens;
};

__device__ __forceinline__ const char *key_at(const span &s, int64_t j)
{
    uint32_t page = (uint32_t)j / s.block_tokens, token = (uint32_t)j % s.block_tokens;

    return s.keys + (int64_t)s.table[page] * s.block_bytes + token * s.token_bytes;
}

/* <q, k> where q lies widened in shared memory. */
template <typename K>
__device__ __forceinline__ float dot(const float *q, const char *key, uint32_t dim)
{
    constexpr int per = per16<K>;
    float sum = 0.0f;

    if (dim % per == 0 && aligned16(key)) {
#pragma unroll 1 /* a run is wide enough, and more of them spill */
        for (uint32_t i = 0; i < dim; i += per) {
            float k[per];
            widen16<K>(*(const uint4 *)(key + i * sizeof(K)), k);
#pragma unroll
            for (int e = 0; e < per; e++)
                sum += q[i + e] * k[e];
        }
        return sum;
    }
    for (uint32_t i = 0; i < dim; i++)
        sum += q[i] * widen(((const K *)key)[i]);
    return sum;
}

/* acc[] += p[j] * v_j for the part's keys of the chunk; thread `d` of a part has dimensions d, d + lanes, ... */
template <typename K>
__device__ __forceinline__ void add_values(const span &s, const float *p, int64_t first, uint32_t n,
                                           uint32_t part, uint32_t parts, uint32_t d,
                                           uint32_t lanes, uint32_t dim, float acc[2])
{
    for (uint32_t j = part; j < n; j += parts) {
        const K *v = (const K *)(key_at(s, first + j) + s.value_offset);
        if (d < dim)
            acc[0] += p[j] * widen(v[d]);
        if (d + lanes < dim)
            acc[1] += p[j] * widen(v[d + lanes]);
    }
}

__device__ __forceinline__ span span_of(const attention_args &a, uint32_t row, uint32_t head)
{
    uint32_t kv_head = head / (a.heads / a.kv.kv_heads);
    uint64_t token_bytes = (uint64_t)a.kv.head_dim * kv_element_bytes(a.kv.dtype);

    return {(const char *)a.kv.base + (uint64_t)kv_head * a.kv.block_tokens * token_bytes,
            (uint64_t)a.kv.kv_heads * a.kv.block_tokens * token_bytes,
            a.kv.block_bytes,
            token_bytes,
            a.block_table + (uint64_t)a.row_seq[row] * a.max_blocks,
            a.kv.block_tokens};
}

template <typename T, typename K>
__device__ __forceinline__ void attention_of(const attention_args &a)
{
    __shared__ float q[MAX_DIM], p[CHUNK], scratch[32], partial[THREADS][2];
    uint32_t row = blockIdx.y, head = blockIdx.x, dim = a.kv.head_dim, tid = threadIdx.x;
    uint32_t lanes = dim > 64 ? THREADS : dim > 32 ? 64 : 32, parts = THREADS / lanes;
    uint64_t at = ((uint64_t)row * a.heads + head) * dim;
    span s = span_of(a, row, head);
    int64_t last = a.context[a.row_seq[row]] > 0 ? a.positions[row] : -1;
    int64_t first = a.window > 0 && last - a.window + 1 > 0 ? last - a.window + 1 : 0;
    uint32_t kv_head = head / (a.heads / a.kv.kv_heads);
    float scale = a.scale * (sizeof(K) == 1 ? a.kv.k_scale[kv_head] : 1.0f);
    float most = -INFINITY, sum = 0.0f, acc[2] = {0.0f, 0.0f};

    for (uint32_t i = tid; i < dim; i += THREADS)
        q[i] = widen(((const T *)a.q)[at + i]);
    for (; first <= last; first += CHUNK) {
        uint32_t n = last - first + 1 < CHUNK ? (uint32_t)(last - first + 1) : CHUNK;
        __syncthreads();
        float score = -INFINITY;
        if (tid < n) {
            score = dot<K>(q, key_at(s, first + tid), dim) * scale;
            if (a.softcap > 0.0f)
                score = a.softcap * tanhf(__fdividef(score, a.softcap));
        }
        float higher = fmaxf(most, block_reduce(score, max_op(), scratch));
        float shrink = most == higher ? 1.0f : expf(most - higher);
        float weight = tid < n ? (score == higher ? 1.0f : expf(score - higher)) : 0.0f;
        p[tid] = weight;
        sum = sum * shrink + block_reduce(weight, plus_op(), scratch);
        acc[0] *= shrink;
        acc[1] *= shrink;
        most = higher;
        add_values<K>(s, p, first, n, tid / lanes, parts, tid % lanes, lanes, dim, acc);
    }
    partial[tid][0] = acc[0];
    partial[tid][1] = acc[1];
    __syncthreads();
    float unit = sizeof(K) == 1 ? a.kv.v_scale[kv_head] : 1.0f;
    for (uint32_t d = tid; d < dim; d += THREADS) {
        float y = 0.0f;
        for (uint32_t i = 0; i < parts; i++)
            y += partial[i * lanes + d % lanes][d / lanes];
        ((T *)a.y)[at + d] = narrow<T>(sum > 0.0f || sum != sum ? unit * __fdividef(y, sum) : 0.0f);
    }
}

template <typename T> __device__ __forceinline__ void attention(const attention_args &a)
{
    if (a.kv.dtype == TN_DT_F32)
        attention_of<T, float>(a);
    else if (a.kv.dtype == TN_DT_F16)
        attention_of<T, f16>(a);
    else if (a.kv.dtype == TN_DT_I8)
        attention_of<T, int8_t>(a);
    else if (a.kv.dtype == TN_DT_F8E4M3)
        attention_of<T, e4m3>(a);
    else
        attention_of<T, bf16>(a);
}

#define STAMP(id, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_##id(attention_args a)         \
    {                                                                                              \
        attention<T>(a);                                                                           \
    }

STAMP(f32, float)
STAMP(f16, f16)
STAMP(bf16, bf16)
