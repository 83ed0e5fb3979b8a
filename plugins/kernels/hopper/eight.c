/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of 8 bits (linear.int8, linear.fp8), alone and fused, and logits.int8. Variants ".wgmma": rows are quantized once,
 * behind the norm if one comes first, by quantize.cu; eight_few.cu or eight_many.cu multiply, of logits eight_logits.cu. Of int8,
 * eight_one.cu does all of it for a single long row. Variants "_half.mma", of e4m3 alone: rows stay as they are, eight_half.cu
 * multiplies, or eight_one.cu a single one. These are for few rows, whose time is that of reading the matrix, and for all rows that
 * are short, where rounding them would cost precision and gain little. Matrices are read as they are.
 */
#include "eight.h"

#include <stdbool.h>
#include <string.h>

#include "hopper.h"

/* As `early` of a skinny_plan: of eight_half.cu; of gated products of one row, whose blocks have more to read; of eight_one.cu. */
#define HALF_EARLY 7
#define ONE_GATED_EARLY 10
#define ONE_EARLY 16
#define ONE_LONG_EARLY 8

/* Elements of a row from which blocks that are alone on a multiprocessor are faster than clusters, and up to which three of
 * eight_one.cu have room on one. */
#define ONE_LONG_ROW 8192
#define ONE_THRICE_ROW 5376

#define MAX_FEW                                                                                    \
    SKINNY_ROWS /* rows that eight_few.cu serves in any case, and twice as many at most */

/* Elements of rows below which they are not rounded to e4m3, unless such a variant is pinned. */
#define SHORT_ROW 1024

/* Prior of the time, as in products.c. */
#define BYTES_PER_NS 3600.0
#define OPS_PER_NS 1200e3
#define HALF_OPS_PER_NS 200e3 /* mma of 16 bits, beside widening */
#define LAUNCH_NS 1500.0

#define SHAPE(tile, tokens, stages) {tile, tokens, stages},
#define E4M3_BF16_SUMS(tile, tokens, stages)                                                       \
    SKINNY_NAME("few_e4m3_bf16", tile, tokens, stages, "sums")
#define E4M3_F16_SUMS(tile, tokens, stages)                                                        \
    SKINNY_NAME("few_e4m3_f16", tile, tokens, stages, "sums")
#define S8_BF16_SUMS(tile, tokens, stages) SKINNY_NAME("few_s8_bf16", tile, tokens, stages, "sums")
#define S8_F16_SUMS(tile, tokens, stages) SKINNY_NAME("few_s8_f16", tile, tokens, stages, "sums")
#define E4M3_BF16_SILU(tile, tokens, stages)                                                       \
    SKINNY_NAME("few_e4m3_bf16", tile, tokens, stages, "silu")
#define E4M3_F16_SILU(tile, tokens, stages)                                                        \
    SKINNY_NAME("few_e4m3_f16", tile, tokens, stages, "silu")
#define S8_BF16_SILU(tile, tokens, stages) SKINNY_NAME("few_s8_bf16", tile, tokens, stages, "silu")
#define S8_F16_SILU(tile, tokens, stages) SKINNY_NAME("few_s8_f16", tile, tokens, stages, "silu")
#define E4M3_BF16_GELU(tile, tokens, stages)                                                       \
    SKINNY_NAME("few_e4m3_bf16", tile, tokens, stages, "gelu")
#define E4M3_F16_GELU(tile, tokens, stages)                                                        \
    SKINNY_NAME("few_e4m3_f16", tile, tokens, stages, "gelu")
#define S8_BF16_GELU(tile, tokens, stages) SKINNY_NAME("few_s8_bf16", tile, tokens, stages, "gelu")
#define S8_F16_GELU(tile, tokens, stages) SKINNY_NAME("few_s8_f16", tile, tokens, stages, "gelu")
#define FEW_TYPES 4 /* of the operands and the rows */

/* In the order of skinny_entry. */
const char *const eight_few_entries[] = {
    SKINNY_SHAPES(E4M3_BF16_SUMS) SKINNY_SHAPES(E4M3_F16_SUMS) SKINNY_SHAPES(S8_BF16_SUMS)
        SKINNY_SHAPES(S8_F16_SUMS) SKINNY_SHAPES(E4M3_BF16_SILU) SKINNY_SHAPES(E4M3_F16_SILU)
            SKINNY_SHAPES(S8_BF16_SILU) SKINNY_SHAPES(S8_F16_SILU) SKINNY_SHAPES(E4M3_BF16_GELU)
                SKINNY_SHAPES(E4M3_F16_GELU) SKINNY_SHAPES(S8_BF16_GELU)
                    SKINNY_SHAPES(S8_F16_GELU)};
const uint32_t n_eight_few_entries = sizeof eight_few_entries / sizeof *eight_few_entries;

#define NAME_LOGITS(tile, tokens, stages) "logits_s8_" #tile "x" #tokens "x" #stages,

const char *const eight_logits_entries[] = {SKINNY_SHAPES(NAME_LOGITS)};
const uint32_t n_eight_logits_entries = sizeof eight_logits_entries / sizeof *eight_logits_entries;

static const struct shape {
    uint32_t tile, tokens, stages;
} half_shapes[] = {HALF_SHAPES(SHAPE)};

#define N_HALF ((uint32_t)(sizeof half_shapes / sizeof *half_shapes))

