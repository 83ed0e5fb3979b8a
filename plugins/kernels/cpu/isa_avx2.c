/* SPDX-License-Identifier: Apache-2.0 */
/* Inner loops for AVX2 with FMA and F16C. Runs only where a variant with these needs was chosen. */
#include <string.h>

#include "attend.h"
#include "gemm.h"
#include "isa.h"
#include "simd_avx2.h"
#include "simd_math.h"
#include "simd_tail.h"
/* then the templates */
#include "attend_tmpl.h"
#include "finish_tmpl.h"
#include "quantize_tmpl.h"
#include "rows_tmpl.h"

static CPU_INLINE void load_f8_step(vf *w0, vf *w1, const unsigned char *p)
{
    __m256i w = v_f8_as_f16(p);

    *w0 = _mm256_cvtph_ps(_mm256_castsi256_si128(w));
    *w1 = _mm256_cvtph_ps(_mm256_extracti128_si256(w, 1));
}

#define FLOAT_ISA avx2
#define FLOAT_LOAD_F8_STEP(w0, w1, p) load_f8_step(&(w0), &(w1), p)
#define FLOAT_GFLOPS 80.0
#include "gemm_float_tmpl.h"

/*
 * int8 without VNNI. VPMADDUBSW multiplies most bytes at once but wants one side unsigned and sums of pairs within 16 bits.
 * So a group of x is the sizes of four elements, at most 127, and their signs, -1 or 0 as a mask. Weights xor that mask are
 * -w - 1 where x is negative, and never below -128: pairs of products stay within 2 * 127 * 128. What the sum lacks, the
 * sizes of negative elements, is the same for every column. XOR and the last addition go where no multiplier stands; four
 * rows leave the registers for that.
 */
struct signed_group {
    uint32_t size, sign;
};

/* By address: a group that is loaded whole goes through registers that cannot broadcast it. */
static CPU_INLINE vi signed_step(vi acc, vi w, const struct signed_group *a)
{
    vi turned = _mm256_xor_si256(w, _mm256_set1_epi32((int)a->sign));
    vi pairs = _mm256_maddubs_epi16(_mm256_set1_epi32((int)a->size), turned);

    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    CPU_KEEP(acc);
    return acc;
}

#define SIGNED_CHUNK 128 /* groups of a call; the room behind the last is written */

static inline void quantize_signed(struct signed_group *to, const float *x, uint64_t n, float step)
{
    _Alignas(32) uint32_t q[SIGNED_CHUNK] = {0};

    quantize_groups(q, x, n, step, 0);
    for (uint64_t i = 0; 4 * i < n; i += LANES) {
        vi v = _mm256_load_si256((const __m256i *)(q + i)), size = _mm256_abs_epi8(v);
        vi sign = _mm256_cmpgt_epi8(_mm256_setzero_si256(), v);
        vi low = _mm256_unpacklo_epi32(size, sign), high = _mm256_unpackhi_epi32(size, sign);
        _mm256_storeu_si256((__m256i *)(to + i), _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256((__m256i *)(to + i + 4), _mm256_permute2x128_si256(low, high, 0x31));
    }
}

/* The sum of sizes of negative elements. */
static inline int32_t signed_rest(const struct signed_group *group, uint64_t n)
{
    const __m128i zero = _mm_setzero_si128();
    __m128i sum = zero;

    for (uint64_t i = 0; i < n; i++) {
        __m128i v = _mm_loadl_epi64((const __m128i *)(group + i));
        sum = _mm_add_epi64(sum, _mm_sad_epu8(_mm_and_si128(v, _mm_srli_epi64(v, 32)), zero));
    }
    return (int32_t)_mm_cvtsi128_si64(sum);
}

#define GEMM_ID i8_avx2
#define GEMM_DTYPE TN_DT_I8
#define GEMM_UNSIGNED 0
#define GEMM_GFLOPS 150.0
#define GEMM_DEPTH 4
#define GEMM_BYTES 1
#define GEMM_ACC vi
#define GEMM_W vi
#define GEMM_LOAD_W(p) _mm256_load_si256((const __m256i *)(p))
#define GEMM_GROUP struct signed_group
#define GEMM_TILE_ROWS 4
#define GEMM_STEP(acc, w, a) signed_step(acc, w, &(a))
#define GEMM_GROUPS(dst, x, n, step) quantize_signed(dst, x, n, step)
#define GEMM_REST(groups, n) signed_rest(groups, n)
#define GEMM_ROW_STEP(x, n, fixed) quantize_step(x, n, fixed)
#include "gemm_tmpl.h"

#define INT4_ID i4_avx2
#define INT4_GFLOPS 70.0
#define INT4_DOT(acc, w, a) v_dot_i16(acc, w, a)
#include "gemm_int4_tmpl.h"

const struct isa isa_avx2 = {
    .map = map,
    .widen = widen,
    .narrow = narrow,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rope_angles = rope_angles,
    .rope_head = rope_head,
    .hadamard = hadamard,
    .attend = attend,
    .blend = blend,
    .largest = largest,
    .find = find,
    .exp_sum = exp_sum,
};
