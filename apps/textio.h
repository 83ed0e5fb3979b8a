/* SPDX-License-Identifier: Apache-2.0 */
/* Text around a request: prompts to ids, and tokens back to text as they come, with stop strings. */
#ifndef APPS_TEXTIO_H
#define APPS_TEXTIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tenon/error.h"

struct strbuf;
struct textio;

/* The tokenizer of an engine or checkpoint directory. TN_E_NOTFOUND if it has none. */
int32_t textio_open(const char *dir, struct textio **out, tn_err *err);
void textio_close(struct textio *t); /* NULL is allowed */

enum textio_flag {
    TEXTIO_ADD_SPECIAL = 1, /* the tokens that the tokenizer puts around a text (a BOS) */
    TEXTIO_READ_SPECIAL = 2 /* special tokens spelt out in the text become those tokens */
};

/* Free *ids with mem_free. */
int32_t textio_encode(const struct textio *t, const char *text, size_t len, uint32_t flags,
                      int32_t **ids, uint32_t *n, tn_err *err);

/* A conversation from the template `name` (NULL: the default) that ends where the answer begins. Special tokens are
 * the template's; what messages spell is text. Free *ids with mem_free. */
struct chat_source;
int32_t textio_chat(const struct textio *t, const char *name, const struct chat_source *s,
                    int32_t **ids, uint32_t *n, tn_err *err);

/* The token that ends a turn by the tokenizer's files ("eos_token"); -1 if they name none. */
int32_t textio_end_token(const struct textio *t);

/* -- One output ---------------------------------------------------------------------------------- */

struct textio_stream;

/* `stops` are n stop strings, each non-empty. */
int32_t textio_stream_new(const struct textio *t, const char *const *stops, uint32_t n,
                          struct textio_stream **out, tn_err *err);
void textio_stream_free(struct textio_stream *s); /* NULL is allowed */

/* Appends to `out` the text that is certain now. *stopped: a stop string was found; the text ends before it. */
int32_t textio_push(struct textio_stream *s, int32_t token, struct strbuf *out, bool *stopped,
                    tn_err *err);

/* Appends what was held back, at the end of an output that did not stop. */
int32_t textio_flush(struct textio_stream *s, struct strbuf *out, bool *stopped, tn_err *err);

#endif
