/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 of RFC 4648, section 4, strict: padded, no white space, no stray bits. */
#ifndef TEXT_BASE64_H
#define TEXT_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* The most bytes that n characters stand for. */
static inline size_t base64_room(size_t n)
{
    return n / 4 * 3;
}

/* Decodes n characters to out (base64_room(n) bytes). False if they are not base64. */
bool base64_decode(const char *text, size_t n, char *out, size_t *len);

/* The most characters that n bytes take. */
static inline size_t base64_size(size_t n)
{
    return (n + 2) / 3 * 4;
}

/* Encodes n bytes to out (base64_size(n) characters, no NUL). */
void base64_encode(const char *data, size_t n, char *out);

#endif
