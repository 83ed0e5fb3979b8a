/* SPDX-License-Identifier: Apache-2.0 */
/* Which files might be plugins, and whether anybody else could have put them there. */
#ifndef CORE_PLUGIN_DISCOVER_H
#define CORE_PLUGIN_DISCOVER_H

#include <stdint.h>

#include "base/err.h"

/* A file to look at. */
struct candidate {
    char *path; /* links resolved */
    tn_err err; /* TN_OK, or why nobody should look */
};

struct candidates {
    struct candidate *items;
    size_t count, cap;
};

/*
 * Adds every "*.so" of the directory in order of names. TN_E_INVALID if `dir` is not absolute, TN_E_NOTFOUND if it
 * is not there, TN_E_LIMIT beyond LIMIT_PLUGINS files, TN_E_NOMEM. Files that are not regular, and files or
 * directories that somebody else than root and this user owns or may write to, are added with an error.
 */
int32_t discover_dir(const char *dir, struct candidates *out, tn_err *err);

void discover_release(struct candidates *c);

/* Opens a candidate, makes the same checks on what was opened, and reads it whole. `dev` and `ino` tell
 * files apart. Free *data with mem_free. */
int32_t discover_read(const char *path, char **data, size_t *size, uint64_t *dev, uint64_t *ino,
                      tn_err *err);

#endif
