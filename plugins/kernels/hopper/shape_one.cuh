// SPDX-License-Identifier: Apache-2.0
// The key, or the value, of a step's only row into a cache of float8_e4m3, with feedback (kv_append in tenon/ops.h): by one warp of a
// block that attends, whose others must not wait for it long. So all that stands before the step begins is read, and reckoned, before
// anything is waited for; and the table is what mma.sync has sixteen rows of, two runs, not the row: shape.cuh, which is for
// sixteen of these, would take twice as many products.
#ifndef HOPPER_SHAPE_ONE_CUH
#define HOPPER_SHAPE_ONE_CUH

#include "shape.cuh"

// What y becomes where `asked` is asked of it. `errors`: of its run, the lane's part of an operand.
__device__ __forceinline__ uint8_t shape_narrow_one(float y, float asked, uint32_t &errors)
{
    const float twice[2] = {y, y}, asks[2] = {asked, asked};
    const uint32_t lane = threadIdx.x % 32;
    uint32_t error;
    const uint16_t to = kv_shape_narrow(twice, asks, error);

    // Lane 4 i + j wants those of elements 2 j and 2 j + 1, which lanes 8 j and 8 j + 4 have.
    const uint32_t first = __shfl_sync(0xFFFFFFFFu, error, lane % 4 * 8);
    const uint32_t second = __shfl_sync(0xFFFFFFFFu, error, lane % 4 * 8 + 4);
    errors = __byte_perm(first, second, 0x5410);
    return static_cast<uint8_t>(to);
}

// Of a head's elements y, divided by the scale, what is stored. As shape_solve: sums move on from pair to pair of runs. Of runs 2 p + 1
// and 2 p lane 4 i + j has the i-th elements, whatever j is: columns of operands and of sums are all alike, so that asked[k][0] is of the
// former, asked[k][2] of the latter.
template <int D>
__device__ __forceinline__ void shape_solve_one(const float *y, unsigned char *stored,
                                                const unsigned char *table)
{
    constexpr int PAIRS = D / 16, MOST = PAIRS - 1; // pairs before a pair
    const uint32_t lane = threadIdx.x % 32, i = lane / 4;
    float asked[MOST + 1][4] = {};
    float odd = y[(PAIRS - 1) * 16 + 8 + i], even = y[(PAIRS - 1) * 16 + i];

#pragma unroll 1
    for (int q = PAIRS - 1; q >= 0; q--) {
        const unsigned char *near = table + 128 * TN_KV_FEEDBACK_PAIR(q), *both = near + 128;
        const uint32_t word = shape_word(near);
        const float own[4] = {asked[0][2], asked[0][2], 0.0f, 0.0f};
        uint4 words = shape_words(both);
        uint2 errors;
        float sums[4];
        const uint8_t first = shape_narrow_one(odd, asked[0][0], errors.x);
        kv_shape_mma(sums, make_uint2(word, 0), errors.x, own);
        const uint8_t second = shape_narrow_one(even, sums[0], errors.y);
        if (lane % 4 == 0) {
            stored[q * 16 + 8 + i] = first;
            stored[q * 16 + i] = second;
        }
        odd = y[max(q - 1, 0) * 16 + 8 + i];
        even = y[max(q - 1, 0) * 16 + i];
#pragma unroll
        for (int n = 0; n < 4; n++)
            asked[MOST][n] = 0.0f;
#pragma unroll
        for (int k = 0; k < MOST; k++) {
            const uint4 now = words;
            if (k + 1 < MOST)
                words = shape_words(both + (k + 1) * 512);
            const uint2 blocks[2] = {make_uint2(now.x, now.z), make_uint2(now.y, now.w)};
            kv_shape_mma2(asked[k], blocks, errors, asked[k + 1]);
        }
    }
}

// What of the row is known before the step begins: how its key is turned, its mean, its scale, and where the cache has it.
template <typename T, int D> struct shape_known {
    static constexpr int N = D / 32;
    const rope_params &rope;
    float2 angles[D / 64];
    float mean[N], unit;
    unsigned char *to; // NULL: nowhere

    template <typename P>
    __device__ __forceinline__ shape_known(const P &p, const rope_params &r, const shape_item &item)
        : rope(r), unit((item.value(p) ? p.v_scale : p.k_scale)[item.head(p)]), to(NULL)
    {
        const int64_t slot = p.row_slot[0];
        const bool centered = !item.value(p) && p.k_center;

#pragma unroll
        for (int n = 0; n < N; n++)
            mean[n] = centered ? p.k_center[item.head(p) * D + rope_element<D>(r, n)] : 0.0f;
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            angles[j] = rope_angle(r, p.positions[0], rope_freq(r, threadIdx.x % 32 + 32 * j));
        if (slot >= 0)
            to = static_cast<unsigned char *>(p.keys) +
                 static_cast<uint64_t>(slot) / p.block_tokens * p.block_bytes +
                 (static_cast<uint64_t>(item.side) * p.block_tokens +
                  static_cast<uint64_t>(slot) % p.block_tokens) *
                     D;
    }

    // The row's elements, as they are to be stored, divided by the scale.
    __device__ __forceinline__ void read(const T *from, bool value, float *y) const
    {
        const float inverse = __frcp_rn(unit);
        T x[N];

        rope_read<T, D>(rope, from, x);
        if (!value && rope.hadamard)
            rope_hadamard<T, D>(rope, x, angles);
        else if (!value)
            rope_rotate<T, D>(rope, x, angles);
#pragma unroll
        for (int n = 0; n < N; n++)
            y[rope_element<D>(rope, n)] = kv8_divide(to_float(x[n]) - mean[n], unit, inverse);
    }
};

// `memory`: SHAPE_ONE(D) bytes; `barrier`, of the block, has nothing to wait for yet.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_one(const P &p, const rope_params &rope,
                                          const shape_item &item, unsigned char *memory,
                                          uint32_t barrier)
{
    const bool value = item.value(p);
    const T *from = static_cast<const T *>(value ? p.v : p.k) + item.head(p) * D;
    float *y = reinterpret_cast<float *>(memory + TN_KV_FEEDBACK_BYTES(D));
    unsigned char *stored = reinterpret_cast<unsigned char *>(y + D);
    const uint32_t lane = threadIdx.x % 32;

    if (lane == 0) {
        barrier_arrive_expect(barrier, TN_KV_FEEDBACK_BYTES(D));
        copy_bytes(shared_address(memory), shape_table<D>(p, item), TN_KV_FEEDBACK_BYTES(D),
                   barrier);
    }
    __syncwarp();
    const shape_known<T, D> known(p, rope, item);
    wait_for_predecessor();
    known.read(from, value, y);
    __syncwarp();
    barrier_wait(barrier, 0);
    shape_solve_one<D>(y, stored, memory);
    __syncwarp();
    if (known.to && lane < D / 16)
        reinterpret_cast<uint4 *>(known.to)[lane] = reinterpret_cast<const uint4 *>(stored)[lane];
}

#endif
