/* SPDX-License-Identifier: Apache-2.0 */
/* What Python's str methods know about code points. */
#ifndef TEXT_JINJA_UNICODE_H
#define TEXT_JINJA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool junicode_space(uint32_t cp);      /* str.isspace, strip(), \s */
bool junicode_line_break(uint32_t cp); /* str.splitlines */
bool junicode_alpha(uint32_t cp);
bool junicode_decimal(uint32_t cp);
bool junicode_digit(uint32_t cp);
bool junicode_numeric(uint32_t cp);
bool junicode_alnum(uint32_t cp);
bool junicode_word(uint32_t cp); /* \w */
bool junicode_printable(uint32_t cp);
bool junicode_lower(uint32_t cp); /* has the property Lowercase */
bool junicode_upper(uint32_t cp);
bool junicode_title(uint32_t cp); /* is a titlecase letter */
bool junicode_cased(uint32_t cp);
bool junicode_case_ignorable(uint32_t cp);
bool junicode_id_start(uint32_t cp);
bool junicode_id_continue(uint32_t cp);
/* Value of a decimal digit; -1 for others. */
int junicode_decimal_value(uint32_t cp);

/* Full case mappings without context: up to 3 code points to `out`, their number returned. */
#define JUNICODE_MAP 3
size_t junicode_to_lower(uint32_t cp, uint32_t out[JUNICODE_MAP]);
size_t junicode_to_upper(uint32_t cp, uint32_t out[JUNICODE_MAP]);
size_t junicode_to_title(uint32_t cp, uint32_t out[JUNICODE_MAP]);
size_t junicode_fold(uint32_t cp, uint32_t out[JUNICODE_MAP]);

#endif
