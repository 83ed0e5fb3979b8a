/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the vocabulary that a path means and reads it as a tokenizer.json, whatever kind of file it is. */
#ifndef TEXT_SOURCE_H
#define TEXT_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct source {
    char *dir;  /* where the files beside it are */
    char *file; /* the vocabulary */
};

void source_release(struct source *s); /* zeroed is allowed */

/* A directory: tokenizer.json, else a file of tiktoken's, else one of SentencePiece's. A file: itself. */
int32_t source_find(const char *path, struct source *out, tn_err *err);

/* The text of a tokenizer.json, the file's own or one that says the same; free with mem_free. */
int32_t source_read(const struct source *s, char **out, size_t *out_len, tn_err *err);

#endif