#define HALF_BF16_SUMS(tile, tokens, stages) SKINNY_NAME("half_bf16", tile, tokens, stages, "sums")
#define HALF_F16_SUMS(tile, tokens, stages) SKINNY_NAME("half_f16", tile, tokens, stages, "sums")
#define HALF_BF16_SILU(tile, tokens, stages) SKINNY_NAME("half_bf16", tile, tokens, stages, "silu")
#define HALF_F16_SILU(tile, tokens, stages) SKINNY_NAME("half_f16", tile, tokens, stages, "silu")
#define HALF_BF16_GELU(tile, tokens, stages) SKINNY_NAME("half_bf16", tile, tokens, stages, "gelu")
#define HALF_F16_GELU(tile, tokens, stages) SKINNY_NAME("half_f16", tile, tokens, stages, "gelu")
#define HALF_BF16_NORM(tile, tokens, stages) SKINNY_NAME("half_bf16", tile, tokens, stages, "norm")

/* In the order of skinny_entry. */
const char *const eight_half_entries[] = {
    HALF_SHAPES(HALF_BF16_SUMS) HALF_SHAPES(HALF_F16_SUMS) HALF_SHAPES(HALF_BF16_SILU)
        HALF_SHAPES(HALF_F16_SILU) HALF_SHAPES(HALF_BF16_GELU) HALF_SHAPES(HALF_F16_GELU)
            HALF_SMALLEST(HALF_BF16_NORM)};
const uint32_t n_eight_half_entries = sizeof eight_half_entries / sizeof *eight_half_entries;

#define ONE(groups, chunks, stages) {groups, chunks, stages},
#define NAME_ONE_E4M3_BF16(g, c, stages) "one_e4m3_bf16_" #g "x" #c "x" #stages,
#define NAME_ONE_E4M3_F16(g, c, stages) "one_e4m3_f16_" #g "x" #c "x" #stages,
#define NAME_ONE_S8_BF16(g, c, stages) "one_s8_bf16_" #g "x" #c "x" #stages,
#define NAME_ONE_S8_F16(g, c, stages) "one_s8_f16_" #g "x" #c "x" #stages,

static const struct one_shape {
    uint32_t groups, chunks, stages;
} one_e4m3_shapes[] = {ONE_E4M3_SHAPES(ONE)}, one_s8_shapes[] = {ONE_S8_SHAPES(ONE)};

enum { ONE_LONG_RING, ONE_SHORT_RING }; /* which of them */

#define N_ONE_E4M3 ((uint32_t)(sizeof one_e4m3_shapes / sizeof *one_e4m3_shapes))
#define N_ONE_S8 ((uint32_t)(sizeof one_s8_shapes / sizeof *one_s8_shapes))

const char *const eight_one_entries[] = {ONE_E4M3_SHAPES(NAME_ONE_E4M3_BF16) ONE_E4M3_SHAPES(
    NAME_ONE_E4M3_F16) ONE_S8_SHAPES(NAME_ONE_S8_BF16) ONE_S8_SHAPES(NAME_ONE_S8_F16)};
const uint32_t n_eight_one_entries = 2 * (N_ONE_E4M3 + N_ONE_S8);

#define MANY(rows, stages) {rows, stages},
#define MANY_E4M3_BF16(rows, stages) "many_e4m3_bf16_" #rows "x" #stages,
#define MANY_E4M3_F16(rows, stages) "many_e4m3_f16_" #rows "x" #stages,
#define MANY_S8_BF16(rows, stages) "many_s8_bf16_" #rows "x" #stages,
#define MANY_S8_F16(rows, stages) "many_s8_f16_" #rows "x" #stages,

static const struct many_shape {
    uint32_t rows, stages;
} many_shapes[] = {MANY_SHAPES(MANY)};

#define N_MANY ((uint32_t)(sizeof many_shapes / sizeof *many_shapes))

const char *const eight_many_entries[] = {MANY_SHAPES(MANY_E4M3_BF16) MANY_SHAPES(MANY_E4M3_F16)
                                              MANY_SHAPES(MANY_S8_BF16) MANY_SHAPES(MANY_S8_F16)};
const uint32_t n_eight_many_entries = 4 * N_MANY;

#define QUANTIZE(threads, chunks) {threads, chunks},
#define QUANTIZE_E4M3_BF16(threads, chunks) "quantize_e4m3_bf16_" #threads "x" #chunks,
#define QUANTIZE_E4M3_F16(threads, chunks) "quantize_e4m3_f16_" #threads "x" #chunks,
#define QUANTIZE_S8_BF16(threads, chunks) "quantize_s8_bf16_" #threads "x" #chunks,
#define QUANTIZE_S8_F16(threads, chunks) "quantize_s8_f16_" #threads "x" #chunks,

static const struct {
    uint32_t threads, chunks;
} row_shapes[] = {QUANTIZE_SHAPES(QUANTIZE)};

#define N_ROW_SHAPES ((uint32_t)(sizeof row_shapes / sizeof *row_shapes))
#define MANY_ROWS 512 /* for which a multiprocessor shall work on many at a time */

#define GATHER_BF16(threads, chunks) "gather_s8_bf16_" #threads "x" #chunks,
#define GATHER_F16(threads, chunks) "gather_s8_f16_" #threads "x" #chunks,

