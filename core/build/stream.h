/* SPDX-License-Identifier: Apache-2.0 */
/* Moves weights from a checkpoint into an engine file in bounded memory: two chunks, or, for a weight that must be
 * transposed, the whole source tensor and a chunk. */
#ifndef CORE_BUILD_STREAM_H
#define CORE_BUILD_STREAM_H

#include "build/emit.h"
#include "engine/writer.h"

struct stream_options {
    const struct checkpoint *checkpoint;
    struct engine_writer *writer;
    /* Called with the bytes written so far; nonzero ends the build with TN_E_CANCELED. */
    int (*progress)(void *arg, uint64_t done);
    void *arg;
    /* Called before a matrix, of experts each one, is quantized; may be NULL. */
    int32_t (*before)(void *arg, const struct quantized *m, uint32_t expert);
};

/* Writes every weight of the plan, in its order. */
int32_t stream_weights(const struct emission *e, const struct stream_options *o, tn_err *err);

#endif
