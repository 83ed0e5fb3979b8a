/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sets of code points (onig_class.h). Every character class is worked out to a set with our own tables and written
 * back as a PCRE2 class, so that it means what it means to the reference, whatever version of Unicode the
 * installed PCRE2 knows. Scripts and rare binary properties are the exception: PCRE2 is asked for them.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "onig_class.h"

#include <pcre2.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "unidata.h"
#include "unitable.h"

#define CODE_POINTS 0x110000u
#define WORDS (CODE_POINTS / 64)
#define ALL_CATEGORIES ((1u << UNI_CATEGORIES) - 1)
#define BIT(c) (1u << (c))

struct cpset *cpset_new(void)
{
    return mem_zalloc(sizeof(struct cpset));
}

static bool has(const struct cpset *s, uint32_t cp)
{
    return s->bits[cp >> 6] >> (cp & 63) & 1;
}

static void put(struct cpset *s, uint32_t cp)
{
    s->bits[cp >> 6] |= UINT64_C(1) << (cp & 63);
}

void cpset_add_range(struct cpset *s, uint32_t first, uint32_t last)
{
    for (uint32_t cp = first; cp <= last;) {
        if ((cp & 63) == 0 && last - cp >= 63) {
            s->bits[cp >> 6] = UINT64_MAX;
            cp += 64;
        } else {
            put(s, cp++);
        }
    }
}

void cpset_invert(struct cpset *s)
{
    for (size_t i = 0; i < WORDS; i++)
        s->bits[i] = ~s->bits[i];
}

void cpset_unite(struct cpset *s, const struct cpset *other)
{
    for (size_t i = 0; i < WORDS; i++)
        s->bits[i] |= other->bits[i];
}

void cpset_intersect(struct cpset *s, const struct cpset *other)
{
    for (size_t i = 0; i < WORDS; i++)
        s->bits[i] &= other->bits[i];
}

/* The first code point from `cp` on whose membership is `value`; CODE_POINTS if there is none. */
static uint32_t seek(const struct cpset *s, uint32_t cp, bool value)
{
    while (cp < CODE_POINTS) {
        uint64_t w = (value ? s->bits[cp >> 6] : ~s->bits[cp >> 6]) >> (cp & 63);
        if (w != 0)
            return cp + (uint32_t)__builtin_ctzll(w);
        cp = (cp | 63) + 1;
    }
    return CODE_POINTS;
}

/* Row i of the table of classes. */
struct row {
    uint32_t first, last;
    enum uni_category category;
    enum uni_age age;
};

static struct row row_at(size_t i)
{
    uint32_t c = unitable_class[i] & 0xff;

    return (struct row){unitable_class[i] >> 8,
                        (i + 1 < unitable_class_count ? unitable_class[i + 1] >> 8 : CODE_POINTS) -
                            1,
                        (enum uni_category)(c & 31), (enum uni_age)(c >> 5)};
}

/* As the split regexes see it: Unicode 16. (Before the first row lies nothing.) */
static void add_categories(struct cpset *s, uint32_t mask)
{
    for (size_t i = 0; i < unitable_class_count; i++) {
        struct row r = row_at(i);
        if (mask >> (r.age == UNI_17 ? UNI_CN : r.category) & 1)
            cpset_add_range(s, r.first, r.last);
    }
}

