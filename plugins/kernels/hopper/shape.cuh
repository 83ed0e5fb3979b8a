// SPDX-License-Identifier: Apache-2.0
// Keys and values of single rows into a cache of float8_e4m3, with feedback (kv_append in tenon/ops.h). A block has a kv head's keys,
// or its values, of some rows, and a warp takes sixteen of them at a time. What stands before the step begins, tables above all, is
// read before anything is waited for: under an attention that fills the memory's bandwidth every read takes microseconds.
#ifndef HOPPER_SHAPE_CUH
#define HOPPER_SHAPE_CUH

#include "../common/cuda_copy.cuh"
#include "../common/cuda_kv_shape.cuh"
#include "rope.cuh"

// Where things lie in shared memory: a table (kv_feedback.h), the means of keys, and tiles of sixteen rows.
// Rows lie so that the same columns of eight rows find all banks.
template <int D> struct shape_room {
    static constexpr int pairs = D / KV_SHAPE_RUN / 2;
    static constexpr uint32_t center = TN_KV_FEEDBACK_BYTES(D), tiles = center + 4 * D;
    static constexpr uint32_t pitch = SHAPE_PITCH(D), tile = SHAPE_TILE(D); // pitch: elements
    static_assert(tiles == SHAPE_TABLE(D) && tile == KV_SHAPE_ROWS * pitch * 2,
                  "as the host reckons");
};

// What a block stores: of keys or values of a head, the keys of all heads in front, rows [begin, end).
struct shape_item {
    uint32_t side, begin, end;

    template <typename P> __device__ __forceinline__ bool value(const P &p) const
    {
        return side >= p.kv_heads;
    }
    template <typename P> __device__ __forceinline__ uint32_t head(const P &p) const
    {
        return value(p) ? side - p.kv_heads : side;
    }
};

// The `i`-th; values first.
template <typename P> __device__ __forceinline__ shape_item shape_find(const P &p, uint32_t i)
{
    const uint32_t half = p.shaping.items / 2, n = i % half;
    const uint32_t begin = n / p.kv_heads * p.shaping.rows;

    return {n % p.kv_heads + (i < half ? p.kv_heads : 0), begin,
            min(p.rows, begin + p.shaping.rows)};
}

// The table of an item, where the cache has it.
template <int D, typename P>
__device__ __forceinline__ const unsigned char *shape_table(const P &p, const shape_item &item)
{
    return reinterpret_cast<const unsigned char *>(item.value(p) ? p.shaping.v : p.shaping.k) +
           static_cast<uint64_t>(item.head(p)) * TN_KV_FEEDBACK_BYTES(D);
}

// -- Sixteen rows --------------------------------------------------------------------------------

// The block's copy of an item's table, on its way, and of its means.
template <int D, typename P>
__device__ __forceinline__ void shape_read_weights(const P &p, const shape_item &item,
                                                   unsigned char *memory)
{
    const unsigned char *table = shape_table<D>(p, item);
    const uint32_t e = threadIdx.x;

#pragma unroll
    for (uint32_t at = threadIdx.x * 16; at < TN_KV_FEEDBACK_BYTES(D); at += SHAPE_THREADS * 16)
        copy16(shared_address(memory) + at, table + at);
    copies_commit();
    if (e < D)
        reinterpret_cast<float *>(memory + shape_room<D>::center)[e] =
            !item.value(p) && p.k_center ? p.k_center[item.head(p) * D + e] : 0.0f;
}
static_assert(SHAPE_THREADS >= 128, "every element's mean has a thread");

// In lane i the slot, and the position, of row i of those from `first` on; -1, and 0, where the item has none.
template <typename P>
__device__ __forceinline__ int64_t shape_slot(const P &p, const shape_item &item, uint32_t first)
{
    const uint32_t lane = threadIdx.x % 32, row = first + lane;

    return lane < KV_SHAPE_ROWS && row < item.end ? p.row_slot[row] : -1;
}

template <typename P>
__device__ __forceinline__ int32_t shape_position(const P &p, const shape_item &item,
                                                  uint32_t first)
{
    const uint32_t lane = threadIdx.x % 32, row = first + lane;

    return lane < KV_SHAPE_ROWS && row < item.end ? p.positions[row] : 0;
}

