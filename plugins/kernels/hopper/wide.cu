// SPDX-License-Identifier: Apache-2.0
// Products of many rows: bound by arithmetic. A block takes tiles of 128 tokens by N rows of the matrix; one thread
// copies through a ring, two warpgroups of 64 tokens each multiply with wgmma and finish from registers. The two blocks
// of a cluster take neighbouring tiles of tokens and the same rows of the matrix: each copies half of those, to both, since
// the second cache could not feed the tensor cores otherwise. Blocks stay for several tiles, so that copies for the
// next begin while the last is finished.
#include "product.cuh"
#include "wgmma.cuh"

#define X_BYTES (WIDE_TOKENS * 128)
#define RUN 16 // tiles of tokens that share a tile of the matrix while it is in the cache

struct wide_tile {
    uint32_t part, index; // of the matrix; within it
    uint32_t token;       // first
};

// What a block works with. Shared addresses.
struct wide_block {
    uint32_t ring, full, empty;
    uint32_t first, step, count; // its tiles: those of its cluster
    uint32_t rank;               // in the cluster
};

// Tiles in an order in which those that run at a time share what they read: runs of tokens first, then the matrix.
template <int C>
__device__ __forceinline__ wide_tile wide_find(const product_params &p, const wide_block &b,
                                               uint32_t i)
{
    const uint32_t all = (p.rows + C * WIDE_TOKENS - 1) / (C * WIDE_TOKENS);
    const uint32_t run = i / (RUN / C * p.tiles), before = run * (RUN / C);
    const uint32_t height = min(static_cast<uint32_t>(RUN / C), all - before);
    const uint32_t in = i - before * p.tiles, tile = in / height;
    wide_tile t = {product_find(p, tile), tile,
                   ((before + in % height) * C + b.rank) * WIDE_TOKENS};

    t.index -= p.parts[t.part].first;
    return t;
}

// Half `half` of a tile's rows of the matrix: of gated products, those of gate or up.
template <int N, int C>
__device__ __forceinline__ void wide_copy_half(const product_params &p, const wide_tile &t,
                                               uint32_t half, int32_t x, uint32_t to,
                                               uint32_t barrier)
{
    const bool gated = is_gated(p);
    const void *map = &p.weights[gated ? half : t.part];
    const int32_t y =
        static_cast<int32_t>(gated ? t.index * (N / 2) : t.index * N + half * (N / 2));

    to += X_BYTES + half * (N / 2) * 128;
    if (C == 1)
        copy_2d(to, map, x, y, barrier, EVICT_FIRST);
    else
        copy_2d_to(to, map, x, y, barrier, EVICT_FIRST, (1 << C) - 1);
}

template <int N, int STAGES, int C>
__device__ __forceinline__ void wide_produce(const product_params &p, const wide_block &b)
{
    constexpr uint32_t stage = X_BYTES + N * 128;
    uint32_t i = 0; // stages so far

    for (uint32_t tile = b.first; tile < b.count; tile += b.step) {
        const wide_tile t = wide_find<C>(p, b, tile);
        for (uint32_t k = 0; k < p.k_blocks; k++, i++) {
            const uint32_t s = i % STAGES, to = b.ring + s * stage, full = b.full + 8 * s;
            const int32_t x = static_cast<int32_t>(k * PRODUCT_K);
            if (i >= STAGES)
                barrier_wait(b.empty + 8 * s, (i / STAGES - 1) & 1);
            barrier_arrive_expect(full, stage);
            copy_2d(to, &p.x, x, static_cast<int32_t>(t.token), full, EVICT_LAST);
            for (uint32_t half = C == 1 ? 0 : b.rank; half < 2; half += C)
                wide_copy_half<N, C>(p, t, half, x, to, full);
        }
    }
}

// Four neighbouring outputs from pairs in two groups of eight columns: lanes of even number take the first group, of odd
// number the second.
template <int S> __device__ __forceinline__ float4 wide_four(const float (&d)[S], int group, int h)
{
    const bool odd = threadIdx.x % 2;
    const float a0 = d[4 * group + 2 * h], a1 = d[4 * group + 2 * h + 1];
    const float b0 = d[4 * group + 4 + 2 * h], b1 = d[4 * group + 5 + 2 * h];
    const float x0 = __shfl_xor_sync(0xFFFFFFFFu, odd ? a0 : b0, 1);
    const float x1 = __shfl_xor_sync(0xFFFFFFFFu, odd ? a1 : b1, 1);

    return odd ? make_float4(x0, x1, b0, b1) : make_float4(a0, a1, x0, x1);
}

// The way back.
template <int S>
__device__ __forceinline__ void wide_spread(float (&d)[S], int group, int h, float4 v)
{
    const bool odd = threadIdx.x % 2;
    const float x0 = __shfl_xor_sync(0xFFFFFFFFu, odd ? v.x : v.z, 1);
    const float x1 = __shfl_xor_sync(0xFFFFFFFFu, odd ? v.y : v.w, 1);

    d[4 * group + 2 * h] = odd ? x0 : v.x;
    d[4 * group + 2 * h + 1] = odd ? x1 : v.y;
    d[4 * group + 4 + 2 * h] = odd ? v.z : x0;
    d[4 * group + 5 + 2 * h] = odd ? v.w : x1;
}

// Where a thread's first outputs are.
struct wide_place {
    uint32_t token, n;
};

template <int N>
__device__ __forceinline__ wide_place wide_at(const product_params &p, const wide_tile &t)
{
    const uint32_t lane = threadIdx.x % 32, column = lane % 2 * 8 + lane % 4 / 2 * 4;

    return {t.token + threadIdx.x / 32 * 16 - 64 + lane / 4,
            t.index * (is_gated(p) ? N / 2 : N) + column};
}

