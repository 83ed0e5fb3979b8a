/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over the paged cache on tensor cores, after FlashAttention-2 (Dao 2023) and FlashDecoding (Dao et al. 2023).
 *
 * The rows of a product are pairs of a row of the sequence and a head of the group that shares a kv head, so that keys
 * and values are read once per group. Two kernels share the sequences of a step: `decode` takes those with up to
 * DECODE_ROWS pairs, cuts their context among blocks and warps, and the block that arrives last merges; `prefill` takes
 * the rest, a tile of PREFILL_ROWS pairs per block. Keys beyond a context are never read: zeros stand for them.
 *
 * C is what the cache has: T, the dtype of the rows, or cells of 8 bits, which become float16 between shared memory and the
 * tensor cores (and so do the queries, with the scales of scores and keys in them). ldmatrix moves pairs of cells: a lane's
 * four are elements 4 c to 4 c + 3 of a key, and count as the contraction's indices 2 c, 2 c + 1, 2 c + 8, 2 c + 9; of
 * values it gets two adjacent elements of two tokens, and even and odd ones are products of their own.
 */
#ifndef AMPERE_ATTENTION_CUH
#define AMPERE_ATTENTION_CUH

#include "../common/cuda_kv8.cuh"
#include "../common/cuda_mma.cuh"
#include "args.h"

#define THREADS 128
#define WARPS 4
#define LOG2E 1.4426950408889634f

/* Of the products. */
template <typename T, typename C> struct math_of {
    typedef f16 type;
};
template <typename T> struct math_of<T, T> {
    typedef T type;
};

/* Byte offset of the 16 bytes `c` of row `r` in a tile of cells: as swizzled(), but rows of 64 bytes pair up. */
template <int D, typename C> __device__ __forceinline__ uint32_t cell_at(uint32_t r, uint32_t c)
{
    constexpr uint32_t chunks = D * sizeof(C) / 16;

    return (r * chunks + (c ^ (chunks < 8 ? r / 2 & 3 : r & 7))) * 16;
}

/* Which of the head's elements a lane has in block `i` of eight, of the two at `e`. */
template <typename C> __device__ __forceinline__ int column(int i, int lane, int e)
{
    return sizeof(C) == 1 ? i / 2 * 16 + (lane & 3) * 4 + e * 2 + i % 2
                          : i * 8 + (lane & 3) * 2 + e;
}

/* One sequence and kv head, as a block sees it. */
struct reader {
    const char *keys; /* of the kv head in page 0 */
    uint64_t value_offset;
    const int32_t *table;
    int32_t context, rows, first_row; /* rows: of the sequence in this step */
    float unit;                       /* of values */
};

template <typename C>
__device__ __forceinline__ reader reader_of(const attend_args &a, uint32_t seq, uint32_t kv_head)
{
    uint64_t half = ((uint64_t)a.kv_heads << a.block_shift) * a.head_dim * sizeof(C);
    reader r;

    r.keys =
        (const char *)a.cache + (((uint64_t)kv_head << a.block_shift) * a.head_dim) * sizeof(C);
    r.value_offset = half;
    r.table = a.block_table + (uint64_t)seq * a.max_blocks;
    r.context = a.context[seq];
    r.first_row = a.first_row[seq];
    r.rows = a.first_row[seq + 1] - r.first_row;
    r.unit = sizeof(C) == 1 ? a.v_scale[kv_head] : 1.0f;
    return r;
}

