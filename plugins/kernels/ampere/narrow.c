/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with weights of 4 and 8 bits: what the set adds to ../common/narrow.c. Rows of int8 products are quantized first, behind
 * the norm if there is one, into the workspace. Weights of linear.fp8 are multiplied with rows as they are, where hardware
 * has no e4m3 arithmetic. Threads: set.h.
 */
#include "set.h"

const struct cuda_code *narrow_code(void *instance, const tn_device *device, uint32_t dtype)
{
    const struct set_device *d = ampere_device(instance, device);

    return dtype == TN_DT_I4 ? &d->int4 : dtype == TN_DT_I8 ? &d->int8 : &d->fp8;
}

int32_t int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = narrow_can_run(instance, op, err);

    return rc ? rc
              : cuda_require(op, op->in[0]->width <= QUANTIZE_WIDEST, "takes rows of up to 32768",
                             err);
}

/* Quantized rows, then their steps. */
int32_t int8_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                       uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = max_rows * (op->in[0]->width + sizeof(float));
    return TN_OK;
}

int32_t int8_launch(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_op *norm, *linear = narrow_linear(l->op, &norm);
    uint64_t width = l->op->in[0]->width;
    uint32_t rows = cuda_rows(l);
    struct quantize_args a = {.x = l->in[0],
                              .q = l->workspace,
                              .step = (float *)((char *)l->workspace + rows * width),
                              .width = (uint32_t)width,
                              .scale = (float)tn_op_real(linear, "act_scale", 0.0)};
    struct cuda_grid g = {.x = rows,
                          .threads = QUANTIZE_THREADS,
                          .shared_bytes = (uint32_t)width * 2,
                          .flags = TN_LAUNCH_OVERLAP};
    uint32_t type = cuda_float_index(l->op->in[0]->dtype) - 1;
    int32_t rc;

    if (norm) {
        a.weight = l->weights[0];
        a.weight_dtype = norm->weights[0]->dtype;
        a.eps = (float)tn_op_real(norm, "eps", 0.0);
        a.offset = (float)tn_op_real(norm, "offset", 0.0);
    }
    if (l->op->out[0]->kind == TN_VALUE_LOGITS)
        a.row_index = l->batch->dev->logits_row;
    rc = code_launch(narrow_code(instance, l->device, TN_DT_I8), l->stream, N_NARROW_NAMES + type,
                     g, &a, err);
    return rc ? rc : narrow_multiply(instance, l, a.q, a.step, err);
}
