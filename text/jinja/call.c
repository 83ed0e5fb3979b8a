/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of every kind of callable, and the binding of arguments to the parameters of our own functions. */
#include "jinja/call.h"

#include <string.h>

#include "jinja/eval.h"
#include "jinja/vm.h"

const struct jbuiltin *jbuiltin_find(const struct jbuiltin *table, const char *name, size_t len)
{
    for (; table->name; table++) {
        if (table->name[0] == name[0] && strlen(table->name) == len &&
            memcmp(table->name, name, len) == 0)
            return table;
    }
    return NULL;
}

/* One parameter of a `params` text. */
struct param {
    const char *name;
    size_t len;
    bool positional, optional;
};

/* The next parameter; false behind the last. */
static bool next_param(const char **at, struct param *p)
{
    if (**at == '\0')
        return false;
    p->positional = **at == '.';
    *at += p->positional;
    p->name = *at;
    p->len = strcspn(*at, " ?");
    *at += p->len;
    p->optional = **at == '?';
    *at += p->optional;
    *at += **at == ' ';
    return true;
}

static const struct jvalue *keyword(const struct jcall *call, const struct param *p)
{
    for (size_t i = 0; i < call->keyword_count && !p->positional; i++) {
        const struct jstr *name = call->keywords[i].name;
        if (name->len == p->len && memcmp(jstr_data(name), p->name, p->len) == 0)
            return &call->keywords[i].value;
    }
    return NULL;
}

static bool unknown_keyword(struct jvm *vm, const struct jbuiltin *f, const struct jcall *call)
{
    for (size_t i = 0; i < call->keyword_count; i++) {
        const struct jstr *name = call->keywords[i].name;
        const char *at = f->params;
        struct param p;
        bool known = false;
        while (!known && next_param(&at, &p))
            known =
                !p.positional && name->len == p.len && memcmp(jstr_data(name), p.name, p.len) == 0;
        if (!known)
            return !jvm_fail(vm, JINJA_TYPE, "%s() got an unexpected keyword argument '%.*s'",
                             f->name, jstr_brief(name), jstr_data(name));
    }
    return false;
}

static bool bind(struct jvm *vm, const struct jbuiltin *f, const struct jcall *call,
                 struct jargs *a)
{
    const char *at = f->params;
    struct param p;
    size_t i = 0;

    for (; next_param(&at, &p); i++) {
        const struct jvalue *named = keyword(call, &p);
        if (i < call->count && named)
            return jvm_fail(vm, JINJA_TYPE, "%s() got multiple values for argument '%.*s'", f->name,
                            (int)p.len, p.name);
        if (i < call->count)
            a->v[i] = call->args[i];
        else if (named)
            a->v[i] = *named;
        else if (!p.optional)
            return jvm_fail(vm, JINJA_TYPE, "%s() missing required argument: '%.*s'", f->name,
                            (int)p.len, p.name);
    }
    if (call->count > i)
        return jvm_fail(vm, JINJA_TYPE, "%s() takes at most %zu arguments (%zu given)", f->name, i,
                        call->count);
    return !unknown_keyword(vm, f, call);
}

bool jbuiltin_call(struct jvm *vm, const struct jbuiltin *f, struct jvalue self,
                   const struct jcall *call, struct jvalue *out)
{
    struct jargs a = {.self = self, .call = call};
    bool ok;

    if (strcmp(f->params, "*") != 0 && !bind(vm, f, call, &a))
        return false;
    if (!jvm_enter(vm))
        return false;
    ok = f->fn(vm, &a, out);
    jvm_leave(vm);
    return ok;
}

/* A joiner gives nothing the first time, its separator from then on. */
static bool call_joiner(struct jvm *vm, struct jcycler *j, const struct jcall *call,
                        struct jvalue *out)
{
    if (call->count || call->keyword_count)
        return jvm_fail(vm, JINJA_TYPE, "Joiner.__call__() takes 1 positional argument");
    if (j->at == 0) {
        j->at = 1;
        return jstr_cstr(vm, "", out);
    }
    *out = j->items.items[0];
    return true;
}

bool jcall_value(struct jvm *vm, struct jvalue callee, const struct jcall *call, struct jvalue *out)
{
    switch (callee.type) {
    case J_UNDEFINED: return jundef_fail(vm, callee);
    case J_FUNC: return jbuiltin_call(vm, callee.u.func, callee, call, out);
    case J_METHOD:
        return jbuiltin_call(vm, callee.u.method->func, callee.u.method->self, call, out);
    case J_MACRO: return jmacro_call(vm, callee.u.macro, call, out);
    case J_LOOP: return jloop_call(vm, callee.u.loop, call, out);
    case J_JOINER: return call_joiner(vm, callee.u.cycler, call, out);
    case J_BLOCK: return jblock_call(vm, callee.u.block, out);
    default: return jvm_fail(vm, JINJA_TYPE, "'%s' object is not callable", jvalue_type(callee));
    }
}

bool jarg_int(struct jvm *vm, const struct jargs *a, size_t i, int64_t *out)
{
    if (a->v[i].type == J_MISSING)
        return true;
    if (!jis_int(a->v[i]))
        return jvm_fail(vm, JINJA_TYPE, "'%s' object cannot be interpreted as an integer",
                        jvalue_type(a->v[i]));
    *out = jint_of(a->v[i]);
    return true;
}

bool jarg_str(struct jvm *vm, const struct jargs *a, size_t i, const struct jstr **out)
{
    if (a->v[i].type == J_MISSING)
        return true;
    if (a->v[i].type != J_STR)
        return jvm_fail(vm, JINJA_TYPE, "argument %zu must be str, not %s", i + 1,
                        jvalue_type(a->v[i]));
    *out = a->v[i].u.s;
    return true;
}

bool jvalue_soft_str(struct jvm *vm, struct jvalue v, struct jvalue *out)
{
    struct jbuild b;

    if (v.type == J_STR) {
        *out = v;
        return true;
    }
    return jbuild_init(vm, &b) && jbuild_value(&b, v) && jbuild_done(&b, out);
}

bool jvalue_str(struct jvm *vm, struct jvalue v, struct jvalue *out)
{
    if (!jvalue_soft_str(vm, v, out))
        return false;
    out->flags = 0;
    return true;
}
