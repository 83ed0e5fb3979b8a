/* SPDX-License-Identifier: Apache-2.0 */
#ifndef COMMON_CUDA_MMA_INT8_CUH
#define COMMON_CUDA_MMA_INT8_CUH

#include <stdint.h>

/* d[16, 8] += a[16, 32] * b[32, 8] in int8, exactly. */
__device__ __forceinline__ void mma_int8(int d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
