/* SPDX-License-Identifier: Apache-2.0 */
/* What the host hands to the kernels of this set; included by both sides. Addresses are device addresses. */
#ifndef HOPPER_PARAMS_H
#define HOPPER_PARAMS_H

#include <stdint.h>

#include "tenon/kv_feedback.h"

/* A CUtensorMap: 128 bytes that the driver fills. */
struct __attribute__((aligned(64))) tensor_map {
    uint64_t words[16];
};

/* -- Products (skinny.cu, wide.cu) ------------------------------------------------------------------- */

#define PRODUCT_K 64 /* elements of K per stage: one row of 128 bytes, the width of the swizzle */
#define PRODUCT_MAX_PARTS 3

enum product_finish {
    PRODUCT_STORE = 0, /* y = W x + b for up to three matrices */
    PRODUCT_ADD = 1,   /* y = r + W x + b */
    PRODUCT_SILU = 2,  /* y = silu(G x + b0) * (U x + b1); part 0 is the gate */
    PRODUCT_GELU = 3,
    PRODUCT_GELU_TANH = 4,
    PRODUCT_LOGITS = 5,  /* float32 y = softcap(scale * (W x + b)) */
    PRODUCT_ADD_NORM = 6 /* as PRODUCT_ADD, and what a product_norm says; of few tokens */
};

/* A kernel of skinny.cuh has the text of one of these groups of finishes: that of others, which no block runs, makes launches slower
 * all the same. */
enum skinny_finishes {
    SKINNY_SUMS, /* PRODUCT_STORE, PRODUCT_ADD */
    SKINNY_SILU,
    SKINNY_GELU, /* and PRODUCT_GELU_TANH */
    SKINNY_LOGITS,
    SKINNY_NORM /* PRODUCT_ADD_NORM, of the smallest tiles */
};

struct product_part {
    void *out;          /* [rows, n]; of gated products only part 0 has one */
    const void *bias;   /* [n], or NULL */
    uint32_t bias_wide; /* it is float32, else of the weights' dtype */
    uint32_t n;         /* rows of the matrix */
    uint32_t first;     /* its first tile */
};

/* A norm between two products of few tokens, of which the second does not wait for a kernel that norms: the first leaves its rows
 * times the norm's weights, and sums of their squares; the second multiplies its sums by what the norm divides rows by. */
struct product_norm {
    const void *weight; /* [width] */
    void *rows;         /* [rows, width] of the products' dtype: y * (offset + weight) */
    float *
        squares; /* [rows, parts]: each block of the first product has summed up its part of a row */
    uint32_t parts, width, weight_dtype;
    float eps, offset;
};

#define PRODUCT_NORM_ROWS 4 /* at most: a warp takes their sums one after the other */

struct product_params {
    struct tensor_map weights
        [PRODUCT_MAX_PARTS]; /* [n, k], box 64 x rows of a tile (wide or gated: half of them) */
    struct tensor_map x;     /* [rows, k], box 64 x tokens of a tile */
    struct product_part parts[PRODUCT_MAX_PARTS];
    const void *row;      /* one.cuh, in place of x: [k] */
    const void *residual; /* [rows, n] */
    uint32_t n_parts, rows, k_blocks, finish;
    uint32_t
        early; /* skinny, one: stages before its last loads at which the next kernel may start */
    uint32_t tiles; /* wide: along the matrices */
    float scale, softcap;
    struct product_norm
        norm; /* PRODUCT_ADD_NORM: what to leave; others: what was left of the rows, if there are squares */
};

/* X(rows of the matrix per tile, tokens, stages): the kernels of skinny.cu for each group of finishes, in the order of their entries;
 * only the smallest tiles have a SKINNY_NORM. */
#ifndef SKINNY_SHAPES
#define SKINNY_SMALLEST(X)                                                                         \
    X(128, 8, 8)                                                                                   \
    X(128, 8, 6)                                                                                   \
    X(128, 8, 4)                                                                                   \
    X(64, 8, 11)                                                                                   \
    X(64, 8, 7)
#define SKINNY_SHAPES(X)                                                                           \
    SKINNY_SMALLEST(X)                                                                             \
    X(128, 16, 8)                                                                                  \
    X(128, 16, 6)                                                                                  \
    X(64, 16, 14)                                                                                  \
    X(64, 16, 10)                                                                                  \
    X(64, 16, 7)                                                                                   \
    X(128, 32, 5)                                                                                  \
    X(64, 32, 12)                                                                                  \
    X(64, 32, 7)                                                                                   \
    X(64, 32, 5) X(128, 64, 4) X(64, 64, 12) X(64, 64, 10) X(64, 64, 4) X(128, 128, 3)
#endif
#define SKINNY_THREADS 160
#define SKINNY_NORM_THREADS 192 /* of the second of a pair */

#define WIDE_THREADS 384
#define WIDE_TOKENS 128 /* of a tile */

/* X(rows of the matrix per tile, stages, blocks of a cluster): the kernels of wide.cu, in the order of their entries. */
#ifndef WIDE_SHAPES
#define WIDE_SHAPES(X) X(256, 4, 1) X(192, 5, 1) X(128, 6, 1)
#endif

/* -- Rows (rows.cu) --------------------------------------------------------------------------------- */

/* Entries: norms by dtype and chunks (1, 2, 4), appends by cache (as the rows, e4m3, int8) and dtype, gather, shaping by dtype and
 * elements of a head (128, 64). */
#define ROWS_NORM 0
#define ROWS_APPEND 6
#define ROWS_GATHER 12
#define ROWS_SHAPE 13
#define NORM_THREADS 512
#define NORM_CHUNK                                                                                 \
    (NORM_THREADS * 8) /* elements of a row that a block takes at a time; at most four */
