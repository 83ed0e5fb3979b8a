/* SPDX-License-Identifier: Apache-2.0 */
/* The wordwrap filter: Python's textwrap (3.11), which jinja2 applies line by line. Lines are ranges of code points of
 * the input: textwrap drops white space but never changes the order of anything. */
#include "jinja/wordwrap.h"

#include <string.h>

#include "jinja/text.h"
#include "jinja/unicode.h"
#include "jinja/vm.h"

/* One line of input. */
struct line {
    const struct jstr *text;
    uint32_t *cp;   /* its code points */
    size_t *offset; /* their places in bytes, and the end */
    size_t n;
};

struct chunk {
    size_t from, to;
};

struct wrapper {
    struct jvm *vm;
    int64_t width;
    bool break_words, break_hyphens;
    struct chunk *chunks;
    size_t count, cap;
};

static bool is_blank(uint32_t cp)
{
    return cp == ' ' || (cp >= 9 && cp <= 13);
}

static bool is_letter(const struct line *l, size_t i)
{
    return i < l->n && junicode_word(l->cp[i]) && !junicode_decimal(l->cp[i]);
}

/* A character after which a dash may stand between words. */
static bool ends_word(uint32_t cp)
{
    return junicode_word(cp) || (cp < 0x80 && cp && strchr("!\"'&.,?", (int)cp));
}

/* Length of the dashes at i, if there are two or more and a word follows; else 0. */
static size_t long_dash(const struct line *l, size_t i)
{
    size_t at = i;

    while (at < l->n && l->cp[at] == '-')
        at++;
    return at - i >= 2 && at < l->n && junicode_word(l->cp[at]) ? at - i : 0;
}

/* Whether the hyphen at i may end a line: two letters (or a-b) before it, two letters behind it. */
static bool breaks_at_hyphen(const struct line *l, size_t i)
{
    bool before = i >= 2 && l->cp[i] == '-' && is_letter(l, i - 1) &&
                  (is_letter(l, i - 2) || (l->cp[i - 2] == '-' && i >= 3 && is_letter(l, i - 3)));
    size_t next = i + 2 < l->n && l->cp[i + 2] == '-' ? i + 3 : i + 2;

    return before && is_letter(l, i + 1) && is_letter(l, next);
}

static size_t chunk_end(const struct wrapper *w, const struct line *l, size_t from)
{
    size_t at = from + 1;

    if (is_blank(l->cp[from])) {
        while (at < l->n && is_blank(l->cp[at]))
            at++;
        return at;
    }
    if (w->break_hyphens && from > 0 && ends_word(l->cp[from - 1]) && long_dash(l, from))
        return from + long_dash(l, from);
    for (; at < l->n && !is_blank(l->cp[at]); at++) {
        if (!w->break_hyphens)
            continue;
        if (breaks_at_hyphen(l, at))
            return at + 1;
        if (ends_word(l->cp[at - 1]) && long_dash(l, at))
            return at;
    }
    return at;
}

static bool split(struct wrapper *w, const struct line *l)
{
    w->count = 0;
    for (size_t at = 0; at < l->n; at = w->chunks[w->count++].to) {
        if (!jvm_spend(w->vm, 1) ||
            !jvm_grow(w->vm, &w->chunks, &w->cap, w->count + 1, sizeof *w->chunks))
            return false;
        w->chunks[w->count] = (struct chunk){at, chunk_end(w, l, at)};
    }
    return true;
}

static bool all_space(const struct line *l, size_t from, size_t to)
{
    while (from < to && junicode_space(l->cp[from]))
        from++;
    return from == to;
}

/* Where to cut a chunk that is longer than a line, with `space` characters left on this one. */
static size_t cut(const struct wrapper *w, const struct line *l, const struct chunk *c,
                  size_t space)
{
    bool other = false;

    if (w->break_hyphens) {
        for (size_t i = c->from + space; i-- > c->from;) {
            if (l->cp[i] != '-')
                continue;
            for (size_t k = c->from; k < i; k++)
                other |= l->cp[k] != '-';
            if (i > c->from && other)
                return i + 1;
            break;
        }
    }
    return c->from + space;
}

