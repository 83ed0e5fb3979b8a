/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters of the kernels of the portable set: one struct by value per kernel, the same in C and device code. Pointers
 * are device addresses; a count is the bucket's, padding included (tenon/batch.h, "Captured steps").
 */
#ifndef CUDA_ARGS_H
#define CUDA_ARGS_H

#include <stdint.h>

#include "tenon/device.h"
#include "tenon/hadamard.h"

#define FEW_THREADS 256

struct few_piece {
    void *dst;
    const void *src;
    uint32_t bytes, aligned; /* aligned: both addresses are multiples of 16 */
};

struct few_args {
    struct few_piece piece[TN_COPY_PIECES]; /* a row of blocks each */
};

/* y = the sum of several arrays. */
struct sum_args {
    const void *src[TN_SUM_MAX];
    void *dst;
    uint64_t n;
    uint32_t n_src, aligned; /* all at multiples of 16 bytes */
};

/*
 * Ranks that meet on their devices (meet.cu). A rank's room: the control block, flags [MEET_BLOCKS][TN_MEET_MAX], then slots of 16
 * bytes that peers write: [2][n][MEET_SMALL_SLOTS] of small sums, and of larger calls, by who wrote them, [n][MEET_SLOTS] for parts,
 * as many for sums, and [2][n][MEET_SLOTS] for what is gathered.
 */
#define MEET_SMALL_THREADS 256
#define MEET_SMALL_BLOCKS 128
#define MEET_SMALL_SLOTS (MEET_SMALL_BLOCKS * MEET_SMALL_THREADS)
#define MEET_SMALL_BYTES (MEET_SMALL_SLOTS * 8) /* a slot carries 8 bytes, and its number twice */
#define MEET_THREADS 512
#define MEET_BLOCKS 64
#define MEET_DEPTH 2 /* slots per thread */
#define MEET_SLOTS (MEET_BLOCKS * MEET_THREADS * MEET_DEPTH)

struct meet_control {
    uint32_t small[MEET_SMALL_BLOCKS]; /* calls that each block of small sums has been through */
    uint32_t large[MEET_BLOCKS];       /* meetings, of larger calls */
    uint32_t broken;                   /* somebody waited in vain, or was told to give up */
};

#define MEET_FLAGS 4096 /* bytes from the room's begin */
#define MEET_BOXES (MEET_FLAGS + MEET_BLOCKS * TN_MEET_MAX * 4)
#define MEET_SUMS_BYTES(n) ((2 * MEET_SMALL_SLOTS + 2 * MEET_SLOTS) * (uint64_t)(n)*16)
#define MEET_ROOM_BYTES(n) (MEET_BOXES + MEET_SUMS_BYTES(n) + (uint64_t)(n)*2 * MEET_SLOTS * 16)

struct meet_args {
    void *room[TN_MEET_MAX];
    const void *src;
    void *dst;
    uint64_t bytes; /* of src */
    uint64_t timeout_ns;
    volatile uint32_t *words;
    uint32_t rank, n;
    uint32_t aligned; /* all at multiples of 16 bytes */
    uint32_t reserved;
};

/* Element by element: y = f(a, b). In this order in rows.cu. */
enum map_kind {
    MAP_ADD,
    MAP_MUL,
    MAP_SILU,
    MAP_GELU,
    MAP_GELU_TANH,
    MAP_RELU,
    MAP_RELU2,
    MAP_SCALE,
    MAP_SOFTCAP,
    MAP_SILU_MUL,
    MAP_GELU_MUL,
    MAP_GELU_TANH_MUL
};

struct map_args {
    const void *a, *b; /* b: NULL if unused */
    void *y;
    uint64_t n;
    uint32_t kind;
    float factor;
    uint32_t a_dtype, b_dtype, y_dtype; /* of map_any */
};

/* rms_norm and layer_norm, one block per group. */
struct norm_args {
    const void *x, *add; /* add: NULL, or what is added to x first */
    void *sum, *y;       /* sum: x + add, rounded */
    const void *w, *b;   /* b: NULL: no bias */
    uint64_t group;      /* elements normalised together */
    uint64_t groups;     /* in a row */
    float eps, offset;
    uint32_t w_dtype, b_dtype;
};

