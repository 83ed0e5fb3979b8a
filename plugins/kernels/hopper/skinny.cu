// SPDX-License-Identifier: Apache-2.0
// Products of few rows: y^T = W x^T, so that the rows of W fill wgmma's 64 and the tokens are its N.
//
// A block streams one tile of W (64 or 128 rows) through a ring of shared memory; the blocks of a cluster share a
// tile along K and add their parts through distributed shared memory. The weights do not depend on the kernel before,
// so the ring is filled with them before waiting for it. All blocks are resident at once or nearly so, two per
// multiprocessor: then each gets its share of the bandwidth and none is left with a tail.
#include "product.cuh"
#include "wgmma.cuh"

template <int BM, int BN, int STAGES> struct skinny_shape {
    static constexpr uint32_t w_bytes = BM * 128, x_bytes = BN * 128, stage = w_bytes + x_bytes;
    static constexpr uint32_t pitch =
        BM + 4; // floats per token of the staged result: no bank conflicts
    static constexpr uint32_t shared = STAGES * stage + STAGES * 16;
    static_assert(BN * pitch * 4 <= STAGES * stage, "the result is staged in the ring");
};

struct skinny_tile {
    uint32_t part, index; // of the matrix; within it
    uint32_t begin, end;  // stages of K
};

__device__ __forceinline__ skinny_tile skinny_find(const product_params &p)
{
    const uint32_t splits = cluster_size(), rank = cluster_rank(), tile = blockIdx.x / splits;
    skinny_tile t = {product_find(p, tile), tile, p.k_blocks * rank / splits,
                     p.k_blocks * (rank + 1) / splits};

    t.index -= p.parts[t.part].first;
    return t;
}

template <int BM>
__device__ __forceinline__ void skinny_load_weights(const product_params &p, const skinny_tile &t,
                                                    uint32_t k, uint32_t to, uint32_t barrier)
{
    const int32_t x = static_cast<int32_t>(k * PRODUCT_K);

    if (is_gated(p)) {
        const int32_t y = static_cast<int32_t>(t.index * (BM / 2));
        copy_2d(to, &p.weights[0], x, y, barrier, EVICT_FIRST);
        copy_2d(to + BM / 2 * 128, &p.weights[1], x, y, barrier, EVICT_FIRST);
    } else {
        copy_2d(to, &p.weights[t.part], x, static_cast<int32_t>(t.index * BM), barrier,
                EVICT_FIRST);
    }
}

template <int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny_produce(const product_params &p, const skinny_tile &t,
                                               uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = skinny_shape<BM, BN, STAGES>;
    const uint32_t n = t.end - t.begin;

    for (uint32_t i = 0; i < n && i < STAGES; i++) {
        barrier_arrive_expect(full + 8 * i, shape::stage);
        skinny_load_weights<BM>(p, t, t.begin + i, ring + i * shape::stage, full + 8 * i);
    }
    wait_for_predecessor();
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t s = i % STAGES, to = ring + s * shape::stage;
        if (i >= STAGES) {
            barrier_wait(empty + 8 * s, (i / STAGES - 1) & 1);
            barrier_arrive_expect(full + 8 * s, shape::stage);
            skinny_load_weights<BM>(p, t, t.begin + i, to, full + 8 * s);
        }
        copy_2d(to + shape::w_bytes, &p.x, static_cast<int32_t>((t.begin + i) * PRODUCT_K), 0,
                full + 8 * s, EVICT_LAST);
    }
    // Not before: the next kernel's loads shall fill the memory's time when this one's run out, not compete with them.
    allow_successor();
}

// Multiplies all stages and leaves the sums in `staged`, [token][row of the tile].
template <typename T, int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny_consume(uint32_t n, uint32_t ring, uint32_t full,
                                               uint32_t empty, float *staged)
{
    using shape = skinny_shape<BM, BN, STAGES>;
    float d[BM / 64][BN / 2];

#pragma unroll
    for (int m = 0; m < BM / 64; m++)
#pragma unroll
        for (int j = 0; j < BN / 2; j++)
            d[m][j] = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t s = i % STAGES, at = ring + s * shape::stage;
        barrier_wait(full + 8 * s, (i / STAGES) & 1);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < PRODUCT_K / 16; k++)
