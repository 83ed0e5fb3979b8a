/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"

/* jansson caps nesting at JSON_PARSER_MAX_DEPTH, 2048, and recurses that far; our cap is lower. Brackets inside
 * strings do not count. */
static bool too_deep(const char *text, size_t len)
{
    size_t depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > LIMIT_JSON_DEPTH)
                return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

int32_t json_parse(const char *text, size_t len, const char *name, json_t **out, tn_err *err)
{
    json_error_t je;
    json_t *v;

    if (too_deep(text, len))
        return err_at(err, TN_E_LIMIT, name, TN_NO_OFFSET, NULL,
                      "is nested more than %d levels deep", LIMIT_JSON_DEPTH);
    v = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!v) {
        int32_t code = json_error_code(&je) == json_error_out_of_memory ? TN_E_NOMEM : TN_E_FORMAT;
        return err_at(err, code, name, (uint64_t)je.position, NULL,
                      "is not valid JSON: %s (line %d)", je.text, je.line);
    }
    *out = v;
    return TN_OK;
}

int32_t json_read(const char *path, uint64_t limit, json_t **out, tn_err *err)
{
    char *text;
    size_t len;
    int32_t rc;

    rc = file_read(path, limit, &text, &len, err);
    if (rc != TN_OK)
        return rc;
    rc = json_parse(text, len, path, out, err);
    mem_free(text);
    return rc;
}

/* One step of a path: a member name up to '.', '[' or the end. */
static const json_t *member(const json_t *v, const char *p, size_t n)
{
    return json_is_object(v) ? json_object_getn(v, p, n) : NULL;
}

const json_t *json_at(const json_t *v, const char *path)
{
    const char *p = path;

    while (v && *p) {
        if (*p == '.') {
            p++;
        } else if (*p == '[') {
            char *end;
            unsigned long i = strtoul(p + 1, &end, 10);
            if (*end != ']')
                return NULL;
            v = json_array_get(v, i);
            p = end + 1;
        } else {
            size_t n = strcspn(p, ".[");
            v = member(v, p, n);
            p += n;
        }
    }
    return json_is_null(v) ? NULL : v;
}

void json_brief(const json_t *v, char *out, size_t size)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);

    snprintf(out, size, "%s", text ? text : "?");
    if (text && strlen(text) >= size && size > 4)
        memcpy(out + size - 4, "...", 4);
    free(text);
}

static int32_t wrong_type(const json_t *v, const char *file, const char *path, const char *want,
                          tn_err *err)
{
    char text[64];

    json_brief(v, text, sizeof text);
    return err_at(err, TN_E_TYPE, file, TN_NO_OFFSET, path, "is %s, but must be %s", text, want);
}

int32_t json_get_int(const json_t *root, const char *file, const char *path, int64_t min,
                     int64_t max, int64_t *out, tn_err *err)
{
    const json_t *v = json_at(root, path);
    int64_t i;

    if (!v)
        return TN_E_NOTFOUND;
    /* 8.0 is an integer too: some exporters write every number as a real. */
    if (json_is_real(v) && floor(json_real_value(v)) == json_real_value(v) &&
        fabs(json_real_value(v)) < 9007199254740992.0)
        i = (int64_t)json_real_value(v);
    else if (json_is_integer(v))
        i = json_integer_value(v);
    else
        return wrong_type(v, file, path, "an integer", err);
    if (i < min || i > max)
        return err_at(err, TN_E_RANGE, file, TN_NO_OFFSET, path,
                      "is %" PRId64 ", but must be from %" PRId64 " to %" PRId64, i, min, max);
    *out = i;
    return TN_OK;
}

int32_t json_get_real(const json_t *root, const char *file, const char *path, double min,
                      double max, double *out, tn_err *err)
{
    const json_t *v = json_at(root, path);
    double d;

    if (!v)
        return TN_E_NOTFOUND;
    if (!json_is_number(v))
        return wrong_type(v, file, path, "a number", err);
    d = json_number_value(v);
    if (!(d >= min && d <= max))
        return err_at(err, TN_E_RANGE, file, TN_NO_OFFSET, path, "is %g, but must be from %g to %g",
                      d, min, max);
    *out = d;
    return TN_OK;
}

int32_t json_get_bool(const json_t *root, const char *file, const char *path, bool *out,
                      tn_err *err)
{
    const json_t *v = json_at(root, path);

    if (!v)
        return TN_E_NOTFOUND;
    if (!json_is_boolean(v))
        return wrong_type(v, file, path, "true or false", err);
    *out = json_boolean_value(v);
    return TN_OK;
}

const char *json_plain(const json_t *v)
{
    const char *s = json_string_value(v);

    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

int32_t json_get_str(const json_t *root, const char *file, const char *path, const char **out,
                     tn_err *err)
{
    const json_t *v = json_at(root, path);

    if (!v)
        return TN_E_NOTFOUND;
    if (!json_is_string(v))
        return wrong_type(v, file, path, "a string", err);
    if (!json_plain(v))
        return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, path, "contains a NUL byte");
    *out = json_plain(v);
    return TN_OK;
}

int32_t json_missing(const char *file, const char *path, tn_err *err)
{
    return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, path, "is missing");
}
