/* SPDX-License-Identifier: Apache-2.0 */
/* Filters on numbers. What is read from text is as trusted as the text. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja/call.h"
#include "jinja/number.h"
#include "jinja/vm.h"

static bool too_big(struct jvm *vm)
{
    return jvm_fail(vm, JINJA_ARITHMETIC, "the number does not fit 64 bits");
}

static uint8_t trust_of(struct jvalue v)
{
    bool trusted = v.type == J_STR ? jstr_trusted(v.u.s) : !(v.flags & JF_UNTRUSTED);

    return trusted ? 0 : JF_UNTRUSTED;
}

static bool do_abs(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v = a->self;

    if (!jis_number(v))
        return jvm_fail(vm, JINJA_TYPE, "bad operand type for abs(): '%s'", jvalue_type(v));
    if (v.type == J_FLOAT)
        *out = jfloat(fabs(v.u.f));
    else if (jint_of(v) < 0)
        return jnumber_unary(vm, true, v, out);
    else
        *out = jint(jint_of(v));
    out->flags = trust_of(v);
    return true;
}

/* int(float(text)): what makes "42.23"|int give 42. */
static bool int_of_float(struct jvm *vm, double f, struct jvalue otherwise, struct jvalue *out)
{
    int64_t i;

    switch (jnumber_truncate(f, &i)) {
    case JPARSE_OK: *out = jint(i); return true;
    case JPARSE_TOO_BIG: return too_big(vm);
    default: *out = otherwise; return true;
    }
}

static bool do_int(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v = a->self, otherwise = jarg_given(a, 0) ? a->v[0] : jint(0);
    int64_t base = 10, i;
    double f;

    if (v.type == J_UNDEFINED)
        return jundef_fail(vm, v);
    if (jarg_given(a, 1)) /* whatever int() refuses as a base leaves the float to try */
        base = jis_int(a->v[1]) ? jint_of(a->v[1]) : -1;
    *out = otherwise;
    if (jis_int(v))
        *out = jint(jint_of(v));
    else if (v.type == J_FLOAT && !int_of_float(vm, v.u.f, otherwise, out))
        return false;
    if (v.type == J_STR) {
        bool valid = base == 0 || (base >= 2 && base <= 36);
        enum jparse parsed =
            valid ? jnumber_int(jstr_data(v.u.s), v.u.s->len, (int)base, &i) : JPARSE_BAD;
        if (parsed == JPARSE_TOO_BIG)
            return too_big(vm);
        if (parsed == JPARSE_OK)
            *out = jint(i);
        else if (jnumber_float(jstr_data(v.u.s), v.u.s->len, &f) == JPARSE_OK &&
                 !int_of_float(vm, f, otherwise, out))
            return false;
    }
    if (jis_number(*out))
        out->flags |= trust_of(v);
    return true;
}

static bool do_float(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v = a->self;
    double f;

    if (v.type == J_UNDEFINED)
        return jundef_fail(vm, v);
    *out = jarg_given(a, 0) ? a->v[0] : jfloat(0);
    if (jis_number(v))
        *out = jfloat(jfloat_of(v));
    else if (v.type == J_STR && jnumber_float(jstr_data(v.u.s), v.u.s->len, &f) == JPARSE_OK)
        *out = jfloat(f);
    if (jis_number(*out))
        out->flags |= trust_of(v);
    return true;
}

/* round(int, -2): to hundreds, halves to even. */
static bool round_int(struct jvm *vm, int64_t v, int64_t digits, struct jvalue *out)
{
    int64_t unit = 1, rest, down;

    *out = jint(v);
    if (digits >= 0)
        return true;
    for (int64_t i = digits; i < 0; i++) {
        if (__builtin_mul_overflow(unit, (int64_t)10, &unit)) {
            *out = jint(0);
            return true;
        }
    }
    rest = v % unit;
    rest += rest < 0 ? unit : 0;
    if (__builtin_sub_overflow(v, rest, &down))
        return too_big(vm);
    if ((rest > unit - rest || (rest == unit - rest && (down / unit) % 2 != 0)) &&
        __builtin_add_overflow(down, unit, &down))
        return too_big(vm);
    *out = jint(down);
    return true;
}

