/* SPDX-License-Identifier: Apache-2.0 */
/* Statements, and the variables they set. */
#include <string.h>

#include "jinja/eval.h"

struct jactivation *jactivation_new(struct jvm *vm, const struct jfunc *f,
                                    struct jactivation *outer)
{
    struct jactivation *a = vm->free_acts[f->number];

    if (a) {
        vm->free_acts[f->number] = a->free_next;
        memset(a->slots, 0, f->slots * sizeof *a->slots); /* J_MISSING */
    } else {
        a = jvm_alloc(vm, sizeof *a + f->slots * sizeof *a->slots);
        if (!a)
            return NULL;
    }
    a->outer = outer;
    a->func = f;
    a->captured = false;
    return a;
}

void jactivation_done(struct jvm *vm, struct jactivation *a)
{
    if (a->captured)
        return;
    a->free_next = vm->free_acts[a->func->number];
    vm->free_acts[a->func->number] = a;
}

void jactivation_capture(struct jactivation *a)
{
    for (; a && !a->captured; a = a->outer)
        a->captured = true;
}

void jscope_enter(struct jvm *vm, const struct jscope *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct jload *l = &s->loads[i];
        struct jvalue *slot = &vm->act->slots[l->slot];
        switch (l->kind) {
        case JLOAD_UNDEFINED: slot->type = J_MISSING; break;
        case JLOAD_ALIAS: *slot = *jslot(vm, l->from); break;
        case JLOAD_RESOLVE:
            *slot = vm->exported[l->name].type != J_MISSING ? vm->exported[l->name]
                                                            : vm->globals[l->name];
            break;
        case JLOAD_PARAM: break;
        }
    }
}

void jscope_leave(struct jvm *vm, const struct jscope *s)
{
    for (size_t i = 0; i < s->count; i++)
        vm->act->slots[s->loads[i].slot].type = J_MISSING;
}

static bool unpack(struct jvm *vm, const struct jnode *target, struct jvalue v)
{
    struct jlist items;

    if (!jiter_can(v))
        return jvm_fail(vm, JINJA_TYPE, "cannot unpack non-iterable %s object", jvalue_type(v));
    if (!jiter_list(vm, v, &items))
        return false;
    if (items.count > target->count)
        return jvm_fail(vm, JINJA_VALUE, "too many values to unpack (expected %zu)", target->count);
    if (items.count < target->count)
        return jvm_fail(vm, JINJA_VALUE, "not enough values to unpack (expected %zu, got %zu)",
                        target->count, items.count);
    for (size_t i = 0; i < items.count; i++) {
        if (!jassign(vm, target->kids[i], items.items[i]))
            return false;
    }
    return true;
}

static bool assign_attribute(struct jvm *vm, const struct jnode *target, struct jvalue v)
{
    struct jvalue *ns = jslot(vm, target->ref);

    if (ns->type != J_NAMESPACE)
        return jvm_fail(vm, JINJA_RUNTIME, "cannot assign attribute on non-namespace object");
    return jdict_set(vm, ns->u.dict, target->value, v);
}

bool jassign(struct jvm *vm, const struct jnode *target, struct jvalue v)
{
    if (target->kind == JN_NAME) {
        *jslot(vm, target->ref) = v;
        return true;
    }
    vm->at = target;
    return target->kind == JN_TUPLE ? unpack(vm, target, v) : assign_attribute(vm, target, v);
}

/* What the root assigns is a variable of the context from then on. */
static void export(struct jvm *vm, const struct jnode *target)
{
    if (target->kind == JN_NAME)
        vm->exported[target->name] = *jslot(vm, target->ref);
    for (size_t i = 0; i < target->count; i++)
        export(vm, target->kids[i]);
}

/* The check comes before the value is computed, as in jinja2. */
static bool check_namespaces(struct jvm *vm, const struct jnode *target)
{
    if (target->kind == JN_NSREF && jslot(vm, target->ref)->type != J_NAMESPACE) {
        vm->at = target;
        return jvm_fail(vm, JINJA_RUNTIME, "cannot assign attribute on non-namespace object");
    }
    for (size_t i = 0; i < target->count; i++) {
        if (!check_namespaces(vm, target->kids[i]))
            return false;
    }
    return true;
}

static enum jflow exec_assign(struct jvm *vm, const struct jnode *n)
{
    struct jvalue v;

    if (!check_namespaces(vm, n->kids[0]) || !jeval(vm, n->kids[1], &v) ||
        !jassign(vm, n->kids[0], v))
        return JFLOW_FAIL;
    if (n->flags & JNF_EXPORT)
        export(vm, n->kids[0]);
    return JFLOW_NEXT;
}

/* Runs a body into a string. What a break or continue leaves unfinished is dropped. */
static enum jflow capture(struct jvm *vm, const struct jnode *body, struct jvalue *out)
{
    struct jbuild b;
    enum jflow flow;

    if (!jbuild_init(vm, &b))
        return JFLOW_FAIL;
    flow = jexec(vm, body, &b);
    return flow == JFLOW_NEXT && !jbuild_done(&b, out) ? JFLOW_FAIL : flow;
}

static enum jflow exec_assign_block(struct jvm *vm, const struct jnode *n)
{
    struct jvalue v;
    enum jflow flow;

