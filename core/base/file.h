/* SPDX-License-Identifier: Apache-2.0 */
/* Files and directories. Sizes are checked before memory is taken; errors name the file. */
#ifndef CORE_BASE_FILE_H
#define CORE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Reads a regular file of at most `limit` bytes whole. `out` gets len + 1 bytes, the last NUL; free with
 * mem_free. Directories, FIFOs and devices are refused. */
int32_t file_read(const char *path, uint64_t limit, char **out, size_t *len, tn_err *err);

/* A file mapped read-only. */
struct file_map {
    const uint8_t *data; /* NULL if the file is empty */
    uint64_t size;
    int fd;
};

/* Maps a regular file. Fails if it is not one. The descriptor stays open until release. */
int32_t file_map_open(const char *path, struct file_map *out, tn_err *err);
void file_map_release(struct file_map *m); /* a map with fd -1 is allowed */

/* How the file is going to be read, also through the map's descriptor: `whole`, so that the system may read ahead, as it does
 * after opening; or parts of it, when nothing is read but what is touched or fetched. */
void file_map_expect(const struct file_map *m, bool whole);

/* Begins to read bytes that are about to be used. What cannot be read now is read, or fails, when it is touched. */
void file_map_fetch(const struct file_map *m, uint64_t at, uint64_t bytes);

/* An open file for reading at offsets, with its size at opening. */
struct file_reader {
    int fd;
    uint64_t size;
    char *path;
};

int32_t file_reader_open(const char *path, struct file_reader *out, tn_err *err);
/* Exactly `n` bytes at `offset`; a short file is TN_E_FORMAT ("ends early"). */
int32_t file_reader_at(const struct file_reader *f, uint64_t offset, void *buf, size_t n,
                       tn_err *err);
void file_reader_release(struct file_reader *f);

/* Writes all bytes to fd. */
int32_t file_write_all(int fd, const char *path, const void *data, size_t n, tn_err *err);
int32_t file_write_at(int fd, const char *path, uint64_t offset, const void *data, size_t n,
                      tn_err *err);

/* A file that is written piece by piece, to a temporary beside it: it is there whole, or not at all. */
struct file_writer {
    int fd;
    char *path, *temporary; /* NULL: not open */
};

int32_t file_writer_open(const char *path, struct file_writer *out, tn_err *err);
int32_t file_writer_put(const struct file_writer *w, const void *data, size_t n, tn_err *err);
/* Syncs, renames and releases. */
int32_t file_writer_commit(struct file_writer *w, tn_err *err);
/* Removes what was written; after a commit, and zeroed, it does nothing. */
void file_writer_release(struct file_writer *w);

/* Writes a whole file in this way. */
int32_t file_write_atomic(const char *path, const void *data, size_t n, tn_err *err);

/* dir + "/" + name, from mem_alloc; NULL without memory. */
char *path_join(const char *dir, const char *name);
/* The part after the last slash, inside `path`. */
const char *path_base(const char *path);
bool path_exists(const char *path);
bool path_is_dir(const char *path);
bool path_is_file(const char *path);

/* mkdir -p. */
int32_t dir_make(const char *path, tn_err *err);
/* Removes a directory and what is in it, links not followed; a missing one is no error. */
int32_t dir_remove(const char *path, tn_err *err);
/* Names in the directory except "." and "..", sorted by bytes. Free with dir_list_free. */
int32_t dir_list(const char *path, char ***names, size_t *count, tn_err *err);
void dir_list_free(char **names, size_t count);

/* Copies a regular file of at most `limit` bytes. */
int32_t file_copy(const char *from, const char *to, uint64_t limit, tn_err *err);

#endif
