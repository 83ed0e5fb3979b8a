/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Judges a configuration before libconfig parses it. libconfig 1.5 opens files for @include, ends the process
 * when that is a directory, wraps integers, recurses per nesting level and takes "a = 1 b = 2" for two
 * settings. What passes here is a subset of its grammar (libconfig manual, section 3) in which none of that can
 * happen: one automaton with an explicit stack reads the text and writes an equivalent one.
 */
#include "conf/internal.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/utf8.h"

enum token {
    T_END,
    T_NAME,
    T_EQUALS,
    T_BOOL,
    T_INT,
    T_REAL,
    T_STRING,
    T_OPEN,
    T_CLOSE,
    T_SEPARATOR,
    T_BAD /* reported already */
};

/* What may come next. */
enum expect { WANT_SETTING, WANT_EQUALS, WANT_VALUE, WANT_FIRST, WANT_SEPARATOR };

struct frame {
    char close;        /* the bracket that ends it; '\0': the file */
    uint32_t line;     /* where it was opened */
    uint32_t elements; /* of a list or array */
    size_t path_len;   /* of the path outside its current member */
    enum token kind;   /* of an array: what its elements are */
};

struct scan {
    const char *p, *end;
    const char *file;
    uint32_t line;
    struct strbuf *out;
    struct conf_errors *errors;
    struct strbuf path; /* of the current setting: "kernels.pins[0].op" */
    struct frame stack[LIMIT_CONF_DEPTH + 1];
    uint32_t depth;
    uint32_t n_settings;
    struct map seen; /* paths of settings */
    struct arena arena;
    enum expect expect;
    enum token last;   /* the value before WANT_SEPARATOR */
    const char *token; /* text of the current token ... */
    size_t token_len;  /* ... and its length */
};

TN_PRINTF(2, 3)
static tn_err *report(struct scan *s, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return errors_add(s->errors, s->file, s->line, strbuf_str(&s->path), "%s", text);
}

static void remedy(tn_err *e, const char *text)
{
    err_remedy(e, "%s", text);
}

static void truncate_path(struct scan *s, size_t len)
{
    s->path.len = len;
    if (s->path.data)
        s->path.data[len] = '\0';
}

/* -- Tokens ------------------------------------------------------------------------------------- */

/* Skips to the end of a comment; newlines in it are kept. False if it never ends. */
static bool skip_comment(struct scan *s)
{
    uint32_t begun = s->line;

    s->p += 2;
    for (; s->p < s->end; s->p++) {
        if (*s->p == '\n') {
            s->line++;
            strbuf_putc(s->out, '\n');
        }
        if (*s->p == '*' && s->p + 1 < s->end && s->p[1] == '/') {
            s->p += 2;
            return true;
        }
    }
    s->line = begun;
    report(s, "the comment that begins here never ends");
    return false;
}

static bool skip_blanks(struct scan *s)
{
    while (s->p < s->end) {
        char next = s->p + 1 < s->end ? s->p[1] : '\0';
        if (*s->p == '\n') {
            s->line++;
            strbuf_putc(s->out, '\n');
            s->p++;
        } else if (*s->p == ' ' || *s->p == '\t' || *s->p == '\r' || *s->p == '\f') {
            s->p++;
        } else if (*s->p == '#' || (*s->p == '/' && next == '/')) {
            while (s->p < s->end && *s->p != '\n')
                s->p++;
        } else if (*s->p == '/' && next == '*') {
            if (!skip_comment(s))
                return false;
        } else {
            break;
        }
    }
    return true;
}

/* Length of the escape at p (which is a backslash), 0 if it is none that libconfig knows. */
static size_t escape_len(const char *p, const char *end)
{
    if (end - p >= 2 && strchr("nrtf\\\"", p[1]) && p[1] != '\0')
        return 2;
    if (end - p >= 4 && (p[1] == 'x' || p[1] == 'X') && isxdigit((unsigned char)p[2]) &&
        isxdigit((unsigned char)p[3]) && !(p[2] == '0' && p[3] == '0'))
        return 4;
    return 0;
}

static enum token read_string(struct scan *s)
{
    const char *p = s->p + 1;

