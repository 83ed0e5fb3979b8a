/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lexer: data up to the next tag, then the tokens of the tag. It follows the regular expressions of
 * jinja2 3.1 with trim_blocks and lstrip_blocks set, among them the less obvious parts: a tag ends only where
 * brackets are balanced, "{{-5}}" prints 5, and the text before a raw block is stripped like any other.
 */
#include "jinja/lexer.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "jinja/number.h"
#include "jinja/unicode.h"

size_t jlexer_normalize(char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r') {
            text[n++] = '\n';
            if (i + 1 < len && text[i + 1] == '\n')
                i++;
        } else {
            text[n++] = text[i];
        }
    }
    if (n > 0 && text[n - 1] == '\n')
        n--;
    return n;
}

void jlexer_init(struct jlexer *l, struct jcompile *c)
{
    *l = (struct jlexer){0};
    l->c = c;
    l->source = c->t->source;
    l->end = (uint32_t)c->t->source_len;
}

static bool starts(const struct jlexer *l, uint32_t pos, const char *what)
{
    size_t n = strlen(what);

    return l->end - pos >= n && memcmp(l->source + pos, what, n) == 0;
}

/* Behind the white space at `pos`. */
static uint32_t skip_space(const struct jlexer *l, uint32_t pos)
{
    uint32_t cp;
    size_t n;

    while ((n = utf8_decode(l->source + pos, l->end - pos, &cp)) != 0 && junicode_space(cp))
        pos += (uint32_t)n;
    return pos;
}

/* The end of [from, to) without white space at its end. */
static uint32_t strip_end(const struct jlexer *l, uint32_t from, uint32_t to)
{
    while (to > from) {
        uint32_t at = to - 1, cp;
        while (at > from && ((unsigned char)l->source[at] & 0xc0) == 0x80)
            at--;
        if (utf8_decode(l->source + at, to - at, &cp) == 0 || !junicode_space(cp))
            break;
        to = at;
    }
    return to;
}

/* What lstrip_blocks leaves of the data [from, to) before a block or comment: white space between the start of
 * the line and the tag goes. */
static uint32_t strip_line(const struct jlexer *l, uint32_t from, uint32_t to)
{
    uint32_t line = to;

    while (line > from && l->source[line - 1] != '\n')
        line--;
    if (line == from && from > 0 && l->source[from - 1] != '\n')
        return to;
    return strip_end(l, line, to) == line ? line : to;
}

static uint32_t strip_data(const struct jlexer *l, uint32_t from, uint32_t to, char sign,
                           bool variable)
{
    if (sign == '-')
        return strip_end(l, from, to);
    return sign == '+' || variable ? to : strip_line(l, from, to);
}

/* The mark behind an opening "{%", "{{" or "{#". */
static char sign_at(const struct jlexer *l, uint32_t pos)
{
    return pos < l->end && (l->source[pos] == '-' || l->source[pos] == '+') ? l->source[pos] : 0;
}

/* Behind "-%}" with the space after it, "+%}", or "%}" with one newline; 0 if none of them is at `pos`. `close`
 * is "%}", "#}" or "}}". A variable knows no + and takes no newline. */
static uint32_t tag_end(const struct jlexer *l, uint32_t pos, const char *close)
{
    bool variable = close[0] == '}';

    if (pos < l->end && l->source[pos] == '-' && starts(l, pos + 1, close))
        return skip_space(l, pos + 3);
    if (!variable && pos < l->end && l->source[pos] == '+' && starts(l, pos + 1, close))
        return pos + 3;
    if (!starts(l, pos, close))
        return 0;
    pos += 2;
    return !variable && pos < l->end && l->source[pos] == '\n' ? pos + 1 : pos;
}

