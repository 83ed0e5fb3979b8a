/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of 8 float32 in AVX2 registers (with FMA and F16C): the vocabulary of the *_tmpl.h files; see
 * simd_avx512.h, which says the same with 16. Included by isa_*.c only.
 */
#ifndef CPU_SIMD_AVX2_H
#define CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "simd.h"

#define LANES 8
#define TILE_ROWS                                                                                  \
    6 /* rows x 2 vectors of accumulators, 2 vectors of weights, 1 broadcast: 15 of 16 */
#define MICRO_ROWS 6
#define MICRO_VECS 2

typedef __m256 vf;  /* LANES float32 */
typedef __m256i vi; /* LANES int32 */
typedef __m256 vm;  /* LANES truth values: all bits of a lane, or none */

/* -- Making, loading, storing -------------------------------------------------------------------- */

static inline vf v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf v_set1(float a)
{
    return _mm256_set1_ps(a);
}

static inline vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}

/* All bits set in lanes i < n. */
static inline __m256i v_first(uint64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n lanes, n < LANES; the others become 0. */
static inline vf v_load_n(const float *p, uint64_t n)
{
    return _mm256_maskload_ps(p, v_first(n));
}

static inline void v_store_n(float *p, vf a, uint64_t n)
{
    _mm256_maskstore_ps(p, v_first(n), a);
}

static inline vf v_load_bf16(const uint16_t *p)
{
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

/* 16 bytes of e4m3 as float16, divided by 256: their bits are those of a float16 whose exponent is too small by 8,
 * subnormals included. NaN becomes 480 / 256. */
static inline __m256i v_f8_as_f16(const uint8_t *p)
{
    __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));

    return _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16((short)0xbf80));
}

/* LANES of them as float32. */
static inline vf v_load_f8(const uint8_t *p)
{
    __m128i w = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p));

    return _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(w, 7), _mm_set1_epi16((short)0xbf80)));
}

/* The same, and NaN stays NaN. */
static inline vf v_load_f8_nan(const uint8_t *p)
{
    __m128i w = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    __m128i sign = _mm_slli_epi16(_mm_srli_epi16(w, 7), 15), most = _mm_set1_epi16(0x3f80);
    __m128i nan;

    w = _mm_and_si128(_mm_slli_epi16(w, 7), most);
    nan = _mm_and_si128(_mm_cmpeq_epi16(w, most), _mm_set1_epi16(0x7e00));
    return _mm256_cvtph_ps(_mm_or_si128(_mm_or_si128(w, nan), sign));
}

static inline vf v_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline vf v_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Rounds to nearest, ties to even; NaN stays NaN, as tn_f32_to_bf16 does. */
static inline void v_store_bf16(uint16_t *p, vf a)
{
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));

    r = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}

static inline void v_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p,
                     _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* -- Arithmetic ---------------------------------------------------------------------------------- */

static inline vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

/* a * b + c, rounded once. */
static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* c - a * b, rounded once. */
static inline vf v_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}

/* The larger; b if either is NaN. */
static inline vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

/* The smaller; b if either is NaN. */
static inline vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

static inline vf v_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

/* To the nearest whole number, ties to even. */
static inline vf v_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for whole -126 <= n <= 127. */
static inline vf v_exp2_whole(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* a * 2^n for whole |n| <= 250, with gradual underflow: in two steps, since 2^n may not be a float. */
static inline vf v_ldexp(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);

    a = _mm256_mul_ps(a, v_exp2_whole(half));
    return _mm256_mul_ps(a, v_exp2_whole(_mm256_sub_epi32(whole, half)));
}

/* |a| with the sign of s. */
static inline vf v_copysign(vf a, vf s)
{
    vf sign = _mm256_set1_ps(-0.0f);

    return _mm256_or_ps(_mm256_and_ps(sign, s), _mm256_andnot_ps(sign, a));
}

/* -- Truth values -------------------------------------------------------------------------------- */

static inline vm v_lt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

static inline vm v_eq(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}

/* True in lanes first <= i < last. */
static inline vm v_range(uint32_t first, uint32_t last)
{
    return _mm256_castsi256_ps(_mm256_andnot_si256(v_first(first), v_first(last)));
}

/* yes where m, else no. */
static inline vf v_select(vm m, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, m);
}

static inline int v_any(vm m)
{
    return _mm256_movemask_ps(m) != 0;
}

/* -- Across lanes -------------------------------------------------------------------------------- */

/* The sum over lanes, always by the same tree: lane i with i + 4, then + 2, + 1. */
static inline float v_sum(vf a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

static inline float v_largest(vf a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

/* -- Words --------------------------------------------------------------------------------------- */

/* Transposes the LANES x LANES words of r in place. */
static CPU_INLINE void v_transpose(vf r[LANES])
{
    vf t[LANES];

    CPU_UNROLL
    for (int i = 0; i < LANES; i += 4) { /* pairs of words within 128-bit halves */
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        t[i + 2] = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
        t[i + 3] = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
    }
    CPU_UNROLL
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    CPU_UNROLL
    for (int i = 0; i < 4; i++) { /* whole halves */
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    CPU_UNROLL
    for (int i = 0; i < LANES; i++)
        r[i] = t[i];
}

/* LANES bytes: a rounded to int8. */
static inline void v_store_i8(int8_t *p, vf a)
{
    __m256i w = _mm256_cvtps_epi32(a);
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));

    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(h, h));
}

/* p[i] + q[i] + r as float32. */
static inline vf v_sum_i32(const int32_t *p, const int32_t *q, int32_t r)
{
    __m256i sum = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)p),
                                   _mm256_loadu_si256((const __m256i *)q));

    return _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(r)));
}

/* LANES int16: a rounded, saturating. */
static inline void v_store_i16(int16_t *p, vf a)
{
    __m256i w = _mm256_cvtps_epi32(a);

    _mm_storeu_si128((__m128i *)p,
                     _mm_packs_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

/* 2 * LANES bytes as int16, and what they are made of. */
static inline vi v_load_words(const unsigned char *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}

static inline vi v_low_nibbles(vi words)
{
    return _mm256_and_si256(words, _mm256_set1_epi16(15));
}

static inline vi v_high_nibbles(vi words)
{
    return _mm256_srli_epi16(words, 4);
}

/* acc + the sum of the products of two neighbouring int16 of w with those of `a`. */
static inline vi v_dot_i16(vi acc, vi w, uint32_t a)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w, _mm256_set1_epi32((int)a)));
}

/* acc[i] - p[i] * times, exact but for the last rounding. */
static inline vf v_less_times(vi acc, const int32_t *p, int32_t times)
{
    __m256i product =
        _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi32(times));

    return _mm256_cvtepi32_ps(_mm256_sub_epi32(acc, product));
}

#endif
