/* SPDX-License-Identifier: Apache-2.0 */
/* Regular expressions of tokenizer files: Oniguruma's syntax, run by PCRE2 with its JIT, in bounded time and memory. */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct regex; /* immutable, for any number of threads */

/* Compiles n bytes of valid UTF-8; `literal`: to match just these bytes. TN_E_UNSUPPORTED with the reason. */
int32_t regex_new(const char *pattern, size_t n, bool literal, struct regex **out, tn_err *err);
void regex_free(struct regex *r); /* NULL is allowed */

/* Memory that one thread matches with. */
struct regex_scratch;
int32_t regex_scratch_new(struct regex_scratch **out, tn_err *err);
void regex_scratch_free(struct regex_scratch *s); /* NULL is allowed */

/* All matches in a text, left to right, none overlapping. An empty match right behind the last one is passed over. */
struct regex_iter {
    const struct regex *regex;
    struct regex_scratch *scratch;
    const char *text; /* valid UTF-8 */
    size_t len;
    size_t from;
    size_t last_end; /* SIZE_MAX: no match yet */
};

void regex_iter_begin(struct regex_iter *it, const struct regex *r, struct regex_scratch *s,
                      const char *text, size_t len);

/* 1 and the match; 0 at the end; TN_E_LIMIT if the search took too long, TN_E_NOMEM. */
int32_t regex_iter_next(struct regex_iter *it, size_t *begin, size_t *end, tn_err *err);

#endif