const char *const quantize_entries[] = {
    QUANTIZE_SHAPES(QUANTIZE_E4M3_BF16) QUANTIZE_SHAPES(QUANTIZE_E4M3_F16)
        QUANTIZE_SHAPES(QUANTIZE_S8_BF16) QUANTIZE_SHAPES(QUANTIZE_S8_F16)
            QUANTIZE_FEW_SHAPES(GATHER_BF16) QUANTIZE_FEW_SHAPES(GATHER_F16)};
const uint32_t n_quantize_entries = 4 * N_ROW_SHAPES + 2 * QUANTIZE_FEW;

/* -- What an op asks for ------------------------------------------------------------------------- */

/* A form of fused or basic op: its matrices are members norm .. norm + matrices - 1. */
struct form {
    enum product_finish finish;
    uint32_t matrices;
    uint32_t norm;    /* members before the matrices: 1 if rms_norm comes first */
    uint32_t members; /* in all; 0: a basic op */
};

static int is_gated(const struct form *f)
{
    return f->finish >= PRODUCT_SILU && f->finish <= PRODUCT_GELU_TANH;
}

static const tn_op *linear_of(const tn_op *op, const struct form *f, uint32_t i)
{
    return f->members ? op->members[f->norm + i] : op;
}

static int is_e4m3(const tn_op *op, const struct form *f)
{
    return linear_of(op, f, 0)->weights[0]->dtype == TN_DT_F8E4M3;
}

static double act_scale(const tn_op *linear)
{
    return tn_op_real(linear, "act_scale", 0.0);
}

/* Rows of a step that the product is of. */
static uint32_t tokens_of(const tn_batch *b, const struct form *f)
{
    return f->finish == PRODUCT_LOGITS ? b->n_logits : b->n_rows;
}

static int32_t check_linear(const tn_op *m, uint32_t dtype, uint64_t n, uint64_t k, tn_err *err)
{
    const tn_weight *w = m->n_weights >= 2 ? m->weights[0] : NULL;

    if (!w || m->n_weights > 3 || w->dtype != dtype || w->n_dims != 2 || w->dims[0] != n ||
        w->dims[1] != k)
        return cuda_require(m, 0, "needs a matrix of 8 bits, its scales, at most a bias", err);
    if (k % 16 || n % 8 || w->stride0 % 16)
        return cuda_require(m, 0, "its matrix must have rows of a multiple of 16, and 8 of them",
                            err);
    for (uint32_t i = 1; i < m->n_weights; i++)
        if (m->weights[i]->dtype != TN_DT_F32 || !cuda_vector(m->weights[i], n))
            return cuda_require(m, 0, "scales and bias must be float32", err);
    return TN_OK;
}

static int32_t check_norm(const tn_op *op, tn_err *err)
{
    const tn_op *norm = op->members[0];

    return cuda_require(op, norm->n_weights == 1 && cuda_vector(norm->weights[0], op->in[0]->width),
                        "needs a norm over whole rows", err);
}

static int32_t wgmma_check(const tn_op *op, const struct form *f, uint32_t matrix, tn_err *err)
{
    uint32_t n_in = f->finish == PRODUCT_ADD ? 2 : 1, dtype = op->n_in ? op->in[0]->dtype : 0;
    uint32_t n_out = is_gated(f) || f->finish == PRODUCT_ADD ? 1 : f->matrices;
    int32_t rc = TN_OK;

    if (!cuda_form(op, n_in, n_out, 2, 10) || (dtype != TN_DT_BF16 && dtype != TN_DT_F16) ||
        op->n_members != f->members ||
        op->out[0]->dtype != (f->finish == PRODUCT_LOGITS ? TN_DT_F32 : dtype))
        return cuda_require(op, 0, "not the form of this variant, or rows not 16 bits wide", err);
    if (op->in[0]->width > QUANTIZE_WIDEST)
        return cuda_require(op, 0, "takes rows of up to 32768", err);
    if (f->norm)
        rc = check_norm(op, err);
    for (uint32_t i = 0; i < f->matrices && rc == TN_OK; i++) {
        const tn_op *m = linear_of(op, f, i);
        rc = check_linear(m, matrix, op->out[n_out == f->matrices ? i : 0]->width, op->in[0]->width,
                          err);
        if (rc == TN_OK && act_scale(m) != act_scale(linear_of(op, f, 0)))
            rc = cuda_require(op, 0, "its matrices want rows quantized with different scales", err);
    }
    return rc ? rc
              : cuda_require(op, n_in == 1 || op->in[1]->width == op->out[0]->width,
                             "the residual differs in width", err);
}

/* -- Planning ---------------------------------------------------------------------------------------- */

/* How a product is launched. */
struct plan {
    uint32_t tile, tokens;  /* rows of the matrices and tokens of a tile */
    uint32_t box;           /* rows of the matrices per copy */
    uint32_t chunks;        /* per copy, of tensor_map_chunks; 0: tensor_map_bytes */
    uint32_t tiles, splits; /* tiles along the matrices; blocks of a cluster */
    uint32_t early;         /* of product_params */
    uint32_t blocks, runs;  /* runs: of tokens, in the grid's y; 0: the kernel counts them */
    uint32_t image, entry, threads, shared_bytes;
    uint32_t shape; /* of half_shapes; the entry follows from it and from what is finished */
};

