/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Oniguruma to PCRE2 (onig.h), after doc/RE of Oniguruma 6.9 and pcre2pattern(3). One pass, no recursion: groups are
 * kept on a stack only to know where an atom began and which options hold. Pure function, any thread.
 */
#include "onig.h"

#include <stdbool.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "onig_class.h"
#include "textlimits.h"
#include "unidata.h"

#define MAX_GROUPS 200 /* PCRE2 itself stops at 250 nested parentheses */
#define MAX_SETS 16    /* nested character classes */
#define NO_ATOM SIZE_MAX

struct translation {
    const char *p, *end, *begin;
    struct strbuf *out;
    tn_err *err;
    int32_t rc;
    size_t atom;   /* where the last atom begins in `out`; NO_ATOM: nothing to repeat */
    bool repeated; /* the last atom has a quantifier already */
    bool caseless; /* (?i) holds here */
    size_t depth;
    struct {
        size_t start;
        bool caseless;
        unsigned
            open_options;     /* (?i) without a colon: a group up to the end of the one around it */
    } groups[MAX_GROUPS + 1]; /* [depth] is where we are */
};

/* Refuses; `what` completes "the pattern uses ...". */
static bool refuse(struct translation *t, const char *what)
{
    if (t->rc == TN_OK) {
        t->rc = err_at(t->err, TN_E_UNSUPPORTED, "", (uint64_t)(t->p - t->begin), NULL,
                       "the regular expression uses %s (at byte %zu of it)", what,
                       (size_t)(t->p - t->begin));
        err_remedy(t->err, "write the pattern without it");
    }
    return false;
}

