/* SPDX-License-Identifier: Apache-2.0 */
/* Strings, their provenance, and building them. See str.h. */
#include "jinja/str.h"

#include <string.h>

#include "base/utf8.h"
#include "jinja/vm.h"

/* Index of the run that holds byte `at` of the buffer; run_count if there is none. */
static size_t run_at(const struct jbuf *b, size_t at)
{
    size_t lo = 0, hi = b->run_count;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (b->runs[mid].end <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool make(struct jvm *vm, struct jbuf *buf, size_t at, size_t len, struct jvalue *out)
{
    struct jstr *s = jvm_alloc(vm, sizeof *s);

    if (!s)
        return false;
    *s = (struct jstr){buf, at, len, JSTR_UNKNOWN};
    *out = (struct jvalue){.type = J_STR, .u.s = s};
    return true;
}

bool jstr_wrap(struct jvm *vm, const char *data, size_t len, bool trusted, struct jvalue *out)
{
    struct {
        struct jbuf buf;
        struct jrun run;
    } *b = jvm_alloc(vm, sizeof *b);

    if (!b)
        return false;
    b->run = (struct jrun){len, trusted};
    /* The cast is safe: cap 0 says that nobody writes there. */
    b->buf = (struct jbuf){(char *)(uintptr_t)data, len, 0, &b->run, 1, 0};
    return make(vm, &b->buf, 0, len, out);
}

bool jstr_copy(struct jvm *vm, const char *data, size_t len, bool trusted, struct jvalue *out)
{
    struct jbuild b;

    return jbuild_init(vm, &b) && jbuild_bytes(&b, data, len, trusted) && jbuild_done(&b, out);
}

bool jstr_cstr(struct jvm *vm, const char *text, struct jvalue *out)
{
    return jstr_wrap(vm, text, strlen(text), true, out);
}

bool jstr_sub(struct jvm *vm, struct jvalue like, size_t at, size_t len, struct jvalue *out)
{
    const struct jstr *s = like.u.s;

    if (!make(vm, s->buf, s->at + at, len, out))
        return false;
    out->flags = like.flags & JF_MARKUP;
    return true;
}

bool jstr_concat(struct jvm *vm, const struct jstr *a, const struct jstr *b, struct jvalue *out)
{
    struct jbuild build = {vm, a->buf, 0};

    if (a->buf->cap && a->at + a->len == a->buf->len)
        return jbuild_str(&build, b) && make(vm, build.buf, a->at, a->len + b->len, out);
    return jbuild_init(vm, &build) && jbuild_str(&build, a) && jbuild_str(&build, b) &&
           jbuild_done(&build, out);
}

size_t jstr_chars(const struct jstr *s)
{
    const unsigned char *p = (const unsigned char *)jstr_data(s);
    size_t n = 0;

    if (s->chars != JSTR_UNKNOWN)
        return s->chars;
    for (size_t i = 0; i < s->len; i++)
        n += (p[i] & 0xc0) != 0x80;
    /* A memo. Strings that threads share (literals) have it from the start. */
    ((struct jstr *)(uintptr_t)s)->chars = n;
    return n;
}

size_t jstr_offset(const struct jstr *s, size_t i)
{
    const unsigned char *p = (const unsigned char *)jstr_data(s);
    size_t at = 0;

    if (jstr_ascii(s))
        return i;
    for (; i > 0 && at < s->len; i--) {
        at++;
        while (at < s->len && (p[at] & 0xc0) == 0x80)
            at++;
    }
    return at;
}

size_t jstr_index(const struct jstr *s, size_t offset)
{
    const unsigned char *p = (const unsigned char *)jstr_data(s);
    size_t n = 0;

    if (jstr_ascii(s))
        return offset;
    for (size_t i = 0; i < offset; i++)
        n += (p[i] & 0xc0) != 0x80;
    return n;
}

size_t jstr_decode(const struct jstr *s, size_t at, uint32_t *cp)
{
    return utf8_decode(jstr_data(s) + at, s->len - at, cp);
}

size_t jstr_before(const struct jstr *s, size_t at)
{
    const unsigned char *p = (const unsigned char *)jstr_data(s);

    for (at--; at > 0 && (p[at] & 0xc0) == 0x80;)
        at--;
    return at;
}

bool jstr_is(const struct jstr *s, const char *text)
{
    return strlen(text) == s->len && memcmp(jstr_data(s), text, s->len) == 0;
}

bool jstr_equal(const struct jstr *a, const struct jstr *b)
{
    return a->len == b->len && memcmp(jstr_data(a), jstr_data(b), a->len) == 0;
}

int jstr_order(const struct jstr *a, const struct jstr *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int c = memcmp(jstr_data(a), jstr_data(b), n);

    return c ? c : (a->len > b->len) - (a->len < b->len);
}

bool jstr_find(struct jvm *vm, const struct jstr *s, size_t from, size_t to,
               const struct jstr *what, size_t *at)
{
    const char *p = jstr_data(s), *w = jstr_data(what), *hit;
    size_t begin = from, seen = 0;

    *at = what->len == 0 && from <= to ? from : SIZE_MAX;
    while (what->len && *at == SIZE_MAX && from < to && to - from >= what->len) {
        hit = memchr(p + from, w[0], to - from - what->len + 1);
        seen = hit ? (size_t)(hit - p) - begin : to - begin;
        if (!hit)
            break;
        if (!jvm_spend_bytes(vm, what->len))
            return false;
        if (memcmp(hit, w, what->len) == 0)
            *at = (size_t)(hit - p);
        from = (size_t)(hit - p) + 1;
    }
    return jvm_spend_bytes(vm, seen);
}

bool jstr_rfind(struct jvm *vm, const struct jstr *s, size_t from, size_t to,
                const struct jstr *what, size_t *at)
{
    const char *p = jstr_data(s), *w = jstr_data(what);
    size_t i;

    *at = SIZE_MAX;
    if (from > to || to - from < what->len)
        return true;
    for (i = to - what->len;; i--) {
        if (!jvm_spend_bytes(vm, what->len))
            return false;
        if (memcmp(p + i, w, what->len) == 0)
            *at = i;
        if (*at != SIZE_MAX || i == from)
            return jvm_spend_bytes(vm, to - i);
    }
}

bool jstr_trusted_at(const struct jstr *s, size_t at)
{
    size_t i = run_at(s->buf, s->at + at);

    return i < s->buf->run_count && s->buf->runs[i].trusted;
}

bool jstr_trusted(const struct jstr *s)
{
    size_t at = 0;

    while (at < s->len) {
        size_t i = run_at(s->buf, s->at + at);
        if (i == s->buf->run_count || !s->buf->runs[i].trusted)
            return false;
        at = s->buf->runs[i].end - s->at;
    }
    return true;
}

int jstr_brief(const struct jstr *s)
{
    size_t n = s->len;

    if (n > 200) {
        n = 200;
        while (((unsigned char)jstr_data(s)[n] & 0xc0) == 0x80)
            n--;
    }
    return (int)n;
}

const char *jstr_z(struct jvm *vm, const struct jstr *s)
{
    char *z = jvm_alloc(vm, s->len + 1);

    if (z)
        memcpy(z, jstr_data(s), s->len);
    return z;
}

bool jbuild_init(struct jvm *vm, struct jbuild *b)
{
    *b = (struct jbuild){vm, jvm_alloc(vm, sizeof *b->buf), 0};
    return b->buf != NULL;
}

/*
 * Room for `more` bytes at the end. A buffer that has to move is left as it is for the strings that look
 * into it; the builder goes on with a copy.
 */
static bool reserve(struct jbuild *b, size_t more)
{
    struct jbuf *old = b->buf, *bigger = old;
    size_t want;

    if (b->limit && (more > b->limit || old->len > b->limit - more))
        return jvm_fail(b->vm, JINJA_LIMIT, "the rendered text exceeds %zu bytes", b->limit);
    if (old->cap - old->len >= more)
        return true;
    if (more > SIZE_MAX / 4 || old->len > SIZE_MAX / 4)
        return jvm_alloc(b->vm, SIZE_MAX) != NULL; /* fails with the right message */
    want = (old->len + more) * 2;
    if (want < 64)
        want = 64;
    if (old->len) {
        bigger = jvm_alloc(b->vm, sizeof *bigger);
        if (!bigger)
            return false;
        *bigger = *old;
        bigger->runs = NULL;
        bigger->run_cap = bigger->run_count = 0;
        if (!jvm_grow(b->vm, &bigger->runs, &bigger->run_cap, old->run_count, sizeof *old->runs))
            return false;
        memcpy(bigger->runs, old->runs, old->run_count * sizeof *old->runs);
        bigger->run_count = old->run_count;
    }
    bigger->data = jvm_alloc(b->vm, want);
    if (!bigger->data || !jvm_spend_bytes(b->vm, old->len))
        return false;
    if (old->len)
        memcpy(bigger->data, old->data, old->len);
    bigger->cap = want;
    b->buf = bigger;
    return true;
}

static bool append(struct jbuild *b, const char *data, size_t n, bool trusted)
{
    struct jbuf *buf;

    if (n == 0)
        return true;
    if (!reserve(b, n) || !jvm_spend_bytes(b->vm, n))
        return false;
    buf = b->buf;
    if (buf->run_count == 0 || buf->runs[buf->run_count - 1].trusted != trusted) {
        if (!jvm_grow(b->vm, &buf->runs, &buf->run_cap, buf->run_count + 1, sizeof *buf->runs))
            return false;
        buf->runs[buf->run_count++].trusted = trusted;
    }
    memcpy(buf->data + buf->len, data, n);
    buf->len += n;
    buf->runs[buf->run_count - 1].end = buf->len;
    return true;
}

bool jbuild_bytes(struct jbuild *b, const char *data, size_t n, bool trusted)
{
    return append(b, data, n, trusted);
}

bool jbuild_cstr(struct jbuild *b, const char *text, bool trusted)
{
    return append(b, text, strlen(text), trusted);
}

bool jbuild_char(struct jbuild *b, uint32_t cp, bool trusted)
{
    char bytes[4];

    return append(b, bytes, utf8_encode(cp, bytes), trusted);
}

bool jbuild_pad(struct jbuild *b, uint32_t cp, size_t count, bool trusted)
{
    char bytes[4];
    size_t n = utf8_encode(cp, bytes);

    if (count > SIZE_MAX / 8)
        count = SIZE_MAX / 8;
    if (!reserve(b, count * n)) /* refuses absurd widths at once */
        return false;
    while (count-- > 0) {
        if (!append(b, bytes, n, trusted) || (count % 64 == 63 && !jvm_spend(b->vm, 1)))
            return false;
    }
    return true;
}

bool jbuild_sub(struct jbuild *b, const struct jstr *s, size_t at, size_t len)
{
    /* Appending may move the buffer that `s` looks into, but its bytes stay where they are. */
    const struct jbuf *from = s->buf;
    size_t begin = s->at + at, end = begin + len;

    while (begin < end) {
        size_t i = run_at(from, begin), stop = end;
        bool trusted = i < from->run_count && from->runs[i].trusted;
        if (i < from->run_count && from->runs[i].end < end)
            stop = from->runs[i].end;
        if (!reserve(b, stop - begin) || !append(b, from->data + begin, stop - begin, trusted))
            return false;
        begin = stop;
    }
    return true;
}

bool jbuild_str(struct jbuild *b, const struct jstr *s)
{
    return jbuild_sub(b, s, 0, s->len);
}

bool jbuild_done(struct jbuild *b, struct jvalue *out)
{
    return make(b->vm, b->buf, 0, b->buf->len, out);
}
