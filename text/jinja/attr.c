/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attributes and items under the rules of jinja2's ImmutableSandboxedEnvironment: names with an underscore in front
 * and methods that would change a list or dict give an Undefined that raises a SecurityError when it is used. A dict's
 * methods hide its keys from a.b, its keys hide the methods from a["b"].
 */
#include <string.h>

#include "jinja/eval.h"

enum found { FOUND_NONE, FOUND_VALUE, FOUND_UNSAFE, FOUND_ERROR };

/* Attributes of every Python object. */
static const char object_names[] =
    " __class__ __delattr__ __dir__ __doc__ __eq__ __format__ __ge__ __getattribute__ __getstate__ "
    "__gt__ __hash__ __init__ __init_subclass__ __le__ __lt__ __ne__ __new__ __reduce__ "
    "__reduce_ex__ __repr__ __setattr__ __sizeof__ __str__ __subclasshook__ ";
static const char dict_names[] =
    " __class_getitem__ __contains__ __delitem__ __getitem__ __ior__ __iter__ __len__ __or__ "
    "__reversed__ __ror__ __setitem__ ";
/* Of one or another type; which one has which makes no difference to what a template can see. */
static const char other_names[] =
    " __add__ __call__ __contains__ __dict__ __float__ __getitem__ __int__ __iter__ __len__ "
    "__mod__ __module__ __mul__ __name__ __pow__ __rmul__ __self__ __slots__ __sub__ __weakref__ "
    "_undefined_hint _undefined_obj _undefined_name _undefined_exception _undefined_message "
    "_fail_with_undefined_error _Namespace__attrs _TemplateReference__context ";
static const char function_names[] =
    " __annotations__ __builtins__ __closure__ __code__ __defaults__ __get__ __globals__ "
    "__kwdefaults__ __qualname__ ";
static const char list_unsafe[] = " append clear pop reverse insert sort extend remove ";
static const char dict_unsafe[] = " clear pop popitem setdefault update ";

/* Whether the name is one of the words between the blanks of `list`. */
static bool is_word(const char *list, const struct jstr *name)
{
    for (const char *p = list + 1; *p;) {
        size_t n = strcspn(p, " ");
        if (n == name->len && memcmp(p, jstr_data(name), n) == 0)
            return true;
        p += n + 1;
    }
    return false;
}

static enum found underscore_name(struct jvalue owner, const struct jstr *name)
{
    bool is_dict = owner.type == J_DICT;

    if (owner.type == J_LOOP || owner.type == J_MACRO || owner.type == J_CYCLER ||
        owner.type == J_JOINER || is_word(object_names, name) ||
        is_word(is_dict ? dict_names : other_names, name) ||
        (owner.type == J_FUNC && is_word(function_names, name)))
        return FOUND_UNSAFE;
    return FOUND_NONE;
}

static const struct jbuiltin *find_method(struct jvalue owner, const struct jstr *name)
{
    const struct jbuiltin *tables[3] = {NULL, NULL, NULL}, *f = NULL;

    switch (owner.type) {
    case J_STR:
        tables[0] = jmethods_str;
        tables[1] = jmethods_search;
        tables[2] = jmethods_case;
        break;
    case J_LIST: tables[0] = jmethods_list; break;
    case J_TUPLE: tables[0] = jmethods_tuple; break;
    case J_DICT: tables[0] = jmethods_dict; break;
    case J_RANGE: tables[0] = jmethods_range; break;
    case J_FLOAT: tables[0] = jmethods_float; break;
    case J_LOOP: tables[0] = jmethods_loop; break;
    case J_CYCLER: tables[0] = jmethods_cycler; break;
    case J_FUNC:
        if (strcmp(owner.u.func->name, "dict") == 0)
            tables[0] = jmethods_dict_func;
        break;
    default: break;
    }
    for (size_t i = 0; i < 3 && tables[i] && !f && name->len; i++)
        f = jbuiltin_find(tables[i], jstr_data(name), name->len);
    return f;
}

/* Attributes that are no methods, of the simple types. */
static bool data_attr(struct jvm *vm, struct jvalue owner, const struct jstr *name,
                      struct jvalue *out, bool *known)
{
    const struct jcycler *c = owner.u.cycler;
    const struct jrange *r = owner.u.range;

