/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The portable set's quantized products (linear.int8, linear.fp8, linear.int4, logits.int8): plain kernels for any shape, and
 * cuBLASLt where it has tensor cores for them. On GPUs without e4m3 arithmetic the library multiplies in the dtype of the
 * rows, which is a fallback (tenon/ops.h). It does so on others if rows are short: rounding them to e4m3 would cost precision
 * and gain little. Threads: set.h.
 */
#include "set.h"

#include <string.h>

#include "device.h"

#define TILE 64
/* Rows that go through the workspace at a time, so that its size is bounded. */
#define RUN 2048
/* The library has no int8 kernels for fewer; rows beyond the step's are multiplied and dropped. */
#define LEAST_ROWS 32

/* Rows for which there are plain kernels that stream the weights of int8, and outputs of a block of these and of int4's. */
#define FEW_ROWS 16
#define FEW_OUTPUTS 16

/* Elements of rows below which they are not rounded to e4m3, unless such a variant is pinned. */
#define SHORT_ROW 1024

/* What the plain kernels reach, roughly. */
#define INT8_OPS_PER_NS 2e4
#define FLOAT_OPS_PER_NS 6e3

/* -- Questions -------------------------------------------------------------------------------------------------- */

/* The product of `op`, which comes last behind a gate. */
static const tn_op *linear_of(const tn_op *op)
{
    return op->n_members ? op->members[op->n_members - 1] : op;
}

static uint32_t matrix_dtype(const tn_op *op)
{
    return op->weights[0]->dtype;
}

/* Then only the rows that want them are multiplied. */
static int makes_logits(const tn_op *op)
{
    return op->out[0]->kind == TN_VALUE_LOGITS;
}

/* Whether there are kernels of int8 for so few rows: see few_int8 in quant.cu. */
static int is_few(const tn_op *op, uint32_t rows)
{
    return matrix_dtype(op) == TN_DT_I8 && rows <= FEW_ROWS && op->in[0]->width % 16 == 0 &&
           op->weights[0]->stride0 % 16 == 0 && op->out[0]->width <= 65535u * FEW_OUTPUTS;
}

static int has_e4m3(void *instance)
{
    const struct set_device *d = set_any_device(instance);

    return d && d->device->major * 10 + d->device->minor >= 89;
}

/* Whether linear.fp8 leaves the rows of `op` as they are though the GPU could round them. */
static int is_short(void *instance, const tn_op *op)
{
    return matrix_dtype(op) == TN_DT_F8E4M3 && op->in[0]->width < SHORT_ROW && has_e4m3(instance);
}

static uint64_t padded(uint64_t k)
{
    return (k + 15) / 16 * 16;
}

/* Form, matrix and values; what follows the matrix are checked by the callers. */
static int32_t check_matrix(const tn_op *op, uint32_t dtype, uint32_t least, tn_err *err)
{
    const tn_weight *w = op->n_weights >= least ? op->weights[0] : NULL;

    if (!cuda_form(op, 1, 1, least, 4) || !w || w->dtype != dtype || w->n_dims != 2 ||
        w->dims[0] != op->out[0]->width || w->dims[1] != op->in[0]->width)
        return cuda_require(op, 0, "needs its quantized matrix and values of float dtypes", err);
    if (makes_logits(op))
        return cuda_require(op, op->out[0]->dtype == TN_DT_F32, "logits are float32", err);
    return cuda_require(op, op->in[0]->dtype == op->out[0]->dtype,
                        "input and output must be of one dtype", err);
}

static int32_t check_bias(const tn_op *op, uint32_t i, tn_err *err)
{
    return cuda_require(op,
                        op->n_weights == i || (op->n_weights == i + 1 &&
                                               cuda_vector(op->weights[i], op->out[0]->width)),
                        "the bias must be as wide as the output", err);
}

