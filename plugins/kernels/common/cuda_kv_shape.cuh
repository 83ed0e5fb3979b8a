/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storing a head of a cache in float8_e4m3 with feedback (kv_append in tenon/ops.h) in device code: the first pass of what
 * kv_feedback.h does on hosts. The two passes that settle elements one by one are left out: they gain little, and each element would
 * wait for the one before.
 *
 * What the errors of a run ask of the elements before it is a product of matrices, errors [rows, 8] times table [8, elements], and a
 * warp has sixteen rows of a head, so that tensor cores make it (mma.sync, which lays the sums of a run out as it wants the errors
 * of one). Its operands are float16: what is asked for is within 2^-10 of itself, so that a bit may differ from a host's.
 */
#ifndef COMMON_CUDA_KV_SHAPE_CUH
#define COMMON_CUDA_KV_SHAPE_CUH

#include "cuda_kv8.cuh"
#include "tenon/kv_feedback.h"

#define KV_SHAPE_RUN 8
#define KV_SHAPE_ROWS 16 /* that a warp has */
static_assert(KV_SHAPE_RUN == TN_KV_FEEDBACK_RUN, "a run is what mma.sync contracts");

/* What `stored` misses y by; 0 for NaN, and for what is far beyond the range. */
__device__ __forceinline__ float kv_missed(float stored, float y)
{
    const float error = y - stored;

    return fabsf(error) <= 448.0f ? error : 0.0f;
}

/* Two numbers as float16, the first in the low half. */
__device__ __forceinline__ uint32_t kv_shape_pack(float a, float b)
{
    const __half2 pair = __floats2half2_rn(a, b);

    return *(const uint32_t *)&pair;
}

/* d = a b + c, of which a lane has rows lane / 4 and eight more, columns 2 (lane % 4) and the next. */
__device__ __forceinline__ void kv_shape_mma(float (&d)[4], uint2 a, uint32_t b,
                                             const float (&c)[4])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %8, %9, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

/* The same of two runs at once: a[0] with b.x, and a[1] with b.y. */
__device__ __forceinline__ void kv_shape_mma2(float (&d)[4], const uint2 (&a)[2], uint2 b,
                                              const float (&c)[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0].x), "r"(a[0].y), "r"(a[1].x), "r"(a[1].y), "r"(b.x), "r"(b.y), "f"(c[0]),
          "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

/* What y, two numbers, becomes where `asked` is asked of it; the second in the high byte. `error`: what it misses y by, packed. */
__device__ __forceinline__ uint16_t kv_shape_narrow(const float *y, const float *asked,
                                                    uint32_t &error)
{
    const uint16_t to = __nv_cvt_float2_to_fp8x2(make_float2(y[0] + asked[0], y[1] + asked[1]),
                                                 __NV_SATFINITE, __NV_E4M3);
    const uint32_t widened = e4m3_pair(to, false);
    const float2 stored = __half22float2(*(const __half2 *)&widened);

    error = kv_shape_pack(kv_missed(stored.x, y[0]), kv_missed(stored.y, y[1]));
    return to;
}

/*
 * Of sixteen rows of a head of `runs` runs. A lane has of each run columns 2 (lane % 4) and the next of rows lane / 4 and eight more, in
 * that order:
 *   rows.load(run, y)         what is to be stored, divided by the scale
 *   rows.keep(run, error, to) what it became, two bytes of either row, and what that misses y by, for this lane
 *   rows.kept(run)            which errors were kept
 *   table.pair(run, of)       the lane's word of what run `run` asks of run `of` (kv_feedback.h): errors 2 (lane % 4) and the next, element
 *                             lane / 4
 * What a run is asked for by all runs but the one behind it is added up while that one becomes what is stored. There is little code:
 * a step of few rows runs through it once, and would wait for instructions. Sets that know how many runs there are keep the sums in
 * registers (hopper/shape.cuh).
 */
template <typename Table, typename Rows>
__device__ __forceinline__ void kv_shape(const Table &table, const Rows &rows, int runs)
{
    float asked[4] = {};

#pragma unroll 1
    for (int run = runs - 1; run >= 0; run--) {
        const int of = run > 0 ? run - 1 : 0;
        float y[4], even[4] = {}, odd[4] = {};
        uint2 error;
        rows.load(run, y);
        int from = run + 1;
        if ((runs - from) % 2) {
            kv_shape_mma(odd, rows.kept(from), table.pair(from, of), odd);
            from++;
        }
#pragma unroll 1
        for (; from < runs; from += 2) {
            kv_shape_mma(even, rows.kept(from), table.pair(from, of), even);
            kv_shape_mma(odd, rows.kept(from + 1), table.pair(from + 1, of), odd);
        }
        const uint16_t first = kv_shape_narrow(y, asked, error.x);
        const uint16_t second = kv_shape_narrow(y + 2, asked + 2, error.y);
        rows.keep(run, error, first, second);
        kv_shape_mma(even, error, run > 0 ? table.pair(run, of) : 0, even);
#pragma unroll
        for (int n = 0; n < 4; n++)
            asked[n] = even[n] + odd[n];
    }
}

#endif
