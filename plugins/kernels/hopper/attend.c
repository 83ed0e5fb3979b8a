/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over the paged cache, alone and with the rotation and append before it. Steps in which every sequence has one
 * row take one launch, which also rotates and appends; in others rows read what rows of the same step append, so
 * that is a launch of its own.
 */
#include <stdbool.h>
#include <string.h>

#include "hopper.h"

/* Prior of the time. */
#define BYTES_PER_NS 2800.0
#define LAUNCH_NS 3000.0
#define GUESSED_CONTEXT 1024 /* tokens: costs are not told */

#define PREFILL_THREADS 384
#define PREFILL_TILE 128 /* rows, and tokens */

/* From so many rows of a sequence on, a tile of them is worth while. */
#define PREFILL_FROM 16

#define NAME_BF16(dim, stages, blocks) "decode_bf16_" #dim "x" #stages,
#define NAME_F16(dim, stages, blocks) "decode_f16_" #dim "x" #stages,
#define SHAPE(dim, stages, blocks) {dim, stages, blocks},

static const struct decode_shape {
    uint32_t dim, stages, blocks; /* blocks: of a multiprocessor */
} decode_shapes[] = {DECODE_SHAPES(SHAPE)};

static const struct decode_shape decode8_shapes[] = {DECODE8_SHAPES(SHAPE)};

#define N_DECODE8_SHAPES ((uint32_t)(sizeof decode8_shapes / sizeof *decode8_shapes))
#define N_DECODE_SHAPES ((uint32_t)(sizeof decode_shapes / sizeof *decode_shapes))

const char *const decode_entries[] = {DECODE_SHAPES(NAME_BF16) DECODE_SHAPES(NAME_F16)};
const uint32_t n_decode_entries = 2 * N_DECODE_SHAPES;
#define NAME_FP8_BF16(dim, stages, blocks) "decode_fp8_bf16_" #dim "x" #stages,
#define NAME_FP8_F16(dim, stages, blocks) "decode_fp8_f16_" #dim "x" #stages,
#define NAME_INT8_BF16(dim, stages, blocks) "decode_int8_bf16_" #dim "x" #stages,
#define NAME_INT8_F16(dim, stages, blocks) "decode_int8_f16_" #dim "x" #stages,

#define BESIDE_BF16(dim, stages, blocks) "decode_fp8_bf16_" #dim "x" #stages "_beside",
#define BESIDE_F16(dim, stages, blocks) "decode_fp8_f16_" #dim "x" #stages "_beside",
#define WITHIN_BF16(dim, stages, blocks) "decode_fp8_bf16_" #dim "x" #stages "_within",
#define WITHIN_F16(dim, stages, blocks) "decode_fp8_f16_" #dim "x" #stages "_within",

/* By cache and dtype of the rows, then by shape; behind those that store to the nearest those of decode_storing, of e4m3 alone. */
const char *const decode8_entries[] = {
    DECODE8_SHAPES(NAME_FP8_BF16) DECODE8_SHAPES(NAME_FP8_F16) DECODE8_SHAPES(NAME_INT8_BF16)
        DECODE8_SHAPES(NAME_INT8_F16) DECODE8_SHAPES(BESIDE_BF16) DECODE8_SHAPES(BESIDE_F16)
            DECODE8_SHAPES(WITHIN_BF16) DECODE8_SHAPES(WITHIN_F16)};
const uint32_t n_decode8_entries = 8 * N_DECODE8_SHAPES;
const char *const prefill_entries[] = {"prefill_bf16_128", "prefill_bf16_64", "prefill_f16_128",
                                       "prefill_f16_64"};
const uint32_t n_prefill_entries = 4;
const char *const prefill8_entries[] = {
    "prefill_fp8_bf16_128",  "prefill_fp8_bf16_64",  "prefill_fp8_f16_128",  "prefill_fp8_f16_64",
    "prefill_int8_bf16_128", "prefill_int8_bf16_64", "prefill_int8_f16_128", "prefill_int8_f16_64"};
const uint32_t n_prefill8_entries = 8;

/* -- What an op asks for ------------------------------------------------------------------------- */