static int32_t check_8(const tn_op *op, uint32_t dtype, tn_err *err)
{
    int32_t rc = check_matrix(op, dtype, 2, err);

    if (rc)
        return rc;
    if (op->weights[1]->dtype != TN_DT_F32 || !cuda_vector(op->weights[1], op->out[0]->width))
        return cuda_require(op, 0, "needs one float32 scale per output", err);
    return check_bias(op, 2, err);
}

static int32_t check_4(const tn_op *op, tn_err *err)
{
    uint64_t group = (uint64_t)tn_op_int(op, "group", 0);
    uint32_t zero = tn_op_int(op, "zero", 0) != 0;
    int32_t rc = check_matrix(op, TN_DT_I4, 2 + zero, err);

    if (rc)
        return rc;
    if (group == 0 || op->in[0]->width % group)
        return cuda_require(op, 0, "the input must consist of whole groups", err);
    for (uint32_t i = 1; i < 2 + zero; i++) {
        const tn_weight *w = op->weights[i];
        if (w->n_dims != 2 || w->dims[0] != op->out[0]->width ||
            w->dims[1] != op->in[0]->width / group ||
            w->dtype != (i == 1 ? (uint32_t)TN_DT_F32 : (uint32_t)TN_DT_I8))
            return cuda_require(op, 0, "needs a scale (and a zero point) per output and group",
                                err);
    }
    return check_bias(op, 2 + zero, err);
}

int32_t linear_int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_8(op, TN_DT_I8, err);
}

int32_t logits_int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    return linear_int8_can_run(instance, op, err);
}

int32_t linear_fp8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_8(op, TN_DT_F8E4M3, err);
}

int32_t linear_int4_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_4(op, err);
}

/* -- Steps of a launch ------------------------------------------------------------------------------------------ */

/* Rows [first, first + rows) of a launch, and where their parts of the workspace are. */
struct piece {
    const struct set_device *d;
    const tn_launch *l;
    uint32_t first, rows;
    const void *x;        /* the first row */
    const void *u;        /* of gates: that of the second input, else NULL */
    const int32_t *index; /* of logits: which rows of `x` are the piece's, else NULL */
    void *y;
    void *library; /* GEMM_WORKSPACE bytes; of plain kernels NULL */
    void *matrix;  /* widened weights, or NULL */
    void *q;
    float *step;
    void *sums;
};

static uint64_t act_bytes(const tn_op *op)
{
    return tn_dtype_bits(op->in[0]->dtype) / 8;
}

static uint32_t float_index(const tn_op *op)
{
    return cuda_float_index(op->in[0]->dtype);
}

static uint32_t out_index(const tn_op *op)
{
    return cuda_float_index(op->out[0]->dtype);
}

/* Where the piece's rows come from and go to. */
static void find_rows(struct piece *p)
{
    const tn_launch *l = p->l;
    const tn_op *op = linear_of(l->op);
    uint64_t skipped = p->first * op->in[0]->width * act_bytes(op);

    p->y = (char *)l->out[0] + p->first * op->out[0]->width * tn_dtype_bits(op->out[0]->dtype) / 8;
    if (makes_logits(op)) {
        p->x = l->in[0];
        p->index = l->batch->dev->logits_row + p->first;
        return;
    }
    p->x = (const char *)l->in[0] + skipped;
    if (l->op->n_members)
        p->u = (const char *)l->in[1] + skipped;
}

static uint32_t gate_of(const tn_op *op)
{
    const char *act = op->members[0]->name;

    return strcmp(act, TN_OP_SILU) == 0   ? MAP_SILU_MUL
           : strcmp(act, TN_OP_GELU) == 0 ? MAP_GELU_MUL
                                          : MAP_GELU_TANH_MUL;
}

