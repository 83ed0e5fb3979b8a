/* SPDX-License-Identifier: Apache-2.0 */
/* Strict UTF-8 as The Unicode Standard, section 3.9, table 3-7 defines it: no overlong form, no surrogate,
 * nothing above U+10FFFF. */
#ifndef CORE_BASE_UTF8_H
#define CORE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed sequence at p[0..n), its code point in *cp; 0 if there is none. */
size_t utf8_decode(const void *p, size_t n, uint32_t *cp);

/*
 * Length of the "maximal subpart" at p[0..n) (n > 0): the well-formed sequence, or the ill-formed bytes
 * that one U+FFFD replaces under the standard's recommended practice. *valid tells which;
 * *partial whether the bytes are a proper prefix of a sequence that more input could complete.
 */
size_t utf8_subpart(const void *p, size_t n, bool *valid, bool *partial);

/* Writes the sequence of `cp` (a scalar value) to out, which has room for 4 bytes; returns its length. */
size_t utf8_encode(uint32_t cp, char *out);

bool utf8_valid(const void *p, size_t n);

#endif