/* The groups that have names, long names first-letter groups included. */
static const struct {
    const char *name, *long_name;
    uint32_t mask;
} groups[] = {
    {"l", "letter", BIT(UNI_LU) | BIT(UNI_LL) | BIT(UNI_LT) | BIT(UNI_LM) | BIT(UNI_LO)},
    {"lc", "casedletter", BIT(UNI_LU) | BIT(UNI_LL) | BIT(UNI_LT)},
    {"m", "mark", BIT(UNI_MN) | BIT(UNI_MC) | BIT(UNI_ME)},
    {"n", "number", BIT(UNI_ND) | BIT(UNI_NL) | BIT(UNI_NO)},
    {"p", "punctuation",
     BIT(UNI_PC) | BIT(UNI_PD) | BIT(UNI_PS) | BIT(UNI_PE) | BIT(UNI_PI) | BIT(UNI_PF) |
         BIT(UNI_PO)},
    {"s", "symbol", BIT(UNI_SM) | BIT(UNI_SC) | BIT(UNI_SK) | BIT(UNI_SO)},
    {"z", "separator", BIT(UNI_ZS) | BIT(UNI_ZL) | BIT(UNI_ZP)},
    {"c", "other", BIT(UNI_CC) | BIT(UNI_CF) | BIT(UNI_CO) | BIT(UNI_CS) | BIT(UNI_CN)},
    {"lu", "uppercaseletter", BIT(UNI_LU)},
    {"ll", "lowercaseletter", BIT(UNI_LL)},
    {"lt", "titlecaseletter", BIT(UNI_LT)},
    {"lm", "modifierletter", BIT(UNI_LM)},
    {"lo", "otherletter", BIT(UNI_LO)},
    {"mn", "nonspacingmark", BIT(UNI_MN)},
    {"mc", "spacingmark", BIT(UNI_MC)},
    {"me", "enclosingmark", BIT(UNI_ME)},
    {"nd", "decimalnumber", BIT(UNI_ND)},
    {"nl", "letternumber", BIT(UNI_NL)},
    {"no", "othernumber", BIT(UNI_NO)},
    {"pc", "connectorpunctuation", BIT(UNI_PC)},
    {"pd", "dashpunctuation", BIT(UNI_PD)},
    {"ps", "openpunctuation", BIT(UNI_PS)},
    {"pe", "closepunctuation", BIT(UNI_PE)},
    {"pi", "initialpunctuation", BIT(UNI_PI)},
    {"pf", "finalpunctuation", BIT(UNI_PF)},
    {"po", "otherpunctuation", BIT(UNI_PO)},
    {"sm", "mathsymbol", BIT(UNI_SM)},
    {"sc", "currencysymbol", BIT(UNI_SC)},
    {"sk", "modifiersymbol", BIT(UNI_SK)},
    {"so", "othersymbol", BIT(UNI_SO)},
    {"zs", "spaceseparator", BIT(UNI_ZS)},
    {"zl", "lineseparator", BIT(UNI_ZL)},
    {"zp", "paragraphseparator", BIT(UNI_ZP)},
    {"cc", "control", BIT(UNI_CC)},
    {"cf", "format", BIT(UNI_CF)},
    {"co", "privateuse", BIT(UNI_CO)},
    {"cs", "surrogate", BIT(UNI_CS)},
    /* \p{..} of PCRE2 up to here */
    {"cn", "unassigned", BIT(UNI_CN)},
    {"any", "any", ALL_CATEGORIES},
    {"assigned", "assigned", ALL_CATEGORIES & ~BIT(UNI_CN)},
    {"cntrl", "cntrl", BIT(UNI_CC)},
    {"punct", "punct",
     BIT(UNI_PC) | BIT(UNI_PD) | BIT(UNI_PS) | BIT(UNI_PE) | BIT(UNI_PI) | BIT(UNI_PF) |
         BIT(UNI_PO)},
    {"digit", "digit", BIT(UNI_ND)},
};
#define GROUPS_WITH_P 37 /* l to cs */

static void add_spaces(struct cpset *s)
{
    cpset_add_range(s, 9, 13);
    put(s, 0x85);
    add_categories(s, BIT(UNI_ZS) | BIT(UNI_ZL) | BIT(UNI_ZP));
}

static void add_word(struct cpset *s)
{
    static const uint32_t circled[][2] = {
        {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};

    add_categories(s, BIT(UNI_LU) | BIT(UNI_LL) | BIT(UNI_LT) | BIT(UNI_LM) | BIT(UNI_LO) |
                          BIT(UNI_MN) | BIT(UNI_MC) | BIT(UNI_ME) | BIT(UNI_ND) | BIT(UNI_NL) |
                          BIT(UNI_PC));
    for (size_t i = 0; i < sizeof circled / sizeof *circled; i++)
        cpset_add_range(s, circled[i][0], circled[i][1]);
}

static void add_han(struct cpset *s)
{
    static const uint32_t han[][2] = {
        {0x2e80, 0x2e99},   {0x2e9b, 0x2ef3},   {0x2f00, 0x2fd5},   {0x3005, 0x3005},
        {0x3007, 0x3007},   {0x3021, 0x3029},   {0x3038, 0x303b},   {0x3400, 0x4dbf},
        {0x4e00, 0x9fff},   {0xf900, 0xfa6d},   {0xfa70, 0xfad9},   {0x16fe2, 0x16fe3},
        {0x16ff0, 0x16ff1}, {0x20000, 0x2a6df}, {0x2a700, 0x2b739}, {0x2b740, 0x2b81d},
        {0x2b820, 0x2cea1}, {0x2ceb0, 0x2ebe0}, {0x2ebf0, 0x2ee5d}, {0x2f800, 0x2fa1d},
        {0x30000, 0x3134a}, {0x31350, 0x323af}};

    for (size_t i = 0; i < sizeof han / sizeof *han; i++)
        cpset_add_range(s, han[i][0], han[i][1]);
}

/* Every code point that `pattern`, a class, matches according to PCRE2. False if it does not compile. */
static bool add_from_pcre(struct cpset *s, const char *pattern)
{
    int error;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &at, NULL);
    pcre2_match_data *match = re ? pcre2_match_data_create(1, NULL) : NULL;
    char one[4];

    for (uint32_t cp = 0; match && cp < CODE_POINTS; cp++)
        if ((cp < 0xd800 || cp > 0xdfff) && pcre2_match(re, (PCRE2_SPTR)one, utf8_encode(cp, one),
                                                        0, PCRE2_NO_UTF_CHECK, match, NULL) > 0)
            put(s, cp);
    pcre2_match_data_free(match);
    pcre2_code_free(re);
    return match != NULL;
}

