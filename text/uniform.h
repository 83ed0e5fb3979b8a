/* SPDX-License-Identifier: Apache-2.0 */
/* The normal forms of Unicode, as the stream of changes that nstr.h describes. */
#ifndef TEXT_UNIFORM_H
#define TEXT_UNIFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNIFORM_COMPATIBLE (1u << 0) /* NFKC, NFKD */
#define UNIFORM_COMPOSE (1u << 1)    /* NFC, NFKC */

typedef void (*uniform_emit)(void *arg, uint32_t cp, int64_t change);

/* Emits the characters of the normal form of a text (valid UTF-8) with their changes. Takes time n log n whatever the
 * text. False without memory. */
bool uniform_run(const char *text, size_t len, uint32_t flags, uniform_emit emit, void *arg);

/* Whether a text is certainly in the form; a quick test that may say no for one that is. */
bool uniform_is(const char *text, size_t len, uint32_t flags);

#endif
