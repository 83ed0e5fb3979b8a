// SPDX-License-Identifier: Apache-2.0
// Products of one row: y = W x. A block has a tile of as few rows of W as give every multiprocessor work, and all of K: no cluster
// shares it, whose blocks would have to begin together, to meet, and to read each other's sums.
//
// A warp takes a run of 128 bytes of all rows of the tile, a chunk, and then the fourth one from there; the warps' sums are added at
// the end. The row x is copied as a whole, in parts, so that the first chunks need not wait for all of it; where it is to be
// rounded, every block does that by itself. Column 0 of mma.sync has the row, the others are zero.
//
// A class O tells what is multiplied, as for skinny.cuh: `params`, `type`, what finishes outputs, `x_bytes` of a chunk, the type of a
// `sum`, and multiply(), which adds a chunk's products to sums, of which lanes 4 g have the rows sum_row() and eight more. `rounds`:
// round() makes of x what is multiplied, of which a chunk has `operand_bytes`.
#ifndef HOPPER_ONE_CUH
#define HOPPER_ONE_CUH

#include "skinny.cuh"

#define ONE_PARTS 4 // of x

template <int GROUPS, int CHUNKS, int STAGES> struct one_shape {
    static constexpr uint32_t tile = 16 * GROUPS, chunk = tile * 128, stage = CHUNKS * chunk;
    static constexpr uint32_t full = STAGES * stage, empty = full + 8 * STAGES;
    static constexpr uint32_t parts = empty + 8 * STAGES, factor = full + ONE_ROOM - 16;
    static constexpr uint32_t x = full + ONE_ROOM; // then what it is rounded to
    static_assert(parts + 8 * ONE_PARTS <= factor, "there is room for the barriers");
    static_assert(CHUNKS * STAGES % 4 == 0, "a place in the ring is always the same warp's");
    static_assert(4 * tile * 4 <= STAGES * stage, "the sums lie in the ring");
};

// Chunks of x in each of its parts but the last.
__device__ __forceinline__ uint32_t one_part(uint32_t chunks)
{
    return (chunks + ONE_PARTS - 1) / ONE_PARTS;
}

template <int GROUPS, int CHUNKS>
__device__ __forceinline__ void one_load(const product_params &p, const skinny_tile &t, uint32_t i,
                                         uint32_t to, uint32_t barrier)
{
    constexpr int32_t TILE = 16 * GROUPS;

    barrier_arrive_expect(barrier, CHUNKS * TILE * 128);
    copy_3d(to, &p.weights[t.part], 0, static_cast<int32_t>(t.index) * TILE,
            static_cast<int32_t>(i * CHUNKS), barrier, EVICT_FIRST);
}

template <typename O, int GROUPS, int CHUNKS, int STAGES>
__device__ __forceinline__ void one_produce(const product_params &p, const skinny_tile &t,
                                            uint32_t ring)
{
    using shape = one_shape<GROUPS, CHUNKS, STAGES>;
    const uint32_t n = (p.k_blocks + CHUNKS - 1) / CHUNKS, part = one_part(p.k_blocks);

    for (uint32_t i = 0; i < n && i < STAGES; i++)
        one_load<GROUPS, CHUNKS>(p, t, i, ring + i * shape::stage, ring + shape::full + 8 * i);
    wait_for_predecessor();
    for (uint32_t i = 0; i * part < p.k_blocks; i++) {
        const uint32_t bytes = min(part, p.k_blocks - i * part) * O::x_bytes;
        const uint32_t barrier = ring + shape::parts + 8 * i, at = i * part * O::x_bytes;
        barrier_arrive_expect(barrier, bytes);
        copy_bytes(ring + shape::x + at, static_cast<const unsigned char *>(p.row) + at, bytes,
                   barrier);
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t s = i % STAGES;
        if (i + p.early == n)
            allow_successor();
        if (i >= STAGES) {
            barrier_wait(ring + shape::empty + 8 * s, (i / STAGES - 1) & 1);
            one_load<GROUPS, CHUNKS>(p, t, i, ring + s * shape::stage, ring + shape::full + 8 * s);
        }
    }
    allow_successor();
}

// Waits until chunk q of x is there; the first `there` are.
__device__ __forceinline__ void one_await(uint32_t parts, uint32_t part, uint32_t q,
                                          uint32_t &there)
{
    while (there <= q) {
        barrier_wait(parts + 8 * (there / part), 0);
        there += part;
    }
}

