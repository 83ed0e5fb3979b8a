/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of the kernels of the set "ampere": one struct by value per kernel, the same in C and device code. */
#ifndef AMPERE_ARGS_H
#define AMPERE_ARGS_H

#include <stdint.h>

/* -- Products of few rows --------------------------------------------------------------------------------- */

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
    void *y;
    uint64_t stride; /* bytes between rows of w */
    uint32_t n;      /* rows of w */
    uint32_t first;  /* first block of the grid that works on it */
    uint32_t bias_dtype;
    uint32_t reserved0;
};

struct product_args {
    const void *x, *residual;
    const int32_t *row_index; /* of logits; else NULL */
    struct part parts[MAX_PARTS];
    uint64_t k;
    uint32_t n_parts; /* gates: 2, in the same blocks */
    uint32_t rows, finish;
    float scale, softcap;
};

/* -- Attention ---------------------------------------------------------------------------------------------- */

struct attend_args {
    const void *q;
    void *y;
    const void *cache;
    const float *k_scale, *v_scale; /* of a cache of 8 bits: per kv head */
    const int32_t *first_row, *context, *block_table;
    float *
        partial; /* [sequences, kv_heads, splits, DECODE_ROWS, head_dim + 2]: sums, weight, largest score */
    uint32_t *arrivals; /* [sequences, kv_heads], zero between launches */
    uint64_t block_bytes;
    uint32_t block_shift; /* log2 of the tokens of a page */
    uint32_t max_blocks, n_seqs, heads, kv_heads, head_dim, splits;
    int32_t window;
    float scale, softcap;
};

/* Rows of queries, times heads of a group, that the decode kernel takes of one sequence. */
#define DECODE_ROWS 16
/* Rows of queries, times heads of a group, of one block of the prefill kernel. */
#define PREFILL_ROWS 64

#endif
