// SPDX-License-Identifier: Apache-2.0
// Logits of few rows of int8: the products of eight_few.cu with a finish of their own. Outputs are float32, whatever rows were.
#include "eight_few.cuh"

#define LOGITS(BM, BN, STAGES)                                                                     \
    extern "C" __global__ void __launch_bounds__(SKINNY_THREADS, BM == 64 ? 3 : 2)                 \
        logits_s8_##BM##x##BN##x##STAGES(const __grid_constant__ eight_params p)                   \
    {                                                                                              \
        skinny<eight_operands<s8, __nv_bfloat16, SKINNY_LOGITS>, BM, BN, STAGES>(p);               \
    }

SKINNY_SHAPES(LOGITS)
