/* SPDX-License-Identifier: Apache-2.0 */
/* The tests of `is`. */
#include "jinja/call.h"
#include "jinja/iter.h"
#include "jinja/number.h"
#include "jinja/text.h"
#include "jinja/vm.h"

#define TYPE_TEST(name, condition)                                                                 \
    static bool name(struct jvm *vm, const struct jargs *a, struct jvalue *out)                    \
    {                                                                                              \
        (void)vm;                                                                                  \
        *out = jbool(condition);                                                                   \
        return true;                                                                               \
    }
TYPE_TEST(is_defined, a->self.type != J_UNDEFINED)
TYPE_TEST(is_undefined, a->self.type == J_UNDEFINED)
TYPE_TEST(is_none, a->self.type == J_NONE)
TYPE_TEST(is_boolean, a->self.type == J_BOOL)
TYPE_TEST(is_true, a->self.type == J_BOOL && a->self.u.b)
TYPE_TEST(is_false, a->self.type == J_BOOL && !a->self.u.b)
TYPE_TEST(is_integer, a->self.type == J_INT)
TYPE_TEST(is_float, a->self.type == J_FLOAT)
TYPE_TEST(is_number, jis_number(a->self))
TYPE_TEST(is_string, a->self.type == J_STR)
TYPE_TEST(is_mapping, a->self.type == J_DICT)
TYPE_TEST(is_iterable, jiter_can(a->self))
TYPE_TEST(is_escaped, a->self.type == J_STR && (a->self.flags & JF_MARKUP))
TYPE_TEST(is_same, jvalue_same(a->self, a->v[0]))
/* What has a length and can be subscripted. */
TYPE_TEST(is_sequence, a->self.type == J_STR || a->self.type == J_LIST || a->self.type == J_TUPLE ||
                           a->self.type == J_DICT || a->self.type == J_RANGE ||
                           a->self.type == J_UNDEFINED)
TYPE_TEST(is_callable, a->self.type == J_FUNC || a->self.type == J_METHOD ||
                           a->self.type == J_MACRO || a->self.type == J_LOOP ||
                           a->self.type == J_JOINER || a->self.type == J_BLOCK ||
                           a->self.type == J_UNDEFINED)
#undef TYPE_TEST

static bool remainder_is(struct jvm *vm, struct jvalue v, struct jvalue by, int64_t want,
                         struct jvalue *out)
{
    struct jvalue rest;
    bool same;

    if (!jnumber_binary(vm, JOP_MOD, v, by, &rest) || !jvalue_equal(vm, rest, jint(want), &same))
        return false;
    *out = jbool(same);
    return true;
}

static bool is_odd(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return remainder_is(vm, a->self, jint(2), 1, out);
}

static bool is_even(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return remainder_is(vm, a->self, jint(2), 0, out);
}

static bool is_divisible(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return remainder_is(vm, a->self, a->v[0], 0, out);
}

static bool is_lower(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue s;

    if (!jvalue_str(vm, a->self, &s))
        return false;
    *out = jbool(jtext_is_lower(s.u.s));
    return jvm_spend_bytes(vm, s.u.s->len * 4);
}

static bool is_upper(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue s;

    if (!jvalue_str(vm, a->self, &s))
        return false;
    *out = jbool(jtext_is_upper(s.u.s));
    return jvm_spend_bytes(vm, s.u.s->len * 4);
}

/* Names are looked up in a dict, so that a list is an error. */
static bool exists(struct jvm *vm, const struct jargs *a, bool filter, struct jvalue *out)
{
    const struct jstr *s = a->self.type == J_STR ? a->self.u.s : NULL;
    bool hashable;

    if (!jvalue_hashable(vm, a->self, &hashable))
        return false;
    if (!hashable)
        return jvm_fail(vm, JINJA_TYPE, "unhashable type: '%s'", jvalue_type(a->self));
    *out = jbool(s &&
                 (filter ? jfilter_find(jstr_data(s), s->len) : jtest_find(jstr_data(s), s->len)));
    return true;
}

static bool is_filter(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return exists(vm, a, true, out);
}

static bool is_test(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return exists(vm, a, false, out);
}

static bool is_in(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jbool(false);
    return jvalue_in(vm, a->self, a->v[0], &out->u.b);
}

static bool is_eq(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jbool(false);
    return jvalue_equal(vm, a->self, a->v[0], &out->u.b);
}

static bool is_ne(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    if (!is_eq(vm, a, out))
        return false;
    out->u.b = !out->u.b;
    return true;
}

#define ORDER_TEST(name, op)                                                                       \
    static bool name(struct jvm *vm, const struct jargs *a, struct jvalue *out)                    \
    {                                                                                              \
        *out = jbool(false);                                                                       \
        return jvalue_order(vm, op, a->self, a->v[0], &out->u.b);                                  \
    }
ORDER_TEST(is_lt, JLT)
ORDER_TEST(is_le, JLE)
ORDER_TEST(is_gt, JGT)
ORDER_TEST(is_ge, JGE)
#undef ORDER_TEST

const struct jbuiltin jtests[] = {{"odd", "", is_odd},
                                  {"even", "", is_even},
                                  {"divisibleby", "num", is_divisible},
                                  {"defined", "", is_defined},
                                  {"undefined", "", is_undefined},
                                  {"filter", "", is_filter},
                                  {"test", "", is_test},
                                  {"none", "", is_none},
                                  {"boolean", "", is_boolean},
                                  {"false", "", is_false},
                                  {"true", "", is_true},
                                  {"integer", "", is_integer},
                                  {"float", "", is_float},
                                  {"lower", "", is_lower},
                                  {"upper", "", is_upper},
                                  {"string", "", is_string},
                                  {"mapping", "", is_mapping},
                                  {"number", "", is_number},
                                  {"sequence", "", is_sequence},
                                  {"iterable", "", is_iterable},
                                  {"callable", "", is_callable},
                                  {"sameas", "other", is_same},
                                  {"escaped", "", is_escaped},
                                  {"in", "seq", is_in},
                                  {"==", ".b", is_eq},
                                  {"eq", ".b", is_eq},
                                  {"equalto", ".b", is_eq},
                                  {"!=", ".b", is_ne},
                                  {"ne", ".b", is_ne},
                                  {">", ".b", is_gt},
                                  {"gt", ".b", is_gt},
                                  {"greaterthan", ".b", is_gt},
                                  {">=", ".b", is_ge},
                                  {"ge", ".b", is_ge},
                                  {"<", ".b", is_lt},
                                  {"lt", ".b", is_lt},
                                  {"lessthan", ".b", is_lt},
                                  {"<=", ".b", is_le},
                                  {"le", ".b", is_le},
                                  {NULL, NULL, NULL}};

const struct jbuiltin *jtest_find(const char *name, size_t len)
{
    return len ? jbuiltin_find(jtests, name, len) : NULL;
}
