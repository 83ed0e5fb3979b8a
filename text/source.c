/* SPDX-License-Identifier: Apache-2.0 */
/* Finding and reading vocabularies (source.h). One thread. */
#include "source.h"

#include "base/file.h"
#include "base/mem.h"
#include "import.h"
#include "textlimits.h"

void source_release(struct source *s)
{
    mem_free(s->dir);
    mem_free(s->file);
    *s = (struct source){NULL, NULL};
}

static bool ends_with(const char *text, const char *tail)
{
    size_t n = strlen(text), m = strlen(tail);

    return n >= m && strcmp(text + n - m, tail) == 0;
}

/* The first *.tiktoken by name; *name stays NULL if there is none. */
static int32_t find_tiktoken(const char *dir, char **name, tn_err *err)
{
    char **names = NULL;
    size_t count = 0;
    int32_t rc = dir_list(dir, &names, &count, err);

    for (size_t i = 0; rc == TN_OK && i < count && !*name; i++)
        if (ends_with(names[i], ".tiktoken") && !(*name = mem_strdup(names[i])))
            rc = err_nomem(err, "a tokenizer");
    if (rc == TN_OK || names)
        dir_list_free(names, count);
    return rc;
}

/* dir/name if that exists, else NULL, which may also mean that memory is out. */
static char *existing(const char *dir, const char *name)
{
    char *path = path_join(dir, name);

    if (path && path_exists(path))
        return path;
    mem_free(path);
    return NULL;
}

static int32_t find_in(struct source *s, tn_err *err)
{
    static const char *const names[] = {"tiktoken.model", "tokenizer.model", "spiece.model",
                                        "sentencepiece.bpe.model"};
    char *name = NULL;
    int32_t rc = TN_OK;

    s->file = existing(s->dir, "tokenizer.json");
    if (!s->file)
        rc = find_tiktoken(s->dir, &name, err);
    if (rc == TN_OK && name)
        s->file = existing(s->dir, name);
    mem_free(name);
    for (size_t i = 0; rc == TN_OK && !s->file && i < sizeof names / sizeof *names; i++)
        s->file = existing(s->dir, names[i]);
    return rc;
}

int32_t source_find(const char *path, struct source *out, tn_err *err)
{
    const char *base = path_base(path);
    bool dir = path_is_dir(path);
    struct source s = {NULL, NULL};
    int32_t rc = TN_OK;

    s.dir = dir            ? mem_strdup(path)
            : base == path ? mem_strdup(".")
                           : mem_strndup(path, (size_t)(base - path));
    if (!s.dir)
        rc = err_nomem(err, "a tokenizer");
    else if (dir)
        rc = find_in(&s, err);
    else if (path_exists(path) && !(s.file = mem_strdup(path)))
        rc = err_nomem(err, "a tokenizer");
    if (rc == TN_OK && !s.file) {
        rc = err_at(err, TN_E_NOTFOUND, path, TN_NO_OFFSET, NULL,
                    dir ? "has no vocabulary that is known" : "does not exist");
        err_remedy(err,
                   "name a directory with a tokenizer.json, a *.tiktoken or a tokenizer.model");
    }
    if (rc == TN_OK)
        *out = s;
    else
        source_release(&s);
    return rc;
}

/* tiktoken's files begin with base64, a space and a number; SentencePiece's with bytes that are no text. */
static bool looks_like_ranks(const char *data, size_t n)
{
    size_t i = 0;

    while (i < n &&
           ((data[i] >= 'A' && data[i] <= 'Z') || (data[i] >= 'a' && data[i] <= 'z') ||
            (data[i] >= '0' && data[i] <= '9') || strchr("+/=", data[i])) &&
           data[i] != '\0')
        i++;
    return i > 0 && i + 1 < n && data[i] == ' ' && data[i + 1] >= '0' && data[i + 1] <= '9';
}

static bool is_tiktoken(const char *file, const char *data, size_t len)
{
    return ends_with(file, ".tiktoken") || strcmp(path_base(file), "tiktoken.model") == 0 ||
           looks_like_ranks(data, len < 4096 ? len : 4096);
}

int32_t source_read(const struct source *s, char **out, size_t *out_len, tn_err *err)
{
    struct strbuf text = STRBUF_INIT;
    char *config, *data = NULL;
    size_t len;
    int32_t rc = file_read(s->file, LIMIT_TOKENIZER_BYTES, &data, &len, err);

    if (rc != TN_OK || ends_with(s->file, ".json")) {
        *out = data;
        *out_len = len;
        return rc;
    }
    config = existing(s->dir, "tokenizer_config.json");
    rc = (is_tiktoken(s->file, data, len) ? import_tiktoken : import_sentencepiece)(
        s->file, data, len, config, &text, err);
    mem_free(config);
    mem_free(data);
    if (rc != TN_OK) {
        strbuf_release(&text);
        if (err && !err->file[0])
            err_file(err, s->file);
        return rc;
    }
    *out_len = text.len;
    *out = strbuf_detach(&text);
    return TN_OK;
}
