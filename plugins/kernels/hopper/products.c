/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products: which of the kernels of skinny.cu and wide.cu, in how many blocks, with what at the end. They read canonical
 * weights, so that other sets can serve some rows of the same op.
 */
#include <string.h>

#include "hopper.h"

/* Prior of the time: bytes per nanosecond from memory, and what a launch adds. */
#define BYTES_PER_NS 3600.0
#define FLOPS_PER_NS 600e3
#define LAUNCH_NS 1500.0

#define SHAPE(tile, tokens, stages) {tile, tokens, stages},
static const struct shape {
    uint32_t tile, tokens, stages;
} shapes[] = {SKINNY_SHAPES(SHAPE)};

#define N_SHAPES ((uint32_t)(sizeof shapes / sizeof *shapes))

const uint32_t n_skinny_shapes = N_SHAPES;

#define BF16_SUMS(tile, tokens, stages) SKINNY_NAME("skinny_bf16", tile, tokens, stages, "sums")
#define F16_SUMS(tile, tokens, stages) SKINNY_NAME("skinny_f16", tile, tokens, stages, "sums")
#define BF16_SILU(tile, tokens, stages) SKINNY_NAME("skinny_bf16", tile, tokens, stages, "silu")
#define F16_SILU(tile, tokens, stages) SKINNY_NAME("skinny_f16", tile, tokens, stages, "silu")
#define BF16_GELU(tile, tokens, stages) SKINNY_NAME("skinny_bf16", tile, tokens, stages, "gelu")
#define F16_GELU(tile, tokens, stages) SKINNY_NAME("skinny_f16", tile, tokens, stages, "gelu")
#define BF16_LOGITS(tile, tokens, stages) SKINNY_NAME("skinny_bf16", tile, tokens, stages, "logits")
#define F16_LOGITS(tile, tokens, stages) SKINNY_NAME("skinny_f16", tile, tokens, stages, "logits")
#define BF16_NORM(tile, tokens, stages) SKINNY_NAME("skinny_bf16", tile, tokens, stages, "norm")

/* In the order of skinny_entry. */
const char *const skinny_entries[] = {
    SKINNY_SHAPES(BF16_SUMS) SKINNY_SHAPES(F16_SUMS) SKINNY_SHAPES(BF16_SILU)
        SKINNY_SHAPES(F16_SILU) SKINNY_SHAPES(BF16_GELU) SKINNY_SHAPES(F16_GELU)
            SKINNY_SHAPES(BF16_LOGITS) SKINNY_SHAPES(F16_LOGITS) SKINNY_SMALLEST(BF16_NORM)};
const uint32_t n_skinny_entries = sizeof skinny_entries / sizeof *skinny_entries;

#define WIDE(tile, stages, blocks) {tile, stages, blocks},
#define WIDE_BF16(tile, stages, blocks) "wide_bf16_" #tile "x" #stages "x" #blocks,
#define WIDE_F16(tile, stages, blocks) "wide_f16_" #tile "x" #stages "x" #blocks,

static const struct wide_shape {
    uint32_t tile, stages, blocks; /* blocks: of a cluster, one tile of tokens each */
} wide_shapes[] = {WIDE_SHAPES(WIDE)};

#define N_WIDE ((uint32_t)(sizeof wide_shapes / sizeof *wide_shapes))

const char *const wide_entries[] = {WIDE_SHAPES(WIDE_BF16) WIDE_SHAPES(WIDE_F16)};
const uint32_t n_wide_entries = 2 * N_WIDE;

/* -- What an op asks for ------------------------------------------------------------------------- */

static uint32_t n_matrices(enum product_finish f, const tn_op *op)
{
    return f == PRODUCT_STORE                            ? (op->n_members ? 3 : 1)
           : f >= PRODUCT_SILU && f <= PRODUCT_GELU_TANH ? 2
                                                         : 1;
}

