/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scanners (scan.h), each a regex worked out by hand: its alternatives in order, with what backtracking would do
 * written down as a rule. Pure functions on immutable tables, any thread; uni_init must have run.
 */
#include "scan.h"

#include <stdbool.h>
#include <string.h>

#include "unidata.h"

#define WORDY (UNI_BIT_LETTER | UNI_BIT_NUMBER | UNI_BIT_SPACE)

/* The groups of the character at `pos`, whose length goes to *n. */
static inline uint32_t mask_at(const char *text, size_t pos, size_t *n)
{
    return uni_mask(uni_next(text + pos, n));
}

/* The end of the run of characters from `pos` that are in `any` of the groups. */
static size_t run_of(const char *text, size_t len, size_t pos, uint32_t any)
{
    size_t n;

    while (pos < len && (mask_at(text, pos, &n) & any))
        pos += n;
    return pos;
}

/* The same for characters in none of the groups. */
static size_t run_but(const char *text, size_t len, size_t pos, uint32_t none)
{
    size_t n;

    while (pos < len && !(mask_at(text, pos, &n) & none))
        pos += n;
    return pos;
}

static size_t number_end(const char *text, size_t len, size_t pos, size_t max_digits)
{
    size_t n;

    for (size_t i = 0; i < max_digits && pos < len; i++) {
        if (!(mask_at(text, pos, &n) & UNI_BIT_NUMBER))
            break;
        pos += n;
    }
    return pos;
}

/* \s+(?!\S)|\s+ : white space up to the end of the text, or all but the last of it, or just one. */
static size_t space_end(const char *text, size_t len, size_t pos)
{
    size_t end = run_of(text, len, pos, UNI_BIT_SPACE), last;

    if (end == len)
        return end;
    last = uni_before(text, end);
    return last > pos ? last : end;
}

/* \s*[\r\n]+ : through the last line end of the white space from `pos`; `pos` if there is none. */
static size_t lines_end(const char *text, size_t len, size_t pos)
{
    size_t end = run_of(text, len, pos, UNI_BIT_SPACE);

    while (end > pos && text[end - 1] != '\n' && text[end - 1] != '\r')
        end--;
    return end;
}

/* The length of 's 't 're 've 'm 'll 'd at `pos`, 0 if there is none. Without case a long s counts as s. */
static size_t contraction(const char *text, size_t len, size_t pos, bool fold)
{
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    size_t left = len - pos;

    if (text[pos] != '\'' || left < 2)
        return 0;
    if (fold && left >= 3 && memcmp(text + pos + 1, "\xc5\xbf", 2) == 0)
        return 3;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]), k = 0;
        while (k < n && k + 1 < left) {
            char c = text[pos + 1 + k];
            if (c != endings[i][k] && !(fold && c == endings[i][k] - 32))
                break;
            k++;
        }
        if (k == n)
            return n + 1;
    }
    return 0;
}

static size_t gpt2_next(const struct scanner *s, const char *text, size_t len, size_t pos)
{
    size_t n, at = pos, short_form = contraction(text, len, pos, false);
    uint32_t m;

    (void)s;
    if (short_form > 0)
        return pos + short_form;
    m = mask_at(text, at, &n);
    if (text[pos] == ' ' && pos + 1 < len) {
        at = pos + 1;
        m = mask_at(text, at, &n);
    }
    if (m & UNI_BIT_LETTER)
        return run_of(text, len, at + n, UNI_BIT_LETTER);
    if (m & UNI_BIT_NUMBER)
        return run_of(text, len, at + n, UNI_BIT_NUMBER);
    if (!(m & UNI_BIT_SPACE))
        return run_but(text, len, at + n, WORDY);
    return space_end(text, len, pos);
}

/* What GPT-4's pattern does once its word alternatives failed. `m`, `n`: of the character at pos. */
static size_t gpt4_rest(const struct scanner *s, const char *text, size_t len, size_t pos,
                        uint32_t m, size_t n, uint32_t line_end)
{
    size_t end, next;

    if (m & UNI_BIT_NUMBER)
        return number_end(text, len, pos, s->max_digits);
    end = pos;
    if (!(m & WORDY))
        end = run_but(text, len, pos + n, WORDY);
    else if (text[pos] == ' ' && pos + 1 < len && !(mask_at(text, pos + 1, &next) & WORDY))
        end = run_but(text, len, pos + 1 + next, WORDY);
    if (end > pos)
        return run_of(text, len, end, line_end);
    end = lines_end(text, len, pos);
    return end > pos ? end : space_end(text, len, pos);
}

