/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that is a matrix product: linear, linear.int8, linear.fp8, linear.int4, logits, and the fused ops around them.
 *
 * A variant is one form times one kernel (gemm.h); set.c makes a tn_variant of each pair whose functions
 * call these. All may be called as tn_variant says.
 */
#ifndef CPU_LINEAR_H
#define CPU_LINEAR_H

#include "gemm.h"

/* Compositions that a variant may stand for. */
enum linear_form {
    FORM_LINEAR,    /* y = linear(x) */
    FORM_LOGITS,    /* y = logits(x) */
    FORM_QKV,       /* q, k, v = three linears of x */
    FORM_GATE_SILU, /* y = silu(linear(x)) * linear(x) */
    FORM_GATE_GELU,
    FORM_GATE_GELU_TANH,
    FORM_ADD, /* y = r + linear(x), in either order of add's inputs */
};

int32_t linear_can_run(const tn_op *op, enum linear_form form, const struct gemm_kernel *kernel,
                       tn_err *err);
double linear_cost_ns(const struct cpu_instance *in, const tn_op *op, enum linear_form form,
                      const struct gemm_kernel *kernel, uint32_t rows);
uint64_t linear_pack_size(const tn_op *op, enum linear_form form, const struct gemm_kernel *kernel);
void linear_pack(const struct cpu_instance *in, const tn_op *op, enum linear_form form,
                 const struct gemm_kernel *kernel, void *packed);
uint64_t linear_workspace(const tn_op *op, const struct gemm_kernel *kernel, uint32_t max_rows);
void linear_launch(const struct cpu_instance *in, const tn_launch *l, enum linear_form form,
                   const struct gemm_kernel *kernel);

#endif