static int32_t quantize(const struct piece *p, tn_err *err)
{
    const tn_op *op = linear_of(p->l->op);
    struct quantize_args a = {.x = p->x,
                              .u = p->u,
                              .q = p->q,
                              .row_index = p->index,
                              .step = p->step,
                              .k = op->in[0]->width,
                              .pitch = padded(op->in[0]->width),
                              .scale = (float)tn_op_real(op, "act_scale", 0.0)};
    uint32_t entry = matrix_dtype(op) == TN_DT_I8 ? ENTRY_quantize_i8 : ENTRY_quantize_f8;

    if (p->u) {
        a.kind = gate_of(p->l->op);
        entry =
            matrix_dtype(op) == TN_DT_I8 ? ENTRY_quantize_gate_i8_f16 : ENTRY_quantize_gate_f8_f16;
        return set_launch(p->d, p->l, IMAGE_quant, entry + float_index(op) - 1,
                          (struct cuda_grid){.x = p->rows,
                                             .threads = 256,
                                             .shared_bytes = (uint32_t)(a.k * act_bytes(op))},
                          &a, err);
    }
    return set_launch(p->d, p->l, IMAGE_quant, entry + float_index(op),
                      (struct cuda_grid){.x = p->rows, .threads = 256}, &a, err);
}

/* Scales and zero points of an int4 op. */
static struct int4_groups groups_of(const tn_launch *l)
{
    const tn_op *op = l->op;
    int zero = tn_op_int(op, "zero", 0) != 0;

    return (struct int4_groups){.scale = l->weights[1],
                                .zero = zero ? l->weights[2] : NULL,
                                .scale_stride = op->weights[1]->stride0,
                                .zero_stride = zero ? op->weights[2]->stride0 : 0,
                                .group = (uint32_t)tn_op_int(op, "group", 1)};
}

/* The bias is the last weight if there is one more than the op needs. */
static const void *bias_of(const tn_launch *l, uint32_t *dtype)
{
    const tn_op *op = linear_of(l->op);
    uint32_t needs = matrix_dtype(op) == TN_DT_I4 && tn_op_int(op, "zero", 0) ? 3 : 2;

    if (op->n_weights == needs)
        return NULL;
    *dtype = op->weights[needs]->dtype;
    return l->weights[needs];
}

static float factor_of(const tn_op *op)
{
    return makes_logits(op) ? (float)tn_op_real(op, "scale", 1.0) : 1.0f;
}

static float softcap_of(const tn_op *op)
{
    return makes_logits(op) ? (float)tn_op_real(op, "softcap", 0.0) : 0.0f;
}

/* Of a product of few rows of int8. */
static int32_t multiply_few(const struct piece *p, struct quant_args *a, tn_err *err)
{
    uint32_t height = p->rows == 1 ? 1 : p->rows <= 4 ? 4 : 8;
    uint32_t entry = height == 1 ? ENTRY_few_i8_1 : height == 4 ? ENTRY_few_i8_4 : ENTRY_few_i8_8;
    struct cuda_grid g = {
        .x = cuda_div_up(p->rows, height), .y = cuda_div_up(a->n, FEW_OUTPUTS), .threads = 256};

    return set_launch(p->d, p->l, IMAGE_quant, entry + out_index(linear_of(p->l->op)), g, a, err);
}

/* `wide`: rows were not quantized. */
static int32_t multiply_plainly(const struct piece *p, int wide, tn_err *err)
{
    const tn_op *op = linear_of(p->l->op);
    uint32_t dtype = matrix_dtype(op);
    uint32_t entry = dtype == TN_DT_I8   ? ENTRY_product_i8
                     : dtype == TN_DT_I4 ? ENTRY_product_i4
                     : wide              ? ENTRY_product_f8_wide
                                         : ENTRY_product_f8;
    struct quant_args a = {.x = wide ? p->x : p->q,
                           .w = p->l->weights[0],
                           .y = p->y,
                           .n = op->out[0]->width,
                           .k = op->in[0]->width,
                           .pitch = padded(op->in[0]->width),
                           .stride = op->weights[0]->stride0,
                           .rows = p->rows,
                           .factor = factor_of(op),
                           .softcap = softcap_of(op)};
    struct cuda_grid g = {
        .x = cuda_div_up(a.n, TILE), .y = cuda_div_up(p->rows, TILE), .threads = 256};

    a.bias = bias_of(p->l, &a.bias_dtype);
    if (dtype == TN_DT_I4) {
        a.groups = groups_of(p->l);
    } else {
        a.step = wide ? NULL : p->step;
        a.scale = p->l->weights[1];
    }
    if (is_few(op, p->rows))
        return multiply_few(p, &a, err);
    return set_launch(p->d, p->l, IMAGE_quant, entry + out_index(op), g, &a, err);
}