static uint64_t rows_of(const tn_op *op, const struct form *f, uint32_t i)
{
    return linear_of(op, f, i)->weights[0]->dims[0];
}

static uint32_t count_tiles(const tn_op *op, const struct form *f, uint32_t tile)
{
    uint32_t tiles = 0;

    if (is_gated(f))
        return cuda_div_up(rows_of(op, f, 0), tile / 2);
    for (uint32_t i = 0; i < f->matrices; i++)
        tiles += cuda_div_up(rows_of(op, f, i), tile);
    return tiles;
}

static double weight_bytes(const tn_op *op, const struct form *f)
{
    double bytes = 0;

    for (uint32_t i = 0; i < f->matrices; i++)
        bytes += (double)rows_of(op, f, i) * (double)op->in[0]->width;
    return bytes;
}

/* Kind of entry: dtype of the operands, then of the rows. */
static uint32_t kind_of(const tn_op *op, const struct form *f)
{
    return (is_e4m3(op, f) ? 0 : 2) + hopper_type(op->in[0]);
}

static struct plan plan_few(const tn_op *op, const struct form *f, uint32_t rows)
{
    bool logits = f->finish == PRODUCT_LOGITS;
    uint32_t narrow = count_tiles(op, f, 64), k_blocks = cuda_div_up(op->in[0]->width, EIGHT_K);
    struct skinny_plan s =
        skinny_plan(narrow, count_tiles(op, f, 128), weight_bytes(op, f), k_blocks, rows);

    if (rows == 1 && !logits) /* the last blocks of products that add end soon, all at once */
        s = skinny_plan_one(narrow, k_blocks,
                            is_gated(f)                ? ONE_GATED_EARLY
                            : f->finish == PRODUCT_ADD ? 0
                                                       : HALF_EARLY);
    return (struct plan){.tile = s.tile,
                         .tokens = s.tokens,
                         .box = is_gated(f) ? s.tile / 2 : s.tile,
                         .tiles = s.tiles,
                         .splits = s.splits,
                         .early = s.early,
                         .blocks = s.blocks,
                         .runs = s.runs,
                         .image = logits ? IMAGE_EIGHT_LOGITS : IMAGE_EIGHT_FEW,
                         .entry = logits ? s.shape
                                         : skinny_entry(f->finish, SKINNY_LOGITS, kind_of(op, f),
                                                        FEW_TYPES, s.shape, n_skinny_shapes),
                         .threads = SKINNY_THREADS,
                         .shared_bytes = s.shared_bytes};
}

/* Tiles that the busiest cluster computes one after another, by their width. */
static uint32_t many_work(const tn_op *op, const struct form *f, const struct many_shape *s,
                          uint32_t rows)
{
    uint32_t tiles = count_tiles(op, f, s->rows) * cuda_div_up(rows, EIGHT_CLUSTER * EIGHT_TOKENS);

    return cuda_div_up(tiles, HOPPER_UNITS / EIGHT_CLUSTER) * s->rows;
}

/* Narrower tiles read more for each product: they are taken where they spare a tenth at least. */
static struct plan plan_many(const tn_op *op, const struct form *f, uint32_t rows)
{
    const struct many_shape *s = many_shapes;
    struct plan p;

    for (uint32_t i = 1; i < N_MANY; i++)
        if (many_work(op, f, &many_shapes[i], rows) * 10 <= many_work(op, f, s, rows) * 9)
            s = &many_shapes[i];
    p = (struct plan){.tile = s->rows,
                      .tokens = EIGHT_TOKENS,
                      .box = s->rows / 2,
                      .tiles = count_tiles(op, f, s->rows),
                      .splits = EIGHT_CLUSTER,
                      .image = IMAGE_EIGHT_MANY,
                      .entry = kind_of(op, f) * N_MANY + (uint32_t)(s - many_shapes),
                      .threads = EIGHT_THREADS,
                      .shared_bytes = s->stages * ((s->rows + EIGHT_TOKENS) * 128 + 16)};
    p.blocks = p.tiles * cuda_div_up(rows, EIGHT_CLUSTER * EIGHT_TOKENS) * EIGHT_CLUSTER;
    if (p.blocks > HOPPER_UNITS)
        p.blocks = HOPPER_UNITS; /* each stays for several tiles */
    return p;
}

/* Rows of few tiles in two runs leave fewer multiprocessors idle than tiles of eight_many.cu do. */
static struct plan plan_rounded(const tn_op *op, const struct form *f, uint32_t rows)
{
    struct plan many = plan_many(op, f, rows);

    if (rows <= MAX_FEW || (rows <= 2 * MAX_FEW && many.blocks <= HOPPER_UNITS / 2))
        return plan_few(op, f, rows);
    return many;
}

/* Many blocks of 64 rows of the matrix, so that widening is spread over all multiprocessors; three or four of them have room
 * on one, for those of the next kernel, too. */
static struct plan plan_half(const tn_op *op, const struct form *f, uint32_t rows)
{
    uint32_t k_blocks = cuda_div_up(op->in[0]->width, EIGHT_K), runs;
    const struct shape *s = half_shapes;
    struct plan p;

