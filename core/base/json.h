/* SPDX-License-Identifier: Apache-2.0 */
/* Reading JSON from outside with jansson: size and depth caps, duplicate keys refused, typed getters
 * whose errors name the file, the field, the value and the range. */
#ifndef CORE_BASE_JSON_H
#define CORE_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Parses a text. `name` stands for the file in errors. The root may be any value. */
int32_t json_parse(const char *text, size_t len, const char *name, json_t **out, tn_err *err);

/* Reads and parses a file of at most `limit` bytes. */
int32_t json_read(const char *path, uint64_t limit, json_t **out, tn_err *err);

/* The value at a dotted path with optional indexes ("a.b[3].c") or NULL. JSON null counts as absent. */
const json_t *json_at(const json_t *root, const char *path);

/* The text of a string value; NULL if it is none, or holds a NUL byte that would hide what follows. */
const char *json_plain(const json_t *v);

/* Getters: TN_OK; TN_E_NOTFOUND without filling `err` if absent; TN_E_TYPE or TN_E_RANGE. */
int32_t json_get_int(const json_t *root, const char *file, const char *path, int64_t min,
                     int64_t max, int64_t *out, tn_err *err);
int32_t json_get_real(const json_t *root, const char *file, const char *path, double min,
                      double max, double *out, tn_err *err);
int32_t json_get_bool(const json_t *root, const char *file, const char *path, bool *out,
                      tn_err *err);
int32_t json_get_str(const json_t *root, const char *file, const char *path, const char **out,
                     tn_err *err);

/* TN_E_FORMAT "is missing" for a getter's TN_E_NOTFOUND. */
int32_t json_missing(const char *file, const char *path, tn_err *err);

/* Short text of a value for an error message: at most `size` bytes with NUL. */
void json_brief(const json_t *v, char *out, size_t size);

#endif