/* The ops in question; rope and append are NULL for attention alone, turn unless heads are multiplied by the Hadamard matrix. */
struct asked {
    const tn_op *rope_q, *rope_k, *append, *attention, *turn_q, *turn_k;
};

static struct asked asked_of(const tn_op *op)
{
    struct asked a = {.attention = op};

    if (op->n_members == 4)
        a = (struct asked){op->members[0], op->members[1], op->members[2],
                           op->members[3], NULL,           NULL};
    if (op->n_members == 6)
        a = (struct asked){op->members[0], op->members[2], op->members[4],
                           op->members[5], op->members[1], op->members[3]};
    return a;
}

static int32_t check_attention(const tn_op *op, uint64_t q_width, uint64_t out_width, tn_err *err)
{
    int64_t heads = tn_op_int(op, "n_heads", 0), kv_heads = tn_op_int(op, "n_kv_heads", 0);
    int64_t dim = tn_op_int(op, "head_dim", 0);

    if ((dim != 64 && dim != 128) || heads <= 0 || kv_heads <= 0 || heads % kv_heads ||
        heads > 4096)
        return cuda_require(op, 0, "needs heads of 64 or 128 elements in whole groups", err);
    if (tn_op_int(op, "window", 0) < 0 || tn_op_int(op, "window", 0) > INT32_MAX)
        return cuda_require(op, 0, "the window is out of range", err);
    return cuda_require(op, q_width == (uint64_t)(heads * dim) && out_width == q_width,
                        "its rows must be n_heads * head_dim wide", err);
}

static int32_t check_rope(const tn_op *op, int64_t heads, int64_t dim, tn_err *err)
{
    int64_t rotary = tn_op_int(op, "rotary_dim", 0);
    const char *style = tn_op_text(op, "style", "half");

    if (tn_op_int(op, "n_heads", 0) != heads || tn_op_int(op, "head_dim", 0) != dim ||
        rotary <= 0 || rotary % 2 || rotary > dim)
        return cuda_require(op, 0, "its heads are not those of the attention", err);
    if (tn_op_int(op, "max_position", 0) > 0)
        return cuda_require(op, 0, "scaling that depends on the length is not for this kernel",
                            err);
    if (op->n_weights != 1 || !cuda_vector(op->weights[0], (uint64_t)rotary / 2) ||
        op->weights[0]->dtype != TN_DT_F32)
        return cuda_require(op, 0, "needs float32 frequencies", err);
    return cuda_require(op, strcmp(style, "half") == 0 || strcmp(style, "pairs") == 0,
                        "style must be \"half\" or \"pairs\"", err);
}

/* Whole heads are rotated before they are multiplied: a warp has them in pairs. */
static int32_t check_turn(const tn_op *op, const tn_op *rope, int64_t dim, tn_err *err)
{
    return cuda_require(
        op, !op || (tn_op_int(op, "head_dim", 0) == dim && tn_op_int(rope, "rotary_dim", 0) == dim),
        "its heads are not those of the attention, or not rotated as a whole", err);
}

static int32_t attention_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!cuda_form(op, 2, 1, 0, 0))
        return cuda_require(op, 0, "wrong number of inputs, outputs or weights", err);
    return check_attention(op, op->in[0]->width, op->out[0]->width, err);
}

static int32_t rope_attention_can_run(void *instance, const tn_op *op, tn_err *err)
{
    struct asked a = asked_of(op);
    int64_t heads, kv_heads, dim;
    int32_t rc;

    (void)instance;
    if (!a.append || !cuda_form(op, 3, 1, 2, 7))
        return cuda_require(op, 0, "wrong number of inputs, outputs or weights", err);
    heads = tn_op_int(a.attention, "n_heads", 0);
    kv_heads = tn_op_int(a.attention, "n_kv_heads", 0);
    dim = tn_op_int(a.attention, "head_dim", 0);
    if ((rc = check_attention(a.attention, op->in[0]->width, op->out[0]->width, err)) ||
        (rc = check_rope(a.rope_q, heads, dim, err)) ||
        (rc = check_rope(a.rope_k, kv_heads, dim, err)) ||
        (rc = check_turn(a.turn_q, a.rope_q, dim, err)) ||
        (rc = check_turn(a.turn_k, a.rope_k, dim, err)))
        return rc;
    return cuda_require(op,
                        op->in[1]->width == (uint64_t)(kv_heads * dim) &&
                            op->in[2]->width == op->in[1]->width &&
                            tn_op_int(a.append, "n_kv_heads", 0) == kv_heads &&
                            tn_op_int(a.append, "head_dim", 0) == dim,
                        "keys and values must be n_kv_heads * head_dim wide", err);
}

