/* SPDX-License-Identifier: Apache-2.0 */
/* The two languages of formatted strings: "%(name)s" and "{name}". */
#include "jinja/format.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "jinja/eval.h"
#include "jinja/html.h"
#include "jinja/number.h"
#include "jinja/unicode.h"

/* The arguments of a % format. */
struct percent {
    struct jvm *vm;
    const struct jstr *format;
    size_t at;
    struct jvalue args;
    size_t next;  /* of a tuple: the item that is due; of one value: 1 once it was used */
    bool mapping; /* args can be subscripted: nothing must be left over */
    bool markup;
    /* What %(name) looked up, for this conversion. */
    bool named;
    struct jvalue value;
};

static bool next_arg(struct percent *p, struct jvalue *out)
{
    if (p->named) {
        *out = p->value;
        p->named = false;
        return true;
    }
    if (p->args.type == J_TUPLE && p->next < p->args.u.list->count) {
        *out = p->args.u.list->items[p->next++];
        return true;
    }
    if (p->args.type != J_TUPLE && p->next == 0) {
        p->next = 1;
        *out = p->args;
        return true;
    }
    return jvm_fail(p->vm, JINJA_TYPE, "not enough arguments for format string");
}

static char char_at(const struct percent *p)
{
    return p->at < p->format->len ? jstr_data(p->format)[p->at] : 0;
}

static bool lookup_name(struct percent *p)
{
    size_t from = ++p->at, depth = 1;
    struct jvalue format = {.type = J_STR, .u.s = p->format}, key;
    bool found = false;

    if (!p->mapping)
        return jvm_fail(p->vm, JINJA_TYPE, "format requires a mapping");
    for (; p->at < p->format->len; p->at++) {
        depth += char_at(p) == '(';
        depth -= char_at(p) == ')';
        if (depth == 0)
            break;
    }
    if (p->at >= p->format->len)
        return jvm_fail(p->vm, JINJA_VALUE, "incomplete format key");
    if (!jstr_sub(p->vm, format, from, p->at++ - from, &key))
        return false;
    if (p->args.type != J_DICT)
        return p->args.type == J_UNDEFINED
                   ? jundef_fail(p->vm, p->args)
                   : jvm_fail(p->vm, JINJA_TYPE, "indices must be integers or slices, not str");
    if (!jdict_get(p->vm, p->args.u.dict, key, &p->value, &found))
        return false;
    p->named = true;
    return found ||
           jvm_fail(p->vm, JINJA_LOOKUP, "'%.*s'", jstr_brief(key.u.s), jstr_data(key.u.s));
}

/* A number, or * for one from the arguments. */
static bool parse_size(struct percent *p, bool *has, int64_t *out)
{
    struct jvalue v;
    size_t from = p->at;

    *out = 0;
    if (char_at(p) == '*') {
        p->at++;
        *has = true;
        if (!next_arg(p, &v))
            return false;
        if (!jis_int(v))
            return jvm_fail(p->vm, JINJA_TYPE, "* wants int");
        *out = jint_of(v);
        return true;
    }
    while (isdigit((unsigned char)char_at(p)))
        p->at++;
    *has = p->at > from;
    return p->at == from || jnumber_digits(jstr_data(p->format) + from, p->at - from, 10, out) ||
           jvm_fail(p->vm, JINJA_VALUE, "width too big");
}

static bool parse_percent(struct percent *p, struct jspec *s, bool *left)
{
    *s = (struct jspec){0};
    *left = false;
    p->named = false;
    if (char_at(p) == '(' && !lookup_name(p))
        return false;
    for (; char_at(p) && strchr("-+ #0", char_at(p)); p->at++) {
        char c = char_at(p);
        *left |= c == '-';
        s->alternate |= c == '#';
        s->zero |= c == '0';
        if (c == '+' || (c == ' ' && s->sign != '+'))
            s->sign = c;
    }
    if (!parse_size(p, &s->has_width, &s->width))
        return false;
    if (s->width < 0) {
        *left = true;
        s->width = s->width < -INT64_MAX ? INT64_MAX : -s->width;
    }
    if (char_at(p) == '.') {
        p->at++;
        if (!parse_size(p, &s->has_precision, &s->precision))
            return false;
        s->has_precision = true;
        s->precision = s->precision < 0 ? 0 : s->precision;
    }
    while (char_at(p) && strchr("hlL", char_at(p)))
        p->at++;
    s->type = char_at(p);
    p->at++;
    return s->type || jvm_fail(p->vm, JINJA_VALUE, "incomplete format");
}

