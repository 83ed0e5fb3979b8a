// SPDX-License-Identifier: Apache-2.0
// Products of few rows: y^T = W x^T, so that the rows of W fill wgmma's 64 and the tokens are its N.
//
// A block streams one tile of W (64 or 128 rows) through a ring of shared memory; the blocks of a cluster share a
// tile along K and add their parts through distributed shared memory. The weights do not depend on the kernel before,
// so the ring is filled with them before waiting for it. All blocks are resident at once or nearly so, two per
// multiprocessor: then each gets its share of the bandwidth and none is left with a tail.
//
// What is multiplied is told by a class O: its kernel's `params` with a product_params in it, the type of a `sum`, the elements
// of K in a stage (`depth`), which are 128 bytes of a row of W and `planes` boxes of 128 bytes of a token, and how all stages are
// consumed; of those that consume with skinny_consume, also how a stage is multiplied. Four neighbouring outputs are finished
// with what load_column says of their rows of the matrix, a `column`, and load_row of their token, a `row`; tiles are `roomy` if
// registers have room for those beside the sums. `finishes`: what a kernel is for; `norms`: it can stand before or behind a norm that no
// kernel does (product_norm), for values of `type`.
//
// blockIdx.y counts runs of BN tokens: there is one, unless the class is made for more.
#ifndef HOPPER_SKINNY_CUH
#define HOPPER_SKINNY_CUH

#include "product.cuh"
#include "tenon/dtype.h"
#include "wgmma.cuh"

template <typename O>
constexpr bool SKINNY_GATED = O::finishes == SKINNY_SILU || O::finishes == SKINNY_GELU;

template <typename O, int BM, int BN, int STAGES> struct skinny_shape {
    static constexpr uint32_t w_bytes = BM * 128, plane = BN * 128;
    static constexpr uint32_t x_bytes = O::planes * plane, stage = w_bytes + x_bytes;
    static constexpr uint32_t pitch =
        BM + 4; // floats per token of the staged result: no bank conflicts
    static constexpr uint32_t shared = STAGES * stage + STAGES * 16 + BN * 4;
    static constexpr bool norms = O::norms && BN == 8; // the smallest tiles
    static_assert(BN * pitch * 4 <= STAGES * stage, "the result is staged in the ring");
};

struct skinny_tile {
    uint32_t part, index;   // of the matrix; within it
    uint32_t split, splits; // of K: this block's, and how many blocks share the tile
    uint32_t begin, end;    // stages of K
    uint32_t token, rows;   // the first token, and how many there are
};

template <int BN> __device__ __forceinline__ skinny_tile skinny_find(const product_params &p)
{
    const uint32_t splits = cluster_size(), split = cluster_rank();
    const uint32_t tile = blockIdx.x / splits, token = blockIdx.y * BN;
    skinny_tile t = {product_find(p, tile),
                     tile,
                     split,
                     splits,
                     p.k_blocks * split / splits,
                     p.k_blocks * (split + 1) / splits,
                     token,
                     min(p.rows - token, static_cast<uint32_t>(BN))};

    t.index -= p.parts[t.part].first;
    return t;
}

template <typename O, int BM>
__device__ __forceinline__ void skinny_load_weights(const product_params &p, const skinny_tile &t,
                                                    uint32_t k, uint32_t to, uint32_t barrier)
{
    const int32_t x = static_cast<int32_t>(k * O::depth);

    if constexpr (SKINNY_GATED<O>) {
        const int32_t y = static_cast<int32_t>(t.index * (BM / 2));
        copy_2d(to, &p.weights[0], x, y, barrier, EVICT_FIRST);
        copy_2d(to + BM / 2 * 128, &p.weights[1], x, y, barrier, EVICT_FIRST);
    } else {
        copy_2d(to, &p.weights[t.part], x, static_cast<int32_t>(t.index * BM), barrier,
                EVICT_FIRST);
    }
}