    while (p < s->end && *p != '"') {
        size_t n = *p == '\\' ? escape_len(p, s->end) : 1;
        if (n == 0) {
            remedy(
                report(s, "the text has an unknown escape \\%.1s", p + 1 < s->end ? p + 1 : ""),
                "write \\\\ for a backslash; \\n \\r \\t \\f \\\" and \\xHH (not \\x00) are known");
            return T_BAD;
        }
        if ((unsigned char)*p < ' ' && *p != '\t') {
            remedy(report(s, "the text that begins here does not end on its line"),
                   "close it with \"");
            return T_BAD;
        }
        p += n;
    }
    if (p == s->end) {
        remedy(report(s, "the text that begins here never ends"), "close it with \"");
        return T_BAD;
    }
    s->token = s->p;
    s->token_len = (size_t)(p + 1 - s->p);
    s->p = p + 1;
    return T_STRING;
}

/* An integer goes out as decimal with the suffix L, the one form that libconfig 1.5 reads without loss. */
static enum token finish_int(struct scan *s, const char *text, size_t len)
{
    char buf[32];
    char *stop = buf;
    long long v = 0;

    if (len > 0 && text[len - 1] == 'L')
        len -= len > 1 && text[len - 2] == 'L' ? 2 : 1;
    if (len > 0 && len < sizeof buf) {
        bool hex = len > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        memcpy(buf, text, len);
        buf[len] = '\0';
        errno = 0;
        v = strtoll(buf, &stop, hex ? 16 : 10);
    } else {
        errno = ERANGE;
        buf[0] = '\0';
    }
    if (*stop != '\0')
        report(s, "%.*s is not a number", (int)len, text);
    else if (errno != 0)
        report(s, "%.*s does not fit into 64 bits", (int)(len < 80 ? len : 80), text);
    strbuf_printf(s->out, "%lldL ", v);
    return T_INT;
}

static enum token read_number(struct scan *s)
{
    const char *text = s->p;
    size_t len = 0, room = (size_t)(s->end - s->p);
    bool hex = room > 1 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    bool real = false;
    double v;

    for (; len < room; len++) {
        char c = text[len];
        bool sign = (c == '+' || c == '-') &&
                    (len == 0 || (!hex && (text[len - 1] == 'e' || text[len - 1] == 'E')));
        if (!isalnum((unsigned char)c) && c != '.' && c != '_' && !sign)
            break;
        real |= !hex && (c == '.' || c == 'e' || c == 'E');
    }
    s->p += len;
    if (!real)
        return finish_int(s, text, len);
    if (!value_real(text, len, &v)) {
        report(s, "%.*s is not a number, or too large", (int)(len < 80 ? len : 80), text);
        text = "0.0";
        len = 3;
    }
    /* libconfig knows "1.5", "1.", ".5" and "1e5" alike. */
    strbuf_append(s->out, text, len);
    strbuf_putc(s->out, ' ');
    return T_REAL;
}

