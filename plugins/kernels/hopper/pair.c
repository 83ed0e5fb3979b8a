/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two products of few rows and the norm between them, without a kernel for the norm. W2 (g * h / s) is W2 (g * h) / s, where s is
 * the root of the mean square of a row h: the first product leaves h, g * h and parts of the sum of squares, the second divides its
 * sums. Each has its launch, so that the whole row is there when the second begins. For bfloat16 alone: g * h may leave what
 * float16 holds.
 */
#include "hopper.h"

#define ALIGN 256
#define MEMBERS_OF_FIRST 2 /* linear, add; then the norm */

/* One of the two as an op of its own. */
struct half {
    tn_op op;
    tn_launch l;
};

/* How products with one kind of weights are made. */
struct way {
    int32_t (*check)(const tn_op *op, enum product_finish f, tn_err *err);
    double (*cost_ns)(const tn_op *op, enum product_finish f, uint32_t rows);
    int32_t (*launch)(struct hopper_instance *in, const tn_launch *l, enum product_finish f,
                      struct product_norm *norm, tn_err *err);
};

static const struct way floats = {hopper_product_check, hopper_product_cost_ns, hopper_product};
static const struct way fp8 = {hopper_half_check, hopper_half_cost_ns, hopper_half};

static const tn_op *norm_of(const tn_op *op)
{
    return op->members[MEMBERS_OF_FIRST];
}

static uint32_t weights_of_first(const tn_op *op)
{
    return op->members[0]->n_weights + op->members[1]->n_weights;
}

/* linear and add. */
static tn_op first_of(const tn_op *op)
{
    tn_op first = *op;

    first.n_out = 1;
    first.n_weights = weights_of_first(op);
    first.n_members = MEMBERS_OF_FIRST;
    return first;
}

/* What reads the norm. */
static tn_op second_of(const tn_op *op)
{
    uint32_t weights = weights_of_first(op) + norm_of(op)->n_weights;
    tn_op second = *op;

    second.n_in = 1;
    second.in = norm_of(op)->out;
    second.n_out = op->n_out - 1;
    second.out = op->out + 1;
    second.n_weights = op->n_weights - weights;
    second.weights = op->weights + weights;
    second.n_members = op->n_members - MEMBERS_OF_FIRST - 1;
    second.members = op->members + MEMBERS_OF_FIRST + 1;
    return second;
}

static int32_t check(const tn_op *op, const struct way *way, enum product_finish f, tn_err *err)
{
    tn_op first, second;
    uint64_t width = op->n_out ? op->out[0]->width : 0;
    int32_t rc;

    if (op->n_members <= MEMBERS_OF_FIRST + 1 || op->n_in != 2 || op->n_out < 2 ||
        op->in[0]->dtype != TN_DT_BF16)
        return cuda_require(op, 0, "not the form of this variant, or not bfloat16", err);
    if (norm_of(op)->n_weights != 1 || !cuda_vector(norm_of(op)->weights[0], width))
        return cuda_require(op, 0, "needs a norm over whole rows", err);
    if (width % 128)
        return cuda_require(op, 0, "its first product must have outputs that 128 divides", err);
    first = first_of(op);
    second = second_of(op);
    rc = way->check(&first, PRODUCT_ADD, err);
    return rc ? rc : way->check(&second, f, err);
}

static double cost_ns(const tn_op *op, const struct way *way, enum product_finish f, uint32_t rows)
{
    tn_op first = first_of(op), second = second_of(op);

    return way->cost_ns(&first, PRODUCT_ADD, rows) + way->cost_ns(&second, f, rows);
}

/* Most parts that a row can come in: tiles of 64 outputs, shared by eight blocks. */
static uint64_t most_parts(const tn_op *op)
{
    return op->out[0]->width / 64 * 8;
}

static uint64_t rows_bytes(const tn_op *op)
{
    return (PRODUCT_NORM_ROWS * op->out[0]->width * 2 + ALIGN - 1) / ALIGN * ALIGN;
}

static int32_t workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                         uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    (void)instance;
    (void)max_rows;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = rows_bytes(op) + PRODUCT_NORM_ROWS * most_parts(op) * sizeof(float);
    return TN_OK;
}

