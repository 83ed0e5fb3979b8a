// SPDX-License-Identifier: Apache-2.0
// Keys and values of single rows into a cache of float8_e4m3, with feedback (kv_append in tenon/ops.h). A block has a kv head's keys,
// or its values, of some rows: what is read of their table is in shared memory before the step's rows are there, and a warp takes
// sixteen rows at a time.
#ifndef HOPPER_SHAPE_CUH
#define HOPPER_SHAPE_CUH

#include "../common/cuda_kv_shape.cuh"
#include "rope.cuh"

// Where things lie in shared memory: fragments of the table, the means of the keys, and for each warp rows and what they became. A row
// has some more elements, so that lanes that read the same columns of eight rows find all banks.
template <int D> struct shape_room {
    static constexpr int runs = D / KV_SHAPE_RUN, fragments = KV_SHAPE_FRAGMENTS(runs);
    static constexpr uint32_t center = fragments * KV_SHAPE_FRAGMENT_BYTES, rows = center + 4 * D;
    static constexpr uint32_t pitch = SHAPE_PITCH(D), cells = KV_SHAPE_ROWS * pitch * 2;
    static constexpr uint32_t cell_pitch = D + 16, tile = cells + KV_SHAPE_ROWS * cell_pitch;
    static_assert(rows + SHAPE_THREADS / 32 * tile == SHAPE_BYTES(D), "as the host reckons");
};

// Two rows of a table, four of their elements.
struct shape_piece {
    float4 first, second;
    uint32_t at; // the word that the first pair of them becomes; the next lie four apart
};

// Piece `i` of those that are read, eight of each fragment. Runs r and RUNS - r have RUNS fragments together, so that a division finds
// the run of a piece.
template <int D>
__device__ __forceinline__ shape_piece shape_read_piece(const float *table, uint32_t i)
{
    constexpr uint32_t RUNS = shape_room<D>::runs;
    const uint32_t fold = 1 + i / (8 * RUNS), fragment = i / 8 % RUNS, pair = i / 2 % 4,
                   four = i % 2;
    const uint32_t run = fragment < RUNS - fold ? RUNS - fold : fold,
                   of = fragment < RUNS - fold ? fragment : fragment - (RUNS - fold);
    const float *row = table + (run * KV_SHAPE_RUN + 2 * pair) * D + of * KV_SHAPE_RUN + 4 * four;

    return {*reinterpret_cast<const float4 *>(row), *reinterpret_cast<const float4 *>(row + D),
            (KV_SHAPE_FRAGMENTS(run) + of) * 32 + 16 * four + pair};
}

__device__ __forceinline__ void shape_write_piece(const shape_piece &p, uint32_t *fragments)
{
    fragments[p.at] = kv_shape_pair(p.first.x, p.second.x);
    fragments[p.at + 4] = kv_shape_pair(p.first.y, p.second.y);
    fragments[p.at + 8] = kv_shape_pair(p.first.z, p.second.z);
    fragments[p.at + 12] = kv_shape_pair(p.first.w, p.second.w);
}

// All of it is on its way before any of it is waited for.
template <int D> __device__ __forceinline__ void shape_table(const float *from, uint32_t *fragments)
{
    constexpr uint32_t ALL = shape_room<D>::fragments * 8;
    constexpr int EACH = (ALL + SHAPE_THREADS - 1) / SHAPE_THREADS;
    shape_piece pieces[EACH];

#pragma unroll
    for (int n = 0; n < EACH; n++)
        pieces[n] = shape_read_piece<D>(from, min(threadIdx.x + n * SHAPE_THREADS, ALL - 1));
#pragma unroll
    for (int n = 0; n < EACH; n++)
        if (threadIdx.x + n * SHAPE_THREADS < ALL)
            shape_write_piece(pieces[n], fragments);
}

struct shape_table_fragments {
    const uint32_t *at;

    __device__ __forceinline__ uint32_t pair(int run, int of) const
    {
        return at[(KV_SHAPE_FRAGMENTS(run) + of) * 32 + threadIdx.x % 32];
    }
};

