/* SPDX-License-Identifier: Apache-2.0 */
/* Stages that make characters of bytes (decoder_stage.h): what is no UTF-8 becomes U+FFFD, as soon as that is sure. */
#include <string.h>

#include "base/utf8.h"
#include "bytelevel.h"
#include "decoder_stage.h"

#define REPLACEMENT "\xef\xbf\xbd"

static void drop_front(struct strbuf *b, size_t n)
{
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
}

/* -- ByteLevel: `held` is the text that comes in, `before` an unfinished character ------------------------------- */

/* Hands on all bytes but an unfinished character at the end. */
static void emit_lossy(struct decode_stage *s)
{
    const char *p = s->before.data;
    size_t n = s->before.len, good = 0, at = 0;

    while (at < n) {
        bool valid, partial;
        size_t len;
        if ((unsigned char)p[at] < 0x80) {
            at++;
            continue;
        }
        len = utf8_subpart(p + at, n - at, &valid, &partial);
        if (partial)
            break;
        if (!valid) {
            stage_emit(s, p + good, at - good);
            stage_emit(s, REPLACEMENT, 3);
            good = at + len;
        }
        at += len;
    }
    stage_emit(s, p + good, at - good);
    drop_front(&s->before, at);
}

static void hold(struct decode_stage *s, const char *text, size_t len)
{
    strbuf_append(&s->held, text, len);
}

static void byte_level_end(struct decode_stage *s)
{
    const char *text = strbuf_str(&s->held);
    size_t len = s->held.len, n = 0;

    if (!strbuf_reserve(&s->before, len))
        return;
    if (len > 0 && bytelevel_decode(text, len, s->before.data + s->before.len, &n)) {
        s->before.len += n;
        s->before.data[s->before.len] = '\0';
    } else {
        strbuf_append(&s->before, text, len);
    }
    stage_clear(s, &s->held);
    emit_lossy(s);
}

static void byte_level_finish(struct decode_stage *s)
{
    if (s->before.len > 0)
        stage_emit(s, REPLACEMENT, 3);
    stage_emit_end(s);
}

const struct decode_ops stage_byte_level = {hold, byte_level_end, byte_level_finish};

/* -- ByteFallback: `held` is a text that may still be a byte, `before` the bytes of a run; `state`: the bytes of it that
 * are whole characters, or BROKEN; `flag`: the text that comes in is no byte ---------------------------------------- */

#define BROKEN SIZE_MAX /* the run is no UTF-8 whatever follows */
#define BYTE_TOKEN 6    /* <0xNN> */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0xNN>", -1 if it is none. A plus sign may stand for the first digit: the reference's parser takes it. */
static int byte_of(const char *t, size_t len)
{
    int high, low;

    if (len != BYTE_TOKEN || memcmp(t, "<0x", 3) != 0 || t[5] != '>')
        return -1;
    high = t[3] == '+' ? 0 : hex_digit(t[3]);
    low = hex_digit(t[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Each byte of a broken run is a text of its own. */
static void emit_broken(struct decode_stage *s)
{
    for (size_t i = 0; i < s->before.len; i++) {
        stage_emit(s, REPLACEMENT, 3);
        stage_emit_end(s);
    }
    stage_clear(s, &s->before);
}

static void run_byte(struct decode_stage *s, char byte)
{
    strbuf_append(&s->before, &byte, 1);
    while (s->state != BROKEN && s->state < s->before.len) {
        bool valid, partial;
        size_t n =
            utf8_subpart(s->before.data + s->state, s->before.len - s->state, &valid, &partial);
        if (partial)
            return;
        s->state = valid ? s->state + n : BROKEN;
    }
    if (s->state == BROKEN)
        emit_broken(s);
}

static void run_ends(struct decode_stage *s)
{
    if (s->before.len > 0 && s->state == s->before.len) {
        stage_emit(s, s->before.data, s->before.len);
        stage_emit_end(s);
        stage_clear(s, &s->before);
    } else {
        emit_broken(s);
    }
    s->state = 0;
}

static void not_a_byte(struct decode_stage *s)
{
    run_ends(s);
    s->flag = true;
    stage_emit(s, strbuf_str(&s->held), s->held.len);
    stage_clear(s, &s->held);
}

static void byte_fallback_put(struct decode_stage *s, const char *text, size_t len)
{
    if (!s->flag && (s->held.len + len > BYTE_TOKEN || (s->held.len == 0 && text[0] != '<')))
        not_a_byte(s);
    if (s->flag)
        stage_emit(s, text, len);
    else
        strbuf_append(&s->held, text, len);
}

static void byte_fallback_end(struct decode_stage *s)
{
    int byte = s->flag ? -1 : byte_of(strbuf_str(&s->held), s->held.len);

    if (byte >= 0) {
        stage_clear(s, &s->held);
        run_byte(s, (char)byte);
        return;
    }
    if (!s->flag)
        not_a_byte(s);
    s->flag = false;
    stage_emit_end(s);
}

const struct decode_ops stage_byte_fallback = {byte_fallback_put, byte_fallback_end, run_ends};
