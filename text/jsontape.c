/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tape parser (jsontape.h): RFC 8259 in one pass with an explicit stack, no recursion. Reading functions may be
 * called from any thread once it is parsed.
 */
#include "jsontape.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/utf8.h"

struct parser {
    struct tape *t;
    char *p, *end, *begin;
    uint32_t stack[LIMIT_JSON_DEPTH]; /* open containers */
    size_t depth;
    const char *problem;
};

static bool fail(struct parser *s, const char *problem)
{
    if (!s->problem)
        s->problem = problem;
    return false;
}

static void skip_space(struct parser *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
        s->p++;
}

static bool add(struct parser *s, enum tape_type type, size_t off, size_t len)
{
    struct tape *t = s->t;

    if (t->count == t->cap && !mem_grow(&t->nodes, &t->cap, t->count + 1, sizeof *t->nodes))
        return fail(s, "out of memory");
    t->nodes[t->count] =
        (struct tape_node){(uint8_t)type, (uint32_t)off, (uint32_t)len, (uint32_t)t->count + 1};
    t->count++;
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool hex4(struct parser *s, uint32_t *out)
{
    *out = 0;
    if (s->end - s->p < 4)
        return fail(s, "a \\u escape is cut short");
    for (int i = 0; i < 4; i++) {
        int d = hex_digit(*s->p++);
        if (d < 0)
            return fail(s, "a \\u escape needs four hex digits");
        *out = *out << 4 | (uint32_t)d;
    }
    return true;
}

/* After "\u". */
static bool unicode_escape(struct parser *s, char **out)
{
    uint32_t cp, low;

    if (!hex4(s, &cp))
        return false;
    if (cp >= 0xdc00 && cp <= 0xdfff)
        return fail(s, "a lone surrogate is no character");
    if (cp >= 0xd800 && cp <= 0xdbff) {
        if (s->end - s->p < 6 || s->p[0] != '\\' || s->p[1] != 'u')
            return fail(s, "a lone surrogate is no character");
        s->p += 2;
        if (!hex4(s, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(s, "a lone surrogate is no character");
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    }
    *out += utf8_encode(cp, *out);
    return true;
}

static bool escape(struct parser *s, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at;

    if (s->p == s->end)
        return fail(s, "the text ends inside a string");
    if (*s->p == 'u') {
        s->p++;
        return unicode_escape(s, out);
    }
    at = *s->p ? strchr(from, *s->p) : NULL;
    if (!at)
        return fail(s, "unknown escape in a string");
    s->p++;
    *(*out)++ = to[at - from];
    return true;
}

/* At the byte after the opening quote. The text can only shrink, so it is unescaped where it stands. */
static bool string(struct parser *s)
{
    char *begin = s->p, *out = s->p;

    while (s->p < s->end) {
        unsigned char c = (unsigned char)*s->p;
        if (c == '"') {
            s->p++;
            return add(s, TAPE_STRING, (size_t)(begin - s->begin), (size_t)(out - begin));
        }
        if (c == '\\') {
            s->p++;
            if (!escape(s, &out))
                return false;
        } else if (c < 0x20) {
            return fail(s, "a control character in a string must be escaped");
        } else if (c < 0x80) {
            *out++ = *s->p++;
        } else {
            uint32_t cp;
            size_t n = utf8_decode(s->p, (size_t)(s->end - s->p), &cp);
            if (n == 0)
                return fail(s, "a string is not valid UTF-8");
            memmove(out, s->p, n);
            out += n;
            s->p += n;
        }
    }
    return fail(s, "the text ends inside a string");
}

static size_t digits(struct parser *s)
{
    const char *from = s->p;

    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    return (size_t)(s->p - from);
}

static bool number(struct parser *s)
{
    const char *from = s->p;

    if (*s->p == '-')
        s->p++;
    if (s->p < s->end && *s->p == '0')
        s->p++;
    else if (digits(s) == 0)
        return fail(s, "a value is expected");
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        if (digits(s) == 0)
            return fail(s, "a number has no digits after its point");
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
            s->p++;
        if (digits(s) == 0)
            return fail(s, "a number has no digits in its exponent");
    }
    return add(s, TAPE_NUMBER, (size_t)(from - s->begin), (size_t)(s->p - from));
}

static bool word(struct parser *s, const char *text, enum tape_type type)
{
    size_t n = strlen(text);

    if ((size_t)(s->end - s->p) < n || memcmp(s->p, text, n) != 0)
        return fail(s, "a value is expected");
    s->p += n;
    return add(s, type, 0, 0);
}

static bool open_container(struct parser *s, enum tape_type type)
{
    if (s->depth == LIMIT_JSON_DEPTH)
        return fail(s, "nested too deeply");
    s->stack[s->depth++] = (uint32_t)s->t->count;
    s->p++;
    return add(s, type, 0, 0);
}

/* A scalar, or the opening of a container. */
static bool value(struct parser *s)
{
    skip_space(s);
    if (s->p == s->end)
        return fail(s, "the text ends where a value is expected");
    switch (*s->p) {
    case '{': return open_container(s, TAPE_OBJECT);
    case '[': return open_container(s, TAPE_ARRAY);
    case '"': s->p++; return string(s);
    case 't': return word(s, "true", TAPE_TRUE);
    case 'f': return word(s, "false", TAPE_FALSE);
    case 'n': return word(s, "null", TAPE_NULL);
    default: return number(s);
    }
}

static bool key(struct parser *s)
{
    skip_space(s);
    if (s->p == s->end || *s->p != '"')
        return fail(s, "a member's name is expected");
    s->p++;
    if (!string(s))
        return false;
    skip_space(s);
    if (s->p == s->end || *s->p != ':')
        return fail(s, "a colon is expected after a member's name");
    s->p++;
    return true;
}

/* One member, element or closing bracket of the innermost container. */
static bool step(struct parser *s)
{
    uint32_t at = s->stack[s->depth - 1];
    bool object = s->t->nodes[at].type == TAPE_OBJECT;

    skip_space(s);
    if (s->p == s->end)
        return fail(s, "the text ends inside an object or array");
    if (*s->p == (object ? '}' : ']')) {
        s->p++;
        s->t->nodes[at].next = (uint32_t)s->t->count;
        s->depth--;
        return true;
    }
    if (s->t->nodes[at].len > 0) {
        if (*s->p != ',')
            return fail(s, "a comma or closing bracket is expected");
        s->p++;
    }
    s->t->nodes[at].len++;
    return (!object || key(s)) && value(s);
}

int32_t tape_parse(char *text, size_t len, const char *file, struct tape *out, tn_err *err)
{
    struct tape t = {text, NULL, 0, 0, file};
    struct parser *s = mem_zalloc(sizeof *s);
    int32_t rc = TN_OK;
    bool ok;

    if (!s || len >= UINT32_MAX) {
        mem_free(text);
        mem_free(s);
        return s ? err_at(err, TN_E_LIMIT, file, TN_NO_OFFSET, NULL, "is too large")
                 : err_nomem(err, "a JSON document");
    }
    *s = (struct parser){.t = &t, .p = text, .end = text + len, .begin = text};
    /* One node per 12 bytes is what vocabularies have; growing copies. */
    ok = mem_grow(&t.nodes, &t.cap, len / 12 + 16, sizeof *t.nodes) && value(s);
    while (ok && s->depth > 0)
        ok = step(s);
    if (ok) {
        skip_space(s);
        if (s->p != s->end)
            ok = fail(s, "text follows the value");
    }
    if (!ok) {
        bool nomem = !s->problem || strcmp(s->problem, "out of memory") == 0;
        rc = nomem ? err_nomem(err, "a JSON document")
                   : err_at(err, TN_E_FORMAT, file, (uint64_t)(s->p - text), NULL,
                            "is not valid JSON: %s", s->problem);
        tape_release(&t);
    } else {
        *out = t;
    }
    mem_free(s);
    return rc;
}

int32_t tape_read(const char *path, uint64_t limit, struct tape *out, tn_err *err)
{
    char *text;
    size_t len;
    int32_t rc = file_read(path, limit, &text, &len, err);

    return rc != TN_OK ? rc : tape_parse(text, len, path, out, err);
}

void tape_release(struct tape *t)
{
    mem_free(t->text);
    mem_free(t->nodes);
    *t = (struct tape){NULL, NULL, 0, 0, NULL};
}

bool tape_eq(const struct tape *t, uint32_t node, const char *text)
{
    size_t n = strlen(text);

    return tape_is(t, node, TAPE_STRING) && t->nodes[node].len == n &&
           memcmp(t->text + t->nodes[node].off, text, n) == 0;
}

uint32_t tape_get_n(const struct tape *t, uint32_t object, const char *name, size_t len)
{
    uint32_t at;

    if (!tape_is(t, object, TAPE_OBJECT))
        return TAPE_NONE;
    at = object + 1;
    for (uint32_t i = 0; i < t->nodes[object].len; i++) {
        uint32_t v = at + 1;
        if (t->nodes[at].len == len && memcmp(t->text + t->nodes[at].off, name, len) == 0)
            return t->nodes[v].type == TAPE_NULL ? TAPE_NONE : v;
        at = t->nodes[v].next;
    }
    return TAPE_NONE;
}

uint32_t tape_get(const struct tape *t, uint32_t object, const char *name)
{
    return tape_get_n(t, object, name, strlen(name));
}

int32_t tape_unique(const struct tape *t, uint32_t object, tn_err *err)
{
    uint32_t n = t->nodes[object].len, a = object + 1;

    if (n > 1024)
        return tape_err(t, object, NULL, err, "has %u members where few are expected", n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t b = t->nodes[a + 1].next;
        for (uint32_t j = i + 1; j < n; j++) {
            if (t->nodes[a].len == t->nodes[b].len &&
                memcmp(t->text + t->nodes[a].off, t->text + t->nodes[b].off, t->nodes[a].len) == 0)
                return tape_err(t, b, NULL, err, "the member \"%.*s\" stands twice",
                                t->nodes[a].len < 64 ? (int)t->nodes[a].len : 64,
                                t->text + t->nodes[a].off);
            b = t->nodes[b + 1].next;
        }
        a = t->nodes[a + 1].next;
    }
    return TN_OK;
}

bool tape_uint(const struct tape *t, uint32_t node, uint32_t *out)
{
    const struct tape_node *n;
    uint64_t v = 0;

    if (!tape_is(t, node, TAPE_NUMBER))
        return false;
    n = &t->nodes[node];
    for (uint32_t i = 0; i < n->len; i++) {
        char c = t->text[n->off + i];
        if (c < '0' || c > '9')
            return false;
        v = v * 10 + (uint64_t)(c - '0');
        if (v > UINT32_MAX)
            return false;
    }
    *out = (uint32_t)v;
    return true;
}

/* Digits of the significand that fit 64 bits; later ones are dropped, as the reference's parser does. */
static uint64_t significand(const char **p, const char *end, int *exponent)
{
    uint64_t v = 0;
    bool point = false, full = false;

    for (; *p < end && (**p == '.' || (**p >= '0' && **p <= '9')); (*p)++) {
        uint64_t d;
        if (**p == '.') {
            point = true;
            continue;
        }
        d = (uint64_t)(**p - '0');
        if (full || v > (UINT64_MAX - d) / 10) {
            full = true;
            *exponent += !point;
            continue;
        }
        v = v * 10 + d;
        *exponent -= point;
    }
    return v;
}

static double power_of_ten(int e)
{
    double r = 1;

    /* The decimal literals of a table would be correctly rounded; up to 22 the product is exact too. */
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    while (e > 22) {
        r *= 1e22;
        e -= 22;
    }
    return r * exact[e];
}

bool tape_real(const struct tape *t, uint32_t node, double *out)
{
    const char *p, *end;
    int exponent = 0, written = 0;
    bool negative = false, down = false;
    double v;

    if (!tape_is(t, node, TAPE_NUMBER))
        return false;
    p = t->text + t->nodes[node].off;
    end = p + t->nodes[node].len;
    if (*p == '-') {
        negative = true;
        p++;
    }
    v = (double)significand(&p, end, &exponent);
    if (p < end) {
        p++; /* e */
        if (*p == '-' || *p == '+')
            down = *p++ == '-';
        for (; p < end; p++)
            written = written < 10000 ? written * 10 + (*p - '0') : written;
        exponent += down ? -written : written;
    }
    if (v != 0 && exponent > 308)
        return false;
    if (exponent < -600 || v == 0)
        v = 0;
    else if (exponent < -300)
        v = v / 1e300 / power_of_ten(-exponent - 300);
    else
        v = exponent < 0 ? v / power_of_ten(-exponent) : v * power_of_ten(exponent);
    if (v > 1.7976931348623157e308)
        return false;
    *out = negative ? -v : v;
    return true;
}

int32_t tape_get_bool(const struct tape *t, uint32_t object, const char *name, bool fallback,
                      bool *out, tn_err *err)
{
    uint32_t v = tape_get(t, object, name);

    *out = fallback;
    if (v == TAPE_NONE)
        return TN_OK;
    if (!tape_is(t, v, TAPE_TRUE) && !tape_is(t, v, TAPE_FALSE))
        return tape_err(t, v, name, err, "must be true or false");
    *out = tape_is(t, v, TAPE_TRUE);
    return TN_OK;
}

int32_t tape_need_str(const struct tape *t, uint32_t object, const char *name, const char **out,
                      size_t *len, tn_err *err)
{
    uint32_t v = tape_get(t, object, name);

    if (!tape_is(t, v, TAPE_STRING))
        return tape_err(t, v == TAPE_NONE ? object : v, name, err,
                        v == TAPE_NONE ? "is missing" : "must be a string");
    *out = tape_str(t, v, len);
    return TN_OK;
}

int32_t tape_err(const struct tape *t, uint32_t node, const char *field, tn_err *err,
                 const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    /* Containers do not record where they begin; a scalar inside or before them is near enough. */
    while (node != TAPE_NONE && node > 0 && t->nodes[node].off == 0)
        node--;
    return err_at(err, TN_E_FORMAT, t->file,
                  node == TAPE_NONE || t->nodes[node].off == 0 ? TN_NO_OFFSET : t->nodes[node].off,
                  field, "%s", text);
}