/* Begins to copy keys and values of TOKENS positions from `from` on; zeros outside [0, end). */
template <typename C, int D, int TOKENS>
__device__ __forceinline__ void load_tile(const attend_args &a, const reader &r, int32_t from,
                                          int32_t end, uint32_t keys, uint32_t values)
{
    constexpr int per = 16 / sizeof(C), chunks = D / per;

    for (int i = threadIdx.x; i < TOKENS * chunks; i += THREADS) {
        int token = i / chunks, c = i % chunks, at = from + token;
        int32_t page = at < end ? r.table[at >> a.block_shift] : -1;
        bool valid = page >= 0 && c * per < (int)a.head_dim;
        uint32_t slot = (uint32_t)at & ((1u << a.block_shift) - 1);
        const char *from_key = valid ? r.keys + (uint64_t)page * a.block_bytes +
                                           (slot * a.head_dim + c * per) * sizeof(C)
                                     : r.keys;
        uint32_t to = cell_at<D, C>(token, c);
        copy16(keys + to, from_key, valid);
        copy16(values + to, valid ? from_key + r.value_offset : from_key, valid);
    }
}

/* Begins to copy the queries of pairs [first, first + ROWS); zeros beyond the last. */
template <int D, int ROWS>
__device__ __forceinline__ void load_queries(const attend_args &a, const reader &r,
                                             uint32_t kv_head, uint32_t group, int32_t first,
                                             uint32_t to)
{
    constexpr int chunks = D / 8;

    for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
        int pair = first + i / chunks, c = i % chunks;
        bool valid = pair < r.rows * (int)group && c * 8 < (int)a.head_dim;
        uint64_t row = r.first_row + (valid ? pair / group : 0);
        uint32_t head = kv_head * group + (valid ? pair % group : 0);
        copy16(to + swizzled(i / chunks, c, chunks),
               (const char *)a.q + ((row * a.heads + head) * a.head_dim + (valid ? c * 8 : 0)) * 2,
               valid);
    }
}

/* The same for cells: float16 with the scales in them, in the order that the keys' cells have. */
template <typename T, int D, int ROWS>
__device__ __forceinline__ void load_queries8(const attend_args &a, const reader &r,
                                              uint32_t kv_head, uint32_t group, int32_t first,
                                              char *to)
{
    const float scale = a.scale * a.k_scale[kv_head];

    for (int i = threadIdx.x; i < ROWS * (D / 16); i += THREADS) {
        int pair = first + i / (D / 16), c = i % (D / 16);
        bool valid = pair < r.rows * (int)group && c * 16 < (int)a.head_dim;
        uint64_t row = r.first_row + (valid ? pair / group : 0);
        uint32_t head = kv_head * group + (valid ? pair % group : 0), words[8];
        const T *q = (const T *)a.q + (row * a.heads + head) * a.head_dim + (valid ? c * 16 : 0);
        float x[16];
        widen16<T>(((const uint4 *)q)[0], x);
        widen16<T>(((const uint4 *)q)[1], x + 8);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            __half2 h =
                __halves2half2(kv8_query(x[2 * j] * scale), kv8_query(x[2 * j + 1] * scale));
            words[j] = valid ? *(uint32_t *)&h : 0;
        }
        *(uint4 *)(to + swizzled(i / (D / 16), 2 * c, D / 8)) =
            make_uint4(words[0], words[2], words[4], words[6]);
        *(uint4 *)(to + swizzled(i / (D / 16), 2 * c + 1, D / 8)) =
            make_uint4(words[1], words[3], words[5], words[7]);
    }
}

/* Into shared memory at `to`, which is `space` in generic terms. */
template <typename T, typename C, int D, int ROWS>
__device__ __forceinline__ void bring_queries(const attend_args &a, const reader &r,
                                              uint32_t kv_head, uint32_t group, int32_t first,
                                              char *space)
{
    if (sizeof(C) == 1)
        load_queries8<T, D, ROWS>(a, r, kv_head, group, first, space);
    else
        load_queries<D, ROWS>(a, r, kv_head, group, first, shared_address(space));
}

/* What a warp has of its 16 pairs: sums of values, weights and largest scores of rows lane/4 and lane/4 + 8. */
template <int D> struct running {
    float sum[D / 8][4];
    float weight[2], most[2];
};

template <int D> __device__ __forceinline__ void running_init(running<D> &s)
{
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s.sum[i][e] = 0.0f;
    s.weight[0] = s.weight[1] = 0.0f;
    s.most[0] = s.most[1] = -INFINITY;
}

