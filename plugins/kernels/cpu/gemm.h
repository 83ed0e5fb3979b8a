/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix products y[T,N] = x[T,K] * W[N,K]^T, and what may follow them at once.
 *
 * Idea. One lane of a vector register holds one output column, so no sum ever crosses lanes, and each output
 * element is one chain of multiply-adds in the order of k, whatever T is, however rows are grouped, and
 * whichever worker does it: equal rows give equal bits. Two levels of tiles:
 *
 *   panel  2 vectors of columns (32 with AVX-512) times all of K. Weights are packed so that a panel is one
 *          stream of memory: [panel][k / depth][column][depth]. `depth` consecutive k of a column lie together
 *          where an instruction multiplies that many at once (bfloat16: 2, int8: 4).
 *   tile   up to 14 rows (AVX-512) of a panel: 28 accumulators that stay in registers for all of K. The
 *          panel is read once per tile, from the L2 cache after the first; a step reads 2 vectors of weights and
 *          broadcasts one group of x (4 or 8 bytes) per row: [tile][k / depth][row].
 *
 * Where weights must be widened before they can be multiplied (e4m3 without instructions for it), several
 * tiles share that: a block of a panel's steps is widened into the L1 cache, every tile adds it to its sums, and these wait
 * in memory meanwhile; the order of a sum stays the same.
 *
 * One row (decode) is a tile of one row: the same code and order, bound by memory.
 * Goto and van de Geijn 2008 for the scheme; no blocking over K is needed while panels fit the L2 cache.
 */
#ifndef CPU_GEMM_H
#define CPU_GEMM_H

#include "cpu.h"

#define GEMM_MAX_PARTS 3
#define GEMM_MAX_TILE_ROWS 16
#define GEMM_MAX_RUN 1024 /* int4: so many products of 15 by 32767 stay far below 2^31 */

/* What becomes of a sum before it is stored. */
enum gemm_finish {
    GEMM_STORE = 0, /* y = sum + bias */
    GEMM_ADD = 1,   /* y = addend + (sum + bias) */
    GEMM_SILU =
        2, /* y = silu(gate) * up; panels hold a vector of gate, then the same columns of up */
    GEMM_GELU = 3, /* likewise with gelu */
    GEMM_GELU_TANH = 4,
    GEMM_LOGITS = 5 /* y = softcap(factor * (sum + bias)) */
};

/* Columns that go to one output. */
struct gemm_part {
    float *y; /* [T, width] */
    uint64_t width;
    uint32_t first_panel;
};

struct gemm_kernel;

/* One product, ready to run. */
struct gemm {
    const struct gemm_kernel *kernel;
    uint32_t n_rows; /* T */
    uint64_t k;
    uint64_t run; /* int4: consecutive k that share a scale, at most GEMM_MAX_RUN; else 0 */

    const float *x;       /* rows of K floats ... */
    const int32_t *x_row; /* ... that row t is in x; NULL: row t */
    uint32_t *a;          /* x as the kernel reads it: [tile][step][row] groups */
    float *a_step;        /* [T] int8: quantization step of each row */
    int32_t *a_rest;      /* [T] int8: what the kernel's sums of each row lack */
    void *a_more;         /* [T] what else a kernel wants to know of a row: more_bytes each */

    float *run_step;  /* int4: [T][k / run] quantization steps ... */
    int32_t *run_sum; /* ... and sums of what they quantize */

    const unsigned char *panels;
    const float *bias;     /* per packed column; 0 where there is none */
    const float *scale;    /* int8, e4m3: per packed column */
    float act_scale;       /* int8: quantization step of all rows; 0: of each row its own */
    const int32_t *offset; /* int8: added to the sum per packed column, see unsigned_rows */

    uint32_t n_panels, n_parts;
    uint32_t run_panels; /* panels of a call of `run`, as far as there are */
    struct gemm_part parts[GEMM_MAX_PARTS];
    enum gemm_finish finish;
    const float *addend;   /* GEMM_ADD: [T, width] */
    float factor, softcap; /* GEMM_LOGITS */
};

