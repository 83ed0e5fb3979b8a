/* SPDX-License-Identifier: Apache-2.0 */
/* The format specification mini-language of Python, and the conversions of numbers that % shares. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja/format.h"
#include "jinja/number.h"
#include "jinja/vm.h"

#define MAX_PRECISION 100000 /* digits; Python's own cap is INT_MAX, which no template means */

/* A number in pieces: sign, "0x", digits before the point, and the rest. */
struct pieces {
    char sign;
    const char *prefix;
    const char *digits;
    size_t digit_count;
    const char *rest;
};

static bool put_padded(struct jbuild *b, const struct jstr *text, const struct jspec *s,
                       char default_align, bool trusted)
{
    int64_t n = (int64_t)jstr_chars(text);
    size_t space = s->has_width && s->width > n ? (size_t)(s->width - n) : 0, left;
    char align = s->align ? s->align : default_align;
    uint32_t fill = s->fill ? s->fill : ' ';

    left = align == '<' ? 0 : align == '^' ? space / 2 : space;
    return (left == 0 || jbuild_pad(b, fill, left, trusted)) && jbuild_str(b, text) &&
           (space == left || jbuild_pad(b, fill, space - left, trusted));
}

/* Digits in groups, with zeros in front until they are `least` characters long. */
static bool put_digits(struct jbuild *b, const struct pieces *p, const struct jspec *s,
                       size_t least, bool trusted)
{
    size_t group = s->type == 'x' || s->type == 'X' || s->type == 'o' || s->type == 'b' ? 4 : 3;
    size_t n = p->digit_count;

    while (n + (s->grouping ? (n - 1) / group : 0) < least)
        n++;
    if (n > p->digit_count + 64 && !jvm_spend(b->vm, n / 16))
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t zeros = n - p->digit_count;
        char c = i < zeros ? '0' : p->digits[i - zeros];
        if (s->grouping && i && (n - i) % group == 0 &&
            !jbuild_char(b, (uint32_t)s->grouping, trusted))
            return false;
        if (!jbuild_char(b, (uint32_t)c, trusted))
            return false;
    }
    return true;
}

static bool put_number(struct jbuild *b, const struct pieces *p, const struct jspec *s,
                       bool trusted)
{
    char align = s->align ? s->align : s->zero ? '=' : '>';
    uint32_t fill = s->fill ? s->fill : s->zero && align == '=' ? '0' : ' ';
    size_t head = (p->sign != 0) + strlen(p->prefix), least = 0, tail = strlen(p->rest);
    struct jbuild inner;
    struct jvalue text;
    struct jspec around = *s;

    if (s->has_width && s->width > MAX_PRECISION * 1000)
        return jvm_fail(b->vm, JINJA_LIMIT, "a width of %lld characters", (long long)s->width);
    if (align == '=' && fill == '0' && s->has_width && (size_t)s->width > head + tail)
        least = (size_t)s->width - head - tail;
    if (align == '=' && fill != '0') { /* other fills stand between the sign and the digits */
        size_t n = head + tail + p->digit_count +
                   (s->grouping && p->digit_count ? (p->digit_count - 1) / 3 : 0);
        return (!p->sign || jbuild_char(b, (uint32_t)p->sign, trusted)) &&
               jbuild_cstr(b, p->prefix, trusted) &&
               (!s->has_width || (size_t)s->width <= n ||
                jbuild_pad(b, fill, (size_t)s->width - n, trusted)) &&
               put_digits(b, p, s, 0, trusted) && jbuild_cstr(b, p->rest, trusted);
    }
    if (!jbuild_init(b->vm, &inner) ||
        (p->sign && !jbuild_char(&inner, (uint32_t)p->sign, trusted)) ||
        !jbuild_cstr(&inner, p->prefix, trusted) || !put_digits(&inner, p, s, least, trusted) ||
        !jbuild_cstr(&inner, p->rest, trusted) || !jbuild_done(&inner, &text))
        return false;
    around.align = align == '=' ? '>' : align;
    around.fill = fill;
    return put_padded(b, text.u.s, &around, '>', trusted);
}

static char sign_of(bool minus, const struct jspec *s)
{
    return minus ? '-' : s->sign == '+' || s->sign == ' ' ? s->sign : 0;
}

