/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with weights of 4 or 8 bits by mma.sync, as y^T = w x^T; narrow.h tells which.
 *
 * A block streams BM rows of a matrix, as they are stored, and BN rows of x through a ring in shared memory. Its warps share
 * out the rows, 16 each, and along k the ring, in panels of 64 bytes of a row. Which inputs an instruction takes for its
 * k does not matter as long as both operands agree: a lane takes 8 inputs that follow on each other, which are one load of
 * 4 or 8 bytes of the matrix and one of 8 or 16 of x, and no nibble has to find its way to another lane.
 *
 * Where groups of a row have a scale each, sums over up to 128 inputs of one group are multiplied by it as float32. Scales and zero
 * points go through the ring, too, by way of registers.
 *
 * What is multiplied is told by a class O: T, the dtype of outputs; the type of a `sum`; `piece`, 8 weights of a row, and
 * `x_piece`, as many inputs; how they are widened and multiplied; `scaled`, what a sum is worth; whether weights are `grouped`.
 */
#ifndef COMMON_NARROW_CUH
#define COMMON_NARROW_CUH

#include "cuda_product.cuh"
#include "narrow.h"

#define BLOCK_K 32 /* inputs of a warp's step: 8 of each of the four lanes that share a row */
#define PANEL_BYTES 64

/* -- Operands -------------------------------------------------------------------------------------------------- */

/* d += the products of 16 rows of the matrix, of which a lane has 8 weights of two, with 8 rows of x. */
template <typename T>
__device__ __forceinline__ void multiply_block(float d[4], const uint32_t w[2][4], const uint4 &x)
{
    const uint32_t low[4] = {w[0][0], w[1][0], w[0][1], w[1][1]};
    const uint32_t high[4] = {w[0][2], w[1][2], w[0][3], w[1][3]};

    mma<T>(d, low, x.x, x.y);
    mma<T>(d, high, x.z, x.w);
}

/* -- The ring ---------------------------------------------------------------------------------------------------- */

template <typename O, int BM, int BN> struct narrow_shape {
    static constexpr int groups = BM / 16, panels = panels_of<BM>;
    static constexpr int w_pitch = panels * PANEL_BYTES, depth = w_pitch * O::per_byte;
    static constexpr int x_pitch = depth * O::x_bytes, blocks = depth / panels / BLOCK_K;
    static constexpr int w_bytes = BM * w_pitch, x_at = w_bytes, groups_at = x_at + BN * x_pitch;
    static constexpr int entries = O::grouped ? BM * depth / BLOCK_K : 0;
    static constexpr int stage = groups_at + entries * 8;
};

/* Chunk `c` of row `r`, of `pitch` bytes, where pieces of `bytes` are read: a warp's pieces meet no bank twice. */
template <int bytes> __device__ __forceinline__ uint32_t placed(uint32_t r, uint32_t c, int pitch)
{
    return r * pitch + ((c ^ (r * (bytes / 4) & 7)) << 4);
}

/* Piece `t` of four of block `b` of row `r`. Of block b + i, if b is a multiple of a power of two above i, it lies at this number
 * with the bits of 4 * i * sizeof(P) flipped. */
template <typename P>
__device__ __forceinline__ uint32_t piece_at(uint32_t r, uint32_t b, uint32_t t, int pitch)
{
    const uint32_t at = (b * 4 + t) * sizeof(P);

    return placed<sizeof(P)>(r, at / 16, pitch) + at % 16;
}

/* What a thread copies of every stage, one stage after another: a chunk of two rows of the matrix, and one of every so many rows of
 * x. Beyond k there are zeros. */