static int32_t launch(struct hopper_instance *in, const tn_launch *l, const struct way *way,
                      enum product_finish f, tn_err *err)
{
    const tn_op *norm = norm_of(l->op);
    uint32_t n_first = weights_of_first(l->op);
    tn_op first = first_of(l->op), second = second_of(l->op);
    tn_launch a = *l, b = *l;
    struct product_norm between = {.weight = l->weights[n_first],
                                   .rows = l->workspace,
                                   .squares =
                                       (float *)(void *)((char *)l->workspace + rows_bytes(l->op)),
                                   .width = (uint32_t)norm->out[0]->width,
                                   .weight_dtype = norm->weights[0]->dtype,
                                   .eps = (float)tn_op_real(norm, "eps", 0.0),
                                   .offset = (float)tn_op_real(norm, "offset", 0.0)};
    int32_t rc;

    if (l->batch->n_rows == 0)
        return TN_OK;
    a.op = &first;
    b.op = &second;
    b.out = l->out + 1;
    b.weights = l->weights + n_first + norm->n_weights;
    rc = way->launch(in, &a, PRODUCT_ADD, &between, err);
    return rc ? rc : way->launch(in, &b, f, &between, err);
}

/* By whole steps on an H100 and an H200: with more rows what the second product adds up comes too late, in 8 bits sooner. */
static const tn_range few_rows[] = {
    {.dim = "rows", .min = 1, .max = PRODUCT_NORM_ROWS, .multiple = 1}};
static const tn_range one_row[] = {{.dim = "rows", .min = 1, .max = 1, .multiple = 1}};

#define PAIR(id, way, finish, type, more, served, text_name, op_name, text)                        \
    static int32_t id##_can_run(void *instance, const tn_op *op, tn_err *err)                      \
    {                                                                                              \
        (void)instance;                                                                            \
        return check(op, &(way), finish, err);                                                     \
    }                                                                                              \
    static double id##_cost_ns(void *instance, const tn_op *op, uint32_t rows)                     \
    {                                                                                              \
        (void)instance;                                                                            \
        return cost_ns(op, &(way), finish, rows);                                                  \
    }                                                                                              \
    static int32_t id##_launch(void *instance, const tn_launch *l, tn_err *err)                    \
    {                                                                                              \
        return launch(instance, l, &(way), finish, err);                                           \
    }                                                                                              \
    const tn_variant hopper_##id = {.h = TN_HDR(tn_variant),                                       \
                                    .name = text_name,                                             \
                                    .op = op_name,                                                 \
                                    .equals = text,                                                \
                                    .flags = HOPPER_FLAGS | (more),                                \
                                    .act_dtypes = TN_DT_BIT(TN_DT_BF16),                           \
                                    .weight_dtypes = TN_DT_BIT(type),                              \
                                    .n_ranges = 1,                                                 \
                                    .ranges = served,                                              \
                                    .gpus = hopper_gpus,                                           \
                                    .can_run = id##_can_run,                                       \
                                    .cost_ns = id##_cost_ns,                                       \
                                    .workspace = workspace,                                        \
                                    .launch = id##_launch};

PAIR(pair_qkv, floats, PRODUCT_STORE, TN_DT_BF16, 0, few_rows, "linear_add_norm_qkv.wgmma",
     TN_FUSED_LINEAR_ADD_NORM_QKV, TN_TEXT_LINEAR_ADD_NORM_QKV("linear"))
PAIR(pair_gate, floats, PRODUCT_SILU, TN_DT_BF16, 0, few_rows, "linear_add_norm_gate_silu.wgmma",
     TN_FUSED_LINEAR_ADD_NORM_GATE_SILU, TN_TEXT_LINEAR_ADD_NORM_GATE("linear", "silu"))
PAIR(pair_qkv_fp8, fp8, PRODUCT_STORE, TN_DT_F8E4M3, TN_VARIANT_WIDE_ROWS, one_row,
     "linear_add_norm_qkv_fp8_half.mma", TN_FUSED_LINEAR_ADD_NORM_QKV ".fp8",
     TN_TEXT_LINEAR_ADD_NORM_QKV(TN_OP_LINEAR_FP8))
PAIR(pair_gate_fp8, fp8, PRODUCT_SILU, TN_DT_F8E4M3, TN_VARIANT_WIDE_ROWS, one_row,
     "linear_add_norm_gate_silu_fp8_half.mma", TN_FUSED_LINEAR_ADD_NORM_GATE_SILU ".fp8",
     TN_TEXT_LINEAR_ADD_NORM_GATE(TN_OP_LINEAR_FP8, "silu"))