template <typename O, int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny_load_tokens(const product_params &p, const skinny_tile &t,
                                                   uint32_t k, uint32_t to, uint32_t barrier)
{
    using shape = skinny_shape<O, BM, BN, STAGES>;

#pragma unroll
    for (uint32_t j = 0; j < O::planes; j++)
        copy_2d(to + shape::w_bytes + j * shape::plane, &p.x,
                static_cast<int32_t>(k * O::depth + j * (O::depth / O::planes)),
                static_cast<int32_t>(t.token), barrier, EVICT_LAST);
}

template <typename O, int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny_produce(const product_params &p, const skinny_tile &t,
                                               uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = skinny_shape<O, BM, BN, STAGES>;
    const uint32_t n = t.end - t.begin;

    for (uint32_t i = 0; i < n && i < STAGES; i++) {
        barrier_arrive_expect(full + 8 * i, shape::stage);
        skinny_load_weights<O, BM>(p, t, t.begin + i, ring + i * shape::stage, full + 8 * i);
    }
    wait_for_predecessor();
    for (uint32_t i = 0; i < n; i++) {
        if (i + p.early == n)
            allow_successor();
        const uint32_t s = i % STAGES, to = ring + s * shape::stage;
        if (i >= STAGES) {
            barrier_wait(empty + 8 * s, (i / STAGES - 1) & 1);
            barrier_arrive_expect(full + 8 * s, shape::stage);
            skinny_load_weights<O, BM>(p, t, t.begin + i, to, full + 8 * s);
        }
        skinny_load_tokens<O, BM, BN, STAGES>(p, t, t.begin + i, to, full + 8 * s);
    }
    // Not much before: the next kernel's loads shall fill the memory's time when this one's run out, not compete with them.
    // It takes a while to start, so that it may be let go some stages before the end.
    allow_successor();
}

#define SKINNY_CONSUMERS 128 // threads: all but the warp that loads, and the one that makes factors

__device__ __forceinline__ void skinny_consumers_sync()
{
    asm volatile("bar.sync 1, 128;" ::: "memory");
}

// The consumers and the warp of SKINNY_NORM_WARP.
__device__ __forceinline__ void skinny_factors_sync()
{
    asm volatile("bar.sync 2, 160;" ::: "memory");
}

// A stage has been read by a warp.
__device__ __forceinline__ void skinny_release(uint32_t empty)
{
    if (threadIdx.x % 32 == 0)
        barrier_arrive(empty);
}

// Multiplies all stages and leaves the sums in `staged`, [token][row of the tile].
template <typename O, int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny_consume(const skinny_tile &t, uint32_t ring, uint32_t full,
                                               uint32_t empty, typename O::sum *staged)
{
    using shape = skinny_shape<O, BM, BN, STAGES>;
    typename O::sum d[BM / 64][BN / 2];

#pragma unroll
    for (int m = 0; m < BM / 64; m++)
#pragma unroll
        for (int j = 0; j < BN / 2; j++)
            d[m][j] = 0;
    for (uint32_t i = 0, n = t.end - t.begin; i < n; i++) {
        const uint32_t s = i % STAGES, at = ring + s * shape::stage;
        barrier_wait(full + 8 * s, (i / STAGES) & 1);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int m = 0; m < BM / 64; m++)
                O::template multiply<BN>(d[m], wgmma_operand(at + m * 8192) + 2 * k,
                                         wgmma_operand(at + shape::w_bytes) + 2 * k);
        wgmma_commit();
        // Given back at once: memory is what takes time, and a stage that waited for the next one's products would be missing
        // among those on their way.
        wgmma_wait<0>();
        skinny_release(empty + 8 * s);
    }
    skinny_consumers_sync(); // the ring is read; now it takes the result

    const uint32_t row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, token = threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < BM / 64; m++)
#pragma unroll
        for (int j = 0; j < BN / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                staged[(8 * j + token + (e & 1)) * shape::pitch + 64 * m + row + (e & 2) * 4] =
                    d[m][4 * j + e];
}

__device__ __forceinline__ float4 skinny_add(float4 a, float4 b, float)
{
    return a + b;
}

