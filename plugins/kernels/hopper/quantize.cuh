// SPDX-License-Identifier: Apache-2.0
// How rows become int8 or e4m3, as tenon/ops.h defines it.
#ifndef HOPPER_QUANTIZE_CUH
#define HOPPER_QUANTIZE_CUH

#include <cuda_fp8.h>

#include "../common/cuda_e4m3.cuh"
#include "rows.cuh"

#define LARGEST_FLOAT 3.402823466e38f

struct to_e4m3 {
    // What a row is divided by, by its largest number.
    static __device__ __forceinline__ float step(float largest)
    {
        return e4m3_step(largest);
    }
    // Two numbers, the first in the low byte.
    static __device__ __forceinline__ uint32_t pack(float a, float b)
    {
        return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
    }
};

struct to_s8 {
    static __device__ __forceinline__ float step(float largest)
    {
        return largest / 127.0f;
    }
    static __device__ __forceinline__ uint32_t one(float x)
    {
        return static_cast<uint8_t>(static_cast<int8_t>(fmaxf(-127.0f, fminf(127.0f, rintf(x)))));
    }
    static __device__ __forceinline__ uint32_t pack(float a, float b)
    {
        return one(a) | one(b) << 8;
    }
};

template <typename T> __device__ __forceinline__ void unpack8(const uint4 &raw, float (&x)[8])
{
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};

#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float2 f = element<T>::unpack(words[j]);
        x[2 * j] = f.x;
        x[2 * j + 1] = f.y;
    }
}

template <typename T> __device__ __forceinline__ uint4 pack8(const float (&x)[8])
{
    return make_uint4(element<T>::pack(x[0], x[1]), element<T>::pack(x[2], x[3]),
                      element<T>::pack(x[4], x[5]), element<T>::pack(x[6], x[7]));
}

// The largest number so far; infinity if one is not finite.
__device__ __forceinline__ float rounding_largest(float largest, float x)
{
    return fmaxf(largest, fabsf(x) <= LARGEST_FLOAT ? fabsf(x) : INFINITY);
}

// Dividing by a row's step as IEEE 754 says, in three instructions: with the rounded reciprocal, one correction of the product
// gives the rounded quotient (Markstein 1990), far from overflow and underflow.
struct rounding {
    float step, inverse, far;
};

// `scale`: static; 0: the row's own, by its largest number.
template <typename E> __device__ __forceinline__ rounding rounding_of(float scale, float largest)
{
    float step = scale > 0.0f ? scale : E::step(largest);

    step = largest == INFINITY ? NAN : step;
    return {step, step > 0.0f ? __frcp_rn(step) : 0.0f,
            step > 1e-18f && step < 1e18f ? 1e9f : -1.0f};
}

// Eight numbers, the first in the lowest byte.
template <typename E>
__device__ __forceinline__ uint2 rounding_apply(const rounding &r, float (&x)[8])
{
    uint32_t pairs[4];

#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float quotient = x[j] * r.inverse;
        if (fabsf(quotient) < r.far)
            x[j] = __fmaf_rn(__fmaf_rn(-quotient, r.step, x[j]), r.inverse, quotient);
        else
            x[j] = r.step > 0.0f ? x[j] / r.step : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        pairs[j] = E::pack(x[2 * j], x[2 * j + 1]);
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

// The same bits for int8, in fewer instructions: a number that 1.5 * 2^23 is added to has the nearest integer, the even one of two, in
// its low byte. What is beyond 127 steps needs no quotient but its sign.
__device__ __forceinline__ uint2 rounding_apply_s8(const rounding &r, float (&x)[8])
{
    uint32_t bits[8];

    if (r.far < 0.0f)
        return rounding_apply<to_s8>(r, x);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float quotient = fmaxf(-1e4f, fminf(1e4f, x[j] * r.inverse));
        const float exact = __fmaf_rn(__fmaf_rn(-quotient, r.step, x[j]), r.inverse, quotient);
        bits[j] = __float_as_uint(fmaxf(-127.0f, fminf(127.0f, exact)) + 12582912.0f);
    }
#pragma unroll
    for (int j = 0; j < 8; j += 4)
        bits[j] = __byte_perm(__byte_perm(bits[j], bits[j + 1], 0x0040),
                              __byte_perm(bits[j + 2], bits[j + 3], 0x0040), 0x5410);
    return make_uint2(bits[0], bits[4]);
}

#endif