    while (s + 1 < half_shapes + N_HALF && s->tokens < rows)
        s++;
    runs = cuda_div_up(rows, s->tokens);
    p = (struct plan){.tile = s->tile,
                      .tokens = s->tokens,
                      .box = is_gated(f) ? s->tile / 2 : s->tile,
                      .tiles = count_tiles(op, f, s->tile),
                      .splits = 1,
                      .early = is_gated(f) && rows == 1 ? ONE_GATED_EARLY : HALF_EARLY,
                      .runs = runs,
                      .image = IMAGE_EIGHT_HALF,
                      .shape = (uint32_t)(s - half_shapes),
                      .threads = SKINNY_THREADS,
                      .shared_bytes =
                          s->stages * ((s->tile + 2 * s->tokens) * 128 + 16) + s->tokens * 4};
    p.splits = hopper_splits(p.tiles * runs, 2 * HOPPER_UNITS, k_blocks);
    p.blocks = p.tiles * p.splits;
    return p;
}

/* -- One row: eight_one.cu --------------------------------------------------------------------------- */

/* Tiles of 32 rows give nearly every multiprocessor one, and none two. */
static bool fills_once(const tn_op *op, const struct form *f)
{
    uint32_t tiles = count_tiles(op, f, 32);

    return tiles <= HOPPER_UNITS && tiles >= HOPPER_UNITS * 9 / 10;
}

/* They give nearly every multiprocessor three, for which there is room. */
static bool fills_thrice(const tn_op *op, const struct form *f)
{
    uint32_t tiles = count_tiles(op, f, 32);

    return tiles <= 3 * HOPPER_UNITS && tiles >= 3 * HOPPER_UNITS * 9 / 10;
}

/* By whole steps on an H200: with other numbers of tiles, with short rows where blocks are alone, and for gated products, clusters
 * that share K are as fast or faster. Blocks that round rows must not be three on a multiprocessor. */
static bool takes_one(const tn_op *op, const struct form *f, uint32_t rows)
{
    uint64_t k = op->in[0]->width;

    if (rows != 1 || f->finish > PRODUCT_ADD || k % EIGHT_K || k > QUANTIZE_WIDEST)
        return false;
    if (fills_once(op, f))
        return k >= ONE_LONG_ROW;
    return is_e4m3(op, f) && k <= ONE_THRICE_ROW && fills_thrice(op, f);
}

static struct plan plan_one(const tn_op *op, const struct form *f)
{
    uint32_t shape = fills_once(op, f) ? ONE_LONG_RING : ONE_SHORT_RING;
    uint32_t k = (uint32_t)op->in[0]->width, e4m3 = is_e4m3(op, f);
    const struct one_shape *s = e4m3 ? &one_e4m3_shapes[shape] : &one_s8_shapes[shape];
    uint32_t tile = 16 * s->groups, tiles = count_tiles(op, f, tile);
    uint32_t entry = hopper_type(op->in[0]) * (e4m3 ? N_ONE_E4M3 : N_ONE_S8) + shape;

    return (struct plan){.tile = tile,
                         .box = tile,
                         .chunks = s->chunks,
                         .tiles = tiles,
                         .splits = 1,
                         .early = shape == ONE_LONG_RING ? ONE_LONG_EARLY : ONE_EARLY,
                         .blocks = tiles,
                         .runs = 1,
                         .image = IMAGE_EIGHT_ONE,
                         .entry = e4m3 ? entry : 2 * N_ONE_E4M3 + entry,
                         .threads = SKINNY_THREADS,
                         .shared_bytes = ONE_BYTES(s->groups, s->chunks, s->stages, k, !e4m3)};
}

/* Of variants that round rows; those of short rows are not for taking where others do without. */
static double wgmma_cost_ns(const tn_op *op, const struct form *f, uint32_t rows)
{
    double bytes = weight_bytes(op, f), k = (double)op->in[0]->width, moving, computing;
    uint32_t padded = rows <= MAX_FEW ? rows : cuda_div_up(rows, 256) * 256;

    if (is_e4m3(op, f) && op->in[0]->width < SHORT_ROW)
        return -1.0;
    moving = bytes / BYTES_PER_NS * (1.0 + rows / 1024.0);
    computing = bytes * 2.0 * padded / OPS_PER_NS;
    return 2.0 * LAUNCH_NS + rows * k * 3.0 / 3000.0 + (moving > computing ? moving : computing);
}

/* Each run of tokens reads the matrix again. */
static double half_cost_ns(const tn_op *op, const struct form *f, uint32_t rows)
{
    double bytes = weight_bytes(op, f), k = (double)op->in[0]->width;
    struct plan p = plan_half(op, f, rows ? rows : 1);
    double moving = bytes / BYTES_PER_NS * p.runs;
    double computing = bytes * 2.0 * p.runs * p.tokens / HALF_OPS_PER_NS;

    if (f->norm)
        moving += LAUNCH_NS + rows * k * 4.0 / 3000.0;
    return LAUNCH_NS + (moving > computing ? moving : computing);
}

/* -- Launching --------------------------------------------------------------------------------------- */

static uint32_t row_shape(uint64_t width, uint32_t rows)
{
    uint32_t i = rows < MANY_ROWS ? 0 : QUANTIZE_FEW;

    while (i < N_ROW_SHAPES && width > row_shapes[i].threads * row_shapes[i].chunks * 8)
        i++;
    return i < N_ROW_SHAPES ? i : QUANTIZE_FEW - 1;
}

