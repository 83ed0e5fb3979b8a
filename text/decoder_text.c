/* SPDX-License-Identifier: Apache-2.0 */
/* Stages that change characters (decoder_stage.h). */
#include <string.h>

#include "base/utf8.h"
#include "decoder_stage.h"
#include "unidata.h"

static void nothing(struct decode_stage *s)
{
    (void)s;
}

static void hold(struct decode_stage *s, const char *text, size_t len)
{
    strbuf_append(&s->held, text, len);
}

static void emit_held(struct decode_stage *s)
{
    stage_emit(s, strbuf_str(&s->held), s->held.len);
    stage_clear(s, &s->held);
}

/* -- Metaspace ----------------------------------------------------------------------------------------------- */

static void metaspace_put(struct decode_stage *s, const char *text, size_t len)
{
    bool drop = s->index == 0 && s->step->drop_first;
    char mark[4];
    size_t n = utf8_encode(s->step->cp, mark), plain = 0, at = 0;

    while (at < len) {
        const char *p = memchr(text + at, mark[0], len - at);
        if (!p)
            break;
        at = (size_t)(p - text);
        if (len - at < n || memcmp(p, mark, n) != 0) {
            at++;
            continue;
        }
        stage_emit(s, text + plain, at - plain);
        if (!drop)
            stage_emit(s, " ", 1);
        plain = at += n;
    }
    stage_emit(s, text + plain, len - plain);
}

static void count_end(struct decode_stage *s)
{
    s->index++;
    stage_emit_end(s);
}

const struct decode_ops stage_metaspace = {metaspace_put, count_end, nothing};

/* -- Replace by a literal: the text read ends with `state` bytes of it, which are held back ----------------------- */

static void replace_put(struct decode_stage *s, const char *text, size_t len)
{
    const struct literal *l = &s->step->literal;

    stage_clear(s, &s->before);
    for (size_t i = 0; i < len; i++) {
        size_t old = s->state, release;
        if (old == 0) { /* hurry to the next place where it may begin */
            const char *p = memchr(text + i, l->text[0], len - i);
            size_t skip = p ? (size_t)(p - text) - i : len - i;
            strbuf_append(&s->before, text + i, skip);
            i += skip;
            if (i == len)
                break;
        }
        s->state = literal_step(l, old, text[i]);
        if (s->state == l->len) {
            strbuf_append(&s->before, s->step->content, s->step->content_len);
            s->state = 0;
            continue;
        }
        release = old + 1 - s->state;
        strbuf_append(&s->before, l->text, release < old ? release : old);
        if (release > old)
            strbuf_append(&s->before, text + i, 1);
    }
    stage_emit(s, strbuf_str(&s->before), s->before.len);
}

static void replace_flush(struct decode_stage *s)
{
    stage_emit(s, s->step->literal.text, s->state);
    s->state = 0;
}

static void replace_end(struct decode_stage *s)
{
    replace_flush(s);
    stage_emit_end(s);
}

const struct decode_ops stage_replace = {replace_put, replace_end, replace_flush};

/* -- Replace by a regex: only the whole text tells where it matches ------------------------------------------------ */

static void replace_regex_end(struct decode_stage *s)
{
    const char *text = strbuf_str(&s->held);
    size_t begin = 0, end = 0, done = 0;
    struct regex_iter it;
    int32_t rc = 0;

    regex_iter_begin(&it, s->step->regex, s->regex, text, s->held.len);
    while (s->held.len > 0 && (rc = regex_iter_next(&it, &begin, &end, s->sink->err)) == 1) {
        stage_emit(s, text + done, begin - done);
        stage_emit(s, s->step->content, s->step->content_len);
        done = end;
    }
    if (rc < 0)
        stage_fail(s, rc);
    stage_emit(s, text + done, s->held.len - done);
    stage_clear(s, &s->held);
    stage_emit_end(s);
}

const struct decode_ops stage_replace_regex = {hold, replace_regex_end, nothing};

/* -- Fuse ------------------------------------------------------------------------------------------------------ */

const struct decode_ops stage_fuse = {stage_emit, nothing, stage_emit_end};

/* -- Strip: `state` characters were cut off the front, `flag` once that is over; `held`: `index` characters at the end
 * that may have to go -------------------------------------------------------------------------------------------- */

static void strip_tail(struct decode_stage *s, const char *c, size_t n)
{
    strbuf_append(&s->held, c, n);
    if (s->index < s->step->stop) {
        s->index++;
        return;
    }
    stage_emit(s, c, n); /* the same character is at the front of `held` */
    s->held.len -= n;
}

static void strip_put(struct decode_stage *s, const char *text, size_t len)
{
    size_t plain = 0;

    for (size_t i = 0, n; i < len; i += n) {
        bool match = uni_next(text + i, &n) == s->step->cp;
        if (!s->flag && match && s->state < s->step->start) {
            s->state++;
            plain = i + n;
            continue;
        }
        s->flag = true;
        if (!match && s->held.len > 0) {
            emit_held(s);
            s->index = 0;
        }
        if (!match || s->step->stop == 0)
            continue;
        stage_emit(s, text + plain, i - plain);
        strip_tail(s, text + i, n);
        plain = i + n;
    }
    stage_emit(s, text + plain, len - plain);
}

static void strip_end(struct decode_stage *s)
{
    stage_clear(s, &s->held);
    s->index = 0;
    s->state = 0;
    s->flag = false;
    stage_emit_end(s);
}

const struct decode_ops stage_strip = {strip_put, strip_end, nothing};

/* -- Join: `flag` once the space before a text is out --------------------------------------------------------------- */

static void join_put(struct decode_stage *s, const char *text, size_t len)
{
    if (s->index > 0 && !s->flag)
        stage_emit(s, " ", 1);
    s->flag = true;
    stage_emit(s, text, len);
}

static void join_end(struct decode_stage *s)
{
    join_put(s, "", 0);
    s->flag = false;
    s->index++;
    stage_emit_end(s);
}

const struct decode_ops stage_join = {join_put, join_end, nothing};
