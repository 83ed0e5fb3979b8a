/* SPDX-License-Identifier: Apache-2.0 */
#include "tokens.h"

#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "textio.h"

#define MAX_TEXT_BYTES (1 * GIB)
#define MIN_SEQUENCE 2 /* one token predicts nothing */

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n > m && strcmp(s + n - m, suffix) == 0;
}

void tokens_release(struct tokens *t)
{
    mem_free(t->ids);
    mem_free(t->begin);
    *t = (struct tokens){.ids = NULL};
}

static int32_t add(struct tokens *t, const int32_t *ids, size_t n, tn_err *err)
{
    if (n < MIN_SEQUENCE)
        return TN_OK;
    if (!mem_grow(&t->ids, &t->cap_ids, t->n_ids + n, sizeof *t->ids) ||
        !mem_grow(&t->begin, &t->cap_begin, t->n_seqs + 2, sizeof *t->begin))
        return err_nomem(err, "token ids");
    memcpy(t->ids + t->n_ids, ids, n * sizeof *ids);
    t->begin[t->n_seqs++] = t->n_ids;
    t->n_ids += n;
    t->begin[t->n_seqs] = t->n_ids;
    return TN_OK;
}

static int32_t add_windows(struct tokens *t, const int32_t *ids, uint64_t n, uint32_t max_len,
                           tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint64_t at = 0; at < n && rc == TN_OK; at += max_len)
        rc = add(t, ids + at, (size_t)(n - at < max_len ? n - at : max_len), err);
    return rc;
}

static int32_t read_ids(const struct tokens_options *o, struct tokens *t, tn_err *err)
{
    int32_t *ids = NULL;
    uint64_t n = 0;
    int32_t rc = tool_read_raw_ids(o->path, &ids, &n, err);

    if (rc == TN_OK)
        rc = add_windows(t, ids, n, o->max_len, err);
    mem_free(ids);
    return rc;
}

static int32_t add_line(const struct tokens_options *o, const struct textio *text, const char *line,
                        size_t len, size_t number, struct tokens *t, tn_err *err)
{
    json_t *v = NULL;
    const char *s = NULL;
    int32_t *ids = NULL;
    uint32_t n = 0;
    int32_t rc = json_parse(line, len, o->path, &v, err);

    if (rc == TN_OK)
        s = json_string_value(json_object_get(v, "text"));
    if (rc == TN_OK && !s)
        rc = err_at(err, TN_E_FORMAT, o->path, TN_NO_OFFSET, "text", "is missing or no text");
    if (rc == TN_OK)
        rc = textio_encode(text, s, json_string_length(json_object_get(v, "text")),
                           TEXTIO_ADD_SPECIAL, &ids, &n, err);
    if (rc == TN_OK)
        rc = add(t, ids, n < o->max_len ? n : o->max_len, err);
    else
        err_prefix(err, "line %zu", number);
    mem_free(ids);
    json_decref(v);
    return rc;
}

static int32_t read_lines(const struct tokens_options *o, const struct textio *text,
                          const char *data, size_t len, struct tokens *t, tn_err *err)
{
    size_t number = 1;
    int32_t rc = TN_OK;

    for (const char *at = data, *end = data + len; at < end && rc == TN_OK; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = stop ? (size_t)(stop - at) : (size_t)(end - at);
        if (strspn(at, " \t\r\n") < n)
            rc = add_line(o, text, at, n, number, t, err);
        at += n + 1;
    }
    return rc;
}

/* A tokenizer would take anything: of a file that is no text, calibration would be worthless, and nobody would know. */
static int32_t check_text(const char *path, const char *data, size_t len, tn_err *err)
{
    size_t at = 0, n = 1;
    uint32_t cp;

    while (at < len && (n = utf8_decode(data + at, len - at, &cp)) > 0)
        at += n;
    if (at == len)
        return TN_OK;
    err_at(err, TN_E_FORMAT, path, (int64_t)at, NULL, "byte 0x%02x is not UTF-8",
           (unsigned)(unsigned char)data[at]);
    err_remedy(err, "give plain text in UTF-8, *.jsonl, or token ids as *.u16 or *.i32");
    return TN_E_FORMAT;
}

static int32_t read_text(const struct tokens_options *o, struct tokens *t, tn_err *err)
{
    struct textio *text = NULL;
    char *data = NULL;
    size_t len = 0;
    int32_t *ids = NULL;
    uint32_t n = 0;
    int32_t rc = file_read(o->path, MAX_TEXT_BYTES, &data, &len, err);

    if (rc == TN_OK)
        rc = textio_open(o->tokenizer, &text, err);
    if (rc == TN_OK && ends_with(o->path, ".jsonl")) {
        rc = read_lines(o, text, data, len, t, err);
    } else if (rc == TN_OK) {
        rc = check_text(o->path, data, len, err);
        if (rc == TN_OK)
            rc = textio_encode(text, data, len, TEXTIO_ADD_SPECIAL, &ids, &n, err);
        if (rc == TN_OK)
            rc = add_windows(t, ids, n, o->max_len, err);
    }
    textio_close(text);
    mem_free(ids);
    mem_free(data);
    return rc;
}

/* Keeps max_seqs sequences, chosen at random, in their order: selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S). */
static void choose(const struct tokens_options *o, struct tokens *t)
{
    struct rng rng = {o->seed};
    uint64_t left = o->max_seqs, kept = 0, at = 0;

    for (uint64_t i = 0, n = t->n_seqs; i < n && o->max_seqs && o->max_seqs < n; i++) {
        uint64_t first = t->begin[i], len = t->begin[i + 1] - first;
        if (rng_below(&rng, n - i) >= left)
            continue;
        memmove(t->ids + at, t->ids + first, (size_t)len * sizeof *t->ids);
        t->begin[kept++] = at; /* no later than i: what is read next is not overwritten */
        at += len;
        left--;
    }
    if (kept) {
        t->begin[kept] = at;
        t->n_seqs = (size_t)kept;
    }
}

int32_t tokens_read(const struct tokens_options *o, struct tokens *out, tn_err *err)
{
    struct tokens t = {.ids = NULL};
    int32_t rc = ends_with(o->path, ".u16") || ends_with(o->path, ".i32") ? read_ids(o, &t, err)
                                                                          : read_text(o, &t, err);

    if (rc == TN_OK && t.n_seqs == 0) {
        rc = err_at(err, TN_E_FORMAT, o->path, TN_NO_OFFSET, NULL,
                    "has no sequence of at least two tokens");
        err_remedy(err, "give a file with text in it");
    }
    if (rc != TN_OK) {
        tokens_release(&t);
        return rc;
    }
    choose(o, &t);
    t.set = (struct tool_tokens){t.ids, t.begin, t.n_seqs, o->path};
    *out = t;
    return TN_OK;
}
