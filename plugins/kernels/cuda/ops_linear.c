/* SPDX-License-Identifier: Apache-2.0 */
/* The portable set's matrix products without a library: linear and logits. Threads: set.h. */
#include "set.h"

#define TILE 64
/* What the plain kernels reach, roughly: they are the last resort. */
#define FLOPS_PER_NS 8e3

static double product_cost(const tn_op *op, uint32_t rows, double flops_per_ns)
{
    double n = (double)op->out[0]->width, k = (double)op->in[0]->width;
    /* Few rows leave most of a tile, and with few columns most of the chip, without work. */
    double padded = (double)cuda_div_up(rows, TILE) * TILE;

    return set_time_ns(n * k * 4.0, 2.0 * padded * n * k, flops_per_ns);
}

static int32_t check_product(const tn_op *op, tn_err *err)
{
    if (!cuda_form(op, 1, 1, 1, 2) ||
        !cuda_matrix(op->weights[0], op->out[0]->width, op->in[0]->width))
        return cuda_require(op, 0, "needs a float matrix [width of the output, width of the input]",
                            err);
    return cuda_require(op, op->n_weights < 2 || cuda_vector(op->weights[1], op->out[0]->width),
                        "the bias must be as wide as the output", err);
}

int32_t linear_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_product(op, err);

    (void)instance;
    return rc ? rc
              : cuda_require(op, op->in[0]->dtype == op->out[0]->dtype,
                             "input and output must be of one dtype", err);
}

int32_t logits_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_product(op, err);

    (void)instance;
    return rc ? rc : cuda_require(op, op->out[0]->dtype == TN_DT_F32, "logits are float32", err);
}

double linear_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return product_cost(op, rows, FLOPS_PER_NS);
}

double logits_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return product_cost(op, rows, FLOPS_PER_NS);
}

static int32_t launch_product(void *instance, const tn_launch *l, struct linear_args *a,
                              uint32_t entry, tn_err *err)
{
    const tn_op *op = l->op;
    struct cuda_grid g = {.threads = 256};

    a->x = l->in[0];
    a->y = l->out[0];
    a->w = l->weights[0];
    a->stride = op->weights[0]->stride0;
    a->n = op->out[0]->width;
    a->k = op->in[0]->width;
    a->rows = cuda_rows(l);
    if (op->n_weights > 1) {
        a->bias = l->weights[1];
        a->bias_dtype = op->weights[1]->dtype;
    }
    g.x = a->rows ? cuda_div_up(a->n, TILE) : 0;
    g.y = cuda_div_up(a->rows, TILE);
    entry += 3 * cuda_float_index(op->in[0]->dtype) + cuda_float_index(op->weights[0]->dtype);
    return set_launch(set_device_of(instance, l->device), l, IMAGE_linear, entry, g, a, err);
}

int32_t linear_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct linear_args a = {.scale = 1.0f};

    return launch_product(instance, l, &a, ENTRY_linear_f32, err);
}

int32_t logits_launch(void *instance, const tn_launch *l, tn_err *err)
{
    struct linear_args a = {.row_index = l->batch->dev->logits_row,
                            .scale = (float)tn_op_real(l->op, "scale", 1.0),
                            .softcap = (float)tn_op_real(l->op, "softcap", 0.0)};

    return launch_product(instance, l, &a, ENTRY_logits_f32, err);
}