static bool wrong_arg(struct percent *p, char type, const char *need, struct jvalue v)
{
    if (v.type == J_UNDEFINED)
        return jundef_fail(p->vm, v);
    return jvm_fail(p->vm, JINJA_TYPE, "%%%c format: %s is required, not %s", type, need,
                    jvalue_type(v));
}

/* %d and its kin: a precision is a least number of digits. */
static bool percent_int(struct percent *p, struct jbuild *b, struct jvalue v, struct jspec *s)
{
    bool decimal = s->type == 'd' || s->type == 'i' || s->type == 'u';
    bool trusted = !(v.flags & JF_UNTRUSTED);
    struct jspec digits = *s;
    struct jbuild inner;
    struct jvalue text;
    int64_t i = 0;

    if (v.type == J_FLOAT && decimal) {
        if (jnumber_truncate(v.u.f, &i) != JPARSE_OK)
            return jvm_fail(p->vm, JINJA_ARITHMETIC, "cannot convert float to integer");
    } else if (jis_int(v)) {
        i = jint_of(v);
    } else {
        return wrong_arg(p, s->type, decimal ? "a real number" : "an integer", v);
    }
    if (decimal)
        digits.type = s->type = 'd';
    if (!s->has_precision)
        return jformat_int(b, i, s, trusted);
    /* Digits first, with zeros up to the precision, then the width around them. */
    digits.zero = true;
    digits.align = '=';
    digits.fill = '0';
    digits.has_width = true;
    digits.has_precision = false;
    digits.width = s->precision + (i < 0 || s->sign ? 1 : 0) + (s->alternate && !decimal ? 2 : 0);
    if (!jbuild_init(p->vm, &inner) || !jformat_int(&inner, i, &digits, trusted) ||
        !jbuild_done(&inner, &text))
        return false;
    s->has_precision = false;
    s->type = 's';
    if (s->zero && s->align != '<')
        s->fill = '0';
    return jformat_str(b, text.u.s, s);
}

static bool percent_char(struct percent *p, struct jbuild *b, struct jvalue v,
                         const struct jspec *s)
{
    struct jspec plain = *s;
    struct jbuild inner;
    struct jvalue text = v;

    plain.has_precision = false;
    plain.type = 'c';
    if (v.type == J_STR && jstr_chars(v.u.s) == 1)
        return jformat_str(b, v.u.s, &plain);
    if (!jis_int(v))
        return jvm_fail(p->vm, JINJA_TYPE, "%%c requires int or char");
    return jbuild_init(p->vm, &inner) &&
           jformat_int(&inner, jint_of(v), &plain, !(v.flags & JF_UNTRUSTED)) &&
           jbuild_done(&inner, &text) && jformat_str(b, text.u.s, &plain);
}

static bool percent_str(struct percent *p, struct jbuild *b, struct jvalue v, const struct jspec *s)
{
    struct jbuild inner;

    if (s->type == 's') {
        if (!jvalue_soft_str(p->vm, v, &v))
            return false;
    } else if (!jbuild_init(p->vm, &inner) || !jbuild_repr(&inner, v) || !jbuild_done(&inner, &v)) {
        return false;
    }
    if (p->markup && !jhtml_escape(p->vm, v, &v))
        return false;
    return jformat_str(b, v.u.s, s);
}

static bool convert(struct percent *p, struct jbuild *b)
{
    struct jspec s;
    struct jvalue v;
    bool left;

    if (char_at(p) == '%')
        return jbuild_sub(b, p->format, p->at++, 1);
    if (!parse_percent(p, &s, &left) || !next_arg(p, &v))
        return false;
    s.align = left ? '<' : strchr("sra", s.type) || s.type == 'c' ? '>' : 0;
    if (left)
        s.zero = false;
    switch (s.type) {
    case 's':
    case 'r':
    case 'a': return percent_str(p, b, v, &s);
    case 'c': return percent_char(p, b, v, &s);
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X':
        if (!s.align && !s.zero)
            s.align = '>';
        return percent_int(p, b, v, &s);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (!jis_number(v))
            return v.type == J_UNDEFINED
                       ? jundef_fail(p->vm, v)
                       : jvm_fail(p->vm, JINJA_TYPE, "must be real number, not %s", jvalue_type(v));
        return jformat_float(b, jfloat_of(v), &s, !(v.flags & JF_UNTRUSTED));
    default:
        return jvm_fail(p->vm, JINJA_VALUE, "unsupported format character '%c' at index %zu",
                        s.type, p->at - 1);
    }
}

