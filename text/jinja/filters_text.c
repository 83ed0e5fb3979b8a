/* SPDX-License-Identifier: Apache-2.0 */
/* Filters on text. */
#include <stdio.h>
#include <string.h>

#include "jinja/call.h"
#include "jinja/format.h"
#include "jinja/html.h"
#include "jinja/number.h"
#include "jinja/pick.h"
#include "jinja/text.h"
#include "jinja/tojson.h"
#include "jinja/unicode.h"
#include "jinja/vm.h"
#include "jinja/wordwrap.h"

static bool case_of(struct jvm *vm, const struct jargs *a, enum jcase how, struct jvalue *out)
{
    struct jvalue s;

    return jvalue_soft_str(vm, a->self, &s) && jtext_case(vm, how, s, out);
}

static bool do_lower(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return case_of(vm, a, JCASE_LOWER, out);
}

static bool do_upper(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return case_of(vm, a, JCASE_UPPER, out);
}

static bool do_capitalize(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return case_of(vm, a, JCASE_CAPITALIZE, out);
}

static bool starts_word(uint32_t cp)
{
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || junicode_space(cp);
}

/* Not str.title: only white space, hyphens and opening brackets separate words, so that "it's" keeps its s. */
static bool do_title(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v;
    struct jbuild b;
    size_t n, end;
    uint32_t cp;

    if (!jvalue_soft_str(vm, a->self, &v) || !jbuild_init(vm, &b))
        return false;
    for (size_t at = 0; at < v.u.s->len; at = end) {
        n = jstr_decode(v.u.s, at, &cp);
        end = at + n;
        if (starts_word(cp)) {
            if (!jbuild_sub(&b, v.u.s, at, n))
                return false;
            continue;
        }
        while (end < v.u.s->len) {
            n = jstr_decode(v.u.s, end, &cp);
            if (starts_word(cp))
                break;
            end += n;
        }
        n = jstr_decode(v.u.s, at, &cp);
        if (!jtext_upper_part(&b, v.u.s, at, at + n) || !jtext_lower_part(&b, v.u.s, at + n, end))
            return false;
    }
    return jbuild_done(&b, out);
}

static bool do_string(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jvalue_soft_str(vm, a->self, out);
}

static bool do_trim(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jstr *chars = NULL;
    struct jvalue s;

    if ((jarg_some(a, 0) && !jarg_str(vm, a, 0, &chars)) || !jvalue_soft_str(vm, a->self, &s))
        return false;
    return jtext_strip(vm, s, chars, JSTRIP_LEFT | JSTRIP_RIGHT, out);
}

static bool do_center(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    int64_t width = 80;
    struct jvalue s;

    return jarg_int(vm, a, 0, &width) && jvalue_soft_str(vm, a->self, &s) &&
           jtext_center(vm, s, width, ' ', out);
}

static bool do_replace(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue s, old, new_text;
    int64_t count = -1;

    if (jarg_some(a, 2) && !jarg_int(vm, a, 2, &count))
        return false;
    return jvalue_str(vm, a->self, &s) && jvalue_str(vm, a->v[0], &old) &&
           jvalue_str(vm, a->v[1], &new_text) &&
           jtext_replace(vm, s, old.u.s, new_text.u.s, count < 0 ? -1 : count, out);
}

static bool do_join(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jgetter getter = {0};
    struct jvalue sep, v;
    struct jiter *it;
    struct jbuild b;
    enum jnext next;
    bool first = true;

    if ((jarg_some(a, 1) && !jgetter_init(vm, a->v[1], &getter)) || !jstr_cstr(vm, "", &sep) ||
        (jarg_given(a, 0) && !jvalue_str(vm, a->v[0], &sep)) || !jbuild_init(vm, &b))
        return false;
    it = jiter_of(vm, a->self);
    while (it && (next = jiter_next(vm, it, &v)) != JNEXT_END) {
        if (next == JNEXT_FAIL || (!first && !jbuild_str(&b, sep.u.s)) ||
            !jgetter_get(vm, &getter, v, &v) || !jbuild_value(&b, v))
            return false;
        first = false;
    }
    return it && jbuild_done(&b, out);
}

