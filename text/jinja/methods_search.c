/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of str that look for something: find, count, split, replace, partition and their kin. */
#include <string.h>

#include "jinja/call.h"
#include "jinja/html.h"
#include "jinja/text.h"
#include "jinja/unicode.h"
#include "jinja/vm.h"

/* Arguments start and end (at `i` and i + 1) as byte offsets; *valid is false if start lies behind the end. */
static bool bounds(struct jvm *vm, const struct jargs *a, size_t i, size_t *from, size_t *to,
                   bool *valid)
{
    const struct jstr *s = a->self.u.s;
    int64_t n = (int64_t)jstr_chars(s), start = 0, end = n;

    if ((jarg_some(a, i) && !jarg_int(vm, a, i, &start)) ||
        (jarg_some(a, i + 1) && !jarg_int(vm, a, i + 1, &end)))
        return false;
    end = end > n ? n : end < 0 ? end + n : end;
    end = end < 0 ? 0 : end;
    start = start < 0 ? start + n : start;
    start = start < 0 ? 0 : start;
    *valid = start <= end;
    *to = jstr_offset(s, (size_t)end);
    *from = *valid ? jstr_offset(s, (size_t)start) : *to;
    return jvm_spend_bytes(vm, s->len);
}

static bool find(struct jvm *vm, const struct jargs *a, bool last, int64_t *index)
{
    const struct jstr *what = NULL;
    size_t from, to, at;
    bool valid;

    *index = -1;
    if (!jarg_str(vm, a, 0, &what) || !bounds(vm, a, 1, &from, &to, &valid))
        return false;
    if (!valid)
        return true;
    if (last ? !jstr_rfind(vm, a->self.u.s, from, to, what, &at)
             : !jstr_find(vm, a->self.u.s, from, to, what, &at))
        return false;
    if (at != SIZE_MAX)
        *index = (int64_t)jstr_index(a->self.u.s, at);
    return true;
}

static bool str_find(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jint(-1);
    return find(vm, a, false, &out->u.i);
}

static bool str_rfind(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jint(-1);
    return find(vm, a, true, &out->u.i);
}

static bool str_index(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return str_find(vm, a, out) &&
           (out->u.i >= 0 || jvm_fail(vm, JINJA_VALUE, "substring not found"));
}

static bool str_rindex(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return str_rfind(vm, a, out) &&
           (out->u.i >= 0 || jvm_fail(vm, JINJA_VALUE, "substring not found"));
}