/* -- Launching ------------------------------------------------------------------------------------- */

static struct rope_params rope_of(const tn_op *op, const void *freqs, const tn_op *turn)
{
    if (!op)
        return (struct rope_params){.freqs = NULL};
    return (struct rope_params){.freqs = freqs,
                                .rotary = (uint32_t)tn_op_int(op, "rotary_dim", 0),
                                .pairs = strcmp(tn_op_text(op, "style", "half"), "pairs") == 0,
                                .hadamard = turn != NULL,
                                .mscale = (float)tn_op_real(op, "mscale", 1.0)};
}

static struct attention_params params_of(const tn_launch *l, const struct asked *a)
{
    const tn_batch_arrays *b = l->batch->dev;
    uint32_t heads = (uint32_t)tn_op_int(a->attention, "n_heads", 1);
    uint32_t kv_heads = (uint32_t)tn_op_int(a->attention, "n_kv_heads", 1);

    return (struct attention_params){
        .q = l->in[0],
        .out = l->out[0],
        .keys = l->kv->base,
        .k_scale = l->kv->k_scale,
        .v_scale = l->kv->v_scale,
        .k_center = l->kv->k_center,
        .positions = b->positions,
        .row_seq = b->row_seq,
        .first_row = b->first_row,
        .context = b->context,
        .block_table = b->block_table,
        .row_slot = b->row_slot,
        .block_bytes = l->kv->block_bytes,
        .max_blocks = l->batch->max_blocks,
        .block_tokens = l->batch->block_tokens,
        .heads = heads,
        .kv_heads = kv_heads,
        .group = heads / kv_heads,
        .subgroups = (heads / kv_heads + 7) / 8,
        .rows = l->batch->n_rows,
        .seqs = l->batch->n_seqs,
        .window = (uint32_t)tn_op_int(a->attention, "window", 0),
        .scale = (float)tn_op_real(a->attention, "scale", 1.0),
        .softcap = (float)tn_op_real(a->attention, "softcap", 0.0),
    };
}

/* 0 for a cache in the rows' dtype, 1 for e4m3, 2 for int8: the order of entries. */
static uint32_t cells_of(const tn_launch *l)
{
    return l->kv->dtype == TN_DT_F8E4M3 ? 1 : l->kv->dtype == TN_DT_I8 ? 2 : 0;
}

/* Who stores keys and values with feedback: a block for each item, `cluster` by `cluster`. A block loads a table for its rows, so that
 * there are no more items than `slots`, the blocks that run at once, or than have rows for each warp. */
static struct shaping shaping_of(const tn_launch *l, uint32_t slots, uint32_t cluster)
{
    uint32_t sides = 2 * l->kv->n_kv_heads, rows = l->batch->n_rows;
    uint32_t chunks = slots / sides ? slots / sides : 1;
    struct shaping s = {.k = l->kv->k_feedback_f16, .v = l->kv->v_feedback_f16};

    if (!s.k || l->kv->dtype != TN_DT_F8E4M3 || rows == 0)
        return (struct shaping){.rows = 1};
    s.rows = cuda_div_up(rows, chunks * SHAPE_ROWS) * SHAPE_ROWS;
    s.items = sides * cuda_div_up(rows, s.rows);
    s.blocks = cuda_div_up(s.items, cluster) * cluster;
    return s;
}

/* They begin first where all blocks run at once; where not, last, in the places of blocks that end early. In front they would keep
 * blocks that have more to do from beginning with the others. */
static void place_shaping(struct shaping *s, uint32_t slots, uint32_t attending)
{
    s->first = s->blocks + attending <= slots ? 0 : attending;
}

/* Of a single row no blocks of their own, for which attention's would have to wait, but a warp each of two of the blocks that share an
 * item in eights, which have no part in merging it. */
