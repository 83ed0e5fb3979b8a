/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A JSON document parsed into one flat array of nodes, for tokenizer.json: vocabularies are half a million
 * values, and a tree of heap objects costs more than everything else at load.
 *
 * Node 0 is the root. A container's children follow it; an object's children alternate between key and value.
 * `next` is the index after a node and all it contains, so that a value is skipped in one step. Strings are
 * unescaped in place and may hold NUL.
 */
#ifndef TEXT_JSONTAPE_H
#define TEXT_JSONTAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum tape_type {
    TAPE_NULL,
    TAPE_FALSE,
    TAPE_TRUE,
    TAPE_NUMBER,
    TAPE_STRING,
    TAPE_ARRAY,
    TAPE_OBJECT
};

struct tape_node {
    uint8_t type;
    uint32_t off; /* string or number: where its text begins */
    uint32_t len; /* string or number: bytes; array: elements; object: members */
    uint32_t next;
};

struct tape {
    char *text; /* owned */
    struct tape_node *nodes;
    size_t count, cap;
    const char *file; /* for messages; owned by the caller */
};

/* Takes over `text` (from mem_alloc; len + 1 bytes) in any case. Refuses invalid UTF-8, lone surrogates,
 * nesting deeper than LIMIT_JSON_DEPTH, and anything after the value; the error has the byte offset. */
int32_t tape_parse(char *text, size_t len, const char *file, struct tape *out, tn_err *err);
int32_t tape_read(const char *path, uint64_t limit, struct tape *out, tn_err *err);
void tape_release(struct tape *t); /* zeroed is allowed */

/* Nodes are named by index; TAPE_NONE stands for "absent" and may be given to every getter. */
#define TAPE_NONE UINT32_MAX

static inline const char *tape_str(const struct tape *t, uint32_t node, size_t *len)
{
    *len = t->nodes[node].len;
    return t->text + t->nodes[node].off;
}

static inline bool tape_is(const struct tape *t, uint32_t node, enum tape_type type)
{
    return node != TAPE_NONE && t->nodes[node].type == (uint8_t)type;
}

/* The member's value. JSON null counts as absent. */
uint32_t tape_get(const struct tape *t, uint32_t object, const char *key);
uint32_t tape_get_n(const struct tape *t, uint32_t object, const char *key, size_t len);

/* Whether the string node equals `text`. */
bool tape_eq(const struct tape *t, uint32_t node, const char *text);

/* TN_E_FORMAT if the object has a key twice; for objects of few members. */
int32_t tape_unique(const struct tape *t, uint32_t object, tn_err *err);

/* Numbers; false if it is not one (tape_uint: not a whole number of at most 32 bits). tape_real rounds as the reference's
 * parser does, which can differ from the nearest double in the last bit, since scores decide ties. */
bool tape_uint(const struct tape *t, uint32_t node, uint32_t *out);
bool tape_real(const struct tape *t, uint32_t node, double *out);

/* A member that must be true or false if present; TN_E_TYPE otherwise. */
int32_t tape_get_bool(const struct tape *t, uint32_t object, const char *key, bool fallback,
                      bool *out, tn_err *err);
/* A member that must be a string; TN_E_FORMAT if absent or of another type. */
int32_t tape_need_str(const struct tape *t, uint32_t object, const char *key, const char **out,
                      size_t *len, tn_err *err);

/* Error about a node: fills file, offset and field. */
TN_PRINTF(5, 6)
int32_t tape_err(const struct tape *t, uint32_t node, const char *field, tn_err *err,
                 const char *fmt, ...);

#endif
