/* SPDX-License-Identifier: Apache-2.0 */
/* For statements: plain, filtered and recursive ones. */
#include "jinja/loop.h"

#include "jinja/eval.h"

/* The condition of a loop, as an iterator over the items for which it holds. */
struct filtered {
    struct jiter it;
    const struct jnode *node;
    struct jiter *from;
    struct jactivation
        *act; /* of the condition's function; NULL until the first item is asked for */
    struct jactivation *outer;
};

static bool test_item(struct jvm *vm, struct filtered *f, struct jvalue v, bool *holds)
{
    struct jactivation *outer = vm->act;
    const struct jscope *scope = f->node->test_scope;
    struct jvalue test;
    bool ok = true;

    if (!f->act) {
        f->act = jactivation_new(vm, scope->func, f->outer);
        if (!f->act)
            return false;
        f->act->captured = true;
        vm->act = f->act;
        jscope_enter(vm, scope);
    }
    vm->act = f->act;
    ok = jassign(vm, scope->target, v) && jeval(vm, f->node->kids[JFOR_TEST], &test);
    vm->act = outer;
    *holds = ok && jvalue_truth(test);
    return ok;
}

static enum jnext next_filtered(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    struct filtered *f = (struct filtered *)it;
    bool holds = false;

    while (!holds) {
        enum jnext next = jiter_next(vm, f->from, out);
        if (next != JNEXT_ITEM)
            return next;
        if (!test_item(vm, f, *out, &holds))
            return JNEXT_FAIL;
    }
    return JNEXT_ITEM;
}

enum jnext jloop_next(struct jvm *vm, struct jloop *loop, struct jvalue *out)
{
    enum jnext next = JNEXT_ITEM;

    if (loop->peeked) {
        *out = loop->after;
        loop->peeked = false;
    } else {
        next = loop->ended ? JNEXT_END : jiter_next(vm, loop->it, out);
    }
    if (next != JNEXT_ITEM)
        return next;
    loop->index0++;
    loop->before = loop->current;
    loop->current = *out;
    return JNEXT_ITEM;
}

/* Looks one item ahead. */
static bool peek(struct jvm *vm, struct jloop *loop)
{
    enum jnext next;

    if (loop->peeked || loop->ended)
        return true;
    next = jiter_next(vm, loop->it, &loop->after);
    loop->peeked = next == JNEXT_ITEM;
    loop->ended = next == JNEXT_END;
    return next != JNEXT_FAIL;
}

/* How many items the loop has in all. A generator has to be run to its end for that. */
static bool length(struct jvm *vm, struct jloop *loop)
{
    struct jlist rest;
    struct jvalue v;

    if (loop->length_known)
        return true;
    if (!jvalue_len(loop->source, &loop->length)) {
        if (!jiter_collect(vm, loop->it, &rest) ||
            !jlist_of(vm, J_LIST, rest.items, rest.count, &v))
            return false;
        loop->it = jiter_of(vm, v);
        if (!loop->it)
            return false;
        loop->length = rest.count + (size_t)loop->index0 + 1 + loop->peeked;
    }
    loop->length_known = true;
    return true;
}

bool jloop_length(struct jvm *vm, struct jloop *loop, struct jvalue *out)
{
    if (!length(vm, loop))
        return false;
    *out = jint((int64_t)loop->length);
    return true;
}

static bool number_attr(struct jvm *vm, struct jloop *loop, const struct jstr *name,
                        struct jvalue *out, bool *known)
{
    bool back = jstr_is(name, "revindex"), back0 = jstr_is(name, "revindex0");

    *known = true;
    if (jstr_is(name, "index")) {
        *out = jint(loop->index0 + 1);
    } else if (jstr_is(name, "index0")) {
        *out = jint(loop->index0);
    } else if (jstr_is(name, "depth")) {
        *out = jint(loop->depth0 + 1);
    } else if (jstr_is(name, "depth0")) {
        *out = jint(loop->depth0);
    } else if (back || back0 || jstr_is(name, "length")) {
        if (!length(vm, loop))
            return false;
        *out = jint((int64_t)loop->length - (back ? loop->index0 : back0 ? loop->index0 + 1 : 0));
    } else {
        *known = false;
    }
    return true;
}

bool jloop_attr(struct jvm *vm, const struct jvalue *self, const struct jstr *name,
                struct jvalue *out, bool *known)
{
    struct jloop *loop = self->u.loop;

    if (!number_attr(vm, loop, name, out, known) || *known)
        return *known;
    *known = true;
    if (jstr_is(name, "first")) {
        *out = jbool(loop->index0 == 0);
    } else if (jstr_is(name, "last")) {
        if (!peek(vm, loop))
            return false;
        *out = jbool(!loop->peeked);
    } else if (jstr_is(name, "previtem")) {
        if (loop->index0 == 0)
            return jundef_hint(vm, "there is no previous item", out);
        *out = loop->before;
    } else if (jstr_is(name, "nextitem")) {
        if (!peek(vm, loop))
            return false;
        if (!loop->peeked)
            return jundef_hint(vm, "there is no next item", out);
        *out = loop->after;
    } else {
        *known = false;
    }
    return true;
}

static bool loop_cycle(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    if (a->call->count == 0)
        return jvm_fail(vm, JINJA_TYPE, "no items for cycling given");
    *out = a->call->args[(size_t)a->self.u.loop->index0 % a->call->count];
    return true;
}

