/* SPDX-License-Identifier: Apache-2.0 */
/* The portable set's ops that go row by row: what they take, what they cost, how they are launched. Threads: set.h. */
#include <stdbool.h>

#include "set.h"

static double rows_bytes(const tn_op *op, uint32_t rows)
{
    double width = 0.0;

    for (uint32_t i = 0; i < op->n_in; i++)
        width += (double)op->in[i]->width;
    for (uint32_t i = 0; i < op->n_out; i++)
        width += (double)op->out[i]->width;
    return 4.0 * width * (double)rows; /* of float32, to be on the safe side */
}

#define ROWS_COST(id)                                                                              \
    double id##_cost_ns(void *instance, const tn_op *op, uint32_t rows)                            \
    {                                                                                              \
        (void)instance;                                                                            \
        return set_time_ns(rows_bytes(op, rows), 0.0, 1.0);                                        \
    }

/* -- Element by element ----------------------------------------------------------------------------------- */

static int32_t check_map(const tn_op *op, uint32_t n_in, tn_err *err)
{
    int fits = cuda_form(op, n_in, 1, 0, 0);

    for (uint32_t i = 0; fits && i < n_in; i++)
        fits = op->in[i]->width == op->out[0]->width;
    return cuda_require(op, fits, "needs float values, equally wide", err);
}

static int32_t launch_map(void *instance, const tn_launch *l, enum map_kind kind, const char *attr,
                          tn_err *err)
{
    const struct set_device *d = set_device_of(instance, l->device);
    const tn_op *op = l->op;
    struct map_args a = {.a = l->in[0],
                         .b = op->n_in > 1 ? l->in[1] : NULL,
                         .y = l->out[0],
                         .n = cuda_rows(l) * op->out[0]->width,
                         .kind = kind,
                         .factor = attr ? (float)tn_op_real(op, attr, 1.0) : 0.0f,
                         .a_dtype = op->in[0]->dtype,
                         .y_dtype = op->out[0]->dtype};
    uint32_t entry = ENTRY_map + cuda_float_index(a.y_dtype);
    uint64_t blocks = cuda_div_up(a.n, 256 * 8);

    a.b_dtype = op->n_in > 1 ? op->in[1]->dtype : a.a_dtype;
    if (a.a_dtype != a.y_dtype || a.b_dtype != a.y_dtype)
        entry = ENTRY_map_any;
    return set_launch(
        d, l, IMAGE_rows, entry,
        (struct cuda_grid){.x = (uint32_t)(blocks < 65535 ? blocks : 65535), .threads = 256}, &a,
        err);
}

#define MAP_OP(id, n_in, kind, attr)                                                               \
    ROWS_COST(id)                                                                                  \
    int32_t id##_can_run(void *instance, const tn_op *op, tn_err *err)                             \
    {                                                                                              \
        (void)instance;                                                                            \
        return check_map(op, n_in, err);                                                           \
    }                                                                                              \
    int32_t id##_launch(void *instance, const tn_launch *l, tn_err *err)                           \
    {                                                                                              \
        return launch_map(instance, l, kind, attr, err);                                           \
    }

MAP_OP(add, 2, MAP_ADD, NULL)
MAP_OP(mul, 2, MAP_MUL, NULL)
MAP_OP(silu, 1, MAP_SILU, NULL)
MAP_OP(gelu, 1, MAP_GELU, NULL)
MAP_OP(gelu_tanh, 1, MAP_GELU_TANH, NULL)
MAP_OP(relu, 1, MAP_RELU, NULL)
MAP_OP(relu2, 1, MAP_RELU2, NULL)
MAP_OP(scale, 1, MAP_SCALE, "factor")
MAP_OP(softcap, 1, MAP_SOFTCAP, "cap")
MAP_OP(silu_mul, 2, MAP_SILU_MUL, NULL)
MAP_OP(gelu_mul, 2, MAP_GELU_MUL, NULL)
MAP_OP(gelu_tanh_mul, 2, MAP_GELU_TANH_MUL, NULL)