static void put_code_point(struct strbuf *out, uint32_t cp)
{
    if ((cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z'))
        strbuf_putc(out, (char)cp);
    else
        strbuf_printf(out, "\\x{%x}", (unsigned)cp);
}

void onig_literal(const char *text, size_t n, struct strbuf *out)
{
    for (size_t i = 0, len; i < n; i += len)
        put_code_point(out, uni_next(text + i, &len));
}

static void atom_begins(struct translation *t)
{
    t->atom = t->out->len;
    t->repeated = false;
}

/* strchr finds the NUL too, which a pattern may contain. */
static bool one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

static bool at(const struct translation *t, const char *text)
{
    size_t n = strlen(text);

    return (size_t)(t->end - t->p) >= n && memcmp(t->p, text, n) == 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Up to `max` hex digits at p. */
static size_t hex(struct translation *t, size_t max, uint32_t *value)
{
    size_t n = 0;

    *value = 0;
    while (n < max && t->p < t->end && hex_value(*t->p) >= 0) {
        *value = *value << 4 | (uint32_t)hex_value(*t->p++);
        n++;
    }
    return n;
}

/* After \x: {H...}, or two digits, which must be ASCII: higher ones are single bytes to Oniguruma. */
static bool hex_escape(struct translation *t, uint32_t *cp)
{
    if (t->p < t->end && *t->p == '{') {
        t->p++;
        if (hex(t, 8, cp) == 0 || t->p == t->end || *t->p != '}' || *cp > 0x10ffff ||
            (*cp >= 0xd800 && *cp <= 0xdfff))
            return refuse(t, "a \\x{..} that is no single character");
        t->p++;
        return true;
    }
    if (hex(t, 2, cp) == 0)
        return refuse(t, "\\x without digits");
    return *cp < 0x80 ? true : refuse(t, "\\x80 to \\xff, which are bytes and not characters");
}

static bool octal_escape(struct translation *t, uint32_t *cp)
{
    *cp = 0;
    for (int i = 0; i < 3 && t->p < t->end && *t->p >= '0' && *t->p <= '7'; i++)
        *cp = *cp * 8 + (uint32_t)(*t->p++ - '0');
    return *cp < 0x80 ? true : refuse(t, "an octal escape above \\177");
}

/* An escape that stands for one character, in classes and outside. `c` is the letter, p behind it. */
static bool character_escape(struct translation *t, char c, uint32_t *cp)
{
    switch (c) {
    case 't': *cp = '\t'; return true;
    case 'n': *cp = '\n'; return true;
    case 'r': *cp = '\r'; return true;
    case 'f': *cp = '\f'; return true;
    case 'v': *cp = '\v'; return true;
    case 'a': *cp = '\a'; return true;
    case 'e': *cp = 0x1b; return true;
    case 'x': return hex_escape(t, cp);
    case 'u':
        return hex(t, 4, cp) == 4 && !(*cp >= 0xd800 && *cp <= 0xdfff)
                   ? true
                   : refuse(t, "\\u without four hex digits of a character");
    case '0': t->p--; return octal_escape(t, cp);
    case 'c':
    case 'C':
    case 'M': return refuse(t, "a control or meta escape");
    default: {
        size_t n;
        t->p--;
        *cp = uni_next(t->p, &n);
        t->p += n;
        return true;
    }
    }
}

/* \p{..} at the brace. Not a property without one: Oniguruma then reads a plain letter. */
static bool property(struct translation *t, bool negate, struct cpset *set)
{
    const char *name, *close;

    name = t->p + 1;
    close = memchr(name, '}', (size_t)(t->end - name));
    if (!close)
        return refuse(t, "\\p{ without }");
    if (name < close && *name == '^') {
        negate = !negate;
        name++;
    }
    if (!cpset_add_property(set, name, (size_t)(close - name)))
        return refuse(t, "a character property that is not known here");
    if (negate)
        cpset_invert(set);
    t->p = close + 1;
    return true;
}

/* What an escape adds to a class: a set (then *cp is UINT32_MAX) or a character. */
static bool class_escape(struct translation *t, struct cpset *set, uint32_t *cp)
{
    char c;
    struct cpset *part;
    bool ok = true;

    *cp = UINT32_MAX;
    if (t->p == t->end)
        return refuse(t, "a backslash at its end");
    c = *t->p++;
    if (c == 'b') {
        *cp = '\b';
        return true;
    }
    if (c == 'R' || c == 'X' || c == 'N' || c == 'O')
        return refuse(t, "\\R, \\X, \\N or \\O in a class");
    if (!one_of(c, "dDsSwWhHpP") || ((c == 'p' || c == 'P') && (t->p == t->end || *t->p != '{')))
        return character_escape(t, c, cp);
    part = cpset_new();
    if (!part) {
        t->rc = err_nomem(t->err, "a character class");
        return false;
    }
    if (c == 'p' || c == 'P') {
        ok = property(t, c == 'P', part);
    } else {
        cpset_add_shorthand(part, (char)(c | 0x20));
        if (c < 'a')
            cpset_invert(part);
    }
    if (ok)
        cpset_unite(set, part);
    mem_free(part);
    return ok;
}

/* [:name:] or [:^name:] at the first bracket; 0 if this is none. */
static int posix_bracket(struct translation *t, struct cpset *set)
{
    const char *name = t->p + 2, *p = name;
    bool negate = false;
    struct cpset *part;
    int ok;

    if (p < t->end && *p == '^') {
        negate = true;
        name = ++p;
    }
    while (p < t->end && *p >= 'a' && *p <= 'z')
        p++;
    if (t->end - p < 2 || p[0] != ':' || p[1] != ']')
        return 0;
    part = cpset_new();
    if (!part) {
        t->rc = err_nomem(t->err, "a character class");
        return -1;
    }
    ok = cpset_add_posix(part, name, (size_t)(p - name)) ? 1 : -1;
    if (negate)
        cpset_invert(part);
    if (ok > 0)
        cpset_unite(set, part);
    else
        refuse(t, "a bracket expression that is not known here");
    mem_free(part);
    t->p = p + 2;
    return ok;
}

/* One open class: what it has so far, and what stands before &&. */
struct level {
    struct cpset *now, *before;
    bool negate;
    bool empty; /* no item since the bracket or && */
};

struct class_parser {
    struct level stack[MAX_SETS];
    size_t depth;
};

static bool class_open(struct translation *t, struct class_parser *c)
{
    struct level *l;

    if (c->depth == MAX_SETS)
        return refuse(t, "classes nested too deeply");
    l = &c->stack[c->depth];
    *l = (struct level){cpset_new(), NULL, false, true};
    if (!l->now) {
        t->rc = err_nomem(t->err, "a character class");
        return false;
    }
    c->depth++;
    t->p++; /* [ */
    if (t->p < t->end && *t->p == '^') {
        l->negate = true;
        t->p++;
    }
    if (t->p < t->end && *t->p == ']') { /* first: a plain bracket */
        cpset_add_range(l->now, ']', ']');
        l->empty = false;
        t->p++;
    }
    return true;
}

/* && : what was there so far becomes the left operand. */
static void class_and(struct translation *t, struct level *l)
{
    struct cpset *fresh = cpset_new();

    t->p += 2;
    if (!fresh) {
        t->rc = err_nomem(t->err, "a character class");
        return;
    }
    if (l->before) {
        cpset_intersect(l->before, l->now);
        mem_free(l->now);
    } else {
        l->before = l->now;
    }
    l->now = fresh;
    l->empty = true;
}

/* ] : works the innermost class out, gives it to the one around it. */
static bool class_close(struct translation *t, struct class_parser *c)
{
    struct level *l = &c->stack[c->depth - 1];

    t->p++;
    if (l->empty)
        return refuse(t, "an empty class");
    if (l->before) {
        cpset_intersect(l->now, l->before);
        mem_free(l->before);
        l->before = NULL;
    }
    if (c->depth == 1)
        return true;
    if (l->negate)
        cpset_invert(l->now);
    cpset_unite(c->stack[c->depth - 2].now, l->now);
    mem_free(l->now);
    l->now = NULL;
    c->depth--;
    c->stack[c->depth - 1].empty = false;
    return true;
}

/* A character, an escape, or a range of characters. */
static bool class_item(struct translation *t, struct level *l)
{
    uint32_t first, last;
    size_t n;

    l->empty = false;
    if (*t->p == '\\') {
        t->p++;
        if (!class_escape(t, l->now, &first))
            return false;
        if (first == UINT32_MAX)
            return true;
    } else {
        first = uni_next(t->p, &n);
        t->p += n;
    }
    last = first;
    if (t->end - t->p >= 2 && t->p[0] == '-' && t->p[1] != ']') {
        t->p++;
        if (*t->p == '[')
            return refuse(t, "a range that ends with a class");
        if (*t->p == '\\') {
            t->p++;
            if (!class_escape(t, l->now, &last))
                return false;
            if (last == UINT32_MAX)
                return refuse(t, "a range that ends with a class");
        } else {
            last = uni_next(t->p, &n);
            t->p += n;
        }
        if (last < first)
            return refuse(t, "an empty range");
    }
    cpset_add_range(l->now, first, last);
    return true;
}

static bool class_step(struct translation *t, struct class_parser *c)
{
    struct level *l = &c->stack[c->depth - 1];

    if (t->p == t->end)
        return refuse(t, "[ without ]");
    if (*t->p == ']')
        return class_close(t, c);
    if (at(t, "&&")) {
        class_and(t, l);
        return t->rc == TN_OK;
    }
    if (at(t, "[:")) {
        int posix = posix_bracket(t, l->now);
        if (posix != 0) {
            l->empty = false;
            return posix > 0;
        }
    }
    return *t->p == '[' ? class_open(t, c) : class_item(t, l);
}

static bool character_class(struct translation *t)
{
    struct class_parser c = {.depth = 0};
    bool ok = class_open(t, &c);

    /* The outermost class is closed when its `now` is worked out and the text stands behind its bracket. */
    while (ok) {
        bool outermost = c.depth == 1 && t->p < t->end && *t->p == ']';
        ok = class_step(t, &c);
        if (outermost)
            break;
    }
    if (ok) {
        atom_begins(t);
        cpset_print(c.stack[0].now, c.stack[0].negate, t->out);
    }
    for (size_t i = 0; i < c.depth; i++) {
        mem_free(c.stack[i].now);
        mem_free(c.stack[i].before);
    }
    return ok;
}

/* A shorthand or property outside a class. Case does not change what it matches, unlike in PCRE2. */
static bool bare_set(struct translation *t, char c)
{
    struct cpset *set = cpset_new();
    bool ok = true, negate = c < 'a';

    if (!set) {
        t->rc = err_nomem(t->err, "a character class");
        return false;
    }
    if (c == 'p' || c == 'P') {
        ok = property(t, false, set);
    } else {
        cpset_add_shorthand(set, (char)(c | 0x20));
        if (c == 'w' ||
            c == 'W') { /* fractions and superscripts of Latin-1, outside classes only */
            cpset_add_range(set, 0xb2, 0xb3);
            cpset_add_range(set, 0xb9, 0xb9);
            cpset_add_range(set, 0xbc, 0xbe);
        }
    }
    if (ok) {
        atom_begins(t);
        strbuf_puts(t->out, t->caseless ? "(?-i:" : "");
        cpset_print(set, negate, t->out);
        strbuf_puts(t->out, t->caseless ? ")" : "");
    }
    mem_free(set);
    return ok;
}

/* \b and \B by our own \w. */
static bool word_boundary(struct translation *t, bool negate)
{
    struct strbuf w = STRBUF_INIT;
    struct cpset *set = cpset_new();

    if (!set) {
        t->rc = err_nomem(t->err, "a character class");
        return false;
    }
    cpset_add_shorthand(set, 'w');
    cpset_print(set, false, &w);
    t->atom = NO_ATOM;
    strbuf_printf(t->out,
                  negate ? "(?:(?<=%s)(?=%s)|(?<!%s)(?!%s))" : "(?:(?<=%s)(?!%s)|(?<!%s)(?=%s))",
                  strbuf_str(&w), strbuf_str(&w), strbuf_str(&w), strbuf_str(&w));
    strbuf_release(&w);
    mem_free(set);
    return true;
}

static bool assertion(struct translation *t, char c)
{
    t->atom = NO_ATOM;
    strbuf_putc(t->out, '\\');
    strbuf_putc(t->out, c);
    return true;
}

static bool back_reference(struct translation *t, char c)
{
    if (t->p < t->end && *t->p >= '0' && *t->p <= '9')
        return refuse(t, "a back reference of two digits");
    atom_begins(t);
    strbuf_printf(t->out, "\\g{%c}", c);
    return true;
}

static bool escape(struct translation *t)
{
    uint32_t cp;
    char c;

    if (t->p == t->end)
        return refuse(t, "a backslash at its end");
    c = *t->p++;
    if (one_of(c, "dDsSwWhH") || ((c == 'p' || c == 'P') && t->p < t->end && *t->p == '{'))
        return bare_set(t, c);
    if (one_of(c, "AzZG"))
        return assertion(t, c);
    if (c == 'b' || c == 'B')
        return word_boundary(t, c == 'B');
    if (c >= '1' && c <= '9')
        return back_reference(t, c);
    if (c == 'k' || c == 'g' || c == 'y' || c == 'Y')
        return refuse(t, "named references, subexpression calls or text segment boundaries");
    if (c == 'K')
        return assertion(t, c);
    if (c == 'R' || c == 'X' || c == 'N' || c == 'O') {
        atom_begins(t);
        strbuf_puts(t->out, c == 'R'   ? "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])"
                            : c == 'X' ? "\\X"
                            : c == 'N' ? "[^\\n]"
                                       : "(?s:.)");
        return true;
    }
    if (!character_escape(t, c, &cp))
        return false;
    atom_begins(t);
    put_code_point(t->out, cp);
    return true;
}

/* (?imx-imx) and (?imx-imx: at the first letter. m is PCRE2's s. */
static bool options(struct translation *t)
{
    bool on = true, caseless = t->caseless;

    strbuf_puts(t->out, "(?");
    for (; t->p < t->end && *t->p != ')' && *t->p != ':'; t->p++) {
        if (*t->p == '-' && on) {
            on = false;
            strbuf_putc(t->out, '-');
        } else if (*t->p == 'i') {
            caseless = on;
            strbuf_putc(t->out, 'i');
        } else if (*t->p == 'm') {
            strbuf_putc(t->out, 's');
        } else {
            return refuse(t, "an option other than i and m");
        }
    }
    if (t->p == t->end)
        return refuse(t, "( without )");
    /* a(?i)b|c means a(?i:b|c), and not what PCRE2 reads. */
    if (*t->p == ')')
        t->groups[t->depth].open_options++;
    else
        t->groups[t->depth - 1].caseless = t->caseless;
    t->p++;
    strbuf_putc(t->out, ':');
    t->caseless = caseless;
    t->atom = NO_ATOM;
    return true;
}

static bool group_open(struct translation *t)
{
    static const char *const same[] = {"(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!"};

    if (t->depth == MAX_GROUPS)
        return refuse(t, "groups nested too deeply");
    if (at(t, "(?#")) {
        while (t->p < t->end && *t->p != ')')
            t->p += *t->p == '\\' && t->end - t->p > 1 ? 2 : 1;
        if (t->p == t->end)
            return refuse(t, "( without )");
        t->p++;
        return true;
    }
    if (at(t, "(*"))
        return refuse(t, "callouts");
    t->groups[t->depth].start = t->out->len;
    t->groups[t->depth].caseless = t->caseless;
    t->depth++;
    t->groups[t->depth].open_options = 0;
    t->atom = NO_ATOM;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        if (at(t, same[i])) {
            strbuf_puts(t->out, same[i]);
            t->p += strlen(same[i]);
            return true;
        }
    }
    if (!at(t, "(?")) {
        strbuf_putc(t->out, '(');
        t->p++;
        return true;
    }
    t->p += 2;
    if (t->p < t->end && one_of(*t->p, "im-")) {
        const char *close = t->p;
        while (close < t->end && *close != ':' && *close != ')')
            close++;
        if (close < t->end && *close == ')')
            t->depth--; /* sets options, opens nothing */
        return options(t);
    }
    return refuse(t, "a named group, a conditional, an absent operator or an unknown (?");
}

static void close_options(struct translation *t)
{
    for (; t->groups[t->depth].open_options > 0; t->groups[t->depth].open_options--)
        strbuf_putc(t->out, ')');
}

static bool group_close(struct translation *t)
{
    if (t->depth == 0)
        return refuse(t, ") without (");
    t->p++;
    close_options(t);
    t->depth--;
    strbuf_putc(t->out, ')');
    t->caseless = t->groups[t->depth].caseless;
    t->atom = t->groups[t->depth].start;
    t->repeated = false;
    return true;
}

/* {n}, {n,}, {,m} or {n,m} at the brace; false (and nothing read) if it is plain text. */
static bool interval(struct translation *t, unsigned *low, unsigned *high, bool *fixed)
{
    const char *p = t->p + 1;
    bool has_low = false, has_high = false;

    *low = *high = 0;
    for (; p < t->end && *p >= '0' && *p <= '9' && *low < 100000; p++) {
        *low = *low * 10 + (unsigned)(*p - '0');
        has_low = true;
    }
    *fixed = p < t->end && *p == '}';
    if (*fixed) {
        *high = *low;
    } else {
        if (p == t->end || *p++ != ',')
            return false;
        for (; p < t->end && *p >= '0' && *p <= '9' && *high < 100000; p++) {
            *high = *high * 10 + (unsigned)(*p - '0');
            has_high = true;
        }
        if (p == t->end || *p != '}')
            return false;
        if (!has_high)
            *high = UINT32_MAX;
    }
    if (!has_low && !has_high)
        return false;
    t->p = p + 1;
    return true;
}

/* Puts "(?:" and ")" around the last atom, so that one more quantifier may follow. */
static void wrap(struct translation *t)
{
    struct strbuf tail = STRBUF_INIT;

    strbuf_append(&tail, t->out->data + t->atom, t->out->len - t->atom);
    if (tail.failed) {
        t->out->failed = true;
        return;
    }
    t->out->len = t->atom;
    strbuf_puts(t->out, "(?:");
    strbuf_append(t->out, tail.data, tail.len);
    strbuf_putc(t->out, ')');
    strbuf_release(&tail);
}

static bool quantifier(struct translation *t)
{
    unsigned low, high;
    bool fixed = false, braces = *t->p == '{';
    char c = *t->p;

    if (t->atom == NO_ATOM)
        return refuse(t, "a quantifier with nothing to repeat");
    if (braces) {
        if (!interval(t, &low, &high, &fixed))
            return false;
        if (low > 65535 || (high != UINT32_MAX && (high > 65535 || high < low)))
            return refuse(t, "a repeat count above 65535 or in reverse");
    } else {
        t->p++;
    }
    if (t->repeated)
        wrap(t);
    if (!braces)
        strbuf_putc(t->out, c);
    else if (high == UINT32_MAX)
        strbuf_printf(t->out, "{%u,}", low);
    else
        strbuf_printf(t->out, "{%u,%u}", low, high);
    t->repeated = true;
    if (t->p < t->end && *t->p == '?' && !fixed) {
        strbuf_putc(t->out, '?');
        t->p++;
    } else if (t->p < t->end && *t->p == '+' && !braces) { /* {n,m}+ is no possessive repeat */
        strbuf_putc(t->out, '+');
        t->p++;
    }
    return true;
}

static bool element(struct translation *t)
{
    size_t n;
    uint32_t cp;

    switch (*t->p) {
    case '\\': t->p++; return escape(t);
    case '[': return character_class(t);
    case '(': return group_open(t);
    case ')': return group_close(t);
    case '*':
    case '+':
    case '?': return quantifier(t);
    case '{':
        if (t->atom != NO_ATOM && quantifier(t))
            return true;
        if (t->rc != TN_OK)
            return false;
        break; /* plain text */
    case '|':
    case '^':
    case '$':
        t->atom = NO_ATOM;
        strbuf_putc(t->out, *t->p++);
        return true;
    case '.':
        atom_begins(t);
        strbuf_putc(t->out, *t->p++);
        return true;
    default: break;
    }
    atom_begins(t);
    cp = uni_next(t->p, &n);
    put_code_point(t->out, cp);
    t->p += n;
    return true;
}

int32_t onig_translate(const char *pattern, size_t n, struct strbuf *out, tn_err *err)
{
    struct translation *t;
    int32_t rc;

    if (n > LIMIT_PATTERN_BYTES)
        return tn_err_set(err, TN_E_LIMIT, "the regular expression has %zu bytes, more than %d", n,
                          (int)LIMIT_PATTERN_BYTES);
    t = mem_zalloc(sizeof *t);
    if (!t)
        return err_nomem(err, "a regular expression");
    *t = (struct translation){.p = pattern,
                              .end = pattern + n,
                              .begin = pattern,
                              .out = out,
                              .err = err,
                              .rc = TN_OK,
                              .atom = NO_ATOM};
    while (t->rc == TN_OK && t->p < t->end && !out->failed)
        if (!element(t) && t->rc == TN_OK)
            t->rc = tn_err_set(err, TN_E_INTERNAL, "a regular expression was not understood");
    if (t->rc == TN_OK && t->depth > 0)
        refuse(t, "( without )");
    close_options(t);
    if (t->rc == TN_OK && out->failed)
        t->rc = err_nomem(err, "a regular expression");
    rc = t->rc;
    mem_free(t);
    return rc;
}
