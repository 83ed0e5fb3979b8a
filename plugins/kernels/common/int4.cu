/* SPDX-License-Identifier: Apache-2.0 */
/* Products with weights of 4 bits, which become exactly q - zero in the dtype of the rows; see narrow.cuh. */
#include "narrow.cuh"

template <typename T> __device__ __forceinline__ uint32_t add2(uint32_t a, uint32_t b);
template <> __device__ __forceinline__ uint32_t add2<f16>(uint32_t a, uint32_t b)
{
    __half2 c = __hadd2(*(__half2 *)&a, *(__half2 *)&b);

    return *(uint32_t *)&c;
}
template <> __device__ __forceinline__ uint32_t add2<bf16>(uint32_t a, uint32_t b)
{
    __nv_bfloat162 c = __hadd2(*(__nv_bfloat162 *)&a, *(__nv_bfloat162 *)&b);

    return *(uint32_t *)&c;
}

/* (a & b) ^ c in one instruction, which the compiler does not find for two constants. */
__device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;

    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

template <typename X> struct int4_operands {
    typedef X T;
    typedef float sum;
    typedef uint32_t piece;
    typedef uint4 x_piece;
    static constexpr bool grouped = true;
    static constexpr int per_byte = 2, x_bytes = 2;

    /* A nibble lies where its 8 is 8 in a float of some power of two: 24 + q in bfloat16, 1032 + q in float16. Less
     * than these and any zero point are whole numbers that the dtype has. */
    static constexpr bool is_half = dtype_of<X>::value == TN_DT_F16;

    static __device__ __forceinline__ uint32_t offset(float zero)
    {
        const float x = -(is_half ? 1032.0f : 24.0f) - zero;

        return pack2<X>(x, x);
    }

    static __device__ __forceinline__ void widen(piece raw, uint32_t offset, uint32_t w[4])
    {
        const uint32_t even = is_half ? raw : raw << 3, odd = is_half ? raw >> 4 : raw >> 1;
        const uint32_t mask = is_half ? 0x000f000fu : 0x00780078u;
        const uint32_t flip = is_half ? 0x64086408u : 0x41c041c0u;

#pragma unroll
        for (int i = 0; i < 4; i++) /* byte i of even below, of odd above */
            w[i] = add2<X>(
                and_xor(__byte_perm(even, odd, i * 0x0011u | (i + 4) * 0x1100u), mask, flip),
                offset);
    }
    static __device__ __forceinline__ void multiply(float d[4], const uint32_t w[2][4],
                                                    const x_piece &x)
    {
        multiply_block<X>(d, w, x);
    }
    static __device__ __forceinline__ float scaled(const product_args &, const part &, uint32_t,
                                                   uint32_t, float x)
    {
        return x;
    }
};

#define INT4_F16(bm, bn, stages) STAMP_NARROW(int4, f16, int4_operands<f16>, bm, bn, stages)
#define INT4_BF16(bm, bn, stages) STAMP_NARROW(int4, bf16, int4_operands<bf16>, bm, bn, stages)
NARROW_SHAPES(INT4_F16)
NARROW_SHAPES(INT4_BF16)