static int is_gated(enum product_finish f)
{
    return f >= PRODUCT_SILU && f <= PRODUCT_GELU_TANH;
}

static const tn_op *member(const tn_op *op, uint32_t i)
{
    return op->n_members ? op->members[i] : op;
}

static int32_t check_matrix(const tn_op *m, uint32_t dtype, uint64_t n, uint64_t k, tn_err *err)
{
    const tn_weight *w = m->n_weights ? m->weights[0] : NULL;

    if (!w || m->n_weights > 2 || !cuda_matrix(w, n, k) || w->dtype != dtype)
        return cuda_require(m, 0, "needs a matrix of the activations' dtype, at most a bias", err);
    if (k % 8 || n % 8 || w->stride0 % 16)
        return cuda_require(m, 0, "its matrix must have sizes that 8 divides", err);
    return cuda_require(m,
                        m->n_weights < 2 ||
                            (cuda_vector(m->weights[1], n) &&
                             (m->weights[1]->dtype == dtype || m->weights[1]->dtype == TN_DT_F32)),
                        "the bias must be float32 or have the activations' dtype", err);
}

int32_t hopper_product_check(const tn_op *op, enum product_finish f, tn_err *err)
{
    static const uint32_t n_members[] = {[PRODUCT_ADD] = 2,
                                         [PRODUCT_SILU] = 4,
                                         [PRODUCT_GELU] = 4,
                                         [PRODUCT_GELU_TANH] = 4,
                                         [PRODUCT_LOGITS] = 0};
    uint32_t n = n_matrices(f, op), n_in = f == PRODUCT_ADD ? 2 : 1;
    uint32_t n_out = f == PRODUCT_STORE ? n : 1, dtype = op->n_in ? op->in[0]->dtype : 0;

    if (!cuda_form(op, n_in, n_out, 1, 6) || (dtype != TN_DT_BF16 && dtype != TN_DT_F16) ||
        (f != PRODUCT_STORE && op->n_members != n_members[f]))
        return cuda_require(op, 0, "not the form of this variant, or not 16 bits wide", err);
    for (uint32_t i = 0; i < n; i++) {
        int32_t rc = check_matrix(member(op, i), dtype, op->out[n_out == n ? i : 0]->width,
                                  op->in[0]->width, err);
        if (rc)
            return rc;
    }
    return cuda_require(op, f != PRODUCT_ADD || op->in[1]->width == op->out[0]->width,
                        "the residual differs in width", err);
}

/* -- Planning ---------------------------------------------------------------------------------------- */

/* How a product is launched. */
struct plan {
    uint32_t tile, tokens;  /* rows of the matrices and tokens of a tile */
    uint32_t tiles, splits; /* tiles along the matrices; blocks of a cluster, which share one */
    uint32_t early;         /* of product_params; of skinny.cu alone */
    uint32_t blocks, image, entry, threads, shared_bytes;
    uint32_t shape; /* of skinny.cu, whose entry follows from it and from what is finished */
};

static uint32_t count_tiles(const tn_op *op, enum product_finish f, uint32_t tile)
{
    uint32_t tiles = 0;

    if (is_gated(f))
        return cuda_div_up(member(op, 0)->weights[0]->dims[0], tile / 2);
    for (uint32_t i = 0; i < n_matrices(f, op); i++)
        tiles += cuda_div_up(member(op, i)->weights[0]->dims[0], tile);
    return tiles;
}

static double weight_bytes(const tn_op *op, enum product_finish f)
{
    double bytes = 0;

    for (uint32_t i = 0; i < n_matrices(f, op); i++) {
        const tn_weight *w = member(op, i)->weights[0];
        bytes += 2.0 * (double)w->dims[0] * (double)w->dims[1];
    }
    return bytes;
}