/* -- Norms ------------------------------------------------------------------------------------------------- */

static int32_t check_rms_norm(const tn_op *op, const tn_op *norm, tn_err *err)
{
    const tn_weight *w = norm->n_weights == 1 ? norm->weights[0] : NULL;

    return cuda_require(
        op, w && w->dims[0] && cuda_vector(w, w->dims[0]) && op->in[0]->width % w->dims[0] == 0,
        "the width must be a multiple of the weight's", err);
}

static int same_dtypes(const tn_op *op)
{
    for (uint32_t i = 0; i < op->n_in; i++)
        if (op->in[i]->kind != TN_VALUE_KV && op->in[i]->dtype != op->out[0]->dtype)
            return 0;
    for (uint32_t i = 1; i < op->n_out; i++)
        if (op->out[i]->kind != TN_VALUE_KV && op->out[i]->dtype != op->out[0]->dtype)
            return 0;
    return 1;
}

int32_t rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!cuda_form(op, 1, 1, 1, 1) || op->out[0]->width != op->in[0]->width || !same_dtypes(op))
        return cuda_require(op, 0, "needs input and output of one float dtype, equally wide", err);
    return check_rms_norm(op, op, err);
}

int32_t add_rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!cuda_form(op, 2, 2, 1, 1) || op->n_members != 2 || op->in[1]->width != op->in[0]->width ||
        !same_dtypes(op))
        return cuda_require(op, 0, "needs values of one float dtype, equally wide", err);
    return check_rms_norm(op, op->members[1], err);
}

int32_t layer_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!cuda_form(op, 1, 1, 1, 2) || op->out[0]->width != op->in[0]->width || !same_dtypes(op))
        return cuda_require(op, 0, "needs input and output of one float dtype, equally wide", err);
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (!cuda_vector(op->weights[i], op->in[0]->width))
            return cuda_require(op, 0, "weight and bias must be as wide as a row", err);
    return TN_OK;
}

ROWS_COST(rms_norm)
ROWS_COST(add_rms_norm)
ROWS_COST(layer_norm)

static uint32_t norm_threads(uint64_t group)
{
    return group <= 256 ? 32 : group <= 1024 ? 128 : group <= 4096 ? 512 : 1024;
}

/* `norm` is the op that has the weights; `adds`: the launch adds in[1] to in[0] first and writes the sum to out[0]. */
static int32_t launch_norm(void *instance, const tn_launch *l, const tn_op *norm, int adds,
                           uint32_t entry, tn_err *err)
{
    const struct set_device *d = set_device_of(instance, l->device);
    uint64_t width = l->op->in[0]->width, group = norm->weights[0]->dims[0];
    struct norm_args a = {.x = l->in[0],
                          .add = adds ? l->in[1] : NULL,
                          .sum = adds ? l->out[0] : NULL,
                          .y = l->out[adds ? 1 : 0],
                          .w = l->weights[0],
                          .group = group,
                          .groups = width / group,
                          .eps = (float)tn_op_real(norm, "eps", 0.0),
                          .offset = (float)tn_op_real(norm, "offset", 0.0),
                          .w_dtype = norm->weights[0]->dtype};
    struct cuda_grid g = {.x = cuda_rows(l) * (uint32_t)a.groups};

    if (norm->n_weights > 1) {
        a.b = l->weights[1];
        a.b_dtype = norm->weights[1]->dtype;
    }
    g.threads = norm_threads(group);
    return set_launch(d, l, IMAGE_rows, entry + cuda_float_index(l->op->out[0]->dtype), g, &a, err);
}

int32_t rms_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_norm(instance, l, l->op, 0, ENTRY_rms_norm, err);
}

int32_t add_rms_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_norm(instance, l, l->op->members[1], 1, ENTRY_rms_norm, err);
}

int32_t layer_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_norm(instance, l, l->op, 0, ENTRY_layer_norm, err);
}

/* -- Sums over ranks, the residual, and a norm -------------------------------------------------------------- */