/* Behind "raw %}" and its kin if the tag whose sign ended at `pos` opens a raw block; else 0. */
static uint32_t raw_begin(const struct jlexer *l, uint32_t pos)
{
    pos = skip_space(l, pos);
    if (!starts(l, pos, "raw"))
        return 0;
    pos = skip_space(l, pos + 3);
    if (pos < l->end && l->source[pos] == '-' && starts(l, pos + 1, "%}"))
        return skip_space(l, pos + 3);
    return starts(l, pos, "%}") ? pos + 2 : 0;
}

/* Finds the end of the raw block whose text begins at l->pos; *stop is the end of the text. */
static bool raw_end(struct jlexer *l, uint32_t *stop)
{
    for (uint32_t p = l->pos; p + 1 < l->end; p++) {
        uint32_t at, behind;
        char sign;
        if (!starts(l, p, "{%"))
            continue;
        sign = sign_at(l, p + 2);
        at = skip_space(l, p + 2 + (sign != 0));
        if (!starts(l, at, "endraw"))
            continue;
        behind = tag_end(l, skip_space(l, at + 6), "%}");
        if (!behind)
            continue;
        *stop = strip_data(l, l->pos, p, sign, false);
        l->pos = behind;
        return true;
    }
    if (l->pos < l->end)
        return jcompile_fail(l->c, l->pos, JINJA_SYNTAX, "Missing end of raw directive");
    *stop = l->end; /* jinja2 does not mind if there is nothing at all */
    return true;
}

static bool skip_comment(struct jlexer *l, uint32_t pos)
{
    bool empty = pos == l->end;

    for (; pos < l->end; pos++) {
        uint32_t behind = tag_end(l, pos, "#}");
        if (behind) {
            l->pos = behind;
            return true;
        }
    }
    if (!empty)
        return jcompile_fail(l->c, l->pos, JINJA_SYNTAX, "Missing end of comment tag");
    l->pos = l->end; /* jinja2 does not mind one that begins at the very end */
    return true;
}

static void give_data(const struct jlexer *l, uint32_t from, uint32_t to, struct jtoken *out)
{
    *out =
        (struct jtoken){.type = JT_DATA, .pos = from, .text = l->source + from, .len = to - from};
}

/* A tag opens at `p`; the data before it starts at l->pos. *given tells whether there is a token in `out`. */
static bool open_tag(struct jlexer *l, uint32_t p, struct jtoken *out, bool *given)
{
    char kind = l->source[p + 1], sign = sign_at(l, p + 2);
    uint32_t from = l->pos, to = strip_data(l, from, p, sign, kind == '{');
    uint32_t behind = p + 2 + (sign != 0), raw = kind == '%' ? raw_begin(l, behind) : 0;

    *given = to > from;
    if (*given)
        give_data(l, from, to, out);
    if (kind == '#') {
        l->pos = p;
        return skip_comment(l, behind);
    }
    if (raw) {
        /* The text of the raw block is a data token of its own, after the one before the tag. */
        l->pos = raw;
        from = raw;
        if (!raw_end(l, &to))
            return false;
        give_data(l, from, to, &l->tag);
        l->pending = to > from;
    } else {
        l->pos = behind;
        l->state = kind == '{' ? JLEX_VAR : JLEX_BLOCK;
        l->tag = (struct jtoken){.type = kind == '{' ? JT_VAR_BEGIN : JT_BLOCK_BEGIN, .pos = p};
        l->pending = true;
    }
    if (!*given && l->pending) {
        *out = l->tag;
        *given = true;
        l->pending = false;
    }
    return true;
}

static bool next_data(struct jlexer *l, struct jtoken *out)
{
    while (l->pos < l->end) {
        uint32_t p = l->pos;
        bool given;
        while (p + 1 < l->end && !(l->source[p] == '{' && strchr("{%#", l->source[p + 1]) &&
                                   l->source[p + 1] != '\0'))
            p++;
        if (p + 1 >= l->end) {
            give_data(l, l->pos, l->end, out);
            l->pos = l->end;
            return true;
        }
        if (!open_tag(l, p, out, &given))
            return false;
        if (given)
            return true;
    }
    *out = (struct jtoken){.type = JT_EOF, .pos = l->end};
    return true;
}

