/* SPDX-License-Identifier: Apache-2.0 */
/* Conversion of the context, with the marks of trust, and the check of variables that clients add. */
#include "jinja/context.h"

#include <string.h>

#include "base/utf8.h"
#include "jinja/call.h"

/* What the trusted paths still say below a value. */
struct trust {
    bool all; /* a path ended here or above */
    size_t count;
    const char **rest; /* of each path that leads here: "[].role", ".url" */
};

static bool convert(struct jvm *vm, json_t *v, struct trust trust, struct jvalue *out);

/* The paths of `trust` that go on with the element or key (NULL: an element of a list). */
static bool descend(struct jvm *vm, const struct trust *trust, const char *key, size_t key_len,
                    struct trust *out)
{
    *out = (struct trust){.all = trust->all};
    if (trust->all || trust->count == 0)
        return true;
    out->rest = jvm_array(vm, trust->count, sizeof *out->rest);
    if (!out->rest)
        return false;
    for (size_t i = 0; i < trust->count; i++) {
        const char *rest = trust->rest[i];
        if (strncmp(rest, "[]", 2) == 0) {
            rest += 2;
        } else if (key && rest[0] == '.' && strcspn(rest + 1, ".[") == key_len &&
                   memcmp(rest + 1, key, key_len) == 0) {
            rest += 1 + key_len;
        } else {
            continue;
        }
        if (*rest)
            out->rest[out->count++] = rest;
        else
            out->all = true;
    }
    return true;
}

static bool convert_str(struct jvm *vm, const char *data, size_t len, bool trusted,
                        struct jvalue *out)
{
    if (!utf8_valid(data, len))
        return jvm_fail(vm, JINJA_VALUE, "a string of the context is not UTF-8");
    return jvm_spend_bytes(vm, len) && jstr_wrap(vm, data, len, trusted, out);
}

static bool convert_list(struct jvm *vm, json_t *v, const struct trust *trust, struct jvalue *out)
{
    struct trust inner;

    if (!jlist_new(vm, J_LIST, json_array_size(v), out) || !descend(vm, trust, NULL, 0, &inner))
        return false;
    for (size_t i = 0; i < out->u.list->count; i++) {
        if (!convert(vm, json_array_get(v, i), inner, &out->u.list->items[i]))
            return false;
    }
    return true;
}

static bool convert_dict(struct jvm *vm, json_t *v, const struct trust *trust, struct jvalue *out)
{
    if (!jdict_new(vm, json_object_size(v), out))
        return false;
    for (void *it = json_object_iter(v); it; it = json_object_iter_next(v, it)) {
        const char *name = json_object_iter_key(it);
        struct jvalue key, value;
        struct trust inner;
        if (!descend(vm, trust, name, strlen(name), &inner) ||
            !convert_str(vm, name, strlen(name), trust->all, &key) ||
            !convert(vm, json_object_iter_value(it), inner, &value) ||
            !jdict_append(vm, out->u.dict, key, value))
            return false;
    }
    return true;
}

static bool convert_inside(struct jvm *vm, json_t *v, const struct trust *trust, struct jvalue *out)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return convert_dict(vm, v, trust, out);
    case JSON_ARRAY: return convert_list(vm, v, trust, out);
    case JSON_STRING:
        return convert_str(vm, json_string_value(v), json_string_length(v), trust->all, out);
    case JSON_INTEGER: *out = jint(json_integer_value(v)); return true;
    case JSON_REAL: *out = jfloat(json_real_value(v)); return true;
    case JSON_TRUE:
    case JSON_FALSE: *out = jbool(json_is_true(v)); return true;
    default: *out = jnone(); return true;
    }
}

static bool convert(struct jvm *vm, json_t *v, struct trust trust, struct jvalue *out)
{
    bool ok;

    if (!jvm_enter(vm))
        return false;
    ok = jvm_spend(vm, 1) && convert_inside(vm, v, &trust, out);
    jvm_leave(vm);
    if (ok && out->type != J_STR && !trust.all)
        out->flags |= JF_UNTRUSTED;
    return ok;
}

static bool load_variable(struct jvm *vm, json_t *v, const struct jstr *name, struct jvalue *out)
{
    const struct jinja_options *o = vm->options;
    const char *paths[JINJA_MAX_TRUSTED];
    struct trust top = {.rest = paths}, inner;

    for (size_t i = 0; i < o->trusted_count; i++) {
        size_t n = strcspn(o->trusted[i], ".[");
        if (n != name->len || memcmp(o->trusted[i], jstr_data(name), n) != 0)
            continue;
        if (o->trusted[i][n])
            paths[top.count++] = o->trusted[i] + n;
        else
            top.all = true;
    }
    inner = top;
    if (top.count && !top.all) { /* the array above does not outlive this call */
        inner.rest = jvm_array(vm, top.count, sizeof *inner.rest);
        if (!inner.rest)
            return false;
        memcpy(inner.rest, paths, top.count * sizeof *inner.rest);
    }
    return convert(vm, v, inner, out);
}

bool jcontext_load(struct jvm *vm, const json_t *context)
{
    if (vm->options->trusted_count > JINJA_MAX_TRUSTED)
        return jvm_fail(vm, JINJA_LIMIT, "more than %d trusted paths", JINJA_MAX_TRUSTED);
    for (size_t i = 0; i < vm->t->name_count; i++) {
        const struct jstr *name = vm->t->names[i].text;
        const struct jbuiltin *f = jbuiltin_find(jglobals, jstr_data(name), name->len);
        const char *z = jstr_z(vm, name);
        json_t *v;
        if (!z)
            return false;
        v = json_object_get(context, z);
        if (v && !load_variable(vm, v, name, &vm->globals[i]))
            return false;
        if (!v && f)
            vm->globals[i] = (struct jvalue){.type = J_FUNC, .u.func = f};
    }
    return true;
}

int32_t jinja_add_kwargs(json_t *context, const json_t *kwargs, const char *const *allowed,
                         size_t allowed_count, tn_err *err)
{
    const char *name;
    json_t *v;

    if (!json_is_object(kwargs))
        return tn_err_set(err, TN_E_INVALID, "template variables must be an object");
    json_object_foreach((json_t *)(uintptr_t)kwargs, name, v)
    {
        bool known = false;
        for (size_t i = 0; !known && i < allowed_count; i++)
            known = strcmp(allowed[i], name) == 0;
        if (!known)
            return err_at(err, TN_E_INVALID, "", TN_NO_OFFSET, name,
                          "is not a template variable that a request may set");
        if (json_object_get(context, name))
            return err_at(err, TN_E_INVALID, "", TN_NO_OFFSET, name, "is set by the server");
    }
    return json_object_update(context, (json_t *)(uintptr_t)kwargs) == 0
               ? TN_OK
               : err_nomem(err, "template variables");
}