static int32_t check_parts(const tn_op *op, uint32_t max_weights, tn_err *err)
{
    return cuda_require(op,
                        cuda_form(op, 2, 2, 1, max_weights) && op->n_members == 3 &&
                            same_dtypes(op) && op->in[0]->width == op->in[1]->width &&
                            op->out[0]->width == op->in[0]->width &&
                            op->out[1]->width == op->in[0]->width,
                        "needs values of one float dtype, equally wide", err);
}

int32_t reduce_add_rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_parts(op, 1, err);

    (void)instance;
    return rc == TN_OK ? check_rms_norm(op, op->members[2], err) : rc;
}

int32_t reduce_add_layer_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_parts(op, 2, err);

    return rc == TN_OK ? layer_norm_can_run(instance, op->members[2], err) : rc;
}

ROWS_COST(reduce_add_rms_norm)
ROWS_COST(reduce_add_layer_norm)

static int32_t launch_parts(void *instance, const tn_launch *l, uint32_t entry, tn_err *err)
{
    const tn_comm_parts *parts = l->parts;
    const tn_op *norm = l->op->members[2];
    uint64_t width = l->op->in[0]->width, group = norm->weights[0]->dims[0];
    uint32_t dtype = l->op->out[0]->dtype;
    uintptr_t bits =
        (uintptr_t)l->in[1] | (uintptr_t)l->out[0] | (uintptr_t)(width * tn_dtype_bits(dtype) / 8);
    struct reduce_norm_args a = {.residual = l->in[1],
                                 .width = width,
                                 .norm = {.x = l->out[0],
                                          .sum = l->out[0],
                                          .y = l->out[1],
                                          .w = l->weights[0],
                                          .group = group,
                                          .groups = width / group,
                                          .eps = (float)tn_op_real(norm, "eps", 0.0),
                                          .offset = (float)tn_op_real(norm, "offset", 0.0),
                                          .w_dtype = norm->weights[0]->dtype}};

    if (!parts || parts->n_parts < 1 || parts->n_parts > TN_SUM_MAX)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s: takes 1 to %d parts", l->op->name,
                          TN_SUM_MAX);
    for (uint32_t i = 0; i < parts->n_parts; i++) {
        a.part[i] = parts->part[i];
        bits |= (uintptr_t)parts->part[i];
    }
    a.n_parts = parts->n_parts;
    a.each = parts->each;
    a.aligned = bits % 16 == 0;
    if (norm->n_weights > 1) {
        a.norm.b = l->weights[1];
        a.norm.b_dtype = norm->weights[1]->dtype;
    }
    return set_launch(
        set_device_of(instance, l->device), l, IMAGE_rows, entry + cuda_float_index(dtype),
        (struct cuda_grid){.x = cuda_rows(l), .threads = norm_threads(group)}, &a, err);
}

int32_t reduce_add_rms_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_parts(instance, l, ENTRY_reduce_rms_norm, err);
}

int32_t reduce_add_layer_norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_parts(instance, l, ENTRY_reduce_layer_norm, err);
}

/* -- Tables ------------------------------------------------------------------------------------------------- */

static int32_t check_table(const tn_op *op, tn_err *err)
{
    return cuda_require(op,
                        cuda_form(op, 0, 1, 1, 1) &&
                            cuda_matrix(op->weights[0], op->weights[0]->dims[0], op->out[0]->width),
                        "needs a table as wide as the output", err);
}

/* `a` has the entries, and what else differs between tokens and positions. A thread moves `run` elements at a time. */
static void set_table(const tn_launch *l, uint32_t run, struct table_args *a)
{
    const tn_weight *w = l->op->weights[0];

    a->table = l->weights[0];
    a->y = l->out[0];
    a->entries = w->dims[0];
    a->stride = w->stride0;
    a->width = l->op->out[0]->width;
    a->table_dtype = w->dtype;
    a->in_place = l->feed || (l->batch->flags & TN_BATCH_CAPTURED);
    a->aligned =
        ((uintptr_t)a->table | (uintptr_t)a->y | w->stride0) % 16 == 0 && a->width % run == 0;
}

