/* SPDX-License-Identifier: Apache-2.0 */
/* What the host hands to the kernels of quantized products; included by both sides. Addresses are device addresses. */
#ifndef HOPPER_EIGHT_H
#define HOPPER_EIGHT_H

#include "params.h"

/* -- Products of 8 bits (eight_few.cu, eight_many.cu) ------------------------------------------------- */

#define EIGHT_K                                                                                    \
    128 /* elements of K per stage: one row of 128 bytes, as of PRODUCT_K 16-bit floats */

struct eight_params {
    struct product_params p; /* matrices and rows of 8 bits; biases unused */
    const float *step;       /* [rows]: what the rows were divided by; NULL: nothing */
    const float *scale[PRODUCT_MAX_PARTS]; /* [n] */
    const float *bias[PRODUCT_MAX_PARTS];  /* [n] or NULL */
    float act_scale; /* eight_one.cu, int8: what the row is divided by; 0: by its own */
};

/* Tiles of eight_many.cu: two blocks of a cluster take one each of tokens and share the rows of the matrix.
 * X(rows of the matrix, stages): its kernels, in the order of their entries; of gated products a tile has half of the rows of each
 * matrix. */
#ifndef MANY_SHAPES
#define MANY_SHAPES(X) X(256, 4) X(192, 5) X(128, 6) X(64, 8)
#endif
#define EIGHT_THREADS 384
#define EIGHT_TOKENS 128
#define EIGHT_CLUSTER 2

/* -- Matrices of e4m3, rows of 16 bits (eight_half.cu) ------------------------------------------------- */

/* X(rows of the matrix per tile, tokens, stages): the kernels of eight_half.cu for each group of finishes, in the order of their
 * entries. They take an eight_params whose steps are unused and whose rows are in boxes of 64 elements; more rows than tokens in runs. */
#ifndef HALF_SHAPES
#define HALF_SMALLEST(X) X(64, 8, 7) /* SKINNY_NORM, too */
#define HALF_SHAPES(X) HALF_SMALLEST(X) X(64, 16, 5) X(64, 32, 5) X(128, 64, 3)
#endif

/* -- One row of 16 bits (eight_one.cu) ------------------------------------------------------------------ */

/* X(groups of 16 rows of the matrix per tile, chunks of 128 bytes per stage, stages): the kernels, in the order of their entries. */
#ifndef ONE_E4M3_SHAPES
#define ONE_E4M3_SHAPES(X) X(2, 2, 14) X(2, 2, 8)
#define ONE_S8_SHAPES(X) X(2, 2, 14)
#endif
#define ONE_ROOM 512 /* bytes between the ring and the row: barriers, and what threads meet with */
/* Of shared memory. */
#define ONE_BYTES(groups, chunks, stages, k, s8)                                                   \
    ((stages) * (chunks) * (groups)*2048 + ONE_ROOM + (k) * ((s8) ? 3 : 2))

/* -- Rows (quantize.cu) ------------------------------------------------------------------------------- */

/* X(threads, chunks): the kernels of quantize.cu, in the order of their entries: a block of that many threads takes rows of up to
 * threads * chunks * 8 elements. The first four are for few rows, whose time is the latency of one; the others for many. */
#define QUANTIZE_FEW_SHAPES(X) X(512, 1) X(512, 2) X(512, 4) X(1024, 4)
#define QUANTIZE_SHAPES(X) QUANTIZE_FEW_SHAPES(X) X(128, 4) X(256, 4) X(256, 6) X(256, 8)
#define QUANTIZE_FEW                                                                               \
    4 /* of each dtype there are these once more, to int8 for rows that are gathered */
#define QUANTIZE_WIDEST 32768

struct quantize_params {
    const void *x;      /* [rows, width] */
    const void *weight; /* of the norm that comes first; NULL: none */
    void *q;            /* [rows, width] of 8 bits */
    float *step;        /* [rows] */
    uint32_t width, weight_dtype;
    float eps, offset;
    float scale;        /* static; 0: the row's own */
    const int32_t *row; /* where rows are gathered: row i of `q` is row[i] of x */
};

#endif