__device__ __forceinline__ float4 skinny_add(float4 a, float4 b, int)
{
    return make_float4(__int_as_float(__float_as_int(a.x) + __float_as_int(b.x)),
                       __int_as_float(__float_as_int(a.y) + __float_as_int(b.y)),
                       __int_as_float(__float_as_int(a.z) + __float_as_int(b.z)),
                       __int_as_float(__float_as_int(a.w) + __float_as_int(b.w)));
}

__device__ __forceinline__ float4 skinny_value(float4 a, float)
{
    return a;
}

__device__ __forceinline__ float4 skinny_value(float4 a, int)
{
    return make_float4(
        static_cast<float>(__float_as_int(a.x)), static_cast<float>(__float_as_int(a.y)),
        static_cast<float>(__float_as_int(a.z)), static_cast<float>(__float_as_int(a.w)));
}

// Adds up the cluster's parts at `address` of this block's result, which are of type S. All loads go out before the first is
// used, but for SPLITS 0, which is any number. What is not `wanted` is read from this block's own memory: nobody waits for it, and
// another block may have ended before it is read.
template <typename S, int SPLITS>
__device__ __forceinline__ float4 skinny_sum(const skinny_tile &t, uint32_t address, bool wanted)
{
    const uint32_t step = wanted, first = wanted ? 0 : cluster_rank();

    if constexpr (SPLITS == 1) {
        return skinny_value(shared_load4(address), S());
    } else if constexpr (SPLITS == 0) {
        float4 v = t.splits == 1 ? shared_load4(address) : peer_load4(peer_address(address, first));
#pragma unroll 1
        for (uint32_t c = 1; c < t.splits; c++)
            v = skinny_add(v, peer_load4(peer_address(address, c * step + first)), S());
        return skinny_value(v, S());
    } else {
        float4 v[SPLITS];
#pragma unroll
        for (int c = 0; c < SPLITS; c++)
            v[c] = peer_load4(peer_address(address, c * step + first));
#pragma unroll
        for (int c = 1; c < SPLITS; c++)
            v[0] = skinny_add(v[0], v[c], S());
        return skinny_value(v[0], S());
    }
}

// What a thread finishes: groups of four outputs, all of the same rows of the matrix, of several tokens. The blocks of the
// cluster that share a tile share its outputs.
struct skinny_share {
    uint32_t row;   // of the tile; of gated ones, of either half
    uint32_t n;     // of the matrix
    uint32_t shift; // a token has 1 << shift groups in this block
    uint32_t end;   // of groups; 0 if there are none for the thread
};

template <typename O, int BM>
__device__ __forceinline__ skinny_share skinny_find_share(const product_params &p,
                                                          const skinny_tile &t)
{
    constexpr uint32_t outputs = SKINNY_GATED<O> ? BM / 2 : BM;
    const uint32_t shift = __ffs(outputs / 4) - __ffs(t.splits);
    const uint32_t row = ((t.split << shift) + (threadIdx.x & ((1u << shift) - 1))) * 4;
    const uint32_t n = t.index * outputs + row;

    return {row, n, shift, n < p.parts[t.part].n ? t.rows << shift : 0};
}

#define SKINNY_NORM_WARP 5 // only where rows are still to be divided as a norm does

// What each token's row is divided by, as a factor, from the sums of squares that the product before left. A warp of its own does it,
// in few registers: waiting for them before the first stage or behind the last would cost what sparing a kernel gains.
__device__ __forceinline__ void skinny_factors(const product_params &p, const skinny_tile &t,
                                               float *factor)
{
    const product_norm &m = p.norm;
    const uint32_t lane = threadIdx.x % 32;

    wait_for_predecessor();
#pragma unroll 1
    for (uint32_t j = 0; j < t.rows; j++) {
        const float *squares = m.squares + (t.token + j) * m.parts;
        float sum = 0.0f;
#pragma unroll 8
        for (uint32_t i = lane; i < m.parts; i += 32)
            sum += squares[i];
        for (uint32_t step = 16; step > 0; step /= 2)
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
        if (lane == 0)
            factor[j] = rsqrtf(sum / static_cast<float>(m.width) + m.eps);
    }
}

