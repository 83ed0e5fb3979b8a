/* SPDX-License-Identifier: Apache-2.0 */
/* rms_norm over whole rows, alone and behind the residual's sum. */
#include "hopper.h"

const char *const rows_entries[] = {"norm_bf16_1",
                                    "norm_bf16_2",
                                    "norm_bf16_4",
                                    "norm_f16_1",
                                    "norm_f16_2",
                                    "norm_f16_4",
                                    "rope_append_bf16",
                                    "rope_append_f16",
                                    "rope_append_fp8_bf16",
                                    "rope_append_fp8_f16",
                                    "rope_append_int8_bf16",
                                    "rope_append_int8_f16",
                                    "gather",
                                    "shape_bf16_128",
                                    "shape_bf16_64",
                                    "shape_f16_128",
                                    "shape_f16_64"};
const uint32_t n_rows_entries = 17;

static const tn_op *norm_of(const tn_op *op)
{
    return op->n_members ? op->members[1] : op;
}

static int32_t check(const tn_op *op, uint32_t n_in, uint32_t n_out, tn_err *err)
{
    uint64_t width = op->n_in ? op->in[0]->width : 0;

    if (!cuda_form(op, n_in, n_out, 1, 1) || !cuda_vector(op->weights[0], width))
        return cuda_require(op, 0, "needs a weight as wide as a row", err);
    return cuda_require(op, width % 8 == 0 && width <= NORM_WIDEST,
                        "rows must be a multiple of 8 and at most 16384 wide", err);
}

static int32_t rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check(op, 1, 1, err);
}

static int32_t add_rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check(op, 2, 2, err);
}

static double norm_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    uint64_t values = op->n_in + op->n_out;

    (void)instance;
    return 1500.0 + (double)(values * op->in[0]->width * 2 * rows) / 3000.0;
}

int32_t hopper_norm(const struct hopper_device *d, const tn_launch *l, struct norm_params *p,
                    tn_err *err)
{
    uint32_t chunks = cuda_div_up(p->width, NORM_CHUNK);
    uint32_t entry = hopper_type(l->op->in[0]) * 3 + (chunks > 2 ? 2 : chunks - 1);

    return hopper_launch(d, l, IMAGE_ROWS, ROWS_NORM + entry,
                         (struct cuda_grid){.x = l->batch->n_rows, .threads = NORM_THREADS}, p,
                         err);
}

static int32_t norm_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = norm_of(l->op);
    int adds = l->op->n_in > 1;
    const struct hopper_device *d;
    struct norm_params p = {.a = l->in[0],
                            .b = adds ? l->in[1] : NULL,
                            .weight = l->weights[0],
                            .sum = adds ? l->out[0] : NULL,
                            .out = l->out[adds ? 1 : 0],
                            .width = (uint32_t)l->op->in[0]->width,
                            .weight_dtype = l->op->weights[0]->dtype,
                            .eps = (float)tn_op_real(op, "eps", 0.0),
                            .offset = (float)tn_op_real(op, "offset", 0.0)};
    int32_t rc = hopper_find(instance, l, &d, err);

    return rc ? rc : hopper_norm(d, l, &p, err);
}

#define NORM(id, op_name, text)                                                                    \
    const tn_variant hopper_##id = {.h = TN_HDR(tn_variant),                                       \
                                    .name = #id ".hopper",                                         \
                                    .op = op_name,                                                 \
                                    .equals = text,                                                \
                                    .flags = HOPPER_FLAGS | TN_VARIANT_BATCH_INVARIANT,            \
                                    .act_dtypes = HOPPER_FLOATS,                                   \
                                    .gpus = hopper_gpus,                                           \
                                    .can_run = id##_can_run,                                       \
                                    .cost_ns = norm_cost_ns,                                       \
                                    .launch = norm_launch};

NORM(rms_norm, TN_OP_RMS_NORM, NULL)
NORM(add_rms_norm, TN_FUSED_ADD_RMS_NORM, TN_FUSED_ADD_RMS_NORM_TEXT)