/* ceil and floor of value * 10 ** precision, divided again, as jinja2 writes it. */
static bool round_towards(struct jvm *vm, struct jvalue v, struct jvalue precision, bool up,
                          struct jvalue *out)
{
    struct jvalue scale, scaled;
    int64_t i;

    if (!jnumber_binary(vm, JOP_POW, jint(10), precision, &scale) ||
        !jnumber_binary(vm, JOP_MUL, v, scale, &scaled))
        return false;
    if (!jis_number(scaled))
        return jvm_fail(vm, JINJA_TYPE, "must be real number, not %s", jvalue_type(scaled));
    if (scaled.type == J_FLOAT) {
        enum jparse parsed = jnumber_truncate(up ? ceil(scaled.u.f) : floor(scaled.u.f), &i);
        if (parsed != JPARSE_OK)
            return jvm_fail(vm, JINJA_ARITHMETIC, "cannot convert float to integer");
        scaled = jint(i);
    }
    return jnumber_binary(vm, JOP_DIV, scaled, scale, out);
}

static bool do_round(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue v = a->self;
    const struct jstr *method = a->v[1].type == J_STR ? a->v[1].u.s : NULL;
    int64_t digits = 0;
    bool ok;

    if (jarg_given(a, 1) && (!method || (!jstr_is(method, "common") && !jstr_is(method, "ceil") &&
                                         !jstr_is(method, "floor"))))
        return jvm_fail(vm, JINJA_RUNTIME, "method must be common, ceil or floor");
    if ((!method || jstr_is(method, "common")) && !jis_number(v))
        return jvm_fail(vm, JINJA_TYPE, "type %s doesn't define __round__ method", jvalue_type(v));
    if (method && !jstr_is(method, "common")) {
        ok = round_towards(vm, v, jarg_given(a, 0) ? a->v[0] : jint(0), jstr_is(method, "ceil"),
                           out);
    } else {
        if (jarg_some(a, 0) && !jarg_int(vm, a, 0, &digits))
            return false;
        if (v.type == J_FLOAT && jarg_given(a, 0) && a->v[0].type == J_NONE) {
            /* round(x, None) is round(x): an integer */
            ok = int_of_float(vm, jnumber_round(v.u.f, 0), jnone(), out);
        } else if (v.type == J_FLOAT) {
            *out = jfloat(jnumber_round(v.u.f, digits));
            ok = true;
        } else {
            ok = round_int(vm, jint_of(v), digits, out);
        }
    }
    if (ok)
        out->flags = trust_of(v);
    return ok;
}

static bool do_filesizeformat(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    static const char *const decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    static const char *const binary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    bool use_binary = jarg_flag(a, 0, false);
    double bytes = 0, base = use_binary ? 1024 : 1000, unit = base;
    char text[64];
    unsigned i = 0;

    if (jis_number(a->self))
        bytes = jfloat_of(a->self);
    else if (a->self.type == J_UNDEFINED)
        return jundef_fail(vm, a->self);
    else if (a->self.type != J_STR)
        return jvm_fail(vm, JINJA_TYPE,
                        "float() argument must be a string or a real number, not "
                        "'%s'",
                        jvalue_type(a->self));
    else if (jnumber_float(jstr_data(a->self.u.s), a->self.u.s->len, &bytes) != JPARSE_OK)
        return jvm_fail(vm, JINJA_VALUE, "could not convert string to float");
    if (bytes == 1) {
        snprintf(text, sizeof text, "1 Byte");
    } else if (bytes < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes) + 0.0);
    } else {
        for (; i < 7 && bytes >= unit * base; i++)
            unit *= base;
        snprintf(text, sizeof text, "%.1f %s", base * bytes / (unit * base),
                 use_binary ? binary[i] : decimal[i]);
    }
    return jstr_copy(vm, text, strlen(text), trust_of(a->self) == 0, out);
}

const struct jbuiltin jfilters_num[] = {{"abs", "", do_abs},
                                        {"int", "default? base?", do_int},
                                        {"float", "default?", do_float},
                                        {"round", "precision? method?", do_round},
                                        {"filesizeformat", "binary?", do_filesizeformat},
                                        {NULL, NULL, NULL}};
