/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions. */
#include "jinja/eval.h"

#include <string.h>

#include "jinja/number.h"

struct jvalue *jslot(struct jvm *vm, struct jref ref)
{
    struct jactivation *a = vm->act;

    for (uint32_t i = 0; i < ref.hops; i++)
        a = a->outer;
    return &a->slots[ref.slot];
}

/* Evaluates a kid; errors of `n` itself are placed at `n` again. */
static bool kid(struct jvm *vm, const struct jnode *n, size_t i, struct jvalue *out)
{
    if (!jeval(vm, n->kids[i], out))
        return false;
    vm->at = n;
    return true;
}

static bool eval_name(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue name = {.type = J_STR, .u.s = vm->t->names[n->name].text};

    *out = *jslot(vm, n->ref);
    return out->type != J_MISSING || jundef_new(vm, (struct jvalue){0}, name, out);
}

static bool eval_list(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue list;

    if (!jlist_new(vm, n->kind == JN_LIST ? J_LIST : J_TUPLE, n->count, &list))
        return false;
    for (size_t i = 0; i < n->count; i++) {
        if (!kid(vm, n, i, &list.u.list->items[i]))
            return false;
    }
    *out = list;
    return true;
}

static bool eval_dict(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue dict, key, value;

    if (!jdict_new(vm, n->count / 2, &dict))
        return false;
    for (size_t i = 0; i < n->count; i += 2) {
        if (!kid(vm, n, i, &key) || !kid(vm, n, i + 1, &value) ||
            !jdict_set(vm, dict.u.dict, key, value))
            return false;
    }
    *out = dict;
    return true;
}

static bool eval_logic(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    if (!kid(vm, n, 0, out))
        return false;
    if (n->kind == JN_NOT) {
        *out = jbool(!jvalue_truth(*out));
        return true;
    }
    return jvalue_truth(*out) == (n->kind == JN_OR) || kid(vm, n, 1, out);
}

static bool eval_binary(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue a, b;

    return kid(vm, n, 0, &a) && kid(vm, n, 1, &b) && jnumber_binary(vm, (enum jop)n->op, a, b, out);
}

/* a ~ b ~ c. Appending in turn extends the first string where it stands, if it can be. */
static bool eval_concat(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue *items = jvm_array(vm, n->count, sizeof *items), text;

    if (!items)
        return false;
    for (size_t i = 0; i < n->count; i++) {
        if (!kid(vm, n, i, &items[i]))
            return false;
    }
    if (!jvalue_str(vm, items[0], out))
        return false;
    for (size_t i = 1; i < n->count; i++) {
        if (!jvalue_str(vm, items[i], &text) || !jstr_concat(vm, out->u.s, text.u.s, out))
            return false;
    }
    return true;
}

static bool compare(struct jvm *vm, enum jop op, struct jvalue a, struct jvalue b, bool *out)
{
    bool ok;

    switch (op) {
    case JOP_EQ: return jvalue_equal(vm, a, b, out);
    case JOP_LT: return jvalue_order(vm, JLT, a, b, out);
    case JOP_LE: return jvalue_order(vm, JLE, a, b, out);
    case JOP_GT: return jvalue_order(vm, JGT, a, b, out);
    case JOP_GE: return jvalue_order(vm, JGE, a, b, out);
    case JOP_IN: return jvalue_in(vm, a, b, out);
    default:
        ok = op == JOP_NE ? jvalue_equal(vm, a, b, out) : jvalue_in(vm, a, b, out);
        *out = !*out;
        return ok;
    }
}

static bool eval_compare(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue left, right;
    bool holds = true;

    if (!kid(vm, n, 0, &left))
        return false;
    for (size_t i = 1; holds && i < n->count; i++) {
        if (!kid(vm, n, i, &right) || !compare(vm, (enum jop)n->ops[i - 1], left, right, &holds))
            return false;
        left = right;
    }
    *out = jbool(holds);
    return true;
}

static bool eval_cond(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue test;
    size_t line, column;
    const char *hint;

    if (!kid(vm, n, 0, &test))
        return false;
    if (jvalue_truth(test))
        return kid(vm, n, 1, out);
    if (n->kids[2])
        return kid(vm, n, 2, out);
    jsource_place(vm->t, n->pos, &line, &column);
    hint = jvm_printf(vm,
                      "the inline if-expression on line %zu evaluated to false and no else section "
                      "was defined.",
                      line);
    return hint && jundef_hint(vm, hint, out);
}

/* *args: the items of an iterable behind the arguments that are there. */
static bool spread(struct jvm *vm, struct jvalue star, struct jcall *call)
{
    struct jlist more;
    struct jvalue *all;

    if (!jiter_list(vm, star, &more))
        return false;
    all = jvm_array(vm, call->count + more.count, sizeof *all);
    if (!all)
        return false;
    if (call->count)
        memcpy(all, call->args, call->count * sizeof *all);
    if (more.count)
        memcpy(all + call->count, more.items, more.count * sizeof *all);
    call->args = all;
    call->count += more.count;
    return true;
}

