/* SPDX-License-Identifier: Apache-2.0 */
/* Single values: from text, within their range, to text. */
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/utf8.h"
#include "conf/internal.h"

/* Numbers in files and flags have a decimal point, whatever locale the embedding program has set. */
struct c_locale {
    locale_t mine, before;
};

static bool c_locale_enter(struct c_locale *l)
{
    l->mine = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (l->mine == (locale_t)0)
        return false;
    l->before = uselocale(l->mine);
    return true;
}

static void c_locale_leave(struct c_locale *l)
{
    uselocale(l->before);
    freelocale(l->mine);
}

bool value_real(const char *text, size_t len, double *out)
{
    char buf[64], *end;
    struct c_locale locale;
    double v;

    if (len == 0 || len >= sizeof buf)
        return false;
    memcpy(buf, text, len);
    buf[len] = '\0';
    if (strspn(buf, "+-.0123456789eE") < len)
        return false;
    if (!c_locale_enter(&locale))
        return false;
    v = strtod(buf, &end);
    c_locale_leave(&locale);
    if (end != buf + len || !isfinite(v))
        return false;
    *out = v;
    return true;
}

static bool parse_int(const char *text, int64_t *out)
{
    char *end;
    long long v;

    /* strtoll would skip blanks; a flag's value has none. */
    if (text[strspn(text, "+-")] < '0' || text[strspn(text, "+-")] > '9')
        return false;
    errno = 0;
    v = strtoll(text, &end, 0);
    if (errno != 0 || *end != '\0')
        return false;
    *out = v;
    return true;
}

bool value_name_ok(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.-");

    return n > 0 && n < 32 && name[n] == '\0';
}

static bool sha256_ok(const char *s)
{
    uint8_t bytes[SHA256_BYTES];

    return strlen(s) == 2 * SHA256_BYTES && hex_decode(s, bytes, sizeof bytes) == 0;
}

/* NULL, or what the text is not. */
static const char *rule_broken(enum conf_rule rule, const char *s)
{
    switch (rule) {
    case CONF_RULE_ABSOLUTE:
        return s[0] == '/' ? NULL : "must be an absolute path, beginning with '/'";
    case CONF_RULE_SHA256: return sha256_ok(s) ? NULL : "must be a SHA-256 of 64 hex digits";
    case CONF_RULE_NAME:
        return value_name_ok(s) ? NULL : "must be 1 to 31 characters of a-z, 0-9, '_', '.' or '-'";
    case CONF_RULE_SONAME:
        return s[0] && !strchr(s, '/') ? NULL : "must be a library's file name without a path";
    case CONF_RULE_NONE:
    case CONF_RULE_POWER_OF_TWO:
    default: return NULL;
    }
}

static int32_t check_text(const struct conf_row *row, const char *s, tn_err *err)
{
    const char *broken = rule_broken(row->rule, s);

    if (!utf8_valid(s, strlen(s)))
        broken = "must be UTF-8";
    if (!broken)
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path, "\"%.100s\" %s", s, broken);
}

static int32_t check_list(const struct conf_row *row, const struct conf_value *v, tn_err *err)
{
    for (uint32_t i = 0; i < v->n; i++) {
        int32_t rc = check_text(row, v->list[i], err);
        if (rc != TN_OK)
            return rc;
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(v->list[i], v->list[j]) == 0)
                return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
                              "names \"%.100s\" twice", v->list[i]);
    }
    return TN_OK;
}

static int32_t check_choice(const struct conf_row *row, struct conf_value *v, tn_err *err)
{
    char meant[CONF_MAX_NAME];
    int64_t index = 0;

    for (const char *p = row->choices; *p; index++) {
        size_t n = strcspn(p, "|");
        if (strlen(v->s) == n && memcmp(p, v->s, n) == 0) {
            v->i = index;
            return TN_OK;
        }
        p += n;
        p += *p == '|';
    }
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
           "\"%.100s\" is not one of its values: %s", v->s, row->choices);
    conf_suggest_word(row->choices, v->s, meant, sizeof meant);
    if (meant[0])
        err_remedy(err, "%s", meant);
    return TN_E_CONFIG;
}

static bool pin_variant_ok(const char *variant)
{
    const char *slash = strchr(variant, '/');

    return slash && slash > variant && slash[1] != '\0';
}

static int32_t check_pins(const struct conf_row *row, const struct conf_value *v, tn_err *err)
{
    for (uint32_t i = 0; i < v->n; i++) {
        const struct conf_pin *p = &v->pins[i];
        if (p->op[0] == '\0' || !pin_variant_ok(p->variant))
            return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
                          "pin %u: op \"%.60s\" to \"%.100s\": needs an op and a variant of the "
                          "form SET/NAME",
                          i, p->op, p->variant);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(p->op, v->pins[j].op) == 0 && strcmp(p->device, v->pins[j].device) == 0)
                return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
                              "op \"%.60s\" is pinned twice for the same device", p->op);
    }
    return TN_OK;
}

static int32_t check_int(const struct conf_row *row, int64_t v, tn_err *err)
{
    bool power = row->rule == CONF_RULE_POWER_OF_TWO;

    if (v >= row->min && v <= row->max && (!power || (v & (v - 1)) == 0))
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
                  "is %" PRId64 "; must be %s from %" PRId64 " to %" PRId64, v,
                  power ? "a power of two" : "a number", row->min, row->max);
}

