/* SPDX-License-Identifier: Apache-2.0 */
/* The portable set's attention, mixture of experts, and sampling. Threads: set.h. */
#include "../common/experts.h"
#include "device.h"
#include "set.h"

/* -- Attention ---------------------------------------------------------------------------------------------- */

#define MAX_HEAD_DIM 256
#define GUESSED_CONTEXT 1024 /* tokens, for costs: they are not told */

int32_t attention_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int64_t heads = tn_op_int(op, "n_heads", 0), kv_heads = tn_op_int(op, "n_kv_heads", 0);
    int64_t dim = tn_op_int(op, "head_dim", 0);

    (void)instance;
    if (!cuda_form(op, 2, 1, 0, 0) || op->in[0]->dtype != op->out[0]->dtype)
        return cuda_require(op, 0, "needs queries and an output of one float dtype", err);
    if (heads <= 0 || kv_heads <= 0 || heads % kv_heads || heads > 65535)
        return cuda_require(op, 0, "n_heads must be a multiple of n_kv_heads", err);
    if (dim <= 0 || dim > MAX_HEAD_DIM)
        return cuda_require(op, 0, "takes head sizes up to 256", err);
    return cuda_require(op,
                        op->in[0]->width == (uint64_t)(heads * dim) &&
                            op->out[0]->width == (uint64_t)(heads * dim),
                        "query and output must be n_heads * head_dim wide", err);
}

double attention_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    double work = (double)op->in[0]->width * GUESSED_CONTEXT * (double)rows;

    (void)instance;
    return set_time_ns(0.0, 4.0 * work, 1e3);
}

int32_t attention_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_batch_arrays *b = l->batch->dev;
    const tn_op *op = l->op;
    struct attention_args a = {.q = l->in[0],
                               .y = l->out[0],
                               .kv = set_kv(l->kv),
                               .positions = b->positions,
                               .row_seq = b->row_seq,
                               .context = b->context,
                               .block_table = b->block_table,
                               .heads = (uint32_t)tn_op_int(op, "n_heads", 1),
                               .max_blocks = l->batch->max_blocks,
                               .window = tn_op_int(op, "window", 0),
                               .scale = (float)tn_op_real(op, "scale", 1.0),
                               .softcap = (float)tn_op_real(op, "softcap", 0.0)};
    struct cuda_grid g = {
        .x = l->batch->n_rows ? a.heads : 0, .y = l->batch->n_rows, .threads = 128};

    return set_launch(set_device_of(instance, l->device), l, IMAGE_attention,
                      ENTRY_attention + cuda_float_index(op->in[0]->dtype), g, &a, err);
}

/* -- Mixture of experts --------------------------------------------------------------------------------------- */

int32_t moe_route_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const char *norm = tn_op_text(op, "norm", "softmax_topk");
    int64_t k = tn_op_int(op, "top_k", 0);

    (void)instance;
    if (op->n_in != 1 || op->n_out != 2 || op->n_weights != 0 || !cuda_is_float(op->in[0]->dtype) ||
        op->out[0]->dtype != TN_DT_I32 || op->out[1]->dtype != TN_DT_F32)
        return cuda_require(op, 0, "outputs must be int32 and float32", err);
    if (k <= 0 || (uint64_t)k > op->in[0]->width || op->out[0]->width != (uint64_t)k ||
        op->out[1]->width != (uint64_t)k)
        return cuda_require(op, 0, "outputs must be top_k wide, top_k at most the experts", err);
    return cuda_require(op,
                        strcmp(norm, "softmax_topk") == 0 || strcmp(norm, "softmax") == 0 ||
                            strcmp(norm, "softmax_renorm") == 0,
                        "norm must be \"softmax_topk\", \"softmax\" or \"softmax_renorm\"", err);
}

double moe_route_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return set_time_ns(4.0 * (double)op->in[0]->width * (double)rows, 0.0, 1.0);
}

int32_t moe_route_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const char *norm = tn_op_text(l->op, "norm", "softmax_topk");
    struct route_args a = {.x = l->in[0],
                           .chosen = l->out[0],
                           .p = l->out[1],
                           .experts = (uint32_t)l->op->in[0]->width,
                           .top_k = (uint32_t)l->op->out[0]->width,
                           .over_all = strcmp(norm, "softmax") == 0,
                           .rows = l->batch->n_rows};

    return set_launch(set_device_of(instance, l->device), l, IMAGE_moe,
                      ENTRY_route + cuda_float_index(l->op->in[0]->dtype),
                      (struct cuda_grid){.x = cuda_div_up(a.rows, 4), .threads = 128}, &a, err);
}

