/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sample quantization plugin: int8 weights by rounding to nearest, symmetric, with one scale per output row. Activations are
 * quantized per token when the op runs ("linear.int8" in ops.h; W8A8 as in Dettmers et al. 2022 without outliers).
 *
 * A scheme sees one matrix at a time and says what is stored in its place and which op consumes that; kernels do the
 * rest. This one needs no calibration. It refuses what it would spoil, and the matrix then stays as it is.
 */
#include <math.h>

#include "tenon/ops.h"
#include "tenon/plugin.h"
#include "tenon/quant.h"

TN_PLUGIN_NOTE(.kinds = TN_KIND_QUANT, .name = "acme-int8", .vendor = "acme", .version = "1.0.0");

/* 2^17 products of 127 * 127 just fit the exact int32 sum that linear.int8 promises. */
#define MAX_INPUTS (UINT64_C(1) << 17)

static int32_t plan(void *build, const tn_op *op, const tn_quant_stats *stats, tn_quant_plan *out,
                    tn_err *err)
{
    uint64_t n, k;

    (void)build;
    (void)stats;
    if (op->n_weights < 1 || op->weights[0]->n_dims != 2)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s has no matrix", op->name);
    n = op->weights[0]->dims[0];
    k = op->weights[0]->dims[1];
    if (k > MAX_INPUTS)
        return tn_err_set(err, TN_E_UNSUPPORTED, "%s has %llu inputs; at most %llu are exact",
                          op->weights[0]->name, (unsigned long long)k,
                          (unsigned long long)MAX_INPUTS);
    out->op = TN_OP_LINEAR_INT8;
    out->n_tensors = 2;
    out->tensors[0] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                        .suffix = ".qweight",
                                        .dtype = TN_DT_I8,
                                        .n_dims = 2,
                                        .dims = {n, k},
                                        .rows = 1};
    out->tensors[1] = (tn_quant_tensor){.h = TN_HDR(tn_quant_tensor),
                                        .suffix = ".scale",
                                        .dtype = TN_DT_F32,
                                        .n_dims = 1,
                                        .dims = {n},
                                        .rows = 1};
    return TN_OK;
}

/* One row: its scale, then its elements. False if it has NaN or infinity, which no scale can hold. */
static int quantize_row(const float *w, uint64_t k, int8_t *q, float *scale)
{
    float most = 0.0f;

    for (uint64_t i = 0; i < k; i++) {
        if (!isfinite(w[i]))
            return 0;
        most = fmaxf(most, fabsf(w[i]));
    }
    *scale = most / 127.0f;
    if (!isnormal(
            *scale)) { /* too small to divide by; such a row contributes nothing that matters */
        *scale = 0.0f;
        for (uint64_t i = 0; i < k; i++)
            q[i] = 0;
        return 1;
    }
    /* Half to even, as the default rounding mode says. The quotient cannot exceed 127 by more than rounding. */
    for (uint64_t i = 0; i < k; i++)
        q[i] = (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(w[i] / *scale)));
    return 1;
}

static int32_t quantize(void *build, const tn_op *op, const tn_quant_stats *stats, const float *w,
                        void *const *out, tn_err *err)
{
    uint64_t n = op->weights[0]->dims[0], k = op->weights[0]->dims[1];
    int8_t *q = out[0];
    float *scale = out[1];

    (void)build;
    (void)stats;
    for (uint64_t r = 0; r < n; r++)
        if (!quantize_row(w + r * k, k, q + r * k, scale + r))
            return tn_err_set(err, TN_E_NAN, "row %llu of %s has NaN or infinity",
                              (unsigned long long)r, op->weights[0]->name);
    return TN_OK;
}

static const tn_quant_scheme scheme = {
    .h = TN_HDR(tn_quant_scheme),
    .name = "int8_rtn",
    .summary = "int8 weights with a scale per output row, rounded to nearest; no calibration",
    .fallback = "any kernel set with linear.int8; the reference set has it on every machine",
    .plan = plan,
    .quantize = quantize};

static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_QUANT, &scheme}};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "acme-int8",
                                 .vendor = "acme",
                                 .version = "1.0.0",
                                 .n_ifaces = 1,
                                 .ifaces = ifaces};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