static int32_t quantize(const struct hopper_device *d, const tn_launch *l, const struct form *f,
                        float *step, tn_err *err)
{
    const tn_op *op = l->op, *norm = f->norm ? op->members[0] : NULL;
    uint32_t rows = tokens_of(l->batch, f), shape = row_shape(op->in[0]->width, rows);
    uint32_t entry = kind_of(op, f) * N_ROW_SHAPES + shape;
    struct quantize_params p = {.x = l->in[0],
                                .q = l->workspace,
                                .step = step,
                                .width = (uint32_t)op->in[0]->width,
                                .scale = (float)act_scale(linear_of(op, f, 0))};

    if (rows != l->batch->n_rows) { /* else all rows want logits, as in a step that only decodes */
        p.row = l->batch->dev->logits_row;
        entry = 4 * N_ROW_SHAPES + hopper_type(op->in[0]) * QUANTIZE_FEW + shape;
    }
    if (norm) {
        p.weight = l->weights[0];
        p.weight_dtype = norm->weights[0]->dtype;
        p.eps = (float)tn_op_real(norm, "eps", 0.0);
        p.offset = (float)tn_op_real(norm, "offset", 0.0);
    }
    return hopper_launch(d, l, IMAGE_QUANTIZE, entry,
                         (struct cuda_grid){.x = rows, .threads = row_shapes[shape].threads}, &p,
                         err);
}

/* Fills in the matrices. */
static int32_t plan_parts(const struct hopper_device *d, const tn_launch *l, const struct form *f,
                          const struct plan *plan, struct eight_params *q, tn_err *err)
{
    uint32_t height = is_gated(f) ? plan->tile / 2 : plan->tile, weight = f->norm, tile = 0;

    q->p.n_parts = f->matrices;
    for (uint32_t i = 0; i < f->matrices; i++) {
        const tn_op *m = linear_of(l->op, f, i);
        const tn_weight *w = m->weights[0];
        int32_t rc = plan->chunks ? tensor_map_chunks(d, l->weights[weight], w->dims[0], w->dims[1],
                                                      w->stride0, plan->box, plan->chunks,
                                                      &q->p.weights[i], err)
                                  : tensor_map_bytes(d, l->weights[weight], w->dims[0], w->dims[1],
                                                     w->stride0, plan->box, &q->p.weights[i], err);
        if (rc)
            return rc;
        q->scale[i] = l->weights[weight + 1];
        q->bias[i] = m->n_weights > 2 ? l->weights[weight + 2] : NULL;
        q->p.parts[i].out = l->out[is_gated(f) ? 0 : i];
        q->p.parts[i].n = (uint32_t)w->dims[0];
        q->p.parts[i].first = is_gated(f) ? 0 : tile;
        tile += cuda_div_up(w->dims[0], height);
        weight += m->n_weights;
    }
    return TN_OK;
}

static struct eight_params params_of(const tn_launch *l, const struct form *f,
                                     const struct plan *plan)
{
    struct eight_params q;

    memset(&q, 0, sizeof q);
    q.p.rows = tokens_of(l->batch, f);
    q.p.k_blocks = cuda_div_up(l->op->in[0]->width, EIGHT_K);
    q.p.tiles = plan->tiles;
    q.p.finish = f->finish;
    q.p.early = plan->early;
    q.p.residual = f->finish == PRODUCT_ADD ? l->in[1] : NULL;
    q.p.scale = (float)tn_op_real(l->op, "scale", 1.0);
    q.p.softcap = (float)tn_op_real(l->op, "softcap", 0.0);
    return q;
}

static int32_t launch_product(const struct hopper_device *d, const tn_launch *l,
                              const struct form *f, const struct plan *plan, struct eight_params *q,
                              tn_err *err)
{
    int32_t rc = plan_parts(d, l, f, plan, q, err);

    if (rc)
        return rc;
    return hopper_launch(d, l, plan->image, plan->entry,
                         (struct cuda_grid){.x = plan->blocks,
                                            .y = plan->runs,
                                            .threads = plan->threads,
                                            .cluster = plan->splits,
                                            .shared_bytes = plan->shared_bytes},
                         q, err);
}

/* One row of an int8 product without a norm. */
static int32_t one_launch(const struct hopper_device *d, const tn_launch *l, const struct form *f,
                          tn_err *err)
{
    struct plan plan = plan_one(l->op, f);
    struct eight_params q = params_of(l, f, &plan);

    q.p.row = l->in[0];
    q.act_scale = (float)act_scale(linear_of(l->op, f, 0));
    return launch_product(d, l, f, &plan, &q, err);
}

/* The quantized rows are in the workspace, and behind them their steps. */
static int32_t wgmma_launch(struct hopper_instance *in, const tn_launch *l, const struct form *f,
                            tn_err *err)
{
    uint32_t rows = tokens_of(l->batch, f);
    uint64_t k = l->op->in[0]->width;
    struct plan plan = plan_rounded(l->op, f, rows);
    const struct hopper_device *d;
    struct eight_params q;
    int32_t rc = hopper_find(in, l, &d, err);

    if (rc || rows == 0)
        return rc;
    if (!is_e4m3(l->op, f) && !f->norm && takes_one(l->op, f, rows))
        return one_launch(d, l, f, err);
    q = params_of(l, f, &plan);
    q.step = (float *)(void *)((char *)l->workspace + rows * k);
    rc = quantize(d, l, f, (float *)(uintptr_t)q.step, err);
    if (!rc)
        rc = tensor_map_bytes(d, l->workspace, rows, k, k, plan.tokens, &q.p.x, err);
    return rc ? rc : launch_product(d, l, f, &plan, &q, err);
}

