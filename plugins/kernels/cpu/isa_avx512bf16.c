/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bfloat16 products with AVX-512 BF16: VDPBF16PS multiplies pairs of bfloat16 and adds them to float32.
 * Rows of x are rounded to bfloat16 first, for one row as for many, so that a prompt and the decoding after it
 * see the same numbers. An engine gives other logits by it than on a CPU without these instructions, by some hundredths, which is
 * why it is not done unasked.
 */
#include <string.h>

#include "gemm.h"
#include "simd_avx512.h"
#include "simd_math.h"
#include "simd_tail.h"
/* then the templates */
#include "finish_tmpl.h"

/* n values as bfloat16; the last pair is filled up with zero. */
static void bf16_groups(uint32_t *group, const float *x, uint64_t n)
{
    uint64_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m512bh v = _mm512_cvtne2ps_pbh(v_load(x + i + 16), v_load(x + i));
        memcpy(group + i / 2, &v, sizeof v);
    }
    for (; i < n; i += LANES) {
        vf last = n - i < LANES ? v_load_n(x + i, n - i) : v_load(x + i);
        __m256bh v = _mm512_cvtneps_pbh(last);
        memcpy(group + i / 2, &v, (n - i < LANES ? (n - i + 1) / 2 : LANES / 2) * sizeof *group);
    }
}

static inline __m512bh load_pairs(const void *p)
{
    __m512bh v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* acc + the products of 16 pairs of weights with the pair `a`. */
static inline vf pair_step(vf acc, __m512bh w, uint32_t a)
{
    __m512i all = _mm512_set1_epi32((int)a);
    __m512bh pair;

    memcpy(&pair, &all, sizeof pair);
    return _mm512_dpbf16_ps(acc, w, pair);
}

#define GEMM_ID bf16_avx512bf16
#define GEMM_DTYPE TN_DT_BF16
#define GEMM_UNSIGNED 0
#define GEMM_ROUNDS 1
#define GEMM_GFLOPS 350.0
#define GEMM_DEPTH 2
#define GEMM_BYTES 2
#define GEMM_ACC vf
#define GEMM_W __m512bh
#define GEMM_LOAD_W(p) load_pairs(p)
#define GEMM_STEP(acc, w, a) pair_step(acc, w, a)
#define GEMM_GROUPS(dst, x, n, step) bf16_groups(dst, x, n)
#define GEMM_ROW_STEP(x, n, fixed) 0.0f
#include "gemm_tmpl.h"