bool jformat_percent(struct jvm *vm, struct jvalue format, struct jvalue args, struct jvalue *out)
{
    struct percent p = {.vm = vm, .format = format.u.s, .args = args};
    struct jbuild b;

    p.markup = format.flags & JF_MARKUP;
    p.mapping = args.type == J_DICT || args.type == J_LIST || args.type == J_UNDEFINED ||
                args.type == J_RANGE;
    if (!jbuild_init(vm, &b))
        return false;
    while (p.at < p.format->len) {
        const char *text = jstr_data(p.format);
        const char *mark = memchr(text + p.at, '%', p.format->len - p.at);
        size_t stop = mark ? (size_t)(mark - text) : p.format->len;
        if (!jbuild_sub(&b, p.format, p.at, stop - p.at))
            return false;
        p.at = stop + 1;
        if (mark && (!jvm_spend(vm, 1) || !convert(&p, &b)))
            return false;
    }
    if (!p.mapping && p.next < (args.type == J_TUPLE ? args.u.list->count : 1))
        return jvm_fail(vm, JINJA_TYPE, "not all arguments converted during string formatting");
    if (!jbuild_done(&b, out))
        return false;
    out->flags = format.flags & JF_MARKUP;
    return true;
}

/* A {} format: the arguments, and how fields are numbered. */
struct braces {
    struct jvm *vm;
    const struct jcall *call;
    size_t next;            /* field that "{}" means */
    bool automatic, manual; /* which kind of number was seen */
    bool markup;
};

/* One replacement field, as byte offsets in the format. */
struct field {
    size_t name, name_end;
    char conversion;
    size_t spec, spec_end;
};

static bool first_value(struct braces *f, struct jvalue name, bool whole, struct jvalue *out)
{
    const struct jstr *s = name.u.s;
    int64_t i = -1;
    bool digits = s->len > 0;

    for (size_t k = 0; k < s->len; k++)
        digits = digits && isdigit((unsigned char)jstr_data(s)[k]);
    if (s->len == 0 && whole) {
        if (f->manual)
            return jvm_fail(f->vm, JINJA_VALUE,
                            "cannot switch from manual field specification to "
                            "automatic field numbering");
        f->automatic = true;
        i = (int64_t)f->next++;
    } else if (digits) {
        if (whole && f->automatic)
            return jvm_fail(f->vm, JINJA_VALUE,
                            "cannot switch from manual field to automatic numbering");
        f->manual = f->manual || whole;
        if (!jnumber_digits(jstr_data(s), s->len, 10, &i))
            i = INT64_MAX;
    }
    if (i >= 0) {
        if ((uint64_t)i >= f->call->count)
            return jvm_fail(f->vm, JINJA_LOOKUP,
                            "Replacement index %lld out of range for positional args tuple",
                            (long long)i);
        *out = f->call->args[i];
        return true;
    }
    for (size_t k = 0; k < f->call->keyword_count; k++) {
        if (jstr_equal(f->call->keywords[k].name, s)) {
            *out = f->call->keywords[k].value;
            return true;
        }
    }
    return jvm_fail(f->vm, JINJA_LOOKUP, "'%.*s'", jstr_brief(s), jstr_data(s));
}

/* name.attribute[index]... */
static bool field_value(struct braces *f, struct jvalue format, const struct field *at,
                        struct jvalue *out)
{
    const char *text = jstr_data(format.u.s);
    size_t i = at->name, end;
    struct jvalue part;

    while (i < at->name_end && text[i] != '.' && text[i] != '[')
        i++;
    if (!jstr_sub(f->vm, format, at->name, i - at->name, &part) ||
        !first_value(f, part, i == at->name_end, out))
        return false;
    while (i < at->name_end) {
        bool index = text[i++] == '[';
        int64_t number;
        for (end = i; end < at->name_end &&
                      (index ? text[end] != ']' : text[end] != '.' && text[end] != '[');)
            end++;
        if (end == i)
            return jvm_fail(f->vm, JINJA_VALUE, "Empty attribute in format string");
        if (index && end == at->name_end)
            return jvm_fail(f->vm, JINJA_VALUE, "Missing ']' in format string");
        if (!jstr_sub(f->vm, format, i, end - i, &part))
            return false;
        if (index && jnumber_digits(text + i, end - i, 10, &number))
            part = jint(number);
        if (index ? !jattr_item(f->vm, *out, part, out) : !jattr_get(f->vm, *out, part, out))
            return false;
        i = end + index;
        if (index && i < at->name_end && text[i] != '.' && text[i] != '[')
            return jvm_fail(f->vm, JINJA_VALUE,
                            "Only '.' or '[' may follow ']' in format field specifier");
    }
    return true;
}

