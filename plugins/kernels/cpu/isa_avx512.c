/* SPDX-License-Identifier: Apache-2.0 */
/* Inner loops for AVX-512 (F, BW, DQ, VL). Runs only where a variant with these needs was chosen. */
#include <string.h>

#include "attend.h"
#include "gemm.h"
#include "isa.h"
#include "simd_avx512.h"
#include "simd_math.h"
#include "simd_tail.h"
#include "tenon/hadamard.h"
/* then the templates */
#include "attend_tmpl.h"
#include "finish_tmpl.h"
#include "rows_tmpl.h"

#define FLOAT_ISA avx512
#define FLOAT_GFLOPS 150.0
#include "gemm_float_tmpl.h"

#define INT4_ID i4_avx512
#define INT4_GFLOPS 140.0
#define INT4_DOT(acc, w, a) v_dot_i16(acc, w, a)
#include "gemm_int4_tmpl.h"

const struct isa isa_avx512 = {
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
