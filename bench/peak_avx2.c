/* SPDX-License-Identifier: Apache-2.0 */
/* Peaks of an x86-64 machine with AVX2 and FMA; compiled for it, called only where kernels_peak.c says so. */
#include "kernels_peak.h"

#include <immintrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* Of 16 registers, twelve hold sums: more than latency times throughput of either instruction. */
#define SUMS 12

static volatile float sink;

static void peak_f32(void)
{
    __m256 acc[SUMS], a = _mm256_set1_ps(1.0001f), b = _mm256_set1_ps(0.9999f);

    UNROLL
    for (int i = 0; i < SUMS; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (int n = 0; n < PEAK_STEPS; n++) {
        UNROLL
        for (int i = 0; i < SUMS; i++)
            acc[i] = _mm256_fmadd_ps(a, b, acc[i]);
    }
    UNROLL
    for (int i = 1; i < SUMS; i++)
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    sink = _mm256_cvtss_f32(acc[0]);
}

/* Four products of bytes to a 32-bit sum take three instructions here: maddubs, madd, add. */
static void peak_int8(void)
{
    __m256i acc[SUMS], a = _mm256_set1_epi8(3);
    const __m256i ones = _mm256_set1_epi16(1);

    UNROLL
    for (int i = 0; i < SUMS; i++)
        acc[i] = _mm256_set1_epi32(i);
    for (int n = 0; n < PEAK_STEPS; n++) {
        UNROLL
        for (int i = 0; i < SUMS; i++) {
            __m256i pairs = _mm256_maddubs_epi16(a, acc[i]);
            acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
        }
    }
    UNROLL
    for (int i = 1; i < SUMS; i++)
        acc[0] = _mm256_add_epi32(acc[0], acc[i]);
    sink = (float)_mm_cvtsi128_si32(_mm256_castsi256_si128(acc[0]));
}

double peak_flops_avx2(enum peak p)
{
    return 2.0 * (p == PEAK_INT8 ? 32.0 : 8.0) * SUMS * PEAK_STEPS;
}

void peak_run_avx2(enum peak p)
{
    if (p == PEAK_INT8)
        peak_int8();
    else
        peak_f32();
}

void peak_read_avx2(void *arg, uint32_t index, uint32_t count)
{
    const struct peak_read *r = arg;
    uint64_t part = r->bytes / count / 256 * 256;
    const unsigned char *p = r->data + index * part;
    __m256i sum[8];

    for (int j = 0; j < 8; j++)
        sum[j] = _mm256_setzero_si256();
    for (uint64_t i = 0; i < part; i += 256) {
        UNROLL
        for (int j = 0; j < 8; j++) {
            __builtin_prefetch(p + i + 8192 + 32 * j);
            sum[j] = _mm256_add_epi32(
                sum[j], _mm256_load_si256((const __m256i *)(const void *)(p + i + 32 * j)));
        }
    }
    for (int j = 1; j < 8; j++)
        sum[0] = _mm256_add_epi32(sum[0], sum[j]);
    sink = (float)_mm_cvtsi128_si32(_mm256_castsi256_si128(sum[0]));
}
