/* SPDX-License-Identifier: Apache-2.0 */
/* Code point properties: utf8proc's categories and simple mappings, with unicode_tables.h for what they lack.
 * Stateless: any thread. */
#include "jinja/unicode.h"

#include <utf8proc.h>

#include "jinja/unicode_tables.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static bool in_spans(const struct span *s, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > s[mid].last)
            lo = mid + 1;
        else if (cp < s[mid].first)
            hi = mid;
        else
            return true;
    }
    return false;
}

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

bool junicode_space(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool junicode_line_break(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

bool junicode_alpha(uint32_t cp)
{
    utf8proc_category_t c;

    if (cp < 0x80)
        return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
    c = category(cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_LO;
}

bool junicode_decimal(uint32_t cp)
{
    return cp < 0x80 ? cp >= '0' && cp <= '9' : category(cp) == UTF8PROC_CATEGORY_ND;
}

bool junicode_digit(uint32_t cp)
{
    return junicode_decimal(cp) || in_spans(digit_others, COUNT(digit_others), cp);
}

bool junicode_numeric(uint32_t cp)
{
    utf8proc_category_t c = category(cp);

    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO ||
           in_spans(numeric_others, COUNT(numeric_others), cp);
}

bool junicode_alnum(uint32_t cp)
{
    return junicode_alpha(cp) || junicode_numeric(cp);
}

bool junicode_word(uint32_t cp)
{
    return cp == '_' || junicode_alnum(cp);
}

bool junicode_printable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

bool junicode_lower(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LL || in_spans(lower_others, COUNT(lower_others), cp);
}

bool junicode_upper(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LU || in_spans(upper_others, COUNT(upper_others), cp);
}

bool junicode_title(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LT;
}

bool junicode_cased(uint32_t cp)
{
    return junicode_lower(cp) || junicode_upper(cp) || junicode_title(cp);
}

bool junicode_case_ignorable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: break;
    }
    /* Word_Break = MidLetter, MidNumLet or Single_Quote. */
    return cp == '\'' || cp == '.' || cp == ':' || cp == 0xb7 || cp == 0x387 || cp == 0x55f ||
           cp == 0x5f4 || cp == 0x2018 || cp == 0x2019 || cp == 0x2024 || cp == 0x2027 ||
           cp == 0xfe13 || cp == 0xfe52 || cp == 0xfe55 || cp == 0xff07 || cp == 0xff0e ||
           cp == 0xff1a;
}

static bool id_start_category(uint32_t cp)
{
    return cp == '_' || junicode_alpha(cp) || (cp >= 0x80 && category(cp) == UTF8PROC_CATEGORY_NL);
}

bool junicode_id_start(uint32_t cp)
{
    return id_start_category(cp) != in_spans(id_start_exceptions, COUNT(id_start_exceptions), cp);
}

bool junicode_id_continue(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    bool fits = id_start_category(cp) || c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC ||
                c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_PC;

    return fits != in_spans(id_continue_exceptions, COUNT(id_continue_exceptions), cp);
}

int junicode_decimal_value(uint32_t cp)
{
    uint32_t zero = cp;

    if (cp < 0x80)
        return cp >= '0' && cp <= '9' ? (int)(cp - '0') : -1;
    if (!junicode_decimal(cp))
        return -1;
    /* Decimal digits come in runs from 0 to 9. Most begin at a multiple of 16 or at 6 above one; runs
     * of several sets (mathematical digits) are counted from their first. */
    while (zero > 0 && junicode_decimal(zero - 1))
        zero--;
    return (int)((cp - zero) % 10);
}

static size_t from_table(const struct special *t, size_t n, uint32_t cp, uint32_t out[JUNICODE_MAP])
{
    size_t lo = 0, hi = n, len = 0;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (t[mid].cp < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == n || t[lo].cp != cp)
        return 0;
    while (len < 3 && t[lo].to[len]) {
        out[len] = t[lo].to[len];
        len++;
    }
    return len;
}

size_t junicode_to_lower(uint32_t cp, uint32_t out[JUNICODE_MAP])
{
    if (cp == 0x130) { /* capital I with dot keeps its dot as a combining mark */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    return 1;
}

size_t junicode_to_upper(uint32_t cp, uint32_t out[JUNICODE_MAP])
{
    size_t n = cp < 0x80 ? 0 : from_table(upper_special, COUNT(upper_special), cp, out);

    if (n)
        return n;
    out[0] = (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
    return 1;
}

size_t junicode_to_title(uint32_t cp, uint32_t out[JUNICODE_MAP])
{
    size_t n = cp < 0x80 ? 0 : from_table(title_special, COUNT(title_special), cp, out);

    if (n)
        return n;
    out[0] = (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp);
    return 1;
}

size_t junicode_fold(uint32_t cp, uint32_t out[JUNICODE_MAP])
{
    utf8proc_int32_t to[JUNICODE_MAP];
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, to, JUNICODE_MAP,
                                                 UTF8PROC_CASEFOLD, &boundary);

    if (n < 1 || n > JUNICODE_MAP) {
        out[0] = cp;
        return 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out[i] = (uint32_t)to[i];
    return (size_t)n;
}
