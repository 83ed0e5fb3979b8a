/* SPDX-License-Identifier: Apache-2.0 */
/* "Replace" of tokenizer.json, as normalizer and as decoder: a pattern (text or regex) and what takes its place. */
#ifndef TEXT_REPLACER_H
#define TEXT_REPLACER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "jsontape.h"
#include "regex.h"

struct replacer {
    struct regex *regex; /* owned; NULL: a literal that is not empty */
    char *literal;       /* owned; NULL: a regex */
    size_t literal_len;
    char *content; /* owned */
    size_t content_len;
};

/* Reads "pattern" and "content" of the step; copies what it keeps. */
int32_t replacer_load(const struct tape *t, uint32_t node, struct replacer *out, tn_err *err);
void replacer_release(struct replacer *r); /* zeroed is allowed */

/* The matches in a text (valid UTF-8), from left to right. */
struct replacer_iter {
    const struct replacer *replacer;
    struct regex_iter regex;
    const char *text;
    size_t len, from;
};

/* `scratch` may be NULL if the replacer has no regex. */
void replacer_begin(struct replacer_iter *it, const struct replacer *r,
                    struct regex_scratch *scratch, const char *text, size_t len);

/* 1 and the match, 0 at the end, or an error of regex_iter_next. */
int32_t replacer_next(struct replacer_iter *it, size_t *begin, size_t *end, tn_err *err);

#endif
