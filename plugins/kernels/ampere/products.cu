/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of few rows, which are as fast as the weights can be read.
 *
 * `gemv` serves 1 to 4 rows on CUDA cores: a warp makes two outputs, with eight loads of 16 bytes per lane on their way.
 * `skinny` serves up to 64 rows on tensor cores, as y^T = w x^T: rows of the matrix fill the 16 of the instruction and
 * rows of the step its 8, so that little is padded. A block streams its rows of the matrix through a ring in shared
 * memory; its warps share them out and, along k, the ring. Gates and what they gate are made in one block.
 */
#include "../common/cuda_product.cuh"

__device__ __forceinline__ uint64_t row_of(const product_args &p, uint32_t row)
{
    uint32_t r = row < p.rows ? row : p.rows - 1;

    return p.row_index ? (uint64_t)p.row_index[r] : r;
}

/* -- One to four rows --------------------------------------------------------------------------------------- */

#define GEMV_WARPS 8
#define GEMV_UNROLL 4

/* sum[m] += the products of 16 bytes of a matrix's row with those of M rows of x. */
template <typename T, int M>
__device__ __forceinline__ void gemv_step(const uint4 &raw, const T *const x[M], uint64_t k,
                                          float sum[M])
{
    constexpr int per = per16<T>;
    float w[per];

    widen16<T>(raw, w);
#pragma unroll
    for (int m = 0; m < M; m++) {
        float v[per];
        widen16<T>(*(const uint4 *)(x[m] + k), v);
#pragma unroll
        for (int i = 0; i < per; i++)
            sum[m] += w[i] * v[i];
    }
}

/* A warp makes outputs n and n + 1 of one matrix, or output n of both gate and up. */
template <typename T, int M> __device__ __forceinline__ void gemv(const product_args &p)
{
    constexpr uint64_t per = per16<T>, stride = 32 * per;
    uint32_t part_index = find_part(p, blockIdx.x), warp = threadIdx.x / 32;
    const part &a = p.parts[part_index], &b = is_gate(p) ? p.parts[1] : a;
    uint32_t unit = (blockIdx.x - a.first) * GEMV_WARPS + warp;
    uint32_t n0 = is_gate(p) ? unit : 2 * unit, n1 = is_gate(p) ? unit : 2 * unit + 1;
    const T *x[M], *w[2];
    float sum[2][M] = {};

    if (n0 >= a.n)
        return;
    w[0] = (const T *)((const char *)a.w + n0 * a.stride);
    w[1] = (const T *)((const char *)b.w + (n1 < b.n ? n1 : n0) * b.stride);
    uint64_t k = (threadIdx.x & 31) * per;
    uint4 ahead[2][GEMV_UNROLL];
#pragma unroll
    for (int u = 0; u < GEMV_UNROLL; u++) /* weights do not depend on the kernel ahead */
#pragma unroll
        for (int r = 0; r < 2; r++)
            ahead[r][u] =
                k + u * stride < p.k ? load_once(w[r] + k + u * stride) : make_uint4(0, 0, 0, 0);
    wait_for_previous();
#pragma unroll
    for (int m = 0; m < M; m++)
        x[m] = (const T *)p.x + row_of(p, m) * p.k;
    for (; k < p.k; k += GEMV_UNROLL * stride) {
        uint64_t next = k + GEMV_UNROLL * stride;
#pragma unroll
        for (int u = 0; u < GEMV_UNROLL; u++) {
            uint64_t at = k + u * stride;
            if (at < p.k) {
                gemv_step<T, M>(ahead[0][u], x, at, sum[0]);
                gemv_step<T, M>(ahead[1][u], x, at, sum[1]);
            }
#pragma unroll
            for (int r = 0; r < 2; r++)
                if (next + u * stride < p.k)
                    ahead[r][u] = load_once(w[r] + next + u * stride);
        }
    }
    let_next_begin();
#pragma unroll
    for (int m = 0; m < M; m++) {
        float first = warp_sum(sum[0][m]), second = warp_sum(sum[1][m]);
        if ((threadIdx.x & 31) != 0 || m >= (int)p.rows)
            continue;
        if (is_gate(p)) {
            finish_gate<T>(p, m, n0, first, second);
            continue;
        }
        finish_one<T>(p, a, m, n0, first);
        if (n1 < a.n)
            finish_one<T>(p, a, m, n1, second);
    }
}

#define STAMP_GEMV(x, T, m)                                                                        \
    extern "C" __global__ void __launch_bounds__(32 * GEMV_WARPS) gemv_##m##_##x(product_args p)   \
    {                                                                                              \
        gemv<T, m>(p);                                                                             \
    }
#define STAMP_GEMVS(m) STAMP_GEMV(f32, float, m) STAMP_GEMV(f16, f16, m) STAMP_GEMV(bf16, bf16, m)

STAMP_GEMVS(1)
STAMP_GEMVS(2)
STAMP_GEMVS(4)

/* -- Up to 64 rows ------------------------------------------------------------------------------------------- */

#define STAGES 3
#define PANEL 64 /* elements of k of one warp in one stage: rows of 128 bytes */

/* BM rows of the matrix in BM / 16 groups of warps; each group's warps take a panel of k each. */
template <int BM, int BN> struct skinny_shape {
    static constexpr int groups = BM / 16, panels = 8 / groups, depth = panels * PANEL;
    static constexpr uint32_t w_bytes = BM * PANEL * 2, x_bytes = BN * PANEL * 2;
    static constexpr uint32_t stage = panels * (w_bytes + x_bytes);
};

