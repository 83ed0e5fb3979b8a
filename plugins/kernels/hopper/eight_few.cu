// SPDX-License-Identifier: Apache-2.0
// Products of few rows of 8 bits, whose scales are applied to the sums; see skinny.cuh. Rows have been quantized before.
#include "eight.cuh"
#include "skinny.cuh"

// Whether there are logits of such operands.
template <typename E> constexpr bool EIGHT_LOGITS = false;
template <> constexpr bool EIGHT_LOGITS<s8> = true;

// E: of the operands; T: of the outputs.
template <typename E, typename T> struct eight_operands : eight_outputs<T> {
    using sum = typename E::sum;
    static constexpr uint32_t depth = EIGHT_K, planes = 1;
    static constexpr bool norms = false, logits = EIGHT_LOGITS<E>;

    static __device__ constexpr bool roomy(int bm, int bn)
    {
        return bm * bn <= 128 * 64;
    }

    template <int BM, int BN, int STAGES>
    static __device__ __forceinline__ void consume(const skinny_tile &t, uint32_t ring,
                                                   uint32_t full, uint32_t empty, sum *staged)
    {
        skinny_consume<eight_operands, BM, BN, STAGES>(t, ring, full, empty, staged);
    }

    template <int N>
    static __device__ __forceinline__ void multiply(sum (&d)[N / 2], uint64_t a, uint64_t b)
    {
        wgmma8<E, N>::run(d, a, b, 1);
    }
};

#define FEW(E, name, T, BM, BN, STAGES)                                                            \
    extern "C" __global__ void __launch_bounds__(SKINNY_THREADS, BM == 64 ? 3 : 2)                 \
        few_##E##_##name##_##BM##x##BN##x##STAGES(const __grid_constant__ eight_params p)          \
    {                                                                                              \
        skinny<eight_operands<E, T>, BM, BN, STAGES>(p);                                           \
    }

#define FEW_E4M3_BF16(BM, BN, STAGES) FEW(e4m3, bf16, __nv_bfloat16, BM, BN, STAGES)
#define FEW_E4M3_F16(BM, BN, STAGES) FEW(e4m3, f16, __half, BM, BN, STAGES)
#define FEW_S8_BF16(BM, BN, STAGES) FEW(s8, bf16, __nv_bfloat16, BM, BN, STAGES)
#define FEW_S8_F16(BM, BN, STAGES) FEW(s8, f16, __half, BM, BN, STAGES)
SKINNY_SHAPES(FEW_E4M3_BF16)
SKINNY_SHAPES(FEW_E4M3_F16)
SKINNY_SHAPES(FEW_S8_BF16)
SKINNY_SHAPES(FEW_S8_F16)
