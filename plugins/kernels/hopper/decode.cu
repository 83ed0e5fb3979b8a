// SPDX-License-Identifier: Apache-2.0
// Attention of single rows over a cache in the dtype of the rows; see decode.cuh.
#include "decode.cuh"

template <typename T, int D, int STAGES> struct cells16 {
    using type = T;
    using math = T; // of the products
    using cell = T;
    static constexpr int dim = D, stages = STAGES;
    static constexpr decode_storing storing = DECODE_NEAREST;
    static constexpr uint32_t q_step = 2, q_second = 8, next = 8;

    static __device__ __forceinline__ float query_scale(const attention_params &,
                                                        const decode_item &)
    {
        return 1.0f;
    }
    static __device__ __forceinline__ float score_scale(const attention_params &p)
    {
        return p.scale;
    }
    static __device__ __forceinline__ float value_scale(const attention_params &,
                                                        const decode_item &)
    {
        return 1.0f;
    }
    static __device__ __forceinline__ T query(T v, float)
    {
        return v;
    }
    static __device__ __forceinline__ float key_mean(const attention_params &, const decode_item &,
                                                     uint32_t)
    {
        return 0.0f;
    }
    static __device__ __forceinline__ T narrow_key(const decode_item &, float, T v)
    {
        return v;
    }
    static __device__ __forceinline__ T narrow_value(const attention_params &, const decode_item &,
                                                     T v)
    {
        return v;
    }
    static __device__ __forceinline__ uint32_t output(uint32_t lane)
    {
        return lane / 4;
    }
    static __device__ __forceinline__ void copy(uint32_t to, const void *map, int32_t row,
                                                int32_t block, uint32_t barrier)
    {
        copy_5d(to, map, 0, row, 0, 0, block, barrier, EVICT_FIRST);
    }

    // Where token `r` (of a stage) lies in it, and the element `d` of its key; `kv` is 1 for its value. The swizzle is
    // a matter of the address: bits 4 to 6 are turned by bits 7 to 9. Boxes of eight tokens or more keep those of the row.
    static __device__ __forceinline__ uint32_t address(uint32_t stage, uint32_t shift, uint32_t r,
                                                       uint32_t d, uint32_t kv)
    {
        const uint32_t in = r & ((1u << shift) - 1), plane = 128u << shift;
        const uint32_t at = stage + (r >> shift) * (2 * (D / 64) * plane) + in * 128 +
                            (kv * (D / 64) + d / 64) * plane;

        return at + ((d % 64 / 8) ^ (shift >= 3 ? in % 8 : at / 128 % 8)) * 16 + d % 8 * 2;
    }

    // Of the warp's tokens from `row` on.
    static __device__ __forceinline__ void scores(float (&s)[4], const uint32_t (&q)[D / 16][2],
                                                  uint32_t ring, uint32_t stage, uint32_t shift,
                                                  uint32_t row)
    {
        const uint32_t lane = threadIdx.x % 32;
        uint32_t x[4];

#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            load_matrices(x,
                          ring + address(stage, shift, row + lane % 16, 16 * k + lane / 16 * 8, 0));
            element<T>::mma(s, x, q[k][0], q[k][1]);
        }
    }

    static __device__ __forceinline__ void values(decode_state<D> &a, uint32_t b0, uint32_t b1,
                                                  uint32_t ring, uint32_t stage, uint32_t shift,
                                                  uint32_t row)
    {
        const uint32_t lane = threadIdx.x % 32;
        uint32_t x[4];

#pragma unroll
        for (int m = 0; m < D / 16; m++) {
            load_matrices_transposed(x, ring + address(stage, shift, row + lane / 16 * 8 + lane % 8,
                                                       16 * m + lane / 8 % 2 * 8, 1));
            element<T>::mma(a.o[m], x, b0, b1);
        }
    }
};

#define DECODE(name, T, D, STAGES, BLOCKS)                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                  \
        decode_##name##_##D##x##STAGES(const __grid_constant__ attention_params p)                 \
    {                                                                                              \
        decode<cells16<T, D, STAGES>>(p);                                                          \
    }

#define DECODE_BF16(D, STAGES, BLOCKS) DECODE(bf16, __nv_bfloat16, D, STAGES, BLOCKS)
#define DECODE_F16(D, STAGES, BLOCKS) DECODE(f16, __half, D, STAGES, BLOCKS)
DECODE_SHAPES(DECODE_BF16)
DECODE_SHAPES(DECODE_F16)