/* Takes chunks for one line, from *i on; the line is [*from, *to). False if there is no line to put out. */
static bool fill(const struct wrapper *w, const struct line *l, size_t *i, size_t *from, size_t *to)
{
    size_t last = 0, taken = 0, width = (size_t)w->width;

    *from = *to = *i < w->count ? w->chunks[*i].from : 0;
    while (*i < w->count && w->chunks[*i].to - *from <= width) {
        last = w->chunks[*i].from;
        *to = w->chunks[(*i)++].to;
        taken++;
    }
    if (*i < w->count && w->chunks[*i].to - w->chunks[*i].from > width) {
        struct chunk *c = &w->chunks[*i];
        if (w->break_words) {
            /* With no space left Python takes an empty piece: it then stands last, so that white
             * space before it stays. */
            last = c->from;
            *to = c->from = cut(w, l, c, width - (*to - *from));
            taken++;
        } else if (taken == 0) {
            last = c->from;
            *to = c->to;
            ++*i;
            taken++;
        }
    }
    if (taken && all_space(l, last, *to)) {
        *to = last;
        taken--;
    }
    return taken > 0;
}

static bool wrap_line(struct wrapper *w, const struct line *l, const struct jstr *sep,
                      struct jbuild *b)
{
    size_t i = 0, lines = 0, from, to;

    if (!split(w, l))
        return false;
    while (i < w->count) {
        if (!jvm_spend(w->vm, 1))
            return false;
        if (lines && all_space(l, w->chunks[i].from, w->chunks[i].to))
            i++;
        if (!fill(w, l, &i, &from, &to))
            continue;
        if ((lines++ && !jbuild_str(b, sep)) ||
            !jbuild_sub(b, l->text, l->offset[from], l->offset[to] - l->offset[from]))
            return false;
    }
    return true;
}

static bool load(struct jvm *vm, const struct jstr *text, struct line *l)
{
    size_t at = 0;

    l->text = text;
    l->n = jstr_chars(text);
    l->cp = jvm_array(vm, l->n, sizeof *l->cp);
    l->offset = jvm_array(vm, l->n + 1, sizeof *l->offset);
    if (!l->cp || !l->offset || !jvm_spend_bytes(vm, text->len * 4))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        l->offset[i] = at;
        at += jstr_decode(text, at, &l->cp[i]);
    }
    l->offset[l->n] = at;
    return true;
}

bool jwordwrap(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct wrapper w = {.vm = vm, .width = 79, .break_words = jarg_flag(a, 1, true)};
    struct jlist lines;
    struct jvalue sep;
    struct line l;
    struct jbuild b;

    if (a->self.type == J_UNDEFINED)
        return jundef_fail(vm, a->self);
    if (a->self.type != J_STR)
        return jvm_fail(vm, JINJA_TYPE, "'%s' object has no attribute 'splitlines'",
                        jvalue_type(a->self));
    w.break_hyphens = jarg_flag(a, 3, true);
    /* A default line break is no more trusted than the text. */
    if (jarg_given(a, 0) && a->v[0].type == J_UNDEFINED)
        return jundef_fail(vm, a->v[0]);
    if (!jstr_wrap(vm, "\n", 1, jstr_trusted(a->self.u.s), &sep) || !jarg_int(vm, a, 0, &w.width))
        return false;
    if (jarg_some(a, 2) && !jvalue_str(vm, a->v[2], &sep))
        return false;
    if (!jtext_splitlines(vm, a->self, false, &lines) || !jbuild_init(vm, &b))
        return false;
    for (size_t i = 0; i < lines.count; i++) {
        if (w.width <= 0)
            return jvm_fail(vm, JINJA_VALUE, "invalid width %lld (must be > 0)",
                            (long long)w.width);
        if ((i && !jbuild_str(&b, sep.u.s)) || !load(vm, lines.items[i].u.s, &l) ||
            !wrap_line(&w, &l, sep.u.s, &b))
            return false;
    }
    return jbuild_done(&b, out);
}
