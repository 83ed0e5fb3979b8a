/* SPDX-License-Identifier: Apache-2.0 */
/* What importers share (import_common.h). One thread. */
#include "import_common.h"

#include "base/json.h"
#include "base/mem.h"
#include "textlimits.h"

void import_quote(struct strbuf *out, const char *text, size_t n)
{
    size_t done = 0;

    strbuf_putc(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        strbuf_append(out, text + done, i - done);
        strbuf_printf(out, "\\u%04x", c);
        done = i + 1;
    }
    strbuf_append(out, text + done, n - done);
    strbuf_putc(out, '"');
}

int32_t import_config_read(const char *path, json_t **out, tn_err *err)
{
    *out = NULL;
    return path ? json_read(path, LIMIT_TOKENIZER_BYTES, out, err) : TN_OK;
}

const char *import_config_text(const json_t *config, const char *name)
{
    const json_t *v = json_object_get(config, name);

    if (json_is_object(v))
        v = json_object_get(v, "content");
    return json_string_value(v);
}

bool import_config_bool(const json_t *config, const char *name, bool fallback)
{
    const json_t *v = json_object_get(config, name);

    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

void import_tokens_release(struct import_tokens *l)
{
    for (size_t i = 0; i < l->count; i++)
        mem_free(l->items[i].content);
    mem_free(l->items);
    memset(l, 0, sizeof *l);
}

const struct import_token *import_tokens_find(const struct import_tokens *l, uint32_t id)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->items[i].id == id)
            return &l->items[i];
    return NULL;
}

int32_t import_tokens_add(struct import_tokens *l, const char *content, size_t len, uint32_t id,
                          bool special, tn_err *err)
{
    char *copy;

    if (import_tokens_find(l, id))
        return TN_OK;
    if (l->count >= LIMIT_IMPORT_TOKENS)
        return tn_err_set(err, TN_E_LIMIT, "there are more than %d special and added tokens",
                          LIMIT_IMPORT_TOKENS);
    copy = mem_copy(content, len);
    if (!copy || !mem_grow(&l->items, &l->cap, l->count + 1, sizeof *l->items)) {
        mem_free(copy);
        return err_nomem(err, "a vocabulary");
    }
    l->items[l->count++] =
        (struct import_token){copy, len, id, special, false, false, false, false};
    return TN_OK;
}

/* A decimal id; false if it is none, or out of range. */
static bool parse_id(const char *text, uint32_t *out)
{
    *out = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || *out >= LIMIT_VOCAB)
            return false;
        *out = *out * 10 + (uint32_t)(*p - '0');
    }
    return text[0] != '\0' && *out < LIMIT_VOCAB;
}

int32_t import_tokens_config(struct import_tokens *l, const json_t *config, const char *file,
                             tn_err *err)
{
    json_t *list = json_object_get(config, "added_tokens_decoder"), *v;
    const char *key;

    if (!list)
        return TN_OK;
    if (!json_is_object(list) || json_object_size(list) > LIMIT_IMPORT_TOKENS)
        return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, "added_tokens_decoder",
                      "must be an object of at most %d members", LIMIT_IMPORT_TOKENS);
    json_object_foreach(list, key, v)
    {
        const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
        struct import_token *t;
        uint32_t id;
        int32_t rc;
        if (!parse_id(key, &id) || !json_is_string(content) || json_string_length(content) == 0)
            return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, "added_tokens_decoder",
                          "\"%.40s\" must be an id with a text", key);
        rc = import_tokens_add(l, json_string_value(content), json_string_length(content), id,
                               import_config_bool(v, "special", false), err);
        if (rc != TN_OK)
            return rc;
        t = &l->items[l->count - 1];
        if (t->id != id)
            continue;
        t->lstrip = import_config_bool(v, "lstrip", false);
        t->rstrip = import_config_bool(v, "rstrip", false);
        t->single_word = import_config_bool(v, "single_word", false);
        t->normalized = import_config_bool(v, "normalized", false);
    }
    return TN_OK;
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = ((const struct import_token *)a)->id, y = ((const struct import_token *)b)->id;

    return x < y ? -1 : x > y;
}

static const char *word(bool b)
{
    return b ? "true" : "false";
}

void import_tokens_print(struct import_tokens *l, struct strbuf *out)
{
    if (l->count > 0)
        qsort(l->items, l->count, sizeof *l->items, by_id);
    strbuf_putc(out, '[');
    for (size_t i = 0; i < l->count; i++) {
        const struct import_token *t = &l->items[i];
        strbuf_printf(out, "%s{\"id\":%u,\"content\":", i ? "," : "", (unsigned)t->id);
        import_quote(out, t->content, t->len);
        strbuf_printf(out,
                      ",\"single_word\":%s,\"lstrip\":%s,\"rstrip\":%s,\"normalized\":%s,"
                      "\"special\":%s}",
                      word(t->single_word), word(t->lstrip), word(t->rstrip), word(t->normalized),
                      word(t->special));
    }
    strbuf_putc(out, ']');
}

static void put_special(const char *token, int type, struct strbuf *out)
{
    if (!token)
        return;
    strbuf_puts(out, "{\"SpecialToken\":{\"id\":");
    import_quote(out, token, strlen(token));
    strbuf_printf(out, ",\"type_id\":%d}},", type);
}

static void put_sequence(const char *bos, const char *eos, const char *name, int type,
                         struct strbuf *out)
{
    put_special(bos, type, out);
    strbuf_printf(out, "{\"Sequence\":{\"id\":\"%s\",\"type_id\":%d}},", name, type);
    put_special(eos, type, out);
    out->len -= !out->failed; /* the last comma */
}

static void put_ids(const char *token, uint32_t id, struct strbuf *out)
{
    size_t n = strlen(token);

    import_quote(out, token, n);
    strbuf_puts(out, ":{\"id\":");
    import_quote(out, token, n);
    strbuf_printf(out, ",\"ids\":[%u],\"tokens\":[", (unsigned)id);
    import_quote(out, token, n);
    strbuf_puts(out, "]}");
}

void import_template(const char *bos, uint32_t bos_id, const char *eos, uint32_t eos_id,
                     struct strbuf *out)
{
    if (!bos && !eos) {
        strbuf_puts(out, "null");
        return;
    }
    strbuf_puts(out, "{\"type\":\"TemplateProcessing\",\"single\":[");
    put_sequence(bos, eos, "A", 0, out);
    strbuf_puts(out, "],\"pair\":[");
    put_sequence(bos, eos, "A", 0, out);
    strbuf_putc(out, ',');
    put_sequence(bos, eos, "B", 1, out);
    strbuf_puts(out, "],\"special_tokens\":{");
    if (bos)
        put_ids(bos, bos_id, out);
    if (bos && eos && strcmp(bos, eos) != 0)
        strbuf_putc(out, ',');
    if (eos && (!bos || strcmp(bos, eos) != 0))
        put_ids(eos, eos_id, out);
    strbuf_puts(out, "}}");
}