// Rows [begin, end) of those from `first` on, on their way into their tile: a group of the warp's copies. Rows that the item has not
// are left as they are; what becomes of them has no slot.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_fetch(const P &p, const shape_item &item, uint32_t first,
                                            uint32_t begin, uint32_t end, unsigned char *tile)
{
    constexpr uint32_t PIECES = D / 8; // of 16 bytes in a row
    const uint64_t width = static_cast<uint64_t>(p.kv_heads) * D;
    const T *x = static_cast<const T *>(item.value(p) ? p.v : p.k) + item.head(p) * D;

#pragma unroll 2
    for (uint32_t i = begin * PIECES + threadIdx.x % 32; i < end * PIECES; i += 32) {
        const uint32_t row = i / PIECES, piece = i % PIECES * 8;
        if (first + row < item.end)
            copy16(shared_address(tile) + (row * shape_room<D>::pitch + piece) * 2,
                   x + (first + row) * width + piece);
    }
    copies_commit();
}

// How keys are turned: each lane has the frequencies of its pairs.
template <typename T, int D> struct shape_turn {
    const rope_params &r;
    float freq[D / 64];

    __device__ __forceinline__ explicit shape_turn(const rope_params &rope) : r(rope)
    {
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            freq[j] = rope_freq(r, threadIdx.x % 32 + 32 * j);
    }

    // A warp turns a row that is on its way, in its place: rotated, and multiplied by the Hadamard matrix.
    __device__ __forceinline__ void one(int32_t position, T *row) const
    {
        float2 angles[D / 64];
        T x[D / 32];

#pragma unroll
        for (int j = 0; j < D / 64; j++)
            angles[j] = rope_angle(r, position, freq[j]);
        copies_wait<0>();
        __syncwarp();
        rope_read<T, D>(r, row, x);
        __syncwarp();
        if (r.hadamard)
            rope_hadamard<T, D>(r, x, angles);
        else
            rope_rotate<T, D>(r, x, angles);
#pragma unroll
        for (int n = 0; n < D / 32; n++)
            row[rope_element<D>(r, n)] = x[n];
    }

    // Rows [begin, end) of a tile, which the warp fetched. Values stay as they are.
    template <typename P>
    __device__ __forceinline__ void operator()(const P &p, const shape_item &item,
                                               int32_t positions, uint32_t begin, uint32_t end,
                                               unsigned char *tile) const
    {
        if (item.value(p) || !r.freqs)
            return;
#pragma unroll 1
        for (uint32_t i = begin; i < end; i++)
            one(__shfl_sync(0xFFFFFFFFu, positions, i),
                reinterpret_cast<T *>(tile) + i * shape_room<D>::pitch);
    }
};

// The rows of a tile as a lane has them: of each run columns 2 (lane % 4) and the next of rows lane / 4 and eight more, in that order.
// What they become takes the place of elements that are done with: bytes [D, 2 D) of a row were its elements behind the middle.
template <typename T, int D> struct shape_rows {
    unsigned char *tile;
    const float *center;
    float unit, inverse;

    template <typename P>
    __device__ __forceinline__ shape_rows(const P &p, const shape_item &item,
                                          const unsigned char *table, unsigned char *rows)
        : tile(rows), center(reinterpret_cast<const float *>(table + shape_room<D>::center)),
          unit((item.value(p) ? p.v_scale : p.k_scale)[item.head(p)]), inverse(__frcp_rn(unit))
    {
    }
    __device__ __forceinline__ unsigned char *row(uint32_t i) const
    {
        return tile + i * shape_room<D>::pitch * 2;
    }
    static __device__ __forceinline__ uint32_t column(int run)
    {
        return run * KV_SHAPE_RUN + threadIdx.x % 4 * 2;
    }
    // Of run `run`: what is to be stored, divided by the scale.
    __device__ __forceinline__ void load(int run, float (&y)[4]) const
    {
        const unsigned char *x = row(threadIdx.x % 32 / 4) + 2 * column(run);
        const float2 mean = *reinterpret_cast<const float2 *>(center + column(run));

#pragma unroll
        for (int n = 0; n < 2; n++) {
            const float2 v = element<T>::unpack(
                *reinterpret_cast<const uint32_t *>(x + 8 * n * shape_room<D>::pitch * 2));
            y[2 * n] = kv8_divide(v.x - mean.x, unit, inverse);
            y[2 * n + 1] = kv8_divide(v.y - mean.y, unit, inverse);
        }
    }
    __device__ __forceinline__ void keep(int run, uint16_t first, uint16_t second) const
    {
        unsigned char *to = row(threadIdx.x % 32 / 4) + D + column(run);

        *reinterpret_cast<uint16_t *>(to) = first;
        *reinterpret_cast<uint16_t *>(to + 8 * shape_room<D>::pitch * 2) = second;
    }
};

