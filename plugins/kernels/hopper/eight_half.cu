// SPDX-License-Identifier: Apache-2.0
// Products of matrices of e4m3 with rows of 16 bits, which are left as they are; see skinny.cuh. The time of a few rows is that
// of reading the matrix, so widening it between shared memory and the tensor cores is free, and rounding rows would only
// cost a launch and precision.
#include "eight_half.cuh"
#include "skinny.cuh"

// Half a stage: 64 elements of K, of the lane's rows from `weights` on and of tokens at `tokens`.
template <typename T, int BM, int BN>
__device__ __forceinline__ void half_multiply(float (&d)[BM / 64][BN / 8][4], uint32_t weights,
                                              uint32_t half, uint32_t row, uint32_t tokens)
{
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    uint32_t a[BM / 64][4][4];

#pragma unroll
    for (int m = 0; m < BM / 64; m++)
        half_weights<T>(weights + m * 64 * 128, row, 4 * half + t, a[m]);
#pragma unroll
    for (int j = 0; j < BN / 8; j++) {
        const uint32_t x = tokens + (8 * j + g) * 128;
        const uint4 first = half_load(x + ((2 * t) ^ g) * 16);
        const uint4 second = half_load(x + ((2 * t + 1) ^ g) * 16);
#pragma unroll
        for (int m = 0; m < BM / 64; m++)
            half_mma<T>(d[m][j], a[m], first, second);
    }
}

// T: of the rows and the outputs; F: what a kernel finishes.
template <typename T, skinny_finishes F> struct eight_half_operands : eight_outputs<T> {
    using sum = float;
    static constexpr uint32_t depth = EIGHT_K, planes = 2;
    using type = T;
    static constexpr bool norms = PRODUCT_NORMS<T> && F != SKINNY_GELU;
    static constexpr skinny_finishes finishes = F;

    static __device__ constexpr bool roomy(int bm, int bn)
    {
        return bm * bn <= 64 * 32;
    }

    // As skinny_consume. Each warp has sixteen of every 64 rows of the tile.
    template <int BM, int BN, int STAGES>
    static __device__ __forceinline__ void consume(const skinny_tile &t, uint32_t ring,
                                                   uint32_t full, uint32_t empty, float *staged)
    {
        using shape = skinny_shape<eight_half_operands, BM, BN, STAGES>;
        const uint32_t four = threadIdx.x % 4, warp = threadIdx.x / 32, row = half_row();
        // Of few tokens two sums that are added at the end: each mma waits for the one before it.
        constexpr int CHAINS = BM * BN <= 64 * 16 ? 2 : 1;
        float d[CHAINS][BM / 64][BN / 8][4] = {};

        for (uint32_t i = 0, n = t.end - t.begin; i < n; i++) {
            const uint32_t s = i % STAGES, at = ring + s * shape::stage;
            barrier_wait(full + 8 * s, (i / STAGES) & 1);
#pragma unroll
            for (uint32_t half = 0; half < 2; half++)
                half_multiply<T, BM, BN>(d[half % CHAINS], at + warp * 16 * 128, half, row,
                                         at + shape::w_bytes + half * shape::plane);
            __syncwarp();
            skinny_release(empty + 8 * s);
        }
        skinny_consumers_sync(); // the ring is read; now it takes the result
#pragma unroll
        for (int m = 0; m < BM / 64; m++)
#pragma unroll
            for (int j = 0; j < BN / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    staged[(8 * j + 2 * four + (e & 1)) * shape::pitch + 64 * m + 16 * warp + row +
                           (e & 2) * 4] =
                        CHAINS == 1 ? d[0][m][j][e] : d[0][m][j][e] + d[CHAINS - 1][m][j][e];
    }
};

// On a multiprocessor; erf beside the largest tile takes registers for one.
template <skinny_finishes F, int BM>
constexpr int HALF_BLOCKS = (F == SKINNY_GELU) && (BM > 64) ? 1 : 2;

#define HALF(name, T, finishes, F, BM, BN, STAGES)                                                 \
    extern "C" __global__ void __launch_bounds__(SKINNY_NORM_THREADS, HALF_BLOCKS<F, BM>)          \
        half_##name##_##BM##x##BN##x##STAGES##_##finishes(const __grid_constant__ eight_params p)  \
    {                                                                                              \
        skinny<eight_half_operands<T, F>, BM, BN, STAGES>(p);                                      \
    }

#define BOTH(finishes, F, BM, BN, STAGES)                                                          \
    HALF(bf16, __nv_bfloat16, finishes, F, BM, BN, STAGES)                                         \
    HALF(f16, __half, finishes, F, BM, BN, STAGES)
#define ALL(BM, BN, STAGES)                                                                        \
    BOTH(sums, SKINNY_SUMS, BM, BN, STAGES)                                                        \
    BOTH(silu, SKINNY_SILU, BM, BN, STAGES)                                                        \
    BOTH(gelu, SKINNY_GELU, BM, BN, STAGES)
#define NORM(BM, BN, STAGES) HALF(bf16, __nv_bfloat16, norm, SKINNY_NORM, BM, BN, STAGES)
HALF_SHAPES(ALL)
HALF_SMALLEST(NORM)