bool jformat_int(struct jbuild *b, int64_t v, const struct jspec *s, bool trusted)
{
    uint64_t rest = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    unsigned base = s->type == 'x' || s->type == 'X' ? 16
                    : s->type == 'o'                 ? 8
                    : s->type == 'b'                 ? 2
                                                     : 10;
    const char *set = s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char digits[72];
    size_t at = sizeof digits;
    struct pieces p = {.sign = sign_of(v < 0, s), .prefix = "", .rest = ""};

    if (s->type == 'c') {
        if (v < 0 || v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
            return jvm_fail(b->vm, JINJA_ARITHMETIC, "%%c arg not in range(0x110000)");
        return jbuild_char(b, (uint32_t)v, trusted);
    }
    do {
        digits[--at] = set[rest % base];
        rest /= base;
    } while (rest);
    p.digits = digits + at;
    p.digit_count = sizeof digits - at;
    if (s->alternate && base != 10)
        p.prefix = s->type == 'X' ? "0X" : base == 16 ? "0x" : base == 8 ? "0o" : "0b";
    return put_number(b, &p, s, trusted);
}

/* Removes zeros behind the point, in front of an exponent if there is one; and the point if nothing is left. */
static void strip_zeros(char *text)
{
    char *exponent = text + strcspn(text, "eE"), *end = exponent;

    if (!memchr(text, '.', (size_t)(exponent - text)))
        return;
    while (end[-1] == '0')
        end--;
    if (end[-1] == '.')
        end--;
    memmove(end, exponent, strlen(exponent) + 1);
}

/* A float without a type: like repr, or with a precision like g but always with a point or exponent. */
static void general(double v, const struct jspec *s, char *text, size_t size)
{
    int precision = s->has_precision ? (s->precision ? (int)s->precision : 1) : 0, point;

    if (!s->has_precision) {
        jnumber_repr(v, text);
        return;
    }
    snprintf(text, size, "%.*e", precision - 1, v);
    point = atoi(strchr(text, 'e') + 1) + 1;
    if (point <= -4 || point > precision - 1) {
        strip_zeros(text);
        return;
    }
    snprintf(text, size, "%.*f", precision - point, v);
    strip_zeros(text);
    if (!strchr(text, '.'))
        snprintf(text + strlen(text), size - strlen(text), ".0");
}

static void finite_text(double v, const struct jspec *s, char *text, size_t size)
{
    char format[8] = {'%', 0};
    char type = s->type == '%' ? 'f' : s->type == 'n' ? 'g' : s->type;

    if (!s->type) {
        general(v, s, text, size);
    } else {
        snprintf(format + 1, sizeof format - 1, "%s.*%c", s->alternate ? "#" : "", type);
        /* The format is made of the few letters above. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, size, format, s->has_precision ? (int)s->precision : 6,
                 s->type == '%' ? v * 100 : v);
#pragma GCC diagnostic pop
    }
    for (char *c = text; *c; c++) { /* some locales have another point */
        if (!isalnum((unsigned char)*c) && !strchr("+-.", *c))
            *c = '.';
    }
    if (s->type == '%')
        snprintf(text + strlen(text), size - strlen(text), "%%");
}

bool jformat_float(struct jbuild *b, double v, const struct jspec *s, bool trusted)
{
    size_t size = 400 + (s->has_precision ? (size_t)s->precision : 0);
    bool capital = s->type == 'F' || s->type == 'E' || s->type == 'G';
    struct pieces p = {.sign = sign_of(signbit(v) && !isnan(v), s), .prefix = ""};
    char *text;

    if (s->has_precision && s->precision > MAX_PRECISION)
        return jvm_fail(b->vm, JINJA_VALUE, "precision too big");
    text = jvm_alloc(b->vm, size);
    if (!text || !jvm_spend_bytes(b->vm, size))
        return false;
    if (isfinite(v))
        finite_text(fabs(v), s, text, size);
    else
        snprintf(text, size, "%s%s",
                 isnan(v) ? (capital ? "NAN" : "nan") : (capital ? "INF" : "inf"),
                 s->type == '%' ? "%" : "");
    p.digits = text;
    while (isdigit((unsigned char)text[p.digit_count]))
        p.digit_count++;
    p.rest = text + p.digit_count;
    if (p.digit_count)
        return put_number(b, &p, s, trusted);
    {
        struct jspec plain = *s; /* "inf" has no digits to group */
        plain.grouping = 0;
        p.digit_count = strlen(text);
        p.rest = "";
        return put_number(b, &p, &plain, trusted);
    }
}

bool jformat_str(struct jbuild *b, const struct jstr *v, const struct jspec *s)
{
    struct jvalue cut = {.type = J_STR, .u.s = v};

    if (s->has_precision && (uint64_t)s->precision < jstr_chars(v) &&
        !jstr_sub(b->vm, cut, 0, jstr_offset(v, (size_t)s->precision), &cut))
        return false;
    return put_padded(b, cut.u.s, s, '<', v->len == 0 || jstr_trusted_at(v, 0));
}

static bool bad_spec(struct jvm *vm, struct jvalue v)
{
    return jvm_fail(vm, JINJA_VALUE, "Invalid format specifier for object of type '%s'",
                    jvalue_type(v));
}

static bool parse_count(const struct jstr *spec, size_t *at, bool *has, int64_t *out)
{
    size_t from = *at;

    while (*at < spec->len && isdigit((unsigned char)jstr_data(spec)[*at]))
        ++*at;
    *has = *at > from;
    return *at == from || jnumber_digits(jstr_data(spec) + from, *at - from, 10, out);
}

static bool is_align(uint32_t c)
{
    return c == '<' || c == '>' || c == '=' || c == '^';
}

static char at_char(const struct jstr *spec, size_t at)
{
    return at < spec->len ? jstr_data(spec)[at] : 0;
}

static bool parse_spec(struct jvm *vm, struct jvalue v, const struct jstr *spec, struct jspec *s)
{
    size_t at = 0, n;
    uint32_t cp;

    *s = (struct jspec){0};
    n = jstr_decode(spec, 0, &cp);
    if (n && is_align((unsigned char)at_char(spec, n))) {
        s->fill = cp;
        s->align = at_char(spec, n);
        at = n + 1;
    } else if (is_align((unsigned char)at_char(spec, 0))) {
        s->align = at_char(spec, at++);
    }
    if (at_char(spec, at) == '+' || at_char(spec, at) == '-' || at_char(spec, at) == ' ')
        s->sign = at_char(spec, at++);
    if (at_char(spec, at) == '#') {
        s->alternate = true;
        at++;
    }
    if (at_char(spec, at) == '0' && !s->fill) {
        s->zero = true;
        at++;
    }
    if (!parse_count(spec, &at, &s->has_width, &s->width))
        return jvm_fail(vm, JINJA_VALUE, "Too many decimal digits in format string");
    if (at_char(spec, at) == ',' || at_char(spec, at) == '_')
        s->grouping = at_char(spec, at++);
    if (at_char(spec, at) == '.') {
        at++;
        if (!parse_count(spec, &at, &s->has_precision, &s->precision))
            return jvm_fail(vm, JINJA_VALUE, "Too many decimal digits in format string");
        if (!s->has_precision)
            return jvm_fail(vm, JINJA_VALUE, "Format specifier missing precision");
    }
    if (at < spec->len)
        s->type = at_char(spec, at++);
    return at >= spec->len || bad_spec(vm, v);
}

static bool unknown_code(struct jvm *vm, const struct jspec *s, struct jvalue v)
{
    return jvm_fail(vm, JINJA_VALUE, "Unknown format code '%c' for object of type '%s'", s->type,
                    jvalue_type(v));
}

static bool format_str(struct jbuild *b, struct jvalue v, const struct jspec *s)
{
    struct jspec plain = *s;

    if (s->type && s->type != 's')
        return unknown_code(b->vm, s, v);
    if (s->sign)
        return jvm_fail(b->vm, JINJA_VALUE, "Sign not allowed in string format specifier");
    if (s->alternate)
        return jvm_fail(b->vm, JINJA_VALUE,
                        "Alternate form (#) not allowed in string format specifier");
    if (s->align == '=')
        return jvm_fail(b->vm, JINJA_VALUE, "'=' alignment not allowed in string format specifier");
    if (s->grouping)
        return jvm_fail(b->vm, JINJA_VALUE, "Cannot specify '%c' with 's'.", s->grouping);
    if (s->zero)
        plain.fill = '0';
    return jformat_str(b, v.u.s, &plain);
}

static bool format_number(struct jbuild *b, struct jvalue v, const struct jspec *s)
{
    bool trusted = !(v.flags & JF_UNTRUSTED);

    if (s->type && strchr("eEfFgG%", s->type))
        return jformat_float(b, jfloat_of(v), s, trusted);
    if (v.type == J_FLOAT)
        return !s->type || s->type == 'n' ? jformat_float(b, v.u.f, s, trusted)
                                          : unknown_code(b->vm, s, v);
    if (s->type && !strchr("bcdoxXn", s->type))
        return unknown_code(b->vm, s, v);
    if (s->has_precision)
        return jvm_fail(b->vm, JINJA_VALUE, "Precision not allowed in integer format specifier");
    if (s->grouping == ',' && s->type && s->type != 'd')
        return jvm_fail(b->vm, JINJA_VALUE, "Cannot specify ',' with '%c'.", s->type);
    return jformat_int(b, jint_of(v), s, trusted);
}

bool jformat_value(struct jbuild *b, struct jvalue v, const struct jstr *spec)
{
    struct jspec s;

    if (spec->len == 0)
        return jbuild_value(b, v);
    if (v.type != J_STR && !jis_number(v))
        return jvm_fail(b->vm, JINJA_TYPE, "unsupported format string passed to %s.__format__",
                        jvalue_type(v));
    if (!parse_spec(b->vm, v, spec, &s))
        return false;
    return v.type == J_STR ? format_str(b, v, &s) : format_number(b, v, &s);
}