// Of a block of a table the lane's word, which is its part of an operand; and of four blocks that follow on each other.
__device__ __forceinline__ uint32_t shape_word(const unsigned char *block)
{
    return *reinterpret_cast<const uint32_t *>(block + threadIdx.x % 32 * 4);
}

__device__ __forceinline__ uint4 shape_words(const unsigned char *blocks)
{
    return make_uint4(shape_word(blocks), shape_word(blocks + 128), shape_word(blocks + 256),
                      shape_word(blocks + 384));
}

// What the errors of a pair of runs ask of all runs before it is added up as soon as they are known, for the next ones first, so that a
// run waits for one product. What is asked of the run that is k behind the next stands in asked[k], and moves on as it is added to:
// registers have no addresses, and yet a loop may go from pair to pair. Nothing is asked yet of the two that come in.
//
// As a loop it goes on to ask runs that there are not, by whatever lies behind the pair's blocks, of which nobody hears. Without
// (STRAIGHT) it is many times the code, of which a warp that comes through once waits for every line, but less work for many rows.
template <typename T, int D, bool STRAIGHT>
__device__ __forceinline__ void shape_solve(const shape_rows<T, D> &rows,
                                            const unsigned char *table)
{
    constexpr int PAIRS = shape_room<D>::pairs, MOST = 2 * PAIRS - 2; // runs before a pair
    float asked[MOST + 2][4] = {}, y[4];

    rows.load(2 * PAIRS - 1, y);
#pragma unroll(STRAIGHT ? PAIRS : 1)
    for (int q = PAIRS - 1; q >= 0; q--) {
        const unsigned char *near = table + 128 * TN_KV_FEEDBACK_PAIR(q), *both = near + 128;
        const uint32_t word = shape_word(near);
        uint4 words = shape_words(both);
        uint2 error[2];
        float other[4];
        uint16_t first, second;
        rows.load(2 * q, other);
        __syncwarp(); // all have read what is replaced now; and what is read for later runs is read later: registers are few
        first = kv_shape_narrow(y, asked[0], error[0].x);
        second = kv_shape_narrow(y + 2, asked[0] + 2, error[0].y);
        kv_shape_mma(asked[1], error[0], word, asked[1]);
        rows.keep(2 * q + 1, first, second);
        first = kv_shape_narrow(other, asked[1], error[1].x);
        second = kv_shape_narrow(other + 2, asked[1] + 2, error[1].y);
        rows.keep(2 * q, first, second);
#pragma unroll
        for (int n = 0; n < 4; n++)
            asked[MOST][n] = asked[MOST + 1][n] = 0.0f;
#pragma unroll
        for (int k = 0; k < MOST; k += 2) {
            const uint4 now = words;
            if (STRAIGHT && k >= 2 * q)
                break;
            if (k + 2 < MOST && (!STRAIGHT || k + 2 < 2 * q))
                words = shape_words(both + (k / 2 + 1) * 512);
            kv_shape_mma2(asked[k], error, make_uint2(now.x, now.y), asked[k + 2]);
            kv_shape_mma2(asked[k + 1], error, make_uint2(now.z, now.w), asked[k + 3]);
            if (k == 0)
                rows.load(max(2 * q - 1, 0), y);
        }
    }
}