/* Stages of the rings of tiles for so many tokens, by what the matrices are like (skinny_plan); 0: does not occur. */
static const struct rings {
    uint32_t tokens;
    uint32_t alone, alone_small;  /* tiles of 64 rows, a block on a multiprocessor */
    uint32_t small, between;      /* tiles of 64 rows, several blocks on one */
    uint32_t few, many, ordinary; /* tiles of 128 rows */
} rings[] = {{8, 0, 0, 11, 7, 8, 6, 4},
             {16, 14, 10, 7, 7, 8, 6, 6},
             {32, 12, 12, 7, 5, 5, 5, 5},
             {64, 12, 10, 4, 4, 4, 4, 4},
             {SKINNY_ROWS, 0, 0, 0, 0, 3, 3, 3}};

/* So many blocks are one for each multiprocessor, or nearly so. */
static int fills_once(uint32_t blocks)
{
    return blocks <= HOPPER_UNITS && blocks * 10 >= HOPPER_UNITS * 9;
}

#define ONE_RING 7 /* stages of skinny_plan_one: three blocks have room on a multiprocessor */

static uint32_t find_shape(uint32_t tile, uint32_t tokens, uint32_t stages)
{
    uint32_t i = 0;

    while (shapes[i].tile != tile || shapes[i].tokens != tokens || shapes[i].stages != stages)
        i++;
    return i;
}

uint32_t hopper_splits(uint32_t tiles, uint32_t blocks, uint32_t stages)
{
    uint32_t splits = 1;

    /* 9 / 10: a few idle multiprocessors cost less than twice the blocks. */
    while (splits < 8 && tiles * splits < blocks * 9 / 10 && stages >= splits * 8)
        splits *= 2;
    return splits;
}

/* Tile and number of blocks were fitted to whole steps of LLaMA-2-7B and LLaMA-3-8B on an H200, not to kernels alone: what
 * counts is how the loads of one kernel follow on those of the one before, and that enough of them are on their way. Of 16
 * tokens on, tiles of 64 rows whose blocks, alone or in pairs, are one per multiprocessor have it to themselves, with a ring
 * as long as it has room for: clusters of four or eight never fall one on each (of 32 of four, eight multiprocessors get two
 * blocks and twelve none). Small matrices, and those whose wide tiles would leave some multiprocessors with twice the work of others,
 * take blocks of 64 rows. Large ones take 128: in two or three blocks per multiprocessor, or, of few tiles and few tokens, in one
 * here and there with a long ring. With few tokens, short rings leave room on a multiprocessor for blocks of the next kernel,
 * which may start as soon as the last loads are asked for; where blocks fill all multiprocessors anyway, two of them have longer
 * rings. */
struct skinny_plan skinny_plan(uint32_t narrow, uint32_t wide, double bytes, uint32_t stages,
                               uint32_t rows)
{
    const struct rings *r = rings;
    struct skinny_plan p = {.tile = 128, .tiles = wide, .splits = 1};
    uint32_t blocks = HOPPER_UNITS, ring;
    int small = bytes < 40e6;

    while (r->tokens < rows && r->tokens < SKINNY_ROWS)
        r++;
    ring = r->ordinary;
    if (r->alone && (fills_once(narrow) || fills_once(2 * narrow))) {
        p.tile = 64;
        ring = small ? r->alone_small : r->alone;
    } else if (r->small && small) {
        p.tile = 64;
        ring = r->small;
        blocks = r->tokens <= 16 ? 2 * HOPPER_UNITS : HOPPER_UNITS;
    } else if (r->between && wide > HOPPER_UNITS / 2 && wide < HOPPER_UNITS) {
        p.tile = 64;
        ring = r->between;
        blocks = 2 * HOPPER_UNITS;
    } else if (r->tokens <= 8 && wide >= 2 * HOPPER_UNITS * 9 / 10) {
        ring = r->many;
    } else if (r->tokens <= 16 && wide * 4 < HOPPER_UNITS) {
        ring = r->few;
        blocks = HOPPER_UNITS / 3;
    }
    p.tokens = r->tokens;
    p.runs = cuda_div_up(rows, p.tokens);
    p.tiles = p.tile == 64 ? narrow : wide;
    p.shape = find_shape(p.tile, p.tokens, ring);
    p.early = p.tokens <= 8 ? 1 : 4;
    p.shared_bytes = ring * ((p.tile + p.tokens) * 128 + 16) + p.tokens * 4;
    p.splits = hopper_splits(p.tiles * p.runs, blocks, stages);
    p.blocks = p.tiles * p.splits;
    return p;
}

