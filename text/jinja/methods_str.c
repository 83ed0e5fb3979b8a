/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of str that cut, pad and join. Those of a Markup escape what they add, as markupsafe's do. */
#include <string.h>

#include "jinja/call.h"
#include "jinja/format.h"
#include "jinja/html.h"
#include "jinja/iter.h"
#include "jinja/text.h"
#include "jinja/unicode.h"
#include "jinja/vm.h"

static bool in_set(const struct jstr *set, uint32_t cp)
{
    uint32_t c;

    if (!set)
        return junicode_space(cp);
    for (size_t at = 0; at < set->len;) {
        at += jstr_decode(set, at, &c);
        if (c == cp)
            return true;
    }
    return false;
}

bool jtext_strip(struct jvm *vm, struct jvalue v, const struct jstr *chars, int sides,
                 struct jvalue *out)
{
    const struct jstr *s = v.u.s;
    size_t from = 0, to = s->len, at, n;
    uint32_t cp;

    while ((sides & JSTRIP_LEFT) && from < to) {
        n = jstr_decode(s, from, &cp);
        if (chars && !jvm_spend_bytes(vm, chars->len * 8))
            return false;
        if (!in_set(chars, cp))
            break;
        from += n;
    }
    while ((sides & JSTRIP_RIGHT) && to > from) {
        at = jstr_before(s, to);
        jstr_decode(s, at, &cp);
        if (chars && !jvm_spend_bytes(vm, chars->len * 8))
            return false;
        if (!in_set(chars, cp))
            break;
        to = at;
    }
    return jvm_spend_bytes(vm, s->len - (to - from)) && jstr_sub(vm, v, from, to - from, out);
}

static bool strip(struct jvm *vm, const struct jargs *a, int sides, struct jvalue *out)
{
    const struct jstr *chars = NULL;

    if (jarg_some(a, 0) && !jarg_str(vm, a, 0, &chars))
        return false;
    return jtext_strip(vm, a->self, chars, sides, out);
}

static bool str_strip(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return strip(vm, a, JSTRIP_LEFT | JSTRIP_RIGHT, out);
}

static bool str_lstrip(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return strip(vm, a, JSTRIP_LEFT, out);
}

static bool str_rstrip(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return strip(vm, a, JSTRIP_RIGHT, out);
}

static bool remove_affix(struct jvm *vm, const struct jargs *a, bool prefix, struct jvalue *out)
{
    const struct jstr *s = a->self.u.s, *what = NULL;
    size_t at;

    if (!jarg_str(vm, a, 0, &what))
        return false;
    at = prefix ? 0 : s->len - what->len;
    if (what->len > s->len || memcmp(jstr_data(s) + at, jstr_data(what), what->len) != 0)
        return jstr_sub(vm, a->self, 0, s->len, out);
    return jstr_sub(vm, a->self, prefix ? what->len : 0, s->len - what->len, out);
}

static bool str_removeprefix(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return remove_affix(vm, a, true, out);
}

static bool str_removesuffix(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return remove_affix(vm, a, false, out);
}

bool jtext_splitlines(struct jvm *vm, struct jvalue v, bool keep_ends, struct jlist *out)
{
    const struct jstr *s = v.u.s;
    struct jitems items = {0};
    struct jvalue line;

    if (!jvm_spend_bytes(vm, s->len))
        return false;
    for (size_t from = 0, at = 0; from < s->len; from = at) {
        size_t end = s->len, n = 0;
        uint32_t cp;
        for (at = from; at < s->len; at += n) {
            n = jstr_decode(s, at, &cp);
            if (junicode_line_break(cp)) {
                end = at;
                at += n;
                if (cp == '\r' && at < s->len && jstr_data(s)[at] == '\n')
                    at++;
                break;
            }
        }
        if (!jstr_sub(vm, v, from, (keep_ends ? at : end) - from, &line) ||
            !jitems_push(vm, &items, line))
            return false;
    }
    *out = (struct jlist){items.count, items.items, false};
    return true;
}

static bool str_splitlines(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jlist lines;
    int64_t keep = 0;

    return jarg_int(vm, a, 0, &keep) && jtext_splitlines(vm, a->self, keep != 0, &lines) &&
           jlist_of(vm, J_LIST, lines.items, lines.count, out);
}

/* The string between `left` and `right` fill characters, which are the template's. */
static bool pad(struct jvm *vm, struct jvalue v, int64_t left, int64_t right, uint32_t fill,
                struct jvalue *out)
{
    struct jbuild b;

    if (left <= 0 && right <= 0)
        return jstr_sub(vm, v, 0, v.u.s->len, out);
    if (!jbuild_init(vm, &b) || (left > 0 && !jbuild_pad(&b, fill, (size_t)left, true)) ||
        !jbuild_str(&b, v.u.s) || (right > 0 && !jbuild_pad(&b, fill, (size_t)right, true)) ||
        !jbuild_done(&b, out))
        return false;
    out->flags = v.flags & JF_MARKUP;
    return true;
}

bool jtext_center(struct jvm *vm, struct jvalue s, int64_t width, uint32_t fill, struct jvalue *out)
{
    int64_t n = (int64_t)jstr_chars(s.u.s), space = width > n ? width - n : 0;
    int64_t left = space / 2 + (space & width & 1); /* Python's way to round */

    return pad(vm, s, left, space - left, fill, out);
}

enum side { PAD_LEFT, PAD_RIGHT, PAD_BOTH };