/* s += q k^T for 32 elements of the head from 32 `i` on, of cells: two steps of the tensor cores. */
template <typename E, int D, int TOKENS>
__device__ __forceinline__ void products8(uint32_t queries, uint32_t keys, int i,
                                          float s[TOKENS / 8][4])
{
    int lane = threadIdx.x & 31;
    uint32_t q[2][4];

    load_matrices(q[0], queries + swizzled(lane & 15, 4 * i + (lane >> 4), D / 8));
    load_matrices(q[1], queries + swizzled(lane & 15, 4 * i + 2 + (lane >> 4), D / 8));
#pragma unroll
    for (int n = 0; n < TOKENS / 16; n++) {
        uint32_t raw[4], b[2];
        load_matrices(raw, keys + cell_at<D, E>(16 * n + (lane & 7) + ((lane >> 4) << 3),
                                                2 * i + ((lane >> 3) & 1)));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            kv8_widen<E>(raw[j], b[0], b[1]);
            mma<f16>(s[2 * n + j / 2], q[j % 2], b[0], b[1]);
        }
    }
}

template <typename T, int D, int TOKENS>
__device__ __forceinline__ void products(uint32_t queries, uint32_t keys, int i,
                                         float s[TOKENS / 8][4])
{
    constexpr int chunks = D / 8;
    int lane = threadIdx.x & 31;

#pragma unroll
    for (int k = 2 * i; k < 2 * i + 2; k++) {
        uint32_t q[4];
        load_matrices(q, queries + swizzled(lane & 15, 2 * k + (lane >> 4), chunks));
#pragma unroll
        for (int n = 0; n < TOKENS / 16; n++) {
            uint32_t b[4];
            load_matrices(b, keys + swizzled(16 * n + (lane & 7) + ((lane >> 4) << 3),
                                             2 * k + ((lane >> 3) & 1), chunks));
            mma<T>(s[2 * n], q, b[0], b[1]);
            mma<T>(s[2 * n + 1], q, b[2], b[3]);
        }
    }
}

/* Scores of the warp's pairs with TOKENS keys, times log2 e; -inf where a pair must not look. last[], bound[]: positions. */
template <typename T, typename C, int D, int TOKENS>
__device__ __forceinline__ void scores(const attend_args &a, uint32_t queries, uint32_t keys,
                                       int32_t from, const int32_t last[2], float s[TOKENS / 8][4])
{
    int lane = threadIdx.x & 31;

#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[i][e] = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
        if constexpr (sizeof(C) == 1)
            products8<C, D, TOKENS>(queries, keys, i, s);
        else
            products<T, D, TOKENS>(queries, keys, i, s);
    }
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int32_t at = from + 8 * i + (lane & 3) * 2 + (e & 1), end = last[e >> 1];
            float x = s[i][e] * (sizeof(C) == 1 ? 1.0f : a.scale);
            if (a.softcap > 0.0f)
                x = a.softcap * tanhf(__fdividef(x, a.softcap));
            bool sees = at <= end && (a.window == 0 || end - at < a.window);
            s[i][e] = sees ? x * LOG2E : -INFINITY;
        }
}

/* sum += p v for sixteen tokens from 16 `k` on. */
template <typename T, typename C, int D>
__device__ __forceinline__ void add_values(uint32_t values, int k, const uint32_t p[4],
                                           running<D> &r)
{
    int lane = threadIdx.x & 31;

    if constexpr (sizeof(C) == 1) {
#pragma unroll
        for (int n = 0; n < D / 32; n++) {
            uint32_t raw[4], low[2], high[2];
            load_transposed(raw, values + cell_at<D, C>(16 * k + (lane & 15), 2 * n + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                kv8_widen_columns<C>(raw[2 * j], low[0], low[1]);
                kv8_widen_columns<C>(raw[2 * j + 1], high[0], high[1]);
                mma<f16>(r.sum[4 * n + 2 * j], p, low[0], high[0]);
                mma<f16>(r.sum[4 * n + 2 * j + 1], p, low[1], high[1]);
            }
        }
    } else {
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            load_transposed(b, values + swizzled(16 * k + (lane & 15), 2 * n + (lane >> 4), D / 8));
            mma<T>(r.sum[2 * n], p, b[0], b[1]);
            mma<T>(r.sum[2 * n + 1], p, b[2], b[3]);
        }
    }
}

