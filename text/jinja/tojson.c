/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tojson filter that transformers puts in place of jinja2's: json.dumps with ensure_ascii off by default and
 * nothing escaped for HTML. Python's json module defines the layout.
 */
#include "jinja/tojson.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja/number.h"
#include "jinja/vm.h"

struct dump {
    struct jbuild *b;
    bool ascii, sort, pretty;
    const struct jstr *indent, *item_separator, *key_separator;
    size_t level;
};

static bool put_value(struct dump *d, struct jvalue v);

static bool put_escape(struct jbuild *b, uint32_t cp, bool trusted)
{
    char text[16];
    const char *shorts = "\"\"\\\\\nn\rr\tt\ff\bb";

    for (const char *p = shorts; *p; p += 2) {
        if (cp == (uint32_t)*p) {
            snprintf(text, sizeof text, "\\%c", p[1]);
            return jbuild_cstr(b, text, trusted);
        }
    }
    if (cp < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", cp);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd7c0 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
    return jbuild_cstr(b, text, trusted);
}

static bool put_str(struct dump *d, const struct jstr *s)
{
    bool trusted = s->len == 0 || jstr_trusted_at(s, 0);
    size_t from = 0, n;

    if (!jbuild_char(d->b, '"', trusted))
        return false;
    for (size_t at = 0; at < s->len; at += n) {
        uint32_t cp;
        n = jstr_decode(s, at, &cp);
        if (cp >= 0x20 && cp != '"' && cp != '\\' && (!d->ascii || cp < 0x7f))
            continue;
        if (!jbuild_sub(d->b, s, from, at - from) || !put_escape(d->b, cp, jstr_trusted_at(s, at)))
            return false;
        from = at + n;
    }
    return jbuild_sub(d->b, s, from, s->len - from) && jbuild_char(d->b, '"', trusted);
}

static bool put_float(struct jbuild *b, double f, bool trusted)
{
    char text[JNUMBER_TEXT];

    if (isnan(f) || isinf(f))
        return jbuild_cstr(b, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity", trusted);
    return jbuild_bytes(b, text, jnumber_repr(f, text), trusted);
}

static bool newline(struct dump *d, bool trusted)
{
    if (!d->pretty)
        return true;
    if (!jbuild_char(d->b, '\n', trusted))
        return false;
    for (size_t i = 0; i < d->level; i++) {
        if (!jbuild_str(d->b, d->indent))
            return false;
    }
    return true;
}

static bool put_list(struct dump *d, const struct jlist *l, bool trusted)
{
    if (l->count == 0)
        return jbuild_cstr(d->b, "[]", trusted);
    d->level++;
    if (!jbuild_char(d->b, '[', trusted))
        return false;
    for (size_t i = 0; i < l->count; i++) {
        if ((i && !jbuild_str(d->b, d->item_separator)) || !newline(d, trusted) ||
            !put_value(d, l->items[i]))
            return false;
    }
    d->level--;
    return newline(d, trusted) && jbuild_char(d->b, ']', trusted);
}

static bool put_key(struct dump *d, struct jvalue key)
{
    struct jbuild text;
    struct jvalue v;
    struct dump inner = *d;

    if (key.type == J_STR)
        return put_str(d, key.u.s);
    if (key.type != J_NONE && !jis_number(key))
        return jvm_fail(d->b->vm, JINJA_TYPE, "keys must be str, int, float, bool or None, not %s",
                        jvalue_type(key));
    inner.b = &text;
    return jbuild_init(d->b->vm, &text) && put_value(&inner, key) && jbuild_done(&text, &v) &&
           put_str(d, v.u.s);
}

static bool put_dict(struct dump *d, const struct jdict *dict, bool trusted)
{
    struct jpair *pairs = dict->pairs;

    if (dict->count == 0)
        return jbuild_cstr(d->b, "{}", trusted);
    if (d->sort && !jdict_sorted(d->b->vm, dict, &pairs))
        return false;
    d->level++;
    if (!jbuild_char(d->b, '{', trusted))
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        if ((i && !jbuild_str(d->b, d->item_separator)) || !newline(d, trusted) ||
            !put_key(d, pairs[i].key) || !jbuild_str(d->b, d->key_separator) ||
            !put_value(d, pairs[i].value))
            return false;
    }
    d->level--;
    return newline(d, trusted) && jbuild_char(d->b, '}', trusted);
}

static bool put_inside(struct dump *d, struct jvalue v)
{
    bool trusted = !(v.flags & JF_UNTRUSTED);

    switch (v.type) {
    case J_NONE: return jbuild_cstr(d->b, "null", trusted);
    case J_BOOL: return jbuild_cstr(d->b, v.u.b ? "true" : "false", trusted);
    case J_INT: return jbuild_repr(d->b, v);
    case J_FLOAT: return put_float(d->b, v.u.f, trusted);
    case J_STR: return put_str(d, v.u.s);
    case J_LIST:
    case J_TUPLE: return put_list(d, v.u.list, trusted);
    case J_DICT: return put_dict(d, v.u.dict, trusted);
    default:
        return jvm_fail(d->b->vm, JINJA_TYPE, "Object of type %s is not JSON serializable",
                        jvalue_type(v));
    }
}

static bool put_value(struct dump *d, struct jvalue v)
{
    bool ok;

    if (!jvm_enter(d->b->vm))
        return false;
    ok = jvm_spend(d->b->vm, 1) && put_inside(d, v);
    jvm_leave(d->b->vm);
    return ok;
}

static bool set_indent(struct jvm *vm, struct jvalue v, struct dump *d)
{
    struct jvalue text;
    struct jbuild b;

    if (v.type == J_STR) {
        d->indent = v.u.s;
        return true;
    }
    if (v.type == J_UNDEFINED)
        return jundef_fail(vm, v);
    if (!jis_int(v))
        return jvm_fail(vm, JINJA_TYPE, "can't multiply sequence by non-int of type '%s'",
                        jvalue_type(v));
    if (!jbuild_init(vm, &b) ||
        (jint_of(v) > 0 && !jbuild_pad(&b, ' ', (size_t)jint_of(v), true)) ||
        !jbuild_done(&b, &text))
        return false;
    d->indent = text.u.s;
    return true;
}

/* A sequence of two strings. */
static bool set_separators(struct jvm *vm, struct jvalue v, struct dump *d)
{
    struct jlist two;

    if (!jiter_list(vm, v, &two))
        return false;
    if (two.count != 2 || two.items[0].type != J_STR || two.items[1].type != J_STR)
        return jvm_fail(vm, JINJA_VALUE, "separators must be two strings");
    d->item_separator = two.items[0].u.s;
    d->key_separator = two.items[1].u.s;
    return true;
}

bool jtojson(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jbuild b;
    struct dump d = {.b = &b, .ascii = jarg_flag(a, 0, false), .sort = jarg_flag(a, 3, false)};
    struct jvalue comma, colon;

    d.pretty = jarg_some(a, 1);
    if (!jbuild_init(vm, &b) || !jstr_cstr(vm, d.pretty ? "," : ", ", &comma) ||
        !jstr_cstr(vm, ": ", &colon))
        return false;
    d.item_separator = comma.u.s;
    d.key_separator = colon.u.s;
    if ((d.pretty && a->self.type != J_STR && !set_indent(vm, a->v[1], &d)) ||
        (jarg_some(a, 2) && !set_separators(vm, a->v[2], &d)))
        return false;
    return put_value(&d, a->self) && jbuild_done(&b, out);
}