/* Alphabetic, Uppercase and Lowercase: PCRE2's view, with the letters that are newer than its tables. */
static bool add_derived(struct cpset *s, const char *property, uint32_t newer)
{
    char pattern[64];

    snprintf(pattern, sizeof pattern, "\\p{%s}", property);
    for (size_t i = 0; i < unitable_class_count; i++) {
        struct row r = row_at(i);
        if (r.age == UNI_15_16 && newer >> r.category & 1)
            cpset_add_range(s, r.first, r.last);
    }
    return add_from_pcre(s, pattern);
}

static bool add_alphabetic(struct cpset *s)
{
    return add_derived(s, "Alphabetic", groups[0].mask | BIT(UNI_NL));
}

/* Properties that are not unions of categories; `name` is squeezed. 1: added, 0: unknown, -1: trouble. */
static int add_special(struct cpset *s, const char *name)
{
    if (strcmp(name, "han") == 0 || strcmp(name, "hani") == 0)
        add_han(s);
    else if (strcmp(name, "space") == 0 || strcmp(name, "whitespace") == 0)
        add_spaces(s);
    else if (strcmp(name, "word") == 0)
        cpset_add_shorthand(s, 'w');
    else if (strcmp(name, "alpha") == 0 || strcmp(name, "alphabetic") == 0)
        return add_alphabetic(s) ? 1 : -1;
    else if (strcmp(name, "alnum") == 0)
        return add_categories(s, BIT(UNI_ND)), add_alphabetic(s) ? 1 : -1;
    else if (strcmp(name, "upper") == 0 || strcmp(name, "uppercase") == 0)
        return add_derived(s, "Uppercase", BIT(UNI_LU)) ? 1 : -1;
    else if (strcmp(name, "lower") == 0 || strcmp(name, "lowercase") == 0)
        return add_derived(s, "Lowercase", BIT(UNI_LL)) ? 1 : -1;
    else if (strcmp(name, "blank") == 0)
        add_categories(s, BIT(UNI_ZS)), put(s, '\t');
    else if (strcmp(name, "xdigit") == 0)
        cpset_add_shorthand(s, 'h');
    else if (strcmp(name, "ascii") == 0)
        cpset_add_range(s, 0, 127);
    else if (strcmp(name, "graph") == 0)
        add_categories(s, ALL_CATEGORIES & ~(BIT(UNI_CN) | BIT(UNI_CC) | BIT(UNI_ZS) | BIT(UNI_ZL) |
                                             BIT(UNI_ZP)));
    else if (strcmp(name, "print") == 0)
        add_categories(s,
                       ALL_CATEGORIES & ~(BIT(UNI_CN) | BIT(UNI_CC) | BIT(UNI_ZL) | BIT(UNI_ZP)));
    else
        return 0;
    return 1;
}

bool cpset_add_property(struct cpset *s, const char *name, size_t n)
{
    char squeezed[48], pattern[64];
    size_t k = 0;
    int special;

    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == ' ' || c == '-' || c == '_')
            continue;
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) || k + 1 == sizeof squeezed)
            return false;
        squeezed[k++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    squeezed[k] = '\0';
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (strcmp(squeezed, groups[i].name) == 0 || strcmp(squeezed, groups[i].long_name) == 0) {
            add_categories(s, groups[i].mask);
            return true;
        }
    }
    special = add_special(s, squeezed);
    if (special != 0)
        return special > 0;
    snprintf(pattern, sizeof pattern, "\\p{sc:%s}", squeezed);
    if (add_from_pcre(s, pattern))
        return true;
    snprintf(pattern, sizeof pattern, "\\p{%s}", squeezed);
    return add_from_pcre(s, pattern);
}

