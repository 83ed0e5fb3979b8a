/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that every template has: those of jinja2 and the ones that transformers adds. */
#include <string.h>
#include <time.h>

#include "jinja/call.h"
#include "jinja/iter.h"
#include "jinja/vm.h"

#define MAX_RANGE 100000 /* the sandbox of jinja2 has it, and templates may rely on the error */

static bool raise_exception(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const char *z;

    if (!jvalue_str(vm, a->v[0], out) || !(z = jstr_z(vm, out->u.s)))
        return false;
    return jvm_fail(vm, JINJA_RAISED, "%s", z);
}

static bool make_range(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    int64_t v[3] = {0, 0, 1};
    struct jrange *r;
    uint64_t distance, step;

    if (!jarg_int(vm, a, 0, &v[jarg_given(a, 1) ? 0 : 1]) || !jarg_int(vm, a, 1, &v[1]) ||
        !jarg_int(vm, a, 2, &v[2]))
        return false;
    if (v[2] == 0)
        return jvm_fail(vm, JINJA_VALUE, "range() arg 3 must not be zero");
    r = jvm_alloc(vm, sizeof *r);
    if (!r)
        return false;
    *r = (struct jrange){v[0], v[1], v[2], 0};
    /* As unsigned numbers the differences cannot overflow. */
    distance = v[2] > 0 ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
    step = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2];
    if (v[2] > 0 ? v[1] > v[0] : v[0] > v[1])
        r->count = (distance - 1) / step + 1;
    if (r->count > MAX_RANGE)
        return jvm_fail(vm, JINJA_ARITHMETIC,
                        "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                        MAX_RANGE);
    *out = (struct jvalue){.type = J_RANGE, .u.range = r};
    return true;
}

/* What dict(...) gives: pairs from a mapping or an iterable of pairs, then the keywords. */
static bool fill_dict(struct jvm *vm, const struct jcall *call, struct jvalue *out)
{
    struct jlist items, pair;
    const struct jdict *from;

    if (call->count > 1)
        return jvm_fail(vm, JINJA_TYPE, "dict expected at most 1 argument, got %zu", call->count);
    if (call->count && call->args[0].type == J_UNDEFINED)
        return jundef_fail(vm, call->args[0]);
    if (!jdict_new(vm, call->keyword_count, out))
        return false;
    if (call->count && call->args[0].type == J_DICT) {
        from = call->args[0].u.dict;
        for (size_t i = 0; i < from->count; i++) {
            if (!jvm_spend(vm, 1) ||
                !jdict_set(vm, out->u.dict, from->pairs[i].key, from->pairs[i].value))
                return false;
        }
    } else if (call->count) {
        if (!jiter_list(vm, call->args[0], &items))
            return false;
        for (size_t i = 0; i < items.count; i++) {
            if (!jiter_list(vm, items.items[i], &pair))
                return false;
            if (pair.count != 2)
                return jvm_fail(vm, JINJA_VALUE,
                                "dictionary update sequence element #%zu has length %zu; 2 is "
                                "required",
                                i, pair.count);
            if (!jdict_set(vm, out->u.dict, pair.items[0], pair.items[1]))
                return false;
        }
    }
    for (size_t i = 0; i < call->keyword_count; i++) {
        struct jvalue key = {.type = J_STR, .u.s = call->keywords[i].name};
        if (!jdict_set(vm, out->u.dict, key, call->keywords[i].value))
            return false;
    }
    return true;
}

static bool make_dict(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return fill_dict(vm, a->call, out);
}

static bool dict_fromkeys(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue value = jarg_given(a, 1) ? a->v[1] : jnone();
    struct jlist keys;

    if (!jiter_list(vm, a->v[0], &keys) || !jdict_new(vm, keys.count, out))
        return false;
    for (size_t i = 0; i < keys.count; i++) {
        if (!jdict_set(vm, out->u.dict, keys.items[i], value))
            return false;
    }
    return true;
}

const struct jbuiltin jmethods_dict_func[] = {{"fromkeys", ".keys .value?", dict_fromkeys},
                                              {NULL, NULL, NULL}};

static bool make_namespace(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    if (!fill_dict(vm, a->call, out))
        return false;
    out->type = J_NAMESPACE;
    return true;
}

static bool new_cycler(struct jvm *vm, enum jtype type, struct jvalue *items, size_t count,
                       struct jvalue *out)
{
    struct jcycler *c = jvm_alloc(vm, sizeof *c);

    if (!c)
        return false;
    c->items = (struct jlist){count, items, false};
    *out = (struct jvalue){.type = (uint8_t)type, .u.cycler = c};
    return true;
}

