/* SPDX-License-Identifier: Apache-2.0 */
/* Text with alignments (nstr.h). Used by one thread at a time. */
#include "nstr.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "textlimits.h"
#include "unidata.h"

void nstr_release(struct nstr *s)
{
    mem_free(s->text);
    mem_free(s->align);
    *s = (struct nstr){NULL, NULL, 0, 0, 0, false};
}

void nstr_clear(struct nstr *s)
{
    s->len = 0;
    s->failed = false;
}

bool nstr_reserve(struct nstr *s, size_t more)
{
    if (s->failed || more > LIMIT_WORK_BYTES - s->len ||
        !mem_grow(&s->text, &s->cap, s->len + more, 1) ||
        !mem_grow(&s->align, &s->align_cap, s->len + more, sizeof *s->align))
        s->failed = true;
    return !s->failed;
}

void nstr_put_input(struct nstr *s, const char *text, size_t n, uint32_t at)
{
    struct span *a;

    if (n == 0 || !nstr_reserve(s, n))
        return;
    memcpy(s->text + s->len, text, n);
    a = s->align + s->len;
    for (size_t i = 0; i < n;) {
        size_t len;
        struct span here;
        uni_next(text + i, &len);
        here = (struct span){at + (uint32_t)i, at + (uint32_t)(i + len)};
        for (size_t k = 0; k < len; k++)
            a[i + k] = here;
        i += len;
    }
    s->len += n;
}

void nstr_put(struct nstr *s, const char *text, const struct span *align, size_t n)
{
    if (n == 0 || !nstr_reserve(s, n))
        return;
    memcpy(s->text + s->len, text, n);
    memcpy(s->align + s->len, align, n * sizeof *align);
    s->len += n;
}

void nstr_put_as(struct nstr *s, const char *text, size_t n, struct span at)
{
    if (n == 0 || !nstr_reserve(s, n))
        return;
    memcpy(s->text + s->len, text, n);
    for (size_t i = 0; i < n; i++)
        s->align[s->len + i] = at;
    s->len += n;
}

void rewrite_begin(struct rewrite *r, struct nview in, uint32_t shift, struct nstr *out)
{
    size_t head = 0;

    /* What stands for no input at the very beginning (a replaced "^") is out of the reference's reach: there a change
     * of "the whole text" is one of what stands for the whole input. */
    while (head < in.len && in.align[head].begin == in.align[head].end)
        head++;
    nstr_put(out, in.text, in.align, head);
    *r = (struct rewrite){in, head, {shift, shift}, out};
}

void rewrite_skip(struct rewrite *r, size_t chars)
{
    for (size_t len; chars > 0 && r->off < r->in.len; chars--) {
        uni_next(r->in.text + r->off, &len);
        r->off += len;
    }
}

void rewrite_put(struct rewrite *r, const char *bytes, size_t n, int64_t change)
{
    struct span at;

    if (change > 0)
        at = r->off < 1 ? r->origin : r->in.align[r->off - 1];
    else if (r->off < r->in.len)
        at = r->in.align[r->off];
    else /* a stream that replaces more than there is; the reference would panic */
        at = r->in.len > 0 ? r->in.align[r->in.len - 1] : r->origin;
    nstr_put_as(r->out, bytes, n, at);
    if (change <= 0)
        rewrite_skip(r, 1 + (size_t)-change);
}

void rewrite_put_cp(struct rewrite *r, uint32_t cp, int64_t change)
{
    char bytes[4];

    rewrite_put(r, bytes, utf8_encode(cp, bytes), change);
}

void rewrite_copy(struct rewrite *r, const char *text, size_t n)
{
    if (text == r->in.text + r->off) {
        nstr_put(r->out, text, r->in.align + r->off, n);
        r->off += n;
        return;
    }
    for (size_t i = 0, len; i < n; i += len) {
        uni_next(text + i, &len);
        rewrite_put(r, text + i, len, 0);
    }
}
