/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings beside the vocabulary (settings.h), found as transformers finds them: template files take the place of
 * those in tokenizer_config.json; roles of that file win over special_tokens_map.json. One thread.
 */
#include "settings.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "jsontape.h"
#include "textlimits.h"

static void list_release(struct named_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        mem_free(l->items[i].name);
        mem_free(l->items[i].text);
    }
    mem_free(l->items);
}

void settings_release(struct settings *s)
{
    list_release(&s->roles);
    list_release(&s->templates);
    for (size_t i = 0; i < s->flag_count; i++)
        mem_free(s->flags[i].name);
    mem_free(s->flags);
    memset(s, 0, sizeof *s);
}

const struct named_text *named_find(const struct named_list *l, const char *name)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->items[i].name, name) == 0)
            return &l->items[i];
    return NULL;
}

/* Adds a copy unless the name is there. */
static int32_t add(struct named_list *l, const char *name, size_t name_len, const char *text,
                   size_t len, tn_err *err)
{
    struct named_text x = {mem_strndup(name, name_len), mem_alloc(len + 1), len};

    if (!x.name || !x.text || !mem_grow(&l->items, &l->cap, l->count + 1, sizeof *l->items)) {
        mem_free(x.name);
        mem_free(x.text);
        return err_nomem(err, "the settings of a tokenizer");
    }
    memcpy(x.text, text, len);
    x.text[len] = '\0';
    if (named_find(l, x.name)) {
        mem_free(x.name);
        mem_free(x.text);
    } else {
        l->items[l->count++] = x;
    }
    return TN_OK;
}

static int32_t add_flag(struct settings *s, const char *name, size_t len, bool on, tn_err *err)
{
    char *copy = mem_strndup(name, len);

    if (!copy || !mem_grow(&s->flags, &s->flag_cap, s->flag_count + 1, sizeof *s->flags)) {
        mem_free(copy);
        return err_nomem(err, "the settings of a tokenizer");
    }
    s->flags[s->flag_count++] = (struct named_flag){copy, on};
    return TN_OK;
}

static bool ends_with(const char *text, size_t len, const char *end)
{
    size_t n = strlen(end);

    return len >= n && memcmp(text + len - n, end, n) == 0;
}

/* Members that are flags, and roles: "..._token" with a text or {"content": text}. */
static int32_t take_members(struct settings *s, const struct tape *t, tn_err *err)
{
    uint32_t at = 1;
    int32_t rc = TN_OK;

    if (!tape_is(t, 0, TAPE_OBJECT))
        return tape_err(t, TAPE_NONE, NULL, err, "must be an object");
    for (uint32_t i = 0; rc == TN_OK && i < t->nodes[0].len; i++) {
        size_t n, len;
        const char *name = tape_str(t, at, &n), *text;
        uint32_t v = at + 1, content = tape_is(t, v, TAPE_OBJECT) ? tape_get(t, v, "content") : v;
        at = t->nodes[v].next;
        if (memchr(name, '\0', n) || n > 256)
            continue;
        if (tape_is(t, v, TAPE_TRUE) || tape_is(t, v, TAPE_FALSE)) {
            rc = add_flag(s, name, n, tape_is(t, v, TAPE_TRUE), err);
        } else if (ends_with(name, n, "_token") && tape_is(t, content, TAPE_STRING)) {
            text = tape_str(t, content, &len);
            rc = add(&s->roles, name, n, text, len, err);
        }
    }
    return rc;
}

static int32_t add_template(struct settings *s, const struct tape *t, uint32_t node,
                            const char *name, size_t n, tn_err *err)
{
    size_t len;
    const char *text = tape_str(t, node, &len);

    if (len > LIMIT_TEMPLATE_BYTES)
        return tape_err(t, node, "chat_template", err, "has %zu bytes, more than %llu", len,
                        (unsigned long long)LIMIT_TEMPLATE_BYTES);
    return add(&s->templates, name, n, text, len, err);
}

