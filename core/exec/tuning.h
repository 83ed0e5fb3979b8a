/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measured times of variants, kept between runs in a file beside the engine that may be deleted at any time. Selection goes by
 * them before it goes by a variant's own estimate.
 *
 * A time belongs to a variant, the shape of an op, and a number of rows; a file, to a kind of device, its driver, the
 * versions of the kernel sets, and those of libraries that they call. What does not match is not used, and goes when the file is written next.
 */
#ifndef CORE_EXEC_TUNING_H
#define CORE_EXEC_TUNING_H

#include "exec/graph.h"
#include "tenon/kernels.h"

#define TUNING_FILE "tuning.json"

struct tuning;

/* Empty. `key` says what the times depend on beside the op: name, capability and driver of the device, then the kernel sets with
 * the libraries that they call: "NVIDIA H200; 9.0; CUDA 13.0, 580.1; cuda 0.1.0 0f3a... (cuBLASLt 130002) ...". */
int32_t tuning_new(const char *key, struct tuning **out, tn_err *err);
void tuning_free(struct tuning *t); /* NULL is allowed */

/* Adds the times of a file. One that is missing, or of another key, adds none and is no error; a damaged one is
 * (TN_E_FORMAT), and then nothing is added. */
int32_t tuning_load(struct tuning *t, const char *path, tn_err *err);
int32_t tuning_save(const struct tuning *t, const char *path, tn_err *err);

/* Replaces a time, in nanoseconds. `plugin` is the name of the variant's plugin. */
int32_t tuning_set(struct tuning *t, const char *plugin, const tn_variant *v, const tn_op *op,
                   uint32_t rows, double ns, tn_err *err);

/* The time for that many rows, between the measured ones by linear interpolation, beyond the last in proportion. Negative if
 * the variant was not measured for such an op. `t` may be NULL. */
double tuning_get(const struct tuning *t, const char *plugin, const tn_variant *v, const tn_op *op,
                  uint32_t rows);

/* The most rows that the variant was measured at for such an op; 0: at none. `t` may be NULL. */
uint32_t tuning_rows(const struct tuning *t, const char *plugin, const tn_variant *v,
                     const tn_op *op);

/* Measured times in all. */
size_t tuning_count(const struct tuning *t);

#endif