static bool shapes_beside(const struct attention_params *p, uint32_t splits)
{
    return p->shaping.blocks && p->rows == 1 && splits == 8;
}

static int32_t append(const struct hopper_device *d, const tn_launch *l, const struct asked *a,
                      struct attention_params *p, tn_err *err)
{
    struct append_params x = {.q = p->q,
                              .k = l->in[1],
                              .v = l->in[2],
                              .out = l->workspace,
                              .keys = p->keys,
                              .k_scale = p->k_scale,
                              .v_scale = p->v_scale,
                              .k_center = p->k_center,
                              .rope_q = rope_of(a->rope_q, l->weights[0], a->turn_q),
                              .rope_k = rope_of(a->rope_k, l->weights[1], a->turn_k),
                              .positions = p->positions,
                              .row_slot = p->row_slot,
                              .block_bytes = p->block_bytes,
                              .block_tokens = p->block_tokens,
                              .heads = p->heads,
                              .kv_heads = p->kv_heads,
                              .head_dim = l->kv->head_dim,
                              .rows = p->rows,
                              .shaping = shaping_of(l, SHAPE_BLOCKS * HOPPER_UNITS, 1)};
    uint32_t type = hopper_type(l->op->in[0]), dim = l->kv->head_dim;
    int32_t rc;

    p->q = l->workspace;
    if (x.shaping.blocks)
        x.turned = (char *)l->workspace + (uint64_t)p->rows * l->op->in[0]->width * 2;
    rc = hopper_launch(d, l, IMAGE_ROWS, ROWS_APPEND + 2 * cells_of(l) + type,
                       (struct cuda_grid){.x = p->rows, .threads = APPEND_THREADS}, &x, err);
    if (rc || !x.shaping.blocks)
        return rc;
    x.k = x.turned;
    return hopper_launch(d, l, IMAGE_ROWS, ROWS_SHAPE + 2 * type + (dim == 64),
                         (struct cuda_grid){.x = x.shaping.blocks,
                                            .threads = SHAPE_THREADS,
                                            .shared_bytes = SHAPE_BYTES(dim, 2)},
                         &x, err);
}

/* Blocks that share an item: enough to use the memory's bandwidth, but each with some tiles, and with room beside them for
 * blocks of the next kernel, which begin to load while these end. Measured as the shapes of products.c were. */
static uint32_t choose_splits(const tn_launch *l, uint32_t items)
{
    uint32_t most = cells_of(l) ? 32 : 16; /* of a cache of 8 bits blocks need less room */
    uint32_t splits = items <= most ? 8 : items <= 32 ? 4 : items <= 128 ? 2 : 1;
    uint32_t tiles = cuda_div_up(l->batch->max_context, DECODE_TILE);

    while (splits > 1 && splits > tiles)
        splits /= 2;
    return splits;
}

/* The kernel for heads of `dim` in so many blocks: the one with the shorter ring, if there is one, for more than run at once, and for
 * more than one per multiprocessor that share items in eights, which have little to read, so that blocks of the next kernel have room
 * beside them. */
static uint32_t choose_decode(const struct decode_shape *shapes, uint32_t n, uint32_t dim,
                              uint32_t blocks, uint32_t splits)
{
    uint32_t shape = 0;

    while (shapes[shape].dim != dim)
        shape++;
    if (blocks > (splits == 8 ? 1 : 2) * HOPPER_UNITS && shape + 1 < n &&
        shapes[shape + 1].dim == dim)
        shape++;
    return shape;
}

