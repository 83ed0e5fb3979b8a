/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Properties of code points, as each part of the reference tokenizers sees them.
 *
 * The parts know different versions of Unicode: split regexes (Oniguruma) 16, the Rust standard library 17, the
 * punctuation and control tests 8, the normal forms 9. A code point that a part does not know counts as
 * unassigned there, and that changes ids; hence the ages. All functions take any value up to U+10FFFF and may be
 * called from any thread after uni_init.
 */
#ifndef TEXT_UNIDATA_H
#define TEXT_UNIDATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum uni_category {
    UNI_CN,
    UNI_LU,
    UNI_LL,
    UNI_LT,
    UNI_LM,
    UNI_LO,
    UNI_MN,
    UNI_MC,
    UNI_ME,
    UNI_ND,
    UNI_NL,
    UNI_NO,
    UNI_PC,
    UNI_PD,
    UNI_PS,
    UNI_PE,
    UNI_PI,
    UNI_PF,
    UNI_PO,
    UNI_SM,
    UNI_SC,
    UNI_SK,
    UNI_SO,
    UNI_ZS,
    UNI_ZL,
    UNI_ZP,
    UNI_CC,
    UNI_CF,
    UNI_CO,
    UNI_CS,
    UNI_CATEGORIES
};

/* Since when a code point is known. */
enum uni_age {
    UNI_OLD,   /* to every part */
    UNI_9,     /* not to the punctuation and control tests (Unicode 8) */
    UNI_10_14, /* nor to the normal forms (Unicode 9) */
    UNI_15_16, /* nor to PCRE2 10.42 (Unicode 14) */
    UNI_17     /* nor to the split regexes (Unicode 16) */
};

/* Bits of uni_mask: the groups that split regexes test. */
#define UNI_BIT_LETTER (1u << 0)  /* \p{L} */
#define UNI_BIT_NUMBER (1u << 1)  /* \p{N} */
#define UNI_BIT_SPACE (1u << 2)   /* \s */
#define UNI_BIT_NEWLINE (1u << 3) /* CR, LF */
#define UNI_BIT_MARK (1u << 4)    /* \p{M} */
#define UNI_BIT_PUNCT (1u << 5)   /* \p{P} */
#define UNI_BIT_SYMBOL (1u << 6)  /* \p{S} */
#define UNI_BIT_UPPER (1u << 7)   /* \p{Lu} \p{Lt} */
#define UNI_BIT_LOWER (1u << 8)   /* \p{Ll} */
#define UNI_BIT_OTHER (1u << 9)   /* \p{Lm} \p{Lo} */
#define UNI_BIT_SLASH (1u << 10)  /* the character / */

/* Expands the tables; every open calls it, and only the first call does something. */
void uni_init(void);

enum uni_category uni_category(uint32_t cp);
enum uni_age uni_age(uint32_t cp);

/* The UNI_BIT_ groups of a code point as the split regexes (Unicode 16) see it. */
uint32_t uni_mask(uint32_t cp);

/* "Lu", "Nd"; for error messages and regex translation. */
const char *uni_category_name(enum uni_category c);

bool uni_is_space(uint32_t cp);       /* White_Space: char::is_whitespace, \s */
bool uni_is_numeric(uint32_t cp);     /* char::is_numeric: Nd, Nl, No */
bool uni_is_word(uint32_t cp);        /* \w of Rust's regex */
bool uni_is_punctuation(uint32_t cp); /* ASCII punctuation or category P of Unicode 8 */
bool uni_is_control(uint32_t cp);     /* Cc, Cf, Co of Unicode 8, but tab and line ends */
bool uni_is_nonspacing(uint32_t cp);  /* Mn of Unicode 8 */
bool uni_is_mark(uint32_t cp);        /* M of Unicode 9 */
bool uni_is_cjk(uint32_t cp);         /* the ideograph blocks that BERT isolates */

/* Lower case; writes 1 or 2 code points and returns how many. */
size_t uni_lower(uint32_t cp, uint32_t out[2]);

/* Canonical combining class and decompositions in Unicode 9. `out` has room for UNI_MAX_DECOMPOSITION;
 * returns the number of code points written (1, the code point itself, if it does not decompose). */
#define UNI_MAX_DECOMPOSITION 18
uint8_t uni_combining_class(uint32_t cp);
size_t uni_decompose(uint32_t cp, bool compatible, uint32_t *out);
/* The primary composite of a pair, 0 if there is none. */
uint32_t uni_compose(uint32_t a, uint32_t b);

/* Decodes the code point at p, which is inside valid UTF-8; *len gets its length. */
static inline uint32_t uni_next(const char *text, size_t *len)
{
    const unsigned char *p = (const unsigned char *)text;

    if (p[0] < 0x80) {
        *len = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *len = 2;
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *len = 3;
        return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *len = 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
           (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

/* Start of the code point before `pos` > 0 in valid UTF-8. */
static inline size_t uni_before(const char *text, size_t pos)
{
    do
        pos--;
    while (((unsigned char)text[pos] & 0xc0) == 0x80);
    return pos;
}

#endif
