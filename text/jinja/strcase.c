/* SPDX-License-Identifier: Apache-2.0 */
/* Upper and lower case, and what characters a string is made of. */
#include "jinja/call.h"
#include "jinja/text.h"
#include "jinja/unicode.h"
#include "jinja/vm.h"

#define CAPITAL_SIGMA 0x3a3

/* Whether a cased letter stands before (or behind) byte `at` within [from, to), case-ignorable ones skipped. */
static bool cased_before(const struct jstr *s, size_t from, size_t at)
{
    while (at > from) {
        uint32_t cp;
        at = jstr_before(s, at);
        jstr_decode(s, at, &cp);
        if (!junicode_case_ignorable(cp))
            return junicode_cased(cp);
    }
    return false;
}

static bool cased_behind(const struct jstr *s, size_t at, size_t to)
{
    while (at < to) {
        uint32_t cp;
        at += jstr_decode(s, at, &cp);
        if (!junicode_case_ignorable(cp))
            return junicode_cased(cp);
    }
    return false;
}

/* The character at `at` in lower case. A sigma at the end of a word has a form of its own. */
static bool put_lower(struct jbuild *b, const struct jstr *s, size_t at, size_t from, size_t to)
{
    uint32_t cp, map[JUNICODE_MAP];
    size_t n = jstr_decode(s, at, &cp), count;
    bool trusted = jstr_trusted_at(s, at);

    if (cp == CAPITAL_SIGMA)
        return jbuild_char(
            b, cased_before(s, from, at) && !cased_behind(s, at + n, to) ? 0x3c2 : 0x3c3, trusted);
    count = junicode_to_lower(cp, map);
    for (size_t i = 0; i < count; i++) {
        if (!jbuild_char(b, map[i], trusted))
            return false;
    }
    return true;
}

static bool put_mapped(struct jbuild *b, const struct jstr *s, size_t at,
                       size_t (*map)(uint32_t, uint32_t[JUNICODE_MAP]))
{
    uint32_t cp, to[JUNICODE_MAP];
    size_t count;

    jstr_decode(s, at, &cp);
    count = map(cp, to);
    for (size_t i = 0; i < count; i++) {
        if (!jbuild_char(b, to[i], jstr_trusted_at(s, at)))
            return false;
    }
    return true;
}

/* Steps for the character at `at`: one for every fourth. */
static bool pace(struct jvm *vm, size_t at)
{
    return (at & 3) != 0 || jvm_spend(vm, 1);
}

bool jtext_lower_part(struct jbuild *b, const struct jstr *s, size_t from, size_t to)
{
    uint32_t cp;

    for (size_t at = from; at < to; at += jstr_decode(s, at, &cp)) {
        if (!pace(b->vm, at) || !put_lower(b, s, at, from, to))
            return false;
    }
    return true;
}

bool jtext_upper_part(struct jbuild *b, const struct jstr *s, size_t from, size_t to)
{
    uint32_t cp;

    for (size_t at = from; at < to; at += jstr_decode(s, at, &cp)) {
        if (!pace(b->vm, at) || !put_mapped(b, s, at, junicode_to_upper))
            return false;
    }
    return true;
}

static bool put_case(struct jbuild *b, enum jcase how, const struct jstr *s, size_t at,
                     bool *in_word)
{
    uint32_t cp;
    bool lower;

    jstr_decode(s, at, &cp);
    switch (how) {
    case JCASE_LOWER: lower = true; break;
    case JCASE_CAPITALIZE: lower = at > 0; break;
    case JCASE_TITLE:
        lower = *in_word;
        *in_word = junicode_cased(cp);
        break;
    case JCASE_SWAP:
        if (!junicode_upper(cp) && !junicode_lower(cp))
            return jbuild_char(b, cp, jstr_trusted_at(s, at));
        lower = junicode_upper(cp);
        break;
    default: lower = false; break;
    }
    if (lower)
        return put_lower(b, s, at, 0, s->len);
    return put_mapped(b, s, at,
                      how == JCASE_UPPER || how == JCASE_SWAP ? junicode_to_upper
                      : how == JCASE_FOLD                     ? junicode_fold
                                                              : junicode_to_title);
}

/* ASCII text in the builder's own buffer, where nobody else sees it yet. */
static void map_ascii(enum jcase how, char *text, size_t n)
{
    bool in_word = false;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z', capital = false;
        switch (how) {
        case JCASE_LOWER:
        case JCASE_FOLD: break;
        case JCASE_UPPER: capital = true; break;
        case JCASE_CAPITALIZE: capital = i == 0; break;
        case JCASE_TITLE: capital = !in_word; break;
        case JCASE_SWAP: capital = lower; break;
        }
        in_word = lower || upper;
        if ((lower && capital) || (upper && !capital))
            text[i] = (char)(c ^ 0x20);
    }
}

bool jtext_case(struct jvm *vm, enum jcase how, struct jvalue v, struct jvalue *out)
{
    const struct jstr *s = v.u.s;
    struct jbuild b;
    bool in_word = false, ascii = jstr_ascii(s);
    uint32_t cp;

    if (!jbuild_init(vm, &b) || (ascii && !jbuild_str(&b, s)))
        return false;
    if (ascii)
        map_ascii(how, b.buf->data, b.buf->len);
    for (size_t at = ascii ? s->len : 0; at < s->len; at += jstr_decode(s, at, &cp)) {
        if (!pace(vm, at) || !put_case(&b, how, s, at, &in_word))
            return false;
    }
    if (!jbuild_done(&b, out))
        return false;
    out->flags = v.flags & JF_MARKUP;
    return true;
}

