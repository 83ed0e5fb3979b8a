/* SPDX-License-Identifier: Apache-2.0 */
/* Inner loops for AVX2 with FMA and F16C. Runs only where a variant with these needs was chosen. */
#include <string.h>

#include "attend.h"
#include "gemm.h"
#include "isa.h"
#include "simd_avx2.h"
#include "simd_math.h"
#include "simd_tail.h"
#include "tenon/hadamard.h"
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

#include "gemm_i8_avx2.h"

#define INT4_ID i4_avx2
#define INT4_GFLOPS 70.0
#define INT4_DOT(acc, w, a) v_dot_i16(acc, w, a)
#include "gemm_int4_tmpl.h"

const struct isa isa_avx2 = {
    .map = map,
    .dot = dot,
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