/* **kwargs: the pairs of a dict. */
static bool spread_keywords(struct jvm *vm, struct jvalue star, size_t spare, struct jcall *call)
{
    struct jkeyword *all;

    if (star.type != J_DICT)
        return jvm_fail(vm, JINJA_TYPE, "argument after ** must be a mapping, not %s",
                        jvalue_type(star));
    all = jvm_array(vm, call->keyword_count + star.u.dict->count + spare, sizeof *all);
    if (!all)
        return false;
    if (call->keyword_count)
        memcpy(all, call->keywords, call->keyword_count * sizeof *all);
    call->keywords = all;
    for (size_t i = 0; i < star.u.dict->count; i++) {
        const struct jpair *p = &star.u.dict->pairs[i];
        if (p->key.type != J_STR)
            return jvm_fail(vm, JINJA_TYPE, "keywords must be strings");
        for (size_t k = 0; k < call->keyword_count; k++) {
            if (!jvm_spend(vm, 1))
                return false;
            if (jstr_equal(all[k].name, p->key.u.s))
                return jvm_fail(vm, JINJA_TYPE, "got multiple values for keyword argument '%.*s'",
                                jstr_brief(p->key.u.s), jstr_data(p->key.u.s));
        }
        all[call->keyword_count++] = (struct jkeyword){p->key.u.s, p->value};
    }
    return true;
}

bool jeval_args(struct jvm *vm, const struct jnode *n, size_t spare, struct jcall *call)
{
    const struct jsignature *s = n->sig;
    size_t at = 1;
    struct jvalue star;

    *call = (struct jcall){.count = s->args, .keyword_count = s->keywords};
    call->args = jvm_array(vm, s->args, sizeof *call->args);
    call->keywords = jvm_array(vm, s->keywords + spare, sizeof *call->keywords);
    if (!call->args || !call->keywords)
        return false;
    for (size_t i = 0; i < s->args; i++) {
        if (!kid(vm, n, at++, &call->args[i]))
            return false;
    }
    for (size_t i = 0; i < s->keywords; i++) {
        call->keywords[i].name = s->names[i];
        if (!kid(vm, n, at++, &call->keywords[i].value))
            return false;
    }
    if (s->star && (!kid(vm, n, at++, &star) || !spread(vm, star, call)))
        return false;
    return !s->star_star || (kid(vm, n, at, &star) && spread_keywords(vm, star, spare, call));
}

static bool eval_call(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue callee;
    struct jcall call;

    return kid(vm, n, 0, &callee) && jeval_args(vm, n, 0, &call) &&
           jcall_value(vm, callee, &call, out);
}

bool jeval_filter(struct jvm *vm, const struct jnode *n, struct jvalue subject, struct jvalue *out)
{
    struct jcall call;

    /* In a chain of filters the innermost takes the subject. */
    if (n->kids[0] && !jeval_filter(vm, n->kids[0], subject, &subject))
        return false;
    vm->at = n;
    if (!jeval_args(vm, n, 0, &call))
        return false;
    if (!n->built)
        return jvm_fail(vm, JINJA_RUNTIME, "No filter named '%.*s' found.", jstr_brief(n->label),
                        jstr_data(n->label));
    return jbuiltin_call(vm, n->built, subject, &call, out);
}

/* {{ x|filter }} and x is test. */
static bool eval_applied(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue subject;
    struct jcall call;

    if (!kid(vm, n, 0, &subject) || !jeval_args(vm, n, 0, &call))
        return false;
    if (!n->built)
        return jvm_fail(vm, JINJA_RUNTIME, "No %s named '%.*s' found.",
                        n->kind == JN_FILTER ? "filter" : "test", jstr_brief(n->label),
                        jstr_data(n->label));
    return jbuiltin_call(vm, n->built, subject, &call, out);
}

static bool eval_getitem(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    const struct jnode *key = n->kids[1];
    struct jvalue owner, v, part[3] = {jnone(), jnone(), jnone()};

    if (!kid(vm, n, 0, &owner))
        return false;
    if (key->kind != JN_SLICE)
        return kid(vm, n, 1, &v) && jattr_item(vm, owner, v, out);
    for (size_t i = 0; i < 3; i++) {
        if (key->kids[i] && !kid(vm, key, i, &part[i]))
            return false;
    }
    vm->at = n;
    return jattr_slice(vm, owner, part, out);
}

static bool eval_kind(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    struct jvalue v;

    switch (n->kind) {
    case JN_CONST: *out = n->value; return true;
    case JN_NAME: return eval_name(vm, n, out);
    case JN_TUPLE:
    case JN_LIST: return eval_list(vm, n, out);
    case JN_DICT: return eval_dict(vm, n, out);
    case JN_NOT:
    case JN_AND:
    case JN_OR: return eval_logic(vm, n, out);
    case JN_NEG:
    case JN_POS: return kid(vm, n, 0, &v) && jnumber_unary(vm, n->kind == JN_NEG, v, out);
    case JN_BINARY: return eval_binary(vm, n, out);
    case JN_CONCAT: return eval_concat(vm, n, out);
    case JN_COMPARE: return eval_compare(vm, n, out);
    case JN_COND: return eval_cond(vm, n, out);
    case JN_FILTER:
    case JN_TEST: return eval_applied(vm, n, out);
    case JN_CALL: return eval_call(vm, n, out);
    case JN_GETATTR: return kid(vm, n, 0, &v) && jattr_get(vm, v, n->value, out);
    case JN_GETITEM: return eval_getitem(vm, n, out);
    default: return jvm_fail(vm, JINJA_RUNTIME, "not an expression");
    }
}

bool jeval(struct jvm *vm, const struct jnode *n, struct jvalue *out)
{
    bool ok;

    if (!jvm_enter(vm))
        return false;
    vm->at = n;
    ok = jvm_spend(vm, 1) && eval_kind(vm, n, out);
    jvm_leave(vm);
    return ok;
}
