/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine opened for reading: mapped, its plan and tensor index parsed and checked against each other.
 *
 * Opening reads the header and the JSON sections (kilobytes to a few megabytes) and nothing of the weights.
 * engine_verify reads everything. An open engine is immutable and may be used from any thread.
 */
#ifndef CORE_ENGINE_ENGINE_H
#define CORE_ENGINE_ENGINE_H

#include <jansson.h>

#include "base/file.h"
#include "engine/format.h"
#include "engine/plan.h"

#define ENGINE_FILE "model.engine"
#define ENGINE_CONFIG "config.json"

/* Where the elements of one plan weight are. Same index as plan->weights. */
struct engine_tensor {
    uint64_t offset; /* from the start of the weights section */
    uint64_t bytes;
    uint8_t digest[XXH128_BYTES];
    bool dummy; /* no bytes stored: fill with random numbers from `seed` */
    uint64_t seed;
};

struct engine {
    char *dir;  /* NULL: opened from memory */
    char *path; /* of model.engine */
    struct file_map map;
    struct engine_header header;
    struct plan *plan;
    struct engine_tensor *tensors;
    json_t *meta;
};

/* `dir` is an engine directory, or the path of a model.engine itself. */
int32_t engine_open(const char *dir, struct engine **out, tn_err *err);

/* The same for the bytes of a model.engine in memory, which must outlive the engine and be aligned like a mapped file if
 * its weights are used. `name` stands for the file in messages. For tests and fuzzers. */
int32_t engine_open_bytes(const void *data, uint64_t size, const char *name, struct engine **out,
                          tn_err *err);

void engine_close(struct engine *e); /* NULL is allowed */

/* The canonical elements of weight `i`, mapped; NULL if it is a dummy. */
const void *engine_weight(const struct engine *e, uint32_t i);

/* Called with the bytes verified so far, of `total`; nonzero ends the verification with TN_E_CANCELED. */
typedef int (*engine_progress)(void *arg, uint64_t done, uint64_t total);

/* Reads the whole file and compares every digest. TN_E_DIGEST names section or tensor. */
int32_t engine_verify(const struct engine *e, engine_progress progress, void *arg, tn_err *err);

/* Reads all stored weights of float dtypes: TN_E_FORMAT names the first that holds NaN or infinity, and where. */
int32_t engine_check_finite(const struct engine *e, engine_progress progress, void *arg,
                            tn_err *err);

#endif