/* Sums of the library into outputs. */
static int32_t descale(const struct piece *p, int widened, tn_err *err)
{
    const tn_op *op = linear_of(p->l->op);
    struct descale_args a = {.sums = p->sums,
                             .step = widened ? NULL : p->step,
                             .scale = matrix_dtype(op) == TN_DT_I4 ? NULL : p->l->weights[1],
                             .y = p->y,
                             .n = op->out[0]->width,
                             .factor = factor_of(op),
                             .softcap = softcap_of(op)};
    uint32_t entry = matrix_dtype(op) == TN_DT_I8 ? ENTRY_finish_i32 : ENTRY_finish_f32;
    struct cuda_grid g = {.x = cuda_div_up(a.n, 256), .y = p->rows, .threads = 256};

    a.bias = bias_of(p->l, &a.bias_dtype);
    return set_launch(p->d, p->l, IMAGE_quant, entry + out_index(op), g, &a, err);
}

/* The matrix in the dtype of the rows; once per launch. */
static int32_t widen(const struct piece *p, tn_err *err)
{
    const tn_op *op = linear_of(p->l->op);
    struct widen_args a = {.w = p->l->weights[0],
                           .y = p->matrix,
                           .n = op->out[0]->width,
                           .k = op->in[0]->width,
                           .stride = op->weights[0]->stride0};
    int int4 = matrix_dtype(op) == TN_DT_I4;
    struct cuda_grid g = {
        .x = cuda_div_up(a.k, 256), .y = (uint32_t)(a.n < 65535 ? a.n : 65535), .threads = 256};

    if (int4)
        a.groups = groups_of(p->l);
    return set_launch(p->d, p->l, IMAGE_quant,
                      (int4 ? ENTRY_widen_i4 : ENTRY_widen_f8) + float_index(op), g, &a, err);
}

/* One piece by the library; plain kernels where it has none for the shape. */
static int32_t multiply(const struct piece *p, int widened, tn_err *err)
{
    const tn_op *op = linear_of(p->l->op);
    uint32_t dtype = widened ? op->in[0]->dtype : matrix_dtype(op);
    uint64_t k = op->in[0]->width, n = op->out[0]->width;
    struct gemm_call c = {.shape = {.n = n,
                                    .k = k,
                                    .stride = widened ? k : op->weights[0]->stride0,
                                    .rows = p->rows,
                                    .dtype = dtype,
                                    .out_dtype = dtype == TN_DT_I8 ? TN_DT_I32 : TN_DT_F32},
                          .x = widened ? p->x : p->q,
                          .w = widened ? p->matrix : p->l->weights[0],
                          .y = p->sums,
                          .alpha = 1.0f,
                          .workspace = p->library};
    tn_err own = TN_ERR_INIT;
    int32_t rc = device_enter(p->l->device, err);

    if (rc)
        return rc;
    if (dtype == TN_DT_I8 && c.shape.rows < LEAST_ROWS)
        c.shape.rows = LEAST_ROWS;
    c.stream = p->d->code[0].api->native_stream(p->l->device, p->l->stream);
    rc = gemm_run((struct gemm *)&p->d->gemm, &c, &own);
    if (rc == TN_OK)
        return descale(p, widened, err);
    if (own.native == CUBLAS_STATUS_NOT_SUPPORTED)
        return multiply_plainly(p, widened, err);
    if (err)
        *err = own;
    return rc;
}

/* -- Plain kernels ------------------------------------------------------------------------------------------------ */

