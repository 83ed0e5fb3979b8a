/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-tokenizers at work (pretok.h). A split reports where delimiters are, in order and without a gap; `struct cutter`
 * makes pieces of that by the step's behavior. Steps that change text write a new one. One thread per set of pieces.
 */
#include "pretok.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "bytelevel.h"
#include "unidata.h"

/* Pieces of one plain piece as they are found. */
struct cutter {
    struct pieces *p;
    size_t base; /* where the piece begins in the text */
    enum pretok_behavior behavior;
    bool invert;
    bool any;          /* a part is pending: it may still grow */
    bool last_matched; /* the pending part was, or ends with, a delimiter */
    size_t begin, end; /* the pending part */
};

static void cut_flush(struct cutter *c)
{
    if (c->any)
        pieces_put_part(c->p, c->base + c->begin, c->base + c->end);
    c->any = false;
}

/* Whether a part joins the pending one. */
static bool cut_joins(const struct cutter *c, bool match)
{
    switch (c->behavior) {
    case SPLIT_CONTIGUOUS: return match == c->last_matched;
    case SPLIT_MERGED_WITH_PREVIOUS: return match && !c->last_matched;
    case SPLIT_MERGED_WITH_NEXT: return !match && c->last_matched;
    default: return false;
    }
}

/* The next part of the piece, a delimiter if `match`. */
static void cut(struct cutter *c, size_t begin, size_t end, bool match)
{
    match = match != c->invert;
    if (c->behavior == SPLIT_ISOLATED) {
        pieces_put_part(c->p, c->base + begin, c->base + end);
        return;
    }
    if (c->behavior == SPLIT_REMOVED) {
        if (!match)
            pieces_put_part(c->p, c->base + begin, c->base + end);
        return;
    }
    if (c->any && cut_joins(c, match)) {
        c->end = end;
    } else {
        cut_flush(c);
        c->any = true;
        c->begin = begin;
        c->end = end;
    }
    c->last_matched = match;
}

/* A delimiter at begin..end, after what was cut up to *done. */
static void cut_match(struct cutter *c, size_t *done, size_t begin, size_t end)
{
    if (*done < begin)
        cut(c, *done, begin, false);
    cut(c, begin, end, true);
    *done = end;
}

static int32_t split_regex(const struct pretok *s, struct cutter *c, const char *text, size_t len,
                           struct regex_scratch *scratch, tn_err *err)
{
    struct regex_iter it;
    size_t begin = 0, end = 0, done = 0;
    int32_t rc;

    regex_iter_begin(&it, s->regex, scratch, text, len);
    while ((rc = regex_iter_next(&it, &begin, &end, err)) == 1)
        cut_match(c, &done, begin, end);
    if (rc == 0 && done < len)
        cut(c, done, len, false);
    return rc;
}

static void split_scanner(const struct scanner *s, struct cutter *c, const char *text, size_t len)
{
    for (size_t at = 0, end; at < len; at = end) {
        end = s->next(s, text, len, at);
        cut(c, at, end, true);
    }
}

static void split_literal(const struct pretok *s, struct cutter *c, const char *text, size_t len)
{
    size_t done = 0, at;

    while ((at = literal_find(&s->literal, text, len, done)) != SIZE_MAX)
        cut_match(c, &done, at, at + s->literal.len);
    if (done < len)
        cut(c, done, len, false);
}

static bool is_delimiter(const struct pretok *s, uint32_t cp)
{
    switch (s->chars) {
    case CHARS_SPACE: return uni_is_space(cp);
    case CHARS_PUNCTUATION: return uni_is_punctuation(cp);
    case CHARS_NUMERIC: return uni_is_numeric(cp);
    default: return cp == s->one;
    }
}

static void split_chars(const struct pretok *s, struct cutter *c, const char *text, size_t len)
{
    size_t done = 0;

    for (size_t i = 0, n; i < len; i += n)
        if (is_delimiter(s, uni_next(text + i, &n)))
            cut_match(c, &done, i, i + n);
    if (done < len)
        cut(c, done, len, false);
}

/* \w+|[^\w\s]+ : what lies between the matches is white space, and goes. */
static void split_words(struct cutter *c, const char *text, size_t len)
{
    enum { SPACE, WORD, OTHER } kind = SPACE, now;
    size_t begin = 0;

    for (size_t i = 0, n; i < len; i += n) {
        uint32_t cp = uni_next(text + i, &n);
        now = uni_is_word(cp) ? WORD : uni_is_space(cp) ? SPACE : OTHER;
        if (now != kind) {
            if (kind != SPACE)
                cut(c, begin, i, false);
            begin = i;
            kind = now;
        }
    }
    if (kind != SPACE)
        cut(c, begin, len, false);
}

static void split_fixed(const struct pretok *s, struct cutter *c, const char *text, size_t len)
{
    size_t begin = 0, chars = 0;

    for (size_t i = 0, n; i < len; i += n) {
        if (chars == s->length) {
            cut(c, begin, i, false);
            begin = i;
            chars = 0;
        }
        uni_next(text + i, &n);
        chars++;
    }
    cut(c, begin, len, false);
}

static int32_t split_piece(const struct pretok *s, struct pieces *p, const struct piece *x,
                           struct regex_scratch *scratch, tn_err *err)
{
    struct cutter c = {.p = p, .base = x->begin, .behavior = s->behavior, .invert = s->invert};
    const char *text = p->text + x->begin;
    size_t len = x->end - x->begin;
    int32_t rc = TN_OK;