    *known = true;
    if (owner.type == J_TUPLE && owner.u.list->group && jstr_is(name, "grouper"))
        *out = owner.u.list->items[0];
    else if (owner.type == J_TUPLE && owner.u.list->group && jstr_is(name, "list"))
        *out = owner.u.list->items[1];
    else if (owner.type == J_RANGE && jstr_is(name, "start"))
        *out = jint(r->start);
    else if (owner.type == J_RANGE && jstr_is(name, "stop"))
        *out = jint(r->stop);
    else if (owner.type == J_RANGE && jstr_is(name, "step"))
        *out = jint(r->step);
    else if (owner.type == J_CYCLER && jstr_is(name, "current"))
        *out = c->items.items[c->at];
    else if (owner.type == J_CYCLER && jstr_is(name, "pos"))
        *out = jint((int64_t)c->at);
    else if (owner.type == J_CYCLER && jstr_is(name, "items"))
        return jlist_of(vm, J_TUPLE, c->items.items, c->items.count, out);
    else if (owner.type == J_JOINER && jstr_is(name, "sep"))
        *out = c->items.items[0];
    else if (owner.type == J_JOINER && jstr_is(name, "used"))
        *out = jbool(c->at);
    else if (jis_number(owner) && (jstr_is(name, "real") || jstr_is(name, "numerator")) &&
             (owner.type != J_FLOAT || name->len == 4))
        *out = owner.type == J_FLOAT ? owner : jint(jint_of(owner));
    else if (jis_number(owner) && jstr_is(name, "imag"))
        *out = owner.type == J_FLOAT ? jfloat(0) : jint(0);
    else if (jis_int(owner) && jstr_is(name, "denominator"))
        *out = jint(1);
    else
        *known = false;
    return true;
}

/* getattr(owner, name), then the verdict of the sandbox. */
static enum found lookup(struct jvm *vm, struct jvalue owner, const struct jstr *name,
                         struct jvalue *out)
{
    const struct jbuiltin *f;
    struct jmethod *method;
    bool known = false;

    if (name->len && jstr_data(name)[0] == '_')
        return underscore_name(owner, name);
    if ((owner.type == J_LIST && is_word(list_unsafe, name)) ||
        (owner.type == J_DICT && is_word(dict_unsafe, name)))
        return FOUND_UNSAFE;
    f = find_method(owner, name);
    if (f) {
        method = jvm_alloc(vm, sizeof *method);
        if (!method)
            return FOUND_ERROR;
        *method = (struct jmethod){owner, f};
        *out = (struct jvalue){.type = J_METHOD, .u.method = method};
        return FOUND_VALUE;
    }
    if (owner.type == J_NAMESPACE)
        return jdict_get_str(vm, owner.u.dict, jstr_data(name), name->len, out) ? FOUND_VALUE
                                                                                : FOUND_NONE;
    if (owner.type == J_LOOP    ? !jloop_attr(vm, &owner, name, out, &known)
        : owner.type == J_MACRO ? !jmacro_attr(vm, owner.u.macro, name, out, &known)
                                : !data_attr(vm, owner, name, out, &known))
        return FOUND_ERROR;
    return known ? FOUND_VALUE : FOUND_NONE;
}

/* A block of the template by name. */
static bool find_block(struct jvm *vm, const struct jstr *name, struct jvalue *out)
{
    for (size_t i = 0; i < vm->t->block_count; i++) {
        const struct jnode *b = vm->t->blocks[i];
        if (jstr_equal(vm->t->names[b->name].text, name)) {
            *out = (struct jvalue){.type = J_BLOCK, .u.block = b};
            return true;
        }
    }
    return false;
}

