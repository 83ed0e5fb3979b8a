/* SPDX-License-Identifier: Apache-2.0 */
/* Building the tree of a template, and the places and messages of errors. A compile belongs to one thread. */
#include "jinja/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "jinja/str.h"

static int32_t status_of(enum jinja_failure why)
{
    switch (why) {
    case JINJA_OK: return TN_OK;
    case JINJA_SYNTAX: return TN_E_FORMAT;
    case JINJA_LIMIT: return TN_E_LIMIT;
    case JINJA_UNSUPPORTED: return TN_E_UNSUPPORTED;
    case JINJA_NOMEM: return TN_E_NOMEM;
    case JINJA_ARITHMETIC: return TN_E_RANGE;
    default: return TN_E_INVALID;
    }
}

void jsource_place(const struct jinja *t, uint32_t pos, size_t *line, size_t *column)
{
    *line = *column = 1;
    for (uint32_t i = 0; i < pos && i < t->source_len; i++) {
        if (t->source[i] == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)t->source[i] & 0xc0) != 0x80) {
            ++*column;
        }
    }
}

void jerror_fill(tn_err *err, const struct jinja *t, uint32_t pos, enum jinja_failure why,
                 const char *msg)
{
    char field[64];
    size_t line, column, n;

    if (!err)
        return;
    jsource_place(t, pos, &line, &column);
    snprintf(field, sizeof field, "line %zu, column %zu", line, column);
    err_at(err, status_of(why), t->name, pos, field, "%s", msg);
    err->native = (int32_t)why;
    /* A message that was cut must not end inside a character: it goes out as JSON. */
    n = strlen(err->msg);
    if (n + 1 == sizeof err->msg) {
        size_t at = 0, step;
        uint32_t cp;
        while (at < n && (step = utf8_decode(err->msg + at, n - at, &cp)) != 0)
            at += step;
        err->msg[at] = '\0';
    }
    if (why == JINJA_LIMIT)
        err_remedy(err, "simplify the template or its input, or raise the limit");
}

bool jcompile_fail(struct jcompile *c, uint32_t pos, enum jinja_failure why, const char *fmt, ...)
{
    char msg[sizeof c->err->msg];
    va_list ap;

    if (c->failed)
        return false;
    c->failed = true;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    jerror_fill(c->err, c->t, pos, why, msg);
    return false;
}

void *jcompile_alloc(struct jcompile *c, size_t bytes)
{
    void *p = NULL;

    if (bytes > JPARSE_MEMORY || c->t->arena.bytes > JPARSE_MEMORY) {
        jcompile_fail(c, 0, JINJA_LIMIT, "the template needs more than %llu MiB to compile",
                      (unsigned long long)(JPARSE_MEMORY >> 20));
        return NULL;
    }
    p = arena_alloc(&c->t->arena, bytes);
    if (!p)
        jcompile_fail(c, 0, JINJA_NOMEM, "out of memory for a template");
    return p;
}

bool jcompile_spend(struct jcompile *c, uint32_t pos, uint64_t n)
{
    if (c->steps < n)
        return jcompile_fail(c, pos, JINJA_LIMIT, "the template is too complex to compile");
    c->steps -= n;
    return true;
}

const struct jstr *jcompile_str(struct jcompile *c, const char *data, size_t len)
{
    struct {
        struct jstr str;
        struct jbuf buf;
        struct jrun run;
    } *s = jcompile_alloc(c, sizeof *s);

    if (!s)
        return NULL;
    s->run = (struct jrun){len, true};
    /* The cast is safe: cap 0 says that nobody writes there. */
    s->buf = (struct jbuf){(char *)(uintptr_t)data, len, 0, &s->run, 1, 0};
    s->str = (struct jstr){&s->buf, 0, len, JSTR_UNKNOWN};
    s->str.chars = jstr_chars(&s->str); /* now: threads share the string later */
    return &s->str;
}

static bool grow(struct jcompile *c, void *items_ptr, size_t *cap, size_t need, size_t size)
{
    size_t want = *cap ? *cap * 2 : 8;
    void *items, *old;

    if (need <= *cap)
        return true;
    if (want < need)
        want = need;
    items = jcompile_alloc(c, want * size);
    if (!items)
        return false;
    memcpy(&old, items_ptr, sizeof old);
    if (*cap)
        memcpy(items, old, *cap * size);
    memcpy(items_ptr, &items, sizeof items);
    *cap = want;
    return true;
}

uint32_t jcompile_name(struct jcompile *c, const char *data, size_t len)
{
    struct jinja *t = c->t;
    uint64_t number;
    const struct jstr *text;

    if (map_get(&t->name_map, data, len, &number))
        return (uint32_t)number;
    text = jcompile_str(c, data, len);
    if (!text || !grow(c, &t->names, &t->name_cap, t->name_count + 1, sizeof *t->names))
        return UINT32_MAX;
    if (!map_set(&t->name_map, data, len, t->name_count)) {
        jcompile_fail(c, 0, JINJA_NOMEM, "out of memory for a template");
        return UINT32_MAX;
    }
    t->names[t->name_count].text = text;
    return (uint32_t)t->name_count++;
}

struct jnode *jnode_new(struct jcompile *c, enum jkind kind, uint32_t pos, size_t kids)
{
    struct jnode *n = jcompile_alloc(c, sizeof *n + kids * sizeof *n->kids);

    if (!n)
        return NULL;
    n->kind = (uint8_t)kind;
    n->pos = pos;
    n->height = 1;
    n->count = kids;
    n->kids = (struct jnode **)(n + 1);
    return n;
}

bool jnode_set(struct jcompile *c, struct jnode *n, size_t i, struct jnode *kid)
{
    n->kids[i] = kid;
    if (kid && kid->height >= n->height)
        n->height = (uint16_t)(kid->height + 1);
    if (n->height > JPARSE_HEIGHT)
        return jcompile_fail(c, n->pos, JINJA_LIMIT, "nested or chained more than %d deep",
                             JPARSE_HEIGHT);
    return true;
}

bool jnodes_push(struct jcompile *c, struct jnodes *l, struct jnode *n)
{
    if (!n || !grow(c, &l->items, &l->cap, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] = n;
    return true;
}

struct jnode *jnode_list(struct jcompile *c, enum jkind kind, uint32_t pos, const struct jnodes *l)
{
    struct jnode *n = jnode_new(c, kind, pos, 0);

    if (!n)
        return NULL;
    n->count = l->count;
    n->kids = l->items;
    for (size_t i = 0; i < l->count; i++) {
        if (!jnode_set(c, n, i, l->items[i]))
            return NULL;
    }
    return n;
}