bool jtext_is_lower(const struct jstr *s)
{
    bool some = false;
    uint32_t cp;

    for (size_t at = 0; at < s->len;) {
        at += jstr_decode(s, at, &cp);
        if (junicode_upper(cp) || junicode_title(cp))
            return false;
        some |= junicode_lower(cp);
    }
    return some;
}

bool jtext_is_upper(const struct jstr *s)
{
    bool some = false;
    uint32_t cp;

    for (size_t at = 0; at < s->len;) {
        at += jstr_decode(s, at, &cp);
        if (junicode_lower(cp) || junicode_title(cp))
            return false;
        some |= junicode_upper(cp);
    }
    return some;
}

static bool is_title(const struct jstr *s)
{
    bool some = false, in_word = false;
    uint32_t cp;

    for (size_t at = 0; at < s->len;) {
        bool capital;
        at += jstr_decode(s, at, &cp);
        capital = junicode_upper(cp) || junicode_title(cp);
        if ((capital && in_word) || (!capital && junicode_lower(cp) && !in_word))
            return false;
        in_word = capital || junicode_lower(cp);
        some |= in_word;
    }
    return some;
}

/* All characters have the property; `empty` is the answer for no characters. */
static bool all_are(struct jvm *vm, const struct jargs *a, bool (*is)(uint32_t), bool empty,
                    struct jvalue *out)
{
    const struct jstr *s = a->self.u.s;
    bool all = s->len > 0 || empty;
    uint32_t cp;

    for (size_t at = 0; all && at < s->len;) {
        at += jstr_decode(s, at, &cp);
        all = is(cp);
    }
    *out = jbool(all);
    return jvm_spend_bytes(vm, s->len * 4);
}

#define CASE_METHOD(name, how)                                                                     \
    static bool name(struct jvm *vm, const struct jargs *a, struct jvalue *out)                    \
    {                                                                                              \
        return jtext_case(vm, how, a->self, out);                                                  \
    }
CASE_METHOD(str_lower, JCASE_LOWER)
CASE_METHOD(str_upper, JCASE_UPPER)
CASE_METHOD(str_capitalize, JCASE_CAPITALIZE)
CASE_METHOD(str_title, JCASE_TITLE)
CASE_METHOD(str_swapcase, JCASE_SWAP)
CASE_METHOD(str_casefold, JCASE_FOLD)
#undef CASE_METHOD

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

#define ALL_METHOD(name, is, empty)                                                                \
    static bool name(struct jvm *vm, const struct jargs *a, struct jvalue *out)                    \
    {                                                                                              \
        return all_are(vm, a, is, empty, out);                                                     \
    }
ALL_METHOD(str_isalnum, junicode_alnum, false)
ALL_METHOD(str_isalpha, junicode_alpha, false)
ALL_METHOD(str_isascii, is_ascii, true)
ALL_METHOD(str_isdecimal, junicode_decimal, false)
ALL_METHOD(str_isdigit, junicode_digit, false)
ALL_METHOD(str_isnumeric, junicode_numeric, false)
ALL_METHOD(str_isprintable, junicode_printable, true)
ALL_METHOD(str_isspace, junicode_space, false)
#undef ALL_METHOD

static bool str_islower(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jbool(jtext_is_lower(a->self.u.s));
    return jvm_spend_bytes(vm, a->self.u.s->len * 4);
}

static bool str_isupper(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jbool(jtext_is_upper(a->self.u.s));
    return jvm_spend_bytes(vm, a->self.u.s->len * 4);
}

static bool str_istitle(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    *out = jbool(is_title(a->self.u.s));
    return jvm_spend_bytes(vm, a->self.u.s->len * 4);
}

static bool str_isidentifier(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    uint32_t cp;

    if (!all_are(vm, a, junicode_id_continue, false, out) || !out->u.b)
        return vm->failure == JINJA_OK;
    jstr_decode(a->self.u.s, 0, &cp);
    *out = jbool(junicode_id_start(cp));
    return true;
}

const struct jbuiltin jmethods_case[] = {{"lower", "", str_lower},
                                         {"upper", "", str_upper},
                                         {"capitalize", "", str_capitalize},
                                         {"title", "", str_title},
                                         {"swapcase", "", str_swapcase},
                                         {"casefold", "", str_casefold},
                                         {"isalnum", "", str_isalnum},
                                         {"isalpha", "", str_isalpha},
                                         {"isascii", "", str_isascii},
                                         {"isdecimal", "", str_isdecimal},
                                         {"isdigit", "", str_isdigit},
                                         {"isidentifier", "", str_isidentifier},
                                         {"islower", "", str_islower},
                                         {"isnumeric", "", str_isnumeric},
                                         {"isprintable", "", str_isprintable},
                                         {"isspace", "", str_isspace},
                                         {"istitle", "", str_istitle},
                                         {"isupper", "", str_isupper},
                                         {NULL, NULL, NULL}};
