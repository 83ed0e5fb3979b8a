/* SPDX-License-Identifier: Apache-2.0 */
/* Making values, and the questions that have no error: truth, length, type. Comparison is in compare.c. */
#include "jinja/value.h"

#include <string.h>

#include "base/map.h"
#include "jinja/call.h"
#include "jinja/iter.h"
#include "jinja/loop.h"
#include "jinja/vm.h"

/* Dicts with more pairs than this get an index. */
#define DICT_SCAN 12

bool jlist_of(struct jvm *vm, enum jtype type, struct jvalue *items, size_t count,
              struct jvalue *out)
{
    struct jlist *l = jvm_alloc(vm, sizeof *l);

    if (!l)
        return false;
    l->items = items;
    l->count = count;
    *out = (struct jvalue){.type = (uint8_t)type, .u.list = l};
    return true;
}

bool jlist_new(struct jvm *vm, enum jtype type, size_t count, struct jvalue *out)
{
    struct jvalue *items = jvm_array(vm, count, sizeof *items);

    return items && jlist_of(vm, type, items, count, out);
}

bool jpair_new(struct jvm *vm, struct jvalue a, struct jvalue b, struct jvalue *out)
{
    if (!jlist_new(vm, J_TUPLE, 2, out))
        return false;
    out->u.list->items[0] = a;
    out->u.list->items[1] = b;
    return true;
}