/* One tile of keys and values for the warp's pairs. */
template <typename T, typename C, int D, int TOKENS>
__device__ __forceinline__ void attend_tile(const attend_args &a, uint32_t queries, uint32_t keys,
                                            uint32_t values, int32_t from, const int32_t last[2],
                                            running<D> &r)
{
    typedef typename math_of<T, C>::type M;
    float s[TOKENS / 8][4];

    scores<T, C, D, TOKENS>(a, queries, keys, from, last, s);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = r.most[h], weight = 0.0f;
#pragma unroll
        for (int i = 0; i < TOKENS / 8; i++)
            most = fmaxf(most, fmaxf(s[i][2 * h], s[i][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
        float base = most == -INFINITY ? 0.0f : most, shrink = exp2f(r.most[h] - base);
#pragma unroll
        for (int i = 0; i < TOKENS / 8; i++) {
            s[i][2 * h] = exp2f(s[i][2 * h] - base);
            s[i][2 * h + 1] = exp2f(s[i][2 * h + 1] - base);
            weight += s[i][2 * h] + s[i][2 * h + 1];
        }
        r.weight[h] = r.weight[h] * shrink + weight; /* of this thread's columns */
        r.most[h] = most;
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            r.sum[i][2 * h] *= shrink;
            r.sum[i][2 * h + 1] *= shrink;
        }
    }
#pragma unroll
    for (int k = 0; k < TOKENS / 16; k++) {
        uint32_t p[4] = {pack2<M>(s[2 * k][0], s[2 * k][1]), pack2<M>(s[2 * k][2], s[2 * k][3]),
                         pack2<M>(s[2 * k + 1][0], s[2 * k + 1][1]),
                         pack2<M>(s[2 * k + 1][2], s[2 * k + 1][3])};
        add_values<T, C, D>(values, k, p, r);
    }
}

/* The weights of whole rows: each of four lanes had a quarter of the columns. */
template <int D> __device__ __forceinline__ void running_close(running<D> &r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        r.weight[h] += __shfl_xor_sync(FULL_WARP, r.weight[h], 1);
        r.weight[h] += __shfl_xor_sync(FULL_WARP, r.weight[h], 2);
    }
}

/* -- Many rows ------------------------------------------------------------------------------------------------ */

/* Sequence and first pair of tile `tile` of all sequences that are left to prefill; false beyond the last. */
__device__ __forceinline__ bool find_tile(const attend_args &a, uint32_t group, uint32_t tile,
                                          uint32_t *seq, int32_t *first)
{
    for (uint32_t s = 0; s < a.n_seqs; s++) {
        uint32_t pairs = (uint32_t)(a.first_row[s + 1] - a.first_row[s]) * group;
        uint32_t tiles = pairs > DECODE_ROWS ? (pairs + PREFILL_ROWS - 1) / PREFILL_ROWS : 0;
        if (tile < tiles) {
            *seq = s;
            *first = (int32_t)(tile * PREFILL_ROWS);
            return true;
        }
        tile -= tiles;
    }
    return false;
}

