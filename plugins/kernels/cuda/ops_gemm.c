/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The portable set's matrix products through cuBLASLt: linear and logits, and the fusions that have several products or a
 * residual. Threads: set.h.
 */
#include "set.h"

#include "device.h"

/* -- What it takes, what it costs -------------------------------------------------------------------------------- */

/* Sustained float16 and float32 operations per nanosecond of a whole chip of that capability, roughly. */
double gemm_flops_per_ns(const tn_device *d, uint32_t dtype)
{
    static const struct {
        int capability;
        double half, single;
    } chips[] = {
        {75, 4e4, 7e3}, {80, 2.2e5, 1.4e4}, {86, 1e5, 2e4}, {89, 2e5, 4e4}, {90, 7e5, 4e4}};
    int capability = d ? d->major * 10 + d->minor : 90;
    size_t i = sizeof chips / sizeof *chips - 1;

    while (i > 0 && chips[i].capability > capability)
        i--;
    if (tn_dtype_bits(dtype) == 8)
        return 2.0 * chips[i].half;
    return dtype == TN_DT_F32 ? chips[i].single : chips[i].half;
}

/* A product's own time for every matrix of the op, and a launch for each. */
double gemm_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    const struct set_device *d = set_any_device(instance);
    double ns = 0.0;

    for (uint32_t i = 0; i < op->n_weights; i++) {
        const tn_weight *w = op->weights[i];
        double size = (double)w->dims[0] * (double)w->dims[1];
        if (w->n_dims != 2)
            continue;
        ns += 1500.0 + set_time_ns(size * tn_dtype_bits(w->dtype) / 8, 2.0 * size * (double)rows,
                                   gemm_flops_per_ns(d ? d->device : NULL, w->dtype));
    }
    return ns;
}

static int32_t check_library(void *instance, const tn_op *op, tn_err *err)
{
    const struct set_device *d = set_any_device(instance);

    if (!d)
        return cuda_require(op, 0, "the set is not attached to a device", err);
    return cuda_require(op, d->gemm.handle != NULL, d->gemm.reason, err);
}

/* One product: matrix and bias of `linear`, rows and result of dtypes that the library has. */
static int32_t check_linear(const tn_op *op, const tn_op *linear, uint32_t bias_dtype, tn_err *err)
{
    const tn_weight *w = linear->n_weights ? linear->weights[0] : NULL;
    uint64_t unit, x = linear->in[0]->dtype;

    if (!w || linear->n_weights > 2 || !cuda_matrix(w, linear->out[0]->width, linear->in[0]->width))
        return cuda_require(op, 0, "needs a float matrix [width of the output, width of the input]",
                            err);
    if (x != TN_DT_ACT && w->dtype != x)
        return cuda_require(op, 0, "cuBLASLt wants matrix and rows of one dtype", err);
    unit = 128 / tn_dtype_bits(w->dtype);
    if (w->dims[0] % unit || w->dims[1] % unit || w->stride0 % 16)
        return cuda_require(op, 0, "cuBLASLt wants rows of a multiple of 16 bytes", err);
    if (linear->n_weights == 2 && !cuda_vector(linear->weights[1], w->dims[0]))
        return cuda_require(op, 0, "the bias must be as wide as the output", err);
    return cuda_require(
        op, linear->n_weights < 2 || !bias_dtype || linear->weights[1]->dtype == w->dtype,
        "cuBLASLt wants the bias in the dtype of the matrix", err);
}

int32_t gemm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const tn_op *const alone[] = {op};
    const tn_op *const *members = op->n_members ? op->members : alone;
    uint32_t n = op->n_members ? op->n_members : 1;
    int32_t rc = check_library(instance, op, err);

    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        if (strcmp(members[i]->name, TN_OP_LINEAR) == 0)
            rc = check_linear(op, members[i], 1, err);
        else if (strcmp(members[i]->name, TN_OP_LOGITS) == 0)
            rc = check_linear(op, members[i], 0, err);
    return rc;
}

/* -- Launching ------------------------------------------------------------------------------------------------------ */

/* The workspace: the library's, then what the op itself needs. */
int32_t gemm_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                       uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    const tn_value *x = op->in[0], *y = op->out[0];

    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = GEMM_WORKSPACE;
    if (strcmp(op->name, TN_OP_LOGITS) == 0)
        *bytes += max_rows * x->width * tn_dtype_bits(x->dtype) / 8; /* gathered rows */
    else if (op->n_members == 4)
        *bytes += max_rows * y->width * tn_dtype_bits(y->dtype) / 8; /* gates */
    return TN_OK;
}

static void *beyond_library(const tn_launch *l)
{
    return (char *)l->workspace + GEMM_WORKSPACE;
}

