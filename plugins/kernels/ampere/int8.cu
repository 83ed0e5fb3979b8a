/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linear.int8 and logits.int8: rows quantized, behind a norm if one comes first, and their products with weights of 8 bits, summed exactly;
 * see ../common/narrow.cuh.
 */
#include "../common/narrow.cuh"
#include "args.h"

/* -- Rows ------------------------------------------------------------------------------------------------------- */

/* Calls f(i, eight elements from i on) for the thread's share of the row in shared memory. */
template <typename T, typename F>
__device__ __forceinline__ void for_row(uint4 *row, uint32_t width, const F &f)
{
    for (uint32_t i = threadIdx.x; i < width / 8; i += QUANTIZE_THREADS) {
        float x[8];
        widen16<T>(row[i], x);
        f(i, x);
    }
}

/* What rms_norm makes of the row, rounded as if it had been stored. */
template <typename T>
__device__ __forceinline__ void norm_row(const quantize_args &p, uint4 *row, float *scratch)
{
    float squares = 0.0f;

    for_row<T>(row, p.width, [&](uint32_t, const float *x) {
        for (int j = 0; j < 8; j++)
            squares += x[j] * x[j];
    });
    squares = block_reduce(squares, plus_op(), scratch);
    const float norm = rsqrtf(squares / (float)p.width + p.eps);
    for_row<T>(row, p.width, [&](uint32_t i, float *x) {
        for (int j = 0; j < 8; j++)
            x[j] *= norm * (p.offset + load_any(p.weight, p.weight_dtype, 8 * i + j));
        row[i] = narrow16<T>(x);
    });
}

/* One block per row: step = scale, or the largest |x| / 127 if that is 0; q = x / step, rounded. A row that is not finite
 * gets the step NaN. */
template <typename T> __device__ __forceinline__ void quantize(const quantize_args &p)
{
    extern __shared__ __align__(16) uint4 row[];
    __shared__ float scratch[32];
    float largest = 0.0f;

    wait_for_previous();
    let_next_begin();
    const uint64_t from = p.row_index ? (uint64_t)p.row_index[blockIdx.x] : blockIdx.x;
    for (uint32_t i = threadIdx.x; i < p.width / 8; i += QUANTIZE_THREADS)
        row[i] = ((const uint4 *)p.x)[from * (p.width / 8) + i];
    if (p.weight)
        norm_row<T>(p, row, scratch);
    for_row<T>(row, p.width, [&](uint32_t, const float *x) {
        for (int j = 0; j < 8; j++)
            largest = fmaxf(largest, fabsf(x[j]) <= 3.402823466e38f ? fabsf(x[j]) : INFINITY);
    });
    largest = block_reduce(largest, max_op(), scratch);
    float step = p.scale > 0.0f ? p.scale : largest / 127.0f;
    step = largest == INFINITY ? NAN : step;
    if (threadIdx.x == 0)
        p.step[blockIdx.x] = step;
    for_row<T>(row, p.width, [&](uint32_t i, const float *x) {
        uint32_t q[8];
        for (int j = 0; j < 8; j++) {
            const float v = step > 0.0f ? x[j] / step : 0.0f;
            q[j] = (uint8_t)(int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(v)));
        }
        ((uint2 *)p.q)[(uint64_t)blockIdx.x * (p.width / 8) + i] = make_uint2(
            q[0] | q[1] << 8 | q[2] << 16 | q[3] << 24, q[4] | q[5] << 8 | q[6] << 16 | q[7] << 24);
    });
}

#define STAMP_QUANTIZE(x)                                                                          \
    extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS) quantize_##x(quantize_args p)   \
    {                                                                                              \
        quantize<x>(p);                                                                            \
    }

STAMP_QUANTIZE(f16)
STAMP_QUANTIZE(bf16)

/* -- Products ---------------------------------------------------------------------------------------------------- */

template <typename X> struct int8_operands {
    typedef X T;
    typedef int sum;
    typedef uint2 piece, x_piece;
    static constexpr bool grouped = false;
    static constexpr int per_byte = 1, x_bytes = 1;

    static __device__ __forceinline__ uint32_t offset(float)
    {
        return 0;
    }
    static __device__ __forceinline__ void widen(const piece &raw, uint32_t, uint32_t w[4])
    {
        w[0] = raw.x;
        w[1] = raw.y;
    }
    static __device__ __forceinline__ void multiply(int d[4], const uint32_t w[2][4],
                                                    const x_piece &x)
    {
        const uint32_t a[4] = {w[0][0], w[1][0], w[0][1], w[1][1]};

        mma_int8(d, a, x.x, x.y);
    }
    /* In the order of the definition and without fusing: an exact sum gives exact bits. */
    static __device__ __forceinline__ float scaled(const product_args &p, const part &m,
                                                   uint32_t row, uint32_t n, int x)
    {
        return __fmul_rn(__fmul_rn(p.step[row], m.scale[n]), (float)x);
    }
};

#define INT8_F16(bm, bn, stages) STAMP_NARROW(int8, f16, int8_operands<f16>, bm, bn, stages)
#define INT8_BF16(bm, bn, stages) STAMP_NARROW(int8, bf16, int8_operands<bf16>, bm, bn, stages)
NARROW_SHAPES(INT8_F16)
NARROW_SHAPES(INT8_BF16)
