/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unicode properties (unidata.h). One byte per code point, expanded once from the ranges of unitable.c: a flat table
 * is one load where a search is twelve, and pages of unassigned planes stay untouched. Normal forms come
 * from utf8proc, limited to what Unicode 9 knew, since the reference's normalizer is that old.
 */
#include "unidata.h"

#include <pthread.h>
#include <string.h>
#include <utf8proc.h>

#include "unitable.h"

#define CODE_POINTS 0x110000u

static uint8_t class_of[CODE_POINTS];
static uint32_t mask_of[256]; /* by class */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Primary composites by a hash of their pair; about 940 of them. */
#define COMPOSE_SLOTS 4096u
static struct {
    uint32_t a, b, composed;
} compose_slots[COMPOSE_SLOTS];

static const char *const category_names[UNI_CATEGORIES] = {
    "Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
    "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs"};

static uint32_t category_mask(enum uni_category c)
{
    static const uint32_t by_letter['Z' - 'A' + 1] = {
        ['L' - 'A'] = UNI_BIT_LETTER, ['N' - 'A'] = UNI_BIT_NUMBER, ['M' - 'A'] = UNI_BIT_MARK,
        ['P' - 'A'] = UNI_BIT_PUNCT,  ['S' - 'A'] = UNI_BIT_SYMBOL, ['Z' - 'A'] = UNI_BIT_SPACE};
    uint32_t m = by_letter[category_names[c][0] - 'A'];

    if (c == UNI_LU || c == UNI_LT)
        m |= UNI_BIT_UPPER;
    if (c == UNI_LL)
        m |= UNI_BIT_LOWER;
    if (c == UNI_LM || c == UNI_LO)
        m |= UNI_BIT_OTHER;
    return m;
}

static void expand_classes(void)
{
    for (size_t i = 0; i < unitable_class_count; i++) {
        uint32_t first = unitable_class[i] >> 8, value = unitable_class[i] & 0xff;
        uint32_t end = i + 1 < unitable_class_count ? unitable_class[i + 1] >> 8 : CODE_POINTS;
        if (value != 0)
            memset(class_of + first, (int)value, end - first);
    }
    for (uint32_t c = 0; c < 256; c++)
        if ((c & 31) < UNI_CATEGORIES && c >> 5 < UNI_17)
            mask_of[c] = category_mask((enum uni_category)(c & 31));
}

static uint32_t compose_hash(uint32_t a, uint32_t b)
{
    return (a * 0x9e3779b1u ^ b * 0x85ebca6bu) >> 7 & (COMPOSE_SLOTS - 1);
}

static void compose_add(uint32_t a, uint32_t b, uint32_t composed)
{
    uint32_t i = compose_hash(a, b);

    while (compose_slots[i].composed != 0)
        i = (i + 1) & (COMPOSE_SLOTS - 1);
    compose_slots[i].a = a;
    compose_slots[i].b = b;
    compose_slots[i].composed = composed;
}

static uint32_t compose_find(uint32_t a, uint32_t b)
{
    for (uint32_t i = compose_hash(a, b);; i = (i + 1) & (COMPOSE_SLOTS - 1)) {
        if (compose_slots[i].composed == 0)
            return 0;
        if (compose_slots[i].a == a && compose_slots[i].b == b)
            return compose_slots[i].composed;
    }
}

/* Code points of assigned age whose decompositions came after Unicode 9. */
static bool decomposes_later(uint32_t cp)
{
    static const struct unitable_range later[] = {
        {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},   {0x105c9, 0x105e4},
        {0x10781, 0x107ba}, {0x11383, 0x113c8}, {0x11938, 0x11938}, {0x16121, 0x16128},
        {0x16d68, 0x16d6a}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};

    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (cp >= later[i].first && cp <= later[i].last)
            return true;
    return false;
}

/* utf8proc tells full decompositions; a primary composite of three parts composes its first two, which
 * are shorter and so already in the table. */
static void collect_composites(void)
{
    for (size_t parts = 2; parts <= 4; parts++) {
        for (uint32_t cp = 0xc0; cp < 0x1d800; cp++) {
            const utf8proc_property_t *p;
            uint32_t d[UNI_MAX_DECOMPOSITION], head;
            if (cp >= 0xac00 && cp <= 0xd7ff)
                continue;
            p = utf8proc_get_property((utf8proc_int32_t)cp);
            if (p->decomp_seqindex == UINT16_MAX || p->comp_exclusion || p->combining_class != 0)
                continue;
            if (uni_decompose(cp, false, d) != parts)
                continue;
            head = d[0];
            for (size_t i = 1; i + 1 < parts && head != 0; i++)
                head = compose_find(head, d[i]);
            if (head != 0 && uni_combining_class(d[0]) == 0)
                compose_add(head, d[parts - 1], cp);
        }
    }
}

static void init(void)
{
    expand_classes();
    collect_composites();
}

void uni_init(void)
{
    pthread_once(&once, init);
}

enum uni_category uni_category(uint32_t cp)
{
    return (enum uni_category)(class_of[cp] & 31);
}

enum uni_age uni_age(uint32_t cp)
{
    return (enum uni_age)(class_of[cp] >> 5);
}