template <typename T, typename C, int D>
__device__ __forceinline__ void store_rows(const attend_args &a, const reader &s, uint32_t kv_head,
                                           uint32_t group, int32_t first, const running<D> &r)
{
    int lane = threadIdx.x & 31;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        int32_t pair = first + lane / 4 + 8 * h;
        if (pair >= s.rows * (int)group)
            continue;
        uint64_t row = s.first_row + pair / group, head = kv_head * group + pair % group;
        T *y = (T *)a.y + (row * a.heads + head) * a.head_dim;
        float scale = r.weight[h] > 0.0f || r.weight[h] != r.weight[h]
                          ? s.unit * __fdividef(1.0f, r.weight[h])
                          : 0.0f;
#pragma unroll
        for (int i = 0; i < D / 8;
             i++) { /* pairs of neighbours: of one block, or of an even and an odd one */
            constexpr bool cells = sizeof(C) == 1;
            int d = cells ? column<C>(i / 2 * 2, lane, i % 2) : column<C>(i, lane, 0);
            float x = cells ? r.sum[i / 2 * 2][2 * h + i % 2] : r.sum[i][2 * h];
            float z = cells ? r.sum[i / 2 * 2 + 1][2 * h + i % 2] : r.sum[i][2 * h + 1];
            if (d < (int)a.head_dim)
                *(uint32_t *)(y + d) = pack2<T>(x * scale, z * scale);
        }
    }
}

/* Grid (tiles, kv heads). Shared memory: queries, then two stages of keys and values. */
template <typename T, typename C, int D, int TOKENS>
__device__ __forceinline__ void prefill(const attend_args &a)
{
    extern __shared__ __align__(128) char space[];
    constexpr uint32_t tile_bytes = TOKENS * D * sizeof(C);
    uint32_t kv_head = blockIdx.y, group = a.heads / a.kv_heads, seq;
    uint32_t queries = shared_address(space), ring = queries + PREFILL_ROWS * D * 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31, stage = 0;
    int32_t first, last[2];
    running<D> sums;

    /* Late tiles have the most keys: they go first. */
    if (!find_tile(a, group, gridDim.x - 1 - blockIdx.x, &seq, &first))
        return;
    reader r = reader_of<C>(a, seq, kv_head);
    int32_t begin_pos = r.context - r.rows + first / (int)group;
    int32_t pairs = min(first + PREFILL_ROWS, r.rows * (int)group);
    int32_t end = r.context - r.rows + (pairs - 1) / (int)group + 1;
    int32_t from = a.window > 0 ? max(0, begin_pos - a.window + 1) / TOKENS * TOKENS : 0;

    for (int h = 0; h < 2;
         h++) /* pairs beyond the last see what the last sees, and are not stored */
        last[h] = r.context - r.rows +
                  min(first + 16 * warp + lane / 4 + 8 * h, r.rows * (int)group - 1) / (int)group;
    bring_queries<T, C, D, PREFILL_ROWS>(a, r, kv_head, group, first, space);
    load_tile<C, D, TOKENS>(a, r, from, end, ring, ring + tile_bytes);
    copies_commit();
    running_init(sums);
    for (; from < end; from += TOKENS, stage ^= 1) {
        uint32_t now = ring + stage * 2 * tile_bytes, next = ring + (stage ^ 1) * 2 * tile_bytes;
        copies_wait<0>();
        __syncthreads();
        if (from + TOKENS < end)
            load_tile<C, D, TOKENS>(a, r, from + TOKENS, end, next, next + tile_bytes);
        copies_commit();
        attend_tile<T, C, D, TOKENS>(a, queries + warp * 16 * D * 2, now, now + tile_bytes, from,
                                     last, sums);
    }
    copies_wait<0>();
    running_close(sums);
    store_rows<T, C, D>(a, r, kv_head, group, first + 16 * warp, sums);
}

/* -- Few rows --------------------------------------------------------------------------------------------------- */

/* Adds up what the warps have of the same pairs, in shared memory: [pair][D + 2]. Warp by warp, so that the order is
 * always the same. */
