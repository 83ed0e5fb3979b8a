/* SPDX-License-Identifier: Apache-2.0 */
/* Products of few rows: what they take, what they cost, how they are launched. Threads: set.h. */
#include "set.h"

/* -- Forms ---------------------------------------------------------------------------------------------------- */

/* What an op that is made of products asks for. */
struct form {
    const char *op;
    enum finish finish;
    uint32_t matrices, members;
};

static const struct form *form_of(const tn_op *op)
{
    static const struct form forms[] = {
        {TN_OP_LINEAR, FINISH_STORE, 1, 0},
        {TN_OP_LOGITS, FINISH_LOGITS, 1, 0},
        {TN_FUSED_QKV, FINISH_STORE, 3, 3},
        {TN_FUSED_LINEAR_ADD, FINISH_ADD, 1, 2},
        {TN_FUSED_GATE_SILU, FINISH_SILU, 2, 4},
        {TN_FUSED_GATE_GELU, FINISH_GELU, 2, 4},
        {TN_FUSED_GATE_GELU_TANH, FINISH_GELU_TANH, 2, 4},
    };

    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(forms[i].op, op->name) == 0)
            return &forms[i];
    return NULL;
}

/* Matrix number `i` of the op: its products come first in every composition. */
static const tn_op *matrix_op(const tn_op *op, uint32_t i)
{
    return op->n_members ? op->members[i] : op;
}

static int32_t check_matrix(const tn_op *op, const tn_op *linear, tn_err *err)
{
    const tn_weight *w = linear->n_weights ? linear->weights[0] : NULL;
    uint32_t x = linear->in[0]->dtype;

    if (!w || linear->n_weights > 2 || !cuda_matrix(w, linear->out[0]->width, linear->in[0]->width))
        return cuda_require(op, 0, "needs a float matrix [width of the output, width of the input]",
                            err);
    if (x != TN_DT_ACT && x != w->dtype)
        return cuda_require(op, 0, "wants matrix and rows of one dtype", err);
    if (w->dims[1] * tn_dtype_bits(w->dtype) % 128 || w->stride0 % 16 ||
        w->dims[0] > UINT32_MAX / 2)
        return cuda_require(op, 0, "wants rows of a multiple of 16 bytes", err);
    return cuda_require(op, linear->n_weights < 2 || cuda_vector(linear->weights[1], w->dims[0]),
                        "the bias must be as wide as the output", err);
}

int32_t products_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const struct form *f = form_of(op);
    int32_t rc = TN_OK;

    (void)instance;
    if (!f || op->n_members != f->members)
        return cuda_require(op, 0, "is not a form of products that this set has", err);
    for (uint32_t i = 0; i < f->matrices && rc == TN_OK; i++)
        rc = check_matrix(op, matrix_op(op, i), err);
    return rc;
}

double products_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    double bytes = 0.0;

    (void)instance;
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (op->weights[i]->n_dims == 2)
            bytes += (double)op->weights[i]->dims[0] * (double)op->weights[i]->dims[1] *
                     tn_dtype_bits(op->weights[i]->dtype) / 8;
    return 2500.0 + bytes / 2.2e3 * (1.0 + (double)rows / 200.0);
}

/* -- Launching -------------------------------------------------------------------------------------------------- */

/* Outputs of one block: `gate` counts those of one of the two matrices. */
static uint32_t outputs_of_block(uint32_t rows, int gate)
{
    uint32_t n = rows <= 4 ? 16 : rows <= 32 ? 32 : 64;

    return gate ? n / 2 : n;
}

static uint32_t shared_bytes(uint32_t rows)
{
    uint32_t bm = rows <= 32 ? 32 : 64, panels = 8 / (bm / 16);
    uint32_t bn = rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64;

    return rows <= 4 ? 0 : 3 * panels * (bm + bn) * 128;
}

static uint32_t entry_for(uint32_t rows, uint32_t dtype)
{
    uint32_t i = cuda_float_index(dtype);

    if (rows <= 4)
        return (rows == 1 ? ENTRY_GEMV_1 : rows == 2 ? ENTRY_GEMV_2 : ENTRY_GEMV_4) + i;
    return (rows <= 8    ? ENTRY_SKINNY_8
            : rows <= 16 ? ENTRY_SKINNY_16
            : rows <= 32 ? ENTRY_SKINNY_32
                         : ENTRY_SKINNY_64) +
           i - 1;
}

/* Fills in the matrices; returns the blocks that they need. */
static uint32_t set_parts(const tn_launch *l, const struct form *f, struct product_args *a)
{
    int gate = f->matrices == 2;
    uint32_t unit = outputs_of_block(a->rows, gate), weight = 0, blocks = 0;

    for (uint32_t i = 0; i < f->matrices; i++) {
        const tn_op *linear = matrix_op(l->op, i);
        struct part *p = &a->parts[i];
        p->w = l->weights[weight++];
        p->stride = linear->weights[0]->stride0;
        p->n = (uint32_t)linear->weights[0]->dims[0];
        p->y = l->out[gate ? 0 : i];
        if (linear->n_weights > 1) {
            p->bias = l->weights[weight++];
            p->bias_dtype = linear->weights[1]->dtype;
        }
        p->first = gate ? 0 : blocks;
        if (!gate || i == 0)
            blocks += cuda_div_up(p->n, unit);
    }
    return blocks;
}

int32_t products_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const struct form *f = form_of(l->op);
    const tn_op *first = matrix_op(l->op, 0);
    struct product_args a = {.x = l->in[0],
                             .residual = f->finish == FINISH_ADD ? l->in[1] : NULL,
                             .k = first->in[0]->width,
                             .n_parts = f->matrices,
                             .rows = cuda_rows(l),
                             .finish = f->finish,
                             .scale = 1.0f};
    struct cuda_grid g = {.threads = 256, .shared_bytes = shared_bytes(a.rows)};

    if (a.rows == 0)
        return TN_OK;
    if (f->finish == FINISH_LOGITS) {
        a.row_index = l->batch->dev->logits_row;
        a.scale = (float)tn_op_real(l->op, "scale", 1.0);
        a.softcap = (float)tn_op_real(l->op, "softcap", 0.0);
    }
    g.x = set_parts(l, f, &a);
    return code_launch(&ampere_device(instance, l->device)->products, l->stream,
                       entry_for(a.rows, first->weights[0]->dtype), g, &a, err);
}
