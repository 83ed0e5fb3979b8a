// SPDX-License-Identifier: Apache-2.0
// Products of matrices of 8 bits with one row of 16 bits; see one.cuh. Beside e4m3 the row stays as it is (eight_half.cuh); beside
// int8 each block rounds it, behind the norm if one comes first, with the bits that quantize.cu makes: a kernel less, for some
// hundred nanoseconds of each block.
#include "../common/cuda_mma_int8.cuh"
#include "eight_half.cuh"
#include "one.cuh"
#include "quantize.cuh"

// T: of the row and the outputs.
template <typename T> struct one_e4m3 : eight_outputs<T> {
    using type = T;
    using sum = float;
    static constexpr bool norms = PRODUCT_NORMS<T>, rounds = false;
    static constexpr uint32_t x_bytes = EIGHT_K * sizeof(T), operand_bytes = x_bytes;

    static __device__ __forceinline__ uint32_t sum_row()
    {
        return half_row();
    }

    template <int GROUPS, int CHAINS>
    static __device__ __forceinline__ void multiply(float (&d)[CHAINS][GROUPS][4], uint32_t weights,
                                                    uint32_t x)
    {
        const uint32_t t = threadIdx.x % 4;

#pragma unroll(GROUPS > 2 ? 1 : 2)
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
                half_mma<T>(d[CHAINS == 1 ? 0 : half][m], a, first, second);
            }
        }
    }
};

#define CONSUMERS 128 // threads

// A sum, or the largest, over the consumers; `meet` has room for four numbers.
template <typename F> __device__ __forceinline__ float one_reduce(float x, float *meet, F f)
{
    for (uint32_t step = 16; step > 0; step /= 2)
        x = f(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    if (threadIdx.x % 32 == 0)
        meet[threadIdx.x / 32] = x;
    skinny_consumers_sync();
    x = f(f(meet[0], meet[1]), f(meet[2], meet[3]));
    skinny_consumers_sync(); // it may be used again
    return x;
}

template <typename T> struct one_s8 : eight_outputs<T> {
    using type = T;
    using sum = int;
    static constexpr bool norms = false, rounds = true;
    static constexpr uint32_t x_bytes = EIGHT_K * sizeof(T), operand_bytes = EIGHT_K;

    static __device__ __forceinline__ uint32_t sum_row()
    {
        return half_row();
    }

    // What the norm makes of the row, rounded as if it had been stored, in its place.
    static __device__ __forceinline__ void norm(const product_norm &n, uint4 *x, float *meet)
    {
        float squares = 0.0f;

        for (uint32_t i = threadIdx.x; i < n.width / 8; i += CONSUMERS) {
            float v[8];
            unpack8<T>(x[i], v);
#pragma unroll
            for (int j = 0; j < 8; j++)
                squares += v[j] * v[j];
        }
        squares = one_reduce(squares, meet, [](float a, float b) { return a + b; });
        const float by = rsqrtf(squares / static_cast<float>(n.width) + n.eps);
        for (uint32_t i = threadIdx.x; i < n.width / 8; i += CONSUMERS) {
            float v[8], w[8];
            unpack8<T>(x[i], v);
            load_weight8(n.weight, n.weight_dtype, i * 8, w);
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[j] *= by * (n.offset + w[j]);
            x[i] = pack8<T>(v);
        }
    }

    // Each thread reads what it itself has written.
    static __device__ __forceinline__ float round(const eight_params &q, unsigned char *row,
                                                  float *meet)
    {
        const uint32_t n = q.p.k_blocks * EIGHT_K / 8;
        uint4 *x = reinterpret_cast<uint4 *>(row);
        uint2 *to = reinterpret_cast<uint2 *>(row + q.p.k_blocks * x_bytes);
        float largest = 0.0f;

        if (q.p.norm.weight)
            norm(q.p.norm, x, meet);
        for (uint32_t i = threadIdx.x; i < n; i += CONSUMERS) {
            float v[8];
            unpack8<T>(x[i], v);
#pragma unroll
            for (int j = 0; j < 8; j++)
                largest = rounding_largest(largest, v[j]);
        }
        largest = one_reduce(largest, meet, [](float a, float b) { return fmaxf(a, b); });
        const rounding r = rounding_of<to_s8>(q.act_scale, largest);
        for (uint32_t i = threadIdx.x; i < n; i += CONSUMERS) {
            float v[8];
            unpack8<T>(x[i], v);
            to[i] = rounding_apply<to_s8>(r, v);
        }
        skinny_consumers_sync();
        return r.step;
    }

    // A lane's sixteen bytes of a row are those of two steps of 32 of K; the row's are in the same order.
    template <int GROUPS, int CHAINS>
    static __device__ __forceinline__ void multiply(int (&d)[CHAINS][GROUPS][4], uint32_t weights,
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
                mma_int8(d[CHAINS == 1 ? 0 : half][m], first, v.x, v.y);
                mma_int8(d[CHAINS == 1 ? 0 : half][m], second, v.z, v.w);
            }
        }
    }
};

#define ONE(E, name, T, GROUPS, CHUNKS, STAGES)                                                    \
    extern "C" __global__ void __launch_bounds__(SKINNY_NORM_THREADS, GROUPS > 2 ? 2 : 3)          \
        one_##E##_##name##_##GROUPS##x##CHUNKS##x##STAGES(const __grid_constant__ eight_params p)  \
    {                                                                                              \
        one<one_##E<T>, GROUPS, CHUNKS, STAGES>(p);                                                \
    }

#define ONE_E4M3_BF16(G, C, STAGES) ONE(e4m3, bf16, __nv_bfloat16, G, C, STAGES)
#define ONE_E4M3_F16(G, C, STAGES) ONE(e4m3, f16, __half, G, C, STAGES)
#define ONE_S8_BF16(G, C, STAGES) ONE(s8, bf16, __nv_bfloat16, G, C, STAGES)
#define ONE_S8_F16(G, C, STAGES) ONE(s8, f16, __half, G, C, STAGES)
ONE_SHAPES(ONE_E4M3_BF16)
ONE_SHAPES(ONE_E4M3_F16)
ONE_SHAPES(ONE_S8_BF16)
ONE_SHAPES(ONE_S8_F16)