/* y = x * w^T (+ bias) (+ residual) for weights `first` and maybe `first` + 1 of the launch. */
static int32_t multiply(void *instance, const tn_launch *l, const tn_op *linear, uint32_t first,
                        const void *x, void *y, const void *residual, tn_err *err)
{
    struct set_device *d = (struct set_device *)set_device_of(instance, l->device);
    const tn_weight *w = linear->weights[0];
    uint32_t bits = tn_dtype_bits(w->dtype);
    struct gemm_call c = {.shape = {.n = w->dims[0],
                                    .k = w->dims[1],
                                    .stride = w->stride0 * 8 / bits,
                                    .rows = cuda_rows(l),
                                    .dtype = w->dtype,
                                    .out_dtype = linear->out[0]->dtype,
                                    .bias = linear->n_weights > 1,
                                    .adds = residual != NULL},
                          .x = x,
                          .w = l->weights[first],
                          .residual = residual,
                          .y = y,
                          .alpha = 1.0f,
                          .workspace = l->workspace};

    if (c.shape.bias)
        c.bias = l->weights[first + 1];
    c.stream = d->code[0].api->native_stream(l->device, l->stream);
    if (strcmp(linear->name, TN_OP_LOGITS) == 0) { /* the bias is added by finish() */
        c.bias = NULL;
        c.shape.bias = 0;
    }
    int32_t rc = device_enter(l->device, err); /* the library takes the thread's context */
    return rc ? rc : gemm_run(&d->gemm, &c, err);
}

int32_t gemm_linear_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return multiply(instance, l, l->op, 0, l->in[0], l->out[0], NULL, err);
}

int32_t gemm_linear_add_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return multiply(instance, l, l->op->members[0], 0, l->in[0], l->out[0], l->in[1], err);
}

int32_t gemm_qkv_launch(void *instance, const tn_launch *l, tn_err *err)
{
    uint32_t first = 0;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < 3 && rc == TN_OK; i++) {
        const tn_op *linear = l->op->members[i];
        rc = multiply(instance, l, linear, first, l->in[0], l->out[i], NULL, err);
        first += linear->n_weights;
    }
    return rc;
}

/* Gates into the workspace, the rest into y, then y = act(gates) * y. */
static int32_t launch_gate(void *instance, const tn_launch *l, enum map_kind kind, tn_err *err)
{
    const tn_op *gate = l->op->members[0], *up = l->op->members[1];
    uint32_t dtype = l->op->out[0]->dtype;
    struct map_args a = {.a = beyond_library(l),
                         .b = l->out[0],
                         .y = l->out[0],
                         .n = l->batch->n_rows * l->op->out[0]->width,
                         .kind = kind,
                         .a_dtype = dtype,
                         .b_dtype = dtype,
                         .y_dtype = dtype};
    struct cuda_grid g = {.x = cuda_div_up(a.n, 2048), .threads = 256};
    int32_t rc = multiply(instance, l, gate, 0, l->in[0], beyond_library(l), NULL, err);

    if (rc == TN_OK)
        rc = multiply(instance, l, up, gate->n_weights, l->in[0], l->out[0], NULL, err);
    if (g.x > 65535)
        g.x = 65535;
    return rc ? rc
              : set_launch(set_device_of(instance, l->device), l, IMAGE_rows,
                           ENTRY_map + cuda_float_index(dtype), g, &a, err);
}

int32_t gemm_gate_silu_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_gate(instance, l, MAP_SILU_MUL, err);
}

int32_t gemm_gate_gelu_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_gate(instance, l, MAP_GELU_MUL, err);
}

int32_t gemm_gate_gelu_tanh_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_gate(instance, l, MAP_GELU_TANH_MUL, err);
}

/* Rows that want logits are gathered, unless all do, then multiplied, then finished in place if anything is left to do. */
int32_t gemm_logits_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const struct set_device *d = set_device_of(instance, l->device);
    const tn_op *op = l->op;
    struct gather_args gather = {.x = l->in[0],
                                 .y = beyond_library(l),
                                 .row_index = l->batch->dev->logits_row,
                                 .row_bytes =
                                     op->in[0]->width * tn_dtype_bits(op->in[0]->dtype) / 8};
    struct finish_args finish = {.y = l->out[0],
                                 .n = op->out[0]->width,
                                 .scale = (float)tn_op_real(op, "scale", 1.0),
                                 .softcap = (float)tn_op_real(op, "softcap", 0.0)};
    struct cuda_grid g = {.x = l->batch->n_logits, .threads = 256};
    int every = l->batch->n_logits == l->batch->n_rows; /* as in a step that only decodes */
    int32_t rc = every ? TN_OK : set_launch(d, l, IMAGE_rows, ENTRY_gather, g, &gather, err);

    if (op->n_weights > 1) {
        finish.bias = l->weights[1];
        finish.bias_dtype = op->weights[1]->dtype;
    }
    if (rc == TN_OK)
        rc = multiply(instance, l, op, 0, every ? gather.x : gather.y, l->out[0], NULL, err);
    if (rc == TN_OK && (finish.bias || finish.scale != 1.0f || finish.softcap > 0.0f))
        rc = set_launch(d, l, IMAGE_linear, ENTRY_finish, g, &finish, err);
    return rc;
}
