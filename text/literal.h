/* SPDX-License-Identifier: Apache-2.0 */
/* Finding one fixed text in another, also in one that comes in parts: Knuth, Morris and Pratt's algorithm (1977). */
#ifndef TEXT_LITERAL_H
#define TEXT_LITERAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct literal {
    char *text; /* owned; len bytes */
    size_t len;
    uint32_t *fail; /* by length of a prefix: the longest proper one that it ends with */
};

/* Copies n > 0 bytes. False without memory. */
bool literal_init(struct literal *l, const char *text, size_t n);
void literal_release(struct literal *l); /* zeroed is allowed */

/* How many bytes of the literal the text read so far ends with, after one more byte. `state` < len. */
static inline size_t literal_step(const struct literal *l, size_t state, char byte)
{
    while (state > 0 && l->text[state] != byte)
        state = l->fail[state];
    return state + (l->text[state] == byte);
}

/* The first place at or behind `from` where the literal begins; SIZE_MAX if there is none. */
size_t literal_find(const struct literal *l, const char *text, size_t len, size_t from);

#endif
