/* SPDX-License-Identifier: Apache-2.0 */
/* Reads decoders (decoder.h) from a tokenizer.json. One thread. */
#include "base/mem.h"
#include "decoder.h"
#include "steps.h"
#include "textlimits.h"
#include "unidata.h"

static const char part[] = "decoder";

void decoder_release(struct decoder *d)
{
    for (size_t i = 0; i < d->count; i++) {
        literal_release(&d->steps[i].literal);
        regex_free(d->steps[i].regex);
        mem_free(d->steps[i].content);
    }
    mem_free(d->steps);
    memset(d, 0, sizeof *d);
}

static struct decoder_step *append(struct decoder *d, enum decoder_kind kind, tn_err *err)
{
    if (!mem_grow(&d->steps, &d->cap, d->count + 1, sizeof *d->steps)) {
        err_nomem(err, "a decoder");
        return NULL;
    }
    memset(&d->steps[d->count], 0, sizeof *d->steps);
    d->steps[d->count].kind = kind;
    return &d->steps[d->count++];
}

/* A member that is a text of bounded length. */
static int32_t need_text(const struct tape *t, uint32_t node, const char *field, const char **text,
                         size_t *len, tn_err *err)
{
    int32_t rc = tape_need_str(t, node, field, text, len, err);

    if (rc == TN_OK && *len > LIMIT_PATTERN_BYTES)
        rc = tape_err(t, node, field, err, "has %zu bytes, more than %d", *len,
                      (int)LIMIT_PATTERN_BYTES);
    return rc;
}

/* A text that is looked for; an empty one leaves the literal without text. */
static int32_t load_literal(struct decoder_step *s, const struct tape *t, uint32_t node,
                            const char *field, tn_err *err)
{
    const char *text;
    size_t len;
    int32_t rc = need_text(t, node, field, &text, &len, err);

    if (rc == TN_OK && len > 0 && !literal_init(&s->literal, text, len))
        rc = err_nomem(err, "a decoder");
    return rc;
}

static int32_t load_content(struct decoder_step *s, const struct tape *t, uint32_t node,
                            const char *field, tn_err *err)
{
    const char *text;
    int32_t rc = need_text(t, node, field, &text, &s->content_len, err);

    if (rc != TN_OK)
        return rc;
    s->content = mem_alloc(s->content_len + 1);
    if (!s->content)
        return err_nomem(err, "a decoder");
    memcpy(s->content, text, s->content_len);
    s->content[s->content_len] = '\0';
    return TN_OK;
}

static int32_t load_character(struct decoder_step *s, const struct tape *t, uint32_t node,
                              const char *field, tn_err *err)
{
    const char *text;
    size_t len, n = 0;
    int32_t rc = tape_need_str(t, node, field, &text, &len, err);

    if (rc != TN_OK)
        return rc;
    if (len > 0)
        s->cp = uni_next(text, &n);
    return n == len && len > 0 ? TN_OK : tape_err(t, node, field, err, "must be one character");
}

static int32_t load_nothing(struct decoder_step *s, const struct tape *t, uint32_t node,
                            tn_err *err)
{
    (void)s;
    (void)t;
    (void)node;
    (void)err;
    return TN_OK;
}

static int32_t load_replace(struct decoder_step *s, const struct tape *t, uint32_t node,
                            tn_err *err)
{
    uint32_t pattern = tape_get(t, node, "pattern"), regex = tape_get(t, pattern, "Regex");
    int32_t rc = load_content(s, t, node, "content", err);
    size_t len;
    const char *text;

    if (rc != TN_OK)
        return rc;
    if (regex == TAPE_NONE) {
        rc = load_literal(s, t, pattern == TAPE_NONE ? node : pattern, "String", err);
        if (rc != TN_OK || s->literal.text)
            return rc;
        return regex_new("", 0, false, &s->regex, err);
    }
    if (!tape_is(t, regex, TAPE_STRING))
        return tape_err(t, regex, "pattern", err, "must be a string");
    text = tape_str(t, regex, &len);
    rc = regex_new(text, len, false, &s->regex, err);
    if (rc != TN_OK) {
        err_file(err, t->file);
        err_field(err, "decoder.pattern");
    }
    return rc;
}

static int32_t load_metaspace(struct decoder_step *s, const struct tape *t, uint32_t node,
                              tn_err *err)
{
    bool prefix = true;
    int32_t rc = load_character(s, t, node, "replacement", err);

    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "add_prefix_space", true, &prefix, err);
    s->drop_first = prefix && !tape_eq(t, tape_get(t, node, "prepend_scheme"), "never");
    return rc;
}

static int32_t load_strip(struct decoder_step *s, const struct tape *t, uint32_t node, tn_err *err)
{
    int32_t rc = load_character(s, t, node, "content", err);

    if (rc == TN_OK && (!tape_uint(t, tape_get(t, node, "start"), &s->start) ||
                        !tape_uint(t, tape_get(t, node, "stop"), &s->stop)))
        rc = tape_err(t, node, "start", err, "and \"stop\" must be numbers");
    return rc;
}

static int32_t load_word_piece(struct decoder_step *s, const struct tape *t, uint32_t node,
                               tn_err *err)
{
    int32_t rc = load_literal(s, t, node, "prefix", err);

    return rc == TN_OK ? tape_get_bool(t, node, "cleanup", true, &s->clean, err) : rc;
}

static int32_t load_suffix(struct decoder_step *s, const struct tape *t, uint32_t node, tn_err *err)
{
    return load_literal(s, t, node, "suffix", err);
}

static int32_t load_ctc(struct decoder_step *s, const struct tape *t, uint32_t node, tn_err *err)
{
    int32_t rc = load_literal(s, t, node, "pad_token", err);

    if (rc == TN_OK)
        rc = load_content(s, t, node, "word_delimiter_token", err);
    return rc == TN_OK ? tape_get_bool(t, node, "cleanup", true, &s->clean, err) : rc;
}

static int32_t take_step(void *arg, const struct tape *t, uint32_t node, uint32_t type, tn_err *err)
{
    static const struct {
        const char *name;
        enum decoder_kind kind;
        int32_t (*load)(struct decoder_step *s, const struct tape *t, uint32_t node, tn_err *err);
    } types[] = {{"ByteLevel", DECODER_BYTE_LEVEL, load_nothing},
                 {"ByteFallback", DECODER_BYTE_FALLBACK, load_nothing},
                 {"Metaspace", DECODER_METASPACE, load_metaspace},
                 {"Replace", DECODER_REPLACE, load_replace},
                 {"Fuse", DECODER_FUSE, load_nothing},
                 {"Strip", DECODER_STRIP, load_strip},
                 {"WordPiece", DECODER_WORD_PIECE, load_word_piece},
                 {"BPEDecoder", DECODER_SUFFIX, load_suffix},
                 {"CTC", DECODER_CTC, load_ctc}};

    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (tape_eq(t, type, types[i].name)) {
            struct decoder_step *s = append(arg, types[i].kind, err);
            return s ? types[i].load(s, t, node, err) : TN_E_NOMEM;
        }
    }
    return steps_unknown(t, type, part, err);
}

int32_t decoder_load(const struct tape *t, uint32_t node, struct decoder *out, tn_err *err)
{
    memset(out, 0, sizeof *out);
    if (node == TAPE_NONE)
        return append(out, DECODER_JOIN, err) ? TN_OK : TN_E_NOMEM;
    return steps_each(t, node, part, "decoders", take_step, out, err);
}