#pragma unroll
            for (int m = 0; m < BM / 64; m++)
                wgmma<T, BN>::run(d[m], wgmma_operand(at + m * 8192) + 2 * k,
                                  wgmma_operand(at + shape::w_bytes) + 2 * k, 1);
        wgmma_commit();
        wgmma_wait<1>();
        if (i > 0 && threadIdx.x % 32 == 0)
            barrier_arrive(empty + 8 * ((i - 1) % STAGES));
    }
    wgmma_wait<0>();
    asm volatile("bar.sync 1, 128;" ::: "memory"); // the ring is read; now it takes the result

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

// Adds up the cluster's parts at `address` of this block's result. All loads go out before the first is used.
template <int SPLITS> __device__ __forceinline__ float4 skinny_sum(uint32_t address)
{
    float4 v[SPLITS];

#pragma unroll
    for (int c = 0; c < SPLITS; c++)
        v[c] = peer_load4(peer_address(address, c));
#pragma unroll
    for (int c = 1; c < SPLITS; c++)
        v[0] = v[0] + v[c];
    return v[0];
}

// Each block of the cluster finishes an equal share of the tile's outputs.
template <typename T, int BM, int SPLITS>
__device__ __forceinline__ void skinny_finish_share(const product_params &p, const skinny_tile &t,
                                                    uint32_t staged, uint32_t pitch)
{
    const bool gated = is_gated(p);
    const uint32_t outputs = gated ? BM / 2 : BM, share = outputs / SPLITS;
    const uint32_t fours = share / 4, first = cluster_rank() * share;
    const product_part &part = p.parts[t.part];

    for (uint32_t i = threadIdx.x; i < p.rows * fours; i += SKINNY_THREADS) {
        const uint32_t token = i / fours, r = first + i % fours * 4, n = t.index * outputs + r;
        const uint32_t at = staged + (token * pitch + r) * 4;
        if (n >= part.n)
            continue;
        float4 v = skinny_sum<SPLITS>(at), u = v, residual = v;
        if (p.finish == PRODUCT_ADD)
            residual = load4<T>(p.residual, static_cast<uint64_t>(token) * part.n + n);
        if (gated)
            u = skinny_sum<SPLITS>(at + BM / 2 * 4);
        product_finish<T>(p, part, token, n, v, u, residual);
    }
}

template <typename T, int BM>
__device__ __forceinline__ void skinny_finish_tile(const product_params &p, const skinny_tile &t,
                                                   uint32_t staged, uint32_t pitch)
{
    switch (cluster_size()) {
    case 1: skinny_finish_share<T, BM, 1>(p, t, staged, pitch); break;
    case 2: skinny_finish_share<T, BM, 2>(p, t, staged, pitch); break;
    case 4: skinny_finish_share<T, BM, 4>(p, t, staged, pitch); break;
    default: skinny_finish_share<T, BM, 8>(p, t, staged, pitch); break;
    }
}

template <typename T, int BM, int BN, int STAGES>
__device__ __forceinline__ void skinny(const product_params &p)
{
    using shape = skinny_shape<BM, BN, STAGES>;
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), full = ring + STAGES * shape::stage;
    const uint32_t empty = full + 8 * STAGES, warp = threadIdx.x / 32;
    const skinny_tile t = skinny_find(p);

    if (threadIdx.x == 128) {
        map_prefetch(&p.weights[t.part]);
        map_prefetch(&p.x);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 4);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (warp == 4) {
        if (threadIdx.x == 128)
            skinny_produce<BM, BN, STAGES>(p, t, ring, full, empty);
        __syncwarp();
    } else {
        skinny_consume<T, BM, BN, STAGES>(t.end - t.begin, ring, full, empty,
                                          reinterpret_cast<float *>(memory));
    }
    wait_for_predecessor(); // for the residual; it has long ended
    cluster_sync();
    skinny_finish_tile<T, BM>(p, t, ring, shape::pitch);
    cluster_sync(); // the others may still read this block's part
}

#define SKINNY(name, T, BM, BN, STAGES)                                                            \
    extern "C" __global__ void __launch_bounds__(SKINNY_THREADS)                                   \
        skinny_##name##_##BM##x##BN##x##STAGES(const __grid_constant__ product_params p)           \
    {                                                                                              \
        skinny<T, BM, BN, STAGES>(p);                                                              \
    }

#define SKINNY_BF16(BM, BN, STAGES) SKINNY(bf16, __nv_bfloat16, BM, BN, STAGES)
#define SKINNY_F16(BM, BN, STAGES) SKINNY(f16, __half, BM, BN, STAGES)
SKINNY_SHAPES(SKINNY_BF16)
SKINNY_SHAPES(SKINNY_F16)
