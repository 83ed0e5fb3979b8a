/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instructions of compute capability 8.0 that tensor cores are fed by: asynchronous copies into shared memory
 * (cuda_copy.cuh), loads of 8x8 matrices, and matrix multiply-accumulate. Tiles lie in shared memory as rows of 16-byte chunks;
 * chunk c of row r is stored at c ^ (r & 7), so that eight rows of one chunk meet no bank twice.
 */
#ifndef COMMON_CUDA_MMA_CUH
#define COMMON_CUDA_MMA_CUH

#include "cuda_copy.cuh"
#include "cuda_dtype.cuh"
#include "cuda_mma_int8.cuh"
#include "cuda_reduce.cuh"

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Byte offset of chunk `c` of row `r` in a tile of `chunks` chunks per row. */
__device__ __forceinline__ uint32_t swizzled(uint32_t r, uint32_t c, uint32_t chunks)
{
    return (r * chunks + (c ^ (r & 7))) * 16;
}

__device__ __forceinline__ void load_matrices(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t r[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* d[16, 8] += a[16, 16] * b[16, 8]. */
template <typename T>
__device__ __forceinline__ void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<bf16>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<f16>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Two floats rounded into one register, `low` in the lower half. */
template <typename T> __device__ __forceinline__ uint32_t pack2(float low, float high)
{
    T pair[2] = {narrow<T>(low), narrow<T>(high)};

    return *(uint32_t *)pair;
}

#endif