bool cpset_add_posix(struct cpset *s, const char *name, size_t n)
{
    static const char *const names[] = {"alpha", "alnum", "upper", "lower",  "space", "blank",
                                        "digit", "cntrl", "graph", "xdigit", "print", "ascii"};

    if (n == 5 && memcmp(name, "punct", 5) == 0) { /* symbols too, unlike \p{Punct} */
        add_categories(s, groups[4].mask | groups[5].mask);
        return true;
    }
    if (n == 4 && memcmp(name, "word", 4) == 0) {
        add_word(s);
        return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return cpset_add_property(s, name, n);
    return false;
}

void cpset_add_shorthand(struct cpset *s, char letter)
{
    switch (letter) {
    case 'd': add_categories(s, BIT(UNI_ND)); break;
    case 's': add_spaces(s); break;
    case 'h':
        cpset_add_range(s, '0', '9');
        cpset_add_range(s, 'a', 'f');
        cpset_add_range(s, 'A', 'F');
        break;
    default: add_word(s); break;
    }
}

static void print_code_point(uint32_t cp, struct strbuf *out)
{
    bool plain = (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z');

    if (plain)
        strbuf_putc(out, (char)cp);
    else
        strbuf_printf(out, "\\x{%x}", (unsigned)cp);
}

static void print_ranges(const struct cpset *s, struct strbuf *out)
{
    for (uint32_t cp = seek(s, 0, true); cp < CODE_POINTS; cp = seek(s, cp, true)) {
        uint32_t first = cp, last;
        cp = seek(s, cp, false);
        last = cp - 1;
        print_code_point(first, out);
        if (last > first) {
            strbuf_putc(out, '-');
            print_code_point(last, out);
        }
    }
}

/* The categories that are not in the set as a whole, as PCRE2 10.42 counts them: by Unicode 14. */
static uint32_t incomplete(const struct cpset *s)
{
    uint32_t mask = 0;

    for (size_t i = 0; i < unitable_class_count; i++) {
        struct row r = row_at(i);
        if (r.age >= UNI_15_16 || r.first == 0x1171e)
            continue;
        if (seek(s, r.first, false) <= r.last)
            mask |= BIT(r.category);
    }
    if (!has(s, 0x1171e)) /* a nonspacing mark then, a spacing mark now */
        mask |= BIT(UNI_MN);
    return mask;
}

/* Takes out of the set what \p{..} of these categories matches. */
static void cover(struct cpset *s, uint32_t mask)
{
    struct cpset *c = cpset_new();

    if (!c)
        return;
    for (size_t i = 0; i < unitable_class_count; i++) {
        struct row r = row_at(i);
        if (r.age < UNI_15_16 && r.first != 0x1171e && mask >> r.category & 1)
            cpset_add_range(c, r.first, r.last);
    }
    cpset_invert(c);
    cpset_intersect(s, c);
    mem_free(c);
}

void cpset_print(const struct cpset *s, bool negate, struct strbuf *out)
{
    struct cpset *rest;
    uint32_t missing = incomplete(s) | BIT(UNI_CN) | BIT(UNI_CS), done = 0;

    if (seek(s, 0, true) == CODE_POINTS) { /* "[]" would mean something else */
        strbuf_puts(out, negate ? "[\\x{0}-\\x{10ffff}]" : "[^\\x{0}-\\x{10ffff}]");
        return;
    }
    rest = cpset_new();
    if (!rest) {
        out->failed = true;
        return;
    }
    *rest = *s;
    strbuf_puts(out, negate ? "[^" : "[");
    for (size_t i = 0; i < GROUPS_WITH_P; i++) {
        uint32_t mask = groups[i].mask;
        if ((mask & missing) != 0 || (mask & ~done) == 0 || mask == groups[1].mask)
            continue;
        strbuf_printf(out, "\\p{%c%s}", groups[i].name[0] - 32, groups[i].name + 1);
        done |= mask;
    }
    cover(rest, done);
    /* Surrogates are in no text; so as not to end a range there, they belong to what precedes them. */
    for (uint32_t cp = 0xd800; cp <= 0xdfff; cp++) {
        rest->bits[cp >> 6] &= ~(UINT64_C(1) << (cp & 63));
        if (has(rest, 0xd7ff) && has(rest, 0xe000))
            put(rest, cp);
    }
    print_ranges(rest, out);
    strbuf_putc(out, ']');
    mem_free(rest);
}