struct skinny_plan skinny_plan_one(uint32_t narrow, uint32_t stages, uint32_t early)
{
    uint32_t splits = hopper_splits(narrow, 2 * HOPPER_UNITS, stages);

    return (struct skinny_plan){.shape = find_shape(64, 8, ONE_RING),
                                .tile = 64,
                                .tokens = 8,
                                .tiles = narrow,
                                .splits = splits,
                                .early = early,
                                .blocks = narrow * splits,
                                .runs = 1,
                                .shared_bytes = ONE_RING * ((64 + 8) * 128 + 16) + 8 * 4};
}

static struct plan plan_few(const tn_op *op, enum product_finish f, uint32_t rows)
{
    struct skinny_plan s =
        skinny_plan(count_tiles(op, f, 64), count_tiles(op, f, 128), weight_bytes(op, f),
                    cuda_div_up(op->in[0]->width, PRODUCT_K), rows);

    return (struct plan){.tile = s.tile,
                         .tokens = s.tokens,
                         .tiles = s.tiles,
                         .splits = s.splits,
                         .early = s.early,
                         .blocks = s.blocks,
                         .image = IMAGE_SKINNY,
                         .shape = s.shape,
                         .threads = SKINNY_THREADS,
                         .shared_bytes = s.shared_bytes};
}

/* Tiles that the busiest multiprocessor computes one after another, by their width: what the time of many rows is in
 * proportion to. */
static uint32_t wide_work(const tn_op *op, enum product_finish f, const struct wide_shape *s,
                          uint32_t rows)
{
    uint32_t tokens = cuda_div_up(rows, WIDE_TOKENS * s->blocks);
    uint32_t tiles = count_tiles(op, f, s->tile) * tokens;

    return cuda_div_up(tiles, HOPPER_UNITS / s->blocks) * s->tile;
}

static const struct wide_shape *choose_wide(const tn_op *op, enum product_finish f, uint32_t rows)
{
    const struct wide_shape *best = wide_shapes;

    for (uint32_t i = 1; i < N_WIDE; i++)
        if (wide_work(op, f, &wide_shapes[i], rows) < wide_work(op, f, best, rows))
            best = &wide_shapes[i];
    return best;
}

static struct plan plan_many(const tn_op *op, enum product_finish f, uint32_t rows)
{
    const struct wide_shape *best = choose_wide(op, f, rows);
    struct plan p = {.tile = best->tile,
                     .tokens = WIDE_TOKENS,
                     .tiles = count_tiles(op, f, best->tile),
                     .splits = best->blocks,
                     .image = IMAGE_WIDE,
                     .entry = hopper_type(op->in[0]) * N_WIDE + (uint32_t)(best - wide_shapes),
                     .threads = WIDE_THREADS,
                     .shared_bytes = best->stages * ((best->tile + WIDE_TOKENS) * 128 + 16)};

    p.blocks = p.tiles * cuda_div_up(rows, WIDE_TOKENS * best->blocks) * best->blocks;
    if (p.blocks > HOPPER_UNITS)
        p.blocks = HOPPER_UNITS; /* each stays for several tiles */
    return p;
}

