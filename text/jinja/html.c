/* SPDX-License-Identifier: Apache-2.0 */
/* Filters for HTML and URLs. What an escape writes has the trust of the character it stands for. */
#include "jinja/html.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "jinja/call.h"
#include "jinja/iter.h"
#include "jinja/number.h"
#include "jinja/text.h"
#include "jinja/unicode.h"
#include "jinja/vm.h"

static const char *entity(char c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '\'': return "&#39;";
    case '"': return "&#34;";
    default: return NULL;
    }
}

bool jhtml_escape(struct jvm *vm, struct jvalue v, struct jvalue *out)
{
    struct jbuild b;
    size_t from = 0;

    if (v.type == J_STR && (v.flags & JF_MARKUP)) {
        *out = v;
        return true;
    }
    if (!jvalue_str(vm, v, &v) || !jbuild_init(vm, &b))
        return false;
    for (size_t at = 0; at < v.u.s->len; at++) {
        const char *e = entity(jstr_data(v.u.s)[at]);
        if (!e)
            continue;
        if (!jbuild_sub(&b, v.u.s, from, at - from) ||
            !jbuild_cstr(&b, e, jstr_trusted_at(v.u.s, at)))
            return false;
        from = at + 1;
    }
    if (!jbuild_sub(&b, v.u.s, from, v.u.s->len - from) || !jbuild_done(&b, out))
        return false;
    out->flags = JF_MARKUP;
    return true;
}

static bool do_escape(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jhtml_escape(vm, a->self, out);
}

static bool do_forceescape(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v;

    return jvalue_str(vm, a->self, &v) && jhtml_escape(vm, v, out);
}

static bool do_safe(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    if (!jvalue_soft_str(vm, a->self, out))
        return false;
    out->flags = JF_MARKUP;
    return true;
}

/* Appends s without what stands between `open` and `close`, as long as both are found. */
static bool cut_between(struct jvm *vm, struct jvalue s, const char *open, const char *close,
                        struct jvalue *out)
{
    struct jvalue o, c;
    struct jbuild b;
    size_t at = 0, begin, end;

    if (!jstr_cstr(vm, open, &o) || !jstr_cstr(vm, close, &c) || !jbuild_init(vm, &b))
        return false;
    for (;;) {
        if (!jvm_spend(vm, 1) || !jstr_find(vm, s.u.s, at, s.u.s->len, o.u.s, &begin))
            return false;
        end = SIZE_MAX;
        if (begin != SIZE_MAX && !jstr_find(vm, s.u.s, begin, s.u.s->len, c.u.s, &end))
            return false;
        if (end == SIZE_MAX)
            break;
        if (!jbuild_sub(&b, s.u.s, at, begin - at))
            return false;
        at = end + c.u.s->len;
    }
    return jbuild_sub(&b, s.u.s, at, s.u.s->len - at) && jbuild_done(&b, out);
}

/* " ".join(s.split()); the blanks have the trust of what they replace. */
static bool collapse(struct jbuild *b, const struct jstr *s)
{
    bool some = false, gap = false, gap_trusted = false;
    uint32_t cp;
    size_t n;

    for (size_t at = 0; at < s->len; at += n) {
        n = jstr_decode(s, at, &cp);
        if (junicode_space(cp)) {
            gap_trusted = gap ? gap_trusted && jstr_trusted_at(s, at) : jstr_trusted_at(s, at);
            gap = true;
            continue;
        }
        if ((gap && some && !jbuild_char(b, ' ', gap_trusted)) || !jbuild_sub(b, s, at, n))
            return false;
        some = true;
        gap = false;
    }
    return jvm_spend_bytes(b->vm, s->len * 2);
}

/* The code point of the reference at `at` (an ampersand), and its length; 0 if it is none we know. */
static size_t reference(const struct jstr *s, size_t at, uint32_t *cp)
{
    static const struct {
        const char *text;
        uint32_t cp;
    } names[] = {{"&amp;", '&'},       {"&lt;", '<'},       {"&gt;", '>'},
                 {"&quot;", '"'},      {"&apos;", '\''},    {"&nbsp;", 0xa0},
                 {"&copy;", 0xa9},     {"&reg;", 0xae},     {"&laquo;", 0xab},
                 {"&raquo;", 0xbb},    {"&ndash;", 0x2013}, {"&mdash;", 0x2014},
                 {"&hellip;", 0x2026}, {"&lsquo;", 0x2018}, {"&rsquo;", 0x2019},
                 {"&ldquo;", 0x201c},  {"&rdquo;", 0x201d}, {"&euro;", 0x20ac}};
    const char *text = jstr_data(s) + at;
    size_t left = s->len - at, i = 2, from;
    unsigned base = 10;
    int64_t v;

    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        size_t n = strlen(names[k].text);
        if (n <= left && memcmp(text, names[k].text, n) == 0) {
            *cp = names[k].cp;
            return n;
        }
    }
    if (left < 4 || text[1] != '#')
        return 0;
    if ((text[i] | 0x20) == 'x') {
        base = 16;
        i++;
    }
    for (from = i; i < left && i < from + 8 && jnumber_digits(text + i, 1, base, &v);)
        i++;
    if (i == from || i == left || text[i] != ';' ||
        !jnumber_digits(text + from, i - from, base, &v))
        return 0;
    *cp = v == 0 || v > 0x10ffff || (v >= 0xd800 && v < 0xe000) ? 0xfffd : (uint32_t)v;
    return i + 1;
}

