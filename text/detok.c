/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding, whole and in streams: both push the texts of the ids through one chain (decoder.h). A detokenizer belongs to
 * one thread at a time. */
#include "base/mem.h"
#include "tokenizer.h"

struct tn_detok {
    const struct tn_tokenizer *t;
    uint32_t flags;
    struct decoding *chain;
    struct strbuf out;
};

static int32_t check_flags(uint32_t flags, tn_err *err)
{
    return flags & ~(TN_DECODE_SKIP_SPECIAL | TN_DECODE_CLEAN_UP)
               ? tn_err_set(err, TN_E_INVALID, "decoding has no flags 0x%x", (unsigned)flags)
               : TN_OK;
}

static int32_t push_id(const struct tn_tokenizer *t, uint32_t flags, struct decoding *chain,
                       uint32_t id, struct strbuf *out, tn_err *err)
{
    const char *text;
    size_t len;
    bool special;

    if (!tokenizer_text(t, id, &text, &len, &special) ||
        (special && (flags & TN_DECODE_SKIP_SPECIAL)))
        return TN_OK;
    return decoding_push(chain, text, len, out, err);
}

int32_t tn_decode(const tn_tokenizer *t, const uint32_t *ids, size_t count, uint32_t flags,
                  char **text, size_t *len, tn_err *err)
{
    struct decoding *chain = NULL;
    struct strbuf out = STRBUF_INIT;
    int32_t rc = check_flags(flags, err);

    if (rc == TN_OK)
        rc = decoding_new(&t->decoder, (flags & TN_DECODE_CLEAN_UP) != 0, &chain, err);
    for (size_t i = 0; rc == TN_OK && i < count; i++)
        rc = push_id(t, flags, chain, ids[i], &out, err);
    if (rc == TN_OK)
        rc = decoding_finish(chain, &out, err);
    decoding_free(chain);
    if (rc == TN_OK && !strbuf_reserve(&out, 0))
        rc = err_nomem(err, "decoding");
    if (rc == TN_OK) {
        out.data[out.len] = '\0';
        *len = out.len;
        *text = strbuf_detach(&out);
    }
    strbuf_release(&out);
    return rc;
}

void tn_text_free(char *text)
{
    mem_free(text);
}

int32_t tn_detok_new(const tn_tokenizer *t, uint32_t flags, tn_detok **out, tn_err *err)
{
    struct tn_detok *d = mem_zalloc(sizeof *d);
    int32_t rc = d ? check_flags(flags, err) : err_nomem(err, "a detokenizer");

    if (rc == TN_OK)
        rc = decoding_new(&t->decoder, (flags & TN_DECODE_CLEAN_UP) != 0, &d->chain, err);
    if (rc != TN_OK) {
        mem_free(d);
        return rc;
    }
    d->t = t;
    d->flags = flags;
    *out = d;
    return TN_OK;
}

int32_t tn_detok_push(tn_detok *d, uint32_t id, const char **text, size_t *len, tn_err *err)
{
    int32_t rc;

    strbuf_reset(&d->out);
    rc = push_id(d->t, d->flags, d->chain, id, &d->out, err);
    if (rc == TN_OK) {
        *text = strbuf_str(&d->out);
        *len = d->out.len;
    }
    return rc;
}

int32_t tn_detok_flush(tn_detok *d, const char **text, size_t *len, tn_err *err)
{
    int32_t rc;

    strbuf_reset(&d->out);
    rc = decoding_finish(d->chain, &d->out, err);
    if (rc == TN_OK) {
        *text = strbuf_str(&d->out);
        *len = d->out.len;
    }
    return rc;
}

void tn_detok_reset(tn_detok *d)
{
    decoding_reset(d->chain);
}

void tn_detok_free(tn_detok *d)
{
    if (!d)
        return;
    decoding_free(d->chain);
    strbuf_release(&d->out);
    mem_free(d);
}