#define NORM_WIDEST (4 * NORM_CHUNK)
#define APPEND_THREADS 256

struct norm_params {
    const void *a, *b; /* [rows, width]; b is added first unless NULL */
    const void *weight;
    void *sum, *out;              /* sum: a + b, if b */
    uint32_t width, weight_dtype; /* enum tn_dtype */
    float eps, offset;
};

#define GATHER_THREADS 256
struct gather_params {
    const void *x; /* rows of `bytes` bytes, a multiple of 16 */
    void *out;
    const int32_t *row; /* row i of `out` is row[i] of x */
    uint32_t bytes;
};

/* -- Attention (decode.cu, prefill.cu, rope.cu) ------------------------------------------------------ */

/* Rotation as of the op `rope`; freqs NULL: none. */
struct rope_params {
    const void *freqs; /* [rotary / 2] float32 */
    uint32_t rotary, pairs;
    uint32_t hadamard; /* follows; the whole head rotates then */
    float mscale;
};

/* X(head_dim, stages, blocks per multiprocessor): the kernels of decode.cu, in the order of their entries. Of a head_dim, the first
 * is for steps whose blocks run at once: two per multiprocessor with long rings. The second, if there is one, is for more: while one
 * of four blocks begins or ends, the others have enough on their way. */
#define DECODE_SHAPES(X) X(128, 3, 2) X(64, 6, 2)
#define DECODE8_SHAPES(X) X(128, 6, 2) X(128, 3, 4) X(64, 12, 2) X(64, 6, 4) /* decode8.cu */
#define DECODE_THREADS 160
/* How what a step appends is stored: kernels of decode8.cu for e4m3 have the text of one way. */
enum decode_storing {
    DECODE_NEAREST, /* or nothing is appended */
    DECODE_BESIDE,  /* with feedback, by blocks beside those that attend */
    DECODE_WITHIN   /* with feedback, by a warp of two of them */
};
#define DECODE_TILE 64 /* tokens per stage */
/* What the blocks of a cluster send to each of them, behind what each has anyhow: outputs, and of eight heads maxima and sums. */
#define DECODE_BEHIND(bytes) (((bytes) + 15) / 16 * 16)
#define DECODE_SENT(dim) (8 * (dim)*4 + 8 * 8 * 8)

#define PREFILL_STAGES 2 /* of keys, and of values */
#define PREFILL8_SLOTS 4 /* tiles of 8 bits on their way (prefill8.cu) */

/* Of a cache that is stored with feedback (kv_append): tables as in tn_kv_layer, or NULL. Each of `items` blocks has `rows` rows of the
 * keys, or the values, of a head. With those that have nothing to do they are `blocks`, a multiple of attention's cluster, from block
 * `first` on: in front of attention's, or behind them. None: in each cluster that attends a warp of the first block stores the keys, and
 * one of the second the values. */
struct shaping {
    const uint16_t *k, *v;
    uint32_t rows, items, blocks, first;
};

#define SHAPE_THREADS 160
#define SHAPE_BLOCKS 3     /* of a multiprocessor, where they have it for themselves */
#define SHAPE_WARP_ROWS 16 /* that a warp has at a time, */
#define SHAPE_ROWS (SHAPE_THREADS / 32 * SHAPE_WARP_ROWS) /* and a block */
#define SHAPE_PITCH(dim) ((dim) + 8)
/* Of shared memory (shape.cuh): a table and means; sixteen rows; a block whose warps have so many tiles each. */
#define SHAPE_TABLE(dim) (TN_KV_FEEDBACK_BYTES(dim) + 4 * (dim))
#define SHAPE_TILE(dim) (SHAPE_WARP_ROWS * SHAPE_PITCH(dim) * 2)
/* Where a table lies in a block that attends and has `bytes` for that, and that table's barrier in front. */
#define SHAPE_ONE(dim) (TN_KV_FEEDBACK_BYTES(dim) + 5 * (dim)) /* of a single row: shape_one.cuh */
#define SHAPE_BEHIND(bytes) (((bytes) + 8 + 127) / 128 * 128)
#define SHAPE_BYTES(dim, tiles) (SHAPE_TABLE(dim) + SHAPE_THREADS / 32 * (tiles)*SHAPE_TILE(dim))

/* Rotation and append of whole steps. */
struct append_params {
    const void *q, *k, *v;
    void *out, *keys; /* rotated queries; page 0 */
    void *turned;     /* rotated keys, if `shaping` says that others store them, and the values */
    const float *k_scale, *v_scale, *k_center; /* of tn_kv_layer */
    struct rope_params rope_q, rope_k;
    struct shaping shaping;
    const int32_t *positions;
    const int64_t *row_slot;
    uint64_t block_bytes;
    uint32_t block_tokens, heads, kv_heads, head_dim, rows;
};

struct attention_params {
    struct tensor_map cache; /* see tensor_map_cache; prefill: tensor_map_pages */
    struct tensor_map query; /* prefill: [rows, heads * head_dim], box 64 x 64 rows */
    const void *q, *k, *v;   /* k, v: rows to append, or NULL */
    void *out;               /* [rows, heads * head_dim] */
    void *keys;              /* the cache, page 0 */
    const float *k_scale, *v_scale, *k_center; /* of tn_kv_layer */
    struct rope_params rope_q, rope_k;
    struct shaping shaping;
    const int32_t *positions, *row_seq, *first_row, *context, *block_table;
    const int64_t *row_slot;
    uint64_t block_bytes;
    uint32_t max_blocks, block_tokens, box_shift; /* tokens per box: a power of two */
    uint32_t heads, kv_heads, group;              /* group: heads / kv_heads */
    uint32_t subgroups;                           /* runs of eight heads in a group */
    uint32_t rows, seqs, window;
    float scale, softcap;
};

#endif