static int32_t launch_table(void *instance, const tn_launch *l, uint32_t entry, void *args,
                            tn_err *err)
{
    struct cuda_grid g = {
        .x = cuda_rows(l), .threads = 256, .flags = l->feed ? 0 : TN_LAUNCH_OVERLAP};

    return set_launch(set_device_of(instance, l->device), l, IMAGE_rows,
                      entry + cuda_float_index(l->op->out[0]->dtype), g, args, err);
}

int32_t embedding_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_table(op, err);
}

/* Where it feeds it is the first kernel of a step, and launched so that it begins when all that was ahead has ended, as `feed` is. */
static struct table_args token_table(const tn_launch *l, uint32_t run)
{
    const tn_batch_arrays *b = l->batch->dev;
    struct table_args a = {.entry = (int32_t *)b->tokens,
                           .token_row = l->feed ? b->token_row : NULL,
                           .sampled = l->feed ? b->sampled : NULL,
                           .early = l->feed,
                           .first = tn_op_int(l->op, "vocab_first", 0),
                           .factor = (float)tn_op_real(l->op, "scale", 1.0)};

    set_table(l, run, &a);
    return a;
}

int32_t embedding_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct table_args a = token_table(l, TABLE_RUN);

    return launch_table(instance, l, ENTRY_table, &a, err);
}

int32_t embedding_int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const tn_weight *const *w = op->weights;

    (void)instance;
    if (!cuda_form(op, 0, 1, 3, 3) || w[0]->dtype != TN_DT_I8 || w[0]->n_dims != 2 ||
        w[0]->dims[1] != op->out[0]->width)
        return cuda_require(op, 0, "needs a table of int8 as wide as the output", err);
    return cuda_require(op,
                        w[1]->dtype == TN_DT_F32 && cuda_vector(w[1], w[0]->dims[0]) &&
                            w[2]->dtype == TN_DT_F32 && cuda_vector(w[2], op->out[0]->width),
                        "needs a float32 scale per entry and a float32 factor per column", err);
}

int32_t embedding_int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct table8_args a = {
        .table = token_table(l, TABLE8_RUN), .scale = l->weights[1], .by = l->weights[2]};

    a.table.aligned &= (uintptr_t)a.by % 16 == 0;
    return launch_table(instance, l, ENTRY_table8, &a, err);
}

int32_t position_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_table(op, err);
}

/* A position that the table does not have gives 0: the device cannot refuse it. */
int32_t position_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct table_args a = {.entry = (int32_t *)l->batch->dev->positions,
                           .early = (l->batch->flags & TN_BATCH_CAPTURED) != 0,
                           .first = -tn_op_int(l->op, "offset", 0),
                           .factor = 1.0f};

    set_table(l, TABLE_RUN, &a);
    return launch_table(instance, l, ENTRY_table, &a, err);
}

ROWS_COST(embedding)
ROWS_COST(embedding_int8)
ROWS_COST(position)

/* -- Rope and the cache --------------------------------------------------------------------------------------- */

static int32_t check_rope(const tn_op *op, const tn_op *rope, tn_err *err)
{
    int64_t heads = tn_op_int(rope, "n_heads", 0), dim = tn_op_int(rope, "head_dim", 0);
    int64_t rotary = tn_op_int(rope, "rotary_dim", 0);
    const char *style = tn_op_text(rope, "style", "half");

    if (heads <= 0 || dim <= 0 || (uint64_t)(heads * dim) != rope->in[0]->width ||
        rope->out[0]->width != rope->in[0]->width)
        return cuda_require(op, 0, "the width must be n_heads * head_dim", err);
    if (rotary <= 0 || rotary % 2 || rotary > dim || rotary > 8192 || rope->n_weights != 1 ||
        !cuda_vector(rope->weights[0], (uint64_t)rotary / 2))
        return cuda_require(op, 0, "needs an even rotary_dim and rotary_dim / 2 frequencies", err);
    return cuda_require(op, strcmp(style, "half") == 0 || strcmp(style, "pairs") == 0,
                        "style must be \"half\" or \"pairs\"", err);
}