__device__ __forceinline__ float4 skinny_times(float4 v, float by)
{
    return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

// Four weights of a norm, of any dtype.
__device__ __forceinline__ float4 skinny_norm_weight(const product_norm &m, uint32_t n)
{
    const float4 w =
        m.weight_dtype == TN_DT_BF16 ? load4<__nv_bfloat16>(m.weight, n)
        : m.weight_dtype == TN_DT_F16
            ? load4<__half>(m.weight, n)
            : *reinterpret_cast<const float4 *>(static_cast<const float *>(m.weight) + n);
    return w + make_float4(m.offset, m.offset, m.offset, m.offset);
}

// Leaves of four outputs h of a token what the product behind the norm wants. The token's other outputs in this block are those
// of neighbouring lanes.
template <typename T>
__device__ __forceinline__ void skinny_leave(const product_params &p, const skinny_tile &t,
                                             const skinny_share &s, uint32_t token, float4 h,
                                             float4 weight)
{
    const product_norm &m = p.norm;
    const uint32_t lanes = 1u << s.shift, first = threadIdx.x % 32 & ~(lanes - 1);
    const uint32_t mask = 0xFFFFFFFFu >> (32 - lanes) << first;

    h = unpack4<T>(pack4<T>(h)); // the norm is that of what was stored
    store4<T>(m.rows, static_cast<uint64_t>(token) * m.width + s.n,
              make_float4(h.x * weight.x, h.y * weight.y, h.z * weight.z, h.w * weight.w));
    float squares = h.x * h.x + h.y * h.y + h.z * h.z + h.w * h.w;
    for (uint32_t step = lanes / 2; step > 0; step /= 2)
        squares += __shfl_xor_sync(mask, squares, step);
    if (threadIdx.x % 32 == first)
        m.squares[token * m.parts + t.index * t.splits + t.split] = squares;
}

// What finishing wants from memory is loaded before it is wanted: what belongs to the rows of the matrix before the kernel
// before has ended, what belongs to tokens a turn ahead. A thread finishes U groups at a time.
template <typename O, int U> struct skinny_early {
    typename O::column column;
    float4 weight; // of the norm behind, if there is one
    typename O::row rows[U];
};

// The tokens of groups i, i + SKINNY_CONSUMERS ...
template <typename O, int U>
__device__ __forceinline__ void skinny_load_rows(const typename O::params &q, const skinny_tile &t,
                                                 const skinny_share &s, uint32_t i,
                                                 typename O::row (&rows)[U])
{
#pragma unroll
    for (uint32_t j = 0; j < U; j++)
        if (i + j * SKINNY_CONSUMERS < s.end)
            rows[j] =
                O::load_row(q, t.part, t.token + ((i + j * SKINNY_CONSUMERS) >> s.shift), s.n);
}

template <typename O, int U>
__device__ __forceinline__ skinny_early<O, U> skinny_load_early(const typename O::params &q,
                                                                const skinny_tile &t,
                                                                const skinny_share &s)
{
    skinny_early<O, U> e = {};

    if (threadIdx.x < s.end)
        e.column = O::load_column(q, t.part, s.n);
    if constexpr (O::finishes == SKINNY_NORM) // or one.cuh, whose kernels are for sums, too
        if (O::product(q).finish == PRODUCT_ADD_NORM && threadIdx.x < s.end)
            e.weight = skinny_norm_weight(O::product(q).norm, s.n);
    wait_for_predecessor();
    skinny_load_rows<O, U>(q, t, s, threadIdx.x, e.rows);
    return e;
}

// The loading warp takes no part. Parts of other blocks are far away: those of several groups are asked for before the first is
// finished. `factor`: of each token's sums, or NULL.
template <typename O, int BM, int SPLITS, int FINISH, int U>
__device__ __forceinline__ void skinny_finish_share(const typename O::params &q,
                                                    const skinny_tile &t, const skinny_share &s,
                                                    skinny_early<O, U> &e, uint32_t staged,
                                                    uint32_t pitch, const float *factor)
{
    constexpr bool GATED = FINISH >= PRODUCT_SILU && FINISH <= PRODUCT_GELU_TANH;
    constexpr int ROOM = (SPLITS ? 8 / SPLITS : 1) / (GATED ? 2 : 1); // of parts on their way
    constexpr int G = ROOM < 1 ? 1 : ROOM < U ? ROOM : U;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < s.end; i += U * SKINNY_CONSUMERS) {
        typename O::row rows[U];
#pragma unroll
        for (uint32_t j = 0; j < U; j++)
            rows[j] = e.rows[j];
        skinny_load_rows<O, U>(q, t, s, i + U * SKINNY_CONSUMERS, e.rows);
#pragma unroll
        for (uint32_t j = 0; j < U; j += G) {
            const uint32_t first = i + j * SKINNY_CONSUMERS;
            float4 v[G], u[G];
#pragma unroll
            for (uint32_t k = 0; k < G; k++) {
                const uint32_t group = first + k * SKINNY_CONSUMERS;
                const bool wanted = group < s.end;
                const uint32_t token = (wanted ? group : s.end - 1) >> s.shift;
                const uint32_t at = staged + (token * pitch + s.row) * 4;
                u[k] = v[k] = skinny_sum<typename O::sum, SPLITS>(t, at, wanted);
                if constexpr (GATED)
                    u[k] = skinny_sum<typename O::sum, SPLITS>(t, at + BM / 2 * 4, wanted);
                if (factor) {
                    v[k] = skinny_times(v[k], factor[token]);
                    u[k] = skinny_times(u[k], factor[token]);
                }
            }
#pragma unroll
            for (uint32_t k = 0; k < G; k++) {
                if (first + k * SKINNY_CONSUMERS >= s.end)
                    continue;
                const uint32_t token = t.token + ((first + k * SKINNY_CONSUMERS) >> s.shift);
                const float4 y = O::template finish<FINISH>(q, t.part, token, s.n, v[k], u[k],
                                                            e.column, rows[j + k]);
                if constexpr (FINISH == PRODUCT_ADD_NORM)
                    skinny_leave<typename O::type>(O::product(q), t, s, token, y, e.weight);
            }
        }
    }
}