static size_t gpt4_next(const struct scanner *s, const char *text, size_t len, size_t pos)
{
    size_t n, next, short_form = contraction(text, len, pos, true);
    uint32_t m;

    if (short_form > 0)
        return pos + short_form;
    m = mask_at(text, pos, &n);
    if (m & UNI_BIT_LETTER)
        return run_of(text, len, pos + n, UNI_BIT_LETTER);
    /* One character that is no line end and no number may lead a word. */
    if (!(m & (UNI_BIT_NUMBER | UNI_BIT_NEWLINE)) && pos + n < len &&
        (mask_at(text, pos + n, &next) & UNI_BIT_LETTER))
        return run_of(text, len, pos + n + next, UNI_BIT_LETTER);
    return gpt4_rest(s, text, len, pos, m, n, UNI_BIT_NEWLINE);
}

#define O200K_UPPER (UNI_BIT_UPPER | UNI_BIT_OTHER | UNI_BIT_MARK) /* Lu Lt Lm Lo M */
#define O200K_LOWER (UNI_BIT_LOWER | UNI_BIT_OTHER | UNI_BIT_MARK) /* Ll Lm Lo M */

/*
 * U*L+ at `pos`, U and L being the two overlapping sets: the end of the match, or `pos`. U* takes all it can; if no L
 * follows it gives back, and the first character from the end that is an L too begins L+.
 */
static size_t upper_lower(const char *text, size_t len, size_t pos)
{
    size_t upper = run_of(text, len, pos, O200K_UPPER), n;

    if (upper < len && (mask_at(text, upper, &n) & O200K_LOWER))
        return run_of(text, len, upper, O200K_LOWER);
    while (upper > pos) {
        size_t before = uni_before(text, upper);
        if (mask_at(text, before, &n) & O200K_LOWER)
            return upper; /* what follows is no L, so L+ ends where U* ended */
        upper = before;
    }
    return pos;
}

/* U+L* at `pos`. */
static size_t upper_first(const char *text, size_t len, size_t pos)
{
    size_t upper = run_of(text, len, pos, O200K_UPPER);

    return upper > pos ? run_of(text, len, upper, O200K_LOWER) : pos;
}

/* The two word alternatives of o200k, with and without a leading character; `pos` if none matches. */
static size_t o200k_word(const char *text, size_t len, size_t pos, uint32_t m, size_t n)
{
    bool lead = !(m & (UNI_BIT_LETTER | UNI_BIT_NUMBER | UNI_BIT_NEWLINE)) && pos + n < len;
    size_t end;

    if (lead && (end = upper_lower(text, len, pos + n)) > pos + n)
        return end;
    if ((end = upper_lower(text, len, pos)) > pos)
        return end;
    if (lead && (end = upper_first(text, len, pos + n)) > pos + n)
        return end;
    return upper_first(text, len, pos);
}

static size_t o200k_next(const struct scanner *s, const char *text, size_t len, size_t pos)
{
    size_t n, end;
    uint32_t m = mask_at(text, pos, &n);

    end = o200k_word(text, len, pos, m, n);
    if (end > pos)
        return end < len ? end + contraction(text, len, end, true) : end;
    return gpt4_rest(s, text, len, pos, m, n, UNI_BIT_NEWLINE | UNI_BIT_SLASH);
}

#define GPT4_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define GPT4_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K_U "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K_L "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K_SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"

static const struct scanner scanners[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     gpt2_next, SIZE_MAX},
    {GPT4_HEAD "\\p{N}{1,3}" GPT4_TAIL, gpt4_next, 3}, /* LLaMA 3, GPT-4 */
    {GPT4_HEAD "\\p{N}" GPT4_TAIL, gpt4_next, 1},      /* Qwen 2, Qwen 3 */
    {GPT4_HEAD "\\p{N}+" GPT4_TAIL, gpt4_next, SIZE_MAX},
    {"[^\\r\\n\\p{L}\\p{N}]?" O200K_U "*" O200K_L "+" O200K_SHORT "[^\\r\\n\\p{L}\\p{N}]?" O200K_U
     "+" O200K_L "*" O200K_SHORT
     "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     o200k_next, 3}, /* GPT-4o, gpt-oss */
};

const struct scanner *scanner_for(const char *pattern, size_t len)
{
    for (size_t i = 0; i < sizeof scanners / sizeof *scanners; i++)
        if (strlen(scanners[i].pattern) == len && memcmp(scanners[i].pattern, pattern, len) == 0)
            return &scanners[i];
    return NULL;
}

const struct scanner *scanner_gpt2(void)
{
    return &scanners[0];
}