template <typename O, int BM, int BN> struct narrow_copies {
    using shape = narrow_shape<O, BM, BN>;
    static constexpr int w_chunks = shape::w_pitch / 16, x_chunks = shape::x_pitch / 16;
    static constexpr int x_step = PRODUCT_THREADS / x_chunks, x_rows = (BN + x_step - 1) / x_step;
    static_assert(PRODUCT_THREADS / w_chunks == BM / 2 && x_step > 0, "two rows of the matrix");

    const char *w[2], *x;
    uint64_t x_stride;
    uint32_t w_to, x_to, n_x; /* where in a stage; rows of x */
    int32_t w_left, x_left;   /* inputs from here on */

    __device__ __forceinline__ narrow_copies(const product_args &p, const part &m, uint32_t n0,
                                             uint32_t row0)
    {
        uint32_t r = threadIdx.x / w_chunks, c = threadIdx.x % w_chunks;

#pragma unroll
        for (int i = 0; i < 2; i++) { /* rows behind the last are not stored: any do for them */
            const part &of = is_gate(p) && i ? p.parts[1] : m;
            const uint32_t n = n0 + r + (is_gate(p) ? 0 : i * BM / 2);
            w[i] = (const char *)of.w + min(n, of.n - 1) * of.stride + c * 16;
        }
        w_to = placed<sizeof(typename O::piece)>(r, c, shape::w_pitch);
        w_left = (int32_t)(p.k - c * 16 * O::per_byte);
        r = threadIdx.x / x_chunks;
        c = threadIdx.x % x_chunks;
        x_stride = x_step * p.k * O::x_bytes;
        x = (const char *)p.x + (row0 + r) * p.k * O::x_bytes + c * 16;
        x_to = shape::x_at + placed<sizeof(typename O::x_piece)>(r, c, shape::x_pitch);
        x_left = (int32_t)(p.k - c * 16 / O::x_bytes);
        const uint32_t rows = min(p.rows - row0, (uint32_t)BN);
        n_x = r < rows ? (rows - r + x_step - 1) / x_step : 0;
    }

    /* The next stage's. `to`: the stage in shared memory. */
    __device__ __forceinline__ void matrix(uint32_t to)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            copy16(to + w_to + i * (shape::w_bytes / 2), w[i], w_left > 0);
            w[i] += shape::w_pitch;
        }
        w_left -= shape::depth;
    }
    /* Rows behind the last stay as they are: what they give is not stored. */
    __device__ __forceinline__ void inputs(uint32_t to)
    {
#pragma unroll
        for (int r = 0; r < x_rows; r++)
            if (r < n_x)
                copy16(to + x_to + r * x_step * shape::x_pitch, x + r * x_stride, x_left > 0);
        x += shape::x_pitch;
        x_left -= shape::depth;
    }
};

/* Scale and, twice, what makes a nibble of a row's run a weight. */
struct narrow_group {
    float scale;
    uint32_t offset;
};

/* The scales of a stage: at most two of a thread, read while the stage ahead is multiplied. */
template <typename O, int BM, int BN> struct narrow_scales {
    using shape = narrow_shape<O, BM, BN>;
    static constexpr int each = (shape::entries + PRODUCT_THREADS - 1) / PRODUCT_THREADS;

    narrow_group ahead[each ? each : 1];

    /* log2 of the runs that a stage has of a row. */
    static __device__ __forceinline__ uint32_t runs_shift(const product_args &p)
    {
        return __ffs(shape::depth) - 1 - p.run_shift;
    }
    __device__ __forceinline__ void load(const product_args &p, const part &m, uint32_t n0,
                                         uint32_t stage)
    {
        const uint32_t shift = runs_shift(p);

#pragma unroll
        for (int i = 0; i < each; i++) {
            const uint32_t e = threadIdx.x + i * PRODUCT_THREADS, r = e >> shift;
            const uint32_t run = (stage << shift) + (e & ((1u << shift) - 1));
            if (r >= BM)
                break;
            const bool second = is_gate(p) && r >= BM / 2;
            const part &of = second ? p.parts[1] : m;
            const uint32_t n = min(n0 + r - (second ? BM / 2 : 0), of.n - 1);
            const uint32_t group = p.runs == 1 ? run : run / p.runs;
            float zero = 0.0f;
            ahead[i] = {0.0f, 0};
            if (run << p.run_shift >= (uint32_t)p.k)
                continue;
            ahead[i].scale = ((const float *)((const char *)of.scale + n * of.scale_stride))[group];
            if (of.zero)
                zero = (float)of.zero[n * of.zero_stride + group];
            ahead[i].offset = O::offset(zero);
        }
    }
    __device__ __forceinline__ void store(const product_args &p, char *to) const
    {
#pragma unroll
        for (int i = 0; i < each; i++)
            if (threadIdx.x + i * PRODUCT_THREADS < (uint32_t)BM << runs_shift(p))
                ((narrow_group *)(to + shape::groups_at))[threadIdx.x + i * PRODUCT_THREADS] =
                    ahead[i];
    }
};

/* -- One stage ----------------------------------------------------------------------------------------------------- */

/* Where the lane's pieces of the warp's panel are in a stage. */
struct narrow_place {
    uint32_t w, x, groups;
};

template <typename O, int BM, int BN>
__device__ __forceinline__ narrow_place find_place(uint32_t run_shift)
{
    using shape = narrow_shape<O, BM, BN>;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31, t = lane & 3;
    const uint32_t row = warp % shape::groups * 16 + lane / 4;
    const uint32_t block = warp / shape::groups * shape::blocks;

    return {piece_at<typename O::piece>(row, block, t, shape::w_pitch),
            shape::x_at + piece_at<typename O::x_piece>(lane / 4, block, t, shape::x_pitch),
            shape::groups_at + ((row * shape::depth + block * BLOCK_K) >> run_shift) *
                                   (uint32_t)sizeof(narrow_group)};
}