template <typename C, int D>
__device__ __forceinline__ void merge_warps(running<D> &r, float *merged)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;

    for (int w = 0; w < WARPS; w++) {
        __syncthreads();
        if (warp != w)
            continue;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float *m = merged + (lane / 4 + 8 * h) * (D + 2);
            float before = w ? m[D + 1] : -INFINITY, most = fmaxf(before, r.most[h]);
            float base = most == -INFINITY ? 0.0f : most;
            float keep = exp2f(before - base), add = exp2f(r.most[h] - base);
            float weight = (w ? m[D] * keep : 0.0f) + r.weight[h] * add;
#pragma unroll
            for (int i = 0; i < D / 8; i++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int d = column<C>(i, lane, e);
                    m[d] = (w ? m[d] * keep : 0.0f) + r.sum[i][2 * h + e] * add;
                }
            __syncwarp();
            if ((lane & 3) == 0) {
                m[D] = weight;
                m[D + 1] = most;
            }
            __syncwarp();
        }
    }
    __syncthreads();
}

/* Where the sums of a pair of the block's sequence and kv head lie, as split `split` left them. */
__device__ __forceinline__ float *partial_at(const attend_args &a, uint32_t pair, uint32_t split)
{
    uint64_t group = (uint64_t)blockIdx.y * a.kv_heads + blockIdx.x;

    return a.partial + ((group * a.splits + split) * DECODE_ROWS + pair) * (a.head_dim + 2);
}

/* The block that arrives last at the pairs of a sequence and kv head merges all splits and writes the rows. */
template <typename T>
__device__ __forceinline__ void merge_splits(const attend_args &a, const reader &s,
                                             uint32_t kv_head, uint32_t group)
{
    uint32_t dim = a.head_dim;

    for (uint32_t i = threadIdx.x; i < (uint32_t)s.rows * group * dim; i += THREADS) {
        uint32_t pair = i / dim, d = i % dim, head = kv_head * group + pair % group;
        uint64_t row = s.first_row + pair / group;
        float most = -INFINITY, sum = 0.0f, weight = 0.0f;
        for (uint32_t k = 0; k < a.splits; k++)
            most = fmaxf(most, __ldcg(partial_at(a, pair, k) + dim + 1));
        for (uint32_t k = 0; k < a.splits; k++) {
            const float *p = partial_at(a, pair, k);
            float scale = most == -INFINITY ? 0.0f : exp2f(__ldcg(p + dim + 1) - most);
            sum += scale * __ldcg(p + d);
            weight += scale * __ldcg(p + dim);
        }
        ((T *)a.y)[(row * a.heads + head) * dim + d] =
            narrow<T>(weight > 0.0f || weight != weight ? s.unit * __fdividef(sum, weight) : 0.0f);
    }
}