// Sums begin with the residual, so that all its loads are under way at once while the ring fills. One path for all, since the
// compiler lets no wgmma overlap another where their accumulators come from two.
template <typename T, int N>
__device__ __forceinline__ void wide_begin(const product_params &p, const wide_tile &t,
                                           float (&d)[N / 2])
{
    const wide_place at = wide_at<N>(p, t);
    const uint32_t n = p.finish == PRODUCT_ADD ? p.parts[0].n : 0;
    uint2 r[N / 8];

#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        const uint32_t token = at.token + i % 2 * 8, column = at.n + i / 2 * 16;
        r[i] = make_uint2(0, 0);
        if (token < p.rows && column < n)
            r[i] = *reinterpret_cast<const uint2 *>(static_cast<const T *>(p.residual) +
                                                    static_cast<uint64_t>(token) * n + column);
    }
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        const float2 a = element<T>::unpack(r[i].x), b = element<T>::unpack(r[i].y);
        wide_spread(d, i / 2 * 2, i % 2, make_float4(a.x, a.y, b.x, b.y));
    }
}

template <typename T, int N>
__device__ __forceinline__ void wide_finish(const product_params &p, const wide_tile &t,
                                            const float (&d)[N / 2])
{
    const wide_place at = wide_at<N>(p, t);
    const product_part part = p.parts[is_gated(p) ? 0 : t.part];
    const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

    if (is_gated(p)) {
#pragma unroll
        for (int i = 0; i < N / 16; i++) {
            const int group = i / 2 * 2, h = i % 2;
            const float4 v = wide_four(d, group, h), u = wide_four(d, group + N / 16, h);
            if (at.token + 8 * h < p.rows && at.n + 8 * group < part.n)
                product_finish<T>(p, part, at.token + 8 * h, at.n + 8 * group, v, u, none);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        const int group = i / 2 * 2, h = i % 2;
        const float4 v = wide_four(d, group, h);
        if (at.token + 8 * h < p.rows && at.n + 8 * group < part.n)
            product_finish<T>(p, part, at.token + 8 * h, at.n + 8 * group, v, none, none);
    }
}

// A stage has been read: tells the blocks that copy to it.
template <int C> __device__ __forceinline__ void wide_release(uint32_t empty)
{
    const uint32_t lane = threadIdx.x % 32;

    if (C == 1 && lane == 0)
        barrier_arrive(empty);
    if (C > 1 && lane < C)
        barrier_arrive_at(peer_address(empty, lane));
}

template <typename T, int N, int STAGES, int C>
__device__ __forceinline__ void wide_consume(const product_params &p, const wide_block &b)
{
    constexpr uint32_t stage = X_BYTES + N * 128;
    const uint32_t half = (threadIdx.x / 128 - 1) * 8192;
    uint32_t i = 0; // stages so far
    float d[N / 2];

    for (uint32_t tile = b.first; tile < b.count; tile += b.step) {
        const wide_tile t = wide_find<C>(p, b, tile);
        wide_begin<T, N>(p, t, d);
        for (uint32_t k = 0; k < p.k_blocks; k++, i++) {
            const uint32_t s = i % STAGES, at = b.ring + s * stage;
            barrier_wait(b.full + 8 * s, (i / STAGES) & 1);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < PRODUCT_K / 16; j++)
                wgmma<T, N>::run(d, wgmma_operand(at + half) + 2 * j,
                                 wgmma_operand(at + X_BYTES) + 2 * j, 1);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0)
                wide_release<C>(b.empty + 8 * ((i - 1) % STAGES));
        }
        wgmma_wait<0>();
        wide_release<C>(b.empty + 8 * ((i - 1) % STAGES));
        wide_finish<T, N>(p, t, d);
    }
}

template <typename T, int N, int STAGES, int C>
__device__ __forceinline__ void wide(const product_params &p)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), full = ring + STAGES * (X_BYTES + N * 128);
    const uint32_t tokens = C * WIDE_TOKENS;
    const wide_block b = {ring,
                          full,
                          full + 8 * STAGES,
                          blockIdx.x / C,
                          gridDim.x / C,
                          (p.rows + tokens - 1) / tokens * p.tiles,
                          C > 1 ? cluster_rank() : 0};

    if (threadIdx.x == 0) {
        map_prefetch(&p.x);
        map_prefetch(&p.weights[0]);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(b.full + 8 * i, 1);
            barrier_init(b.empty + 8 * i, 8 * C);
        }
        barrier_init_fence();
    }
    if (C > 1)
        cluster_sync();
    else
        __syncthreads();
    allow_successor();
    wait_for_predecessor();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0)
            wide_produce<N, STAGES, C>(p, b);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        wide_consume<T, N, STAGES, C>(p, b);
    }
    if (C > 1)
        cluster_end(); // the other block may still copy to this one, and tell it what it has read
}

#define WIDE(name, T, N, STAGES, C)                                                                \
    extern "C" __global__ void __launch_bounds__(WIDE_THREADS, 1)                                  \
        wide_##name##_##N##x##STAGES##x##C(const __grid_constant__ product_params p)               \
    {                                                                                              \
        wide<T, N, STAGES, C>(p);                                                                  \
    }

#define WIDE_BF16(N, STAGES, C) WIDE(bf16, __nv_bfloat16, N, STAGES, C)
#define WIDE_F16(N, STAGES, C) WIDE(f16, __half, N, STAGES, C)
WIDE_SHAPES(WIDE_BF16)
WIDE_SHAPES(WIDE_F16)