static int act_kind(const char *name)
{
    static const struct {
        const char *name;
        int kind;
    } acts[] = {{TN_OP_SILU, MAP_SILU},
                {TN_OP_GELU, MAP_GELU},
                {TN_OP_GELU_TANH, MAP_GELU_TANH},
                {TN_OP_RELU, MAP_RELU},
                {TN_OP_RELU2, MAP_RELU2}};

    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(acts[i].name, name) == 0)
            return acts[i].kind;
    return -1;
}

/* 0 for int8, 1 for e4m3, 2 for int4; -1 for floats and what else there is. */
static int few_bits(uint32_t dtype)
{
    return dtype == TN_DT_I8 ? 0 : dtype == TN_DT_F8E4M3 ? 1 : dtype == TN_DT_I4 ? 2 : -1;
}

int32_t moe_mlp_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const char *fault = experts_fault(op);
    uint32_t dtype;
    int alike;

    (void)instance;
    if (fault)
        return cuda_require(op, 0, fault, err);
    dtype = op->weights[0]->dtype;
    alike = op->weights[1]->dtype == dtype && op->weights[2]->dtype == dtype;
    if (!alike || (few_bits(dtype) < 0 && cuda_float_index(dtype) > 2))
        return cuda_require(op, 0, "weights must be of one dtype that it knows", err);
    if (!cuda_is_float(op->in[0]->dtype) || op->in[0]->dtype != op->out[0]->dtype)
        return cuda_require(op, 0, "rows must be of one float dtype", err);
    return cuda_require(op, act_kind(tn_op_text(op, "act", TN_OP_SILU)) >= 0, "unknown activation",
                        err);
}

double moe_mlp_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    double work = 3.0 * (double)op->in[0]->width * (double)op->weights[0]->dims[1] *
                  (double)op->in[1]->width * (double)rows;

    (void)instance;
    return set_time_ns(work * tn_dtype_bits(op->weights[0]->dtype) / 8.0, 2.0 * work, 2e3) + 3000.0;
}

/* Rows are taken in runs, so that the hidden rows of a run fit into a workspace of bounded size. */
#define MOE_RUN 256

int32_t moe_mlp_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                          uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = (max_rows < MOE_RUN ? max_rows : MOE_RUN) * op->in[1]->width *
             op->weights[0]->dims[1] * sizeof(float);
    return TN_OK;
}

static struct moe_stack stack_of(const tn_launch *l, uint32_t i)
{
    const tn_weight *const *w = l->op->weights;
    struct moe_stack s = {
        .w = l->weights[i], .stride = w[i]->stride0, .groups = (uint32_t)experts_groups(l->op, i)};

    if (l->op->n_weights > 3) {
        s.scale = l->weights[i + 3];
        s.scale_stride = w[i + 3]->stride0;
    }
    if (l->op->n_weights > 6) {
        s.zero = l->weights[i + 6];
        s.zero_stride = w[i + 6]->stride0;
    }
    return s;
}

int32_t moe_mlp_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const struct set_device *d = set_device_of(instance, l->device);
    const tn_op *op = l->op;
    const tn_weight *const *w = op->weights;
    uint64_t width = op->in[0]->width, row_bytes = width * tn_dtype_bits(op->in[0]->dtype) / 8;
    struct moe_args a = {.gate = stack_of(l, 0),
                         .up = stack_of(l, 1),
                         .down = stack_of(l, 2),
                         .hidden = l->workspace,
                         .width = width,
                         .inner = w[0]->dims[1],
                         .first = tn_op_int(op, "expert_first", 0),
                         .experts = (uint32_t)w[0]->dims[0],
                         .top_k = (uint32_t)op->in[1]->width,
                         .act = (uint32_t)act_kind(tn_op_text(op, "act", TN_OP_SILU))};
    uint32_t x = cuda_float_index(op->in[0]->dtype), kind = 3 * x + cuda_float_index(w[0]->dtype);
    uint32_t up = ENTRY_moe_up_f32 + kind, down = ENTRY_moe_down_f32 + kind;
    int few = few_bits(w[0]->dtype);
    int32_t rc = TN_OK;

    if (few >= 0) {
        up = ENTRY_moe_up_i8 + 3 * (uint32_t)few + x;
        down = ENTRY_moe_down_i8 + 3 * (uint32_t)few + x;
    }
    for (uint32_t first = 0; first < l->batch->n_rows && rc == TN_OK; first += MOE_RUN) {
        uint32_t left = l->batch->n_rows - first, rows = left < MOE_RUN ? left : MOE_RUN;
        a.x = (const char *)l->in[0] + first * row_bytes;
        a.expert = (const int32_t *)l->in[1] + (uint64_t)first * a.top_k;
        a.p = (const float *)l->in[2] + (uint64_t)first * a.top_k;
        a.y = (char *)l->out[0] + first * row_bytes;
        rc = set_launch(d, l, IMAGE_moe, up,
                        (struct cuda_grid){cuda_div_up(a.inner, 8), a.top_k, rows, 256, 0, 0, 0},
                        &a, err);
        if (rc == TN_OK)
            rc = set_launch(d, l, IMAGE_moe, down,
                            (struct cuda_grid){cuda_div_up(width, 8), 1, rows, 256, 0, 0, 0}, &a,
                            err);
    }
    return rc;
}