/* The same behind a sum over ranks and the residual, one block per row: norm.sum = residual + sum, and y = its norm. */
struct reduce_norm_args {
    const void *part[TN_SUM_MAX]; /* as in tn_comm_parts */
    const void *residual;
    uint64_t each, width;
    uint32_t n_parts, aligned; /* all, and rows, at multiples of 16 bytes */
    struct norm_args norm;     /* x is sum; add NULL */
};

/* Elements that a thread moves at a time: of floats, of int8. */
#define TABLE_RUN 8
#define TABLE8_RUN 16

/* embedding and position. */
struct table_args {
    int32_t *entry;                     /* [rows] tokens or positions */
    const int32_t *token_row, *sampled; /* where it completes tokens as `feed` does; else NULL */
    const void *table;
    void *y;
    int64_t first;            /* entry of the table's first row */
    uint64_t entries, stride; /* rows of the table, and bytes between them */
    uint64_t width;
    float factor;
    uint32_t table_dtype;
    uint32_t aligned;  /* entries and rows begin at multiples of 16 bytes, of whole runs */
    uint32_t in_place; /* the step's arrays are, when it begins: so the next kernel may begin */
    uint32_t early;    /* entries are known then */
};

/* embedding.int8. */
struct table8_args {
    struct table_args table; /* aligned: `by`, too */
    const float *scale, *by; /* of entries; of columns */
};

/* The cache in layout "hnd"; scales, center and feedback as in tn_kv_layer. */
struct kv_args {
    void *base;
    const float *k_scale, *v_scale, *k_center;
    const uint16_t *k_feedback, *v_feedback;
    uint64_t block_bytes;
    uint32_t block_tokens, kv_heads, head_dim, dtype;
};

#define ROPE_THREADS 256

/* Keys and values stored with feedback: of heads of so many elements at most, longer ones are rounded to the nearest. A warp has a tile
 * of rows, whose pitch lets lanes that read pairs of the same columns in four rows find all banks, and angles. */
#define SHAPE_MAX_DIM 256
#define SHAPE_RUNS(dim) (((dim) + 7) / 8)
#define SHAPE_PITCH(dim) (((dim) + 31) / 32 * 32 + 8)
#define SHAPE_WARP_ROWS 16
#define SHAPE_WARP_BYTES(dim, rotary) (4 * (SHAPE_WARP_ROWS * SHAPE_PITCH(dim) + (rotary)))
#define SHAPE_THREADS(dim) ((dim) <= 128 ? 128 : 64) /* such that 48 KiB are enough */

/* rope, kv_append, and both in one. */
struct rope_args {
    const void *q, *k, *v; /* k, v: NULL: queries only; q: NULL: append only */
    void *y;               /* rotated queries */
    const void *freqs;
    const int32_t *positions, *row_seq, *prompt_len;
    const int64_t *row_slot;
    struct kv_args kv;
    uint64_t q_width;
    uint32_t rows, head_dim, rotary_dim; /* rotary_dim 0: no rotation */
    uint32_t pairs, freqs_dtype;
    float mscale;
    float factor;
    double base;
    int64_t max_position;
};

/* One block per head of `dim` elements, in runs of base * two: see tenon/hadamard.h, whose signs `negative` has. */
struct hadamard_args {
    const void *x;
    void *y;
    uint32_t dim, base, two;
    uint32_t negative[TN_HADAMARD_MOST];
};

/* One block per row: y[t][i] = x[t][order[i]]. */
struct reorder_args {
    const void *x;
    void *y;
    const int32_t *order;
    uint64_t width;
};

struct attention_args {
    const void *q;
    void *y;
    struct kv_args kv;
    const int32_t *positions, *row_seq, *context, *block_table;
    uint32_t heads, max_blocks;
    int64_t window;
    float scale, softcap;
};

/* y[rows, n] = x[rows, k] * w[n, k]^T, in the forms that ops.h has. */
struct linear_args {
    const void *x, *w, *bias; /* bias: NULL: none */
    const int32_t *row_index; /* NULL: row r of y is made of row r of x, else of row row_index[r] */
    void *y;
    uint64_t n, k, stride; /* stride: bytes between rows of w */
    uint32_t rows, bias_dtype;
    float scale, softcap; /* of logits; scale 1, softcap 0: off */
};

