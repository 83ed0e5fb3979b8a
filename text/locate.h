/* SPDX-License-Identifier: Apache-2.0 */
/* Places in a text: from bytes to characters and back, and from a repaired text to the input it was made of. */
#ifndef TEXT_LOCATE_H
#define TEXT_LOCATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

#define LOCATE_BLOCK 1024 /* bytes between entries of the tables */

/* A place that is known in all three measures. */
struct locate_mark {
    uint32_t byte, chars, input;
};

struct locator {
    const char *text; /* valid UTF-8 */
    size_t len;
    const char *input; /* what it was made of; the same if it was valid */
    size_t input_len;
    bool ascii; /* one byte per character: nothing to compute */
    struct locate_mark
        *marks; /* the last character that begins at or before each block's first byte */
    size_t mark_count, mark_cap;
    struct locate_mark at; /* the place asked for last: most questions go forward from there */
};

void locator_release(struct locator *l); /* zeroed is allowed */

/* Makes `input` valid UTF-8: `clean` gets the repaired text if that differs. False without memory. */
bool locator_begin(struct locator *l, const char *input, size_t len, struct strbuf *clean);

/* Builds the table; needed before what follows unless the text is ASCII. False without memory. */
bool locator_index(struct locator *l);

/* How many characters begin before a byte; the byte where a character begins (len, if there are fewer). */
uint32_t locate_chars(struct locator *l, uint32_t byte);
uint32_t locate_byte(struct locator *l, uint32_t chars);

/* Where in the input a character's first byte (or the end) comes from. */
uint32_t locate_input(struct locator *l, uint32_t byte);

/* The first character of the text that begins at or behind an input byte. */
uint32_t locate_from_input(struct locator *l, uint32_t input);

#endif
