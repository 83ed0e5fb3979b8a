/* SPDX-License-Identifier: Apache-2.0 */
/* Filters that look at attributes or apply other filters and tests to every item. */
#include "jinja/eval.h"
#include "jinja/pick.h"
#include "jinja/text.h"

static bool part_of(struct jvm *vm, struct jvalue attribute, size_t from, size_t to,
                    struct jitems *parts)
{
    const struct jstr *s = attribute.u.s;
    struct jvalue part;
    int64_t number = 0;
    bool digits = to > from;

    for (size_t i = from; i < to; i++) {
        char c = jstr_data(s)[i];
        digits = digits && c >= '0' && c <= '9' &&
                 !__builtin_mul_overflow(number, (int64_t)10, &number) &&
                 !__builtin_add_overflow(number, (int64_t)(c - '0'), &number);
    }
    if (digits)
        return jitems_push(vm, parts, jint(number));
    return jstr_sub(vm, attribute, from, to - from, &part) && jitems_push(vm, parts, part);
}

bool jgetter_init(struct jvm *vm, struct jvalue attribute, struct jgetter *out)
{
    struct jitems parts = {0};
    size_t from = 0;

    if (attribute.type == J_STR) {
        const struct jstr *s = attribute.u.s;
        for (size_t i = 0; i <= s->len; i++) {
            if (i < s->len && jstr_data(s)[i] != '.')
                continue;
            if (!part_of(vm, attribute, from, i, &parts))
                return false;
            from = i + 1;
        }
    } else if (attribute.type != J_NONE && !jitems_push(vm, &parts, attribute)) {
        return false;
    }
    out->parts = parts.items;
    out->count = parts.count;
    return true;
}

bool jgetter_get(struct jvm *vm, const struct jgetter *g, struct jvalue item, struct jvalue *out)
{
    for (size_t i = 0; i < g->count; i++) {
        if (!jattr_item(vm, item, g->parts[i], &item))
            return false;
        if (item.type == J_UNDEFINED && g->otherwise.type != J_MISSING)
            item = g->otherwise;
    }
    *out = item;
    return !g->fold || item.type != J_STR || jtext_case(vm, JCASE_LOWER, item, out);
}

bool jgetter_keys(struct jvm *vm, struct jvalue attribute, bool fold, const struct jlist *items,
                  struct jvalue *keys)
{
    struct jitems all = {0}; /* the attributes between the commas */
    struct jgetter *getters;

    if (attribute.type == J_STR) {
        const struct jstr *s = attribute.u.s;
        for (size_t i = 0, from = 0; i <= s->len; i++) {
            struct jvalue part;
            if (i < s->len && jstr_data(s)[i] != ',')
                continue;
            if (!jstr_sub(vm, attribute, from, i - from, &part) || !jitems_push(vm, &all, part))
                return false;
            from = i + 1;
        }
    } else if (!jitems_push(vm, &all, attribute)) {
        return false;
    }
    getters = jvm_array(vm, all.count, sizeof *getters);
    for (size_t i = 0; getters && i < all.count; i++) {
        if (!jgetter_init(vm, all.items[i], &getters[i]))
            return false;
        getters[i].fold = fold;
    }
    for (size_t i = 0; getters && i < items->count; i++) {
        if (!jlist_new(vm, J_LIST, all.count, &keys[i]))
            return false;
        for (size_t k = 0; k < all.count; k++) {
            if (!jgetter_get(vm, &getters[k], items->items[i], &keys[i].u.list->items[k]))
                return false;
        }
    }
    return getters != NULL;
}

/* What map, select and their kin do to each item. */
struct picker {
    struct jiter it;
    struct jvalue source;
    struct jiter *from; /* NULL until the first item is asked for */
    struct jcall call;  /* as it was written */
    bool map, attribute, negate;
    bool done;
    struct jgetter getter;
    const struct jbuiltin *f; /* the filter or test; NULL: truth, or the attribute alone */
    struct jcall rest;        /* its arguments */
};

static bool find_builtin(struct jvm *vm, struct picker *p, struct jvalue name)
{
    const char *kind = p->map ? "filter" : "test";
    struct jbuild b;
    struct jvalue repr;
    bool hashable;

    if (!jvalue_hashable(vm, name, &hashable))
        return false;
    if (!hashable)
        return jvm_fail(vm, JINJA_TYPE, "unhashable type: '%s'", jvalue_type(name));
    if (name.type == J_STR)
        p->f = p->map ? jfilter_find(jstr_data(name.u.s), name.u.s->len)
                      : jtest_find(jstr_data(name.u.s), name.u.s->len);
    if (p->f)
        return true;
    if (!jbuild_init(vm, &b) || !jbuild_repr(&b, name) || !jbuild_done(&b, &repr))
        return false;
    return jvm_fail(vm, JINJA_RUNTIME, "No %s named %.*s.", kind, jstr_brief(repr.u.s),
                    jstr_data(repr.u.s));
}