const char *uni_category_name(enum uni_category c)
{
    return category_names[c];
}

uint32_t uni_mask(uint32_t cp)
{
    uint32_t m = mask_of[class_of[cp]];

    if (cp < 0x100) {
        if ((cp >= 9 && cp <= 13) || cp == 0x85)
            m |= UNI_BIT_SPACE;
        if (cp == '\n' || cp == '\r')
            m |= UNI_BIT_NEWLINE;
        if (cp == '/')
            m |= UNI_BIT_SLASH;
    }
    return m;
}

bool uni_is_space(uint32_t cp)
{
    return (uni_mask(cp) & UNI_BIT_SPACE) != 0;
}

bool uni_is_numeric(uint32_t cp)
{
    enum uni_category c = uni_category(cp);

    return c == UNI_ND || c == UNI_NL || c == UNI_NO;
}

bool uni_is_word(uint32_t cp)
{
    enum uni_category c = uni_category(cp);

    if (cp < 0x80)
        return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') ||
               cp == '_';
    if (uni_age(cp) == UNI_17)
        return false;
    if ((c >= UNI_LU && c <= UNI_ND) || c == UNI_NL || c == UNI_PC)
        return true;
    for (size_t i = 0; i < unitable_word_count; i++)
        if (cp >= unitable_word[i].first && cp <= unitable_word[i].last)
            return true;
    return false;
}

bool uni_is_punctuation(uint32_t cp)
{
    enum uni_category c = uni_category(cp);

    if (cp < 0x80)
        return cp > ' ' && cp < 0x7f && !uni_is_word(cp) ? true : cp == '_';
    /* Two that Unicode 8 counted as punctuation and later versions do not. */
    return (c >= UNI_PC && c <= UNI_PO && uni_age(cp) == UNI_OLD) || cp == 0x166d || cp == 0x111c9;
}

bool uni_is_control(uint32_t cp)
{
    enum uni_category c = uni_category(cp);

    if (cp == '\t' || cp == '\n' || cp == '\r')
        return false;
    return (c == UNI_CC || c == UNI_CF || c == UNI_CO) && uni_age(cp) == UNI_OLD;
}

bool uni_is_nonspacing(uint32_t cp)
{
    /* The last two were nonspacing in Unicode 8 and became spacing. */
    return (uni_category(cp) == UNI_MN && uni_age(cp) == UNI_OLD) || cp == 0x1734 || cp == 0x1171e;
}

bool uni_is_mark(uint32_t cp)
{
    enum uni_category c = uni_category(cp);

    /* The last two were spacing marks in Unicode 9 and became letters. */
    return (c >= UNI_MN && c <= UNI_ME && uni_age(cp) <= UNI_9) || cp == 0x1cf2 || cp == 0x1cf3;
}

bool uni_is_cjk(uint32_t cp)
{
    static const struct unitable_range blocks[] = {
        {0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df}, {0x2a700, 0x2b73f},
        {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};

    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (cp >= blocks[i].first && cp <= blocks[i].last)
            return true;
    return false;
}

size_t uni_lower(uint32_t cp, uint32_t out[2])
{
    size_t lo = 0, hi = unitable_lower_count;

    out[0] = cp;
    if (cp < 0x80) {
        if (cp >= 'A' && cp <= 'Z')
            out[0] = cp + 32;
        return 1;
    }
    if (cp == 0x130) { /* the only one with two: i, combining dot above */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    while (lo < hi) { /* the last row that begins at or before cp */
        size_t mid = (lo + hi) / 2;
        if (unitable_lower[mid].first <= cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo > 0) {
        const struct unitable_case *r = &unitable_lower[lo - 1];
        uint32_t i = cp - r->first;
        if (i % r->step == 0 && i / r->step < r->count)
            out[0] = (uint32_t)((int32_t)cp + r->delta);
    }
    return 1;
}

uint8_t uni_combining_class(uint32_t cp)
{
    if (cp < 0x300 || !uni_is_mark(cp))
        return 0;
    return (uint8_t)utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
}

size_t uni_decompose(uint32_t cp, bool compatible, uint32_t *out)
{
    utf8proc_option_t options =
        compatible ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
    utf8proc_int32_t parts[UNI_MAX_DECOMPOSITION];
    utf8proc_ssize_t n;
    int boundary = 0;

    out[0] = cp;
    if (cp < 0xa0 || uni_age(cp) > UNI_9 || decomposes_later(cp))
        return 1;
    n = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, UNI_MAX_DECOMPOSITION, options,
                                &boundary);
    if (n < 1 || n > UNI_MAX_DECOMPOSITION)
        return 1;
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out[i] = (uint32_t)parts[i];
    return (size_t)n;
}

uint32_t uni_compose(uint32_t a, uint32_t b)
{
    enum { L = 0x1100, V = 0x1161, T = 0x11a7, S = 0xac00, LN = 19, VN = 21, TN = 28 };

    if (a >= L && a < L + LN && b >= V && b < V + VN)
        return S + ((a - L) * VN + (b - V)) * TN;
    if (a >= S && a < S + LN * VN * TN && (a - S) % TN == 0 && b > T && b < T + TN)
        return a + (b - T);
    return b < 0x300 ? 0 : compose_find(a, b);
}
