/* SPDX-License-Identifier: Apache-2.0 */
/* str() and repr(). Strings inside keep their provenance; what Python writes around the items of a container is
 * trusted only if the container was made by the template. */
#include <stdio.h>
#include <string.h>

#include "jinja/call.h"
#include "jinja/eval.h"
#include "jinja/iter.h"
#include "jinja/number.h"
#include "jinja/unicode.h"

static bool repr_char(struct jbuild *b, uint32_t cp, char quote, bool trusted)
{
    char text[16];

    if (cp == (uint32_t)quote || cp == '\\')
        return jbuild_char(b, '\\', trusted) && jbuild_char(b, cp, trusted);
    if (cp == '\n' || cp == '\r' || cp == '\t')
        return jbuild_cstr(b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t", trusted);
    if (junicode_printable(cp))
        return jbuild_char(b, cp, trusted);
    snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    return jbuild_cstr(b, text, trusted);
}

static bool repr_str(struct jbuild *b, struct jvalue v)
{
    const struct jstr *s = v.u.s;
    bool single = s->len && memchr(jstr_data(s), '\'', s->len);
    bool both = single && memchr(jstr_data(s), '"', s->len);
    char quote = single && !both ? '"' : '\'';
    bool trusted = s->len == 0 || jstr_trusted_at(s, 0);

    if ((v.flags & JF_MARKUP && !jbuild_cstr(b, "Markup(", trusted)) ||
        !jbuild_char(b, (uint32_t)quote, trusted))
        return false;
    for (size_t at = 0; at < s->len;) {
        uint32_t cp;
        size_t n = jstr_decode(s, at, &cp);
        if (!repr_char(b, cp, quote, jstr_trusted_at(s, at)))
            return false;
        at += n;
    }
    return jbuild_char(b, (uint32_t)quote, trusted) &&
           (!(v.flags & JF_MARKUP) || jbuild_char(b, ')', trusted));
}

static bool repr_items(struct jbuild *b, const struct jlist *l, const char *around, bool trusted)
{
    if (!jbuild_char(b, (uint32_t)around[0], trusted))
        return false;
    for (size_t i = 0; i < l->count; i++) {
        if ((i && !jbuild_cstr(b, ", ", trusted)) || !jbuild_repr(b, l->items[i]))
            return false;
    }
    if (around[0] == '(' && l->count == 1 && !jbuild_char(b, ',', trusted))
        return false;
    return jbuild_char(b, (uint32_t)around[1], trusted);
}

static bool repr_dict(struct jbuild *b, const struct jdict *d, bool trusted)
{
    if (!jbuild_char(b, '{', trusted))
        return false;
    for (size_t i = 0; i < d->count; i++) {
        if ((i && !jbuild_cstr(b, ", ", trusted)) || !jbuild_repr(b, d->pairs[i].key) ||
            !jbuild_cstr(b, ": ", trusted) || !jbuild_repr(b, d->pairs[i].value))
            return false;
    }
    return jbuild_char(b, '}', trusted);
}

static bool repr_view(struct jbuild *b, const struct jview *view, bool trusted)
{
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    struct jvalue v;

    if (!jbuild_cstr(b, names[view->kind], trusted))
        return false;
    for (size_t i = 0; i < view->dict->count; i++) {
        if ((i && !jbuild_cstr(b, ", ", trusted)) || !jview_at(b->vm, view, i, &v) ||
            !jbuild_repr(b, v))
            return false;
    }
    return jbuild_cstr(b, "])", trusted);
}

static bool repr_number(struct jbuild *b, struct jvalue v, bool trusted)
{
    char text[JNUMBER_TEXT];
    size_t n = v.type == J_FLOAT ? jnumber_repr(v.u.f, text)
                                 : (size_t)snprintf(text, sizeof text, "%lld", (long long)v.u.i);

    return jbuild_bytes(b, text, n, trusted);
}

static bool repr_range(struct jbuild *b, const struct jrange *r)
{
    char text[96];

    if (r->step == 1)
        snprintf(text, sizeof text, "range(%lld, %lld)", (long long)r->start, (long long)r->stop);
    else
        snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)r->start,
                 (long long)r->stop, (long long)r->step);
    return jbuild_cstr(b, text, true);
}

/* Objects. Python adds an address; there is none here, on purpose. */
static bool repr_object(struct jbuild *b, struct jvalue v)
{
    const char *text;

    switch (v.type) {
    case J_NAMESPACE:
        return jbuild_cstr(b, "<Namespace ", true) && repr_dict(b, v.u.dict, true) &&
               jbuild_char(b, '>', true);
    case J_MACRO:
        if (!v.u.macro->name)
            return jbuild_cstr(b, "<Macro anonymous>", true);
        return jbuild_cstr(b, "<Macro ", true) &&
               jbuild_repr(b, (struct jvalue){.type = J_STR, .u.s = v.u.macro->name}) &&
               jbuild_char(b, '>', true);
    case J_METHOD:
        text = jvm_printf(b->vm, "<built-in method %s of %s object>", v.u.method->func->name,
                          jvalue_type(v.u.method->self));
        break;
    case J_FUNC: text = jvm_printf(b->vm, "<function %s>", v.u.func->name); break;
    case J_SELF: text = "<TemplateReference None>"; break;
    default: text = jvm_printf(b->vm, "<%s object>", jvalue_type(v)); break;
    }
    return text && jbuild_cstr(b, text, true);
}

static bool repr_loop(struct jbuild *b, struct jvalue v)
{
    struct jvalue length;

    return jloop_length(b->vm, v.u.loop, &length) && jbuild_cstr(b, "<LoopContext ", true) &&
           jbuild_repr(b, jint(v.u.loop->index0 + 1)) && jbuild_char(b, '/', true) &&
           jbuild_repr(b, length) && jbuild_char(b, '>', true);
}

static bool repr_inside(struct jbuild *b, struct jvalue v)
{
    bool trusted = !(v.flags & JF_UNTRUSTED);

    switch (v.type) {
    case J_MISSING:
    case J_UNDEFINED: return jbuild_cstr(b, "Undefined", trusted);
    case J_NONE: return jbuild_cstr(b, "None", trusted);
    case J_BOOL: return jbuild_cstr(b, v.u.b ? "True" : "False", trusted);
    case J_INT:
    case J_FLOAT: return repr_number(b, v, trusted);
    case J_STR: return repr_str(b, v);
    case J_LIST: return repr_items(b, v.u.list, "[]", trusted);
    case J_TUPLE: return repr_items(b, v.u.list, "()", trusted);
    case J_DICT: return repr_dict(b, v.u.dict, trusted);
    case J_VIEW: return repr_view(b, v.u.view, trusted);
    case J_RANGE: return repr_range(b, v.u.range);
    case J_LOOP: return repr_loop(b, v);
    default: return repr_object(b, v);
    }
}

bool jbuild_repr(struct jbuild *b, struct jvalue v)
{
    bool ok;

    if (!jvm_enter(b->vm))
        return false;
    ok = jvm_spend(b->vm, 1) && repr_inside(b, v);
    jvm_leave(b->vm);
    return ok;
}

bool jbuild_value(struct jbuild *b, struct jvalue v)
{
    if (v.type == J_STR)
        return jbuild_str(b, v.u.s);
    return v.type == J_UNDEFINED || jbuild_repr(b, v);
}
