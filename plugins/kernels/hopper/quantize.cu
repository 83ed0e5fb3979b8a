// SPDX-License-Identifier: Apache-2.0
// Rows of activations to int8 or e4m3, exactly as tenon/ops.h defines it, alone or behind rms_norm. One block per row.
#include "eight.h"
#include "quantize.cuh"

// Weights of the norm.
template <int CHUNKS> struct quantize_weights {
    static constexpr bool kept = CHUNKS <= 2; // of more there are too many for the registers
    float w[kept ? CHUNKS : 1][8];
};

// They do not depend on the kernel before: of few chunks they are loaded at once, of more they are brought near.
template <int THREADS, int CHUNKS>
__device__ __forceinline__ void quantize_prepare(const quantize_params &p,
                                                 quantize_weights<CHUNKS> &to)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * THREADS + threadIdx.x) * 8;
        if (i >= p.width)
            continue;
        if constexpr (quantize_weights<CHUNKS>::kept) {
            load_weight8(p.weight, p.weight_dtype, i, to.w[c]);
        } else {
            const uint32_t bytes = p.weight_dtype == TN_DT_F32 ? 4 : 2;
            prefetch(static_cast<const unsigned char *>(p.weight) + i * bytes);
        }
    }
}

// What the norm makes of a row, rounded as if it had been stored. A thread has CHUNKS times eight elements of it.
template <typename T, int THREADS, int CHUNKS>
__device__ __forceinline__ void quantize_norm(const quantize_params &p,
                                              const quantize_weights<CHUNKS> &weights,
                                              uint4 (&raw)[CHUNKS])
{
    float squares = 0.0f;

#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        float x[8];
        unpack8<T>(raw[c], x);
#pragma unroll
        for (int j = 0; j < 8; j++)
            squares += x[j] * x[j];
    }
    const float norm = rsqrtf(block_sum<THREADS>(squares) / static_cast<float>(p.width) + p.eps);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * THREADS + threadIdx.x) * 8;
        float x[8], w[8];
        if (i >= p.width)
            continue;
        if constexpr (!quantize_weights<CHUNKS>::kept)
            load_weight8(p.weight, p.weight_dtype, i, w);
        unpack8<T>(raw[c], x);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if constexpr (quantize_weights<CHUNKS>::kept)
                w[j] = weights.w[c][j];
            x[j] *= norm * (p.offset + w[j]);
        }
        raw[c] = pack8<T>(x);
    }
}

// The largest number of the row; infinity if one of them is not finite.
template <typename T, int THREADS, int CHUNKS>
__device__ __forceinline__ float quantize_largest(const uint4 (&raw)[CHUNKS])
{
    float largest = 0.0f;

#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        float x[8];
        unpack8<T>(raw[c], x);
#pragma unroll
        for (int j = 0; j < 8; j++)
            largest = rounding_largest(largest, x[j]);
    }
    return block_max<THREADS>(largest);
}

// GATHERS: row i is made of row p.row[i].
template <typename E, typename T, int THREADS, int CHUNKS, bool GATHERS>
__device__ __forceinline__ void quantize(const quantize_params &p)
{
    const uint64_t row = static_cast<uint64_t>(blockIdx.x) * p.width;
    uint4 raw[CHUNKS];
    quantize_weights<CHUNKS> weights;

    allow_successor();
    if (p.weight)
        quantize_prepare<THREADS>(p, weights);
    wait_for_predecessor();
    uint64_t from = row;
    if constexpr (GATHERS)
        from = static_cast<uint64_t>(p.row[blockIdx.x]) * p.width;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * THREADS + threadIdx.x) * 8;
        raw[c] = make_uint4(0, 0, 0, 0);
        if (i < p.width)
            raw[c] = *reinterpret_cast<const uint4 *>(static_cast<const T *>(p.x) + from + i);
    }
    if (p.weight)
        quantize_norm<T, THREADS, CHUNKS>(p, weights, raw);
    const float largest = quantize_largest<T, THREADS, CHUNKS>(raw);
    const rounding r = rounding_of<E>(p.scale, largest);
    if (threadIdx.x == 0)
        p.step[blockIdx.x] = r.step;
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * THREADS + threadIdx.x) * 8;
        float x[8];
        if (i >= p.width)
            break;
        unpack8<T>(raw[0], x);
#pragma unroll
        for (int j = 1; j < CHUNKS; j++) // registers have no index
            raw[j - 1] = raw[j];
        *reinterpret_cast<uint2 *>(static_cast<unsigned char *>(p.q) + row + i) =
            rounding_apply<E>(r, x);
    }
}

#define QUANTIZE(E, name, T, THREADS, CHUNKS)                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        quantize_##E##_##name##_##THREADS##x##CHUNKS(const __grid_constant__ quantize_params p)    \
    {                                                                                              \
        quantize<to_##E, T, THREADS, CHUNKS, false>(p);                                            \
    }

#define GATHER(name, T, THREADS, CHUNKS)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        gather_s8_##name##_##THREADS##x##CHUNKS(const __grid_constant__ quantize_params p)         \
    {                                                                                              \
        quantize<to_s8, T, THREADS, CHUNKS, true>(p);                                              \
    }

#define E4M3_BF16(THREADS, CHUNKS) QUANTIZE(e4m3, bf16, __nv_bfloat16, THREADS, CHUNKS)
#define E4M3_F16(THREADS, CHUNKS) QUANTIZE(e4m3, f16, __half, THREADS, CHUNKS)
#define S8_BF16(THREADS, CHUNKS) QUANTIZE(s8, bf16, __nv_bfloat16, THREADS, CHUNKS)
#define S8_F16(THREADS, CHUNKS) QUANTIZE(s8, f16, __half, THREADS, CHUNKS)
QUANTIZE_SHAPES(E4M3_BF16)
QUANTIZE_SHAPES(E4M3_F16)
QUANTIZE_SHAPES(S8_BF16)
QUANTIZE_SHAPES(S8_F16)

#define GATHER_BF16(THREADS, CHUNKS) GATHER(bf16, __nv_bfloat16, THREADS, CHUNKS)
#define GATHER_F16(THREADS, CHUNKS) GATHER(f16, __half, THREADS, CHUNKS)
QUANTIZE_FEW_SHAPES(GATHER_BF16)
QUANTIZE_FEW_SHAPES(GATHER_F16)