/* Of rows x. `norm`: as of hopper_product. */
static int32_t half_product(const struct hopper_device *d, const tn_launch *l, const struct form *f,
                            const void *x, struct product_norm *norm, tn_err *err)
{
    uint32_t rows = l->batch->n_rows;
    uint64_t k = l->op->in[0]->width;
    bool one = takes_one(l->op, f, rows);
    struct plan plan = one ? plan_one(l->op, f) : plan_half(l->op, f, rows);
    struct eight_params q = params_of(l, f, &plan);
    int32_t rc = TN_OK;

    q.p.row = x;
    if (!one)
        rc = tensor_map_matrix(d, l->op->in[0]->dtype, x, rows, k, 2 * k, plan.tokens, &q.p.x, err);
    if (norm)
        plan.threads = hopper_note_norm(norm, plan.tiles * plan.splits, &q.p);
    if (!one)
        plan.entry = skinny_entry(q.p.finish, SKINNY_LOGITS, hopper_type(l->op->in[0]), 2,
                                  plan.shape, N_HALF);
    return rc ? rc : launch_product(d, l, f, &plan, &q, err);
}

/* What the norm leaves, if one comes first, is in the workspace. */
static int32_t half_launch(struct hopper_instance *in, const tn_launch *l, const struct form *f,
                           tn_err *err)
{
    const tn_op *norm = f->norm ? l->op->members[0] : NULL;
    const struct hopper_device *d;
    int32_t rc = hopper_find(in, l, &d, err);

    if (rc || l->batch->n_rows == 0)
        return rc;
    if (norm) {
        struct norm_params p = {.a = l->in[0],
                                .weight = l->weights[0],
                                .out = l->workspace,
                                .width = (uint32_t)l->op->in[0]->width,
                                .weight_dtype = norm->weights[0]->dtype,
                                .eps = (float)tn_op_real(norm, "eps", 0.0),
                                .offset = (float)tn_op_real(norm, "offset", 0.0)};
        rc = hopper_norm(d, l, &p, err);
    }
    return rc ? rc : half_product(d, l, f, norm ? l->workspace : l->in[0], NULL, err);
}

/* Bytes of the workspace for a row. */
static uint64_t wgmma_row_bytes(const tn_op *op, const struct form *f)
{
    (void)f;
    return op->in[0]->width + sizeof(float);
}

static uint64_t half_row_bytes(const tn_op *op, const struct form *f)
{
    return f->norm ? 2 * op->in[0]->width : 0;
}

static int32_t half_check(const tn_op *op, const struct form *f, uint32_t matrix, tn_err *err)
{
    int32_t rc = wgmma_check(op, f, matrix, err);

    return rc ? rc
              : cuda_require(op, !f->norm || op->in[0]->width <= NORM_WIDEST,
                             "norms rows of up to 16384", err);
}

/* -- Pairs: pair.c ----------------------------------------------------------------------------------- */

static const struct form *pair_form(enum product_finish f)
{
    static const struct form forms[] = {[PRODUCT_STORE] = {PRODUCT_STORE, 3, 0, 3},
                                        [PRODUCT_ADD] = {PRODUCT_ADD, 1, 0, 2},
                                        [PRODUCT_SILU] = {PRODUCT_SILU, 2, 0, 4}};

    return &forms[f];
}

int32_t hopper_half_check(const tn_op *op, enum product_finish f, tn_err *err)
{
    return half_check(op, pair_form(f), TN_DT_F8E4M3, err);
}

double hopper_half_cost_ns(const tn_op *op, enum product_finish f, uint32_t rows)
{
    return half_cost_ns(op, pair_form(f), rows);
}

int32_t hopper_half(struct hopper_instance *in, const tn_launch *l, enum product_finish f,
                    struct product_norm *norm, tn_err *err)
{
    const struct hopper_device *d;
    int32_t rc = hopper_find(in, l, &d, err);

    return rc ? rc
              : half_product(d, l, pair_form(f), f == PRODUCT_ADD ? l->in[0] : norm->rows, norm,
                             err);
}

/* -- The variants ------------------------------------------------------------------------------------ */

/* What quantizes rows stands in front of a product, but for a long one alone, and keeps it from starting early. */
#define WGMMA_FLAGS (HOPPER_FLAGS & ~TN_VARIANT_EARLY)
#define HALF_FLAGS (HOPPER_FLAGS | TN_VARIANT_WIDE_ROWS)

/* Of logits: what eight_logits.cu serves in one run. */
static const tn_range few_rows[] = {{.dim = "rows", .min = 1, .max = MAX_FEW, .multiple = 1}};

