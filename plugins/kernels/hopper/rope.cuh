// SPDX-License-Identifier: Apache-2.0
// Rotation of one head, as the op `rope` defines it with static frequencies.
#ifndef HOPPER_ROPE_CUH
#define HOPPER_ROPE_CUH

#include "params.h"
#include "ptx.cuh"

// Rotates pair `i` of a head of D elements at `x` into `y`; 0 <= i < D / 2. Pairs beyond rotary / 2 are what is left over
// and are copied. `y` may be swizzled: it is called with the index of the element and its value.
template <typename T, typename Store>
__device__ __forceinline__ void rope_pair(const rope_params &r, const T *x, int32_t position,
                                          uint32_t i, Store y)
{
    const uint32_t half = r.rotary / 2;

    if (!r.freqs || i >= half) {
        y(2 * i, x[2 * i]); // the rest lies behind the rotated ones in both styles
        y(2 * i + 1, x[2 * i + 1]);
        return;
    }
    const uint32_t first = r.pairs ? 2 * i : i, second = r.pairs ? 2 * i + 1 : i + half;
    const float a = to_float(x[first]), b = to_float(x[second]);
    float s, c;
    sincosf(static_cast<float>(position) * static_cast<const float *>(r.freqs)[i], &s, &c);
    s *= r.mscale;
    c *= r.mscale;
    y(first, static_cast<T>(a * c - b * s));
    y(second, static_cast<T>(b * c + a * s));
}

// A head of D elements as a warp has it: of pair i = lane + 32 j, register 2 j the first and 2 j + 1 the second.
template <int D> __device__ __forceinline__ uint32_t rope_element(const rope_params &r, uint32_t n)
{
    const uint32_t i = threadIdx.x % 32 + 32 * (n / 2);

    return r.pairs ? 2 * i + n % 2 : i + n % 2 * (D / 2);
}

// Rotates a head as a whole (rotary D), then multiplies it by the normalised Walsh-Hadamard matrix (the op `hadamard`). Every
// bit of an element's index is one of the register's or one of the lane's, so each is one step of sums and differences.
template <typename T, int D, typename Store>
__device__ __forceinline__ void rope_hadamard(const rope_params &r, const T *x, int32_t position,
                                              Store y)
{
    constexpr int N = D / 32;
    const uint32_t lane = threadIdx.x % 32;
    const float unit = D == 64 ? 0.125f : 0.0883883476f;
    float v[N];

#pragma unroll
    for (int j = 0; j < N / 2; j++) {
        float pair[2];
        int n = 0;
        rope_pair<T>(r, x, position, lane + 32 * j,
                     [&](uint32_t, T t) { pair[n++] = to_float(t); });
        v[2 * j] = pair[0];
        v[2 * j + 1] = pair[1];
    }
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
        y(rope_element<D>(r, n), static_cast<T>(v[n] * unit));
}

#endif
