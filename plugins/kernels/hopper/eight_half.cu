// SPDX-License-Identifier: Apache-2.0
// Products of matrices of e4m3 with rows of 16 bits, which are left as they are; see skinny.cuh. The time of a few rows is that
// of reading the matrix, so widening it between shared memory and the tensor cores is free, and rounding rows would only
// cost a launch and precision.
//
// K may be taken in any order, if both operands are in the same: each lane takes sixteen bytes of a row of the matrix, four
// for each of four mma of 16 of K, and the same elements of a token. Lane 4 g + t has, of 64 elements of K, those from 16 t on.
#include "eight.cuh"
#include "skinny.cuh"

__device__ __forceinline__ uint4 half_load(uint32_t address)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

// Four e4m3, the first in the low byte, as two pairs of T, exactly.
template <typename T> __device__ __forceinline__ void half_widen(uint32_t four, uint32_t (&pair)[2])
{
    asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, a;\ncvt.rn.f16x2.e4m3x2 %1, b;\n}"
        : "=r"(pair[0]), "=r"(pair[1])
        : "r"(four));
}

template <>
__device__ __forceinline__ void half_widen<__nv_bfloat16>(uint32_t four, uint32_t (&pair)[2])
{
    half_widen<__half>(four, pair);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float2 f = element<__half>::unpack(pair[i]);
        pair[i] = element<__nv_bfloat16>::pack(f.x, f.y);
    }
}

// a[j]: operand A of the mma of step j: sixteen rows of the matrix, whose lane's row is `row` and the one eight below.
template <typename T>
__device__ __forceinline__ void half_weights(uint32_t rows, uint32_t row, uint32_t chunk,
                                             uint32_t (&a)[4][4])
{
    const uint32_t at = rows + row * 128 + (chunk ^ row) * 16;
    const uint4 upper = half_load(at), lower = half_load(at + 8 * 128);
    const uint32_t u[4] = {upper.x, upper.y, upper.z, upper.w};
    const uint32_t l[4] = {lower.x, lower.y, lower.z, lower.w};

#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t pair[2];
        half_widen<T>(u[j], pair);
        a[j][0] = pair[0], a[j][2] = pair[1];
        half_widen<T>(l[j], pair);
        a[j][1] = pair[0], a[j][3] = pair[1];
    }
}

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
        for (int m = 0; m < BM / 64; m++) {
            element<T>::mma(d[m][j], a[m][0], first.x, first.y);
            element<T>::mma(d[m][j], a[m][1], first.z, first.w);
            element<T>::mma(d[m][j], a[m][2], second.x, second.y);
            element<T>::mma(d[m][j], a[m][3], second.z, second.w);
        }
    }
}

// T: of the rows and the outputs.
template <typename T> struct eight_half_operands {
    using params = eight_params;
    using sum = float;
    static constexpr uint32_t depth = EIGHT_K, planes = 2;
    using type = T;
    static constexpr bool logits = false;
    static constexpr bool norms = PRODUCT_NORMS<T>;

    static __device__ constexpr bool roomy(int bm, int bn)
    {
        return bm * bn <= 64 * 32;
    }

    static __device__ __forceinline__ const product_params &product(const params &q)
    {
        return q.p;
    }

    // As skinny_consume. Each warp has sixteen of every 64 rows of the tile.
    template <int BM, int BN, int STAGES>
    static __device__ __forceinline__ void consume(const skinny_tile &t, uint32_t ring,
                                                   uint32_t full, uint32_t empty, float *staged)
    {
        using shape = skinny_shape<eight_half_operands, BM, BN, STAGES>;
        const uint32_t g = threadIdx.x % 32 / 4, four = threadIdx.x % 4, warp = threadIdx.x / 32;
        // Rows of neighbours are four apart, so that eight lanes read from all banks: those of a row depend on its
        // place among eight.
        const uint32_t row = g / 2 + g % 2 * 4;
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

    using column = eight_column;
    using row = eight_row;

    static __device__ __forceinline__ column load_column(const params &q, uint32_t part, uint32_t n)
    {
        return eight_load_column(q, part, n);
    }

    static __device__ __forceinline__ row load_row(const params &q, uint32_t part, uint32_t token,
                                                   uint32_t n)
    {
        return eight_load_row<T>(q, part, token, n);
    }

    template <int FINISH>
    static __device__ __forceinline__ float4 finish(const params &q, uint32_t part, uint32_t token,
                                                    uint32_t n, float4 v, float4 u, const column &c,
                                                    const row &r)
    {
        return eight_finish<T, FINISH>(q, part, token, n, v, u, c, r);
    }
};

#define HALF(name, T, BM, BN, STAGES)                                                              \
    extern "C" __global__ void __launch_bounds__(SKINNY_NORM_THREADS, 2)                           \
        half_##name##_##BM##x##BN##x##STAGES(const __grid_constant__ eight_params p)               \
    {                                                                                              \
        skinny<eight_half_operands<T>, BM, BN, STAGES>(p);                                         \
    }

#define HALF_BF16(BM, BN, STAGES) HALF(bf16, __nv_bfloat16, BM, BN, STAGES)
#define HALF_F16(BM, BN, STAGES) HALF(f16, __half, BM, BN, STAGES)
HALF_SHAPES(HALF_BF16)
HALF_SHAPES(HALF_F16)
