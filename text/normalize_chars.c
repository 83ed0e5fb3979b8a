/* SPDX-License-Identifier: Apache-2.0 */
/* Normalizers that look at one character at a time: Lowercase, StripAccents, Nmt, ByteLevel, BertNormalizer. Immutable
 * once loaded, for any thread. */
#include "base/mem.h"
#include "bytelevel.h"
#include "normalize_types.h"
#include "unidata.h"
#include "uniform.h"

static bool is_ascii(const char *text, size_t len)
{
    unsigned char seen = 0;

    for (size_t i = 0; i < len; i++)
        seen |= (unsigned char)text[i];
    return seen < 0x80;
}

/* What a character becomes: itself or another one, or DROPPED. */
#define DROPPED UINT32_MAX
typedef uint32_t (*map_char)(uint32_t cp);

static void map_chars(struct nview in, uint32_t shift, struct nstr *out, map_char map)
{
    struct rewrite r;
    size_t same = 0, pos = 0;

    rewrite_begin(&r, in, shift, out);
    for (size_t n; pos < in.len; pos += n) {
        uint32_t cp = uni_next(in.text + pos, &n), to = map(cp);
        if (to == cp)
            continue;
        rewrite_copy(&r, in.text + same, pos - same);
        same = pos + n;
        if (to == DROPPED)
            rewrite_skip(&r, 1);
        else
            rewrite_put_cp(&r, to, 0);
    }
    rewrite_copy(&r, in.text + same, pos - same);
}

/* --- Lowercase --- */

static void put_lower(struct rewrite *r, uint32_t cp, int64_t change)
{
    uint32_t low[2];
    size_t n = uni_lower(cp, low);

    rewrite_put_cp(r, low[0], change);
    if (n > 1)
        rewrite_put_cp(r, low[1], 1);
}

static void lowercase(struct nview in, uint32_t shift, struct nstr *out)
{
    struct rewrite r;

    rewrite_begin(&r, in, shift, out);
    for (size_t pos = 0, n; pos < in.len; pos += n)
        put_lower(&r, uni_next(in.text + pos, &n), 0);
}

static int32_t apply_lowercase(const struct normalize_step *s, struct normalize_work *w,
                               struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    (void)s, (void)w, (void)err;
    lowercase(in, shift, out);
    return TN_OK;
}

static bool is_lower_ascii(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0x80 || (text[i] >= 'A' && text[i] <= 'Z'))
            return false;
    return true;
}

static bool keeps_lowercase(const struct normalize_step *s, const char *text, size_t len)
{
    (void)s;
    return is_lower_ascii(text, len);
}

const struct normalize_type normalize_lowercase = {"Lowercase", normalize_load_nothing, NULL,
                                                   apply_lowercase, keeps_lowercase};

/* --- StripAccents --- */

static uint32_t without_marks(uint32_t cp)
{
    return uni_is_mark(cp) ? DROPPED : cp;
}

static int32_t apply_strip_accents(const struct normalize_step *s, struct normalize_work *w,
                                   struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    (void)s, (void)w, (void)err;
    map_chars(in, shift, out, without_marks);
    return TN_OK;
}

static bool keeps_ascii(const struct normalize_step *s, const char *text, size_t len)
{
    (void)s;
    return is_ascii(text, len);
}

const struct normalize_type normalize_strip_accents = {"StripAccents", normalize_load_nothing, NULL,
                                                       apply_strip_accents, keeps_ascii};

/* --- Nmt --- */

static uint32_t nmt(uint32_t cp)
{
    if ((cp >= 0x1 && cp <= 0x8) || cp == 0xb || (cp >= 0xe && cp <= 0x1f) || cp == 0x7f ||
        cp == 0x8f || cp == 0x9f)
        return DROPPED;
    if (cp == 0x9 || cp == 0xa || cp == 0xc || cp == 0xd || cp == 0x1680 ||
        (cp >= 0x200b && cp <= 0x200f) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
        cp == 0xfeff || cp == 0xfffd)
        return ' ';
    return cp;
}

static int32_t apply_nmt(const struct normalize_step *s, struct normalize_work *w, struct nview in,
                         uint32_t shift, struct nstr *out, tn_err *err)
{
    (void)s, (void)w, (void)err;
    map_chars(in, shift, out, nmt);
    return TN_OK;
}

const struct normalize_type normalize_nmt = {"Nmt", normalize_load_nothing, NULL, apply_nmt, NULL};