static bool loop_changed(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jloop *loop = a->self.u.loop;
    struct jvalue values;
    bool same = false;

    if (!jlist_of(vm, J_TUPLE, a->call->args, a->call->count, &values) ||
        (loop->changed.type != J_MISSING && !jvalue_equal(vm, loop->changed, values, &same)))
        return false;
    if (!same)
        loop->changed = values;
    *out = jbool(!same);
    return true;
}

const struct jbuiltin jmethods_loop[] = {
    {"cycle", "*", loop_cycle}, {"changed", "*", loop_changed}, {NULL, NULL, NULL}};

/* The iterator over `v`, with the condition of the loop in front of it. */
static struct jiter *items_of(struct jvm *vm, const struct jnode *n, struct jvalue v,
                              struct jactivation *outer, struct jvalue *source)
{
    struct jiter *it = jiter_of(vm, v);
    struct filtered *f;

    *source = v;
    if (!it || !n->kids[JFOR_TEST])
        return it;
    f = jiter_alloc(vm, sizeof *f, "generator", next_filtered);
    if (!f)
        return NULL;
    f->node = n;
    f->from = it;
    f->outer = outer;
    jactivation_capture(outer);
    *source = (struct jvalue){.type = J_ITER, .u.iter = &f->it}; /* has no length */
    return &f->it;
}

static enum jflow run_else(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    enum jflow flow;

    if (!n->kids[JFOR_ELSE])
        return JFLOW_NEXT;
    jscope_enter(vm, n->else_scope);
    flow = jexec(vm, n->kids[JFOR_ELSE], out);
    jscope_leave(vm, n->else_scope);
    return flow;
}

/*
 * Runs the loop in the current activation. As in the Python that jinja2 makes of it, the else part runs unless the
 * body of some iteration came to its end: a loop that breaks or continues in its every iteration has one.
 */
static enum jflow run(struct jvm *vm, struct jloop *loop, struct jbuild *out)
{
    const struct jnode *n = loop->node;
    bool completed = false;
    enum jflow flow = JFLOW_NEXT;

    while (flow != JFLOW_BREAK) {
        struct jvalue v;
        enum jnext next;
        vm->at = n;
        next = jloop_next(vm, loop, &v);
        if (next == JNEXT_END)
            break;
        if (next == JNEXT_FAIL || !jassign(vm, n->kids[JFOR_TARGET], v))
            return JFLOW_FAIL;
        if (n->flags & JNF_LOOP)
            *jslot(vm, n->loop_ref) = (struct jvalue){.type = J_LOOP, .u.loop = loop};
        jscope_enter(vm, n->scope);
        flow = jexec(vm, n->kids[JFOR_BODY], out);
        if (flow == JFLOW_FAIL)
            return flow;
        completed |= flow == JFLOW_NEXT;
    }
    jscope_leave(vm, n->scope);
    return completed ? JFLOW_NEXT : run_else(vm, n, out);
}

/* One level of a recursive loop: an activation and a text of its own. */
static bool recurse(struct jvm *vm, struct jloop *loop, struct jvalue *out)
{
    struct jactivation *outer = vm->act, *a;
    struct jbuild b;
    bool ok;

    if (!jvm_enter(vm))
        return false;
    a = jactivation_new(vm, loop->node->scope->func, loop->outer);
    ok = a && jbuild_init(vm, &b);
    if (ok) {
        a->captured = true; /* `loop` may live on in a namespace */
        vm->act = a;
        ok = run(vm, loop, &b) != JFLOW_FAIL && jbuild_done(&b, out);
        vm->act = outer;
    }
    jvm_leave(vm);
    return ok;
}

bool jloop_call(struct jvm *vm, struct jloop *parent, const struct jcall *call, struct jvalue *out)
{
    struct jloop *loop;

    if (!parent->outer)
        return jvm_fail(vm, JINJA_TYPE,
                        "The loop must have the 'recursive' marker to be called recursively.");
    if (call->count != 1 || call->keyword_count)
        return jvm_fail(vm, JINJA_TYPE, "loop() takes one argument, the iterable");
    loop = jvm_alloc(vm, sizeof *loop);
    if (!loop)
        return false;
    loop->node = parent->node;
    loop->outer = parent->outer;
    loop->index0 = -1;
    loop->depth0 = parent->depth0 + 1;
    loop->it = items_of(vm, loop->node, call->args[0], loop->outer, &loop->source);
    return loop->it && recurse(vm, loop, out);
}

enum jflow jloop_exec(struct jvm *vm, const struct jnode *n, struct jbuild *out)
{
    struct jloop *loop = jvm_alloc(vm, sizeof *loop);
    struct jvalue v;

    if (!loop || !jeval(vm, n->kids[JFOR_ITER], &v))
        return JFLOW_FAIL;
    vm->at = n;
    loop->node = n;
    loop->index0 = -1;
    loop->it = items_of(vm, n, v, vm->act, &loop->source);
    if (!loop->it)
        return JFLOW_FAIL;
    if (!(n->flags & JNF_RECURSIVE))
        return run(vm, loop, out);
    loop->outer = vm->act;
    jactivation_capture(vm->act);
    return recurse(vm, loop, &v) && jbuild_value(out, v) ? JFLOW_NEXT : JFLOW_FAIL;
}