int32_t rope_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!cuda_form(op, 1, 1, 1, 1) || !same_dtypes(op))
        return cuda_require(op, 0, "needs input and output of one float dtype", err);
    return check_rope(op, op, err);
}

int32_t kv_append_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int64_t width = tn_op_int(op, "n_kv_heads", 0) * tn_op_int(op, "head_dim", 0);

    (void)instance;
    return cuda_require(
        op,
        cuda_form(op, 2, 1, 0, 5) && width > 0 && op->in[0]->width == (uint64_t)width &&
            op->in[1]->width == (uint64_t)width && op->in[0]->dtype == op->in[1]->dtype,
        "keys and values must be n_kv_heads * head_dim wide, of one dtype", err);
}

static int same_rotation(const tn_op *a, const tn_op *b)
{
    static const char *const ints[] = {"head_dim", "rotary_dim", "max_position"};
    static const char *const reals[] = {"mscale", "base", "factor"};

    for (int i = 0; i < 3; i++)
        if (tn_op_int(a, ints[i], 0) != tn_op_int(b, ints[i], 0) ||
            tn_op_real(a, reals[i], 1.0) != tn_op_real(b, reals[i], 1.0))
            return 0;
    return strcmp(tn_op_text(a, "style", "half"), tn_op_text(b, "style", "half")) == 0 &&
           a->weights[0]->dtype == b->weights[0]->dtype;
}

int32_t rope_append_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc;

    (void)instance;
    if (op->n_members != 3 || !cuda_form(op, 3, 2, 2, 7) || !same_dtypes(op))
        return cuda_require(op, 0, "needs values of one float dtype", err);
    if ((rc = check_rope(op, op->members[0], err)) || (rc = check_rope(op, op->members[1], err)) ||
        (rc = kv_append_can_run(instance, op->members[2], err)))
        return rc;
    return cuda_require(op, same_rotation(op->members[0], op->members[1]),
                        "queries and keys are rotated differently", err);
}

int32_t hadamard_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int64_t heads = tn_op_int(op, "n_heads", 0), dim = tn_op_int(op, "head_dim", 0);

    (void)instance;
    return cuda_require(op,
                        cuda_form(op, 1, 1, 0, 0) && same_dtypes(op) && heads > 0 && dim > 0 &&
                            dim <= 8192 && (uint64_t)(heads * dim) == op->in[0]->width &&
                            op->out[0]->width == op->in[0]->width,
                        "needs rows of n_heads * head_dim, of one float dtype", err);
}

int32_t reorder_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return cuda_require(
        op,
        cuda_form(op, 1, 1, 1, 1) && same_dtypes(op) && op->in[0]->width == op->out[0]->width &&
            op->weights[0]->n_dims == 1 && op->weights[0]->dims[0] == op->out[0]->width &&
            op->weights[0]->dtype == TN_DT_I32,
        "needs rows of one width and float dtype, and an int32 for each element", err);
}

ROWS_COST(hadamard)
ROWS_COST(reorder)
ROWS_COST(rope)
ROWS_COST(kv_append)
ROWS_COST(rope_append)

/* What rotates: attributes of `rope`, whose frequencies are the launch's first weight. */
static struct rope_args rope_args(const tn_launch *l, const tn_op *rope)
{
    const tn_batch_arrays *b = l->batch->dev;

    return (struct rope_args){.q = l->in[0],
                              .y = l->out[0],
                              .freqs = l->weights[0],
                              .positions = b->positions,
                              .row_seq = b->row_seq,
                              .prompt_len = b->prompt_len,
                              .row_slot = b->row_slot,
                              .q_width = rope->in[0]->width,
                              .head_dim = (uint32_t)tn_op_int(rope, "head_dim", 1),
                              .rotary_dim = (uint32_t)tn_op_int(rope, "rotary_dim", 0),
                              .pairs = strcmp(tn_op_text(rope, "style", "half"), "pairs") == 0,
                              .freqs_dtype = rope->weights[0]->dtype,
                              .mscale = (float)tn_op_real(rope, "mscale", 1.0),
                              .factor = (float)tn_op_real(rope, "factor", 1.0),
                              .base = tn_op_real(rope, "base", 10000.0),
                              .max_position = tn_op_int(rope, "max_position", 0)};
}