/* Rows of activations quantized to int8 or e4m3. */
struct quantize_args {
    const void *x;
    void *q;
    const int32_t *row_index; /* NULL: row r of q is made of row r of x, else of row row_index[r] */
    float *step;              /* [rows] */
    uint64_t k, pitch;        /* elements of a row of x; of q, padded with zeros */
    float scale;              /* static; 0: the row's own */
    /* Behind a gate: what is quantized is act(x) * u, `kind` one of MAP_SILU_MUL and its like. */
    const void *u;
    uint32_t kind;
};

/* Bytes of a row behind a gate, which a block keeps in shared memory: what every GPU has. */
#define QUANTIZE_GATE_BYTES (60 * 1024)

/* Scales and zero points of int4 weights, one per row of the matrix and `group` inputs. */
struct int4_groups {
    const void *scale, *zero;           /* float32; int8 or NULL */
    uint64_t scale_stride, zero_stride; /* bytes between rows */
    uint32_t group;
};

/* A plain product of quantized operands: y = softcap(factor * (step * scale * (x * w^T) + bias)). */
struct quant_args {
    const void *x, *w;
    const float *step, *scale; /* [rows], [n]; NULL: 1 */
    const void *bias;
    void *y;
    uint64_t n, k, pitch, stride; /* pitch: elements between rows of x */
    uint32_t rows, bias_dtype;
    float factor, softcap; /* of logits; factor 1, softcap 0: off */
    struct int4_groups groups;
};

/* The same after a library has made the sums. */
struct descale_args {
    const void *sums;          /* [rows, n] int32 or float32; may be y if that is as wide */
    const float *step, *scale; /* NULL: 1 */
    const void *bias;
    void *y;
    uint64_t n;
    uint32_t bias_dtype;
    float factor, softcap; /* of logits; factor 1, softcap 0: off */
};

/* A matrix [n, k] of quantized weights in the dtype of the rows. */
struct widen_args {
    const void *w;
    void *y;
    uint64_t n, k, stride;
    struct int4_groups groups;
};

/* Finishes what a library's product left: y = softcap(scale * (x + b)), or rows gathered. */
struct finish_args {
    float *y;
    const void *bias;
    uint64_t n;
    uint32_t bias_dtype;
    float scale, softcap;
};

struct gather_args {
    const void *x;
    void *y;
    const int32_t *row_index;
    uint64_t row_bytes;
};

struct route_args {
    const void *x;
    int32_t *chosen;
    float *p;
    uint32_t experts, top_k;
    uint32_t over_all; /* p is a softmax over all experts, not over the chosen */
    uint32_t rows;
};

/* A stack of experts' matrices; strides are bytes between experts. */
struct moe_stack {
    const void *w;
    const void *scale; /* float32 [rows], of int4 [rows, groups]; NULL: 1 */
    const void *zero;  /* int8 [rows, groups]; NULL: 0 */
    uint64_t stride, scale_stride, zero_stride;
    uint32_t groups; /* of a row: how many scales it has */
};

struct moe_args {
    const void *x;
    const int32_t *expert; /* [rows, top_k] */
    const float *p;
    struct moe_stack gate, up, down;
    void *y;
    float *hidden; /* [rows, top_k, inner] */
    uint64_t width, inner;
    int64_t first;
    uint32_t experts, top_k, act;
};

#define SAMPLE_THREADS 512
#define SAMPLE_SHARES 8 /* of a row: blocks of a cluster */

struct sample_args {
    const float *x;     /* [L, vocab] */
    const void *sample; /* [L] tn_sample_row */
    const int32_t *bias_ids;
    const float *bias_values;
    const int32_t *history;
    int32_t *out, *sampled;
    float *logprob;
    void *scratch;            /* per block: float[vocab], then uint32_t[vocab] or float[vocab] */
    unsigned long long *best; /* [L, parts]: keys of sample_best, or NULL */
    uint64_t vocab;
    uint32_t rows, parts;
};

struct read_args {
    const void *x;
    uint64_t n; /* pieces of 16 bytes */
    uint32_t *y;
};

/* y[i] is element first + i / row * stride + i % row of the weight, see tenon/noise.h. */
struct dummy_args {
    void *y;
    uint64_t seed, first, row, stride, count;
    uint32_t role, dtype; /* enum tn_dtype */
};

struct feed_args {
    int32_t *tokens;
    const int32_t *token_row, *sampled;
    uint32_t rows;
};

#endif
