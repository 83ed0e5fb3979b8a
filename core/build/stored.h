/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints that somebody quantized already: the host's side of a format (tenon/quant_format.h). A matrix is named by the
 * tensor "X.weight" that it would be without quantization.
 *
 * Any number of threads may ask, read and fill at once.
 */
#ifndef CORE_BUILD_STORED_H
#define CORE_BUILD_STORED_H

#include <jansson.h>

#include "build/checkpoint.h"
#include "plugin/registry.h"

struct stored;
struct weight_source;

/* Finds who reads the `quantization_config` of config.json; `out` stays NULL if there is none. */
int32_t stored_open(const struct registry_view *plugins, const json_t *config,
                    const char *config_path, const struct checkpoint *c, struct stored **out,
                    tn_err *err);
void stored_close(struct stored *s); /* NULL is allowed */

const tn_quant_format *stored_format(const struct stored *s);
const char *stored_method(const struct stored *s);
const char *stored_plugin(const struct stored *s);

/* Rows and columns of a quantized matrix; TN_E_NOTFOUND, err unfilled, for what is stored plainly. */
int32_t stored_describe(const struct stored *s, const char *tensor, uint64_t dims[2], tn_err *err);

/* Whose a tensor of the checkpoint is (::tn_quant_owns); `weight` receives the "X.weight" that it is a part of. */
uint32_t stored_owner(const struct stored *s, const char *tensor, char *weight, size_t size);

/* What a linear becomes whose matrix comes from these sources, all of them quantized. TN_E_UNSUPPORTED: no op fits. */
int32_t stored_plan(const struct stored *s, const struct weight_source *sources, uint32_t n,
                    tn_quant_plan *out, tn_err *err);
int32_t stored_fill(const struct stored *s, const struct weight_source *sources, uint32_t n,
                    void *const *out, double *error, tn_err *err);

/* The order in which those tensors have the matrix's `n_columns` columns, as tn_quant_format::order; a plugin that leaves one out is
 * refused. TN_E_NOTFOUND, err unfilled: its own. */
int32_t stored_order(const struct stored *s, const struct weight_source *sources, uint32_t n,
                     uint32_t *order, uint64_t n_columns, tn_err *err);

/* The source's rows as float32. */
int32_t stored_widen(const struct stored *s, const struct weight_source *source, float *w,
                     tn_err *err);

/* Scales of an 8-bit cache for the attention that the matrix X of "X.weight" belongs to. TN_E_NOTFOUND: none. */
int32_t stored_cache(const struct stored *s, const char *tensor, uint32_t *dtype, float scale[2],
                     tn_err *err);

#endif