static bool justify(struct jvm *vm, const struct jargs *a, enum side side, struct jvalue *out)
{
    const struct jstr *fill = NULL;
    int64_t width = 0, space;
    uint32_t cp = ' ';

    if (!jarg_int(vm, a, 0, &width) || !jarg_str(vm, a, 1, &fill))
        return false;
    if (fill && jstr_chars(fill) != 1)
        return jvm_fail(vm, JINJA_TYPE, "The fill character must be exactly one character long");
    if (fill)
        jstr_decode(fill, 0, &cp);
    if (side == PAD_BOTH)
        return jtext_center(vm, a->self, width, cp, out);
    space = width > (int64_t)jstr_chars(a->self.u.s) ? width - (int64_t)jstr_chars(a->self.u.s) : 0;
    return pad(vm, a->self, side == PAD_LEFT ? space : 0, side == PAD_RIGHT ? space : 0, cp, out);
}

static bool str_center(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return justify(vm, a, PAD_BOTH, out);
}

static bool str_ljust(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return justify(vm, a, PAD_RIGHT, out);
}

static bool str_rjust(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return justify(vm, a, PAD_LEFT, out);
}

static bool str_zfill(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jstr *s = a->self.u.s;
    int64_t width = 0, space;
    struct jbuild b;
    size_t sign;

    if (!jarg_int(vm, a, 0, &width))
        return false;
    space = width - (int64_t)jstr_chars(s);
    sign = s->len && (jstr_data(s)[0] == '-' || jstr_data(s)[0] == '+');
    if (space <= 0)
        return jstr_sub(vm, a->self, 0, s->len, out);
    return jbuild_init(vm, &b) && jbuild_sub(&b, s, 0, sign) &&
           jbuild_pad(&b, '0', (size_t)space, true) && jbuild_sub(&b, s, sign, s->len - sign) &&
           jbuild_done(&b, out);
}

static bool str_expandtabs(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jstr *s = a->self.u.s;
    int64_t size = 8, column = 0;
    struct jbuild b;

    if (!jarg_int(vm, a, 0, &size) || !jbuild_init(vm, &b) || !jvm_spend_bytes(vm, s->len * 4))
        return false;
    for (size_t at = 0; at < s->len;) {
        uint32_t cp;
        size_t n = jstr_decode(s, at, &cp);
        if (cp == '\t') {
            int64_t more = size > 0 ? size - column % size : 0;
            if (!jbuild_pad(&b, ' ', (size_t)more, jstr_trusted_at(s, at)))
                return false;
            column += more;
        } else {
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
            if (!jbuild_sub(&b, s, at, n))
                return false;
        }
        at += n;
    }
    return jbuild_done(&b, out);
}

static bool str_join(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    bool markup = a->self.flags & JF_MARKUP;
    struct jlist items;
    struct jbuild b;

    if (!jiter_list(vm, a->v[0], &items) || !jbuild_init(vm, &b))
        return false;
    for (size_t i = 0; i < items.count; i++) {
        struct jvalue v = items.items[i];
        if (markup && !jhtml_escape(vm, v, &v))
            return false;
        if (v.type != J_STR)
            return jvm_fail(vm, JINJA_TYPE, "sequence item %zu: expected str instance, %s found", i,
                            jvalue_type(v));
        if ((i && !jbuild_str(&b, a->self.u.s)) || !jbuild_str(&b, v.u.s))
            return false;
    }
    if (!jbuild_done(&b, out))
        return false;
    out->flags = a->self.flags & JF_MARKUP;
    return true;
}

static bool str_format(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jformat_braces(vm, a->self, a->call, out);
}

static bool str_format_map(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jcall call = {0};

    if (a->v[0].type != J_DICT) /* no error unless a field asks for a name */
        return jformat_braces(vm, a->self, &call, out);
    call.keywords = jvm_array(vm, a->v[0].u.dict->count, sizeof *call.keywords);
    if (!call.keywords)
        return false;
    for (size_t i = 0; i < a->v[0].u.dict->count; i++) {
        const struct jpair *p = &a->v[0].u.dict->pairs[i];
        if (p->key.type == J_STR)
            call.keywords[call.keyword_count++] = (struct jkeyword){p->key.u.s, p->value};
    }
    return jformat_braces(vm, a->self, &call, out);
}

static bool str_encode(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    (void)a;
    (void)out;
    return jvm_fail(vm, JINJA_UNSUPPORTED, "bytes are not supported: no str.encode()");
}

const struct jbuiltin jmethods_str[] = {{"strip", ".chars?", str_strip},
                                        {"lstrip", ".chars?", str_lstrip},
                                        {"rstrip", ".chars?", str_rstrip},
                                        {"splitlines", "keepends?", str_splitlines},
                                        {"join", ".iterable", str_join},
                                        {"format", "*", str_format},
                                        {"format_map", ".mapping", str_format_map},
                                        {"removeprefix", ".prefix", str_removeprefix},
                                        {"removesuffix", ".suffix", str_removesuffix},
                                        {"center", ".width .fillchar?", str_center},
                                        {"ljust", ".width .fillchar?", str_ljust},
                                        {"rjust", ".width .fillchar?", str_rjust},
                                        {"zfill", ".width", str_zfill},
                                        {"expandtabs", "tabsize?", str_expandtabs},
                                        {"encode", "encoding? errors?", str_encode},
                                        {NULL, NULL, NULL}};
