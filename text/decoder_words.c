/* SPDX-License-Identifier: Apache-2.0 */
/* Stages that look at a token as a whole (decoder_stage.h): WordPiece, BPEDecoder, CTC. */
#include <string.h>

#include "decoder_stage.h"
#include "unidata.h"

static void hold(struct decode_stage *s, const char *text, size_t len)
{
    strbuf_append(&s->held, text, len);
}

static void nothing(struct decode_stage *s)
{
    (void)s;
}

/* Appends `text` with all n bytes of `from` replaced; an empty one stands between all characters and at both ends. */
static void put_replaced(struct strbuf *out, const char *text, size_t len, const char *from,
                         size_t n, const char *to, size_t to_len)
{
    size_t done = 0;

    if (n == 0) {
        for (size_t i = 0, c; i < len; i += c) {
            uni_next(text + i, &c);
            strbuf_append(out, to, to_len);
            strbuf_append(out, text + i, c);
        }
        strbuf_append(out, to, to_len);
        return;
    }
    for (size_t i = 0; i + n <= len;) {
        const char *p = memchr(text + i, from[0], len - n - i + 1);
        if (!p)
            break;
        i = (size_t)(p - text);
        if (memcmp(p, from, n) != 0) {
            i++;
            continue;
        }
        strbuf_append(out, text + done, i - done);
        strbuf_append(out, to, to_len);
        done = i += n;
    }
    strbuf_append(out, text + done, len - done);
}

/* Replaces in `text`, through the empty `spare`. */
static void replace_in(struct strbuf *text, struct strbuf *spare, const char *from, size_t n,
                       const char *to, size_t to_len)
{
    struct strbuf swap = *text;

    strbuf_reset(spare);
    put_replaced(spare, strbuf_str(text), text->len, from, n, to, to_len);
    *text = *spare;
    *spare = swap;
}

static void clean_up(struct strbuf *text, struct strbuf *spare)
{
    static const struct {
        const char *from, *to;
    } pairs[] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                 {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                 {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        replace_in(text, spare, pairs[i].from, strlen(pairs[i].from), pairs[i].to,
                   strlen(pairs[i].to));
}

/* -- WordPiece --------------------------------------------------------------------------------------------------- */

static void word_piece_end(struct decode_stage *s)
{
    const struct literal *prefix = &s->step->literal;
    struct strbuf text = STRBUF_INIT, spare = STRBUF_INIT;
    const char *from = strbuf_str(&s->held);
    size_t len = s->held.len;

    if (s->index > 0 && len >= prefix->len &&
        (prefix->len == 0 || memcmp(from, prefix->text, prefix->len) == 0)) {
        from += prefix->len;
        len -= prefix->len;
    } else if (s->index > 0) {
        strbuf_putc(&text, ' ');
    }
    strbuf_append(&text, from, len);
    if (s->step->clean)
        clean_up(&text, &spare);
    s->held.failed = s->held.failed || text.failed || spare.failed;
    stage_emit(s, strbuf_str(&text), text.len);
    strbuf_release(&text);
    strbuf_release(&spare);
    stage_clear(s, &s->held);
    s->index++;
    stage_emit_end(s);
}

const struct decode_ops stage_word_piece = {hold, word_piece_end, nothing};

/* -- BPEDecoder: a suffix becomes a space, but nothing in the last text; `before` has the text from its first on ----- */

static void emit_before(struct decode_stage *s, const char *with)
{
    struct strbuf text = STRBUF_INIT;

    put_replaced(&text, strbuf_str(&s->before), s->before.len, s->step->literal.text,
                 s->step->literal.len, with, strlen(with));
    s->before.failed = s->before.failed || text.failed;
    stage_emit(s, strbuf_str(&text), text.len);
    strbuf_release(&text);
    stage_clear(s, &s->before);
    stage_emit_end(s);
}

static void suffix_end(struct decode_stage *s)
{
    const struct literal *l = &s->step->literal;
    const char *text = strbuf_str(&s->held);
    size_t at = l->text ? literal_find(l, text, s->held.len, 0) : 0;

    if (s->index > 0)
        emit_before(s, " ");
    if (at > s->held.len)
        at = s->held.len;
    stage_emit(s, text, at);
    strbuf_append(&s->before, text + at, s->held.len - at);
    stage_clear(s, &s->held);
    s->index++;
}

static void suffix_finish(struct decode_stage *s)
{
    if (s->index > 0)
        emit_before(s, "");
}

const struct decode_ops stage_suffix = {hold, suffix_end, suffix_finish};

/* -- CTC: `before` is the text before this one ------------------------------------------------------------------------ */

static void ctc_end(struct decode_stage *s)
{
    const struct decoder_step *step = s->step;
    struct strbuf text = STRBUF_INIT, spare = STRBUF_INIT;
    bool again = s->index > 0 && s->held.len == s->before.len &&
                 memcmp(strbuf_str(&s->held), strbuf_str(&s->before), s->held.len) == 0;

    if (!again) {
        put_replaced(&text, strbuf_str(&s->held), s->held.len, step->literal.text,
                     step->literal.len, "", 0);
        if (step->clean) {
            clean_up(&text, &spare);
            replace_in(&text, &spare, step->content, step->content_len, " ", 1);
        }
        s->before.failed = s->before.failed || text.failed || spare.failed;
        stage_emit(s, strbuf_str(&text), text.len);
        if (text.len > 0)
            stage_emit_end(s);
        stage_clear(s, &s->before);
        strbuf_append(&s->before, strbuf_str(&s->held), s->held.len);
    }
    strbuf_release(&text);
    strbuf_release(&spare);
    stage_clear(s, &s->held);
    s->index++;
}

const struct decode_ops stage_ctc = {hold, ctc_end, nothing};