static bool do_format(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jcall *call = a->call;
    struct jvalue s, args;

    if (call->count && call->keyword_count)
        return jvm_fail(vm, JINJA_RUNTIME,
                        "can't handle positional and keyword arguments at the same time");
    if (!jvalue_soft_str(vm, a->self, &s))
        return false;
    if (call->keyword_count) {
        if (!jdict_new(vm, call->keyword_count, &args))
            return false;
        for (size_t i = 0; i < call->keyword_count; i++) {
            struct jvalue key = {.type = J_STR, .u.s = call->keywords[i].name};
            if (!jdict_append(vm, args.u.dict, key, call->keywords[i].value))
                return false;
        }
    } else if (!jlist_of(vm, J_TUPLE, call->args, call->count, &args)) {
        return false;
    }
    return jformat_percent(vm, s, args, out);
}

/* Lines joined again; a line break has the trust of the character before it. */
static bool put_lines(struct jvm *vm, const struct jlist *lines, const struct jstr *indent,
                      bool blank, struct jbuild *b)
{
    for (size_t i = 0; i < lines->count; i++) {
        const struct jstr *line = lines->items[i].u.s;
        const struct jstr *before = i ? lines->items[i - 1].u.s : NULL;
        if (before &&
            !jbuild_char(b, '\n', before->len == 0 || jstr_trusted_at(before, before->len - 1)))
            return false;
        if (i && (blank || line->len) && !jbuild_str(b, indent))
            return false;
        if (!jvm_spend(vm, 1) || !jbuild_str(b, line))
            return false;
    }
    return true;
}

static bool do_indent(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    int64_t width = 4;
    struct jvalue indent, s, newline;
    struct jlist lines;
    struct jbuild b;

    if (a->v[0].type == J_UNDEFINED || a->self.type == J_UNDEFINED)
        return jundef_fail(vm, a->v[0].type == J_UNDEFINED ? a->v[0] : a->self);
    if (a->self.type != J_STR)
        return jvm_fail(vm, JINJA_TYPE, "unsupported operand type(s) for +=: '%s' and 'str'",
                        jvalue_type(a->self));
    if (jarg_given(a, 0) && a->v[0].type == J_STR) {
        indent = a->v[0];
    } else if (!jarg_int(vm, a, 0, &width) || !jbuild_init(vm, &b) ||
               (width > 0 && !jbuild_pad(&b, ' ', (size_t)width, true)) ||
               !jbuild_done(&b, &indent)) {
        return false;
    }
    /* As in jinja2, a newline at the end comes first: splitlines then gives at least one line. */
    if (!jstr_cstr(vm, "\n", &newline) || !jstr_concat(vm, a->self.u.s, newline.u.s, &s) ||
        !jtext_splitlines(vm, s, false, &lines) || !jbuild_init(vm, &b))
        return false;
    if (jarg_flag(a, 1, false) && !jbuild_str(&b, indent.u.s))
        return false;
    if (!put_lines(vm, &lines, indent.u.s, jarg_flag(a, 2, false), &b) || !jbuild_done(&b, out))
        return false;
    out->flags = a->self.flags & JF_MARKUP;
    return true;
}

/* assert v >= least */
static bool at_least(struct jvm *vm, const char *what, struct jvalue v, size_t least)
{
    bool holds;

    return jvalue_order(vm, JGE, v, jint((int64_t)least), &holds) &&
           (holds || jvm_fail(vm, JINJA_VALUE, "expected %s >= %zu", what, least));
}

