/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of 16 float32 in AVX-512 registers: the vocabulary that the *_tmpl.h files are written in.
 * simd_avx2.h says the same with 8. Included by isa_*.c only, which are compiled for these instructions.
 */
#ifndef CPU_SIMD_AVX512_H
#define CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "simd.h"

#define LANES 16
#define TILE_ROWS                                                                                  \
    14 /* rows x 2 vectors of accumulators, 2 vectors of weights, 1 broadcast: 31 of 32 */
#define MICRO_ROWS 6 /* rows x 4 vectors of accumulators, 4 vectors, 1 broadcast: 29 of 32 */
#define MICRO_VECS 4

typedef __m512 vf;    /* LANES float32 */
typedef __m512i vi;   /* LANES int32 */
typedef __mmask16 vm; /* LANES truth values */

/* -- Making, loading, storing -------------------------------------------------------------------- */

static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf v_set1(float a)
{
    return _mm512_set1_ps(a);
}

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}

/* The first n lanes, n < LANES; the others become 0. */
static inline vf v_load_n(const float *p, uint64_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}

static inline void v_store_n(float *p, vf a, uint64_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), a);
}

static inline vf v_load_bf16(const uint16_t *p)
{
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

/* e4m3 divided by 256, see simd_avx2.h. */
static inline vf v_load_f8(const uint8_t *p)
{
    __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(w, 7), 15);

    w = _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16(0x3f80));
    return _mm512_cvtph_ps(_mm256_or_si256(w, sign));
}

/* The same, and NaN stays NaN. */
static inline vf v_load_f8_nan(const uint8_t *p)
{
    __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(w, 7), 15), most = _mm256_set1_epi16(0x3f80);
    __m256i nan;

    w = _mm256_and_si256(_mm256_slli_epi16(w, 7), most);
    nan = _mm256_and_si256(_mm256_cmpeq_epi16(w, most), _mm256_set1_epi16(0x7e00));
    return _mm512_cvtph_ps(_mm256_or_si256(_mm256_or_si256(w, nan), sign));
}

static inline vf v_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

static inline vf v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Rounds to nearest, ties to even; NaN stays NaN, as tn_f32_to_bf16 does. */
static inline void v_store_bf16(uint16_t *p, vf a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);

    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

static inline void v_store_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p,
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* -- Arithmetic ---------------------------------------------------------------------------------- */

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once. */
static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a * b, rounded once. */
static inline vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

/* The larger; b if either is NaN. */
static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

/* The smaller; b if either is NaN. */
static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline vf v_abs(vf a)
{
    return _mm512_abs_ps(a);
}

/* To the nearest whole number, ties to even. */
static inline vf v_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a * 2^n for whole n, with gradual underflow. */
static inline vf v_ldexp(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}

/* |a| with the sign of s. */
static inline vf v_copysign(vf a, vf s)
{
    __m512i sign = _mm512_set1_epi32((int)0x80000000u);

    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(s), _mm512_castps_si512(a), 0xca));
}

/* -- Truth values -------------------------------------------------------------------------------- */

static inline vm v_lt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

static inline vm v_eq(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

/* True in lanes first <= i < last. */
static inline vm v_range(uint32_t first, uint32_t last)
{
    return (vm)(((1u << last) - 1u) & ~((1u << first) - 1u));
}

/* yes where m, else no. */
static inline vf v_select(vm m, vf yes, vf no)
{
    return _mm512_mask_blend_ps(m, no, yes);
}

static inline int v_any(vm m)
{
    return m != 0;
}

/* -- Across lanes -------------------------------------------------------------------------------- */

/* The sum over lanes, always by the same tree: lane i with i + 8, then + 4, + 2, + 1. */
static inline float v_sum(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));

    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

static inline float v_largest(vf a)
{
    return _mm512_reduce_max_ps(a);
}

/* -- Words --------------------------------------------------------------------------------------- */

/* A quarter of a transpose of 16 x 16: swaps blocks of the given width between vectors of each pair. */
static CPU_INLINE void v_transpose_quads(vf r[LANES])
{
    vf t[LANES];

    CPU_UNROLL
    for (int i = 0; i < LANES; i += 4) { /* pairs of words within 128-bit quarters */
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
        t[i + 2] = _mm512_unpacklo_ps(r[i + 2], r[i + 3]);
        t[i + 3] = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
    }
    CPU_UNROLL
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
}

/* Transposes the LANES x LANES words of r in place. */
static CPU_INLINE void v_transpose(vf r[LANES])
{
    vf t[LANES];

    v_transpose_quads(r);
    CPU_UNROLL
    for (int i = 0; i < 4; i++) { /* whole quarters: 4 x 4 of them for each i */
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    CPU_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* LANES bytes: a rounded to int8. */
static inline void v_store_i8(int8_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

/* p[i] + q[i] + r as float32. */
static inline vf v_sum_i32(const int32_t *p, const int32_t *q, int32_t r)
{
    __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(p), _mm512_loadu_si512(q));

    return _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(r)));
}

/* LANES int16: a rounded, saturating. */
static inline void v_store_i16(int16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a)));
}

/* 2 * LANES bytes as int16, and what they are made of. */
static inline vi v_load_words(const unsigned char *p)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

static inline vi v_low_nibbles(vi words)
{
    return _mm512_and_si512(words, _mm512_set1_epi16(15));
}

static inline vi v_high_nibbles(vi words)
{
    return _mm512_srli_epi16(words, 4);
}

/* acc + the sum of the products of two neighbouring int16 of w with those of `a`. */
static inline vi v_dot_i16(vi acc, vi w, uint32_t a)
{
    return _mm512_add_epi32(acc, _mm512_madd_epi16(w, _mm512_set1_epi32((int)a)));
}

/* acc[i] - p[i] * times, exact but for the last rounding. */
static inline vf v_less_times(vi acc, const int32_t *p, int32_t times)
{
    __m512i product = _mm512_mullo_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(times));

    return _mm512_cvtepi32_ps(_mm512_sub_epi32(acc, product));
}

#endif
