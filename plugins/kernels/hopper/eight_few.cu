// SPDX-License-Identifier: Apache-2.0
// Products of few rows of 8 bits, whose scales are applied to the sums; see skinny.cuh. Rows have been quantized before.
#include "eight_few.cuh"

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