static bool do_truncate(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue length = jarg_given(a, 0) ? a->v[0] : jint(255), s = a->self;
    struct jvalue leeway = jarg_some(a, 3) ? a->v[3] : jint(5), end = a->v[2], most;
    size_t end_len, n;
    struct jbuild b;
    bool fits;

    if (!jarg_given(a, 2) && !jstr_cstr(vm, "...", &end))
        return false;
    if (!jvalue_len(end, &end_len))
        return jvm_fail(vm, JINJA_TYPE, "object of type '%s' has no len()", jvalue_type(end));
    if (!at_least(vm, "length", length, end_len) || !at_least(vm, "leeway", leeway, 0))
        return false;
    if (!jvalue_len(s, &n))
        return jvm_fail(vm, JINJA_TYPE, "object of type '%s' has no len()", jvalue_type(s));
    if (!jnumber_binary(vm, JOP_ADD, length, leeway, &most) ||
        !jvalue_order(vm, JLE, jint((int64_t)n), most, &fits))
        return false;
    *out = s;
    if (fits)
        return true;
    if (s.type != J_STR || end.type != J_STR || !jis_int(length))
        return jvm_fail(vm, JINJA_TYPE, "'%s' object cannot be truncated", jvalue_type(s));
    if (!jstr_sub(vm, s, 0, jstr_offset(s.u.s, (size_t)jint_of(length) - end_len), &s) ||
        (!jarg_flag(a, 1, false) && !jtext_rsplit_once(vm, s, ' ', &s)))
        return false;
    return jbuild_init(vm, &b) && jbuild_str(&b, s.u.s) && jbuild_str(&b, end.u.s) &&
           jbuild_done(&b, out);
}

static bool do_wordcount(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue s;
    bool in_word = false;

    if (!jvalue_soft_str(vm, a->self, &s) || !jvm_spend_bytes(vm, s.u.s->len * 4))
        return false;
    *out = jint(0);
    for (size_t at = 0; at < s.u.s->len;) {
        uint32_t cp;
        at += jstr_decode(s.u.s, at, &cp);
        out->u.i += junicode_word(cp) && !in_word;
        in_word = junicode_word(cp);
    }
    return true;
}

static bool put_pretty(struct jbuild *b, struct jvalue v);

static bool put_pretty_items(struct jbuild *b, struct jvalue v)
{
    const char *around = v.type == J_LIST ? "[]" : v.type == J_TUPLE ? "()" : "{}";
    bool trusted = !(v.flags & JF_UNTRUSTED);
    struct jpair *pairs = NULL;
    size_t n;

    if ((v.type == J_DICT && !jdict_sorted(b->vm, v.u.dict, &pairs)) ||
        !jbuild_char(b, (uint32_t)around[0], trusted))
        return false;
    jvalue_len(v, &n);
    for (size_t i = 0; i < n; i++) {
        if ((i && !jbuild_cstr(b, ", ", trusted)) ||
            (pairs && (!put_pretty(b, pairs[i].key) || !jbuild_cstr(b, ": ", trusted))) ||
            !put_pretty(b, pairs ? pairs[i].value : v.u.list->items[i]))
            return false;
    }
    return (v.type != J_TUPLE || n != 1 || jbuild_char(b, ',', trusted)) &&
           jbuild_char(b, (uint32_t)around[1], trusted);
}

static bool put_pretty(struct jbuild *b, struct jvalue v)
{
    bool ok;

    if (v.type != J_LIST && v.type != J_TUPLE && v.type != J_DICT)
        return jbuild_repr(b, v);
    if (!jvm_enter(b->vm))
        return false;
    ok = jvm_spend(b->vm, 1) && put_pretty_items(b, v);
    jvm_leave(b->vm);
    return ok;
}

/* Python's pprint: repr with sorted keys, as long as that fits one line of 80 characters. */
static bool do_pprint(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jbuild b;

    if (!jbuild_init(vm, &b) || !put_pretty(&b, a->self) || !jbuild_done(&b, out))
        return false;
    return jstr_chars(out->u.s) <= 80 ||
           jvm_fail(vm, JINJA_UNSUPPORTED, "pprint of more than 80 characters is not supported");
}

const struct jbuiltin jfilters_text[] = {
    {"lower", "", do_lower},
    {"upper", "", do_upper},
    {"capitalize", "", do_capitalize},
    {"title", "", do_title},
    {"string", "", do_string},
    {"trim", "chars?", do_trim},
    {"center", "width?", do_center},
    {"replace", "old new count?", do_replace},
    {"join", "d? attribute?", do_join},
    {"format", "*", do_format},
    {"indent", "width? first? blank?", do_indent},
    {"truncate", "length? killwords? end? leeway?", do_truncate},
    {"wordcount", "", do_wordcount},
    {"wordwrap", "width? break_long_words? wrapstring? break_on_hyphens?", jwordwrap},
    {"pprint", "", do_pprint},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", jtojson},
    {NULL, NULL, NULL}};