    if (!check_namespaces(vm, n->kids[0]))
        return JFLOW_FAIL;
    jscope_enter(vm, n->scope);
    flow = capture(vm, n->kids[2], &v);
    if (flow != JFLOW_NEXT)
        return flow;
    if ((n->kids[1] && !jeval_filter(vm, n->kids[1], v, &v)) || !jassign(vm, n->kids[0], v))
        return JFLOW_FAIL;
    if (n->flags & JNF_EXPORT)
        export(vm, n->kids[0]);
    jscope_leave(vm, n->scope);
    return JFLOW_NEXT;
}

static enum jflow exec_filter_block(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    struct jvalue v;
    enum jflow flow;

    jscope_enter(vm, n->scope);
    flow = capture(vm, n->kids[0], &v);
    if (flow != JFLOW_NEXT)
        return flow;
    if (!jeval_filter(vm, n->kids[1], v, &v) || !jbuild_value(out, v))
        return JFLOW_FAIL;
    jscope_leave(vm, n->scope);
    return JFLOW_NEXT;
}

static enum jflow exec_with(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    const struct jnode *targets = n->kids[0], *values = n->kids[1];
    enum jflow flow;
    struct jvalue v;

    jscope_enter(vm, n->scope);
    for (size_t i = 0; i < targets->count; i++) {
        if (!jeval(vm, values->kids[i], &v) || !jassign(vm, targets->kids[i], v))
            return JFLOW_FAIL;
    }
    flow = jexec(vm, n->kids[2], out);
    jscope_leave(vm, n->scope);
    return flow;
}

static enum jflow exec_autoescape(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    enum jflow flow;
    struct jvalue v;

    jscope_enter(vm, n->scope);
    if (!jeval(vm, n->kids[0], &v))
        return JFLOW_FAIL;
    vm->at = n;
    if (jvalue_truth(v)) {
        jvm_fail(vm, JINJA_UNSUPPORTED, "autoescape is not supported");
        return JFLOW_FAIL;
    }
    flow = jexec(vm, n->kids[1], out);
    jscope_leave(vm, n->scope);
    return flow;
}

static enum jflow exec_if(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    const struct jnode *elifs = n->kids[JIF_ELIFS];
    struct jvalue test;

    if (!jeval(vm, n->kids[JIF_TEST], &test))
        return JFLOW_FAIL;
    if (jvalue_truth(test))
        return jexec(vm, n->kids[JIF_BODY], out);
    for (size_t i = 0; i < elifs->count; i++) {
        if (!jeval(vm, elifs->kids[i]->kids[JIF_TEST], &test))
            return JFLOW_FAIL;
        if (jvalue_truth(test))
            return jexec(vm, elifs->kids[i]->kids[JIF_BODY], out);
    }
    return n->kids[JIF_ELSE] ? jexec(vm, n->kids[JIF_ELSE], out) : JFLOW_NEXT;
}

static enum jflow exec_output(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    struct jvalue v;

    for (size_t i = 0; i < n->count; i++) {
        if (!jeval(vm, n->kids[i], &v))
            return JFLOW_FAIL;
        vm->at = n->kids[i];
        if (!jbuild_value(out, v))
            return JFLOW_FAIL;
    }
    return JFLOW_NEXT;
}

static enum jflow exec_macro(struct jvm *vm, const struct jnode *n)
{
    struct jvalue *slot = jslot(vm, n->ref);

    if (!jmacro_new(vm, n, slot))
        return JFLOW_FAIL;
    if (n->flags & JNF_EXPORT)
        vm->exported[n->name] = *slot;
    return JFLOW_NEXT;
}

static enum jflow exec_body(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    enum jflow flow = JFLOW_NEXT;

    for (size_t i = 0; flow == JFLOW_NEXT && i < n->count; i++)
        flow = jexec(vm, n->kids[i], out);
    return flow;
}

static enum jflow exec_kind(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    switch (n->kind) {
    case JN_BODY: return exec_body(vm, n, out);
    case JN_OUTPUT: return exec_output(vm, n, out);
    case JN_FOR: return jloop_exec(vm, n, out);
    case JN_IF: return exec_if(vm, n, out);
    case JN_MACRO: return exec_macro(vm, n);
    case JN_CALL_BLOCK: return jcall_block_exec(vm, n, out);
    case JN_FILTER_BLOCK: return exec_filter_block(vm, n, out);
    case JN_WITH: return exec_with(vm, n, out);
    case JN_ASSIGN: return exec_assign(vm, n);
    case JN_ASSIGN_BLOCK: return exec_assign_block(vm, n);
    case JN_AUTOESCAPE: return exec_autoescape(vm, n, out);
    case JN_BLOCK: return jblock_exec(vm, n, out);
    case JN_BREAK: return JFLOW_BREAK;
    case JN_CONTINUE: return JFLOW_CONTINUE;
    default:
        jvm_fail(vm, JINJA_TYPE, "no loader for this environment specified");
        return JFLOW_FAIL;
    }
}

enum jflow jexec(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    enum jflow flow;

    if (!jvm_enter(vm))
        return JFLOW_FAIL;
    vm->at = n;
    flow = jvm_spend(vm, 1) ? exec_kind(vm, n, out) : JFLOW_FAIL;
    jvm_leave(vm);
    return flow;
}
