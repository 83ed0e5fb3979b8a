// SPDX-License-Identifier: Apache-2.0
// Rotation of one head, as the op `rope` defines it with static frequencies.
#ifndef HOPPER_ROPE_CUH
#define HOPPER_ROPE_CUH

#include "params.h"
#include "ptx.cuh"

// Whether pair `i` of a head is turned; what is left over lies behind those that are, in both styles.
__device__ __forceinline__ bool rope_turns(const rope_params &r, uint32_t i)
{
    return r.freqs && i < r.rotary / 2;
}

__device__ __forceinline__ float rope_freq(const rope_params &r, uint32_t i)
{
    return rope_turns(r, i) ? static_cast<const float *>(r.freqs)[i] : 0.0f;
}

// cos and sin of a pair's angle, times mscale.
__device__ __forceinline__ float2 rope_angle(const rope_params &r, int32_t position, float freq)
{
    float s, c;

    sincosf(static_cast<float>(position) * freq, &s, &c);
    return make_float2(c * r.mscale, s * r.mscale);
}

// The elements of pair `i`.
__device__ __forceinline__ uint2 rope_elements(const rope_params &r, uint32_t i)
{
    return rope_turns(r, i) && !r.pairs ? make_uint2(i, i + r.rotary / 2)
                                        : make_uint2(2 * i, 2 * i + 1);
}

// What becomes of the elements a and b of pair `i`.
template <typename T>
__device__ __forceinline__ void rope_turn(const rope_params &r, uint32_t i, float2 angle, T &a,
                                          T &b)
{
    const float x = to_float(a), y = to_float(b);

    if (!rope_turns(r, i))
        return;
    a = static_cast<T>(x * angle.x - y * angle.y);
    b = static_cast<T>(y * angle.x + x * angle.y);
}

// A head of D elements as a warp has it: of pair i = lane + 32 j, register 2 j the first and 2 j + 1 the second. Which element that is,
// as rope_elements says; of heads that are not rotated as a whole, too.
template <int D> __device__ __forceinline__ uint32_t rope_element(const rope_params &r, uint32_t n)
{
    const uint2 at = rope_elements(r, threadIdx.x % 32 + 32 * (n / 2));

    return n % 2 ? at.y : at.x;
}

template <typename T, int D>
__device__ __forceinline__ void rope_read(const rope_params &r, const T *from, T (&x)[D / 32])
{
#pragma unroll
    for (int n = 0; n < D / 32; n++)
        x[n] = from[rope_element<D>(r, n)];
}

// Rotates a head. `angles`: of pairs lane + 32 j.
template <typename T, int D>
__device__ __forceinline__ void rope_rotate(const rope_params &r, T (&x)[D / 32],
                                            const float2 (&angles)[D / 64])
{
#pragma unroll
    for (int j = 0; j < D / 64; j++)
        rope_turn<T>(r, threadIdx.x % 32 + 32 * j, angles[j], x[2 * j], x[2 * j + 1]);
}

// Rotates a head as a whole (rotary D), then multiplies it by the normalised Walsh-Hadamard matrix (the op `hadamard`). Every
// bit of an element's index is one of the register's or one of the lane's, so each is one step of sums and differences.
template <typename T, int D>
__device__ __forceinline__ void rope_hadamard(const rope_params &r, T (&x)[D / 32],
                                              const float2 (&angles)[D / 64])
{
    constexpr int N = D / 32;
    const uint32_t lane = threadIdx.x % 32;
    const float unit = D == 64 ? 0.125f : 0.0883883476f;
    float v[N];

    rope_rotate<T, D>(r, x, angles);
#pragma unroll
    for (int n = 0; n < N; n++)
        v[n] = to_float(x[n]);
#pragma unroll
    for (int step = 1; step < N; step *= 2)
#pragma unroll
        for (int n = 0; n < N; n++)
            if (!(n & step)) {
                const float a = v[n], b = v[n + step];
                v[n] = a + b;
                v[n + step] = a - b;
            }
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float other = __shfl_xor_sync(0xFFFFFFFFu, v[n], step);
            v[n] = lane & step ? other - v[n] : v[n] + other;
        }
#pragma unroll
    for (int n = 0; n < N; n++)
        x[n] = static_cast<T>(v[n] * unit);
}

#endif