static double plain_cost(const tn_op *op, uint32_t rows, double ops_per_ns)
{
    double n = (double)op->out[0]->width, k = (double)op->in[0]->width;
    double height = (double)cuda_div_up(rows, TILE) * TILE;

    return set_time_ns(n * k, 2.0 * height * n * k, ops_per_ns);
}

double linear_int8_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    double size = (double)op->out[0]->width * (double)op->in[0]->width;

    (void)instance;
    return 3000.0 + (is_few(op, rows) ? set_time_ns(size * (1.0 + (double)rows / 16.0), 0.0, 1.0)
                                      : plain_cost(op, rows, INT8_OPS_PER_NS));
}

double logits_int8_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    return linear_int8_cost_ns(instance, op, rows);
}

double linear_fp8_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    return is_short(instance, op) ? -1.0 : plain_cost(op, rows, FLOAT_OPS_PER_NS) + 3000.0;
}

double linear_int4_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return plain_cost(op, rows, FLOAT_OPS_PER_NS);
}

/* Quantized rows, then their steps. */
static int32_t plain_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                               uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                               tn_err *err)
{
    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = max_rows * (padded(op->in[0]->width) + sizeof(float));
    return TN_OK;
}

int32_t linear_int8_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                              uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    return plain_workspace(instance, op, max_rows, max_seqs, max_context, bytes, err);
}

int32_t logits_int8_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                              uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    return plain_workspace(instance, op, max_rows, max_seqs, max_context, bytes, err);
}

int32_t linear_fp8_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                             uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    return plain_workspace(instance, op, max_rows, max_seqs, max_context, bytes, err);
}

/* All rows of a launch as one piece without a library. */
static struct piece plain_piece(void *instance, const tn_launch *l)
{
    uint64_t k = padded(l->op->in[0]->width);
    struct piece p = {.d = set_device_of(instance, l->device),
                      .l = l,
                      .rows = cuda_rows(l),
                      .q = l->workspace,
                      .step = (float *)((char *)l->workspace + cuda_rows(l) * k)};

    find_rows(&p);
    return p;
}

static int32_t launch_plainly(void *instance, const tn_launch *l, tn_err *err)
{
    struct piece p = plain_piece(instance, l);
    int32_t rc = p.rows ? quantize(&p, err) : TN_OK;

    return rc || !p.rows ? rc : multiply_plainly(&p, 0, err);
}

int32_t linear_int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_plainly(instance, l, err);
}

int32_t logits_int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_plainly(instance, l, err);
}

int32_t linear_fp8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_plainly(instance, l, err);
}

static int32_t launch_wide(void *instance, const tn_launch *l, tn_err *err)
{
    struct piece p = {.d = set_device_of(instance, l->device),
                      .l = l,
                      .rows = l->batch->n_rows,
                      .x = l->in[0],
                      .y = l->out[0]};

    return p.rows ? multiply_plainly(&p, 1, err) : TN_OK;
}

int32_t linear_int4_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_wide(instance, l, err);
}

/* -- e4m3, short rows ----------------------------------------------------------------------------------------- */

int32_t short_fp8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_8(op, TN_DT_F8E4M3, err);

    return rc ? rc
              : cuda_require(op, is_short(instance, op),
                             "is for rows of less than 1024 on a GPU with e4m3 arithmetic", err);
}

double short_fp8_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return plain_cost(op, rows, FLOAT_OPS_PER_NS);
}

int32_t short_fp8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return launch_wide(instance, l, err);
}

/* -- int4, few rows ------------------------------------------------------------------------------------------ */

int32_t few_int4_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_4(op, err);

    (void)instance;
    return rc ? rc
              : cuda_require(
                    op, tn_op_int(op, "group", 0) % 32 == 0 && op->weights[0]->stride0 % 16 == 0,
                    "wants groups of a multiple of 32, rows of a multiple of 16 bytes", err);
}

double few_int4_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    double n = (double)op->out[0]->width, k = (double)op->in[0]->width;

    (void)instance;
    return set_time_ns(n * k / 2.0 * (1.0 + 0.25 * (double)rows), 0.0, 1.0);
}