/* Of the cache in the rows' dtype or of 8 bits: an image each, with entries by cache, dtype and shape. */
static int32_t decode(const struct hopper_device *d, const tn_launch *l, struct attention_params *p,
                      tn_err *err)
{
    uint32_t dim = l->kv->head_dim, cells = cells_of(l), kind = hopper_type(l->op->in[0]);
    uint32_t items = p->rows * p->kv_heads * p->subgroups, splits = choose_splits(l, items);
    uint32_t n_shapes = cells ? N_DECODE8_SHAPES : N_DECODE_SHAPES;
    const struct decode_shape *shapes = cells ? decode8_shapes : decode_shapes;
    uint32_t element = cells ? 1 : 2, shape, slots, stages, shared, storing;
    uint32_t box = p->block_tokens < DECODE_TILE ? p->block_tokens : DECODE_TILE;
    int32_t rc = cells ? tensor_map_cache8(d, l->kv, box, &p->cache, err)
                       : tensor_map_cache(d, l->kv, box, &p->cache, err);

    while (1u << p->box_shift < box)
        p->box_shift++;
    if (rc)
        return rc;
    shape = choose_decode(shapes, n_shapes, dim, items * splits, splits);
    slots = shapes[shape].blocks * HOPPER_UNITS;
    if (p->k)
        p->shaping = shaping_of(l, slots, splits);
    if (shapes_beside(p, splits))
        p->shaping.items = p->shaping.blocks = 0;
    place_shaping(&p->shaping, slots, items * splits);
    storing = p->shaping.blocks ? DECODE_BESIDE : p->shaping.k ? DECODE_WITHIN : DECODE_NEAREST;
    kind += storing ? 2 + 2 * storing : cells ? 2 * (cells - 1) : 0;
    stages = shapes[shape].stages;
    shared = stages * (DECODE_TILE * dim * 2 * element + 16) + 8 * (dim + 8) * 2 +
             2 * dim * element + 16;
    if (splits > 1)
        shared = DECODE_BEHIND(shared) + DECODE_SENT(dim);
    if (p->shaping.blocks && shared < SHAPE_BYTES(dim, 1))
        shared = SHAPE_BYTES(dim, 1);
    if (storing == DECODE_WITHIN)
        shared = SHAPE_BEHIND(shared) + SHAPE_ONE(dim);
    return hopper_launch(d, l, cells ? IMAGE_DECODE8 : IMAGE_DECODE, kind * n_shapes + shape,
                         (struct cuda_grid){.x = items * splits + p->shaping.blocks,
                                            .threads = DECODE_THREADS,
                                            .cluster = splits,
                                            .shared_bytes = shared},
                         p, err);
}

/* Of either cache: tiles of 16 bits, and before them, of a cache of 8 bits, such as it has them. */
static int32_t prefill(const struct hopper_device *d, const tn_launch *l,
                       struct attention_params *p, tn_err *err)
{
    uint32_t dim = l->kv->head_dim, cells = cells_of(l), type = hopper_type(l->op->in[0]);
    uint32_t box = p->block_tokens < PREFILL_TILE ? p->block_tokens : PREFILL_TILE;
    uint32_t shared = PREFILL_TILE * dim * 2 * (1 + 2 * PREFILL_STAGES) + 256;
    uint32_t entry = (cells ? 2 * (cells - 1) + type : type) * 2 + (dim == 64);
    int32_t rc = cells ? tensor_map_pages8(d, l->kv, box, &p->cache, err)
                       : tensor_map_pages(d, l->kv, box, &p->cache, err);

    if (cells)
        shared += PREFILL8_SLOTS * PREFILL_TILE * dim;
    if (!rc)
        rc = tensor_map_matrix(d, l->op->in[0]->dtype, p->q, p->rows, (uint64_t)p->heads * dim,
                               2ull * p->heads * dim, 64, &p->query, err);
    while (1u << p->box_shift < box)
        p->box_shift++;
    if (rc)
        return rc;
    return hopper_launch(d, l, cells ? IMAGE_PREFILL8 : IMAGE_PREFILL, entry,
                         (struct cuda_grid){.x = p->heads,
                                            .y = p->rows / PREFILL_TILE + p->seqs,
                                            .threads = PREFILL_THREADS,
                                            .shared_bytes = shared},
                         p, err);
}

/* The copy engine writes boxes of 128 bytes or more: pages of a token of 64 are left to the kernel for single rows. */
static int takes_tiles(const tn_launch *l)
{
    return l->batch->max_rows_per_seq >= PREFILL_FROM &&
           (!cells_of(l) || l->batch->block_tokens * l->kv->head_dim >= 128);
}

