// SPDX-License-Identifier: Apache-2.0
// What products of few rows of 8 bits multiply; see skinny.cuh. Rows have been quantized before, scales are applied to the sums.
#ifndef HOPPER_EIGHT_FEW_CUH
#define HOPPER_EIGHT_FEW_CUH

#include "eight.cuh"
#include "skinny.cuh"

// E: of the operands; T: of the outputs; F: what a kernel finishes.
template <typename E, typename T, skinny_finishes F> struct eight_operands : eight_outputs<T> {
    using sum = typename E::sum;
    static constexpr uint32_t depth = EIGHT_K, planes = 1;
    static constexpr bool norms = false;
    static constexpr skinny_finishes finishes = F;

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

#endif