int32_t value_check(const struct conf_row *row, struct conf_value *v, tn_err *err)
{
    switch (row->type) {
    case CONF_INT: return check_int(row, v->i, err);
    case CONF_REAL:
        if (v->r >= row->real_min && v->r <= row->real_max)
            return TN_OK;
        return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
                      "is %g; must be a number from %g to %g", v->r, row->real_min, row->real_max);
    case CONF_CHOICE: return check_choice(row, v, err);
    case CONF_TEXT: return check_text(row, v->s, err);
    case CONF_LIST: return check_list(row, v, err);
    case CONF_PINS: return check_pins(row, v, err);
    case CONF_BOOL:
    default: return TN_OK;
    }
}

static uint32_t count_items(const char *text)
{
    uint32_t n = text[0] != '\0';

    for (; *text; text++)
        n += *text == ',';
    return n;
}

static int32_t parse_list(const char *text, struct arena *arena, struct conf_value *out,
                          tn_err *err)
{
    uint32_t n = count_items(text);
    const char **list = n > 0 ? arena_array(arena, n, sizeof *list) : NULL;

    if (n > 0 && !list)
        return err_nomem(err, "the configuration");
    for (uint32_t i = 0; i < n; i++) {
        size_t len = strcspn(text, ",");
        list[i] = arena_strndup(arena, text, len);
        if (!list[i])
            return err_nomem(err, "the configuration");
        text += len + (text[len] == ',');
    }
    out->list = list;
    out->n = n;
    return TN_OK;
}

/* OP[@DEVICE]=SET/VARIANT */
static bool parse_pin(const char *text, struct arena *arena, struct conf_pin *out)
{
    const char *equals = strchr(text, '='), *at;

    if (!equals)
        return false;
    at = memchr(text, '@', (size_t)(equals - text));
    out->op = arena_strndup(arena, text, (size_t)((at ? at : equals) - text));
    out->device = at ? arena_strndup(arena, at + 1, (size_t)(equals - at) - 1) : "";
    out->variant = arena_strdup(arena, equals + 1);
    return out->op && out->device && out->variant;
}

static int32_t parse_pins(const struct conf_row *row, const char *text, struct arena *arena,
                          struct conf_value *out, tn_err *err)
{
    struct conf_pin *pins;
    int32_t rc = parse_list(text, arena, out, err);

    if (rc != TN_OK || out->n == 0)
        return rc;
    pins = arena_array(arena, out->n, sizeof *pins);
    if (!pins)
        return err_nomem(err, "the configuration");
    for (uint32_t i = 0; i < out->n; i++)
        if (!parse_pin(out->list[i], arena, &pins[i]))
            return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path,
                          "\"%.100s\" is not of the form OP[@DEVICE]=SET/VARIANT", out->list[i]);
    out->list = NULL;
    out->pins = pins;
    return TN_OK;
}

static int32_t not_a(const struct conf_row *row, const char *text, const char *what, tn_err *err)
{
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, row->path, "\"%.100s\" is not %s", text,
                  what);
}

int32_t value_parse(const struct conf_row *row, const char *text, struct arena *arena,
                    struct conf_value *out, tn_err *err)
{
    struct conf_value v = {0};
    int32_t rc = TN_OK;

    switch (row->type) {
    case CONF_BOOL:
        v.b = strcmp(text, "true") == 0;
        if (!v.b && strcmp(text, "false") != 0)
            rc = not_a(row, text, "true or false", err);
        break;
    case CONF_INT:
        if (!parse_int(text, &v.i))
            rc = not_a(row, text, "a whole number of 64 bits", err);
        break;
    case CONF_REAL:
        if (!value_real(text, strlen(text), &v.r))
            rc = not_a(row, text, "a number", err);
        break;
    case CONF_LIST: rc = parse_list(text, arena, &v, err); break;
    case CONF_PINS: rc = parse_pins(row, text, arena, &v, err); break;
    case CONF_CHOICE:
    case CONF_TEXT:
    default:
        v.s = arena_strdup(arena, text);
        if (!v.s)
            rc = err_nomem(err, "the configuration");
        break;
    }
    if (rc == TN_OK)
        rc = value_check(row, &v, err);
    if (rc == TN_OK)
        *out = v;
    return rc;
}

void value_print_real(double v, struct strbuf *out)
{
    struct c_locale locale;
    char text[40], *end;
    bool c = c_locale_enter(&locale);

    /* The shortest of the two that reads back as the same number: 0.9, not 0.90000000000000002. */
    snprintf(text, sizeof text, "%.15g", v);
    if (strtod(text, &end) != v)
        snprintf(text, sizeof text, "%.17g", v);
    if (c)
        c_locale_leave(&locale);
    strbuf_puts(out, text);
}

void value_print(const struct conf_row *row, const struct conf_value *v, struct strbuf *out)
{
    switch (row->type) {
    case CONF_BOOL: strbuf_puts(out, v->b ? "true" : "false"); break;
    case CONF_INT: strbuf_printf(out, "%" PRId64, v->i); break;
    case CONF_REAL: value_print_real(v->r, out); break;
    case CONF_LIST:
        for (uint32_t i = 0; i < v->n; i++)
            strbuf_printf(out, "%s%s", i > 0 ? "," : "", v->list[i]);
        break;
    case CONF_PINS:
        for (uint32_t i = 0; i < v->n; i++)
            strbuf_printf(out, "%s%s%s%s=%s", i > 0 ? "," : "", v->pins[i].op,
                          v->pins[i].device[0] ? "@" : "", v->pins[i].device, v->pins[i].variant);
        break;
    case CONF_CHOICE:
    case CONF_TEXT:
    default: strbuf_puts(out, v->s); break;
    }
}
