// SPDX-License-Identifier: Apache-2.0
// Products of many rows of 8 bits: bound by arithmetic, and next by what the second-level cache can deliver. A block takes
// tiles of 128 tokens by N rows of the matrix; the two blocks of a cluster take neighbouring tokens and the same rows of the
// matrix, of which each copies one half to both. One thread copies through a ring of several stages, two warpgroups of 64
// tokens each multiply with wgmma and finish from registers. Clusters stay for several tiles, so that copies for the next
// begin while the last is finished.
#include "eight.cuh"

#define C EIGHT_CLUSTER
#define X_BYTES (EIGHT_TOKENS * 128)
#define RUN 8 // pairs of tiles of tokens that share a tile of the matrix while it is in the cache

struct many_tile {
    uint32_t part, index; // of the matrix; within it
    uint32_t token;       // first
};

struct many_block {
    uint32_t ring, full, empty;
    uint32_t first, step, count; // clusters' tiles
    uint32_t rank;
};

// Tiles in an order in which those that run at a time share what they read: runs of tokens first, then the matrix.
__device__ __forceinline__ many_tile many_find(const product_params &p, const many_block &b,
                                               uint32_t i)
{
    const uint32_t all = (p.rows + C * EIGHT_TOKENS - 1) / (C * EIGHT_TOKENS);
    const uint32_t run = i / (RUN * p.tiles),
                   height = min(static_cast<uint32_t>(RUN), all - run * RUN);
    const uint32_t in = i - run * RUN * p.tiles, tile = in / height;
    many_tile t = {product_find(p, tile), tile,
                   ((run * RUN + in % height) * C + b.rank) * EIGHT_TOKENS};

    t.index -= p.parts[t.part].first;
    return t;
}

// What a block copies of a stage: its half of the rows of the matrix, to both, and its own tokens.
template <int N>
__device__ __forceinline__ void many_copy_matrix(const product_params &p, const many_block &b,
                                                 const many_tile &t, uint32_t k, uint32_t stage)
{
    constexpr uint32_t half = N / 2 * 128, bytes = X_BYTES + 2 * half;
    const uint32_t to = b.ring + stage * bytes, barrier = b.full + 8 * stage;
    const uint32_t matrix = is_gated(p) ? b.rank : t.part;
    const uint32_t y = t.index * (is_gated(p) ? N / 2 : N) + (is_gated(p) ? 0 : b.rank * (N / 2));

    barrier_arrive_expect(barrier, bytes);
    copy_2d_to(to + X_BYTES + b.rank * half, &p.weights[matrix], static_cast<int32_t>(k * EIGHT_K),
               static_cast<int32_t>(y), barrier, EVICT_FIRST, (1 << C) - 1);
}

template <int N>
__device__ __forceinline__ void many_copy_tokens(const product_params &p, const many_block &b,
                                                 const many_tile &t, uint32_t k, uint32_t stage)
{
    copy_2d(b.ring + stage * (X_BYTES + N * 128), &p.x, static_cast<int32_t>(k * EIGHT_K),
            static_cast<int32_t>(t.token), b.full + 8 * stage, EVICT_LAST);
}

// The matrix does not depend on the kernel before: the ring is filled with the first tile's before waiting for it.
template <int N, int STAGES>
__device__ __forceinline__ void many_produce(const product_params &p, const many_block &b)
{
    const uint32_t ahead = min(p.k_blocks, static_cast<uint32_t>(STAGES));
    uint32_t i = 0;

    for (uint32_t k = 0; k < ahead && b.first < b.count; k++)
        many_copy_matrix<N>(p, b, many_find(p, b, b.first), k, k);
    wait_for_predecessor();
    for (uint32_t tile = b.first; tile < b.count; tile += b.step) {
        const many_tile t = many_find(p, b, tile);
        for (uint32_t k = 0; k < p.k_blocks; k++, i++) {
            if (i >= STAGES)
                barrier_wait(b.empty + 8 * (i % STAGES), (i / STAGES - 1) & 1);
            if (i >= ahead)
                many_copy_matrix<N>(p, b, t, k, i % STAGES);
            many_copy_tokens<N>(p, b, t, k, i % STAGES);
        }
    }
}