static bool word_is(const char *text, size_t len, const char *word)
{
    if (strlen(word) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (tolower((unsigned char)text[i]) != word[i])
            return false;
    return true;
}

static enum token read_word(struct scan *s)
{
    const char *text = s->p;

    while (s->p < s->end &&
           (isalnum((unsigned char)*s->p) || *s->p == '_' || *s->p == '-' || *s->p == '*'))
        s->p++;
    s->token = text;
    s->token_len = (size_t)(s->p - text);
    if (word_is(text, s->token_len, "true") || word_is(text, s->token_len, "false"))
        return T_BOOL;
    return T_NAME;
}

static enum token next_token(struct scan *s)
{
    char c;

    if (!skip_blanks(s))
        return T_BAD;
    if (s->p == s->end)
        return T_END;
    c = *s->p;
    s->token = s->p;
    s->token_len = 1;
    if (c == '"')
        return read_string(s);
    if (isdigit((unsigned char)c) || c == '.' || c == '+' || c == '-')
        return read_number(s);
    if (isalpha((unsigned char)c))
        return read_word(s);
    s->p++;
    switch (c) {
    case '=':
    case ':': return T_EQUALS;
    case ';':
    case ',': return T_SEPARATOR;
    case '{':
    case '[':
    case '(': return T_OPEN;
    case '}':
    case ']':
    case ')': return T_CLOSE;
    case '@':
        remedy(report(s, "@include is not supported"), "put all settings into one file");
        return T_BAD;
    default:
        if (c > ' ' && c < 127)
            report(s, "'%c' has no meaning here", c);
        else
            report(s, "byte 0x%02x has no meaning here", (unsigned char)c);
        return T_BAD;
    }
}

/* -- Grammar -------------------------------------------------------------------------------------- */

static struct frame *top(struct scan *s)
{
    return &s->stack[s->depth];
}

static bool in_group(const struct scan *s)
{
    char close = s->stack[s->depth].close;

    return close == '\0' || close == '}';
}

/* The path of the setting or element that begins. */
static void enter_member(struct scan *s, const char *name, size_t len)
{
    truncate_path(s, top(s)->path_len);
    if (!in_group(s))
        strbuf_printf(&s->path, "[%" PRIu32 "]", top(s)->elements++);
    else
        strbuf_printf(&s->path, "%s%.*s", s->path.len > 0 ? "." : "", (int)len, name);
}

static bool take_name(struct scan *s)
{
    char *copy;

    if (s->token_len > CONF_MAX_NAME) {
        report(s, "the name %.30s... is longer than %d characters", s->token, CONF_MAX_NAME);
        return false;
    }
    if (++s->n_settings > CONF_MAX_SETTINGS) {
        report(s, "there are more than %d settings", CONF_MAX_SETTINGS);
        return false;
    }
    enter_member(s, s->token, s->token_len);
    copy = arena_strdup(&s->arena, strbuf_str(&s->path));
    switch (copy ? map_put(&s->seen, copy, strlen(copy), s->line) : MAP_NOMEM) {
    case MAP_ADDED: break;
    case MAP_PRESENT: {
        uint64_t before = 0;
        map_get(&s->seen, copy, strlen(copy), &before);
        report(s, "is set twice, first in line %" PRIu64, before);
        /* libconfig would stop at the second: give it a name that the user cannot write and go on. */
        strbuf_printf(s->out, "*%" PRIu32, s->n_settings);
        break;
    }
    case MAP_NOMEM:
    default: errors_add_nomem(s->errors); return false;
    }
    strbuf_append(s->out, s->token, s->token_len);
    s->expect = WANT_EQUALS;
    return true;
}

static bool open_bracket(struct scan *s)
{
    char c = s->token[0];

    if (top(s)->close == ']') {
        report(s, "an array [ ] holds plain values only");
        return false;
    }
    if (s->depth == LIMIT_CONF_DEPTH) {
        report(s, "is nested deeper than %d levels", LIMIT_CONF_DEPTH);
        return false;
    }
    s->stack[++s->depth] = (struct frame){c == '{'   ? '}'
                                          : c == '[' ? ']'
                                                     : ')',
                                          s->line, 0, s->path.len, T_END};
    strbuf_putc(s->out, c);
    s->expect = c == '{' ? WANT_SETTING : WANT_FIRST;
    return true;
}

static bool close_bracket(struct scan *s)
{
    if (top(s)->close != s->token[0]) {
        if (top(s)->close)
            report(s, "found '%c' where '%c' should close what line %" PRIu32 " opens", s->token[0],
                   top(s)->close, top(s)->line);
        else
            report(s, "found '%c' but nothing is open", s->token[0]);
        return false;
    }
    truncate_path(s, top(s)->path_len);
    s->depth--;
    strbuf_putc(s->out, s->token[0]);
    s->expect = WANT_SEPARATOR;
    s->last = T_CLOSE;
    return true;
}

/* Numbers have been written by the tokenizer. */
static bool take_value(struct scan *s, enum token t)
{
    if (top(s)->close == ']') {
        if (top(s)->kind != T_END && top(s)->kind != t) {
            remedy(report(s, "an array [ ] holds values of one type only"),
                   "write whole and real numbers alike, or a list ( )");
            return false;
        }
        top(s)->kind = t;
    }
    if (t == T_STRING || t == T_BOOL)
        strbuf_append(s->out, s->token, s->token_len);
    s->expect = WANT_SEPARATOR;
    s->last = t;
    return true;
}

static bool want_setting(struct scan *s, enum token t)
{
    if (t == T_NAME)
        return take_name(s);
    if (t == T_CLOSE)
        return close_bracket(s);
    truncate_path(s, top(s)->path_len);
    if (t == T_SEPARATOR)
        report(s, "'%c' follows no setting", s->token[0]);
    else
        report(s, "the name of a setting must stand here");
    return false;
}

static bool want_value(struct scan *s, enum token t)
{
    bool first = s->expect == WANT_FIRST;

    if (first && t == T_CLOSE)
        return close_bracket(s);
    if (!in_group(s) && t != T_CLOSE && t != T_SEPARATOR) {
        if (top(s)->elements >= CONF_MAX_LIST) {
            report(s, "has more than %d entries", CONF_MAX_LIST);
            return false;
        }
        enter_member(s, "", 0);
    }
    if (t == T_OPEN)
        return open_bracket(s);
    if (t == T_BOOL || t == T_INT || t == T_REAL || t == T_STRING)
        return take_value(s, t);
    if (t == T_NAME)
        remedy(report(s, "%.*s is neither a number, true, false nor a text",
                      (int)(s->token_len < 60 ? s->token_len : 60), s->token),
               "put texts in quotation marks");
    else
        report(s, "a value must stand here");
    return false;
}

static bool want_separator(struct scan *s, enum token t)
{
    if (t == T_CLOSE)
        return close_bracket(s);
    if (t == T_SEPARATOR && (in_group(s) || s->token[0] == ',')) {
        strbuf_putc(s->out, s->token[0]);
        s->expect = in_group(s) ? WANT_SETTING : WANT_VALUE;
        return true;
    }
    /* Long texts may be written in pieces, but among elements that is a forgotten comma. */
    if (t == T_STRING && s->last == T_STRING && in_group(s)) {
        strbuf_append(s->out, s->token, s->token_len);
        return true;
    }
    if (t == T_NAME && in_group(s) && s->last == T_CLOSE)
        return take_name(s); /* "group = { ... } next = 1": libconfig allows it, and so do we */
    remedy(report(s, "is not ended before the next thing begins"),
           in_group(s) ? "end it with ';'" : "separate entries by ','");
    return false;
}

static bool step(struct scan *s, enum token t)
{
    if (t == T_BAD)
        return false;
    switch (s->expect) {
    case WANT_SETTING: return want_setting(s, t);
    case WANT_EQUALS:
        if (t != T_EQUALS) {
            remedy(report(s, "has no value"), "write NAME = VALUE;");
            return false;
        }
        strbuf_puts(s->out, " = ");
        s->expect = WANT_VALUE;
        return true;
    case WANT_VALUE:
    case WANT_FIRST: return want_value(s, t);
    case WANT_SEPARATOR:
    default: return want_separator(s, t);
    }
}

static bool take_end(struct scan *s)
{
    if (s->depth > 0) {
        s->line = top(s)->line;
        truncate_path(s, top(s)->path_len);
        report(s, "the '%c' that should close this is missing", top(s)->close);
        return false;
    }
    if (s->expect == WANT_EQUALS || s->expect == WANT_VALUE) {
        report(s, "has no value");
        return false;
    }
    return true;
}

/* Line of the byte at `offset`. */
static uint32_t line_at(const char *text, size_t offset)
{
    uint32_t line = 1;

    for (size_t i = 0; i < offset; i++)
        line += text[i] == '\n';
    return line;
}

static bool bytes_ok(const char *text, size_t len, const char *file, struct conf_errors *errors)
{
    size_t at = 0;
    uint32_t cp;

    if (len > LIMIT_CONF_BYTES) {
        errors_add(errors, file, 0, NULL, "has %zu bytes, more than the limit of %" PRIu64, len,
                   LIMIT_CONF_BYTES);
        return false;
    }
    while (at < len) {
        size_t n = utf8_decode(text + at, len - at, &cp);
        if (n == 0 || cp == 0) {
            errors_add(errors, file, line_at(text, at), NULL, "byte 0x%02x at offset %zu %s",
                       (unsigned char)text[at], at, n == 0 ? "is not UTF-8" : "is not text");
            return false;
        }
        at += n;
    }
    return true;
}

bool conf_scan(const char *text, size_t len, const char *file, struct strbuf *out,
               struct conf_errors *errors)
{
    struct scan s = {.p = text, .end = text + len, .file = file, .line = 1, .out = out};
    bool complete = false;

    s.errors = errors;
    if (!bytes_ok(text, len, file, errors))
        return false;
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        s.p += 3; /* a byte-order mark, as some editors write */
    for (;;) {
        enum token t = next_token(&s);
        if (t == T_END) {
            complete = take_end(&s);
            break;
        }
        if (!step(&s, t))
            break;
    }
    if (out->failed || s.path.failed) {
        errors_add_nomem(errors);
        complete = false;
    }
    strbuf_release(&s.path);
    map_release(&s.seen);
    arena_release(&s.arena);
    return complete;
}