static bool at_index(struct jvm *vm, struct jvalue owner, int64_t i, struct jvalue *out,
                     bool *found)
{
    size_t n, from, to;

    *found = false;
    if (!jvalue_len(owner, &n))
        return true;
    if (i < 0)
        i += (int64_t)n;
    if (i < 0 || (uint64_t)i >= n)
        return true;
    *found = true;
    if (owner.type == J_RANGE) {
        *out = jint(jrange_at(owner.u.range, (size_t)i));
    } else if (owner.type == J_STR) {
        if (!jvm_spend_bytes(vm, owner.u.s->len))
            return false;
        from = jstr_offset(owner.u.s, (size_t)i);
        to = from + 1;
        while (to < owner.u.s->len && ((unsigned char)jstr_data(owner.u.s)[to] & 0xc0) == 0x80)
            to++;
        return jstr_sub(vm, owner, from, to - from, out);
    } else {
        *out = owner.u.list->items[i];
    }
    return true;
}

/* owner[key]; *found is false where Python raises a TypeError or LookupError. */
static bool item(struct jvm *vm, struct jvalue owner, struct jvalue key, struct jvalue *out,
                 bool *found)
{
    *found = false;
    switch (owner.type) {
    case J_DICT:
        if (!jvalue_hashable(vm, key, found))
            return false;
        return !*found || jdict_get(vm, owner.u.dict, key, out, found);
    case J_SELF: *found = key.type == J_STR && find_block(vm, key.u.s, out); return true;
    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_RANGE: return !jis_int(key) || at_index(vm, owner, jint_of(key), out, found);
    default: return true;
    }
}

bool jattr_get(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out)
{
    bool found;

    if (owner.type == J_UNDEFINED && underscore_name(owner, name.u.s) == FOUND_NONE)
        return jundef_fail(vm, owner);
    switch (lookup(vm, owner, name.u.s, out)) {
    case FOUND_VALUE: return true;
    case FOUND_ERROR: return false;
    case FOUND_UNSAFE: return jundef_unsafe(vm, owner, name, out);
    case FOUND_NONE: break;
    }
    if (!item(vm, owner, name, out, &found))
        return false;
    return found || jundef_new(vm, owner, name, out);
}

bool jattr_item(struct jvm *vm, struct jvalue owner, struct jvalue key, struct jvalue *out)
{
    bool found;

    if (owner.type == J_UNDEFINED)
        return jundef_fail(vm, owner);
    if (!item(vm, owner, key, out, &found))
        return false;
    if (found)
        return true;
    if (key.type != J_STR)
        return jundef_new(vm, owner, key, out);
    switch (lookup(vm, owner, key.u.s, out)) {
    case FOUND_VALUE: return true;
    case FOUND_ERROR: return false;
    case FOUND_UNSAFE: return jundef_unsafe(vm, owner, key, out);
    default: return jundef_new(vm, owner, key, out);
    }
}

bool jattr_only(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out)
{
    if (name.type != J_STR)
        return jvm_fail(vm, JINJA_TYPE, "attribute name must be string, not '%s'",
                        jvalue_type(name));
    if (owner.type == J_UNDEFINED)
        return jattr_get(vm, owner, name, out);
    switch (lookup(vm, owner, name.u.s, out)) {
    case FOUND_VALUE: return true;
    case FOUND_ERROR: return false;
    case FOUND_UNSAFE: return jundef_unsafe(vm, owner, name, out);
    default: return jundef_new(vm, owner, name, out);
    }
}

/* A bound of a slice, clipped to [low, high]. */
static int64_t clip(struct jvalue part, int64_t n, int64_t low, int64_t high, int64_t otherwise)
{
    int64_t i;

    if (part.type == J_NONE)
        return otherwise;
    i = jint_of(part);
    if (i < 0 && i > INT64_MIN + n)
        i += n;
    return i < low ? low : i > high ? high : i;
}

bool jslice_indices(struct jvm *vm, const struct jvalue part[3], size_t n, struct jslice *out)
{
    int64_t size = (int64_t)n, low, high;

    for (size_t i = 3; i-- > 0;) { /* the step comes first, as in Python */
        if (part[i].type != J_NONE && !jis_int(part[i]))
            return jvm_fail(vm, JINJA_TYPE,
                            "slice indices must be integers or None or have an __index__ method");
        if (i == 2 && part[i].type != J_NONE && jint_of(part[i]) == 0)
            return jvm_fail(vm, JINJA_VALUE, "slice step cannot be zero");
    }
    out->step = part[2].type == J_NONE ? 1 : jint_of(part[2]);
    if (out->step < -INT64_MAX)
        out->step = -INT64_MAX;
    low = out->step < 0 ? -1 : 0;
    high = out->step < 0 ? size - 1 : size;
    out->start = clip(part[0], size, low, high, out->step < 0 ? high : low);
    out->stop = clip(part[1], size, low, high, out->step < 0 ? low : high);
    out->count = 0;
    if (out->step > 0 && out->start < out->stop)
        out->count = (size_t)((out->stop - out->start - 1) / out->step + 1);
    else if (out->step < 0 && out->stop < out->start)
        out->count = (size_t)((out->start - out->stop - 1) / -out->step + 1);
    return true;
}

