/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The normalizer Precompiled: SentencePiece's character map, looked up as the reference does it, which is not as
 * SentencePiece does it: a grapheme cluster of less than 6 bytes is replaced as a whole by what its beginning maps to;
 * otherwise each character by itself. For any thread.
 */
#include "base/mem.h"
#include "base64.h"
#include "charsmap.h"
#include "grapheme.h"
#include "normalize_types.h"
#include "unidata.h"

static int32_t load_precompiled(struct normalize_step *s, const struct tape *t, uint32_t node,
                                tn_err *err)
{
    struct charsmap *m = NULL;
    char *data = NULL;
    const char *text;
    size_t len, n;
    int32_t rc = tape_need_str(t, node, "precompiled_charsmap", &text, &len, err);

    if (rc != TN_OK)
        return rc;
    data = mem_alloc(base64_room(len) + 1);
    m = mem_zalloc(sizeof *m);
    if (!data || !m) {
        rc = err_nomem(err, "a character map");
    } else if (!base64_decode(text, len, data, &n)) {
        rc = tape_err(t, node, "precompiled_charsmap", err, "the character map is not base64");
    } else {
        rc = charsmap_load(data, n, m, err);
        err_field(rc == TN_OK ? NULL : err, "precompiled_charsmap");
    }
    mem_free(data);
    if (rc == TN_OK)
        s->state = m;
    else
        mem_free(m);
    return rc;
}

static void release_precompiled(struct normalize_step *s)
{
    if (s->state)
        charsmap_release(s->state);
    normalize_release_state(s);
}

/* The stream of changes, one character late: a replacement by less adds to the change of the character before. */
struct late {
    struct rewrite r;
    uint32_t cp;
    int64_t change;
    bool any;
};

static void late_flush(struct late *x)
{
    if (x->any)
        rewrite_put_cp(&x->r, x->cp, x->change);
    x->any = false;
}

static void late_put(struct late *x, uint32_t cp, int64_t change)
{
    late_flush(x);
    x->cp = cp;
    x->change = change;
    x->any = true;
}

static int64_t count_chars(const char *text, size_t len)
{
    int64_t count = 0;

    for (size_t i = 0; i < len; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

static void replace_part(struct late *x, const char *old, size_t old_len, const char *new,
                         size_t new_len)
{
    int64_t olds = count_chars(old, old_len), news = count_chars(new, new_len), i = 0;

    for (size_t pos = 0, n; pos < new_len; pos += n)
        late_put(x, uni_next(new + pos, &n), i++ >= olds);
    if (news < olds && x->any) /* at the very beginning the reference forgets to skip */
        x->change += news - olds;
}

static void map_char(const struct charsmap *m, struct late *x, const char *at, size_t n)
{
    size_t len;
    const char *to = charsmap_find(m, at, n, &len);

    if (to)
        replace_part(x, at, n, to, len);
    else
        late_put(x, uni_next(at, &n), 0);
}

static void map_cluster(const struct charsmap *m, struct late *x, const char *at, size_t size)
{
    size_t len;
    const char *to = size < 6 ? charsmap_find(m, at, size, &len) : NULL;

    if (to) {
        replace_part(x, at, size, to, len);
        return;
    }
    for (size_t pos = 0, n; pos < size; pos += n) {
        uni_next(at + pos, &n);
        map_char(m, x, at + pos, n);
    }
}

/* Text bytes from pos on that stand for themselves whatever follows: ASCII before ASCII, but CR. */
static size_t plain_run(const struct charsmap *m, const char *text, size_t len, size_t pos)
{
    size_t end = pos;

    while (end < len) {
        unsigned char c = (unsigned char)text[end];
        if (c >= 0x80 || m->ascii[c] || c == '\r' ||
            (end + 1 < len && (unsigned char)text[end + 1] >= 0x80))
            break;
        end++;
    }
    return end;
}

static int32_t apply_precompiled(const struct normalize_step *s, struct normalize_work *w,
                                 struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    const struct charsmap *m = s->state;
    struct late x = {.any = false};
    size_t pos = 0;

    (void)w, (void)err;
    rewrite_begin(&x.r, in, shift, out);
    while (pos < in.len) {
        size_t end = plain_run(m, in.text, in.len, pos);
        if (end > pos + 1) {
            late_flush(&x);
            rewrite_copy(&x.r, in.text + pos, end - 1 - pos);
            pos = end - 1;
        }
        end = grapheme_end(in.text, in.len, pos);
        map_cluster(m, &x, in.text + pos, end - pos);
        pos = end;
    }
    late_flush(&x);
    return TN_OK;
}

static bool keeps_precompiled(const struct normalize_step *s, const char *text, size_t len)
{
    return plain_run(s->state, text, len, 0) == len;
}

const struct normalize_type normalize_precompiled = {
    "Precompiled", load_precompiled, release_precompiled, apply_precompiled, keeps_precompiled};
