/* SPDX-License-Identifier: Apache-2.0 */
/* int8 products with AVX-VNNI, the 256-bit form of VPDPBUSD for processors without AVX-512. */
#include <string.h>

#include "gemm.h"
#include "simd_avx2.h"
#include "simd_math.h"
#include "simd_tail.h"
/* then the templates */
#include "finish_tmpl.h"
#include "quantize_tmpl.h"

#define GEMM_ID i8_avxvnni
#define GEMM_DTYPE TN_DT_I8
#define GEMM_UNSIGNED 1
#define GEMM_GFLOPS 250.0
#define GEMM_DEPTH 4
#define GEMM_BYTES 1
#define GEMM_ACC vi
#define GEMM_W vi
#define GEMM_LOAD_W(p) _mm256_load_si256((const __m256i *)(p))
#define GEMM_STEP(acc, w, a) _mm256_dpbusd_avx_epi32(acc, _mm256_set1_epi32((int)(a)), w)
#define GEMM_GROUPS(dst, x, n, step) quantize_groups(dst, x, n, step, 0x80)
#define GEMM_ROW_STEP(x, n, fixed) quantize_step(x, n, fixed)
#include "gemm_tmpl.h"

#define INT4_ID i4_avxvnni
#define INT4_GFLOPS 120.0
#define INT4_DOT(acc, w, a) _mm256_dpwssd_avx_epi32(acc, w, _mm256_set1_epi32((int)(a)))
#include "gemm_int4_tmpl.h"