static bool prepare_map(struct jvm *vm, struct picker *p)
{
    const struct jkeyword *attribute = NULL, *unknown = NULL;

    for (size_t i = 0; i < p->call.keyword_count; i++) {
        const struct jkeyword *k = &p->call.keywords[i];
        if (jstr_is(k->name, "attribute"))
            attribute = k;
        else if (jstr_is(k->name, "default"))
            p->getter.otherwise = k->value;
        else
            unknown = k;
    }
    if (p->call.count == 0 && attribute) {
        if (unknown)
            return jvm_fail(vm, JINJA_RUNTIME, "Unexpected keyword argument '%.*s'",
                            jstr_brief(unknown->name), jstr_data(unknown->name));
        if (p->getter.otherwise.type == J_NONE)
            p->getter.otherwise.type = J_MISSING;
        return jgetter_init(vm, attribute->value, &p->getter);
    }
    p->getter.otherwise.type = J_MISSING;
    if (p->call.count == 0)
        return jvm_fail(vm, JINJA_RUNTIME, "map requires a filter argument");
    return true;
}

static bool prepare(struct jvm *vm, struct picker *p)
{
    size_t used = p->attribute;

    if (p->map && !prepare_map(vm, p))
        return false;
    if (p->attribute) {
        if (p->call.count == 0)
            return jvm_fail(vm, JINJA_RUNTIME, "Missing parameter for attribute name");
        if (!jgetter_init(vm, p->call.args[0], &p->getter))
            return false;
    }
    p->rest = p->call;
    if (p->call.count > used) {
        p->rest.args += used + 1;
        p->rest.count -= used + 1;
    }
    p->from = jiter_of(vm, p->source);
    return p->from != NULL;
}

/* The name is looked up per item, as in jinja2: an unknown one is no error for an empty sequence. */
static bool apply(struct jvm *vm, struct picker *p, struct jvalue item, struct jvalue *out)
{
    size_t used = p->attribute;

    if (!jgetter_get(vm, &p->getter, item, &item))
        return false;
    *out = item;
    if (p->call.count <= used)
        return true;
    return (p->f || find_builtin(vm, p, p->call.args[used])) &&
           jbuiltin_call(vm, p->f, item, &p->rest, out);
}

static enum jnext next_picked(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    struct picker *p = (struct picker *)it;

    if (p->done)
        return JNEXT_END;
    if (!p->from && !jvalue_truth(p->source)) {
        p->done = true;
        return JNEXT_END;
    }
    if (!p->from && !prepare(vm, p))
        return JNEXT_FAIL;
    for (;;) {
        struct jvalue item, verdict;
        enum jnext next = jiter_next(vm, p->from, &item);
        p->done = next == JNEXT_END;
        if (next != JNEXT_ITEM)
            return next;
        if (!apply(vm, p, item, &verdict))
            return JNEXT_FAIL;
        if (p->map || jvalue_truth(verdict) != p->negate) {
            *out = p->map ? verdict : item;
            return JNEXT_ITEM;
        }
    }
}

static struct picker *pick(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct picker *p = jiter_alloc(vm, sizeof *p, "generator", next_picked);

    if (!p)
        return NULL;
    p->source = a->self;
    p->call = *a->call;
    *out = (struct jvalue){.type = J_ITER, .u.iter = &p->it};
    return p;
}

static bool do_map(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct picker *p = pick(vm, a, out);

    if (p)
        p->map = true;
    return p != NULL;
}

static bool do_select(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return pick(vm, a, out) != NULL;
}

static bool do_reject(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct picker *p = pick(vm, a, out);

    if (p)
        p->negate = true;
    return p != NULL;
}

static bool do_selectattr(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct picker *p = pick(vm, a, out);

    if (p)
        p->attribute = true;
    return p != NULL;
}

static bool do_rejectattr(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct picker *p = pick(vm, a, out);

    if (p)
        p->attribute = p->negate = true;
    return p != NULL;
}

static bool do_attr(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jattr_only(vm, a->self, a->v[0], out);
}

static bool do_default(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = a->self;
    if (a->self.type != J_UNDEFINED && !(jarg_flag(a, 1, false) && !jvalue_truth(a->self)))
        return true;
    *out = a->v[0];
    return jarg_given(a, 0) || jstr_cstr(vm, "", out);
}

const struct jbuiltin jfilters_pick[] = {{"map", "*", do_map},
                                         {"select", "*", do_select},
                                         {"reject", "*", do_reject},
                                         {"selectattr", "*", do_selectattr},
                                         {"rejectattr", "*", do_rejectattr},
                                         {"attr", "name", do_attr},
                                         {"default", "default_value? boolean?", do_default},
                                         {"d", "default_value? boolean?", do_default},
                                         {NULL, NULL, NULL}};

const struct jbuiltin *jfilter_find(const char *name, size_t len)
{
    const struct jbuiltin *const tables[] = {jfilters_text, jfilters_seq, jfilters_pick,
                                             jfilters_num, jfilters_html};
    const struct jbuiltin *f = NULL;

    for (size_t i = 0; !f && len && i < sizeof tables / sizeof *tables; i++)
        f = jbuiltin_find(tables[i], name, len);
    return f;
}