double hopper_product_cost_ns(const tn_op *op, enum product_finish f, uint32_t rows)
{
    double bytes = weight_bytes(op, f), moving = bytes / BYTES_PER_NS * (1.0 + rows / 1024.0);
    double computing = bytes * rows / FLOPS_PER_NS;

    if (rows > SKINNY_ROWS) /* what the busiest multiprocessor does */
        computing = 2.0 * wide_work(op, f, choose_wide(op, f, rows), rows) * WIDE_TOKENS *
                    (double)op->in[0]->width * HOPPER_UNITS / FLOPS_PER_NS;
    return LAUNCH_NS + (moving > computing ? moving : computing);
}

/* Fills in the matrices. */
static int32_t plan_parts(const struct hopper_device *d, const tn_launch *l, enum product_finish f,
                          const struct plan *plan, struct product_params *p, tn_err *err)
{
    /* Tiles of gated products are half of each matrix; the copies of wide.cu are halves of tiles. */
    uint32_t height = is_gated(f) ? plan->tile / 2 : plan->tile, weight = 0, tile = 0;
    uint32_t box = plan->image == IMAGE_WIDE ? plan->tile / 2 : height;

    p->n_parts = n_matrices(f, l->op);
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const tn_op *m = member(l->op, i);
        const tn_weight *w = m->weights[0];
        int32_t rc = tensor_map_matrix(d, w->dtype, l->weights[weight], w->dims[0], w->dims[1],
                                       w->stride0, box, &p->weights[i], err);
        if (rc)
            return rc;
        p->parts[i].out = l->out[is_gated(f) ? 0 : i];
        p->parts[i].bias = m->n_weights > 1 ? l->weights[weight + 1] : NULL;
        p->parts[i].bias_wide = m->n_weights > 1 && m->weights[1]->dtype == TN_DT_F32;
        p->parts[i].n = (uint32_t)w->dims[0];
        p->parts[i].first = is_gated(f) ? 0 : tile;
        tile += cuda_div_up(w->dims[0], height);
        weight += m->n_weights;
    }
    return TN_OK;
}

/* Rows that want logits are gathered first, unless all do: the copy engine takes them from consecutive rows. */
static int32_t gather(const struct hopper_device *d, const tn_launch *l, const void **x,
                      tn_err *err)
{
    struct gather_params g = {.x = *x,
                              .out = l->workspace,
                              .row = l->batch->dev->logits_row,
                              .bytes = (uint32_t)l->op->in[0]->width * 2};

    if (l->batch->n_logits == l->batch->n_rows) /* as in a step that only decodes */
        return TN_OK;
    *x = l->workspace;
    return hopper_launch(d, l, IMAGE_ROWS, ROWS_GATHER,
                         (struct cuda_grid){.x = l->batch->n_logits, .threads = GATHER_THREADS}, &g,
                         err);
}

uint32_t hopper_note_norm(struct product_norm *norm, uint32_t parts, struct product_params *p)
{
    if (p->finish == PRODUCT_ADD) {
        p->finish = PRODUCT_ADD_NORM;
        norm->parts = parts;
    }
    p->norm = *norm;
    return p->finish == PRODUCT_ADD_NORM ? SKINNY_THREADS : SKINNY_NORM_THREADS;
}

int32_t hopper_product(struct hopper_instance *in, const tn_launch *l, enum product_finish f,
                       struct product_norm *norm, tn_err *err)
{
    uint32_t rows = f == PRODUCT_LOGITS ? l->batch->n_logits : l->batch->n_rows;
    struct plan plan = rows <= SKINNY_ROWS ? plan_few(l->op, f, rows) : plan_many(l->op, f, rows);
    const struct hopper_device *d;
    struct product_params p;
    const void *x = norm && f != PRODUCT_ADD ? norm->rows : l->in[0];
    uint64_t k = l->op->in[0]->width;
    int32_t rc = hopper_find(in, l, &d, err);