/* The warp's 16 rows times BN rows of x over its panel of a stage. RUN: blocks that share their scales. */
template <typename O, int BM, int BN, int RUN>
__device__ __forceinline__ void narrow_stage(const char *at, const narrow_place &place,
                                             typename O::sum sums[BN / 8][4])
{
    using shape = narrow_shape<O, BM, BN>;
    typename O::sum part[BN / 8][4];
    narrow_group g[2] = {};

#pragma unroll(BN < 32 ? shape::blocks : 2) /* as registers allow */
    for (int i = 0; i < shape::blocks; i++) {
        const char *from = at + (place.w ^ (i * 4 * (uint32_t)sizeof(typename O::piece)));
        const char *x = at + (place.x ^ (i * 4 * (uint32_t)sizeof(typename O::x_piece)));
        uint32_t w[2][4];
        if (O::grouped && i % RUN == 0) {
#pragma unroll
            for (int h = 0; h < 2; h++)
                g[h] = *(const narrow_group *)(at + place.groups +
                                               (i + h * 8 * shape::depth / BLOCK_K) / RUN *
                                                   sizeof(narrow_group));
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    part[n][e] = 0;
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
            O::widen(*(const typename O::piece *)(from + h * 8 * shape::w_pitch), g[h].offset,
                     w[h]);
#pragma unroll
        for (int n = 0; n < BN / 8; n++)
            O::multiply(O::grouped ? part[n] : sums[n], w,
                        *(const typename O::x_piece *)(x + 8 * n * shape::x_pitch));
        if (O::grouped && (i + 1) % RUN == 0)
#pragma unroll
            for (int n = 0; n < BN / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[n][e] += g[e / 2].scale * part[n][e];
    }
}

/* -- Kernels -------------------------------------------------------------------------------------------------------- */

/* Block (x, y): rows of x from x * BN on, part y of the matrices; those that read the same weights follow on each other. */
template <typename O, int BM, int BN, int STAGES>
__device__ __forceinline__ void narrow_product(const product_args &p)
{
    using shape = narrow_shape<O, BM, BN>;
    extern __shared__ __align__(128) char space[];
    const part &m = p.parts[find_part(p, blockIdx.y)];
    const uint32_t n0 = (blockIdx.y - m.first) * (is_gate(p) ? BM / 2 : BM);
    const uint32_t row0 = blockIdx.x * BN, ring = shared_address(space);
    const uint32_t n_stages = ((uint32_t)p.k + shape::depth - 1) / shape::depth;
    const narrow_place place = find_place<O, BM, BN>(p.run_shift);
    narrow_copies<O, BM, BN> copies(p, m, n0, row0);
    narrow_scales<O, BM, BN> scales[STAGES - 1];
    typename O::sum sums[BN / 8][4] = {};
    uint32_t at = 0, to = (STAGES - 1) * shape::stage; /* of the stages to multiply and to fill */

#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) { /* weights do not depend on the kernel ahead */
        copies.matrix(ring + i * shape::stage);
        scales[i].load(p, m, n0, i);
    }
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++)
        scales[i].store(p, space + i * shape::stage);
    wait_for_previous();
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        copies.inputs(ring + i * shape::stage);
        copies_commit();
    }
    for (uint32_t i = 0; i < n_stages; i++) {
        const bool more = i + STAGES - 1 < n_stages;
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (more) {
            copies.matrix(ring + to);
            copies.inputs(ring + to);
            scales[0].load(p, m, n0, i + STAGES - 1);
        } else {
            let_next_begin(); /* its loads shall not compete with this one's */
        }
        copies_commit();
        if (!O::grouped || p.run_shift == 7)
            narrow_stage<O, BM, BN, 4>(space + at, place, sums);
        else
            narrow_stage<O, BM, BN, 1>(space + at, place, sums);
        if (more)
            scales[0].store(p, space + to);
        at = at == (STAGES - 1) * shape::stage ? 0 : at + shape::stage;
        to = to == (STAGES - 1) * shape::stage ? 0 : to + shape::stage;
    }
    copies_wait<0>();
    __syncthreads();
    finish_tile<O, BM, BN>(p, m, n0, row0, sums, space);
}

#define STAMP_NARROW(scheme, dtype, O, bm, bn, stages)                                             \
    extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, (bm) == 32 && (bn) == 8 ? 3 : 2) \
        scheme##_##dtype##_##bm##x##bn(const __grid_constant__ product_args p)                     \
    {                                                                                              \
        narrow_product<O, bm, bn, stages>(p);                                                      \
    }

#endif