static bool digit_in(char c, unsigned base)
{
    int v = c >= '0' && c <= '9'                     ? c - '0'
            : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                     : 99;
    return (unsigned)v < base;
}

/* Behind digits with single underscores between them; `pos` itself if there is no digit. */
static uint32_t skip_digits(const struct jlexer *l, uint32_t pos, unsigned base)
{
    uint32_t at = pos;

    while (at < l->end) {
        if (digit_in(l->source[at], base))
            at++;
        else if (at > pos && l->source[at] == '_' && at + 1 < l->end &&
                 digit_in(l->source[at + 1], base))
            at++;
        else
            break;
    }
    return at;
}

/* The end of the float at `pos`, or 0. */
static uint32_t float_end(const struct jlexer *l, uint32_t pos)
{
    uint32_t whole = skip_digits(l, pos, 10), at = whole, exponent, digits;
    bool is_float = false;

    if (whole == pos || (pos > 0 && l->source[pos - 1] == '.'))
        return 0;
    if (at < l->end && l->source[at] == '.' && skip_digits(l, at + 1, 10) > at + 1) {
        at = skip_digits(l, at + 1, 10);
        is_float = true;
    }
    if (at < l->end && (l->source[at] | 0x20) == 'e') {
        exponent = at + 1;
        if (exponent < l->end && (l->source[exponent] == '+' || l->source[exponent] == '-'))
            exponent++;
        digits = skip_digits(l, exponent, 10);
        if (digits > exponent)
            return digits;
    }
    return is_float ? at : 0;
}

static uint32_t int_end(const struct jlexer *l, uint32_t pos, unsigned *base)
{
    char c = pos + 1 < l->end ? (char)(l->source[pos + 1] | 0x20) : 0;
    uint32_t at;

    *base = 10;
    if (l->source[pos] != '0')
        return skip_digits(l, pos, 10);
    *base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
    if (*base != 10) {
        at = pos + 2;
        if (at + 1 < l->end && l->source[at] == '_')
            at++;
        if (skip_digits(l, at, *base) > at)
            return skip_digits(l, at, *base);
        *base = 10;
    }
    return skip_digits(l, pos, 1); /* zeros only: 007 is three tokens, and an error */
}

static bool next_number(struct jlexer *l, struct jtoken *out)
{
    char digits[400];
    uint32_t stop = float_end(l, l->pos);
    size_t n = 0;
    unsigned base = 10;
    int64_t value = 0;

    out->type = stop ? JT_FLOAT : JT_INT;
    if (!stop)
        stop = int_end(l, l->pos, &base);
    for (uint32_t i = l->pos + (base != 10 ? 2 : 0); i < stop; i++) {
        if (l->source[i] == '_')
            continue;
        if (n + 1 == sizeof digits)
            return jcompile_fail(l->c, l->pos, JINJA_LIMIT, "a number of %u digits", stop - l->pos);
        digits[n++] = l->source[i];
    }
    digits[n] = '\0';
    if (out->type == JT_FLOAT)
        out->value = jfloat(jnumber_strtod(digits));
    else if (!jnumber_digits(digits, n, base, &value))
        return jcompile_fail(l->c, l->pos, JINJA_UNSUPPORTED,
                             "the integer %.40s does not fit 64 bits", digits);
    else
        out->value = jint(value);
    l->pos = stop;
    return true;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : digit_in(c, 16) ? (c | 0x20) - 'a' + 10 : -1;
}

