/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels of a few rows do with their sums: adding up parts, scales, biases, residuals, gates. */
#ifndef COMMON_CUDA_PRODUCT_CUH
#define COMMON_CUDA_PRODUCT_CUH

#include "cuda_mma.cuh"
#include "cuda_product.h"

__device__ __forceinline__ float gated(uint32_t finish, float g, float u)
{
    if (finish == FINISH_SILU)
        return g / (1.0f + __expf(-g)) * u;
    if (finish == FINISH_GELU)
        return 0.5f * g * (1.0f + erff(g * 0.707106781f)) * u;
    return 0.5f * g * (1.0f + tanhf(0.797884561f * (g + 0.044715f * g * g * g))) * u;
}

__device__ __forceinline__ bool is_gate(const product_args &p)
{
    return p.finish >= FINISH_SILU && p.finish <= FINISH_GELU_TANH;
}

/* Which matrix block `block` works on. Gates: the first; the second goes along. */
__device__ __forceinline__ uint32_t find_part(const product_args &p, uint32_t block)
{
    uint32_t i = 0;

    while (!is_gate(p) && i + 1 < p.n_parts && block >= p.parts[i + 1].first)
        i++;
    return i;
}

/* Finishes output `n` of row `row`. */
template <typename T>
__device__ __forceinline__ void finish_one(const product_args &p, const part &m, uint32_t row,
                                           uint32_t n, float sum)
{
    uint64_t at = (uint64_t)row * m.n + n;

    if (m.bias)
        sum += load_any(m.bias, m.bias_dtype, n);
    if (p.finish == FINISH_LOGITS) {
        sum *= p.scale;
        ((float *)m.y)[at] = p.softcap > 0.0f ? p.softcap * tanhf(sum / p.softcap) : sum;
        return;
    }
    if (p.finish == FINISH_ADD)
        sum += widen(((const T *)p.residual)[at]);
    ((T *)m.y)[at] = narrow<T>(sum);
}

template <typename T>
__device__ __forceinline__ void finish_gate(const product_args &p, uint32_t row, uint32_t n,
                                            float gate, float up)
{
    const part &g = p.parts[0], &u = p.parts[1];

    if (g.bias)
        gate += load_any(g.bias, g.bias_dtype, n);
    if (u.bias)
        up += load_any(u.bias, u.bias_dtype, n);
    ((T *)g.y)[(uint64_t)row * g.n + n] = narrow<T>(gated(p.finish, gate, up));
}

/* -- Tiles of eight warps ------------------------------------------------------------------------------------- */

/* BM / 16 groups of warps have 16 rows of the matrix each; the warps of a group have panels of k. */
#define PRODUCT_THREADS 256
template <int BM> constexpr int panels_of = 8 / (BM / 16);

/* Sums of floats as they are. */
template <typename X> struct plain_sums {
    typedef X T;
    typedef float sum;

    static __device__ __forceinline__ float scaled(const product_args &, const part &, uint32_t,
                                                   uint32_t, float x)
    {
        return x;
    }
};

/* Adds up the panels' sums, of type O::sum, and finishes them as of rows from row0 on. What O::scaled makes of a sum is of
 * type float; outputs are of type O::T. staged: [panel][row of x][row of the tile]. */
template <typename O, int BM, int BN>
__device__ __forceinline__ void finish_tile(const product_args &p, const part &m, uint32_t n0,
                                            uint32_t row0, typename O::sum d[BN / 8][4],
                                            void *space)
{
    constexpr int pitch = BM + 1, panels = panels_of<BM>;
    typedef typename O::sum S;
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    S *staged = (S *)space, *mine = staged + warp / (BM / 16) * BN * pitch + warp % (BM / 16) * 16;

#pragma unroll
    for (int i = 0; i < BN / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            mine[(8 * i + (lane & 3) * 2 + (e & 1)) * pitch + lane / 4 + (e & 2) * 4] = d[i][e];
    __syncthreads();
    for (int i = threadIdx.x; i < BN * BM; i += PRODUCT_THREADS) {
        int r = i % BM;
        uint32_t row = row0 + i / BM, n = n0 + r;
        S sum = 0, up = 0;
        if (row >= p.rows || n >= m.n || (is_gate(p) && r >= BM / 2))
            continue;
#pragma unroll
        for (int k = 0; k < panels; k++)
            sum += staged[(k * BN + i / BM) * pitch + r];
        if (!is_gate(p)) {
            finish_one<typename O::T>(p, m, row, n, O::scaled(p, m, row, n, sum));
            continue;
        }
#pragma unroll
        for (int k = 0; k < panels; k++)
            up += staged[(k * BN + i / BM) * pitch + r + BM / 2];
        finish_gate<typename O::T>(p, row, n, O::scaled(p, m, row, n, sum),
                                   O::scaled(p, p.parts[1], row, n, up));
    }
}

#endif
