/* SPDX-License-Identifier: Apache-2.0 */
/* Macros, call blocks (whose body is a macro called `caller`), generation blocks, and named blocks. */
#include <string.h>

#include "jinja/eval.h"

/* Kid 0 of its parameters: arguments, defaults, body. */
static struct jnode *const *parts(const struct jnode *n)
{
    return n->kids + (n->kind == JN_MACRO ? JMACRO_ARGS : JCALL_ARGS);
}

bool jmacro_new(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jmacro *m = jvm_alloc(vm, sizeof *m);

    if (!m)
        return false;
    m->node = n;
    m->outer = vm->act;
    m->name = n->kind == JN_MACRO ? vm->t->names[n->name].text : NULL;
    jactivation_capture(vm->act);
    *out = (struct jvalue){.type = J_MACRO, .u.macro = m};
    return true;
}

static int name_len(const struct jmacro *m)
{
    return m->name ? jstr_brief(m->name) : 4;
}

static const char *name_of(const struct jmacro *m)
{
    return m->name ? jstr_data(m->name) : "None";
}

/* Takes the keyword out of the ones that are left (its name becomes NULL). */
static bool take_keyword(struct jcall *left, const struct jstr *name, struct jvalue *out)
{
    for (size_t i = 0; i < left->keyword_count; i++) {
        if (left->keywords[i].name && jstr_equal(left->keywords[i].name, name)) {
            *out = left->keywords[i].value;
            left->keywords[i].name = NULL;
            return true;
        }
    }
    return false;
}

static bool bind_caller(struct jvm *vm, const struct jnode *n, struct jcall *left,
                        struct jvalue *slot)
{
    struct jstr name = {0};
    struct jbuf buf = {.data = (char[]){"caller"}, .len = 6};

    if (!(n->flags & JNF_CALLER) || (n->flags & JNF_OWN_CALLER))
        return true;
    name = (struct jstr){&buf, 0, 6, 6};
    if (take_keyword(left, &name, slot) && slot->type != J_NONE)
        return true;
    return jundef_hint(vm, "No caller defined", slot);
}

/* Keywords that no argument took: the dict kwargs, or an error. */
static bool bind_rest(struct jvm *vm, const struct jmacro *m, const struct jcall *left,
                      struct jvalue *slot)
{
    bool catches = m->node->flags & JNF_KWARGS;
    struct jvalue dict;

    if (catches && !jdict_new(vm, left->keyword_count, &dict))
        return false;
    for (size_t i = 0; i < left->keyword_count; i++) {
        const struct jstr *name = left->keywords[i].name;
        if (!name)
            continue;
        if (!catches)
            return jvm_fail(vm, JINJA_TYPE, "macro '%.*s' takes no keyword argument '%.*s'",
                            name_len(m), name_of(m), jstr_brief(name), jstr_data(name));
        if (!jdict_append(vm, dict.u.dict, (struct jvalue){.type = J_STR, .u.s = name},
                          left->keywords[i].value))
            return false;
    }
    if (catches)
        *slot = dict;
    return true;
}

static bool bind_varargs(struct jvm *vm, const struct jmacro *m, const struct jcall *call,
                         struct jvalue *slot)
{
    size_t named = parts(m->node)[0]->count;
    size_t extra = call->count > named ? call->count - named : 0;

    if (m->node->flags & JNF_VARARGS) {
        if (!jlist_new(vm, J_TUPLE, extra, slot))
            return false;
        if (extra)
            memcpy(slot->u.list->items, call->args + named, extra * sizeof *call->args);
        return true;
    }
    if (extra)
        return jvm_fail(vm, JINJA_TYPE, "macro '%.*s' takes not more than %zu argument(s)",
                        name_len(m), name_of(m), named);
    return true;
}

/* Fills the slots of activation `a`. Arguments that were not given stay J_MISSING. */
static bool bind_arguments(struct jvm *vm, const struct jmacro *m, const struct jcall *call,
                           struct jactivation *a)
{
    const struct jnode *args = parts(m->node)[0];
    struct jcall left = *call;

    left.keywords = jvm_array(vm, call->keyword_count, sizeof *left.keywords);
    if (!left.keywords || !jvm_spend(vm, args->count))
        return false;
    if (call->keyword_count)
        memcpy(left.keywords, call->keywords, call->keyword_count * sizeof *left.keywords);
    for (size_t i = 0; i < args->count; i++) {
        struct jvalue *slot = &a->slots[args->kids[i]->ref.slot];
        if (i < call->count)
            *slot = call->args[i];
        else
            take_keyword(&left, vm->t->names[args->kids[i]->name].text, slot);
    }
    return bind_caller(vm, m->node, &left, &a->slots[m->node->caller_ref.slot]) &&
           bind_rest(vm, m, &left, &a->slots[m->node->kwargs_ref.slot]) &&
           bind_varargs(vm, m, call, &a->slots[m->node->varargs_ref.slot]);
}

/* Defaults may use the arguments before them. */
static bool fill_defaults(struct jvm *vm, const struct jnode *n)
{
    const struct jnode *args = parts(n)[0], *defaults = parts(n)[1];
    size_t required = args->count - defaults->count;

    for (size_t i = 0; i < args->count; i++) {
        struct jvalue *slot = &vm->act->slots[args->kids[i]->ref.slot], v;
        const struct jstr *name = vm->t->names[args->kids[i]->name].text;
        const char *hint;
        if (slot->type != J_MISSING)
            continue;
        if (i >= required) {
            if (!jeval(vm, defaults->kids[i - required], &v))
                return false;
            *slot = v;
            continue;
        }
        hint =
            jvm_printf(vm, "parameter '%.*s' was not provided", jstr_brief(name), jstr_data(name));
        if (!hint || !jundef_hint(vm, hint, slot))
            return false;
    }
    return true;
}