// What a warp's rows, those from `first` on, became, to where the cache has them.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_put(const P &p, const shape_item &item, uint32_t first,
                                          const shape_rows<T, D> &rows)
{
    constexpr uint32_t PIECES = D / 16;
    const int64_t slots = shape_slot(p, item, first);

    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < KV_SHAPE_ROWS * PIECES / 32; k++) {
        const uint32_t i = threadIdx.x % 32 + 32 * k, row = i / PIECES, piece = i % PIECES;
        const int64_t slot = __shfl_sync(0xFFFFFFFFu, slots, row);
        if (slot < 0)
            continue;
        const uint64_t in = static_cast<uint64_t>(slot) % p.block_tokens;
        unsigned char *to = static_cast<unsigned char *>(p.keys) +
                            static_cast<uint64_t>(slot) / p.block_tokens * p.block_bytes +
                            (static_cast<uint64_t>(item.side) * p.block_tokens + in) * D;
        reinterpret_cast<uint4 *>(to)[piece] =
            *reinterpret_cast<const uint4 *>(rows.row(row) + D + 16 * piece);
    }
}

// -- Blocks --------------------------------------------------------------------------------------
//
// Block `block` of those that p.shaping tells of: an item. P: attention_params or append_params. `rope`: what keys want yet.

// Of a step that has no more rows than a tile: all warps read and turn them, the first does the rest.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_few(const P &p, const rope_params &rope,
                                          unsigned char *memory, uint32_t block)
{
    constexpr uint32_t SHARE = (KV_SHAPE_ROWS * 32 + SHAPE_THREADS - 1) / SHAPE_THREADS;
    const uint32_t warp = threadIdx.x / 32, begin = min(warp * SHARE, p.rows);
    const uint32_t end = min(begin + SHARE, p.rows);
    const shape_item item = {block, 0, p.rows}; // all rows are of one
    unsigned char *tile = memory + shape_room<D>::tiles;
    const shape_turn<T, D> turn(rope);
    const shape_rows<T, D> rows(p, item, memory, tile);
    const int32_t positions = shape_position(p, item, 0);

    shape_read_weights<D>(p, item, memory);
    wait_for_predecessor();
    shape_fetch<T, D>(p, item, 0, begin, end, tile);
    turn(p, item, positions, begin, end, tile);
    copies_wait<0>();
    __syncthreads();
    if (warp > 0)
        return;
    shape_solve<T, D, false>(rows, memory);
    shape_put<T, D>(p, item, 0, rows);
}

// Of others: each warp has tiles, and STAGES of them on their way or at hand. AFTER_TURN: the kernel before made the keys, and had waited
// for the values, and what reads L2 finds them.
template <typename T, int D, int STAGES, bool AFTER_TURN, typename P>
__device__ __forceinline__ void shape_many(const P &p, const rope_params &rope,
                                           unsigned char *memory, uint32_t block)
{
    constexpr uint32_t TILE = shape_room<D>::tile;
    static_assert(STAGES == 1 || STAGES == 2, "what is fetched ahead is one tile");
    const shape_item item = shape_find(p, block);
    unsigned char *tiles = memory + shape_room<D>::tiles + threadIdx.x / 32 * STAGES * TILE;
    uint32_t first = item.begin + threadIdx.x / 32 * KV_SHAPE_ROWS, stage = 0;

    shape_read_weights<D>(p, item, memory);
    if (!AFTER_TURN || !item.value(p))
        wait_for_predecessor();
    if (STAGES > 1)
        shape_fetch<T, D>(p, item, first, 0, KV_SHAPE_ROWS, tiles);
    copies_wait<STAGES - 1>(); // the table
    __syncthreads();
#pragma unroll 1
    for (; first < item.end; first += SHAPE_ROWS) {
        unsigned char *tile = tiles + stage * TILE;
        const uint32_t next = STAGES > 1 ? first + SHAPE_ROWS : first;
        const shape_turn<T, D> turn(rope);
        const shape_rows<T, D> rows(p, item, memory, tile);
        const int32_t positions = shape_position(p, item, first);
        stage = (stage + 1) % STAGES;
        shape_fetch<T, D>(p, item, next, 0, KV_SHAPE_ROWS, tiles + stage * TILE);
        turn(p, item, positions, 0, min(KV_SHAPE_ROWS, item.end - first), tile);
        copies_wait<STAGES - 1>();
        __syncwarp();
        shape_solve<T, D, AFTER_TURN>(rows, memory);
        shape_put<T, D>(p, item, first, rows);
        __syncwarp();
    }
}

#endif