static bool str_count(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jstr *s = a->self.u.s, *what = NULL;
    size_t from, to, at;
    bool valid;

    *out = jint(0);
    if (!jarg_str(vm, a, 0, &what) || !bounds(vm, a, 1, &from, &to, &valid))
        return false;
    if (valid && what->len == 0)
        out->u.i = (int64_t)(jstr_index(s, to) - jstr_index(s, from)) + 1;
    while (valid && what->len) {
        if (!jvm_spend(vm, 1) || !jstr_find(vm, s, from, to, what, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        out->u.i++;
        from = at + what->len;
    }
    return true;
}

/* startswith and endswith, with one string or a tuple of them. */
static bool has_affix(struct jvm *vm, const struct jargs *a, bool prefix, struct jvalue *out)
{
    const struct jstr *s = a->self.u.s;
    const struct jvalue *options = &a->v[0];
    size_t count = 1, from, to;
    bool valid;

    if (a->v[0].type == J_TUPLE) {
        options = a->v[0].u.list->items;
        count = a->v[0].u.list->count;
    } else if (a->v[0].type != J_STR) {
        return jvm_fail(vm, JINJA_TYPE, "%s first arg must be str or a tuple of str, not %s",
                        prefix ? "startswith" : "endswith", jvalue_type(a->v[0]));
    }
    if (!bounds(vm, a, 1, &from, &to, &valid) || !jvm_spend(vm, count))
        return false;
    *out = jbool(false);
    for (size_t i = 0; i < count; i++) {
        const struct jstr *what = options[i].u.s;
        if (options[i].type != J_STR)
            return jvm_fail(vm, JINJA_TYPE, "tuple for %s must only contain str, not %s",
                            prefix ? "startswith" : "endswith", jvalue_type(options[i]));
        if (valid && to - from >= what->len &&
            memcmp(jstr_data(s) + (prefix ? from : to - what->len), jstr_data(what), what->len) ==
                0) {
            *out = jbool(true);
            break;
        }
    }
    return true;
}

static bool str_startswith(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return has_affix(vm, a, true, out);
}

static bool str_endswith(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return has_affix(vm, a, false, out);
}

static bool push_part(struct jvm *vm, struct jvalue s, size_t from, size_t to, struct jitems *parts)
{
    struct jvalue part;

    return jstr_sub(vm, s, from, to - from, &part) && jitems_push(vm, parts, part);
}

/* Behind (or before) the white space at `at`. */
static size_t skip_space(const struct jstr *s, size_t at)
{
    uint32_t cp;
    size_t n;

    while (at < s->len && (n = jstr_decode(s, at, &cp)) && junicode_space(cp))
        at += n;
    return at;
}

static size_t skip_word(const struct jstr *s, size_t at)
{
    uint32_t cp;
    size_t n;

    while (at < s->len && (n = jstr_decode(s, at, &cp)) && !junicode_space(cp))
        at += n;
    return at;
}

static size_t skip_back(const struct jstr *s, size_t at, bool space)
{
    while (at > 0) {
        size_t before = jstr_before(s, at);
        uint32_t cp;
        jstr_decode(s, before, &cp);
        if (junicode_space(cp) != space)
            break;
        at = before;
    }
    return at;
}

static bool split_space(struct jvm *vm, struct jvalue v, int64_t max, struct jitems *parts)
{
    const struct jstr *s = v.u.s;
    size_t at = skip_space(s, 0), end;

    for (; at < s->len; at = skip_space(s, end)) {
        end = max-- == 0 ? s->len : skip_word(s, at);
        if (!push_part(vm, v, at, end, parts))
            return false;
    }
    return true;
}

static bool rsplit_space(struct jvm *vm, struct jvalue v, int64_t max, struct jitems *parts)
{
    const struct jstr *s = v.u.s;
    size_t at = skip_back(s, s->len, true), begin;

    for (; at > 0; at = skip_back(s, begin, true)) {
        begin = max-- == 0 ? 0 : skip_back(s, at, false);
        if (!push_part(vm, v, begin, at, parts))
            return false;
    }
    return true;
}

static bool split_by(struct jvm *vm, struct jvalue v, const struct jstr *sep, int64_t max,
                     struct jitems *parts)
{
    const struct jstr *s = v.u.s;
    size_t from = 0, at;

    while (max-- != 0) {
        if (!jvm_spend(vm, 1) || !jstr_find(vm, s, from, s->len, sep, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!push_part(vm, v, from, at, parts))
            return false;
        from = at + sep->len;
    }
    return push_part(vm, v, from, s->len, parts);
}

static bool rsplit_by(struct jvm *vm, struct jvalue v, const struct jstr *sep, int64_t max,
                      struct jitems *parts)
{
    const struct jstr *s = v.u.s;
    size_t to = s->len, at;

    while (max-- != 0) {
        if (!jvm_spend(vm, 1) || !jstr_rfind(vm, s, 0, to, sep, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!push_part(vm, v, at + sep->len, to, parts))
            return false;
        to = at;
    }
    return push_part(vm, v, 0, to, parts);
}

static bool split(struct jvm *vm, const struct jargs *a, bool right, struct jvalue *out)
{
    const struct jstr *sep = NULL;
    struct jitems parts = {0};
    int64_t max = -1;
    bool ok;

    if ((jarg_some(a, 0) && !jarg_str(vm, a, 0, &sep)) || !jarg_int(vm, a, 1, &max) ||
        !jvm_spend_bytes(vm, a->self.u.s->len))
        return false;
    if (sep && sep->len == 0)
        return jvm_fail(vm, JINJA_VALUE, "empty separator");
    if (max < 0)
        max = -1;
    if (sep)
        ok = right ? rsplit_by(vm, a->self, sep, max, &parts)
                   : split_by(vm, a->self, sep, max, &parts);
    else
        ok = right ? rsplit_space(vm, a->self, max, &parts) : split_space(vm, a->self, max, &parts);
    for (size_t i = 0; right && i < parts.count / 2; i++) { /* they were found from the end */
        struct jvalue swap = parts.items[i];
        parts.items[i] = parts.items[parts.count - 1 - i];
        parts.items[parts.count - 1 - i] = swap;
    }
    return ok && jlist_of(vm, J_LIST, parts.items, parts.count, out);
}

static bool str_split(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return split(vm, a, false, out);
}

static bool str_rsplit(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return split(vm, a, true, out);
}

bool jtext_rsplit_once(struct jvm *vm, struct jvalue s, uint32_t sep, struct jvalue *out)
{
    size_t at = s.u.s->len;

    while (at > 0) {
        uint32_t cp;
        at = jstr_before(s.u.s, at);
        jstr_decode(s.u.s, at, &cp);
        if (cp == sep)
            return jstr_sub(vm, s, 0, at, out);
    }
    *out = s;
    return true;
}

static bool partition(struct jvm *vm, const struct jargs *a, bool last, struct jvalue *out)
{
    const struct jstr *s = a->self.u.s, *sep = NULL;
    size_t at, cut[4];

    if (!jarg_str(vm, a, 0, &sep))
        return false;
    if (sep->len == 0)
        return jvm_fail(vm, JINJA_VALUE, "empty separator");
    if (last ? !jstr_rfind(vm, s, 0, s->len, sep, &at) : !jstr_find(vm, s, 0, s->len, sep, &at))
        return false;
    cut[0] = 0;
    cut[3] = s->len;
    cut[1] = at != SIZE_MAX ? at : last ? 0 : s->len;
    cut[2] = at != SIZE_MAX ? at + sep->len : cut[1];
    if (!jlist_new(vm, J_TUPLE, 3, out))
        return false;
    for (size_t i = 0; i < 3; i++) {
        if (!jstr_sub(vm, a->self, cut[i], cut[i + 1] - cut[i], &out->u.list->items[i]))
            return false;
    }
    return true;
}

static bool str_partition(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return partition(vm, a, false, out);
}

static bool str_rpartition(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return partition(vm, a, true, out);
}

/* An empty `old` is found before every character and at the end. */
static bool replace_empty(struct jbuild *b, const struct jstr *s, const struct jstr *new_text,
                          uint64_t left)
{
    uint32_t cp;
    size_t n;

    for (size_t at = 0; at < s->len; at += n) {
        n = jstr_decode(s, at, &cp);
        if (!jvm_spend(b->vm, 1) || (left > 0 && !jbuild_str(b, new_text)) ||
            !jbuild_sub(b, s, at, n))
            return false;
        left -= left > 0;
    }
    return left == 0 || jbuild_str(b, new_text);
}

bool jtext_replace(struct jvm *vm, struct jvalue v, const struct jstr *old,
                   const struct jstr *new_text, int64_t count, struct jvalue *out)
{
    const struct jstr *s = v.u.s;
    struct jbuild b;
    size_t from = 0, at = SIZE_MAX;

    if (!jbuild_init(vm, &b))
        return false;
    if (old->len == 0) {
        if (!replace_empty(&b, s, new_text, count < 0 ? UINT64_MAX : (uint64_t)count))
            return false;
        from = s->len;
        count = 0;
    }
    while (count-- != 0) {
        if (!jvm_spend(vm, 1) || !jstr_find(vm, s, from, s->len, old, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!jbuild_sub(&b, s, from, at - from) || !jbuild_str(&b, new_text))
            return false;
        from = at + old->len;
    }
    if (!jbuild_sub(&b, s, from, s->len - from) || !jbuild_done(&b, out))
        return false;
    out->flags = v.flags & JF_MARKUP;
    return true;
}

static bool str_replace(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jstr *old = NULL, *new_text = NULL;
    struct jvalue escaped = a->v[1];
    int64_t count = -1;

    if (!jarg_str(vm, a, 0, &old) || !jarg_str(vm, a, 1, &new_text) || !jarg_int(vm, a, 2, &count))
        return false;
    if ((a->self.flags & JF_MARKUP) && !jhtml_escape(vm, escaped, &escaped))
        return false;
    return jtext_replace(vm, a->self, old, escaped.u.s, count < 0 ? -1 : count, out);
}

const struct jbuiltin jmethods_search[] = {{"find", ".sub .start? .end?", str_find},
                                           {"rfind", ".sub .start? .end?", str_rfind},
                                           {"index", ".sub .start? .end?", str_index},
                                           {"rindex", ".sub .start? .end?", str_rindex},
                                           {"count", ".sub .start? .end?", str_count},
                                           {"startswith", ".prefix .start? .end?", str_startswith},
                                           {"endswith", ".suffix .start? .end?", str_endswith},
                                           {"split", "sep? maxsplit?", str_split},
                                           {"rsplit", "sep? maxsplit?", str_rsplit},
                                           {"partition", ".sep", str_partition},
                                           {"rpartition", ".sep", str_rpartition},
                                           {"replace", ".old .new .count?", str_replace},
                                           {NULL, NULL, NULL}};
