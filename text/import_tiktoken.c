/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tiktoken's files, a token in base64 and its rank on each line, said as a tokenizer.json. What the file does not say, the
 * split pattern and the special tokens, comes from tokenizer_config.json, else from the file's name, else it is what
 * transformers assumes. One thread.
 */
#include "base/file.h"
#include "base/mem.h"
#include "base64.h"
#include "bytelevel.h"
#include "import.h"
#include "import_common.h"
#include "textlimits.h"

#define CL100K                                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+" \
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN                                                                                       \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "                          \
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"                                                               \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define O200K                                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"    \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"    \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| "                    \
    "?[^\\s\\p{L}\\p{N}]+"                                                                         \
    "[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Published files by name. */
static const struct known {
    const char *name, *pattern;
    struct {
        const char *content;
        uint32_t id;
    } special[6];
} known_files[] = {
    {"r50k_base.tiktoken", GPT2, {{"<|endoftext|>", 50256}}},
    {"p50k_base.tiktoken", GPT2, {{"<|endoftext|>", 50256}}},
    {"cl100k_base.tiktoken",
     CL100K,
     {{"<|endoftext|>", 100257},
      {"<|fim_prefix|>", 100258},
      {"<|fim_middle|>", 100259},
      {"<|fim_suffix|>", 100260},
      {"<|endofprompt|>", 100276}}},
    {"o200k_base.tiktoken", O200K, {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}}},
    {"qwen.tiktoken",
     QWEN,
     {{"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645}}},
};

struct rank_file {
    const char *path;
    const char *data;
    size_t len;
    uint32_t count, next_id; /* tokens; one more than the largest rank */
};

static int32_t bad_line(const struct rank_file *f, size_t line, const char *what, tn_err *err)
{
    return err_at(err, TN_E_FORMAT, f->path, TN_NO_OFFSET, NULL, "line %zu: %s", line, what);
}

static bool parse_rank(const char *p, size_t n, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9' || *out >= LIMIT_VOCAB)
            return false;
        *out = *out * 10 + (uint32_t)(p[i] - '0');
    }
    return n > 0 && *out < LIMIT_VOCAB;
}

/* Appends the bytes in GPT-2's alphabet as a JSON string. */
static void put_token(struct strbuf *out, const char *bytes, size_t n)
{
    strbuf_putc(out, '"');
    for (size_t i = 0; i < n; i++) {
        char c[2];
        size_t len = bytelevel_char((unsigned char)bytes[i], c);
        if (c[0] == '"' || c[0] == '\\')
            strbuf_putc(out, '\\');
        strbuf_append(out, c, len);
    }
    strbuf_putc(out, '"');
}

static int32_t put_line(struct rank_file *f, const char *line, size_t n, size_t number,
                        struct strbuf *out, tn_err *err)
{
    const char *space = memchr(line, ' ', n);
    char *bytes;
    uint32_t rank;
    size_t len, text_len = space ? (size_t)(space - line) : 0;

    if (!space || !parse_rank(space + 1, n - text_len - 1, &rank))
        return bad_line(f, number, "is not a token in base64, a space and a rank", err);
    if (base64_room(text_len) > LIMIT_TOKEN_BYTES + 3)
        return bad_line(f, number, "the token is too long", err);
    bytes = mem_alloc(base64_room(text_len) + 1);
    if (!bytes)
        return err_nomem(err, "a vocabulary");
    if (!base64_decode(line, text_len, bytes, &len) || len == 0) {
        mem_free(bytes);
        return bad_line(f, number, "the token is not base64, or empty", err);
    }
    strbuf_puts(out, f->count ? ",\n" : "\n");
    put_token(out, bytes, len);
    strbuf_printf(out, ":%u", (unsigned)rank);
    mem_free(bytes);
    f->count++;
    if (rank >= f->next_id)
        f->next_id = rank + 1;
    return out->failed ? err_nomem(err, "a vocabulary") : TN_OK;
}

static int32_t print_vocab(struct rank_file *f, struct strbuf *out, tn_err *err)
{
    size_t number = 0;
    int32_t rc = TN_OK;

    for (size_t at = 0; rc == TN_OK && at < f->len;) {
        const char *line = f->data + at;
        const char *end = memchr(line, '\n', f->len - at);
        size_t n = end ? (size_t)(end - line) : f->len - at;
        at += n + 1;
        number++;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n > 0)
            rc = put_line(f, line, n, number, out, err);
    }
    if (rc == TN_OK && f->count == 0)
        rc = err_at(err, TN_E_FORMAT, f->path, TN_NO_OFFSET, NULL, "the file has no tokens");
    return rc;
}

static const struct known *known_file(const char *path)
{
    const char *name = path_base(path);

    for (size_t i = 0; i < sizeof known_files / sizeof *known_files; i++)
        if (strcmp(known_files[i].name, name) == 0)
            return &known_files[i];
    return NULL;
}

static int32_t add_special(struct import_tokens *tokens, uint32_t *next, const char *content,
                           tn_err *err)
{
    for (size_t i = 0; i < tokens->count; i++)
        if (strcmp(tokens->items[i].content, content) == 0)
            return TN_OK;
    return import_tokens_add(tokens, content, strlen(content), (*next)++, true, err);
}

/* Texts of a list, or the keys of an object, get the next ids. */
static int32_t add_list(struct import_tokens *tokens, uint32_t *next, const json_t *config,
                        const char *name, tn_err *err)
{
    json_t *list = json_object_get(config, name), *v;
    const char *key;
    size_t i;
    int32_t rc = TN_OK;

    json_array_foreach(list, i, v)
    {
        const char *text =
            json_is_object(v) ? import_config_text(v, "content") : json_string_value(v);
        if (rc == TN_OK && text && text[0])
            rc = add_special(tokens, next, text, err);
    }
    json_object_foreach(list, key, v)
    {
        if (rc == TN_OK && key[0])
            rc = add_special(tokens, next, key, err);
    }
    return rc;
}

/* Those of the configuration, with names for the ids that it leaves out between, as transformers has it. */
static int32_t collect_tokens(const struct rank_file *f, const json_t *config, const char *file,
                              struct import_tokens *tokens, tn_err *err)
{
    const struct known *k = known_file(f->path);
    uint32_t next = f->next_id, end = f->next_id;
    int32_t rc = import_tokens_config(tokens, config, file, err);

    for (size_t i = 0; rc == TN_OK && k && tokens->count == 0 && i < 6 && k->special[i].content;
         i++)
        rc = import_tokens_add(tokens, k->special[i].content, strlen(k->special[i].content),
                               k->special[i].id, true, err);
    for (size_t i = 0; rc == TN_OK && i < tokens->count; i++)
        if (tokens->items[i].id >= end)
            end = tokens->items[i].id + 1;
    for (; rc == TN_OK && json_object_get(config, "added_tokens_decoder") && next < end; next++) {
        char name[48];
        snprintf(name, sizeof name, "<|reserved_token_%u|>", (unsigned)next);
        rc = import_tokens_add(tokens, name, strlen(name), next, true, err);
    }
    next = end;
    if (rc == TN_OK)
        rc = add_list(tokens, &next, config, "extra_special_tokens", err);
    if (rc == TN_OK)
        rc = add_list(tokens, &next, config, "additional_special_tokens", err);
    return rc;
}

static void print_pre_tokenizer(const struct rank_file *f, const json_t *config, struct strbuf *out)
{
    const char *pattern = import_config_text(config, "pat_str");
    const struct known *k = known_file(f->path);

    if (!pattern)
        pattern = import_config_text(config, "pattern");
    if (!pattern)
        pattern = k ? k->pattern : CL100K;
    strbuf_puts(out, "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
                     "{\"Regex\":");
    import_quote(out, pattern, strlen(pattern));
    strbuf_puts(out, "},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
                     "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}");
}

static int32_t print_all(struct rank_file *f, const json_t *config, const char *file,
                         struct strbuf *out, tn_err *err)
{
    struct import_tokens tokens = {NULL, 0, 0};
    int32_t rc;

    strbuf_puts(
        out, "{\"version\":\"1.0\",\"explicit_ids\":true,\"normalizer\":null,\"pre_tokenizer\":");
    print_pre_tokenizer(f, config, out);
    strbuf_puts(out,
                ",\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                "\"trim_offsets\":false,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\","
                "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":"
                "{\"type\":\"BPE\",\"ignore_merges\":true,\"merge_ranks\":\"ids\",\"vocab\":{");
    rc = print_vocab(f, out, err);
    strbuf_puts(out, "}},\"added_tokens\":");
    if (rc == TN_OK)
        rc = collect_tokens(f, config, file, &tokens, err);
    import_tokens_print(&tokens, out);
    strbuf_puts(out, "}\n");
    import_tokens_release(&tokens);
    return rc == TN_OK && out->failed ? err_nomem(err, "a vocabulary") : rc;
}

int32_t import_tiktoken(const char *path, const char *data, size_t len, const char *config,
                        struct strbuf *out, tn_err *err)
{
    struct rank_file f = {path, data, len, 0, 0};
    json_t *json = NULL;
    int32_t rc = import_config_read(config, &json, err);

    if (rc == TN_OK)
        rc = print_all(&f, json, config, out, err);
    json_decref(json);
    return rc;
}
