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

#endif
