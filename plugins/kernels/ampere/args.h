/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of the kernels of the set "ampere": one struct by value per kernel, the same in C and device code. */
#ifndef AMPERE_ARGS_H
#define AMPERE_ARGS_H

#include <stdint.h>

#include "../common/cuda_product.h"

/* -- Rows of linear.int8, logits.int8 --------------------------------------------------------------------- */

#define QUANTIZE_THREADS 512
#define QUANTIZE_WIDEST 32768 /* elements */

/* Dynamic shared memory: the row. */
struct quantize_args {
    const void *x;            /* [rows, width], width a multiple of 8 */
    const int32_t *row_index; /* NULL: row r of q is made of row r of x, else of row row_index[r] */
    const void *weight;       /* of the norm that comes first; NULL: none */
    void *q;                  /* [rows, width] of int8 */
    float *step;              /* [rows] */
    uint32_t width, weight_dtype;
    float eps, offset;
    float scale; /* static; 0: the row's own */
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
