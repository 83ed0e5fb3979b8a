/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What quantization did, as JSON that the engine keeps (meta.h, "quant") and `engine inspect` shows:
 *
 *   {"scheme": "int8_sq", "plugin": "int8_sq", "options": {"alpha": "0.5"}, "prequantized": false,
 *    "bytes": {"before": ..., "after": ...},              of the matrices of linears and experts
 *    "linears": [{"name": "layers.0.attn.q.weight", "op": "linear.int8", "smoothed": true, "error": 0.004},
 *                {"name": ..., "kept": "why"}, ...],
 *                {"name": "layers.0.moe.down.weight", "op": "moe_mlp", "dtype": "int8", ...},    a stack of experts
 *    "left": [{"name": "layers.0.x", "op": "acme.mix"}, ...]}     matrices of other ops: at full precision
 *
 * "prequantized": the checkpoint came so; then "scheme" is its quant_method, and a linear may have "weight_error" (of what
 * was made against what the checkpoint says) and "note".
 */
#ifndef CORE_BUILD_REPORT_H
#define CORE_BUILD_REPORT_H

#include <jansson.h>

#include "build/quant.h"

/* How many matrices the op multiplies by that no scheme changes, because it is neither a linear nor experts. */
uint32_t report_left(const struct plan *p, const struct plan_op *op);

/* NULL without memory. */
json_t *quant_report(const struct quant *q);

#endif