// Of what is rare one group at a time, of any number of parts: a kernel has enough text without it.
template <typename O, int BM, int FINISH, int U>
__device__ __forceinline__ void skinny_finish_rare(const typename O::params &q,
                                                   const skinny_tile &t, const skinny_share &s,
                                                   const skinny_early<O, U> &e, uint32_t staged,
                                                   uint32_t pitch, const float *factor)
{
    skinny_early<O, 1> one = {e.column, e.weight, {e.rows[0]}};

    skinny_finish_share<O, BM, 0, FINISH, 1>(q, t, s, one, staged, pitch, factor);
}

// FIRST and SECOND: splits that there are kernels' texts for.
template <typename O, int BM, int FINISH, int FIRST, int SECOND, int U>
__device__ __forceinline__ void skinny_finish_some(const typename O::params &q,
                                                   const skinny_tile &t, const skinny_share &s,
                                                   skinny_early<O, U> &e, uint32_t staged,
                                                   uint32_t pitch, const float *factor)
{
    if (t.splits == FIRST)
        skinny_finish_share<O, BM, FIRST, FINISH, U>(q, t, s, e, staged, pitch, factor);
    else if (t.splits == SECOND)
        skinny_finish_share<O, BM, SECOND, FINISH, U>(q, t, s, e, staged, pitch, factor);
    else
        skinny_finish_rare<O, BM, FINISH, U>(q, t, s, e, staged, pitch, factor);
}

template <typename O, int BM, int FINISH, int U>
__device__ __forceinline__ void skinny_finish_all(const typename O::params &q, const skinny_tile &t,
                                                  const skinny_share &s, skinny_early<O, U> &e,
                                                  uint32_t staged, uint32_t pitch,
                                                  const float *factor)
{
    switch (t.splits) {
    case 1: skinny_finish_share<O, BM, 1, FINISH, U>(q, t, s, e, staged, pitch, factor); break;
    case 2: skinny_finish_share<O, BM, 2, FINISH, U>(q, t, s, e, staged, pitch, factor); break;
    case 4: skinny_finish_share<O, BM, 4, FINISH, U>(q, t, s, e, staged, pitch, factor); break;
    default: skinny_finish_share<O, BM, 8, FINISH, U>(q, t, s, e, staged, pitch, factor); break;
    }
}