// A stage has been read: tells both blocks, which both copy to it.
__device__ __forceinline__ void many_release(uint32_t empty)
{
    const uint32_t lane = threadIdx.x % 32;

    if (lane < C)
        barrier_arrive_at(peer_address(empty, lane));
}

// Four neighbouring outputs from pairs in two groups of eight columns: lanes of even number take the first group, of odd
// number the second.
template <typename S, int SUMS>
__device__ __forceinline__ float4 many_four(const S (&d)[SUMS], int group, int h)
{
    const bool odd = threadIdx.x % 2;
    const S a0 = d[4 * group + 2 * h], a1 = d[4 * group + 2 * h + 1];
    const S b0 = d[4 * group + 4 + 2 * h], b1 = d[4 * group + 5 + 2 * h];
    const S x0 = __shfl_xor_sync(0xFFFFFFFFu, odd ? a0 : b0, 1);
    const S x1 = __shfl_xor_sync(0xFFFFFFFFu, odd ? a1 : b1, 1);

    return odd ? make_float4(x0, x1, b0, b1) : make_float4(a0, a1, x0, x1);
}

// Where a thread's outputs are: two tokens, eight apart, and columns from n on.
struct many_place {
    uint32_t token, n;
    float step[2];
};

// FINISH: which activation, known to the compiler so that it is not asked for each output.
template <typename T, int FINISH, int N, typename S>
__device__ __forceinline__ void many_finish_gated(const eight_params &q, const many_place &at,
                                                  const S (&d)[N / 2])
{
    const product_part &part = q.p.parts[0];

#pragma unroll
    for (int group = 0; group < N / 16; group += 2) {
        const uint32_t n = at.n + 8 * group, from = min(n, part.n - 4);
        const float4 f = eight_scale(q, 0, from), g = eight_scale(q, 1, from);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float4 v = many_four(d, group, h), u = many_four(d, group + N / 16, h);
            v = eight_scaled(q, 0, from, at.step[h], f, v);
            u = eight_scaled(q, 1, from, at.step[h], g, u);
            v = make_float4(product_act(v.x, FINISH) * u.x, product_act(v.y, FINISH) * u.y,
                            product_act(v.z, FINISH) * u.z, product_act(v.w, FINISH) * u.w);
            if (at.token + 8 * h < q.p.rows && n < part.n)
                store4<T>(part.out, static_cast<uint64_t>(at.token + 8 * h) * part.n + n, v);
        }
    }
}

