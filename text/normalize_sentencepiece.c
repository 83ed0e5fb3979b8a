/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SentencePiece's own normalizer, for vocabularies that come as its model files (import_sentencepiece.c): no tokenizer.json
 * names it. Unlike Precompiled it replaces the longest key at each place; then it takes white space away at the
 * ends and between words, puts one space in front, and writes spaces as U+2581, all as the file says. A text that an added
 * token precedes gets no space in front, as transformers has it. For any thread.
 */
#include "base/mem.h"
#include "base64.h"
#include "charsmap.h"
#include "normalize_types.h"
#include "trie.h"
#include "unidata.h"

#define META "\xe2\x96\x81" /* U+2581 */

struct spm {
    struct charsmap map;
    bool has_map, prefix, every_prefix, suffix, trim, escape;
    struct trie kept; /* texts that are not touched: user-defined pieces */
    bool has_kept;
};

static void release_spm(struct normalize_step *s)
{
    struct spm *m = s->state;

    if (m) {
        charsmap_release(&m->map);
        trie_release(&m->kept);
    }
    normalize_release_state(s);
}

static int32_t load_map(struct spm *m, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t map = tape_get(t, node, "precompiled_charsmap");
    const char *text;
    size_t len, n;
    char *data;
    int32_t rc;

    if (map == TAPE_NONE)
        return TN_OK;
    if (!tape_is(t, map, TAPE_STRING))
        return tape_err(t, map, "precompiled_charsmap", err, "must be a string");
    text = tape_str(t, map, &len);
    data = mem_alloc(base64_room(len) + 1);
    if (!data)
        return err_nomem(err, "a character map");
    rc = base64_decode(text, len, data, &n)
             ? charsmap_load(data, n, &m->map, err)
             : tape_err(t, map, "precompiled_charsmap", err, "the character map is not base64");
    m->has_map = rc == TN_OK;
    mem_free(data);
    return rc;
}

static int32_t load_kept(struct spm *m, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t list = tape_get(t, node, "kept"), at = list + 1;

    if (list == TAPE_NONE)
        return TN_OK;
    if (!tape_is(t, list, TAPE_ARRAY))
        return tape_err(t, list, "kept", err, "must be a list");
    if (!trie_init(&m->kept))
        return err_nomem(err, "a normalizer");
    for (uint32_t i = 0; i < t->nodes[list].len; i++, at = t->nodes[at].next) {
        const char *text;
        size_t len;
        if (!tape_is(t, at, TAPE_STRING) || t->nodes[at].len == 0)
            return tape_err(t, at, "kept", err, "must be texts that are not empty");
        text = tape_str(t, at, &len);
        if (!trie_add(&m->kept, text, len, i, NULL))
            return err_nomem(err, "a normalizer");
        m->has_kept = true;
    }
    return TN_OK;
}

static int32_t load_spm(struct normalize_step *s, const struct tape *t, uint32_t node, tn_err *err)
{
    struct spm *m = mem_zalloc(sizeof *m);
    int32_t rc;

    if (!m)
        return err_nomem(err, "a normalizer");
    s->state = m;
    if ((rc = load_map(m, t, node, err)) != TN_OK || (rc = load_kept(m, t, node, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "add_dummy_prefix", true, &m->prefix, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "prefix_always", false, &m->every_prefix, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "suffix", false, &m->suffix, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "remove_extra_whitespaces", true, &m->trim, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "escape_whitespaces", true, &m->escape, err)) != TN_OK)
        release_spm(s);
    return rc;
}

/* What stands at the head of the text in normal form: `to`, for `used` bytes. */
struct head {
    const char *to;
    size_t len, used;
};

static size_t kept_prefix(const struct spm *m, const char *text, size_t len)
{
    uint32_t node = 0;
    size_t longest = 0;

    for (size_t i = 0; i < len;) {
        node = trie_next(&m->kept, node, (unsigned char)text[i++]);
        if (node == 0)
            break;
        if (m->kept.values[node] != TRIE_NONE)
            longest = i;
    }
    return longest;
}

static struct head head_of(const struct spm *m, const char *text, size_t len)
{
    struct head h = {text, 0, 0};

    if (m->has_kept && (h.used = kept_prefix(m, text, len)) > 0) {
        h.len = h.used;
        return h;
    }
    if (m->has_map) {
        h.to = charsmap_longest(&m->map, text, len, &h.len, &h.used);
        if (h.to)
            return h;
    }
    uni_next(text, &h.used);
    return (struct head){text, h.used, h.used};
}

/* Appends normal text that stands for `used` bytes of the old text at `pos`. */
static void put_head(const struct spm *m, struct nview in, size_t pos, struct head h,
                     struct nstr *out)
{
    struct span at = {in.align[pos].begin, in.align[pos + h.used - 1].end};

    if (h.to == in.text + pos && !(m->escape && memchr(h.to, ' ', h.len))) {
        nstr_put(out, h.to, in.align + pos, h.len);
        return;
    }
    for (size_t i = 0; i < h.len; i++) {
        bool space = m->escape && h.to[i] == ' ';
        nstr_put_as(out, space ? META : h.to + i, space ? 3 : 1, at);
    }
}

static void put_space(const struct spm *m, struct span at, struct nstr *out)
{
    nstr_put_as(out, m->escape ? META : " ", m->escape ? 3 : 1, at);
}

static void trim_end(const struct spm *m, struct nstr *out, size_t from)
{
    const char *space = m->escape ? META : " ";
    size_t n = strlen(space);

    while (!out->failed && out->len - from >= n && memcmp(out->text + out->len - n, space, n) == 0)
        out->len -= n;
}

static int32_t apply_spm(const struct normalize_step *s, struct normalize_work *w, struct nview in,
                         uint32_t shift, struct nstr *out, tn_err *err)
{
    const struct spm *m = s->state;
    bool space_before = m->trim, framed = shift == 0 || m->every_prefix;
    size_t pos = 0, from = out->len;

    (void)w, (void)err;
    for (; m->trim && pos < in.len;) {
        struct head h = head_of(m, in.text + pos, in.len - pos);
        if (h.len != 1 || h.to[0] != ' ')
            break;
        pos += h.used;
    }
    if (pos == in.len)
        return TN_OK;
    if (m->prefix && framed && !m->suffix)
        put_space(m, in.align[pos], out);
    while (pos < in.len) {
        struct head h = head_of(m, in.text + pos, in.len - pos);
        size_t used = h.used;
        for (; space_before && h.len > 0 && h.to[0] == ' '; h.len--)
            h.to++;
        if (h.len > 0) {
            put_head(m, in, pos, h, out);
            space_before = h.to[h.len - 1] == ' ';
        }
        space_before = space_before && m->trim;
        pos += used;
    }
    if (m->trim)
        trim_end(m, out, from);
    if (m->prefix && framed && m->suffix)
        put_space(m, in.align[in.len - 1], out);
    return TN_OK;
}

const struct normalize_type normalize_sentencepiece = {"SentencePiece", load_spm, release_spm,
                                                       apply_spm, NULL};