/* One of \x41, \u0041, \U00000041 at `p`; `digits` says which. */
static bool unescape_hex(struct jlexer *l, uint32_t *p, unsigned digits, uint32_t *cp)
{
    uint32_t at = *p + 2;

    *cp = 0;
    for (unsigned i = 0; i < digits; i++, at++) {
        int v = at < l->end ? hex_value(l->source[at]) : -1;
        if (v < 0)
            return jcompile_fail(l->c, *p, JINJA_SYNTAX, "truncated \\%c escape",
                                 l->source[*p + 1]);
        *cp = *cp << 4 | (uint32_t)v;
    }
    if (*cp > 0x10ffff)
        return jcompile_fail(l->c, *p, JINJA_SYNTAX, "illegal Unicode character");
    if (*cp >= 0xd800 && *cp < 0xe000)
        return jcompile_fail(l->c, *p, JINJA_UNSUPPORTED, "half a surrogate pair in a string");
    *p = at;
    return true;
}

/*
 * The escape at *p (a backslash) becomes bytes at `out`, at most 12. Python decodes strings by way of ASCII,
 * so a backslash before a character outside of it gives the spelling of that character's escape.
 */
static bool unescape(struct jlexer *l, uint32_t *p, char *out, size_t *n)
{
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    char c = l->source[*p + 1];
    uint32_t cp = 0;

    *n = 0;
    for (size_t i = 0; i + 1 < sizeof plain; i += 2) {
        if (plain[i] == c) {
            out[(*n)++] = plain[i + 1];
            *p += 2;
            return true;
        }
    }
    if (c == '\n') { /* a continued line */
        *p += 2;
        return true;
    }
    if (c >= '0' && c <= '7') {
        ++*p;
        for (int i = 0; i < 3 && l->source[*p] >= '0' && l->source[*p] <= '7'; i++)
            cp = cp * 8 + (uint32_t)(l->source[(*p)++] - '0');
        *n = utf8_encode(cp, out);
        return true;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        if (!unescape_hex(l, p, c == 'x' ? 2 : c == 'u' ? 4 : 8, &cp))
            return false;
        *n = utf8_encode(cp, out);
        return true;
    }
    if (c == 'N')
        return jcompile_fail(l->c, *p, JINJA_UNSUPPORTED, "\\N{...} escapes are not supported");
    out[(*n)++] = '\\';
    ++*p;
    if ((unsigned char)c >= 0x80) {
        *p += (uint32_t)utf8_decode(l->source + *p, l->end - *p, &cp);
        *n += (size_t)snprintf(out + 1, 11,
                               cp < 0x100     ? "x%02x"
                               : cp < 0x10000 ? "u%04x"
                                              : "U%08x",
                               cp);
    }
    return true;
}

static bool next_string(struct jlexer *l, struct jtoken *out)
{
    char quote = l->source[l->pos], *text;
    uint32_t stop = l->pos + 1, p = l->pos + 1;
    size_t n = 0;

    while (stop < l->end && l->source[stop] != quote)
        stop += l->source[stop] == '\\' ? 2 : 1;
    if (stop >= l->end)
        return jcompile_fail(l->c, l->pos, JINJA_SYNTAX, "unexpected char '%c'", quote);
    /* An escape of 2 bytes and a character of 2 to 4 becomes up to 11 bytes. */
    text = jcompile_alloc(l->c, (size_t)(stop - p) * 4 + 12);
    if (!text)
        return false;
    while (p < stop) {
        size_t more = 1;
        if (l->source[p] != '\\')
            text[n] = l->source[p++];
        else if (!unescape(l, &p, text + n, &more))
            return false;
        n += more;
    }
    out->type = JT_STRING;
    out->text = text;
    out->len = n;
    l->pos = stop + 1;
    return true;
}

static bool next_name(struct jlexer *l, struct jtoken *out)
{
    uint32_t at = l->pos, cp;
    size_t n;

    while ((n = utf8_decode(l->source + at, l->end - at, &cp)) != 0) {
        bool fits = at == l->pos ? junicode_id_start(cp) : junicode_id_continue(cp);
        if (!fits && junicode_word(cp))
            return jcompile_fail(l->c, at, JINJA_SYNTAX, "Invalid character in identifier");
        if (!fits)
            break;
        at += (uint32_t)n;
    }
    if (at == l->pos) {
        n = utf8_decode(l->source + at, l->end - at, &cp);
        return jcompile_fail(l->c, at, JINJA_SYNTAX, "unexpected char '%.*s'", (int)n,
                             l->source + at);
    }
    out->type = JT_NAME;
    out->text = l->source + l->pos;
    out->len = at - l->pos;
    l->pos = at;
    return true;
}

