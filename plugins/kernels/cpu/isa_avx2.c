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

#define FLOAT_ISA avx2
#define FLOAT_GFLOPS 80.0
#include "gemm_float_tmpl.h"

/*
 * int8 without VNNI. VPMADDUBSW multiplies unsigned by signed bytes and adds pairs with saturation at 16 bits,
 * so signs move: |w| as unsigned (|-128| is 128 there) times q with the sign of w, which is safe since q is
 * at least -127. A pair is then at most 2 * 128 * 127 = 32512, and nothing saturates.
 */
static inline vi byte_step(vi acc, vi w, uint32_t a)
{
    vi q = _mm256_sign_epi8(_mm256_set1_epi32((int)a), w);
    vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), q);

    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#define GEMM_ID i8_avx2
#define GEMM_DTYPE TN_DT_I8
#define GEMM_UNSIGNED 0
#define GEMM_GFLOPS 120.0
#define GEMM_DEPTH 4
#define GEMM_BYTES 1
#define GEMM_ACC vi
#define GEMM_W vi
#define GEMM_LOAD_W(p) _mm256_load_si256((const __m256i *)(p))
#define GEMM_STEP(acc, w, a) byte_step(acc, w, a)
#define GEMM_GROUPS(dst, x, n, step) quantize_groups(dst, x, n, step, 0)
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