    switch (s->kind) {
    case PRETOK_CHARS: split_chars(s, &c, text, len); break;
    case PRETOK_WORDS: split_words(&c, text, len); break;
    case PRETOK_FIXED: split_fixed(s, &c, text, len); break;
    default:
        if (s->scanner)
            split_scanner(s->scanner, &c, text, len);
        else if (s->literal.text)
            split_literal(s, &c, text, len);
        else
            rc = split_regex(s, &c, text, len, scratch, err);
        break;
    }
    cut_flush(&c);
    return rc;
}

/* Runs a step that only cuts over all plain pieces. */
static int32_t split_all(const struct pretok *s, struct pieces *p, struct regex_scratch *scratch,
                         tn_err *err)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; rc == TN_OK && i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        if (x->id == PIECE_PLAIN)
            rc = split_piece(s, p, x, scratch, err);
        else
            pieces_put(p, *x);
    }
    pieces_swap_list(p);
    return rc;
}

/* A plain piece of the next text, which begins at `begin` there and ends with it. */
static void put_changed(struct pieces *p, const struct piece *x, size_t begin)
{
    pieces_put(
        p, (struct piece){(uint32_t)begin, (uint32_t)p->next.len, x->origin, PIECE_PLAIN, {0, 0}});
}

/* Puts a space in front of every plain piece that does not begin with one; it stands for the first character. */
static void add_prefix_spaces(struct pieces *p)
{
    struct nstr spare = {NULL, NULL, 0, 0, 0, false};

    for (size_t i = 0; i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        size_t begin = p->next.len;
        struct nview v;
        if (x->id != PIECE_PLAIN) {
            pieces_put(p, *x);
            continue;
        }
        v = pieces_view(p, x, &spare);
        if (v.len > 0 && v.text[0] != ' ')
            nstr_put_as(&p->next, " ", 1, v.align[0]);
        nstr_put(&p->next, v.text, v.align, v.len);
        put_changed(p, x, begin);
    }
    nstr_release(&spare);
    pieces_swap_text(p);
}

/* Every byte becomes its character of GPT-2's alphabet. */
static void make_byte_characters(struct pieces *p)
{
    struct nstr spare = {NULL, NULL, 0, 0, 0, false};

    for (size_t i = 0; i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        size_t begin = p->next.len;
        struct nview v;
        if (x->id != PIECE_PLAIN) {
            pieces_put(p, *x);
            continue;
        }
        v = pieces_view(p, x, &spare);
        for (size_t k = 0; k < v.len; k++) {
            char c[2];
            size_t n = bytelevel_char((unsigned char)v.text[k], c);
            nstr_put_as(&p->next, c, n, v.align[k]);
        }
        put_changed(p, x, begin);
    }
    nstr_release(&spare);
    pieces_swap_text(p);
}

static int32_t byte_level(const struct pretok *s, struct pieces *p, struct regex_scratch *scratch,
                          tn_err *err)
{
    struct pretok split = {
        .kind = PRETOK_SPLIT, .behavior = SPLIT_ISOLATED, .scanner = scanner_gpt2()};
    int32_t rc = TN_OK;

    if (s->prefix_space)
        add_prefix_spaces(p);
    if (s->split)
        rc = split_all(&split, p, scratch, err);
    if (rc == TN_OK && !s->keep_bytes)
        make_byte_characters(p);
    return rc;
}

/* One piece for Metaspace: spaces become the replacement, and one is put in front where the scheme says so. */
static void replace_spaces(const struct pretok *s, struct pieces *p, const struct piece *x,
                           const char *mark, size_t mark_len, struct nstr *spare)
{
    size_t begin = p->next.len, plain = 0;
    struct nview v = pieces_view(p, x, spare);
    bool marked = v.len > 0 &&
                  (v.text[0] == ' ' || (v.len >= mark_len && memcmp(v.text, mark, mark_len) == 0));

    if (v.len > 0 && !marked &&
        (s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && x->origin == 0)))
        nstr_put_as(&p->next, mark, mark_len, v.align[0]);
    for (size_t i = 0; i < v.len; i++) {
        if (v.text[i] != ' ')
            continue;
        nstr_put(&p->next, v.text + plain, v.align + plain, i - plain);
        nstr_put_as(&p->next, mark, mark_len, v.align[i]);
        plain = i + 1;
    }
    nstr_put(&p->next, v.text + plain, v.align + plain, v.len - plain);
    put_changed(p, x, begin);
}

static int32_t metaspace(const struct pretok *s, struct pieces *p, struct regex_scratch *scratch,
                         tn_err *err)
{
    struct pretok split = {.kind = PRETOK_CHARS,
                           .behavior = SPLIT_MERGED_WITH_NEXT,
                           .chars = CHARS_ONE,
                           .one = s->one};
    struct nstr spare = {NULL, NULL, 0, 0, 0, false};
    char mark[4];
    size_t n = utf8_encode(s->one, mark);

    for (size_t i = 0; i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        if (x->id == PIECE_PLAIN)
            replace_spaces(s, p, x, mark, n, &spare);
        else
            pieces_put(p, *x);
    }
    nstr_release(&spare);
    pieces_swap_text(p);
    return s->split ? split_all(&split, p, scratch, err) : TN_OK;
}

int32_t pretok_apply(const struct pretok_list *l, struct pieces *p, struct regex_scratch *scratch,
                     tn_err *err)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; rc == TN_OK && i < l->count; i++) {
        const struct pretok *s = &l->items[i];
        if (s->kind == PRETOK_BYTE_LEVEL)
            rc = byte_level(s, p, scratch, err);
        else if (s->kind == PRETOK_METASPACE)
            rc = metaspace(s, p, scratch, err);
        else
            rc = split_all(s, p, scratch, err);
        if (rc == TN_OK && p->failed)
            rc = err_nomem(err, "encoding");
    }
    return rc;
}