// Leaves each warp's sums in the ring, [warp][row of the tile]. Returns what x was divided by.
template <typename O, int GROUPS, int CHUNKS, int STAGES>
__device__ __forceinline__ float one_consume(const typename O::params &q, uint32_t ring,
                                             unsigned char *memory)
{
    using shape = one_shape<GROUPS, CHUNKS, STAGES>;
    using sum = typename O::sum;
    const uint32_t chunks = O::product(q).k_blocks, part = one_part(chunks);
    const uint32_t warp = threadIdx.x / 32;
    uint32_t there = 0, x = ring + shape::x;
    float step = 1.0f;
    sum d[GROUPS][4] = {}, *sums = reinterpret_cast<sum *>(memory);

    if constexpr (O::rounds) {
        one_await(ring + shape::parts, part, chunks - 1, there);
        step = O::round(q, memory + shape::x, reinterpret_cast<float *>(memory + shape::factor));
        x += chunks * O::x_bytes;
    }
    for (uint32_t c = warp; c < chunks; c += 4) {
        const uint32_t i = c / CHUNKS, s = i % STAGES;
        one_await(ring + shape::parts, part, c, there);
        barrier_wait(ring + shape::full + 8 * s, (i / STAGES) & 1);
        O::template multiply<GROUPS>(d, ring + s * shape::stage + c % CHUNKS * shape::chunk,
                                     x + c * O::operand_bytes);
        __syncwarp();
        skinny_release(ring + shape::empty + 8 * s);
    }
    skinny_consumers_sync(); // the ring is read; now it takes the sums
    if (threadIdx.x % 4 == 0)
#pragma unroll
        for (int m = 0; m < GROUPS; m++)
#pragma unroll
            for (int e = 0; e < 4; e += 2)
                sums[warp * shape::tile + 16 * m + O::sum_row() + e * 4] = d[m][e];
    return step;
}

// Four outputs, of the warps' sums from `at` on.
template <typename S> __device__ __forceinline__ float4 one_sum(uint32_t at, uint32_t tile)
{
    const float4 a = skinny_add(shared_load4(at), shared_load4(at + tile * 4), S());
    const float4 b = skinny_add(shared_load4(at + tile * 8), shared_load4(at + tile * 12), S());

    return skinny_value(skinny_add(a, b, S()), S());
}

template <typename O, int FINISH>
__device__ __forceinline__ void one_finish(const typename O::params &q, const skinny_tile &t,
                                           const skinny_share &s, const skinny_early<O, 1> &e,
                                           float4 v)
{
    const float4 y = O::template finish<FINISH>(q, t.part, 0, s.n, v, v, e.column, e.rows[0]);

    if constexpr (FINISH == PRODUCT_ADD_NORM)
        skinny_leave<typename O::type>(O::product(q), t, s, 0, y, e.weight);
}

// Thread i finishes four outputs from 4 i on. The lanes that share a row are those of skinny_leave.
template <int GROUPS>
__device__ __forceinline__ skinny_share one_share(const product_params &p, const skinny_tile &t)
{
    constexpr uint32_t LANES = 16 * GROUPS / 4, SHIFT = LANES == 4 ? 2 : LANES == 8 ? 3 : 4;
    static_assert(1 << SHIFT == LANES, "they are a power of two");
    const uint32_t row = threadIdx.x * 4, n = t.index * 16 * GROUPS + row;

    return {row, n, SHIFT, threadIdx.x < LANES && n < p.parts[t.part].n ? LANES : 0};
}

template <int GROUPS, int CHUNKS, int STAGES>
__device__ __forceinline__ void one_start(const product_params &p, const skinny_tile &t,
                                          uint32_t ring)
{
    using shape = one_shape<GROUPS, CHUNKS, STAGES>;

    map_prefetch(&p.weights[t.part]);
    for (int i = 0; i < STAGES; i++) {
        barrier_init(ring + shape::full + 8 * i, 1);
        barrier_init(ring + shape::empty + 8 * i, CHUNKS);
    }
    for (int i = 0; i < ONE_PARTS; i++)
        barrier_init(ring + shape::parts + 8 * i, 1);
    barrier_init_fence();
}

template <typename O, int GROUPS, int CHUNKS, int STAGES>
__device__ __forceinline__ void one(const typename O::params &q)
{
    using shape = one_shape<GROUPS, CHUNKS, STAGES>;
    const product_params &p = O::product(q);
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), warp = threadIdx.x / 32;
    float *factor = reinterpret_cast<float *>(memory + shape::factor);
    const bool scaled = O::norms && p.norm.squares && p.finish != PRODUCT_ADD_NORM;
    skinny_tile t = {product_find(p, blockIdx.x), blockIdx.x, 0, 1, 0, p.k_blocks, 0, 1};

    t.index -= p.parts[t.part].first;
    if (threadIdx.x == 128)
        one_start<GROUPS, CHUNKS, STAGES>(p, t, ring);
    __syncthreads();
    if (warp == 4) {
        if (threadIdx.x == 128)
            one_produce<O, GROUPS, CHUNKS, STAGES>(p, t, ring);
    } else if (warp == SKINNY_NORM_WARP) {
        if constexpr (O::norms)
            skinny_factors(p, t, factor);
        if (scaled)
            skinny_factors_sync();
    } else {
        const skinny_share share = one_share<GROUPS>(p, t);
        skinny_early<O, 1> early = skinny_load_early<O, 1>(q, t, share);
        const float step = one_consume<O, GROUPS, CHUNKS, STAGES>(q, ring, memory);
        if (O::rounds)
            early.rows[0].step = step;
        if (scaled)
            skinny_factors_sync();
        else
            skinny_consumers_sync();
        if (!share.end)
            return;
        const float4 v = skinny_times(one_sum<typename O::sum>(ring + share.row * 4, shape::tile),
                                      scaled ? *factor : 1.0f);
        if (O::norms && p.finish == PRODUCT_ADD_NORM)
            one_finish<O, PRODUCT_ADD_NORM>(q, t, share, early, v);
        else
            one_finish<O, PRODUCT_ADD>(q, t, share, early, v);
    }
}

#endif