template <typename O, int BM, int U>
__device__ __forceinline__ void skinny_finish_tile(const typename O::params &q,
                                                   const skinny_tile &t, const skinny_share &s,
                                                   skinny_early<O, U> &e, uint32_t staged,
                                                   uint32_t pitch, const float *factor)
{
    if constexpr (O::finishes == SKINNY_SUMS)
        skinny_finish_all<O, BM, PRODUCT_ADD, U>(q, t, s, e, staged, pitch, factor);
    else if constexpr (O::finishes == SKINNY_SILU)
        skinny_finish_some<O, BM, PRODUCT_SILU, 1, 2, U>(q, t, s, e, staged, pitch, factor);
    else if constexpr (O::finishes == SKINNY_LOGITS)
        skinny_finish_some<O, BM, PRODUCT_LOGITS, 1, 2, U>(q, t, s, e, staged, pitch, factor);
    else if constexpr (O::finishes == SKINNY_NORM)
        skinny_finish_some<O, BM, PRODUCT_ADD_NORM, 2, 4, U>(q, t, s, e, staged, pitch, factor);
    else if (O::product(q).finish == PRODUCT_GELU)
        skinny_finish_rare<O, BM, PRODUCT_GELU, U>(q, t, s, e, staged, pitch, factor);
    else
        skinny_finish_rare<O, BM, PRODUCT_GELU_TANH, U>(q, t, s, e, staged, pitch, factor);
}

template <typename O, int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny(const typename O::params &q)
{
    using shape = skinny_shape<O, BM, BN, STAGES>;
    const product_params &p = O::product(q);
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), full = ring + STAGES * shape::stage;
    const uint32_t empty = full + 8 * STAGES, warp = threadIdx.x / 32;
    float *factor = reinterpret_cast<float *>(memory + shape::shared) - BN;
    const skinny_tile t = skinny_find<BN>(p);

    if (threadIdx.x == 128) {
        map_prefetch(&p.weights[t.part]);
        if constexpr (SKINNY_GATED<O>)
            map_prefetch(&p.weights[1]);
        map_prefetch(&p.x);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 4);
        }
        barrier_init_fence();
    }
    const skinny_share share = skinny_find_share<O, BM>(p, t);
    constexpr bool SINGLE = BN < 32 || O::finishes == SKINNY_GELU; // the latter is rare
    constexpr int AT_ONCE = SINGLE ? 1 : O::roomy(BM, BN) ? 4 : 2;
    skinny_early<O, AT_ONCE> early = {};
    const bool scaled = shape::norms && O::finishes != SKINNY_NORM && p.norm.squares;
    static_assert(!shape::norms || (O::roomy(BM, BN) && AT_ONCE == 1), "norms follow early loads");
    __syncthreads();
    if (warp == 4) {
        if (threadIdx.x == 128)
            skinny_produce<O, BM, BN, STAGES>(p, t, ring, full, empty);
        __syncwarp();
    } else if (warp == SKINNY_NORM_WARP) {
        if constexpr (shape::norms)
            skinny_factors(p, t, factor);
    } else {
        if constexpr (O::roomy(BM, BN))
            early = skinny_load_early<O, AT_ONCE>(q, t, share);
        O::template consume<BM, BN, STAGES>(t, ring, full, empty,
                                            reinterpret_cast<typename O::sum *>(memory));
        if constexpr (!O::roomy(BM, BN))
            early = skinny_load_early<O, AT_ONCE>(q, t, share);
    }
    if (t.splits > 1)
        cluster_sync();
    else if (scaled && warp != 4)
        skinny_factors_sync();
    else if (warp < 4)
        skinny_consumers_sync();
    if (warp < 4)
        skinny_finish_tile<O, BM, AT_ONCE>(q, t, share, early, ring, shape::pitch,
                                           scaled ? factor : nullptr);
    if (t.splits > 1)
        cluster_meet(); // the others may still read this block's part
}

#endif
