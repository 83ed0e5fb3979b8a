/* SPDX-License-Identifier: Apache-2.0 */
/* The tokens of a model: id to text and back. Immutable once indexed. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/map.h"
#include "jsontape.h"

#define VOCAB_NONE UINT32_MAX

struct vocab_entry {
    uint32_t off, len; /* len VOCAB_NONE: the id is not used */
};

struct vocab {
    char *text; /* all texts as the file writes them, a NUL behind each */
    size_t text_len, text_cap;
    struct vocab_entry *entries; /* by id */
    size_t size, cap;            /* one more than the largest id */
    size_t count;                /* ids in use */
    bool bytes;                  /* keys are raw bytes, not texts (GPT-2's alphabet undone) */
    char *raw;                   /* `bytes`: raw forms, in the order of ids */
    struct vocab_entry *raws;    /* by id; VOCAB_NONE: a text outside the alphabet */
    struct map keys;             /* what the model looks up: raw form or text */
    struct map texts;            /* `bytes`: texts outside the alphabet */
};

void vocab_release(struct vocab *v); /* zeroed is allowed */

/* Adds an entry before indexing. TN_E_FORMAT for an id that is taken or above LIMIT_VOCAB, or a text that is too long. */
int32_t vocab_add(struct vocab *v, uint32_t id, const char *text, size_t len, tn_err *err);

/* Reads the "vocab" member {"text": id, ...} of a model and indexes it (`bytes` as in vocab_index). TN_E_FORMAT for what
 * is no vocabulary: none, an id that is not a number, or text or id that stands twice. */
int32_t vocab_load_object(struct vocab *v, const struct tape *t, uint32_t model, bool bytes,
                          tn_err *err);

/* Builds the maps. With `last_wins` a text that stands twice belongs to its last id, else it is TN_E_FORMAT. */
int32_t vocab_index(struct vocab *v, bool bytes, bool last_wins, tn_err *err);

/* Gets the text of an id; false if it is not used. */
bool vocab_text(const struct vocab *v, uint32_t id, const char **text, size_t *len);

/* The id of a text as the file writes it; VOCAB_NONE. */
uint32_t vocab_find(const struct vocab *v, const char *text, size_t len);

/* The id of a key (raw bytes if `bytes`); VOCAB_NONE. */
static inline uint32_t vocab_key(const struct vocab *v, const char *key, size_t len)
{
    uint64_t id;

    return map_get(&v->keys, key, len, &id) ? (uint32_t)id : VOCAB_NONE;
}

/* The id of "<0x00>" to "<0xFF>"; VOCAB_NONE. */
uint32_t vocab_byte(const struct vocab *v, unsigned char byte);

#endif
