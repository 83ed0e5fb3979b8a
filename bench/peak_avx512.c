/* SPDX-License-Identifier: Apache-2.0 */
/* Peaks of an x86-64 machine with AVX-512; compiled for it, called only where kernels_peak.c says so. */
#include "kernels_peak.h"

#include <immintrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

static volatile float sink;

static void peak_f32(void)
{
    __m512 acc[PEAK_CHAINS], a = _mm512_set1_ps(1.0001f), b = _mm512_set1_ps(0.9999f);

    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < PEAK_STEPS; n++) {
        UNROLL
        for (int i = 0; i < PEAK_CHAINS; i++)
            acc[i] = _mm512_fmadd_ps(a, b, acc[i]);
    }
    UNROLL
    for (int i = 1; i < PEAK_CHAINS; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink = _mm512_reduce_add_ps(acc[0]);
}

static void peak_bf16(void)
{
    __m512 acc[PEAK_CHAINS];
    __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.5f), _mm512_set1_ps(0.7f)), b = a;

    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++)
        acc[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < PEAK_STEPS; n++) {
        UNROLL
        for (int i = 0; i < PEAK_CHAINS; i++)
            acc[i] = _mm512_dpbf16_ps(acc[i], a, b);
    }
    UNROLL
    for (int i = 1; i < PEAK_CHAINS; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    sink = _mm512_reduce_add_ps(acc[0]);
}

static void peak_int8(void)
{
    __m512i acc[PEAK_CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);

    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++)
        acc[i] = _mm512_set1_epi32(i);
    for (int n = 0; n < PEAK_STEPS; n++) {
        UNROLL
        for (int i = 0; i < PEAK_CHAINS; i++)
            acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
    }
    UNROLL
    for (int i = 1; i < PEAK_CHAINS; i++)
        acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    sink = (float)_mm512_reduce_add_epi32(acc[0]);
}

void peak_run_avx512(enum peak p)
{
    switch (p) {
    case PEAK_F32: peak_f32(); break;
    case PEAK_BF16: peak_bf16(); break;
    default: peak_int8(); break;
    }
}

void peak_read_avx512(void *arg, uint32_t index, uint32_t count)
{
    const struct peak_read *r = arg;
    uint64_t part = r->bytes / count / 256 * 256;
    const unsigned char *p = r->data + index * part;
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                      _mm512_setzero_si512()};

    for (uint64_t i = 0; i < part; i += 256) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            __builtin_prefetch(p + i + 8192 + 64 * j);
            sum[j] = _mm512_add_epi32(sum[j], _mm512_load_si512(p + i + 64 * j));
        }
    }
    sum[0] = _mm512_add_epi32(_mm512_add_epi32(sum[0], sum[1]), _mm512_add_epi32(sum[2], sum[3]));
    sink = (float)_mm512_reduce_add_epi32(sum[0]);
}
