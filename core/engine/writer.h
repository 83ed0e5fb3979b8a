/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing model.engine: weights stream in any order by offset or, usually, one after another; then the
 * JSON sections; the header goes in last, so that an interrupted file is not an engine.
 */
#ifndef CORE_ENGINE_WRITER_H
#define CORE_ENGINE_WRITER_H

#include <jansson.h>

#include "engine/format.h"
#include "engine/plan.h"

struct engine_writer;

/* Creates the file `path`, which must not exist. `plan` must outlive the writer. */
int32_t engine_writer_open(const char *path, const struct plan *plan, struct engine_writer **out,
                           tn_err *err);

/* Weights are written whole, one at a time, in the order of the plan. Appends `n` bytes to the current weight;
 * the next weight begins once the current one is complete. */
int32_t engine_writer_append(struct engine_writer *w, const void *data, size_t n, tn_err *err);

/* Marks the current weight, of which nothing has been appended, as a dummy of that seed. */
int32_t engine_writer_dummy(struct engine_writer *w, uint64_t seed, tn_err *err);

/* Writes plan, index and meta, then the header; syncs and closes. All weights must be complete. */
int32_t engine_writer_finish(struct engine_writer *w, const json_t *meta, tn_err *err);

/* Replaces the metadata of a finished engine: it is the last section. An interrupted call leaves no engine. */
int32_t engine_replace_meta(const char *path, const json_t *meta, tn_err *err);

/* Closes without finishing (the file stays, unusable) or after it. NULL is allowed. */
void engine_writer_free(struct engine_writer *w);

#endif