/* "chat_template": a text, or [{"name": ..., "template": ...}, ...]. */
static int32_t take_templates(struct settings *s, const struct tape *t, tn_err *err)
{
    uint32_t v = tape_get(t, 0, "chat_template"), at = v + 1;
    int32_t rc = TN_OK;

    if (v == TAPE_NONE)
        return TN_OK;
    if (tape_is(t, v, TAPE_STRING))
        return add_template(s, t, v, "default", 7, err);
    if (!tape_is(t, v, TAPE_ARRAY) || t->nodes[v].len > LIMIT_TEMPLATES)
        return tape_err(t, v, "chat_template", err,
                        "must be a text, or a list of at most %d named ones", LIMIT_TEMPLATES);
    for (uint32_t i = 0; rc == TN_OK && i < t->nodes[v].len; i++, at = t->nodes[at].next) {
        uint32_t name = tape_get(t, at, "name"), text = tape_get(t, at, "template");
        size_t n;
        const char *named;
        if (!tape_is(t, name, TAPE_STRING) || !tape_is(t, text, TAPE_STRING))
            return tape_err(t, at, "chat_template", err, "has an entry without name or template");
        named = tape_str(t, name, &n);
        rc = add_template(s, t, text, named, n, err);
    }
    return rc;
}

static int32_t read_template(struct settings *s, const char *path, const char *name, size_t n,
                             tn_err *err)
{
    char *text = NULL;
    size_t len = 0;
    int32_t rc = file_read(path, LIMIT_TEMPLATE_BYTES, &text, &len, err);

    if (rc == TN_OK && !utf8_valid(text, len))
        rc = err_at(err, TN_E_FORMAT, path, TN_NO_OFFSET, NULL, "is not valid UTF-8");
    if (rc == TN_OK)
        rc = add(&s->templates, name, n, text, len, err);
    mem_free(text);
    return rc;
}

/* additional_chat_templates/NAME.jinja */
static int32_t read_additional(struct settings *s, const char *dir, tn_err *err)
{
    char *sub = path_join(dir, "additional_chat_templates"), **names = NULL;
    size_t count = 0;
    int32_t rc = TN_OK;

    if (!sub)
        return err_nomem(err, "the settings of a tokenizer");
    if (path_is_dir(sub))
        rc = dir_list(sub, &names, &count, err);
    for (size_t i = 0; rc == TN_OK && i < count && s->templates.count < LIMIT_TEMPLATES; i++) {
        size_t n = strlen(names[i]);
        char *path;
        if (n <= 6 || !ends_with(names[i], n, ".jinja"))
            continue;
        path = path_join(sub, names[i]);
        rc = path ? read_template(s, path, names[i], n - 6, err)
                  : err_nomem(err, "the settings of a tokenizer");
        mem_free(path);
    }
    dir_list_free(names, count);
    mem_free(sub);
    return rc;
}

static int32_t read_template_files(struct settings *s, const char *dir, tn_err *err)
{
    char *path = path_join(dir, "chat_template.jinja");
    int32_t rc = path ? TN_OK : err_nomem(err, "the settings of a tokenizer");

    if (rc == TN_OK && path_is_file(path))
        rc = read_template(s, path, "default", 7, err);
    if (rc == TN_OK)
        rc = read_additional(s, dir, err);
    mem_free(path);
    return rc;
}

/* One JSON file, if it is there. */
static int32_t read_json(struct settings *s, const char *dir, const char *name, bool templates,
                         tn_err *err)
{
    struct tape t = {NULL, NULL, 0, 0, NULL};
    char *path = path_join(dir, name);
    int32_t rc = path ? TN_OK : err_nomem(err, "the settings of a tokenizer");

    if (rc == TN_OK && path_is_file(path)) {
        rc = tape_read(path, LIMIT_CONFIG_JSON_BYTES, &t, err);
        if (rc == TN_OK)
            rc = take_members(s, &t, err);
        if (rc == TN_OK && templates && s->templates.count == 0)
            rc = take_templates(s, &t, err);
        tape_release(&t);
    }
    mem_free(path);
    return rc;
}

int32_t settings_read(const char *dir, struct settings *out, tn_err *err)
{
    int32_t rc;

    memset(out, 0, sizeof *out);
    rc = read_template_files(out, dir, err);
    if (rc == TN_OK)
        rc = read_json(out, dir, "tokenizer_config.json", true, err);
    if (rc == TN_OK)
        rc = read_json(out, dir, "special_tokens_map.json", false, err);
    return rc;
}
