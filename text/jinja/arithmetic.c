/* SPDX-License-Identifier: Apache-2.0 */
/* The operators. A result is trusted if both operands are; strings keep their trust byte by byte. */
#include <math.h>
#include <string.h>

#include "jinja/format.h"
#include "jinja/html.h"
#include "jinja/number.h"
#include "jinja/vm.h"

static bool too_big(struct jvm *vm)
{
    return jvm_fail(vm, JINJA_ARITHMETIC, "the result does not fit a 64-bit integer");
}

static bool zero_division(struct jvm *vm, const char *what)
{
    return jvm_fail(vm, JINJA_ARITHMETIC, "%s", what);
}

static bool int_pow(struct jvm *vm, int64_t base, int64_t exponent, struct jvalue *out)
{
    int64_t result = 1;

    if (exponent < 0) {
        if (base == 0)
            return zero_division(vm, "0.0 cannot be raised to a negative power");
        *out = jfloat(pow((double)base, (double)exponent));
        return true;
    }
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return too_big(vm);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return too_big(vm);
    }
    *out = jint(result);
    return true;
}

static bool int_divide(struct jvm *vm, enum jop op, int64_t a, int64_t b, struct jvalue *out)
{
    int64_t quotient, rest;

    if (b == 0)
        return zero_division(vm, op == JOP_DIV        ? "division by zero"
                                 : op == JOP_FLOORDIV ? "integer division or modulo by zero"
                                                      : "integer modulo by zero");
    if (op == JOP_DIV) {
        *out = jfloat((double)((long double)a / (long double)b));
        return true;
    }
    if (b == -1) { /* the least integer has no positive twin, and its % traps */
        if (op == JOP_MOD)
            *out = jint(0);
        else if (a == INT64_MIN)
            return too_big(vm);
        else
            *out = jint(-a);
        return true;
    }
    quotient = a / b;
    rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) { /* Python rounds down */
        quotient--;
        rest += b;
    }
    *out = jint(op == JOP_MOD ? rest : quotient);
    return true;
}

static bool int_binary(struct jvm *vm, enum jop op, int64_t a, int64_t b, struct jvalue *out)
{
    int64_t r = 0;
    bool overflow;

    switch (op) {
    case JOP_ADD: overflow = __builtin_add_overflow(a, b, &r); break;
    case JOP_SUB: overflow = __builtin_sub_overflow(a, b, &r); break;
    case JOP_MUL: overflow = __builtin_mul_overflow(a, b, &r); break;
    case JOP_POW: return int_pow(vm, a, b, out);
    default: return int_divide(vm, op, a, b, out);
    }
    if (overflow)
        return too_big(vm);
    *out = jint(r);
    return true;
}