bool jitems_push(struct jvm *vm, struct jitems *l, struct jvalue v)
{
    if (!jvm_grow(vm, &l->items, &l->cap, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] = v;
    return true;
}

bool jdict_new(struct jvm *vm, size_t room, struct jvalue *out)
{
    struct jdict *d = jvm_alloc(vm, sizeof *d);

    if (!d || !jvm_grow(vm, &d->pairs, &d->cap, room, sizeof *d->pairs))
        return false;
    *out = (struct jvalue){.type = J_DICT, .u.dict = d};
    return true;
}

/* Without memory there is just no index: lookups scan. */
static void index_pair(struct jdict *d, size_t i)
{
    const struct jvalue *key = &d->pairs[i].key;

    if (!d->index || key->type != J_STR)
        return;
    if (key->u.s->len > UINT32_MAX ||
        map_put(d->index, jstr_data(key->u.s), key->u.s->len, i) == MAP_NOMEM)
        d->index = NULL;
}

static void build_index(struct jvm *vm, struct jdict *d)
{
    uint64_t cost = d->count * 2 * sizeof(struct map_slot);

    if (d->index || d->count <= DICT_SCAN || vm->memory_left < cost)
        return;
    d->index = jvm_map_new(vm);
    if (!d->index)
        return;
    vm->memory_left -= cost;
    if (!map_reserve(d->index, d->count)) {
        d->index = NULL;
        return;
    }
    for (size_t i = 0; i < d->count && d->index; i++)
        index_pair(d, i);
}

static size_t find_str(struct jvm *vm, struct jdict *d, const char *key, size_t len)
{
    uint64_t i;

    build_index(vm, d);
    if (d->index)
        return map_get(d->index, key, len, &i) ? (size_t)i : SIZE_MAX;
    for (size_t n = 0; n < d->count; n++) {
        const struct jvalue *k = &d->pairs[n].key;
        if (k->type == J_STR && k->u.s->len == len && memcmp(jstr_data(k->u.s), key, len) == 0)
            return n;
    }
    return SIZE_MAX;
}

bool jdict_get_str(struct jvm *vm, struct jdict *d, const char *key, size_t len, struct jvalue *out)
{
    size_t i = find_str(vm, d, key, len);

    if (i == SIZE_MAX)
        return false;
    *out = d->pairs[i].value;
    return true;
}

/* *at is SIZE_MAX if the key is not there. */
static bool find(struct jvm *vm, struct jdict *d, struct jvalue key, size_t *at)
{
    bool same;

    *at = SIZE_MAX;
    if (!jvalue_hashable(vm, key, &same))
        return false;
    if (!same)
        return jvm_fail(vm, JINJA_TYPE, "unhashable type: '%s'", jvalue_type(key));
    if (key.type == J_STR) {
        *at = find_str(vm, d, jstr_data(key.u.s), key.u.s->len);
        return true;
    }
    for (size_t i = 0; i < d->count; i++) {
        if (!jvm_spend(vm, 1))
            return false;
        if (d->pairs[i].key.type == J_STR)
            continue;
        if (!jvalue_equal(vm, d->pairs[i].key, key, &same))
            return false;
        if (same) {
            *at = i;
            return true;
        }
    }
    return true;
}

bool jdict_append(struct jvm *vm, struct jdict *d, struct jvalue key, struct jvalue value)
{
    if (!jvm_grow(vm, &d->pairs, &d->cap, d->count + 1, sizeof *d->pairs))
        return false;
    d->pairs[d->count] = (struct jpair){key, value};
    index_pair(d, d->count++);
    return true;
}

bool jdict_set(struct jvm *vm, struct jdict *d, struct jvalue key, struct jvalue value)
{
    size_t i;

    if (!find(vm, d, key, &i))
        return false;
    if (i == SIZE_MAX)
        return jdict_append(vm, d, key, value);
    d->pairs[i].value = value;
    return true;
}

bool jdict_get(struct jvm *vm, struct jdict *d, struct jvalue key, struct jvalue *out, bool *found)
{
    size_t i;

    *found = false;
    if (!find(vm, d, key, &i))
        return false;
    if (i == SIZE_MAX)
        return true;
    *out = d->pairs[i].value;
    *found = true;
    return true;
}

static struct jundef *new_undef(struct jvm *vm, struct jvalue *out)
{
    struct jundef *u = jvm_alloc(vm, sizeof *u);

    if (u)
        *out = (struct jvalue){.type = J_UNDEFINED, .u.undef = u};
    return u;
}

bool jundef_new(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out)
{
    struct jundef *u = new_undef(vm, out);

    if (!u)
        return false;
    u->owner = owner;
    u->name = name;
    return true;
}

bool jundef_hint(struct jvm *vm, const char *hint, struct jvalue *out)
{
    struct jundef *u = new_undef(vm, out);

    if (!u)
        return false;
    u->hint = hint;
    return true;
}

bool jundef_unsafe(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out)
{
    struct jundef *u = new_undef(vm, out);

    if (!u)
        return false;
    u->owner = owner;
    u->name = name;
    u->security = true;
    u->hint = jvm_printf(vm, "access to attribute '%.*s' of '%s' object is unsafe.",
                         jstr_brief(name.u.s), jstr_data(name.u.s), jvalue_type(owner));
    return u->hint != NULL;
}

/* "dict object", "None", "jinja2.runtime.Macro object". */
static const char *owner_name(struct jvm *vm, struct jvalue v)
{
    static const char *const modules[] = {
        [J_UNDEFINED] = "jinja2.runtime.", [J_MACRO] = "jinja2.runtime.",
        [J_LOOP] = "jinja2.runtime.",      [J_SELF] = "jinja2.runtime.",
        [J_BLOCK] = "jinja2.runtime.",     [J_CYCLER] = "jinja2.utils.",
        [J_JOINER] = "jinja2.utils.",      [J_NAMESPACE] = "jinja2.utils."};
    const char *module = v.flags & JF_MARKUP                    ? "markupsafe."
                         : v.type <= J_BLOCK && modules[v.type] ? modules[v.type]
                                                                : "";

    if (v.type == J_NONE)
        return "None";
    return jvm_printf(vm, "%s%s object", module, jvalue_type(v));
}

bool jundef_fail(struct jvm *vm, struct jvalue v)
{
    const struct jundef *u = v.u.undef;
    enum jinja_failure why = u->security ? JINJA_SECURITY : JINJA_UNDEFINED;
    const char *owner;
    struct jbuild b;
    struct jvalue name;

    if (u->hint)
        return jvm_fail(vm, why, "%s", u->hint);
    if (!jbuild_init(vm, &b) || !jbuild_repr(&b, u->name) || !jbuild_done(&b, &name))
        return false;
    if (u->owner.type == J_MISSING)
        return jvm_fail(vm, why, "%.*s is undefined", jstr_brief(name.u.s), jstr_data(name.u.s));
    owner = owner_name(vm, u->owner);
    if (!owner)
        return false;
    return u->name.type == J_STR ? jvm_fail(vm, why, "'%s' has no attribute %.*s", owner,
                                            jstr_brief(name.u.s), jstr_data(name.u.s))
                                 : jvm_fail(vm, why, "%s has no element %.*s", owner,
                                            jstr_brief(name.u.s), jstr_data(name.u.s));
}

bool jview_new(struct jvm *vm, const struct jdict *d, enum jview_kind kind, struct jvalue *out)
{
    struct jview *view = jvm_alloc(vm, sizeof *view);

    if (!view)
        return false;
    *view = (struct jview){d, kind};
    *out = (struct jvalue){.type = J_VIEW, .u.view = view};
    return true;
}

bool jview_at(struct jvm *vm, const struct jview *view, size_t i, struct jvalue *out)
{
    const struct jpair *p = &view->dict->pairs[i];

    if (view->kind == JVIEW_ITEMS)
        return jpair_new(vm, p->key, p->value, out);
    *out = view->kind == JVIEW_KEYS ? p->key : p->value;
    return true;
}

bool jvalue_truth(struct jvalue v)
{
    size_t n;

    switch (v.type) {
    case J_MISSING:
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.u.b;
    case J_INT: return v.u.i != 0;
    case J_FLOAT: return v.u.f != 0;
    case J_LOOP: return true; /* its length is not asked for: that would consume the iterable */
    default: return !jvalue_len(v, &n) || n > 0;
    }
}

bool jvalue_len(struct jvalue v, size_t *out)
{
    switch (v.type) {
    case J_UNDEFINED: *out = 0; return true;
    case J_STR: *out = jstr_chars(v.u.s); return true;
    case J_LIST:
    case J_TUPLE: *out = v.u.list->count; return true;
    case J_DICT: *out = v.u.dict->count; return true;
    case J_VIEW: *out = v.u.view->dict->count; return true;
    case J_RANGE: *out = v.u.range->count; return true;
    default: return false;
    }
}

const char *jvalue_type(struct jvalue v)
{
    static const char *const names[] = {[J_MISSING] = "missing",
                                        [J_UNDEFINED] = "Undefined",
                                        [J_NONE] = "NoneType",
                                        [J_BOOL] = "bool",
                                        [J_INT] = "int",
                                        [J_FLOAT] = "float",
                                        [J_STR] = "str",
                                        [J_LIST] = "list",
                                        [J_TUPLE] = "tuple",
                                        [J_DICT] = "dict",
                                        [J_RANGE] = "range",
                                        [J_FUNC] = "function",
                                        [J_METHOD] = "builtin_function_or_method",
                                        [J_MACRO] = "Macro",
                                        [J_NAMESPACE] = "Namespace",
                                        [J_LOOP] = "LoopContext",
                                        [J_CYCLER] = "Cycler",
                                        [J_JOINER] = "Joiner",
                                        [J_SELF] = "TemplateReference",
                                        [J_BLOCK] = "BlockReference"};
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};

    if (v.flags & JF_MARKUP)
        return "Markup";
    if (v.type == J_VIEW)
        return views[v.u.view->kind];
    if (v.type == J_ITER)
        return v.u.iter->type;
    if (v.type == J_TUPLE && v.u.list->group)
        return "_GroupTuple";
    return names[v.type];
}

bool jvalue_hashable(struct jvm *vm, struct jvalue v, bool *yes)
{
    bool ok = true;

    *yes = v.type != J_LIST && v.type != J_DICT &&
           (v.type != J_VIEW || v.u.view->kind == JVIEW_VALUES);
    if (v.type != J_TUPLE)
        return true;
    if (!jvm_enter(vm))
        return false;
    for (size_t i = 0; ok && *yes && i < v.u.list->count; i++)
        ok = jvm_spend(vm, 1) && jvalue_hashable(vm, v.u.list->items[i], yes);
    jvm_leave(vm);
    return ok;
}

/* The same bits: tells -0 from 0, and a NaN is itself. */
static bool same_float(double a, double b)
{
    uint64_t x, y;

    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return x == y;
}

bool jvalue_same(struct jvalue a, struct jvalue b)
{
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case J_NONE:
    case J_SELF: return true;
    case J_BOOL: return a.u.b == b.u.b;
    case J_INT: return a.u.i == b.u.i;
    case J_FLOAT: return same_float(a.u.f, b.u.f);
    case J_STR: return a.flags == b.flags && jstr_equal(a.u.s, b.u.s);
    default: return a.u.list == b.u.list; /* all others are pointers */
    }
}
