// SPDX-License-Identifier: Apache-2.0
// Products of many rows: bound by arithmetic. A block takes tiles of 128 tokens by 256 rows of the matrix; one thread
// copies through a ring of four stages, two warpgroups of 64 tokens each multiply with wgmma and finish from registers.
// Blocks stay for several tiles, so that copies for the next begin while the last is finished.
#include "product.cuh"
#include "wgmma.cuh"

#define STAGES WIDE_STAGES
#define X_BYTES (WIDE_TOKENS * 128)
#define STAGE (X_BYTES + WIDE_ROWS * 128)
#define RUN 16 // tiles of tokens that share a tile of the matrix while it is in the cache

struct wide_tile {
    uint32_t part, index; // of the matrix; within it
    uint32_t token;       // first
};

// Tiles in an order in which those that run at a time share what they read: runs of tokens first, then the matrix.
__device__ __forceinline__ wide_tile wide_find(const product_params &p, uint32_t i)
{
    const uint32_t all = (p.rows + WIDE_TOKENS - 1) / WIDE_TOKENS, run = i / (RUN * p.tiles);
    const uint32_t height = min(static_cast<uint32_t>(RUN), all - run * RUN);
    const uint32_t in = i - run * RUN * p.tiles, tile = in / height;
    wide_tile t = {product_find(p, tile), tile, (run * RUN + in % height) * WIDE_TOKENS};

    t.index -= p.parts[t.part].first;
    return t;
}

__device__ __forceinline__ void wide_copy(const product_params &p, const wide_tile &t, uint32_t k,
                                          uint32_t to, uint32_t barrier)
{
    const int32_t x = static_cast<int32_t>(k * PRODUCT_K);

    barrier_arrive_expect(barrier, STAGE);
    copy_2d(to, &p.x, x, static_cast<int32_t>(t.token), barrier, EVICT_LAST);
    if (is_gated(p)) {
        const int32_t y = static_cast<int32_t>(t.index * (WIDE_ROWS / 2));
        copy_2d(to + X_BYTES, &p.weights[0], x, y, barrier, EVICT_FIRST);
        copy_2d(to + X_BYTES + WIDE_ROWS / 2 * 128, &p.weights[1], x, y, barrier, EVICT_FIRST);
    } else {
        copy_2d(to + X_BYTES, &p.weights[t.part], x, static_cast<int32_t>(t.index * WIDE_ROWS),
                barrier, EVICT_FIRST);
    }
}

// Four neighbouring outputs from pairs in two groups of eight columns: lanes of even number take the first group, of odd
// number the second.
__device__ __forceinline__ float4 wide_four(const float (&d)[128], int group, int h)
{
    const bool odd = threadIdx.x % 2;
    const float a0 = d[4 * group + 2 * h], a1 = d[4 * group + 2 * h + 1];
    const float b0 = d[4 * group + 4 + 2 * h], b1 = d[4 * group + 5 + 2 * h];
    const float x0 = __shfl_xor_sync(0xFFFFFFFFu, odd ? a0 : b0, 1);
    const float x1 = __shfl_xor_sync(0xFFFFFFFFu, odd ? a1 : b1, 1);

    return odd ? make_float4(x0, x1, b0, b1) : make_float4(a0, a1, x0, x1);
}

// Where a thread's first outputs are.
struct wide_place {
    uint32_t token, n;
};

template <typename T>
__device__ __forceinline__ void wide_finish_gated(const product_params &p, const wide_place &at,
                                                  const float (&d)[128])
{
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int group = i / 2 * 2, h = i % 2;
        const float4 v = wide_four(d, group, h), u = wide_four(d, group + 16, h);
        if (at.token + 8 * h < p.rows && at.n + 8 * group < p.parts[0].n)
            product_finish<T>(p, p.parts[0], at.token + 8 * h, at.n + 8 * group, v, u, v);
    }
}

