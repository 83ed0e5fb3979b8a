// SPDX-License-Identifier: Apache-2.0
// Matrices of e4m3 beside rows of 16 bits: how both become operands of mma.sync.
//
// K may be taken in any order, if both operands are in the same: each lane takes sixteen bytes of a row of the matrix, four
// for each of four mma of 16 of K, and the same elements of a token. Lane 4 g + t has, of 64 elements of K, those from 16 t on.
#ifndef HOPPER_EIGHT_HALF_CUH
#define HOPPER_EIGHT_HALF_CUH

#include "eight.cuh"

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

// A lane's row of eight, for half_weights. Rows of neighbours are four apart, so that eight lanes read from all banks: those of a row
// depend on its place among eight.
__device__ __forceinline__ uint32_t half_row()
{
    const uint32_t g = threadIdx.x % 32 / 4;

    return g / 2 + g % 2 * 4;
}

// Four steps of 16 of K: of the token, `first` and `second` are its sixteen elements.
template <typename T>
__device__ __forceinline__ void half_mma(float (&d)[4], const uint32_t (&a)[4][4], uint4 first,
                                         uint4 second)
{
    element<T>::mma(d, a[0], first.x, first.y);
    element<T>::mma(d, a[1], first.z, first.w);
    element<T>::mma(d, a[2], second.x, second.y);
    element<T>::mma(d, a[3], second.z, second.w);
}

#endif
