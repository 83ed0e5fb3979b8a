/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hand-written scanners for the split regexes that most published models share. A scanner stands for one pattern,
 * letter by letter, and gives the same matches; tests hold the two against each other.
 */
#ifndef TEXT_SCAN_H
#define TEXT_SCAN_H

#include <stddef.h>
#include <stdint.h>

struct scanner {
    const char *pattern; /* the regex it stands for; its matches cover every text without a gap */
    /* The end of the match that begins at `pos` < len. The text is valid UTF-8. */
    size_t (*next)(const struct scanner *s, const char *text, size_t len, size_t pos);
    size_t max_digits; /* numbers are cut after so many */
};

/* The scanner for a pattern, or NULL. */
const struct scanner *scanner_for(const char *pattern, size_t len);

/* GPT-2's pattern, which the byte-level step uses unless told otherwise. */
const struct scanner *scanner_gpt2(void);

#endif