static bool unescape(struct jvm *vm, const struct jstr *s, struct jvalue *out)
{
    struct jbuild b;
    uint32_t cp;

    if (!jbuild_init(vm, &b))
        return false;
    for (size_t at = 0; at < s->len;) {
        size_t n = jstr_data(s)[at] == '&' ? reference(s, at, &cp) : 0;
        bool ok = n ? jbuild_char(&b, cp, jstr_trusted_at(s, at)) : jbuild_sub(&b, s, at, 1);
        if (!ok)
            return false;
        at += n ? n : 1;
    }
    return jvm_spend_bytes(vm, s->len) && jbuild_done(&b, out);
}

static bool do_striptags(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v;
    struct jbuild b;

    return jvalue_str(vm, a->self, &v) && cut_between(vm, v, "<!--", "-->", &v) &&
           cut_between(vm, v, "<", ">", &v) && jbuild_init(vm, &b) && collapse(&b, v.u.s) &&
           jbuild_done(&b, &v) && unescape(vm, v.u.s, out);
}

static bool put_quoted(struct jbuild *b, struct jvalue v, bool query)
{
    const char *safe = query ? "_.-~" : "_.-~/";
    char hex[4];

    if (!jvalue_str(b->vm, v, &v))
        return false;
    for (size_t at = 0; at < v.u.s->len; at++) {
        unsigned char c = (unsigned char)jstr_data(v.u.s)[at];
        bool trusted = jstr_trusted_at(v.u.s, at);
        bool plain =
            c < 0x80 && (junicode_alpha(c) || junicode_decimal(c) || (c && strchr(safe, c)));
        snprintf(hex, sizeof hex, "%%%02X", c);
        if (plain               ? !jbuild_bytes(b, (const char *)&c, 1, trusted)
            : query && c == ' ' ? !jbuild_char(b, '+', trusted)
                                : !jbuild_cstr(b, hex, trusted))
            return false;
    }
    return jvm_spend_bytes(b->vm, v.u.s->len);
}

static bool do_urlencode(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v = a->self;
    struct jlist items, pair;
    struct jbuild b;

    if (!jbuild_init(vm, &b))
        return false;
    if (v.type == J_STR || !jiter_can(v))
        return put_quoted(&b, v, false) && jbuild_done(&b, out);
    if ((v.type == J_DICT && !jview_new(vm, v.u.dict, JVIEW_ITEMS, &v)) ||
        !jiter_list(vm, v, &items))
        return false;
    for (size_t i = 0; i < items.count; i++) {
        if (!jiter_list(vm, items.items[i], &pair))
            return false;
        if (pair.count != 2)
            return jvm_fail(vm, JINJA_VALUE, "expected pairs to encode");
        if ((i && !jbuild_char(&b, '&', true)) || !put_quoted(&b, pair.items[0], true) ||
            !jbuild_char(&b, '=', true) || !put_quoted(&b, pair.items[1], true))
            return false;
    }
    return jbuild_done(&b, out);
}

static bool put_attribute(struct jbuild *b, const struct jpair *p)
{
    struct jvalue key, value;

    if (p->key.type != J_STR)
        return jvm_fail(b->vm, JINJA_TYPE, "expected string or bytes-like object");
    for (size_t i = 0; i < p->key.u.s->len; i++) {
        char c = jstr_data(p->key.u.s)[i];
        if (c && strchr(" \t\n\r\f\v/>=", c))
            return jvm_fail(b->vm, JINJA_VALUE, "Invalid character in attribute name: '%.*s'",
                            jstr_brief(p->key.u.s), jstr_data(p->key.u.s));
    }
    return jhtml_escape(b->vm, p->key, &key) && jhtml_escape(b->vm, p->value, &value) &&
           jbuild_str(b, key.u.s) && jbuild_cstr(b, "=\"", true) && jbuild_str(b, value.u.s) &&
           jbuild_char(b, '"', true);
}

static bool do_xmlattr(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    bool space = jarg_flag(a, 0, true);
    struct jbuild b;

    if (a->self.type == J_UNDEFINED)
        return jundef_fail(vm, a->self);
    if (a->self.type != J_DICT)
        return jvm_fail(vm, JINJA_TYPE, "'%s' object has no attribute 'items'",
                        jvalue_type(a->self));
    if (!jbuild_init(vm, &b))
        return false;
    for (size_t i = 0; i < a->self.u.dict->count; i++) {
        const struct jpair *p = &a->self.u.dict->pairs[i];
        if (p->value.type == J_NONE || p->value.type == J_UNDEFINED)
            continue;
        if ((space && !jbuild_char(&b, ' ', true)) || !put_attribute(&b, p))
            return false;
        space = true;
    }
    return jbuild_done(&b, out);
}

const struct jbuiltin jfilters_html[] = {{"e", "", do_escape},
                                         {"escape", "", do_escape},
                                         {"forceescape", "", do_forceescape},
                                         {"safe", "", do_safe},
                                         {"striptags", "", do_striptags},
                                         {"urlencode", "", do_urlencode},
                                         {"xmlattr", "autospace?", do_xmlattr},
                                         {NULL, NULL, NULL}};