/* -- Sampling --------------------------------------------------------------------------------------------------- */

int32_t sample_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return cuda_require(op,
                        op->n_in == 1 && op->n_out == 1 && op->n_weights == 0 &&
                            op->in[0]->dtype == TN_DT_F32 && op->in[0]->width > 0 &&
                            op->in[0]->width <= INT32_MAX && op->out[0]->dtype == TN_DT_I32 &&
                            op->out[0]->width == 1,
                        "needs float32 logits and an int32 output of width 1", err);
}

double sample_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return 5000.0 + (double)op->in[0]->width * 0.2 * (double)cuda_div_up(rows, 128);
}

/* A block works on one row at a time, in scratch of its own: more blocks than this would take more memory than they
 * save time. */
static uint32_t sample_blocks(const tn_op *op, uint32_t rows)
{
    uint64_t most = (uint64_t)64 * 1024 * 1024 / (8 * op->in[0]->width);

    most = most < 1 ? 1 : most;
    return rows < most ? rows : (uint32_t)most;
}

/* Keys of sample_best, of all rows, which stand before the scratch. */
#define SAMPLE_MAX_KEYS 256
#define SAMPLE_BEST_BYTES (SAMPLE_MAX_KEYS * sizeof(uint64_t))

/* Blocks that look for the largest of a row together: as many as fill a large device, but none with less than 4,096 logits. */
static uint32_t sample_parts(const tn_op *op, uint32_t rows)
{
    uint64_t parts = op->in[0]->width / 4096, most = SAMPLE_MAX_KEYS / rows;

    parts = parts < most ? parts : most;
    return parts < 2 ? 1 : (uint32_t)parts;
}

/* Rows of which each has a cluster of blocks: as many as a large device holds at a time, since a block takes most of a
 * multiprocessor's registers. */
#define SAMPLE_SHARED_ROWS 16

static int sample_is_shared(const struct set_device *d, const tn_op *op, uint32_t rows)
{
    return d->device->major >= 9 && rows <= SAMPLE_SHARED_ROWS && sample_blocks(op, rows) == rows;
}

int32_t sample_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                         uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = SAMPLE_BEST_BYTES + sample_blocks(op, max_rows) * 8 * op->in[0]->width;
    return TN_OK;
}

int32_t sample_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_batch_arrays *b = l->batch->dev;
    uint32_t rows = l->batch->n_logits, parts = rows ? sample_parts(l->op, rows) : 1;
    struct sample_args a = {.x = l->in[0],
                            .sample = b->sample,
                            .bias_ids = b->bias_ids,
                            .bias_values = b->bias_values,
                            .history = b->history,
                            .out = l->out[0],
                            .sampled = b->sampled,
                            .logprob = b->logprob,
                            .scratch = (char *)l->workspace + SAMPLE_BEST_BYTES,
                            .best = parts > 1 ? l->workspace : NULL,
                            .vocab = l->op->in[0]->width,
                            .rows = rows,
                            .parts = parts};
    struct cuda_grid best = {
        .x = parts, .y = rows, .threads = SAMPLE_THREADS, .flags = TN_LAUNCH_OVERLAP};
    struct cuda_grid rest = {
        .x = sample_blocks(l->op, rows), .threads = SAMPLE_THREADS, .flags = TN_LAUNCH_OVERLAP};
    struct cuda_grid shared = {.x = rows * SAMPLE_SHARES,
                               .threads = SAMPLE_THREADS,
                               .cluster = SAMPLE_SHARES,
                               .flags = TN_LAUNCH_OVERLAP};
    const struct set_device *d = set_device_of(instance, l->device);
    int32_t rc = TN_OK;

    if (sample_is_shared(d, l->op, rows))
        return set_launch(d, l, IMAGE_sample, ENTRY_sample_shared, shared, &a, err);
    if (a.best)
        rc = set_launch(d, l, IMAGE_sample, ENTRY_sample_best, best, &a, err);
    return rc ? rc : set_launch(d, l, IMAGE_sample, ENTRY_sample, rest, &a, err);
}