static int32_t attend_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct asked a = asked_of(l->op);
    struct attention_params p;
    const struct hopper_device *d;
    int32_t rc = hopper_find(instance, l, &d, err);

    if (!l->kv) /* whoever measures ops alone has none to give */
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s: launched without a cache", l->op->name);
    p = params_of(l, &a);
    if (!rc && a.append && l->batch->max_rows_per_seq > 1) {
        rc = append(d, l, &a, &p, err);
    } else if (a.append) {
        p.k = l->in[1];
        p.v = l->in[2];
        p.rope_q = rope_of(a.rope_q, l->weights[0], a.turn_q);
        p.rope_k = rope_of(a.rope_k, l->weights[1], a.turn_k);
    }
    if (rc)
        return rc;
    if (takes_tiles(l))
        return prefill(d, l, &p, err);
    return decode(d, l, &p, err);
}

static double cost_of(const tn_op *op, uint32_t rows, double bytes)
{
    const tn_op *a = asked_of(op).attention;
    double width = (double)(tn_op_int(a, "n_kv_heads", 1) * tn_op_int(a, "head_dim", 64));

    return LAUNCH_NS + 2.0 * bytes * width * GUESSED_CONTEXT * rows / BYTES_PER_NS;
}

static double attend_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return cost_of(op, rows, 2.0);
}

static double attend8_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return cost_of(op, rows, 1.0);
}

/* Of steps in which a sequence has several rows: rotated queries, */
static int32_t attend_workspace(void *instance, const tn_op *op, uint32_t max_rows,
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

/* and rotated keys, if they are stored with feedback. */
static int32_t attend8_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                                 uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                 tn_err *err)
{
    int32_t rc = attend_workspace(instance, op, max_rows, max_seqs, max_context, bytes, err);

    *bytes += (uint64_t)max_rows * op->in[1]->width * 2;
    return rc;
}

/* -- The variants ------------------------------------------------------------------------------------ */

/* The cache is kept in the activations' dtype, or in 8 bits of either kind. */
#define ATTEND(id, kind, prefix, suffix, dt, kv, cost, op_name, text, space)                       \
    const tn_variant hopper_##id = {.h = TN_HDR(tn_variant),                                       \
                                    .name = prefix "." suffix ".hopper",                           \
                                    .op = op_name,                                                 \
                                    .equals = text,                                                \
                                    .flags = HOPPER_FLAGS,                                         \
                                    .act_dtypes = TN_DT_BIT(dt),                                   \
                                    .kv_dtypes = (kv),                                             \
                                    .kv_layout = TN_KV_LAYOUT_HND,                                 \
                                    .gpus = hopper_gpus,                                           \
                                    .can_run = kind##_can_run,                                     \
                                    .cost_ns = cost,                                               \
                                    .workspace = space,                                            \
                                    .launch = attend_launch};
#define ALONE(id, suffix, dt, kv, cost)                                                            \
    ATTEND(attention_##id, attention, "attention", suffix, dt, kv, cost, TN_OP_ATTENTION, NULL,    \
           NULL)
#define FUSED(id, suffix, dt, kv, kind)                                                            \
    ATTEND(rope_attention_##id, rope_attention, TN_FUSED_ROPE_ATTENTION, suffix, dt, kv,           \
           kind##_cost_ns, TN_FUSED_ROPE_ATTENTION, TN_FUSED_ROPE_ATTENTION_TEXT,                  \
           kind##_workspace)                                                                       \
    ATTEND(rope_hadamard_attention_##id, rope_attention, TN_FUSED_ROPE_HADAMARD_ATTENTION, suffix, \
           dt, kv, kind##_cost_ns, TN_FUSED_ROPE_HADAMARD_ATTENTION,                               \
           TN_FUSED_ROPE_HADAMARD_ATTENTION_TEXT, kind##_workspace)
#define BOTH(id, suffix, dt, kv, kind)                                                             \
    ALONE(id, suffix, dt, kv, kind##_cost_ns) FUSED(id, suffix, dt, kv, kind)

BOTH(bf16, "bf16", TN_DT_BF16, TN_DT_BIT(TN_DT_BF16), attend)
BOTH(f16, "f16", TN_DT_F16, TN_DT_BIT(TN_DT_F16), attend)
BOTH(kv8_bf16, "kv8.bf16", TN_DT_BF16, CUDA_KV8, attend8)
BOTH(kv8_f16, "kv8.f16", TN_DT_F16, CUDA_KV8, attend8)