static int32_t launch_shape(void *instance, const tn_launch *l, struct rope_args *a, uint32_t dtype,
                            tn_err *err)
{
    uint32_t dim = a->kv.head_dim, threads = SHAPE_THREADS(dim);
    uint32_t warps = 2 * a->kv.kv_heads * cuda_div_up(a->rows, SHAPE_WARP_ROWS);
    struct cuda_grid g = {.x = cuda_div_up(warps, threads / 32),
                          .threads = threads,
                          .shared_bytes = threads / 32 * SHAPE_WARP_BYTES(dim, a->rotary_dim)};

    return set_launch(set_device_of(instance, l->device), l, IMAGE_rows,
                      ENTRY_shape + cuda_float_index(dtype), g, a, err);
}

/* What is stored with feedback has a kernel of its own, behind that of the queries. */
static int32_t launch_rope(void *instance, const tn_launch *l, struct rope_args *a, uint32_t dtype,
                           tn_err *err)
{
    bool shaped =
        a->k && a->kv.k_feedback && a->kv.dtype == TN_DT_F8E4M3 && a->kv.head_dim <= SHAPE_MAX_DIM;
    struct rope_args rest = *a;
    struct cuda_grid g = {.x = l->batch->n_rows,
                          .threads = ROPE_THREADS,
                          .shared_bytes = a->rotary_dim * (uint32_t)sizeof(float)};
    int32_t rc = TN_OK;

    a->rows = l->batch->n_rows;
    if (shaped)
        rest.k = rest.v = NULL;
    if (rest.q || rest.k)
        rc = set_launch(set_device_of(instance, l->device), l, IMAGE_rows,
                        ENTRY_rope + cuda_float_index(dtype), g, &rest, err);
    return rc == TN_OK && shaped ? launch_shape(instance, l, a, dtype, err) : rc;
}

int32_t rope_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct rope_args a = rope_args(l, l->op);

    return launch_rope(instance, l, &a, l->op->out[0]->dtype, err);
}

int32_t hadamard_launch(void *instance, const tn_launch *l, tn_err *err)
{
    uint32_t dim = (uint32_t)tn_op_int(l->op, "head_dim", 1);
    uint32_t order = tn_hadamard_order(dim), base = tn_hadamard_base(order);
    struct hadamard_args a = {
        .x = l->in[0], .y = l->out[0], .dim = dim, .base = base, .two = order / base};
    struct cuda_grid g = {.x = l->batch->n_rows * (uint32_t)tn_op_int(l->op, "n_heads", 1),
                          .threads = dim <= 128 ? 64 : 256,
                          .shared_bytes = dim * (uint32_t)sizeof(float)};

    tn_hadamard_rows(base, a.negative);
    return set_launch(set_device_of(instance, l->device), l, IMAGE_rows,
                      ENTRY_hadamard + cuda_float_index(l->op->out[0]->dtype), g, &a, err);
}

int32_t reorder_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct reorder_args a = {
        .x = l->in[0], .y = l->out[0], .order = l->weights[0], .width = l->op->out[0]->width};
    struct cuda_grid g = {.x = l->batch->n_rows, .threads = 256};

    return set_launch(set_device_of(instance, l->device), l, IMAGE_rows,
                      ENTRY_reorder + cuda_float_index(l->op->out[0]->dtype), g, &a, err);
}

int32_t kv_append_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_batch_arrays *b = l->batch->dev;
    struct rope_args a = {.k = l->in[0],
                          .v = l->in[1],
                          .positions = b->positions,
                          .row_slot = b->row_slot,
                          .kv = set_kv(l->kv)};

    return launch_rope(instance, l, &a, l->op->in[0]->dtype, err);
}

