/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2's alphabet: each byte as one printable character, so that vocabularies of bytes are text. */
#ifndef TEXT_BYTELEVEL_H
#define TEXT_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character of a byte; UTF-8 of 1 or 2 bytes into out, returns its length. */
size_t bytelevel_char(unsigned char byte, char out[2]);

/* The byte of a code point; false if it is none of the 256. */
bool bytelevel_byte(uint32_t cp, unsigned char *byte);

/* Turns valid UTF-8 back into bytes; `out` has room for n. False if a character is not of the alphabet. */
bool bytelevel_decode(const char *text, size_t n, char *out, size_t *out_len);

#endif