// Residuals are loaded eight at a time, since no load passes the stores before it.
template <typename T>
__device__ __forceinline__ void wide_finish_plain(const product_params &p, const product_part &part,
                                                  const wide_place &at, const float (&d)[128])
{
#pragma unroll
    for (int run = 0; run < 32; run += 8) {
        float4 r[8];
        if (p.finish == PRODUCT_ADD)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t token = at.token + i % 2 * 8, n = at.n + 8 * (run + i / 2 * 2);
                if (token < p.rows && n < part.n)
                    r[i] = load4<T>(p.residual, static_cast<uint64_t>(token) * part.n + n);
            }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int group = run + i / 2 * 2, h = i % 2;
            const float4 v = wide_four(d, group, h);
            if (at.token + 8 * h < p.rows && at.n + 8 * group < part.n)
                product_finish<T>(p, part, at.token + 8 * h, at.n + 8 * group, v, v, r[i]);
        }
    }
}

template <typename T>
__device__ __forceinline__ void wide_finish(const product_params &p, const wide_tile &t,
                                            const float (&d)[128])
{
    const uint32_t lane = threadIdx.x % 32, column = lane % 2 * 8 + lane % 4 / 2 * 4;
    const uint32_t width = is_gated(p) ? WIDE_ROWS / 2 : WIDE_ROWS;
    const wide_place at = {t.token + threadIdx.x / 32 * 16 - 64 + lane / 4,
                           t.index * width + column};

    if (is_gated(p))
        wide_finish_gated<T>(p, at, d);
    else
        wide_finish_plain<T>(p, p.parts[t.part], at, d);
}

template <typename T>
__device__ __forceinline__ void wide_consume(const product_params &p, uint32_t ring, uint32_t full,
                                             uint32_t empty, uint32_t count)
{
    const uint32_t half = (threadIdx.x / 128 - 1) * 8192;
    uint32_t i = 0; // stages so far
    float d[128];

    for (uint32_t tile = blockIdx.x; tile < count; tile += gridDim.x) {
        const wide_tile t = wide_find(p, tile);
        for (uint32_t k = 0; k < p.k_blocks; k++, i++) {
            const uint32_t s = i % STAGES, at = ring + s * STAGE;
            barrier_wait(full + 8 * s, (i / STAGES) & 1);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < PRODUCT_K / 16; j++)
                wgmma<T, WIDE_ROWS>::run(d, wgmma_operand(at + half) + 2 * j,
                                         wgmma_operand(at + X_BYTES) + 2 * j, k > 0 || j > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0 && threadIdx.x % 32 == 0)
                barrier_arrive(empty + 8 * ((i - 1) % STAGES));
        }
        wgmma_wait<0>();
        if (threadIdx.x % 32 == 0)
            barrier_arrive(empty + 8 * ((i - 1) % STAGES));
        wide_finish<T>(p, t, d);
    }
}

template <typename T> __device__ __forceinline__ void wide(const product_params &p)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), full = ring + STAGES * STAGE;
    const uint32_t empty = full + 8 * STAGES;
    const uint32_t count = (p.rows + WIDE_TOKENS - 1) / WIDE_TOKENS * p.tiles;

    if (threadIdx.x == 0) {
        map_prefetch(&p.x);
        map_prefetch(&p.weights[0]);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);
        }
        barrier_init_fence();
    }
    __syncthreads();
    allow_successor();
    wait_for_predecessor();
    if (threadIdx.x < 128) {
        uint32_t i = 0;
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x > 0)
            return;
        for (uint32_t tile = blockIdx.x; tile < count; tile += gridDim.x) {
            const wide_tile t = wide_find(p, tile);
            for (uint32_t k = 0; k < p.k_blocks; k++, i++) {
                const uint32_t s = i % STAGES;
                if (i >= STAGES)
                    barrier_wait(empty + 8 * s, (i / STAGES - 1) & 1);
                wide_copy(p, t, k, ring + s * STAGE, full + 8 * s);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        wide_consume<T>(p, ring, full, empty, count);
    }
}

#define WIDE(name, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(WIDE_THREADS, 1)                                  \
        wide_##name(const __grid_constant__ product_params p)                                      \
    {                                                                                              \
        wide<T>(p);                                                                                \
    }

WIDE(bf16, __nv_bfloat16)
WIDE(f16, __half)