static bool slice_str(struct jvm *vm, struct jvalue s, const struct jslice *slice,
                      struct jvalue *out)
{
    size_t chars = jstr_chars(s.u.s), *at, from;
    struct jbuild b;

    if (!jvm_spend_bytes(vm, s.u.s->len))
        return false;
    if (slice->count == 0)
        return jstr_sub(vm, s, 0, 0, out);
    if (slice->step == 1) {
        from = jstr_offset(s.u.s, (size_t)slice->start);
        return jstr_sub(vm, s, from, jstr_offset(s.u.s, (size_t)slice->stop) - from, out);
    }
    at = jvm_array(vm, chars + 1, sizeof *at);
    if (!at || !jbuild_init(vm, &b))
        return false;
    for (size_t i = 0, pos = 0; i <= chars; i++) {
        uint32_t cp;
        at[i] = pos;
        pos += jstr_decode(s.u.s, pos, &cp);
    }
    for (size_t i = 0; i < slice->count; i++) {
        const size_t *c = &at[slice->start + (int64_t)i * slice->step];
        if (!jvm_spend(vm, 1) || !jbuild_sub(&b, s.u.s, c[0], c[1] - c[0]))
            return false;
    }
    if (!jbuild_done(&b, out))
        return false;
    out->flags = s.flags & JF_MARKUP;
    return true;
}

/* The item at index i, or where it would be; saturates. */
static int64_t range_edge(const struct jrange *r, int64_t i)
{
    int64_t v;

    if (__builtin_mul_overflow(i, r->step, &v) || __builtin_add_overflow(v, r->start, &v))
        return (i < 0) == (r->step < 0) ? INT64_MAX : INT64_MIN;
    return v;
}

static bool slice_range(struct jvm *vm, const struct jrange *r, const struct jslice *s,
                        struct jvalue *out)
{
    struct jrange *part = jvm_alloc(vm, sizeof *part);

    if (!part)
        return false;
    part->start = range_edge(r, s->start);
    part->stop = range_edge(r, s->stop);
    if (__builtin_mul_overflow(r->step, s->step, &part->step))
        part->step = s->step; /* there is at most one item, and no second to be wrong about */
    part->count = s->count;
    *out = (struct jvalue){.type = J_RANGE, .u.range = part};
    return true;
}

bool jattr_slice(struct jvm *vm, struct jvalue owner, const struct jvalue part[3],
                 struct jvalue *out)
{
    struct jslice s;
    size_t n;

    if (owner.type == J_UNDEFINED)
        return jundef_fail(vm, owner);
    if (owner.type == J_DICT)
        return jvm_fail(vm, JINJA_TYPE, "unhashable type: 'slice'");
    if (owner.type != J_STR && owner.type != J_LIST && owner.type != J_TUPLE &&
        owner.type != J_RANGE)
        return jvm_fail(vm, JINJA_TYPE, "'%s' object is not subscriptable", jvalue_type(owner));
    jvalue_len(owner, &n);
    if (!jslice_indices(vm, part, n, &s))
        return false;
    if (owner.type == J_STR)
        return slice_str(vm, owner, &s, out);
    if (owner.type == J_RANGE)
        return slice_range(vm, owner.u.range, &s, out);
    if (!jlist_new(vm, owner.type, s.count, out) || !jvm_spend(vm, s.count / 8))
        return false;
    for (size_t i = 0; i < s.count; i++)
        out->u.list->items[i] = owner.u.list->items[s.start + (int64_t)i * s.step];
    return true;
}
