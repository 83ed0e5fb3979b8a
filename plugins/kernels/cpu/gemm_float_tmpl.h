/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels that multiply in float32: weights of float32, float16, bfloat16 and e4m3, widened in registers.
 * Included once by an isa_*.c file, after what gemm_tmpl.h needs, with these defined:
 *
 *   FLOAT_ISA     suffix of the names: avx512
 *   FLOAT_GFLOPS  prior speed of a core with float32 weights; widening costs a little
 *   FLOAT_LOAD_F8_STEP(w0, w1, p) loads two vectors of e4m3, where tiles had better share that; optional
 */

#define FLOAT_JOIN_(a, b) a##b
#define FLOAT_JOIN(a, b) FLOAT_JOIN_(a, b)

#define FLOAT_STEP(acc, w, a) v_fma(v_set1(tn_bits_f32(a)), w, acc)
#define FLOAT_COPY(dst, x, n, step) memcpy(dst, x, (n) * sizeof(float))

#define GEMM_ID FLOAT_JOIN(f32_, FLOAT_ISA)
#define GEMM_DTYPE TN_DT_F32
#define GEMM_UNSIGNED 0
#define GEMM_GFLOPS (FLOAT_GFLOPS)
#define GEMM_DEPTH 1
#define GEMM_BYTES 4
#define GEMM_ACC vf
#define GEMM_W vf
#define GEMM_LOAD_W(p) v_load((const float *)(p))
#define GEMM_STEP FLOAT_STEP
#define GEMM_GROUPS FLOAT_COPY
#define GEMM_ROW_STEP(x, n, fixed) 0.0f
#include "gemm_tmpl.h"

#define GEMM_ID FLOAT_JOIN(f16_, FLOAT_ISA)
#define GEMM_DTYPE TN_DT_F16
#define GEMM_UNSIGNED 0
#define GEMM_GFLOPS (0.95 * FLOAT_GFLOPS)
#define GEMM_DEPTH 1
#define GEMM_BYTES 2
#define GEMM_ACC vf
#define GEMM_W vf
#define GEMM_LOAD_W(p) v_load_f16((const uint16_t *)(p))
#define GEMM_STEP FLOAT_STEP
#define GEMM_GROUPS FLOAT_COPY
#define GEMM_ROW_STEP(x, n, fixed) 0.0f
#include "gemm_tmpl.h"

#define GEMM_ID FLOAT_JOIN(bf16_, FLOAT_ISA)
#define GEMM_DTYPE TN_DT_BF16
#define GEMM_UNSIGNED 0
#define GEMM_GFLOPS (0.95 * FLOAT_GFLOPS)
#define GEMM_DEPTH 1
#define GEMM_BYTES 2
#define GEMM_ACC vf
#define GEMM_W vf
#define GEMM_LOAD_W(p) v_load_bf16((const uint16_t *)(p))
#define GEMM_STEP FLOAT_STEP
#define GEMM_GROUPS FLOAT_COPY
#define GEMM_ROW_STEP(x, n, fixed) 0.0f
#include "gemm_tmpl.h"

/* linear.fp8 on a processor without e4m3 arithmetic: rows of x stay as they are. */
#define GEMM_ID FLOAT_JOIN(f8_, FLOAT_ISA)
#define GEMM_DTYPE TN_DT_F8E4M3
#define GEMM_UNSIGNED 0
#define GEMM_GFLOPS (0.9 * FLOAT_GFLOPS)
#define GEMM_DEPTH 1
#define GEMM_BYTES 1
#define GEMM_ACC vf
#define GEMM_W vf
#define GEMM_LOAD_W(p) v_load_f8(p)
#ifdef FLOAT_LOAD_F8_STEP
#define GEMM_LOAD_STEP FLOAT_LOAD_F8_STEP
#define GEMM_WIDE_BYTES 4
#define GEMM_WIDE_LOAD(p) v_load((const float *)(p))
#define GEMM_WIDE_STORE(p, w) v_store((float *)(p), w)
#endif
#define GEMM_STEP FLOAT_STEP
#define GEMM_GROUPS FLOAT_COPY
#define GEMM_ROW_STEP(x, n, fixed) 0.0f
#include "gemm_tmpl.h"

#undef FLOAT_STEP
#undef FLOAT_COPY
