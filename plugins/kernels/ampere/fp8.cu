/* SPDX-License-Identifier: Apache-2.0 */
/* Products with weights of e4m3 and rows of 16 bits, as they are, for GPUs without e4m3 arithmetic; see ../common/narrow.cuh. */
#include "../common/narrow.cuh"

/* Numbers of e4m3, which lie in the upper bytes of `pair`'s halves, in T: their bits where T has them make 2^-8 (float16) or 2^-120
 * (bfloat16) of what they are, numbers below the smallest normal one included. */
template <typename T> __device__ __forceinline__ uint32_t from_e4m3(uint32_t pair);
template <> __device__ __forceinline__ uint32_t from_e4m3<f16>(uint32_t pair)
{
    const uint32_t size = pair >> 1 & 0x3f803f80u;
    const __half2 x = *(const __half2 *)&size;
    const __half2 y = __hmul2(x, __half2half2(__ushort_as_half(0x5c00)));

    return *(const uint32_t *)&y | (pair & 0x80008000u) |
           __hgt2_mask(x, __half2half2(__ushort_as_half(0x3f00)));
}
template <> __device__ __forceinline__ uint32_t from_e4m3<bf16>(uint32_t pair)
{
    const uint32_t size = pair >> 4 & 0x07f007f0u;
    const __nv_bfloat162 x = *(const __nv_bfloat162 *)&size;
    const __nv_bfloat162 y = __hmul2(x, __bfloat162bfloat162(__ushort_as_bfloat16(0x7b80)));

    return *(const uint32_t *)&y | (pair & 0x80008000u) |
           __hgt2_mask(x, __bfloat162bfloat162(__ushort_as_bfloat16(0x07e0)));
}

template <typename X> struct fp8_operands {
    typedef X T;
    typedef float sum;
    typedef uint2 piece;
    typedef uint4 x_piece;
    static constexpr bool grouped = false;
    static constexpr int per_byte = 1, x_bytes = 2;

    static __device__ __forceinline__ uint32_t offset(float)
    {
        return 0;
    }
    static __device__ __forceinline__ void widen(const piece &raw, uint32_t, uint32_t w[4])
    {
        w[0] = from_e4m3<X>(__byte_perm(raw.x, 0, 0x1404));
        w[1] = from_e4m3<X>(__byte_perm(raw.x, 0, 0x3424));
        w[2] = from_e4m3<X>(__byte_perm(raw.y, 0, 0x1404));
        w[3] = from_e4m3<X>(__byte_perm(raw.y, 0, 0x3424));
    }
    static __device__ __forceinline__ void multiply(float d[4], const uint32_t w[2][4],
                                                    const x_piece &x)
    {
        multiply_block<X>(d, w, x);
    }
    static __device__ __forceinline__ float scaled(const product_args &, const part &m, uint32_t,
                                                   uint32_t n, float x)
    {
        return m.scale[n] * x;
    }
};

#define FP8_F16(bm, bn, stages) STAMP_NARROW(fp8, f16, fp8_operands<f16>, bm, bn, stages)
#define FP8_BF16(bm, bn, stages) STAMP_NARROW(fp8, bf16, fp8_operands<bf16>, bm, bn, stages)
NARROW_SHAPES(FP8_F16)
NARROW_SHAPES(FP8_BF16)