/* True in the block that is the last of the splits to come here; the counter is zero again then. */
__device__ __forceinline__ bool arrived_last(const attend_args &a, uint32_t *counter)
{
    __shared__ bool last;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) == a.splits - 1;
        if (last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

template <typename T, int D>
__device__ __forceinline__ void store_merged(const attend_args &a, const reader &s,
                                             uint32_t kv_head, uint32_t group, uint32_t split,
                                             const float *merged)
{
    uint32_t dim = a.head_dim;

    for (uint32_t i = threadIdx.x; i < (uint32_t)s.rows * group * (dim + 2); i += THREADS) {
        uint32_t pair = i / (dim + 2), d = i % (dim + 2), head = kv_head * group + pair % group;
        uint64_t row = s.first_row + pair / group;
        const float *m = merged + pair * (D + 2);
        if (a.splits > 1)
            partial_at(a, pair, split)[d] = d < dim ? m[d] : m[D + d - dim];
        else if (d < dim)
            ((T *)a.y)[(row * a.heads + head) * dim + d] =
                narrow<T>(m[D] > 0.0f || m[D] != m[D] ? s.unit * __fdividef(m[d], m[D]) : 0.0f);
    }
}

/* Grid (kv heads, sequences, splits). Each warp takes 16 of the 64 keys of a tile. */
template <typename T, typename C, int D>
__device__ __forceinline__ void decode(const attend_args &a)
{
    extern __shared__ __align__(128) char space[];
    constexpr int tokens = 64,
                  stages = D * sizeof(C) > 256 ? 1 : 2; /* what 99 KiB of shared memory hold */
    constexpr uint32_t tile_bytes = tokens * D * sizeof(C), share = 16 * D * sizeof(C);
    uint32_t kv_head = blockIdx.x, seq = blockIdx.y, split = blockIdx.z;
    uint32_t group = a.heads / a.kv_heads;
    uint32_t queries = shared_address(space), ring = queries + DECODE_ROWS * D * 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31, stage = 0;
    int32_t last[2];
    running<D> sums;

    wait_for_previous();
    reader r = reader_of<C>(a, seq, kv_head);
    int32_t pairs = r.rows * (int)group;
    if (pairs > DECODE_ROWS || pairs == 0)
        return;
    int32_t end = r.context, begin_pos = max(0, r.context - r.rows);
    int32_t begin = a.window > 0 ? max(0, begin_pos - a.window + 1) / tokens : 0;
    int32_t tiles = (end + tokens - 1) / tokens - begin;
    int32_t from = (begin + (int32_t)((int64_t)tiles * split / a.splits)) * tokens;
    int32_t until = min(end, (begin + (int32_t)((int64_t)tiles * (split + 1) / a.splits)) * tokens);

    for (int h = 0; h < 2; h++)
        last[h] = r.context - r.rows + min(lane / 4 + 8 * h, pairs - 1) / (int)group;
    bring_queries<T, C, D, DECODE_ROWS>(a, r, kv_head, group, 0, space);
    if (from < until)
        load_tile<C, D, tokens>(a, r, from, until, ring, ring + tile_bytes);
    copies_commit();
    running_init(sums);
    for (; from < until; from += tokens, stage = (stage + 1) % stages) {
        uint32_t now = ring + stage * 2 * tile_bytes;
        uint32_t next = ring + (stage + 1) % stages * 2 * tile_bytes;
        copies_wait<0>();
        __syncthreads();
        if (stages > 1 && from + tokens < until)
            load_tile<C, D, tokens>(a, r, from + tokens, until, next, next + tile_bytes);
        copies_commit();
        attend_tile<T, C, D, 16>(a, queries, now + warp * share, now + tile_bytes + warp * share,
                                 from + 16 * warp, last, sums);
        if (stages == 1) {
            __syncthreads();
            if (from + tokens < until)
                load_tile<C, D, tokens>(a, r, from + tokens, until, next, next + tile_bytes);
            copies_commit();
        }
    }
    copies_wait<0>();
    running_close(sums);
    __syncthreads();
    float *merged = (float *)(space + DECODE_ROWS * D * 2);
    merge_warps<C>(sums, merged);
    store_merged<T, D>(a, r, kv_head, group, split, merged);
    if (a.splits > 1 && arrived_last(a, a.arrivals + seq * a.kv_heads + kv_head))
        merge_splits<T>(a, r, kv_head, group);
}

/* For capability 10.0 the compiler would rather spill a register than give up a third block per multiprocessor. */
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 1000
#define PREFILL_BOUNDS __launch_bounds__(THREADS, 2)
#else
#define PREFILL_BOUNDS __launch_bounds__(THREADS)
#endif

#define STAMP(x, T, C, d, tokens)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) decode_##x##_##d(attend_args a)          \
    {                                                                                              \
        decode<T, C, d>(a);                                                                        \
    }                                                                                              \
    extern "C" __global__ void PREFILL_BOUNDS prefill_##x##_##d(attend_args a)                     \
    {                                                                                              \
        prefill<T, C, d, tokens>(a);                                                               \
    }
#define STAMP_SIZES(x, T, C) STAMP(x, T, C, 64, 64) STAMP(x, T, C, 128, 64) STAMP(x, T, C, 256, 32)

#endif