static const struct spelling {
    char text[3];
    enum jtok type;
} operators[] = {
    {"//", JT_FLOORDIV}, {"**", JT_POW},   {"==", JT_EQ},      {"!=", JT_NE},      {">=", JT_GE},
    {"<=", JT_LE},       {"+", JT_ADD},    {"-", JT_SUB},      {"/", JT_DIV},      {"*", JT_MUL},
    {"%", JT_MOD},       {"~", JT_TILDE},  {"[", JT_LBRACKET}, {"]", JT_RBRACKET}, {"(", JT_LPAREN},
    {")", JT_RPAREN},    {"{", JT_LBRACE}, {"}", JT_RBRACE},   {">", JT_GT},       {"<", JT_LT},
    {"=", JT_ASSIGN},    {".", JT_DOT},    {":", JT_COLON},    {"|", JT_PIPE},     {",", JT_COMMA},
    {";", JT_SEMICOLON},
};

static bool balance(struct jlexer *l, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (l->depth == sizeof l->brackets)
            return jcompile_fail(l->c, l->pos, JINJA_LIMIT, "nested more than %d deep",
                                 JPARSE_NESTING);
        l->brackets[l->depth++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->depth == 0)
            return jcompile_fail(l->c, l->pos, JINJA_SYNTAX, "unexpected '%c'", c);
        if (l->brackets[--l->depth] != c)
            return jcompile_fail(l->c, l->pos, JINJA_SYNTAX, "unexpected '%c', expected '%c'", c,
                                 l->brackets[l->depth]);
    }
    return true;
}

static bool next_in_tag(struct jlexer *l, struct jtoken *out)
{
    uint32_t behind;
    char c;

    if (l->depth == 0) {
        behind = tag_end(l, l->pos, l->state == JLEX_VAR ? "}}" : "%}");
        if (behind) {
            *out = (struct jtoken){.type = l->state == JLEX_VAR ? JT_VAR_END : JT_BLOCK_END,
                                   .pos = l->pos};
            l->pos = behind;
            l->state = JLEX_DATA;
            return true;
        }
    }
    behind = skip_space(l, l->pos);
    if (behind > l->pos) {
        l->pos = behind;
        return next_in_tag(l, out);
    }
    *out = (struct jtoken){.type = JT_EOF, .pos = l->pos};
    if (l->pos >= l->end)
        return true;
    c = l->source[l->pos];
    if (c >= '0' && c <= '9')
        return next_number(l, out);
    if (c == '\'' || c == '"')
        return next_string(l, out);
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (starts(l, l->pos, operators[i].text)) {
            if (!balance(l, c))
                return false;
            out->type = operators[i].type;
            l->pos += (uint32_t)strlen(operators[i].text);
            return true;
        }
    }
    return next_name(l, out);
}

bool jlexer_next(struct jlexer *l, struct jtoken *out)
{
    if (l->pending) {
        *out = l->tag;
        l->pending = false;
        return true;
    }
    return l->state == JLEX_DATA ? next_data(l, out) : next_in_tag(l, out);
}

const char *jtoken_describe(enum jtok type)
{
    switch (type) {
    case JT_EOF: return "end of template";
    case JT_DATA: return "template data / text";
    case JT_VAR_BEGIN: return "begin of print statement";
    case JT_VAR_END: return "end of print statement";
    case JT_BLOCK_BEGIN: return "begin of statement block";
    case JT_BLOCK_END: return "end of statement block";
    case JT_NAME: return "name";
    case JT_STRING: return "string";
    case JT_INT: return "integer";
    case JT_FLOAT: return "float";
    default: break;
    }
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (operators[i].type == type)
            return operators[i].text;
    }
    return "token";
}