int32_t rope_append_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct rope_args a = rope_args(l, l->op->members[0]);

    if (l->weights[0] != l->weights[1]) { /* tables of their own: one launch for each */
        int32_t rc = launch_rope(instance, l, &a, l->op->in[0]->dtype, err);
        if (rc != TN_OK)
            return rc;
        a.q = NULL;
        a.freqs = l->weights[1];
    }
    a.k = l->in[1];
    a.v = l->in[2];
    a.kv = set_kv(l->kv);
    return launch_rope(instance, l, &a, l->op->in[0]->dtype, err);
}

/* -- Tokens of the step ahead ----------------------------------------------------------------------------------- */

int32_t feed_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return cuda_require(op, op->n_in == 0 && op->n_out == 0 && op->n_weights == 0,
                        "has no inputs, outputs or weights", err);
}

ROWS_COST(feed)

/* Without TN_LAUNCH_OVERLAP: as the first kernel of a step it begins when the arrays are in place, so that it may let the next begin
 * at once. */
int32_t feed_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_batch_arrays *b = l->batch->dev;
    struct feed_args a = {(int32_t *)b->tokens, b->token_row, b->sampled, l->batch->n_rows};

    return set_launch(set_device_of(instance, l->device), l, IMAGE_rows, ENTRY_feed,
                      (struct cuda_grid){.x = cuda_div_up(a.rows, 256), .threads = 256}, &a, err);
}

/* -- Bandwidth ------------------------------------------------------------------------------------------------ */

int32_t read_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return cuda_require(op, op->n_in == 1 && op->n_out == 1 && op->in[0]->width % 16 == 0,
                        "reads one row of a multiple of 16 bytes", err);
}

double read_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    (void)rows;
    return set_time_ns((double)op->in[0]->width, 0, 1);
}

int32_t read_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct read_args a = {l->in[0], l->op->in[0]->width / 16, l->out[0]};

    /* More blocks than any chip runs at once, each with enough to do: their starts and ends average out. */
    return set_launch(set_device_of(instance, l->device), l, IMAGE_rows, ENTRY_stream_read,
                      (struct cuda_grid){.x = 1024, .threads = 512}, &a, err);
}

/* -- Dummy weights ----------------------------------------------------------------------------------------------- */

int32_t dummy_can_run(void *instance, const tn_op *op, tn_err *err)
{
    uint32_t made = TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16) |
                    TN_DT_BIT(TN_DT_F8E4M3) | TN_DT_BIT(TN_DT_I8);

    (void)instance;
    return cuda_require(op,
                        op->n_out == 1 && (made & TN_DT_BIT(op->out[0]->dtype)) &&
                            tn_op_int(op, "row", 0) > 0 && tn_op_int(op, "count", -1) >= 0,
                        "makes float32, float16, bfloat16, float8_e4m3 and int8", err);
}

double dummy_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    (void)rows;
    return set_time_ns((double)tn_op_int(op, "count", 0) * 2, 0, 1);
}

int32_t dummy_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct dummy_args a = {.y = l->out[0],
                           .seed = (uint64_t)tn_op_int(l->op, "seed", 0),
                           .first = (uint64_t)tn_op_int(l->op, "first", 0),
                           .row = (uint64_t)tn_op_int(l->op, "row", 1),
                           .stride = (uint64_t)tn_op_int(l->op, "stride", 1),
                           .count = (uint64_t)tn_op_int(l->op, "count", 0),
                           .role = (uint32_t)tn_op_int(l->op, "role", 0),
                           .dtype = l->op->out[0]->dtype};
    uint64_t blocks = (a.count + 1023) / 1024;

    return set_launch(
        set_device_of(instance, l->device), l, IMAGE_rows, ENTRY_dummy_weight,
        (struct cuda_grid){.x = blocks < 2048 ? (uint32_t)blocks : 2048, .threads = 256}, &a, err);
}