static bool make_cycler(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    if (a->call->keyword_count)
        return jvm_fail(vm, JINJA_TYPE, "Cycler() got an unexpected keyword argument");
    if (a->call->count == 0)
        return jvm_fail(vm, JINJA_RUNTIME, "at least one item has to be provided");
    return new_cycler(vm, J_CYCLER, a->call->args, a->call->count, out);
}

static bool cycler_next(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jcycler *c = a->self.u.cycler;

    (void)vm;
    *out = c->items.items[c->at];
    c->at = (c->at + 1) % c->items.count;
    return true;
}

static bool cycler_reset(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    (void)vm;
    a->self.u.cycler->at = 0;
    *out = jnone();
    return true;
}

const struct jbuiltin jmethods_cycler[] = {
    {"next", "", cycler_next}, {"reset", "", cycler_reset}, {NULL, NULL, NULL}};

static bool make_joiner(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue *sep = jvm_alloc(vm, sizeof *sep);

    if (!sep)
        return false;
    *sep = a->v[0];
    if (!jarg_given(a, 0) && !jstr_cstr(vm, ", ", sep))
        return false;
    return new_cycler(vm, J_JOINER, sep, 1, out);
}

/* The moment as local time; false if the clock says something that is no date. */
static bool local_now(struct jvm *vm, struct tm *tm, int32_t *micros)
{
    const struct jinja_time *now = vm->options->now;
    struct timespec ts;
    time_t t;

    if (now) {
        t = (time_t)(now->unix_s + now->utc_offset_s);
        *micros = now->micros;
        return gmtime_r(&t, tm) || jvm_fail(vm, JINJA_VALUE, "the time is out of range");
    }
    clock_gettime(CLOCK_REALTIME, &ts);
    *micros = (int32_t)(ts.tv_nsec / 1000);
    return localtime_r(&ts.tv_sec, tm) || jvm_fail(vm, JINJA_VALUE, "the time is out of range");
}

/*
 * One conversion of strftime, as Python's datetime does it: %f are the microseconds, and a time without zone has
 * empty %z and %Z. The C library's widths are refused: they would write any number of bytes.
 */
static bool put_conversion(struct jbuild *b, const char *spec, const struct tm *tm, int32_t micros,
                           bool trusted)
{
    char text[256], format[4] = {'%', spec[0], 0, 0};
    size_t n;

    switch (spec[0]) {
    case 'f':
        n = (size_t)snprintf(text, sizeof text, "%06d", (int)micros);
        return jbuild_bytes(b, text, n, trusted);
    case 'z':
    case 'Z': return true;
    case '-':
    case '_':
    case '0':
    case '^':
    case '#':
    case 'E':
    case 'O': format[2] = spec[1]; break;
    default: break;
    }
    n = strftime(text, sizeof text, format, tm);
    return jbuild_bytes(b, text, n, trusted);
}

static bool strftime_now(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jstr *format = NULL;
    struct jbuild b;
    struct tm tm = {0};
    int32_t micros;
    size_t i = 0;
    const char *z;

    if (!jarg_str(vm, a, 0, &format) || !local_now(vm, &tm, &micros) || !jbuild_init(vm, &b) ||
        !(z = jstr_z(vm, format)))
        return false;
    while (i < format->len) {
        size_t n = strcspn(z + i, "%");
        bool trusted;
        if (n == 0 && z[i] != '%')
            n = 1; /* a NUL */
        if (!jbuild_sub(&b, format, i, n))
            return false;
        i += n;
        if (i >= format->len || z[i] != '%')
            continue;
        trusted = jstr_trusted_at(format, i);
        n = strchr("-_0^#EO", z[i + 1]) && z[i + 1] && z[i + 2] ? 3 : 2;
        if (i + n > format->len || (unsigned char)z[i + n - 1] >= 0x80 || !z[i + 1]) {
            n = 1; /* a stray percent sign */
            if (!jbuild_sub(&b, format, i, 1))
                return false;
        } else if (!put_conversion(&b, z + i + 1, &tm, micros, trusted)) {
            return false;
        }
        i += n;
    }
    return jbuild_done(&b, out);
}

/* Random words in jinja2. It is there so that templates that ask for its attributes meet the sandbox. */
static bool lipsum(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    (void)a;
    (void)out;
    return jvm_fail(vm, JINJA_UNSUPPORTED, "lipsum() is not supported");
}

const struct jbuiltin jglobals[] = {{"range", ".start .stop? .step?", make_range},
                                    {"dict", "*", make_dict},
                                    {"namespace", "*", make_namespace},
                                    {"cycler", "*", make_cycler},
                                    {"joiner", "sep?", make_joiner},
                                    {"raise_exception", "message", raise_exception},
                                    {"strftime_now", "format", strftime_now},
                                    {"lipsum", "*", lipsum},
                                    {NULL, NULL, NULL}};
