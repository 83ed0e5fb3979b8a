/* SPDX-License-Identifier: Apache-2.0 */
/* What the host tells kernels that multiply a few rows of matrices, and what becomes of the sums; C and device code. */
#ifndef COMMON_CUDA_PRODUCT_H
#define COMMON_CUDA_PRODUCT_H

#include <stdint.h>

/* What is done with the sums. */
enum finish {
    FINISH_STORE,
    FINISH_ADD,  /* y = residual + sum */
    FINISH_SILU, /* y = act(first matrix) * second matrix */
    FINISH_GELU,
    FINISH_GELU_TANH,
    FINISH_LOGITS /* y = softcap(scale * sum), in float32 */
};

#define MAX_PARTS 3

/* One matrix of the op, and where its products go. */
struct part {
    const void *w, *bias; /* bias: NULL: none */
    const float *scale;   /* of quantized weights: per row, or per row and group */
    const int8_t *zero;   /* per row and group; NULL: none */
    void *y;
    uint64_t stride, scale_stride, zero_stride; /* bytes between rows of w, scale and zero */
    uint32_t n;                                 /* rows of w */
    uint32_t first;                             /* first block of the grid that works on it */
    uint32_t bias_dtype;
    uint32_t reserved0;
};

struct product_args {
    const void *x, *residual;
    const float *step;        /* [rows]: what quantized rows were divided by; NULL: they are not */
    const int32_t *row_index; /* of logits; else NULL */
    struct part parts[MAX_PARTS];
    uint64_t k;
    uint32_t n_parts; /* gates: 2, in the same blocks */
    uint32_t rows, finish;
    float scale, softcap;
    uint32_t run_shift; /* int4: 5 or 7: groups consist of runs of 32 or 128 inputs, */
    uint32_t runs;      /* so many */
};

#endif
