/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoders at work (decoder.h). A stage is a step with what it holds back. `put` takes part of a text, `end` its end,
 * `finish` the end of the list; each hands on to the next stage at once. Chains are as long as LIMIT_STEPS at most, so
 * the calls do not nest with the input.
 */
#include "decoder.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "decoder_stage.h"
#include "unidata.h"

struct decoding {
    struct decode_stage *stages;
    size_t count;
    struct regex_scratch *regex; /* NULL: no stage matches */
    struct decode_sink sink;
};

void stage_emit(struct decode_stage *s, const char *text, size_t len)
{
    if (len == 0)
        return;
    if (s->next)
        s->next->ops->put(s->next, text, len);
    else
        strbuf_append(s->sink->out, text, len);
}

void stage_emit_end(struct decode_stage *s)
{
    if (s->next)
        s->next->ops->end(s->next);
}

void stage_fail(struct decode_stage *s, int32_t rc)
{
    if (s->sink->rc == TN_OK)
        s->sink->rc = rc;
}

void stage_clear(struct decode_stage *s, struct strbuf *b)
{
    if (b->failed)
        stage_fail(s, TN_E_NOMEM);
    strbuf_reset(b);
}

/* Literals that cleaning up replaces, in this order, over the whole text. */
static const struct {
    const char *from, *to;
} clean_ups[] = {{" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
                 {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
#define CLEAN_UPS (sizeof clean_ups / sizeof *clean_ups)

static int32_t add_clean_ups(struct decoding *c, tn_err *err)
{
    for (size_t i = 0; i < CLEAN_UPS; i++) {
        struct decode_stage *s = &c->stages[c->count++];
        struct decoder_step *step = &s->own;
        s->step = step;
        s->ops = &stage_replace;
        step->kind = DECODER_REPLACE;
        step->content = mem_strdup(clean_ups[i].to);
        step->content_len = strlen(clean_ups[i].to);
        if (!step->content ||
            !literal_init(&step->literal, clean_ups[i].from, strlen(clean_ups[i].from)))
            return err_nomem(err, "a decoder");
    }
    return TN_OK;
}

static const struct decode_ops *ops_of(const struct decoder_step *s)
{
    switch (s->kind) {
    case DECODER_BYTE_LEVEL: return &stage_byte_level;
    case DECODER_BYTE_FALLBACK: return &stage_byte_fallback;
    case DECODER_METASPACE: return &stage_metaspace;
    case DECODER_REPLACE: return s->literal.text ? &stage_replace : &stage_replace_regex;
    case DECODER_FUSE: return &stage_fuse;
    case DECODER_STRIP: return &stage_strip;
    case DECODER_WORD_PIECE: return &stage_word_piece;
    case DECODER_SUFFIX: return &stage_suffix;
    case DECODER_CTC: return &stage_ctc;
    default: return &stage_join;
    }
}

int32_t decoding_new(const struct decoder *d, bool clean_up, struct decoding **out, tn_err *err)
{
    struct decoding *c = mem_zalloc(sizeof *c);
    int32_t rc = TN_OK;

    if (c)
        c->stages = mem_zarray(d->count + 1 + CLEAN_UPS, sizeof *c->stages);
    if (!c || !c->stages) {
        mem_free(c);
        return err_nomem(err, "a decoder");
    }
    for (size_t i = 0; i < d->count; i++) {
        c->stages[i].step = &d->steps[i];
        c->stages[i].ops = ops_of(&d->steps[i]);
        if (rc == TN_OK && d->steps[i].regex && !c->regex)
            rc = regex_scratch_new(&c->regex, err);
    }
    c->count = d->count;
    if (rc == TN_OK && clean_up) {
        c->stages[c->count++].ops = &stage_fuse;
        rc = add_clean_ups(c, err);
    }
    for (size_t i = 0; i < c->count; i++) {
        c->stages[i].next = i + 1 < c->count ? &c->stages[i + 1] : NULL;
        c->stages[i].regex = c->regex;
        c->stages[i].sink = &c->sink;
    }
    if (rc != TN_OK) {
        decoding_free(c);
        return rc;
    }
    *out = c;
    return TN_OK;
}

void decoding_free(struct decoding *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->count; i++) {
        strbuf_release(&c->stages[i].held);
        strbuf_release(&c->stages[i].before);
        literal_release(&c->stages[i].own.literal);
        mem_free(c->stages[i].own.content);
    }
    mem_free(c->stages);
    regex_scratch_free(c->regex);
    mem_free(c);
}

void decoding_reset(struct decoding *c)
{
    for (size_t i = 0; i < c->count; i++) {
        struct decode_stage *s = &c->stages[i];
        strbuf_reset(&s->held);
        strbuf_reset(&s->before);
        s->index = 0;
        s->state = 0;
        s->flag = false;
    }
    c->sink.rc = TN_OK;
}

static int32_t outcome(struct decoding *c, tn_err *err)
{
    bool failed = c->sink.out->failed;

    for (size_t i = 0; i < c->count; i++)
        failed = failed || c->stages[i].held.failed || c->stages[i].before.failed;
    c->sink.err = NULL;
    c->sink.out = NULL;
    if (failed || c->sink.rc == TN_E_NOMEM)
        return err_nomem(err, "decoding");
    return c->sink.rc;
}

int32_t decoding_push(struct decoding *c, const char *text, size_t len, struct strbuf *out,
                      tn_err *err)
{
    struct decode_stage *first = &c->stages[0];

    c->sink = (struct decode_sink){out, TN_OK, err};
    if (c->count == 0) {
        strbuf_append(out, text, len);
    } else {
        first->ops->put(first, text, len);
        first->ops->end(first);
    }
    return outcome(c, err);
}

int32_t decoding_finish(struct decoding *c, struct strbuf *out, tn_err *err)
{
    int32_t rc;

    c->sink = (struct decode_sink){out, TN_OK, err};
    for (size_t i = 0; i < c->count; i++)
        c->stages[i].ops->finish(&c->stages[i]);
    rc = outcome(c, err);
    decoding_reset(c);
    return rc;
}
