/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing numbers. The C library does the exact conversions; only the shape is Python's. */
#include "jinja/number.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "jinja/unicode.h"

double jnumber_strtod(const char *digits)
{
    char copy[512], *end, *dot;
    double f = strtod(digits, &end);

    /* A locale with a decimal comma stops at the point. */
    if (*end != '.' || strlen(digits) >= sizeof copy)
        return f;
    memcpy(copy, digits, strlen(digits) + 1);
    dot = strchr(copy, '.');
    *dot = localeconv()->decimal_point[0];
    return strtod(copy, NULL);
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

bool jnumber_digits(const char *digits, size_t n, unsigned base, int64_t *out)
{
    int64_t v = 0;

    for (size_t i = 0; i < n; i++) {
        int d = digit_value(digits[i]);
        if ((unsigned)d >= base || __builtin_mul_overflow(v, (int64_t)base, &v) ||
            __builtin_add_overflow(v, (int64_t)d, &v))
            return false;
    }
    *out = v;
    return true;
}

/* Digits "ddd" and decimal exponent of |f|, as few as read back as f. */
static size_t shortest(double f, char digits[20], int *exponent)
{
    char text[JNUMBER_TEXT], *mark;
    size_t n = 0;

    for (int p = 0; p <= 16; p++) {
        snprintf(text, sizeof text, "%.*e", p, f);
        if (strtod(text, NULL) == f)
            break;
    }
    mark = strchr(text, 'e');
    *exponent = atoi(mark + 1);
    for (char *c = text; c < mark; c++) {
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    }
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

size_t jnumber_repr(double f, char out[JNUMBER_TEXT])
{
    char digits[20];
    int exponent;
    size_t n, len = 0;

    if (isnan(f) || isinf(f))
        return (size_t)snprintf(out, JNUMBER_TEXT, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    n = shortest(fabs(f), digits, &exponent);
    if (signbit(f))
        out[len++] = '-';
    if (exponent < -4 || exponent >= 16) {
        len += (size_t)snprintf(out + len, JNUMBER_TEXT - len, "%c%s%.*se%c%02d", digits[0],
                                n > 1 ? "." : "", (int)n - 1, digits + 1, exponent < 0 ? '-' : '+',
                                abs(exponent));
        return len;
    }
    if (exponent < 0) {
        len += (size_t)snprintf(out + len, JNUMBER_TEXT - len, "0.%.*s%.*s", -exponent - 1, "000",
                                (int)n, digits);
        return len;
    }
    for (int i = 0; i <= exponent; i++)
        out[len++] = (size_t)i < n ? digits[i] : '0';
    out[len++] = '.';
    if (n <= (size_t)exponent + 1)
        out[len++] = '0';
    for (size_t i = (size_t)exponent + 1; i < n; i++)
        out[len++] = digits[i];
    out[len] = '\0';
    return len;
}

/*
 * Text without the white space around it and with ASCII digits, as int() and float() see it. False if it holds
 * a character that no number has, or is too long to be one that fits.
 */
static bool plain(const char *text, size_t len, char *out, size_t room, size_t *n)
{
    size_t at = 0, last = 0;

    *n = 0;
    while (at < len) {
        uint32_t cp;
        size_t step = utf8_decode(text + at, len - at, &cp);
        int digit = cp < 0x80 ? -1 : junicode_decimal_value(cp);
        if (step == 0)
            return false;
        at += step;
        if (*n == 0 && junicode_space(cp))
            continue;
        if (*n + 1 == room)
            return false;
        if (!junicode_space(cp))
            last = *n + 1;
        if (digit >= 0)
            cp = '0' + (uint32_t)digit;
        else if (cp >= 0x80 && !junicode_space(cp))
            return false;
        out[(*n)++] = cp < 0x80 ? (char)cp : ' ';
    }
    *n = last;
    out[last] = '\0';
    return true;
}

/* Removes underscores that stand between two characters of a number; false for one that does not. */
static bool drop_underscores(char *s, size_t *n, bool after_prefix)
{
    size_t to = 0;

    for (size_t i = 0; i < *n; i++) {
        if (s[i] != '_') {
            s[to++] = s[i];
            continue;
        }
        if ((i == 0 && !after_prefix) || i + 1 == *n || s[i + 1] == '_' ||
            digit_value(s[i + 1]) == 99 || (i > 0 && digit_value(s[i - 1]) == 99))
            return false;
    }
    s[to] = '\0';
    *n = to;
    return true;
}

static int prefix_base(const char *s, size_t n)
{
    char c = n > 2 && s[0] == '0' ? (char)(s[1] | 0x20) : 0;

    return c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
}

enum jparse jnumber_int(const char *text, size_t len, int base, int64_t *out)
{
    char s[400], *p = s;
    size_t n, i;
    bool minus = false, prefixed = false, ok;

    if (!plain(text, len, s, sizeof s, &n) || n == 0)
        return JPARSE_BAD;
    if (*p == '+' || *p == '-') {
        minus = *p++ == '-';
        n--;
    }
    if (prefix_base(p, n) && (base == 0 || base == prefix_base(p, n))) {
        base = prefix_base(p, n);
        p += 2;
        n -= 2;
        prefixed = true;
    } else if (base == 0) {
        base = 10;
        for (i = 0; i < n && (p[i] == '0' || p[i] == '_'); i++) {
        }
        if (n > 1 && p[0] == '0' && i < n)
            return JPARSE_BAD; /* 010 was octal once: Python refuses to guess */
    }
    if (!drop_underscores(p, &n, prefixed) || n == 0)
        return JPARSE_BAD;
    for (i = 0; i < n; i++) {
        if (digit_value(p[i]) >= base)
            return JPARSE_BAD;
    }
    if (minus) { /* the sign first: the least int64 has no positive twin */
        int64_t v = 0;
        for (i = 0, ok = true; ok && i < n; i++)
            ok = !__builtin_mul_overflow(v, (int64_t)base, &v) &&
                 !__builtin_sub_overflow(v, (int64_t)digit_value(p[i]), &v);
        *out = v;
        return ok ? JPARSE_OK : JPARSE_TOO_BIG;
    }
    return jnumber_digits(p, n, (unsigned)base, out) ? JPARSE_OK : JPARSE_TOO_BIG;
}

static bool is_word(const char *s, const char *word)
{
    for (; *word; s++, word++) {
        if ((*s | 0x20) != *word)
            return false;
    }
    return *s == '\0';
}

enum jparse jnumber_float(const char *text, size_t len, double *out)
{
    char s[400];
    const char *p = s;
    size_t n, digits = 0, i;

    if (!plain(text, len, s, sizeof s, &n) || n == 0)
        return JPARSE_BAD;
    p += *p == '+' || *p == '-';
    if (is_word(p, "inf") || is_word(p, "infinity") || is_word(p, "nan")) {
        *out = (*p | 0x20) == 'n' ? (double)NAN : *s == '-' ? -(double)INFINITY : (double)INFINITY;
        return JPARSE_OK;
    }
    for (i = 0; i < n; i++) { /* an underscore needs a decimal digit on both sides */
        if (s[i] == '_' &&
            (i == 0 || i + 1 == n || digit_value(s[i - 1]) > 9 || digit_value(s[i + 1]) > 9))
            return JPARSE_BAD;
    }
    if (!drop_underscores(s, &n, false))
        return JPARSE_BAD;
    i = (size_t)(p - s);
    for (; s[i] >= '0' && s[i] <= '9'; i++)
        digits++;
    if (s[i] == '.') {
        for (i++; s[i] >= '0' && s[i] <= '9'; i++)
            digits++;
    }
    if (digits == 0)
        return JPARSE_BAD;
    if ((s[i] | 0x20) == 'e') {
        i += s[i + 1] == '+' || s[i + 1] == '-' ? 2 : 1;
        if (s[i] < '0' || s[i] > '9')
            return JPARSE_BAD;
        while (s[i] >= '0' && s[i] <= '9')
            i++;
    }
    if (i != n)
        return JPARSE_BAD;
    *out = jnumber_strtod(s);
    return JPARSE_OK;
}

enum jparse jnumber_truncate(double f, int64_t *out)
{
    if (isnan(f) || isinf(f))
        return JPARSE_BAD;
    if (f >= 0x1p63 || f < -0x1p63)
        return JPARSE_TOO_BIG;
    *out = (int64_t)f;
    return JPARSE_OK;
}

double jnumber_round(double f, int64_t digits)
{
    char text[400];
    int exponent;

    if (!isfinite(f) || f == 0 || digits > 330)
        return f;
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        return strtod(text, NULL);
    }
    /* Digits before the point: round to as many significant ones as are left. */
    snprintf(text, sizeof text, "%.17e", f);
    exponent = atoi(strchr(text, 'e') + 1);
    if (digits < -308 || exponent + digits + 1 < 0)
        return copysign(0.0, f);
    if (exponent + digits + 1 == 0) /* the first digit decides: 50 rounds to 0, 51 to 100 */
        return fabs(f) > 5 * pow(10, exponent) ? copysign(pow(10, exponent + 1), f)
                                               : copysign(0.0, f);
    snprintf(text, sizeof text, "%.*e", (int)(exponent + digits), f);
    return strtod(text, NULL);
}