int32_t few_int4_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *op = l->op;
    struct quant_args a = {.x = l->in[0],
                           .w = l->weights[0],
                           .y = l->out[0],
                           .n = op->out[0]->width,
                           .k = op->in[0]->width,
                           .stride = op->weights[0]->stride0,
                           .rows = l->batch->n_rows,
                           .groups = groups_of(l)};
    uint32_t height = a.rows == 1 ? 1 : 4, entry = a.rows == 1 ? ENTRY_few_i4_1 : ENTRY_few_i4_4;
    struct cuda_grid g = {
        .x = cuda_div_up(a.rows, height), .y = cuda_div_up(a.n, FEW_OUTPUTS), .threads = 256};

    a.bias = bias_of(l, &a.bias_dtype);
    return set_launch(set_device_of(instance, l->device), l, IMAGE_quant, entry + float_index(op),
                      g, &a, err);
}

/* -- Through the library -------------------------------------------------------------------------------------------- */

static int32_t check_library(void *instance, const tn_op *op, uint64_t unit, tn_err *err)
{
    const struct set_device *d = set_any_device(instance);
    const tn_weight *w = op->weights[0];

    if (!d || !d->gemm.handle)
        return cuda_require(op, 0, d ? d->gemm.reason : "the set is not attached to a device", err);
    return cuda_require(op, w->dims[0] % unit == 0 && w->dims[1] % unit == 0,
                        "cuBLASLt wants rows of a multiple of 16 bytes", err);
}

int32_t gemm_linear_int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_8(op, TN_DT_I8, err);

    if (!rc)
        rc = check_library(instance, op, 16, err);
    return rc ? rc
              : cuda_require(op, op->weights[0]->stride0 % 16 == 0,
                             "cuBLASLt wants rows of a multiple of 16 bytes", err);
}

int32_t gemm_logits_int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    return gemm_linear_int8_can_run(instance, op, err);
}

int32_t gemm_linear_fp8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_8(op, TN_DT_F8E4M3, err);

    if (!rc)
        rc = check_library(instance, op, 16, err);
    if (!rc)
        rc = cuda_require(op, has_e4m3(instance), "this GPU has no e4m3 arithmetic", err);
    return rc ? rc
              : cuda_require(op, op->weights[0]->stride0 % 16 == 0,
                             "cuBLASLt wants rows of a multiple of 16 bytes", err);
}

int32_t gemm_linear_fp8_wide_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_8(op, TN_DT_F8E4M3, err);

    if (!rc)
        rc = check_library(instance, op, 8, err);
    return rc ? rc
              : cuda_require(op, !has_e4m3(instance), "this GPU has e4m3 arithmetic of its own",
                             err);
}

int32_t gemm_linear_fp8_short_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = short_fp8_can_run(instance, op, err);

    return rc ? rc : check_library(instance, op, 8, err);
}

int32_t gemm_linear_int4_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_4(op, err);

    return rc ? rc : check_library(instance, op, 8, err);
}

/* The product's own time, the passes over what it reads and leaves, and three launches. */
static double library_cost_ns(void *instance, const tn_op *op, uint32_t rows, int widened)
{
    const struct set_device *d = set_any_device(instance);
    double n = (double)op->out[0]->width, k = (double)op->in[0]->width, t = (double)rows;
    double speed = gemm_flops_per_ns(d ? d->device : NULL, widened ? TN_DT_F16 : TN_DT_I8);
    double moved = n * k * (widened ? 5.0 : 1.0) + t * (n * 10.0 + k * 4.0);

    return 9000.0 + set_time_ns(moved, 2.0 * t * n * k, speed);
}

double gemm_quant_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    return is_short(instance, op) ? -1.0 : library_cost_ns(instance, op, rows, 0);
}

double gemm_wide_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    return library_cost_ns(instance, op, rows, 1);
}