// Residuals and scales are loaded for several outputs at once, since no load passes the stores before it.
template <typename T, bool ADD, int N, typename S>
__device__ __forceinline__ void many_finish_plain(const eight_params &q, uint32_t index,
                                                  const many_place &at, const S (&d)[N / 2])
{
    const product_params &p = q.p;
    const product_part &part = p.parts[index];

#pragma unroll
    for (int run = 0; run < N / 8; run += 8) {
        uint2 raw[8];
        float4 scale[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            scale[i] = eight_scale(q, index, min(at.n + 8 * (run + i * 2), part.n - 4));
#pragma unroll
        for (int i = 0; ADD && i < 8; i++) {
            const uint32_t token = min(at.token + i % 2 * 8, p.rows - 1);
            const uint32_t n = min(at.n + 8 * (run + i / 2 * 2), part.n - 4);
            raw[i] = *reinterpret_cast<const uint2 *>(static_cast<const T *>(p.residual) +
                                                      static_cast<uint64_t>(token) * part.n + n);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int group = run + i / 2 * 2, h = i % 2;
            const uint32_t token = at.token + 8 * h, n = at.n + 8 * group;
            float4 v = eight_scaled(q, index, min(n, part.n - 4), at.step[h], scale[i / 2],
                                    many_four(d, group, h));
            if (ADD) {
                const float2 a = element<T>::unpack(raw[i].x), b = element<T>::unpack(raw[i].y);
                v = v + make_float4(a.x, a.y, b.x, b.y);
            }
            if (token < p.rows && n < part.n)
                store4<T>(part.out, static_cast<uint64_t>(token) * part.n + n, v);
        }
    }
}

template <typename T, int N, typename S>
__device__ __forceinline__ void many_finish(const eight_params &q, const many_tile &t,
                                            const S (&d)[N / 2])
{
    const uint32_t lane = threadIdx.x % 32, column = lane % 2 * 8 + lane % 4 / 2 * 4;
    const uint32_t width = is_gated(q.p) ? N / 2 : N;
    many_place at = {t.token + threadIdx.x / 32 * 16 - 64 + lane / 4, t.index * width + column, {}};

#pragma unroll
    for (int h = 0; h < 2; h++)
        at.step[h] = at.token + 8 * h < q.p.rows ? q.step[at.token + 8 * h] : 0.0f;
    switch (q.p.finish) {
    case PRODUCT_STORE: many_finish_plain<T, false, N>(q, t.part, at, d); break;
    case PRODUCT_ADD: many_finish_plain<T, true, N>(q, t.part, at, d); break;
    case PRODUCT_SILU: many_finish_gated<T, PRODUCT_SILU, N>(q, at, d); break;
    case PRODUCT_GELU: many_finish_gated<T, PRODUCT_GELU, N>(q, at, d); break;
    default: many_finish_gated<T, PRODUCT_GELU_TANH, N>(q, at, d); break;
    }
}

template <typename E, typename T, int N, int STAGES>
__device__ __forceinline__ void many_consume(const eight_params &q, const many_block &b)
{
    const uint32_t half = (threadIdx.x / 128 - 1) * 8192;
    uint32_t i = 0; // stages so far
    typename E::sum d[N / 2];

    for (uint32_t tile = b.first; tile < b.count; tile += b.step) {
        const many_tile t = many_find(q.p, b, tile);
        for (uint32_t k = 0; k < q.p.k_blocks; k++, i++) {
            const uint32_t s = i % STAGES, at = b.ring + s * (X_BYTES + N * 128);
            barrier_wait(b.full + 8 * s, (i / STAGES) & 1);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < 4; j++)
                wgmma8<E, N>::run(d, wgmma_operand(at + half) + 2 * j,
                                  wgmma_operand(at + X_BYTES) + 2 * j, k > 0 || j > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0)
                many_release(b.empty + 8 * ((i - 1) % STAGES));
        }
        wgmma_wait<0>();
        many_release(b.empty + 8 * ((i - 1) % STAGES));
        many_finish<T, N>(q, t, d);
    }
}

template <typename E, typename T, int N, int STAGES>
__device__ __forceinline__ void many(const eight_params &q)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    const product_params &p = q.p;
    const uint32_t ring = shared_address(memory), full = ring + STAGES * (X_BYTES + N * 128);
    const uint32_t pairs = (p.rows + C * EIGHT_TOKENS - 1) / (C * EIGHT_TOKENS);
    const many_block b = {ring,           full,          full + 8 * STAGES,
                          blockIdx.x / C, gridDim.x / C, pairs * p.tiles,
                          cluster_rank()};

    if (threadIdx.x == 0) {
        map_prefetch(&p.x);
        map_prefetch(&p.weights[0]);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(b.full + 8 * i, 1);
            barrier_init(b.empty + 8 * i, 8 * C);
        }
        barrier_init_fence();
    }
    cluster_sync();
    allow_successor();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0)
            many_produce<N, STAGES>(p, b);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        wait_for_predecessor(); // for steps and the residual
        many_consume<E, T, N, STAGES>(q, b);
    }
    cluster_end(); // the other block may still copy to this one, and tell it what it has read
}

#define MANY(E, name, T, N, STAGES)                                                                \
    extern "C" __global__ void __launch_bounds__(EIGHT_THREADS, 1)                                 \
        many_##E##_##name##_##N##x##STAGES(const __grid_constant__ eight_params p)                 \
    {                                                                                              \
        many<E, T, N, STAGES>(p);                                                                  \
    }

#define MANY_E4M3_BF16(N, STAGES) MANY(e4m3, bf16, __nv_bfloat16, N, STAGES)
#define MANY_E4M3_F16(N, STAGES) MANY(e4m3, f16, __half, N, STAGES)
#define MANY_S8_BF16(N, STAGES) MANY(s8, bf16, __nv_bfloat16, N, STAGES)
#define MANY_S8_F16(N, STAGES) MANY(s8, f16, __half, N, STAGES)
MANY_SHAPES(MANY_E4M3_BF16)
MANY_SHAPES(MANY_E4M3_F16)
MANY_SHAPES(MANY_S8_BF16)
MANY_SHAPES(MANY_S8_F16)