bool jmacro_call(struct jvm *vm, const struct jmacro *m, const struct jcall *call,
                 struct jvalue *out)
{
    struct jactivation *outer = vm->act, *a;
    struct jbuild b;
    bool ok;

    if (!jvm_enter(vm))
        return false;
    a = jactivation_new(vm, m->node->scope->func, m->outer);
    ok = a && bind_arguments(vm, m, call, a);
    if (ok) {
        vm->act = a;
        jscope_enter(vm, m->node->scope);
        ok = fill_defaults(vm, m->node) && jbuild_init(vm, &b) &&
             jexec(vm, parts(m->node)[2], &b) == JFLOW_NEXT && jbuild_done(&b, out);
        vm->act = outer;
        jactivation_done(vm, a);
    }
    jvm_leave(vm);
    return ok;
}

bool jmacro_attr(struct jvm *vm, const struct jmacro *m, const struct jstr *name,
                 struct jvalue *out, bool *known)
{
    const struct jnode *args = parts(m->node)[0];
    uint16_t flags = m->node->flags;

    *known = true;
    *out = jnone();
    if (jstr_is(name, "name")) {
        if (m->name)
            *out = (struct jvalue){.type = J_STR, .u.s = m->name};
    } else if (jstr_is(name, "arguments")) {
        if (!jlist_new(vm, J_TUPLE, args->count, out))
            return false;
        for (size_t i = 0; i < args->count; i++)
            out->u.list->items[i] =
                (struct jvalue){.type = J_STR, .u.s = vm->t->names[args->kids[i]->name].text};
    } else if (jstr_is(name, "catch_kwargs")) {
        *out = jbool(flags & JNF_KWARGS);
    } else if (jstr_is(name, "catch_varargs")) {
        *out = jbool(flags & JNF_VARARGS);
    } else if (jstr_is(name, "caller")) {
        *out = jbool(flags & JNF_CALLER);
    } else if (jstr_is(name, "explicit_caller")) {
        *out = jbool(flags & JNF_OWN_CALLER);
    } else {
        *known = false;
    }
    return true;
}

static bool add_span(struct jvm *vm, size_t begin, size_t len)
{
    if (!jvm_grow(vm, &vm->spans, &vm->span_cap, vm->span_count + 1, sizeof *vm->spans))
        return false;
    vm->spans[vm->span_count++] = (struct jinja_span){begin, begin + len};
    return true;
}

/* {% call f() %}: f with the body as its argument `caller`. {% generation %}: the body itself, measured. */
enum jflow jcall_block_exec(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    const struct jnode *call_node = n->kids[JCALL_CALL];
    struct jvalue caller, callee, result;
    struct jcall call = {0};

    if (!jmacro_new(vm, n, &caller))
        return JFLOW_FAIL;
    if (!call_node) {
        if (!jmacro_call(vm, caller.u.macro, &call, &result) ||
            !add_span(vm, vm->root->buf->len, result.u.s->len))
            return JFLOW_FAIL;
        return jbuild_value(out, result) ? JFLOW_NEXT : JFLOW_FAIL;
    }
    if (!jeval(vm, call_node->kids[0], &callee) || !jeval_args(vm, call_node, 1, &call))
        return JFLOW_FAIL;
    vm->at = call_node;
    for (size_t i = 0; i < call.keyword_count; i++) {
        if (jstr_is(call.keywords[i].name, "caller")) {
            jvm_fail(vm, JINJA_TYPE, "got multiple values for keyword argument 'caller'");
            return JFLOW_FAIL;
        }
    }
    if (!jstr_cstr(vm, "caller", &result))
        return JFLOW_FAIL;
    call.keywords[call.keyword_count++] = (struct jkeyword){result.u.s, caller};
    return jcall_value(vm, callee, &call, &result) && jbuild_value(out, result) ? JFLOW_NEXT
                                                                                : JFLOW_FAIL;
}

enum jflow jblock_exec(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    const struct jstr *name = vm->t->names[n->name].text;
    struct jactivation *outer = vm->act, *a;
    enum jflow flow;
    const char *hint;

    if (n->flags & (JNF_SCOPED | JNF_REQUIRED)) {
        if (n->flags & JNF_SCOPED)
            jvm_fail(vm, JINJA_UNSUPPORTED, "scoped blocks are not supported");
        else
            jvm_fail(vm, JINJA_RUNTIME, "Required block '%.*s' not found", jstr_brief(name),
                     jstr_data(name));
        return JFLOW_FAIL;
    }
    a = jactivation_new(vm, n->scope->func, NULL);
    if (!a)
        return JFLOW_FAIL;
    if (n->flags & JNF_SELF)
        a->slots[n->caller_ref.slot].type = J_SELF;
    if (n->flags & JNF_SUPER) {
        hint = jvm_printf(vm, "there is no parent block called '%.*s'.", jstr_brief(name),
                          jstr_data(name));
        if (!hint || !jundef_hint(vm, hint, &a->slots[n->kwargs_ref.slot]))
            return JFLOW_FAIL;
    }
    vm->act = a;
    jscope_enter(vm, n->scope);
    flow = jexec(vm, n->kids[0], out);
    vm->act = outer;
    jactivation_done(vm, a);
    return flow;
}

bool jblock_call(struct jvm *vm, const struct jnode *block, struct jvalue *out)
{
    struct jbuild b;
    bool ok;

    if (!jvm_enter(vm))
        return false;
    ok = jbuild_init(vm, &b) && jblock_exec(vm, block, &b) == JFLOW_NEXT && jbuild_done(&b, out);
    jvm_leave(vm);
    return ok;
}
