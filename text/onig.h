/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translates a regular expression from Oniguruma's syntax, which the tokenizer files use, to PCRE2's.
 *
 * Where the two agree the text passes through; where they differ in meaning (\h, \s, \w, {n}+, (?m), nested and
 * intersected classes, the version of Unicode) it is rewritten; what PCRE2 cannot express is refused
 * with TN_E_UNSUPPORTED and the place in the pattern.
 */
#ifndef TEXT_ONIG_H
#define TEXT_ONIG_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strbuf.h"

/* Appends the translation of n bytes of valid UTF-8. To be compiled with PCRE2_UTF, _UCP and _MULTILINE and the newline LF. */
int32_t onig_translate(const char *pattern, size_t n, struct strbuf *out, tn_err *err);

/* Appends a pattern that matches exactly these bytes. */
void onig_literal(const char *text, size_t n, struct strbuf *out);

#endif
