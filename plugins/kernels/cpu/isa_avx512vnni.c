/* SPDX-License-Identifier: Apache-2.0 */
/* int8 products with AVX-512 VNNI: VPDPBUSD multiplies 4 unsigned by 4 signed bytes per lane and adds them to
 * int32 without saturation. */
#include <string.h>

#include "gemm.h"
#include "simd_avx512.h"
#include "simd_math.h"
#include "simd_tail.h"
/* then the templates */
#include "finish_tmpl.h"
#include "quantize_tmpl.h"

#define GEMM_ID i8_avx512vnni
#define GEMM_DTYPE TN_DT_I8
#define GEMM_UNSIGNED 1
#define GEMM_GFLOPS 600.0
#define GEMM_DEPTH 4
#define GEMM_BYTES 1
#define GEMM_ACC vi
#define GEMM_W vi
#define GEMM_LOAD_W(p) _mm512_load_si512(p)
#define GEMM_STEP(acc, w, a) _mm512_dpbusd_epi32(acc, _mm512_set1_epi32((int)(a)), w)
#define GEMM_GROUPS(dst, x, n, step) quantize_groups(dst, x, n, step, 0x80)
#define GEMM_ROW_STEP(x, n, fixed) quantize_step(x, n, fixed)
#include "gemm_tmpl.h"

#define INT4_ID i4_avx512vnni
#define INT4_GFLOPS 280.0
#define INT4_DOT(acc, w, a) _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32((int)(a)))
#include "gemm_int4_tmpl.h"