/* The field whose opening brace stands before `at`; returns the offset behind it, or 0 after filling the error. */
static size_t parse_field(struct braces *f, const struct jstr *s, size_t at, struct field *out)
{
    const char *text = jstr_data(s);
    size_t depth = 0;
    bool bracket = false;

    *out = (struct field){.name = at};
    while (at < s->len && (bracket || !strchr("!:}{", text[at]) || text[at] == '\0')) {
        bracket = text[at] == '[' || (bracket && text[at] != ']');
        at++;
    }
    out->name_end = at;
    if (at < s->len && text[at] == '{')
        return (size_t)jvm_fail(f->vm, JINJA_VALUE, "unexpected '{' in field name");
    if (at + 1 < s->len && text[at] == '!') {
        out->conversion = text[at + 1];
        at += 2;
        if (at < s->len && text[at] != ':' && text[at] != '}')
            return (size_t)jvm_fail(f->vm, JINJA_VALUE, "expected ':' after conversion specifier");
    }
    if (at < s->len && text[at] == ':')
        at++;
    out->spec = at;
    while (at < s->len && (text[at] != '}' || depth > 0)) {
        depth += text[at] == '{';
        depth -= text[at] == '}';
        at++;
    }
    out->spec_end = at;
    if (at >= s->len)
        return (size_t)jvm_fail(f->vm, JINJA_VALUE, "expected '}' before end of string");
    return at + 1;
}

static bool expand(struct braces *f, struct jbuild *b, struct jvalue format, int depth);

static bool put_field(struct braces *f, struct jbuild *b, struct jvalue format,
                      const struct field *at, int depth)
{
    struct jvalue v, spec, text;
    struct jbuild inner;

    if (!field_value(f, format, at, &v))
        return false;
    if (at->conversion && !strchr("sra", at->conversion))
        return jvm_fail(f->vm, JINJA_VALUE, "Unknown conversion specifier %c", at->conversion);
    if (at->conversion &&
        (!jbuild_init(f->vm, &inner) ||
         (at->conversion == 's' ? !jbuild_value(&inner, v) : !jbuild_repr(&inner, v)) ||
         !jbuild_done(&inner, &v)))
        return false;
    if (!jstr_sub(f->vm, format, at->spec, at->spec_end - at->spec, &text) ||
        !jbuild_init(f->vm, &inner) || !expand(f, &inner, text, depth - 1) ||
        !jbuild_done(&inner, &spec))
        return false;
    if (!f->markup)
        return jformat_value(b, v, spec.u.s);
    return jbuild_init(f->vm, &inner) && jformat_value(&inner, v, spec.u.s) &&
           jbuild_done(&inner, &text) &&
           ((v.flags & JF_MARKUP) || jhtml_escape(f->vm, text, &text)) && jbuild_str(b, text.u.s);
}

/* Copies the format, fields replaced. A specification may hold fields itself, once. */
static bool expand(struct braces *f, struct jbuild *b, struct jvalue format, int depth)
{
    const struct jstr *s = format.u.s;
    const char *text = jstr_data(s);
    struct field field;
    size_t at = 0, stop;

    if (depth < 0)
        return jvm_fail(f->vm, JINJA_VALUE, "Max string recursion exceeded");
    while (at < s->len) {
        for (stop = at; stop < s->len && text[stop] != '{' && text[stop] != '}';)
            stop++;
        if (!jbuild_sub(b, s, at, stop - at) || !jvm_spend(f->vm, 1))
            return false;
        at = stop;
        if (at == s->len)
            break;
        if (at + 1 < s->len && text[at + 1] == text[at]) {
            if (!jbuild_sub(b, s, at, 1))
                return false;
            at += 2;
        } else if (text[at] == '}' || at + 1 == s->len) {
            return jvm_fail(f->vm, JINJA_VALUE, "Single '%c' encountered in format string",
                            text[at]);
        } else {
            at = parse_field(f, s, at + 1, &field);
            if (!at || !put_field(f, b, format, &field, depth))
                return false;
        }
    }
    return true;
}

bool jformat_braces(struct jvm *vm, struct jvalue format, const struct jcall *call,
                    struct jvalue *out)
{
    struct braces f = {.vm = vm, .call = call, .markup = format.flags & JF_MARKUP};
    struct jbuild b;

    if (!jbuild_init(vm, &b) || !expand(&f, &b, format, 2) || !jbuild_done(&b, out))
        return false;
    out->flags = format.flags & JF_MARKUP;
    return true;
}