// Sixteen rows of 16 bits in shared memory, in whose place their errors are kept, and the bytes that they become.
template <typename T, int D> struct shape_rows {
    unsigned char *tile;
    const float *center;
    float unit, inverse;

    __device__ __forceinline__ T *row(uint32_t i) const
    {
        return reinterpret_cast<T *>(tile) + i * shape_room<D>::pitch;
    }
    __device__ __forceinline__ unsigned char *cells(uint32_t i) const
    {
        return tile + shape_room<D>::cells + i * shape_room<D>::cell_pitch;
    }
    static __device__ __forceinline__ uint32_t column(int run)
    {
        return run * KV_SHAPE_RUN + threadIdx.x % 4 * 2;
    }
    // Of the lane's second row, if `second`.
    __device__ __forceinline__ uint32_t *word(int run, uint32_t second) const
    {
        return reinterpret_cast<uint32_t *>(row(threadIdx.x % 32 / 4 + 8 * second) + column(run));
    }

    __device__ __forceinline__ void load(int run, float (&y)[4]) const
    {
        const float2 mean = *reinterpret_cast<const float2 *>(center + column(run));

#pragma unroll
        for (int n = 0; n < 2; n++) {
            const float2 x = element<T>::unpack(*word(run, n));
            y[2 * n] = kv8_divide(x.x - mean.x, unit, inverse);
            y[2 * n + 1] = kv8_divide(x.y - mean.y, unit, inverse);
        }
    }
    __device__ __forceinline__ void keep(int run, uint2 error, uint16_t first,
                                         uint16_t second) const
    {
        unsigned char *to = cells(threadIdx.x % 32 / 4) + column(run);

        *word(run, 0) = error.x;
        *word(run, 1) = error.y;
        *reinterpret_cast<uint16_t *>(to) = first;
        *reinterpret_cast<uint16_t *>(to + 8 * shape_room<D>::cell_pitch) = second;
    }
    __device__ __forceinline__ uint2 kept(int run) const
    {
        return make_uint2(*word(run, 0), *word(run, 1));
    }
};

// A warp's rows of one kind: from row `first` on, `n` of them, of which lane i has the i-th's slot and position.
template <typename T> struct shape_source {
    const T *x; // the head's elements of row 0
    uint64_t width;
    uint32_t first, n;
    int64_t slot;
    int32_t position;
};

template <typename T, int D>
__device__ __forceinline__ void shape_load(const shape_source<T> &s, const shape_rows<T, D> &to)
{
    constexpr uint32_t PIECES = D / 8; // of 16 bytes
    const uint32_t lane = threadIdx.x % 32;
    uint4 x[KV_SHAPE_ROWS * PIECES / 32];

#pragma unroll
    for (uint32_t k = 0; k < KV_SHAPE_ROWS * PIECES / 32; k++) {
        const uint32_t i = lane + 32 * k, row = i / PIECES;
        x[k] = make_uint4(0, 0, 0, 0);
        if (row < s.n)
            x[k] =
                *reinterpret_cast<const uint4 *>(s.x + (s.first + row) * s.width + i % PIECES * 8);
    }
#pragma unroll
    for (uint32_t k = 0; k < KV_SHAPE_ROWS * PIECES / 32; k++) {
        const uint32_t i = lane + 32 * k;
        *reinterpret_cast<uint4 *>(to.row(i / PIECES) + i % PIECES * 8) = x[k];
    }
    __syncwarp();
}