    memset(&p, 0, sizeof p);
    p.rows = rows;
    p.k_blocks = cuda_div_up(k, PRODUCT_K);
    p.tiles = plan.tiles;
    p.finish = f;
    p.early = plan.early;
    p.residual = f == PRODUCT_ADD ? l->in[1] : NULL;
    p.scale = (float)tn_op_real(l->op, "scale", 1.0);
    p.softcap = (float)tn_op_real(l->op, "softcap", 0.0);
    if (norm)
        plan.threads = hopper_note_norm(norm, plan.tiles * plan.splits, &p);
    if (plan.image == IMAGE_SKINNY)
        plan.entry =
            skinny_entry(p.finish, SKINNY_NORM, hopper_type(l->op->in[0]), 2, plan.shape, N_SHAPES);
    if (!rc && f == PRODUCT_LOGITS)
        rc = gather(d, l, &x, err);
    if (!rc)
        rc = tensor_map_matrix(d, l->op->in[0]->dtype, x, rows, k, 2 * k, plan.tokens, &p.x, err);
    if (!rc)
        rc = plan_parts(d, l, f, &plan, &p, err);
    if (rc)
        return rc;
    return hopper_launch(d, l, plan.image, plan.entry,
                         (struct cuda_grid){.x = plan.blocks,
                                            .threads = plan.threads,
                                            .cluster = plan.splits,
                                            .shared_bytes = plan.shared_bytes},
                         &p, err);
}

static int32_t logits_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                                uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                tn_err *err)
{
    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = (uint64_t)max_rows * op->in[0]->width * 2;
    return TN_OK;
}

/* -- The variants ------------------------------------------------------------------------------------ */

#define PRODUCT(id, finish, op_name, text, space)                                                  \
    static int32_t id##_can_run(void *instance, const tn_op *op, tn_err *err)                      \
    {                                                                                              \
        (void)instance;                                                                            \
        return hopper_product_check(op, finish, err);                                              \
    }                                                                                              \
    static double id##_cost_ns(void *instance, const tn_op *op, uint32_t rows)                     \
    {                                                                                              \
        (void)instance;                                                                            \
        return hopper_product_cost_ns(op, finish, rows);                                           \
    }                                                                                              \
    static int32_t id##_launch(void *instance, const tn_launch *l, tn_err *err)                    \
    {                                                                                              \
        return hopper_product(instance, l, finish, NULL, err);                                     \
    }                                                                                              \
    const tn_variant hopper_##id = {.h = TN_HDR(tn_variant),                                       \
                                    .name = #id ".wgmma",                                          \
                                    .op = op_name,                                                 \
                                    .equals = text,                                                \
                                    .flags = HOPPER_FLAGS,                                         \
                                    .act_dtypes = HOPPER_FLOATS,                                   \
                                    .weight_dtypes = HOPPER_FLOATS,                                \
                                    .gpus = hopper_gpus,                                           \
                                    .can_run = id##_can_run,                                       \
                                    .cost_ns = id##_cost_ns,                                       \
                                    .workspace = space,                                            \
                                    .launch = id##_launch};

PRODUCT(linear, PRODUCT_STORE, TN_OP_LINEAR, NULL, NULL)
PRODUCT(logits, PRODUCT_LOGITS, TN_OP_LOGITS, NULL, logits_workspace)
PRODUCT(qkv, PRODUCT_STORE, TN_FUSED_QKV, TN_FUSED_QKV_TEXT, NULL)
PRODUCT(gate_silu, PRODUCT_SILU, TN_FUSED_GATE_SILU, TN_FUSED_GATE_SILU_TEXT, NULL)
PRODUCT(gate_gelu, PRODUCT_GELU, TN_FUSED_GATE_GELU, TN_FUSED_GATE_GELU_TEXT, NULL)
PRODUCT(gate_gelu_tanh, PRODUCT_GELU_TANH, TN_FUSED_GATE_GELU_TANH, TN_FUSED_GATE_GELU_TANH_TEXT,
        NULL)
PRODUCT(linear_add, PRODUCT_ADD, TN_FUSED_LINEAR_ADD, TN_FUSED_LINEAR_ADD_TEXT, NULL)