/* Row `r` of the block's tile: half of a gate's tile is of the other matrix. */
template <int BM>
__device__ __forceinline__ const char *tile_row(const product_args &p, const part &m, uint32_t n0,
                                                uint32_t r, bool *valid)
{
    const part &of = is_gate(p) && r >= BM / 2 ? p.parts[1] : m;
    uint32_t n = n0 + (is_gate(p) && r >= BM / 2 ? r - BM / 2 : r);

    *valid = n < of.n;
    return (const char *)of.w + (*valid ? n : 0) * of.stride;
}

/* Begins to copy the stage of k from `k0` on: of the matrix, or of x. */
template <int BM, int BN, bool of_x>
__device__ __forceinline__ void skinny_load(const product_args &p, const part &m, uint32_t n0,
                                            uint64_t k0, uint32_t to)
{
    using shape = skinny_shape<BM, BN>;
    constexpr int rows = of_x ? BN : BM, chunks = shape::panels * 8;

    for (int i = threadIdx.x; i < rows * chunks; i += PRODUCT_THREADS) {
        int r = i / chunks, c = i % chunks, panel = c / 8;
        uint64_t k = k0 + c * 8;
        bool valid;
        const char *from;
        if (of_x) {
            valid = r < (int)p.rows;
            from = (const char *)p.x + row_of(p, r) * p.k * 2;
        } else {
            from = tile_row<BM>(p, m, n0, r, &valid);
        }
        valid = valid && k < p.k;
        copy16(to +
                   (of_x ? shape::panels * shape::w_bytes + panel * shape::x_bytes
                         : panel * shape::w_bytes) +
                   swizzled(r, c % 8, 8),
               from + (valid ? k * 2 : 0), valid);
    }
}

/* The warp's 16 rows times BN rows of x over its panel of a stage. */
template <typename T, int BM, int BN>
__device__ __forceinline__ void skinny_stage(uint32_t at, float d[BN / 8][4])
{
    using shape = skinny_shape<BM, BN>;
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31, panel = warp / shape::groups;
    uint32_t w = at + panel * shape::w_bytes + warp % shape::groups * 16 * PANEL * 2;
    uint32_t x = at + shape::panels * shape::w_bytes + panel * shape::x_bytes;

#pragma unroll
    for (int k = 0; k < PANEL / 16; k++) {
        uint32_t a[4];
        load_matrices(a, w + swizzled(lane & 15, 2 * k + (lane >> 4), 8));
        if constexpr (BN ==
                      8) { /* of four matrices two are needed: the others are the same again */
            uint32_t b[4];
            load_matrices(b, x + swizzled(lane & 7, 2 * k + ((lane >> 3) & 1), 8));
            mma<T>(d[0], a, b[0], b[1]);
        } else {
#pragma unroll
            for (int n = 0; n < BN / 16; n++) {
                uint32_t b[4];
                load_matrices(b, x + swizzled(16 * n + (lane & 7) + ((lane >> 4) << 3),
                                              2 * k + ((lane >> 3) & 1), 8));
                mma<T>(d[2 * n], a, b[0], b[1]);
                mma<T>(d[2 * n + 1], a, b[2], b[3]);
            }
        }
    }
}

template <typename T, int BM, int BN> __device__ __forceinline__ void skinny(const product_args &p)
{
    using shape = skinny_shape<BM, BN>;
    extern __shared__ __align__(128) char space[];
    const part &m = p.parts[find_part(p, blockIdx.x)];
    uint32_t n0 = (blockIdx.x - m.first) * (is_gate(p) ? BM / 2 : BM), ring = shared_address(space);
    uint32_t n_stages = (uint32_t)((p.k + shape::depth - 1) / shape::depth);
    float d[BN / 8][4] = {};

    for (uint32_t i = 0; i < STAGES - 1; i++) /* weights do not depend on the kernel ahead */
        if (i < n_stages)
            skinny_load<BM, BN, false>(p, m, n0, i * shape::depth, ring + i * shape::stage);
    wait_for_previous();
    for (uint32_t i = 0; i < STAGES - 1; i++) {
        if (i < n_stages)
            skinny_load<BM, BN, true>(p, m, n0, i * shape::depth, ring + i * shape::stage);
        copies_commit();
    }
    for (uint32_t i = 0; i < n_stages; i++) {
        uint32_t ahead = i + STAGES - 1, to = ring + ahead % STAGES * shape::stage;
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (ahead < n_stages) {
            skinny_load<BM, BN, false>(p, m, n0, (uint64_t)ahead * shape::depth, to);
            skinny_load<BM, BN, true>(p, m, n0, (uint64_t)ahead * shape::depth, to);
        }
        copies_commit();
        skinny_stage<T, BM, BN>(ring + i % STAGES * shape::stage, d);
    }
    copies_wait<0>();
    __syncthreads();
    let_next_begin();
    finish_tile<plain_sums<T>, BM, BN>(p, m, n0, 0, d, space);
}

#define STAMP_SKINNY(x, T, bm, bn)                                                                 \
    extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2)                               \
        skinny_##bn##_##x(product_args p)                                                          \
    {                                                                                              \
        skinny<T, bm, bn>(p);                                                                      \
    }
#define STAMP_SKINNIES(x, T)                                                                       \
    STAMP_SKINNY(x, T, 32, 8)                                                                      \
    STAMP_SKINNY(x, T, 32, 16)                                                                     \
    STAMP_SKINNY(x, T, 32, 32)                                                                     \
    STAMP_SKINNY(x, T, 64, 64)

STAMP_SKINNIES(f16, f16)
STAMP_SKINNIES(bf16, bf16)