/* Behind a gate; rows that may not be rounded are not taken. */
int32_t gate_quant_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const tn_op *m = linear_of(op);
    int32_t rc;

    if (op->n_members != 3 || !cuda_form(op, 2, 1, 2, 3) || op->in[0]->width != op->in[1]->width ||
        op->in[0]->dtype != op->in[1]->dtype || op->in[0]->dtype != op->out[0]->dtype)
        return cuda_require(op, 0, "needs a gate of two equal rows, and a product of it", err);
    rc = op->members[2]->n_weights && matrix_dtype(m) == TN_DT_I8
             ? gemm_linear_int8_can_run(instance, m, err)
             : gemm_linear_fp8_can_run(instance, m, err);
    return rc ? rc
              : cuda_require(op, m->in[0]->width * act_bytes(m) <= QUANTIZE_GATE_BYTES,
                             "takes rows of up to 60 KiB", err);
}

double gate_quant_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    const tn_op *m = linear_of(op);
    double more = (double)rows * (double)m->in[0]->width * 2.0 / 2e3;

    return is_short(instance, m) ? -1.0 : library_cost_ns(instance, m, rows, 0) + more;
}

static uint32_t run_rows(uint32_t rows)
{
    return rows > RUN ? RUN : rows < LEAST_ROWS ? LEAST_ROWS : rows;
}

/* Sizes of the parts of the workspace behind the library's, each a multiple of 256 bytes. */
struct parts {
    uint64_t matrix, q, step, sums;
};

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static struct parts parts_of(const tn_op *op, uint32_t rows, int widened)
{
    uint64_t n = op->out[0]->width, k = op->in[0]->width, run = run_rows(rows);
    uint64_t summed = makes_logits(op) ? LEAST_ROWS : run; /* of more, where logits will be */

    return (struct parts){.matrix = widened ? round_up(n * k * act_bytes(op)) : 0,
                          .q = widened ? 0 : round_up(run * k),
                          .step = widened ? 0 : round_up(run * sizeof(float)),
                          .sums = round_up(summed * n * 4)};
}

static uint64_t library_workspace(const tn_op *op, uint32_t rows, int widened)
{
    struct parts s = parts_of(linear_of(op), rows, widened);

    return GEMM_WORKSPACE + s.matrix + s.q + s.step + s.sums;
}

static int32_t launch_library(void *instance, const tn_launch *l, int widened, tn_err *err)
{
    const tn_op *op = linear_of(l->op);
    uint32_t rows = cuda_rows(l);
    struct parts s = parts_of(op, rows, widened);
    char *at = (char *)l->workspace + GEMM_WORKSPACE;
    struct piece p = {.d = set_device_of(instance, l->device), .l = l, .library = l->workspace};
    int32_t rc = TN_OK;

    p.matrix = at;
    p.q = at += s.matrix;
    p.step = (float *)(void *)(at += s.q);
    at += s.step;
    if (widened && rows)
        rc = widen(&p, err);
    for (; p.first < rows && rc == TN_OK; p.first += p.rows) {
        p.rows = rows - p.first < RUN ? rows - p.first : RUN;
        find_rows(&p);
        p.sums = makes_logits(op) && p.rows >= LEAST_ROWS ? p.y : at;
        if (!widened)
            rc = quantize(&p, err);
        if (rc == TN_OK)
            rc = multiply(&p, widened, err);
    }
    return rc;
}

#define WAY(way, widened)                                                                          \
    int32_t gemm_##way##_workspace(void *instance, const tn_op *op, uint32_t max_rows,             \
                                   uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,       \
                                   tn_err *err)                                                    \
    {                                                                                              \
        (void)instance;                                                                            \
        (void)max_seqs;                                                                            \
        (void)max_context;                                                                         \
        (void)err;                                                                                 \
        *bytes = library_workspace(op, max_rows, widened);                                         \
        return TN_OK;                                                                              \
    }                                                                                              \
    int32_t gemm_##way##_launch(void *instance, const tn_launch *l, tn_err *err)                   \
    {                                                                                              \
        return launch_library(instance, l, widened, err);                                          \
    }

WAY(quant, 0)
WAY(wide, 1)