/* --- ByteLevel --- */

static int32_t apply_byte_level(const struct normalize_step *s, struct normalize_work *w,
                                struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    struct rewrite r;

    (void)s, (void)w, (void)err;
    rewrite_begin(&r, in, shift, out);
    for (size_t pos = 0, n; pos < in.len; pos += n) {
        uni_next(in.text + pos, &n);
        for (size_t i = 0; i < n; i++) {
            char c[2];
            size_t len = bytelevel_char((unsigned char)in.text[pos + i], c);
            rewrite_put(&r, c, len, i > 0);
        }
    }
    return TN_OK;
}

const struct normalize_type normalize_byte_level = {"ByteLevel", normalize_load_nothing, NULL,
                                                    apply_byte_level, NULL};

/* --- BertNormalizer --- */

struct bert {
    bool clean, cjk, accents, lowercase;
};

static int32_t load_bert(struct normalize_step *s, const struct tape *t, uint32_t node, tn_err *err)
{
    struct bert b;
    int32_t rc;

    if ((rc = tape_get_bool(t, node, "clean_text", true, &b.clean, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "handle_chinese_chars", true, &b.cjk, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "lowercase", true, &b.lowercase, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "strip_accents", b.lowercase, &b.accents, err)) != TN_OK)
        return rc;
    s->state = mem_alloc(sizeof b);
    if (!s->state)
        return err_nomem(err, "a normalizer");
    memcpy(s->state, &b, sizeof b);
    return TN_OK;
}

static uint32_t bert_clean(uint32_t cp)
{
    if (cp == 0 || cp == 0xfffd || uni_is_control(cp))
        return DROPPED;
    return uni_is_space(cp) ? ' ' : cp;
}

/* Cleaning and spaces around ideographs, in one pass: neither sees what the other does. */
static void bert_separate(const struct bert *b, struct nview in, uint32_t shift, struct nstr *out)
{
    struct rewrite r;

    rewrite_begin(&r, in, shift, out);
    for (size_t pos = 0, n; pos < in.len; pos += n) {
        uint32_t cp = uni_next(in.text + pos, &n), to = b->clean ? bert_clean(cp) : cp;
        if (to == DROPPED) {
            rewrite_skip(&r, 1);
        } else if (b->cjk && to >= 0x3400 && uni_is_cjk(to)) {
            rewrite_put_cp(&r, ' ', 0);
            rewrite_put_cp(&r, to, 1);
            rewrite_put_cp(&r, ' ', 1);
        } else {
            rewrite_put_cp(&r, to, 0);
        }
    }
}

struct unaccent {
    struct rewrite r;
    bool lowercase;
};

static void put_unaccented(void *arg, uint32_t cp, int64_t change)
{
    struct unaccent *u = arg;

    if (uni_is_nonspacing(cp)) {
        if (change <= 0)
            rewrite_skip(&u->r, 1);
    } else if (u->lowercase) {
        put_lower(&u->r, cp, change);
    } else {
        rewrite_put_cp(&u->r, cp, change);
    }
}

static int32_t apply_bert(const struct normalize_step *s, struct normalize_work *w, struct nview in,
                          uint32_t shift, struct nstr *out, tn_err *err)
{
    const struct bert *b = s->state;
    bool second = b->accents || b->lowercase;
    struct unaccent u;

    (void)err;
    if (b->clean || b->cjk) {
        struct nstr *to = second ? &w->spare : out;
        if (second)
            nstr_clear(to);
        bert_separate(b, in, shift, to);
        if (!second)
            return TN_OK;
        out->failed = out->failed || to->failed;
        in = (struct nview){to->text, to->align, to->len};
    }
    if (b->accents) {
        u.lowercase = b->lowercase;
        rewrite_begin(&u.r, in, shift, out);
        if (!uniform_run(in.text, in.len, 0, put_unaccented, &u))
            out->failed = true;
    } else if (b->lowercase) {
        lowercase(in, shift, out);
    } else {
        nstr_put(out, in.text, in.align, in.len);
    }
    return TN_OK;
}

static bool keeps_bert(const struct normalize_step *s, const char *text, size_t len)
{
    const struct bert *b = s->state;

    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~' || (b->lowercase && text[i] >= 'A' && text[i] <= 'Z'))
            return false;
    return true;
}

const struct normalize_type normalize_bert = {"BertNormalizer", load_bert, normalize_release_state,
                                              apply_bert, keeps_bert};
