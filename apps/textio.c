/* SPDX-License-Identifier: Apache-2.0 */
#include "textio.h"

#include "base/err.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "chat.h"
#include "tenon_text.h"

struct textio {
    tn_tokenizer *tokenizer;
};

struct textio_stream {
    tn_detok *detok;
    tn_stop *stop;
};

int32_t textio_open(const char *dir, struct textio **out, tn_err *err)
{
    struct textio *t = mem_zalloc(sizeof *t);
    int32_t rc;

    if (!t)
        return err_nomem(err, "a tokenizer");
    rc = tn_tokenizer_open(dir, &t->tokenizer, err);
    if (rc != TN_OK) {
        mem_free(t);
        return rc;
    }
    *out = t;
    return TN_OK;
}

void textio_close(struct textio *t)
{
    if (!t)
        return;
    tn_tokenizer_close(t->tokenizer);
    mem_free(t);
}

static int32_t copy_ids(const tn_encoding *e, int32_t **ids, uint32_t *n, tn_err *err)
{
    size_t count = tn_encoding_count(e);
    int32_t *list;

    if (count > INT32_MAX)
        return tn_err_set(err, TN_E_LIMIT, "the text has %zu tokens", count);
    list = mem_array(count, sizeof *list);
    if (!list)
        return err_nomem(err, "token ids");
    for (size_t i = 0; i < count; i++)
        list[i] = (int32_t)tn_encoding_ids(e)[i];
    *ids = list;
    *n = (uint32_t)count;
    return TN_OK;
}

static int32_t encode(const struct textio *t, const char *text, size_t len,
                      const tn_encode_options *o, int32_t **ids, uint32_t *n, tn_err *err)
{
    tn_encoding *e = NULL;
    int32_t rc = tn_encoding_new(&e, err);

    if (rc == TN_OK)
        rc = tn_encode(t->tokenizer, text, len, o, e, err);
    if (rc == TN_OK)
        rc = copy_ids(e, ids, n, err);
    tn_encoding_free(e);
    return rc;
}

int32_t textio_encode(const struct textio *t, const char *text, size_t len, uint32_t flags,
                      int32_t **ids, uint32_t *n, tn_err *err)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(TN_ENCODE_NO_OFFSETS);

    if (flags & TEXTIO_ADD_SPECIAL)
        o.flags |= TN_ENCODE_ADD_SPECIAL;
    if (flags & TEXTIO_READ_SPECIAL)
        o.flags |= TN_ENCODE_SPECIAL;
    return encode(t, text, len, &o, ids, n, err);
}

int32_t textio_chat(const struct textio *t, const char *name, const struct chat_source *s,
                    int32_t **ids, uint32_t *n, tn_err *err)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(TN_ENCODE_NO_OFFSETS);
    tn_chat_text text = {0};
    int32_t rc = chat_render(t->tokenizer, name, s, TN_CHAT_GENERATION_PROMPT, &text, err);

    o.trusted = text.trusted;
    o.trusted_count = text.trusted_count;
    if (rc == TN_OK)
        rc = encode(t, text.text, text.len, &o, ids, n, err);
    tn_chat_text_release(&text);
    return rc;
}

int32_t textio_end_token(const struct textio *t)
{
    uint32_t id = 0;

    return tn_tokenizer_role_id(t->tokenizer, "eos_token", &id) == TN_OK && id <= INT32_MAX
               ? (int32_t)id
               : -1;
}

/* -- One output ------------------------------------------------------------------------------------ */

void textio_stream_free(struct textio_stream *s)
{
    if (!s)
        return;
    tn_detok_free(s->detok);
    tn_stop_free(s->stop);
    mem_free(s);
}

int32_t textio_stream_new(const struct textio *t, const char *const *stops, uint32_t n,
                          struct textio_stream **out, tn_err *err)
{
    struct textio_stream *s = mem_zalloc(sizeof *s);
    size_t *len = mem_array(n, sizeof *len);
    int32_t rc = s && len ? TN_OK : err_nomem(err, "an output");

    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        len[i] = strlen(stops[i]);
    if (rc == TN_OK)
        rc = tn_detok_new(t->tokenizer,
                          TN_DECODE_SKIP_SPECIAL | tn_tokenizer_decode_flags(t->tokenizer),
                          &s->detok, err);
    if (rc == TN_OK)
        rc = tn_stop_new(stops, len, n, &s->stop, err);
    mem_free(len);
    if (rc != TN_OK) {
        textio_stream_free(s);
        return rc;
    }
    *out = s;
    return TN_OK;
}

/* Runs fresh text through the stop matcher. */
static int32_t pass_on(struct textio_stream *s, const char *text, size_t len, struct strbuf *out,
                       bool *stopped, tn_err *err)
{
    const char *safe = NULL;
    size_t n = 0;
    int32_t found = -1;
    int32_t rc = tn_stop_push(s->stop, text, len, &safe, &n, &found, err);

    if (rc == TN_OK) {
        strbuf_append(out, safe, n);
        *stopped = found >= 0;
    }
    return rc;
}

int32_t textio_push(struct textio_stream *s, int32_t token, struct strbuf *out, bool *stopped,
                    tn_err *err)
{
    const char *text = NULL;
    size_t len = 0;
    int32_t rc = tn_detok_push(s->detok, (uint32_t)token, &text, &len, err);

    return rc == TN_OK ? pass_on(s, text, len, out, stopped, err) : rc;
}

int32_t textio_flush(struct textio_stream *s, struct strbuf *out, bool *stopped, tn_err *err)
{
    const char *text = NULL;
    size_t len = 0;
    int32_t rc = tn_detok_flush(s->detok, &text, &len, err);

    if (rc == TN_OK)
        rc = pass_on(s, text, len, out, stopped, err);
    if (rc == TN_OK && !*stopped) {
        rc = tn_stop_flush(s->stop, &text, &len, err);
        if (rc == TN_OK)
            strbuf_append(out, text, len);
    }
    return rc;
}
