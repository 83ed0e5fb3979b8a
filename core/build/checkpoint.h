/* SPDX-License-Identifier: Apache-2.0 */
/* A Hugging Face checkpoint directory: config.json and one or many safetensors files. Tensors are found by name
 * over all shards and read in pieces; nothing is mapped, so that memory stays bounded and visible. */
#ifndef CORE_BUILD_CHECKPOINT_H
#define CORE_BUILD_CHECKPOINT_H

#include "build/safetensors.h"

struct checkpoint;

/* Opens the weights of `dir`: model.safetensors.index.json if there, else model.safetensors, else the only
 * *.safetensors file. Every shard's header is read and checked against the index. */
int32_t checkpoint_open(const char *dir, struct checkpoint **out, tn_err *err);
void checkpoint_close(struct checkpoint *c); /* NULL is allowed */

/* The tensor of that name; NULL if there is none. */
const struct st_tensor *checkpoint_find(const struct checkpoint *c, const char *name);

/* The file that holds the tensor, for messages. */
const char *checkpoint_file_of(const struct checkpoint *c, const char *name);

/* Reads `n` bytes of the tensor's data, beginning at byte `offset` of it. */
int32_t checkpoint_read(const struct checkpoint *c, const char *name, uint64_t offset, void *buf,
                        size_t n, tn_err *err);

size_t checkpoint_n_tensors(const struct checkpoint *c);
uint64_t checkpoint_bytes(const struct checkpoint *c);

/* Calls fn for every tensor until it returns nonzero. */
typedef int (*checkpoint_visit)(void *arg, const struct st_tensor *t);
void checkpoint_each(const struct checkpoint *c, checkpoint_visit fn, void *arg);

#endif