static bool float_pow(struct jvm *vm, double a, double b, double *r)
{
    if (a == 0 && b < 0)
        return zero_division(vm, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return jvm_fail(vm, JINJA_UNSUPPORTED, "complex numbers are not supported");
    *r = pow(a, b);
    if (isinf(*r) && isfinite(a) && isfinite(b))
        return jvm_fail(vm, JINJA_ARITHMETIC, "(34, 'Numerical result out of range')");
    return true;
}

static void float_divmod(double a, double b, double *quotient, double *rest)
{
    double q;

    *rest = fmod(a, b);
    q = (a - *rest) / b;
    if (*rest != 0) {
        if ((b < 0) != (*rest < 0)) {
            *rest += b;
            q -= 1;
        }
    } else {
        *rest = copysign(0.0, b);
    }
    *quotient = q != 0 ? floor(q) : copysign(0.0, a / b);
    if (q != 0 && q - *quotient > 0.5)
        *quotient += 1;
}

static bool float_binary(struct jvm *vm, enum jop op, double a, double b, struct jvalue *out)
{
    double r = 0, rest;

    switch (op) {
    case JOP_ADD: r = a + b; break;
    case JOP_SUB: r = a - b; break;
    case JOP_MUL: r = a * b; break;
    case JOP_POW:
        if (!float_pow(vm, a, b, &r))
            return false;
        break;
    default:
        if (b == 0)
            return zero_division(vm, op == JOP_DIV        ? "float division by zero"
                                     : op == JOP_FLOORDIV ? "float floor division by zero"
                                                          : "float modulo");
        if (op == JOP_DIV) {
            r = a / b;
        } else {
            float_divmod(a, b, &r, &rest);
            r = op == JOP_MOD ? rest : r;
        }
    }
    *out = jfloat(r);
    return true;
}

/* Doubles what there is until it is enough: "ab" * 1000000 is 20 copies. */
static bool repeat_str(struct jvm *vm, struct jvalue s, int64_t times, struct jvalue *out)
{
    struct jbuild b;
    size_t len = s.u.s->len, total;

    if (times <= 0 || len == 0)
        return jstr_sub(vm, s, 0, 0, out);
    if (__builtin_mul_overflow(len, (size_t)times, &total) || total > vm->memory_left)
        return jvm_alloc(vm, SIZE_MAX) != NULL; /* fails with the right message */
    if (!jbuild_init(vm, &b) || !jbuild_str(&b, s.u.s))
        return false;
    while (b.buf->len < total) {
        struct jstr done = {b.buf, 0, b.buf->len, JSTR_UNKNOWN};
        size_t more = total - done.len < done.len ? total - done.len : done.len;
        if (!jbuild_sub(&b, &done, 0, more))
            return false;
    }
    if (!jbuild_done(&b, out))
        return false;
    out->flags = s.flags & JF_MARKUP;
    return true;
}

static bool repeat(struct jvm *vm, struct jvalue v, struct jvalue by, struct jvalue *out)
{
    int64_t times = jint_of(by);
    size_t count, total;

    if (v.type == J_STR)
        return repeat_str(vm, v, times, out);
    count = v.u.list->count;
    if (times < 0)
        times = 0;
    if (__builtin_mul_overflow(count, (size_t)times, &total))
        total = SIZE_MAX;
    if (!jlist_new(vm, v.type, total, out) || !jvm_spend(vm, total))
        return false;
    for (size_t i = 0; i < total; i++)
        out->u.list->items[i] = v.u.list->items[i % count];
    return true;
}

/* str + str: with a Markup on one side the other is escaped. */
static bool concat_str(struct jvm *vm, struct jvalue a, struct jvalue b, struct jvalue *out)
{
    uint8_t markup = (a.flags | b.flags) & JF_MARKUP;

    if (markup && (!jhtml_escape(vm, a, &a) || !jhtml_escape(vm, b, &b)))
        return false;
    if (!jstr_concat(vm, a.u.s, b.u.s, out))
        return false;
    out->flags = markup;
    return true;
}

static bool concat_lists(struct jvm *vm, struct jvalue a, struct jvalue b, struct jvalue *out)
{
    size_t n = a.u.list->count;

    if (!jlist_new(vm, a.type, n + b.u.list->count, out) ||
        !jvm_spend(vm, (n + b.u.list->count) / 8))
        return false;
    if (n)
        memcpy(out->u.list->items, a.u.list->items, n * sizeof a);
    if (b.u.list->count)
        memcpy(out->u.list->items + n, b.u.list->items, b.u.list->count * sizeof a);
    return true;
}

static bool is_sequence(struct jvalue v)
{
    return v.type == J_STR || v.type == J_LIST || v.type == J_TUPLE;
}

static bool wrong_types(struct jvm *vm, enum jop op, struct jvalue a, struct jvalue b)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

    if (op == JOP_ADD && is_sequence(a))
        return jvm_fail(vm, JINJA_TYPE, "can only concatenate %s (not \"%s\") to %s",
                        jvalue_type(a), jvalue_type(b), jvalue_type(a));
    if (op == JOP_MUL && (is_sequence(a) || is_sequence(b)))
        return jvm_fail(vm, JINJA_TYPE, "can't multiply sequence by non-int of type '%s'",
                        jvalue_type(is_sequence(a) ? b : a));
    return jvm_fail(vm, JINJA_TYPE, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op],
                    jvalue_type(a), jvalue_type(b));
}

bool jnumber_binary(struct jvm *vm, enum jop op, struct jvalue a, struct jvalue b,
                    struct jvalue *out)
{
    bool ok;

    if (op == JOP_MOD && a.type == J_STR)
        return jformat_percent(vm, a, b, out);
    if (a.type == J_UNDEFINED || b.type == J_UNDEFINED)
        return jundef_fail(vm, a.type == J_UNDEFINED ? a : b);
    if (jis_number(a) && jis_number(b)) {
        ok = jis_int(a) && jis_int(b) ? int_binary(vm, op, jint_of(a), jint_of(b), out)
                                      : float_binary(vm, op, jfloat_of(a), jfloat_of(b), out);
        if (ok)
            out->flags = (a.flags | b.flags) & JF_UNTRUSTED;
        return ok;
    }
    if (op == JOP_ADD && a.type == J_STR && b.type == J_STR)
        return concat_str(vm, a, b, out);
    if (op == JOP_ADD && a.type == b.type && is_sequence(a))
        return concat_lists(vm, a, b, out);
    if (op == JOP_MUL && is_sequence(a) && jis_int(b))
        return repeat(vm, a, b, out);
    if (op == JOP_MUL && is_sequence(b) && jis_int(a))
        return repeat(vm, b, a, out);
    return wrong_types(vm, op, a, b);
}

bool jnumber_unary(struct jvm *vm, bool minus, struct jvalue v, struct jvalue *out)
{
    if (v.type == J_UNDEFINED)
        return jundef_fail(vm, v);
    if (!jis_number(v))
        return jvm_fail(vm, JINJA_TYPE, "bad operand type for unary %c: '%s'", minus ? '-' : '+',
                        jvalue_type(v));
    if (v.type == J_FLOAT)
        *out = jfloat(minus ? -v.u.f : v.u.f);
    else if (minus && jint_of(v) == INT64_MIN)
        return too_big(vm);
    else
        *out = jint(minus ? -jint_of(v) : jint_of(v));
    out->flags = v.flags & JF_UNTRUSTED;
    return true;
}
