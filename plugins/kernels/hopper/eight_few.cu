// SPDX-License-Identifier: Apache-2.0
// Products of few rows of 8 bits, whose scales are applied to the sums; see skinny.cuh. Rows have been quantized before.
#include "eight_few.cuh"

#define FEW(E, name, T, finishes, F, BM, BN, STAGES)                                               \
    extern "C" __global__ void __launch_bounds__(SKINNY_THREADS, BM == 64 ? 3 : 2)                 \
        few_##E##_##name##_##BM##x##BN##x##STAGES##_##finishes(                                    \
            const __grid_constant__ eight_params p)                                                \
    {                                                                                              \
        skinny<eight_operands<E, T, F>, BM, BN, STAGES>(p);                                        \
    }

#define ALL(finishes, F, BM, BN, STAGES)                                                           \
    FEW(e4m3, bf16, __nv_bfloat16, finishes, F, BM, BN, STAGES)                                    \
    FEW(e4m3, f16, __half, finishes, F, BM, BN, STAGES)                                            \
    FEW(s8, bf16, __nv_bfloat16, finishes, F, BM, BN, STAGES)                                      \
    FEW(s8, f16, __half, finishes, F, BM, BN, STAGES)

#define SUMS(BM, BN, STAGES) ALL(sums, SKINNY_SUMS, BM, BN, STAGES)
#define SILU(BM, BN, STAGES) ALL(silu, SKINNY_SILU, BM, BN, STAGES)
#define GELU(BM, BN, STAGES) ALL(gelu, SKINNY_GELU, BM, BN, STAGES)
SKINNY_SHAPES(SUMS)
SKINNY_SHAPES(SILU)
SKINNY_SHAPES(GELU)