/* One way to multiply: an instruction set and a dtype of weights. */
struct gemm_kernel {
    uint32_t weight_dtype;
    uint32_t lanes;       /* columns per vector; a panel has 2 * lanes */
    uint32_t tile_rows;   /* most rows of a tile */
    uint32_t depth;       /* consecutive k per group */
    uint32_t group_bytes; /* of x */
    uint32_t more_bytes;  /* per row, of g->a_more; int8 only */
    uint32_t run_panels;  /* panels that `run` had better take at once, for many rows; 0: one */
    /* int8: x is packed as bytes q + 128, as an instruction wants that multiplies unsigned by signed; the
     * excess, 128 * the column's sum of weights, is taken off the sum. */
    uint32_t unsigned_rows;
    /* x is rounded to the weights' dtype, which the op's definition does not ask for: only if cpu_settings allow it, or pinned. */
    uint32_t rounds;
    double gflops; /* of one core, a prior for cost_ns */
    /* Fills g->a (and a_step, a_rest, a_more) for tiles [first, last). */
    void (*pack_rows)(const struct gemm *g, uint32_t first, uint32_t last);
    /* Computes panels [panel, panel + g->run_panels), as far as there are, for tiles [first, last). */
    void (*run)(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t last);
};

/* int4: groups of a run, the last ones padded with zeros: weights come by fours, x by pairs. */
static inline uint64_t gemm_run_steps(uint64_t run)
{
    return (run + 3) / 4 * 2;
}

/* Steps over K: groups of `depth`, the last one padded with zeros. */
static inline uint64_t gemm_steps(const struct gemm_kernel *kernel, uint64_t k, uint64_t run)
{
    return run ? k / run * gemm_run_steps(run) : (k + kernel->depth - 1) / kernel->depth;
}

static inline uint32_t gemm_tiles(const struct gemm *g)
{
    return (g->n_rows + g->kernel->tile_rows - 1) / g->kernel->tile_rows;
}

/* First row of tile `tile`: rows are spread evenly, so that no tile is left with a few. */
static inline uint32_t gemm_tile_row(const struct gemm *g, uint32_t tile)
{
    uint32_t tiles = gemm_tiles(g), rows = g->n_rows / tiles, rest = g->n_rows % tiles;

    return tile * rows + (tile < rest ? tile : rest);
}

/* Row t of the product, where it is in x. */
static inline const float *gemm_row(const struct gemm *g, uint64_t t)
{
    return g->x + (g->x_row ? (uint64_t)g->x_row[t] : t) * g->k;
}

/* Bytes of one panel. Of int4 each run begins with a scale and a zero point per column. */
static inline uint64_t gemm_panel_bytes(const struct gemm_kernel *kernel, uint64_t k, uint64_t run)
{
    uint64_t bits =
        (uint64_t)kernel->depth * 2 * kernel->lanes * tn_dtype_bits(kernel->weight_dtype);

    return gemm_steps(kernel, k, run) * bits / 8 + (run ? k / run * 16 * kernel->lanes : 0);
}

extern const struct gemm_kernel gemm_f32_avx2, gemm_f16_avx2, gemm_bf16_avx2, gemm_f8_avx2;
extern const struct gemm_kernel gemm_i8_avx2;
extern const struct gemm_kernel gemm_i8_avxvnni;
extern const struct gemm_kernel gemm_f32_avx512, gemm_f16_avx512, gemm_bf16_avx512, gemm_f8_avx512;
extern const struct gemm_kernel gemm_bf16_avx512bf16, gemm_i8_avx512vnni;
extern const struct gemm_kernel gemm_i4_avx2, gemm_i4_avxvnni, gemm_i4_avx512, gemm_i4_avx512vnni;

#endif