/* `way`: wgmma or half; `bits`: its flags. */
#define VARIANT(id, way, bits, type, text_name, op_name, text, form_finish, n_matrices, n_norm,    \
                n_all)                                                                             \
    static const struct form form_##id = {form_finish, n_matrices, n_norm, n_all};                 \
    static int32_t id##_can_run(void *instance, const tn_op *op, tn_err *err)                      \
    {                                                                                              \
        (void)instance;                                                                            \
        return way##_check(op, &form_##id, type, err);                                             \
    }                                                                                              \
    static double id##_cost_ns(void *instance, const tn_op *op, uint32_t rows)                     \
    {                                                                                              \
        (void)instance;                                                                            \
        return way##_cost_ns(op, &form_##id, rows);                                                \
    }                                                                                              \
    static int32_t id##_workspace(void *instance, const tn_op *op, uint32_t max_rows,              \
                                  uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,        \
                                  tn_err *err)                                                     \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)max_seqs;                                                                            \
        (void)max_context;                                                                         \
        (void)err;                                                                                 \
        *bytes = max_rows * way##_row_bytes(op, &form_##id);                                       \
        return TN_OK;                                                                              \
    }                                                                                              \
    static int32_t id##_launch(void *instance, const tn_launch *l, tn_err *err)                    \
    {                                                                                              \
        return way##_launch(instance, l, &form_##id, err);                                         \
    }                                                                                              \
    const tn_variant hopper_##id = {.h = TN_HDR(tn_variant),                                       \
                                    .name = text_name,                                             \
                                    .op = op_name,                                                 \
                                    .equals = text,                                                \
                                    .flags = (bits),                                               \
                                    .act_dtypes = HOPPER_FLOATS,                                   \
                                    .weight_dtypes = TN_DT_BIT(type),                              \
                                    .gpus = hopper_gpus,                                           \
                                    .ranges = few_rows,                                            \
                                    .n_ranges = (form_finish) == PRODUCT_LOGITS,                   \
                                    .can_run = id##_can_run,                                       \
                                    .cost_ns = id##_cost_ns,                                       \
                                    .workspace = id##_workspace,                                   \
                                    .launch = id##_launch};

/* All forms with linear op `op` and matrices of `type`; `end`: of the names of variants. */
#define FORMS(q, way, bits, type, op, name, end)                                                   \
    VARIANT(linear_##q, way, bits, type, "linear_" end, op, NULL, PRODUCT_STORE, 1, 0, 0)          \
    VARIANT(qkv_##q, way, bits, type, "qkv_" end, "qkv." name, TN_TEXT_QKV(op), PRODUCT_STORE, 3,  \
            0, 3)                                                                                  \
    VARIANT(linear_add_##q, way, bits, type, "linear_add_" end, "linear_add." name,                \
            TN_TEXT_LINEAR_ADD(op), PRODUCT_ADD, 1, 0, 2)                                          \
    VARIANT(gate_silu_##q, way, bits, type, "gate_silu_" end, "gate_silu." name,                   \
            TN_TEXT_GATE(op, "silu"), PRODUCT_SILU, 2, 0, 4)                                       \
    VARIANT(gate_gelu_##q, way, bits, type, "gate_gelu_" end, "gate_gelu." name,                   \
            TN_TEXT_GATE(op, "gelu"), PRODUCT_GELU, 2, 0, 4)                                       \
    VARIANT(gate_gelu_tanh_##q, way, bits, type, "gate_gelu_tanh_" end, "gate_gelu_tanh." name,    \
            TN_TEXT_GATE(op, "gelu_tanh"), PRODUCT_GELU_TANH, 2, 0, 4)                             \
    VARIANT(norm_linear_##q, way, bits, type, "norm_linear_" end, "norm_linear." name,             \
            TN_TEXT_NORM_LINEAR(op), PRODUCT_STORE, 1, 1, 2)                                       \
    VARIANT(norm_qkv_##q, way, bits, type, "norm_qkv_" end, "norm_qkv." name,                      \
            TN_TEXT_NORM_QKV(op), PRODUCT_STORE, 3, 1, 4)                                          \
    VARIANT(norm_gate_silu_##q, way, bits, type, "norm_gate_silu_" end, "norm_gate_silu." name,    \
            TN_TEXT_NORM_GATE(op, "silu"), PRODUCT_SILU, 2, 1, 5)                                  \
    VARIANT(norm_gate_gelu_##q, way, bits, type, "norm_gate_gelu_" end, "norm_gate_gelu." name,    \
            TN_TEXT_NORM_GATE(op, "gelu"), PRODUCT_GELU, 2, 1, 5)                                  \
    VARIANT(norm_gate_gelu_tanh_##q, way, bits, type, "norm_gate_gelu_tanh_" end,                  \
            "norm_gate_gelu_tanh." name, TN_TEXT_NORM_GATE(op, "gelu_tanh"), PRODUCT_GELU_TANH, 2, \
            1, 5)

FORMS(fp8, wgmma, WGMMA_FLAGS, TN_DT_F8E4M3, TN_OP_LINEAR_FP8, "fp8", "fp8.wgmma")
FORMS(int8, wgmma, WGMMA_FLAGS, TN_DT_I8, TN_OP_LINEAR_INT8, "int8", "int8.wgmma")
VARIANT(logits_int8, wgmma, WGMMA_FLAGS, TN_DT_I8, "logits_int8.wgmma", TN_OP_LOGITS_INT8, NULL,
        PRODUCT_LOGITS, 1, 0, 0)
FORMS(fp8_half, half, HALF_FLAGS, TN_DT_F8E4M3, TN_OP_LINEAR_FP8, "fp8", "fp8_half.mma")
