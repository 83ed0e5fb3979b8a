/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SentencePiece's precompiled character maps: 4 bytes (little-endian) with the size of a trie, the trie as a double array of
 * 32-bit units (darts-clone), and the texts that its values point into, each ended by NUL.
 */
#ifndef TEXT_CHARSMAP_H
#define TEXT_CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct charsmap {
    uint32_t *units; /* owned */
    size_t unit_count;
    char *texts; /* owned; valid UTF-8 */
    size_t texts_len;
    bool touches_ascii; /* some ASCII character maps to something else */
    uint8_t ascii[128]; /* by character: 1 if it is mapped */
};

/* Copies a map out of n bytes. TN_E_FORMAT if sizes or texts are wrong; values that point nowhere are met later. */
int32_t charsmap_load(const char *data, size_t n, struct charsmap *out, tn_err *err);
void charsmap_release(struct charsmap *m); /* zeroed is allowed */

/* What the shortest key that `text` begins with maps to; NULL if there is none. */
const char *charsmap_find(const struct charsmap *m, const char *text, size_t len, size_t *out_len);

/* What the longest key that `text` begins with maps to, and the bytes of that key; NULL if there is none. */
const char *charsmap_longest(const struct charsmap *m, const char *text, size_t len,
                             size_t *out_len, size_t *key_len);

#endif