// Keys are rotated, and multiplied by the Hadamard matrix, as kv_append reads them.
template <typename T, int D>
__device__ __forceinline__ void shape_turn(const rope_params &r, const shape_source<T> &s,
                                           const shape_rows<T, D> &rows)
{
    float freq[D / 64];

#pragma unroll
    for (int j = 0; j < D / 64; j++)
        freq[j] = rope_freq(r, threadIdx.x % 32 + 32 * j);
#pragma unroll 1
    for (uint32_t i = 0; i < s.n; i++) {
        const int32_t position = __shfl_sync(0xFFFFFFFFu, s.position, i);
        float2 angles[D / 64];
        T x[D / 32];
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            angles[j] = rope_angle(r, position, freq[j]);
        rope_read<T, D>(r, rows.row(i), x);
        __syncwarp();
        if (r.hadamard)
            rope_hadamard<T, D>(r, x, angles);
        else
            rope_rotate<T, D>(r, x, angles);
#pragma unroll
        for (int n = 0; n < D / 32; n++)
            rows.row(i)[rope_element<D>(r, n)] = x[n];
    }
    __syncwarp();
}

// Sixteen rows, to where the cache has them.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_put(const P &p, const shape_source<T> &s, uint32_t side,
                                          const shape_rows<T, D> &rows)
{
    constexpr uint32_t PIECES = D / 16;

    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < KV_SHAPE_ROWS * PIECES / 32; k++) {
        const uint32_t i = threadIdx.x % 32 + 32 * k, row = i / PIECES, piece = i % PIECES;
        const int64_t slot = __shfl_sync(0xFFFFFFFFu, s.slot, row);
        if (row >= s.n || slot < 0)
            continue;
        const uint64_t in = static_cast<uint64_t>(slot) % p.block_tokens;
        unsigned char *to = static_cast<unsigned char *>(p.keys) +
                            static_cast<uint64_t>(slot) / p.block_tokens * p.block_bytes +
                            (static_cast<uint64_t>(side) * p.block_tokens + in) * D;
        reinterpret_cast<uint4 *>(to)[piece] =
            *reinterpret_cast<const uint4 *>(rows.cells(row) + 16 * piece);
    }
    __syncwarp();
}

// Block `block` of those that p.shaping tells of; `memory` has SHAPE_BYTES(D). P: attention_params or append_params. `turn`: what keys
// want yet.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_block(const P &p, const rope_params &turn,
                                            unsigned char *memory, uint32_t block)
{
    using room = shape_room<D>;
    const uint32_t warp = threadIdx.x / 32, side = block % (2 * p.kv_heads);
    const uint32_t begin = block / (2 * p.kv_heads) * p.shaping.rows, head = side % p.kv_heads;
    const uint32_t end = min(p.rows, begin + p.shaping.rows);
    const bool value = side >= p.kv_heads;
    const float *table = (value ? p.shaping.v : p.shaping.k) + static_cast<uint64_t>(head) * D * D;
    const float unit = value ? p.v_scale[head] : p.k_scale[head];
    float *center = reinterpret_cast<float *>(memory + room::center);
    const shape_table_fragments fragments = {reinterpret_cast<const uint32_t *>(memory)};
    const shape_rows<T, D> rows = {memory + room::rows + warp * room::tile, center, unit,
                                   __frcp_rn(unit)};

    if (begin >= end)
        return;
    shape_table<D>(table, reinterpret_cast<uint32_t *>(memory));
    for (uint32_t i = threadIdx.x; i < D; i += SHAPE_THREADS)
        center[i] = value || !p.k_center ? 0.0f : p.k_center[head * D + i];
    __syncthreads();
#pragma unroll 1
    for (uint32_t first = begin + warp * KV_SHAPE_ROWS; first < end;
         first += SHAPE_THREADS / 32 * KV_SHAPE_ROWS) {
        const uint32_t n = min(end - first, KV_SHAPE_ROWS),
                       mine = first + min(threadIdx.x % 32, n - 1);
        const shape_source<T> s = {static_cast<const T *>(value ? p.v : p.k) + head * D,
                                   static_cast<uint64_t>(p.kv_heads) * D,
                                   first,
                                   n,
                                   p.row_slot[mine],
                                   p.positions[mine]}; // there before the step
        wait_for_predecessor();
        shape_load<T, D>(s, rows);
        if (!value && (turn.freqs || turn.hadamard))
            shape_turn<T, D>(turn, s, rows);
        kv_shape(fragments, rows, room::runs);
        shape_put<T, D>(p, s, side, rows);
    }
}

#endif
