// SPDX-License-Identifier: Apache-2.0
// Products of matrices of 8 bits with one row of 16 bits; see one.cuh. Beside e4m3 the row stays as it is (eight_half.cuh); beside
// int8 each block rounds it, with the bits that quantize.cu makes: a kernel less, for a microsecond of each block.
#include "../common/cuda_mma_int8.cuh"
#include "eight_half.cuh"
#include "one.cuh"
#include "quantize.cuh"

// T: of the row and the outputs.
template <typename T> struct one_outputs : eight_outputs<T> {
    using type = T;

    static __device__ __forceinline__ uint32_t sum_row()
    {
        return half_row();
    }
};

template <typename T> struct one_e4m3 : one_outputs<T> {
    using sum = float;
    static constexpr bool norms = PRODUCT_NORMS<T>, rounds = false;
    static constexpr skinny_finishes finishes = norms ? SKINNY_NORM : SKINNY_SUMS;
    static constexpr uint32_t x_bytes = EIGHT_K * sizeof(T), operand_bytes = x_bytes;

    template <int GROUPS>
    static __device__ __forceinline__ void multiply(float (&d)[GROUPS][4], uint32_t weights,
                                                    uint32_t x)
    {
        const uint32_t t = threadIdx.x % 4;

#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint4 first = make_uint4(0, 0, 0, 0), second = first;
            if (threadIdx.x % 32 < 4) {
                first = half_load(x + half * 128 + t * 32);
                second = half_load(x + half * 128 + t * 32 + 16);
            }
#pragma unroll
            for (int m = 0; m < GROUPS; m++) {
                uint32_t a[4][4];
                half_weights<T>(weights + m * 16 * 128, half_row(), 4 * half + t, a);
                half_mma<T>(d[m], a, first, second);
            }
        }
    }
};

#define AT_ONCE 4 // times eight elements of the row that a thread has in registers

// Every thread's part of the row, eights from i(0) on.
template <typename T> struct one_piece {
    uint4 raw[AT_ONCE];
    uint32_t first;

    __device__ __forceinline__ uint32_t i(uint32_t c) const
    {
        return first + c * SKINNY_CONSUMERS;
    }

    __device__ __forceinline__ void load(const uint4 *x, uint32_t end)
    {
#pragma unroll
        for (uint32_t c = 0; c < AT_ONCE; c++)
            raw[c] = i(c) < end ? x[i(c)] : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ float largest(float so_far) const
    {
#pragma unroll
        for (uint32_t c = 0; c < AT_ONCE; c++) {
            float v[8];
            unpack8<T>(raw[c], v);
#pragma unroll
            for (int j = 0; j < 8; j++)
                so_far = rounding_largest(so_far, v[j]);
        }
        return so_far;
    }

    __device__ __forceinline__ void store(const rounding &r, uint2 *to, uint32_t end) const
    {
#pragma unroll
        for (uint32_t c = 0; c < AT_ONCE; c++) {
            float v[8];
            unpack8<T>(raw[c], v);
            if (i(c) < end)
                to[i(c)] = rounding_apply_s8(r, v);
        }
    }
};

// The largest over the consumers; `meet` has room for four numbers.
__device__ __forceinline__ float one_largest(float x, float *meet)
{
    for (uint32_t step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    if (threadIdx.x % 32 == 0)
        meet[threadIdx.x / 32] = x;
    skinny_consumers_sync();
    return fmaxf(fmaxf(meet[0], meet[1]), fmaxf(meet[2], meet[3]));
}

template <typename T> struct one_s8 : one_outputs<T> {
    using sum = int;
    static constexpr bool norms = false, rounds = true;
    static constexpr skinny_finishes finishes = SKINNY_SUMS;
    static constexpr uint32_t x_bytes = EIGHT_K * sizeof(T), operand_bytes = EIGHT_K;

    // Of the row at `row`, behind it. Returns what it was divided by.
    static __device__ __forceinline__ float round(const eight_params &q, unsigned char *row,
                                                  float *meet)
    {
        const uint32_t end = q.p.k_blocks * EIGHT_K / 8;
        const uint4 *x = reinterpret_cast<const uint4 *>(row);
        uint2 *to = reinterpret_cast<uint2 *>(row + q.p.k_blocks * x_bytes);
        one_piece<T> p;
        float largest = 0.0f;

        for (p.first = threadIdx.x; p.first < end; p.first += AT_ONCE * SKINNY_CONSUMERS) {
            p.load(x, end);
            largest = p.largest(largest);
        }
        const rounding r = rounding_of<to_s8>(q.act_scale, one_largest(largest, meet));
        for (p.first = threadIdx.x; p.first < end; p.first += AT_ONCE * SKINNY_CONSUMERS) {
            p.load(x, end);
            p.store(r, to, end);
        }
        skinny_consumers_sync();
        return r.step;
    }

    // A lane's sixteen bytes of a row are those of two steps of 32 of K; the row's are in the same order.
    template <int GROUPS>
    static __device__ __forceinline__ void multiply(int (&d)[GROUPS][4], uint32_t weights,
                                                    uint32_t x)
    {
        const uint32_t t = threadIdx.x % 4, row = half_row();

#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint4 v =
                threadIdx.x % 32 < 4 ? half_load(x + half * 64 + t * 16) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int m = 0; m < GROUPS; m++) {
                const uint32_t at = weights + (m * 16 + row) * 128 + ((4 * half + t) ^ row) * 16;
                const uint4 u = half_load(at), l = half_load(at + 8 * 128);
                const uint32_t first[4] = {u.x, l.x, u.y, l.y}, second[4] = {u.z, l.z, u.w, l.w};
                mma_int8(d[m], first, v.x, v.y);
                mma_int8(d[m], second, v.z, v.w);
            }
        }
    }
};

#define ONE(E, name, T, GROUPS, CHUNKS, STAGES)                                                    \
    extern "C" __global__ void __launch_bounds__(                                                  \
        one_##E<T>::norms ? SKINNY_NORM_THREADS : SKINNY_THREADS, 3)                               \
        one_##E##_##name##_##GROUPS##x##CHUNKS##x##STAGES(const __grid_constant__ eight_params p)  \
    {                                                                                              \
        one<one_##E<T>, GROUPS, CHUNKS, STAGES>(p);                                                \
    }

#define ONE_E4M3_BF16(G, C, STAGES) ONE(e4m3, bf16, __nv_bfloat16, G, C, STAGES)
#define ONE_E4M3_F16(G, C, STAGES) ONE(e4m3, f16, __half, G, C, STAGES)
#define ONE_S8_BF16(G, C, STAGES) ONE(s8, bf16, __nv_bfloat16, G, C, STAGES)
#define ONE_S8_F16(G, C, STAGES) ONE(s8, f16, __half, G, C, STAGES)
ONE_E4M3_SHAPES(ONE_E4M3_BF16)
ONE_E4M3_SHAPES(ONE_E4M3_F16)
ONE_S8_SHAPES(ONE_S8_BF16)
ONE_S8_SHAPES(ONE_S8_F16)
