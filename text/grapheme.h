/* SPDX-License-Identifier: Apache-2.0 */
/* Extended grapheme clusters (Unicode annex 29): what a reader takes for one character. */
#ifndef TEXT_GRAPHEME_H
#define TEXT_GRAPHEME_H

#include <stddef.h>

/* The end of the cluster that begins at `pos` < len of a text in valid UTF-8. */
size_t grapheme_end(const char *text, size_t len, size_t pos);

#endif
