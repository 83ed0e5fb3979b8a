/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The safetensors container (github.com/huggingface/safetensors, README "Format"): 8 bytes of header length N,
 * N bytes of JSON, then raw tensors. Checked as strictly as the original: tensors tile the data without
 * holes or overlap, sizes match shape and dtype, and nothing follows them.
 */
#ifndef CORE_BUILD_SAFETENSORS_H
#define CORE_BUILD_SAFETENSORS_H

#include "base/arena.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/map.h"

#define SAFETENSORS_MAX_DIMS 8

struct st_tensor {
    const char *name;
    uint32_t dtype; /* ::tn_dtype, or 0 for one that Tenon does not compute with */
    uint32_t n_dims;
    uint64_t dims[SAFETENSORS_MAX_DIMS];
    uint64_t offset; /* in the file */
    uint64_t bytes;
};

struct st_header {
    struct arena arena;
    struct st_tensor *tensors; /* in order of offset */
    size_t n_tensors;
    struct map names; /* name -> index */
    json_t *root;     /* owns the names */
};

/* Parses the header of a file of `file_size` bytes whose first 8 + header bytes are at data[0..size).
 * Release `out` in any case of success. */
int32_t safetensors_parse(const uint8_t *data, size_t size, uint64_t file_size, const char *file,
                          struct st_header *out, tn_err *err);
void st_header_release(struct st_header *h);

/* Reads and parses the header of an open file. */
int32_t safetensors_read(const struct file_reader *f, struct st_header *out, tn_err *err);

/* The tensor of that name, or NULL. */
const struct st_tensor *safetensors_find(const struct st_header *h, const char *name);

/* Writes the header of a file with tensors in the given order (their offsets are ignored), whose data follow in that order. */
int32_t safetensors_begin(const struct file_writer *w, const struct st_tensor *tensors, size_t n,
                          tn_err *err);

/* Writes a file whose data are all in memory; file_write_atomic semantics. */
int32_t safetensors_write(const char *path, const struct st_tensor *tensors,
                          const void *const *data, size_t n, tn_err *err);

#endif
