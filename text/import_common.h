/* SPDX-License-Identifier: Apache-2.0 */
/* What the importers (import.h) share: JSON text, and what tokenizer_config.json adds to a vocabulary. */
#ifndef TEXT_IMPORT_COMMON_H
#define TEXT_IMPORT_COMMON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strbuf.h"

/* Appends n bytes of valid UTF-8 as a JSON string. */
void import_quote(struct strbuf *out, const char *text, size_t n);

/* Reads tokenizer_config.json; NULL path gives NULL. Free with json_decref. */
int32_t import_config_read(const char *path, json_t **out, tn_err *err);

/* A text member, or the "content" of an object (as roles are written); NULL if there is none. */
const char *import_config_text(const json_t *config, const char *name);

/* A switch, or `fallback`. */
bool import_config_bool(const json_t *config, const char *name, bool fallback);

struct import_token {
    char *content; /* owned */
    size_t len;
    uint32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
};

struct import_tokens {
    struct import_token *items;
    size_t count, cap;
};

void import_tokens_release(struct import_tokens *l); /* zeroed is allowed */

/* Adds a token unless its id is taken. TN_E_NOMEM. */
int32_t import_tokens_add(struct import_tokens *l, const char *content, size_t len, uint32_t id,
                          bool special, tn_err *err);

/* Adds those of "added_tokens_decoder". */
int32_t import_tokens_config(struct import_tokens *l, const json_t *config, const char *file,
                             tn_err *err);

const struct import_token *import_tokens_find(const struct import_tokens *l, uint32_t id);

/* Appends the value of "added_tokens", in the order of ids. */
void import_tokens_print(struct import_tokens *l, struct strbuf *out);

/* Appends the value of "post_processor": bos and eos (NULL: none) around the text. */
void import_template(const char *bos, uint32_t bos_id, const char *eos, uint32_t eos_id,
                     struct strbuf *out);

#endif
