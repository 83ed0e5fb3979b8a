// SPDX-License-Identifier: Apache-2.0
// Attention of single rows over a cache of 8 bits; see decode.cuh. Keys and values become float16 on the way from shared
// memory to the tensor cores, which is exact. The scale of the scores and of the keys is in the queries, so that what
// overflows there is beyond all scores that mean anything.
//
// ldmatrix moves pairs of bytes. A lane's four bytes are elements d = 4 c to 4 c + 3 of one key: it takes them as the
// contraction's indices 2 c, 2 c + 1, 2 c + 8 and 2 c + 9, and the queries are read in the same order. Of values a lane gets two
// adjacent elements of two tokens: even ones are rows 0 to 7 of the product, odd ones rows 8 to 15.
#include "../common/cuda_kv8.cuh"
#include "decode.cuh"

template <typename T, typename E, int D, int STAGES, decode_storing S> struct cells8 {
    using type = T;
    using math = __half;
    using cell = uint8_t;
    static constexpr int dim = D, stages = STAGES;
    static constexpr decode_storing storing = S;
    static constexpr uint32_t q_step = 4, q_second = 2, next = 1;

    static __device__ __forceinline__ float query_scale(const attention_params &p,
                                                        const decode_item &t)
    {
        return p.scale * t.k_unit;
    }
    static __device__ __forceinline__ float score_scale(const attention_params &)
    {
        return 1.0f;
    }
    static __device__ __forceinline__ float value_scale(const attention_params &,
                                                        const decode_item &t)
    {
        return t.v_unit;
    }
    static __device__ __forceinline__ __half query(T v, float scale)
    {
        return kv8_query(to_float(v) * scale);
    }
    static __device__ __forceinline__ float key_mean(const attention_params &p,
                                                     const decode_item &t, uint32_t d)
    {
        return p.k_center ? p.k_center[t.kv_head * D + d] : 0.0f;
    }
    static __device__ __forceinline__ uint8_t narrow_key(const decode_item &t, float mean, T v)
    {
        return kv8_store<E>(to_float(v) - mean, t.k_unit);
    }
    static __device__ __forceinline__ uint8_t narrow_value(const attention_params &,
                                                           const decode_item &t, T v)
    {
        return kv8_store<E>(to_float(v), t.v_unit);
    }
    static __device__ __forceinline__ uint32_t output(uint32_t lane)
    {
        return lane / 4 * 2;
    }
    static __device__ __forceinline__ void copy(uint32_t to, const void *map, int32_t row,
                                                int32_t block, uint32_t barrier)
    {
        copy_4d(to, map, 0, row, 0, block, barrier, EVICT_FIRST);
    }

    // As in decode.cu. Rows of 64 bytes have the swizzle of 64: bits 4 and 5 are turned by bits 7 and 8.
    static __device__ __forceinline__ uint32_t address(uint32_t stage, uint32_t shift, uint32_t r,
                                                       uint32_t d, uint32_t kv)
    {
        const uint32_t in = r & ((1u << shift) - 1), plane = static_cast<uint32_t>(D) << shift;
        const uint32_t at = stage + ((r >> shift) * 2 + kv) * plane + in * D;

        return at + ((d / 16) ^ (at / 128 % (D / 16))) * 16 + d % 16;
    }

    // Sixteen tokens by 32 elements, keys or values.
    static __device__ __forceinline__ uint32_t lane_address(uint32_t ring, uint32_t stage,
                                                            uint32_t shift, uint32_t row, int i,
                                                            uint32_t kv)
    {
        const uint32_t lane = threadIdx.x % 32;

        return ring + address(stage, shift, row + lane % 16, 32 * i + lane / 16 * 16, kv);
    }

    static __device__ __forceinline__ void scores(float (&s)[4], const uint32_t (&q)[D / 16][2],
                                                  uint32_t ring, uint32_t stage, uint32_t shift,
                                                  uint32_t row)
    {
        float other[4] = {0, 0, 0, 0}; // two chains of sums: they are waited for

#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint32_t raw[4], x[4];
            load_matrices(raw, lane_address(ring, stage, shift, row, i, 0));
            kv8_widen<E>(raw[0], x[0], x[2]);
            kv8_widen<E>(raw[1], x[1], x[3]);
            element<__half>::mma(s, x, q[2 * i][0], q[2 * i][1]);
            kv8_widen<E>(raw[2], x[0], x[2]);
            kv8_widen<E>(raw[3], x[1], x[3]);
            element<__half>::mma(other, x, q[2 * i + 1][0], q[2 * i + 1][1]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[i] += other[i];
    }

    static __device__ __forceinline__ void values(decode_state<D> &a, uint32_t b0, uint32_t b1,
                                                  uint32_t ring, uint32_t stage, uint32_t shift,
                                                  uint32_t row)
    {
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint32_t raw[4], x[4];
            load_matrices_transposed(raw, lane_address(ring, stage, shift, row, i, 1));
            kv8_widen_columns<E>(raw[0], x[0], x[1]);
            kv8_widen_columns<E>(raw[1], x[2], x[3]);
            element<__half>::mma(a.o[2 * i], x, b0, b1);
            kv8_widen_columns<E>(raw[2], x[0], x[1]);
            kv8_widen_columns<E>(raw[3], x[2], x[3]);
            element<__half>::mma(a.o[2 * i + 1], x, b0, b1);
        }
    }
};

// Blocks beside those that attend store what the step appends, if that is done with feedback; the ring's memory holds their table.
// The row's own attention reads key and value as they are rounded to the nearest.
template <typename C> __device__ __forceinline__ void decode_or_shape(const attention_params &p)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t block = blockIdx.x - p.shaping.first;

    if (block >= p.shaping.blocks) {
        decode<C>(p);
        return;
    }
    allow_successor();
    if (block >= p.shaping.items)
        return;
    if (p.rows <= KV_SHAPE_ROWS)
        shape_few<typename C::type, C::dim>(p, p.rope_k, memory, block);
    else
        shape_many<typename C::type, C::dim, 1, false>(p, p.rope_k, memory, block);
}

#define DECODE(cells, E, name, T, way, S, run, D, STAGES, BLOCKS)                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                  \
        decode_##cells##_##name##_##D##x##STAGES##way(const __grid_constant__ attention_params p)  \
    {                                                                                              \
        run<cells8<T, E, D, STAGES, S>>(p);                                                        \
    }

#define BOTH(cells, E, way, S, run, D, STAGES, BLOCKS)                                             \
    DECODE(cells, E, bf16, __nv_bfloat16, way, S, run, D, STAGES, BLOCKS)                          \
    DECODE(cells, E, f16, __half, way, S, run, D, STAGES, BLOCKS)
#define DECODE_ALL(D, STAGES, BLOCKS)                                                              \
    BOTH(fp8, e4m3, , DECODE_NEAREST, decode, D, STAGES, BLOCKS)                                   \
    BOTH(int8, int8_t, , DECODE_NEAREST, decode, D, STAGES, BLOCKS)                                \
    BOTH(fp8, e4m3, _beside, DECODE_BESIDE, decode_or_shape, D, STAGES, BLOCKS)                    \
    BOTH(fp8, e4m3, _within, DECODE_WITHIN, decode, D, STAGES, BLOCKS)
DECODE8_SHAPES(DECODE_ALL)
