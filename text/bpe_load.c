/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the BPE model of a tokenizer.json and puts it behind model.h. Loading belongs to one thread. */
#include "base/mem.h"
#include "base/strbuf.h"
#include "bpe.h"
#include "bpe_ranks.h"
#include "model.h"
#include "textlimits.h"

struct bpe_model {
    struct model base;
    struct bpe bpe;
};

/* "merges" as ["a b", ...] or [["a", "b"], ...]. */
struct merge_text {
    const char *left, *right;
    size_t left_len, right_len;
};

static int shown(size_t len)
{
    return len < 40 ? (int)len : 40;
}

static bool split_line(const char *line, size_t len, struct merge_text *m)
{
    const char *space = memchr(line, ' ', len);

    if (!space || memchr(space + 1, ' ', len - (size_t)(space - line) - 1))
        return false;
    *m = (struct merge_text){line, space + 1, (size_t)(space - line),
                             len - (size_t)(space - line) - 1};
    return true;
}

static bool is_version_line(const struct tape *t, uint32_t node)
{
    return tape_is(t, node, TAPE_STRING) && t->nodes[node].len >= 8 &&
           memcmp(t->text + t->nodes[node].off, "#version", 8) == 0;
}

static int32_t read_merge(const struct tape *t, uint32_t node, struct merge_text *m, tn_err *err)
{
    if (tape_is(t, node, TAPE_STRING)) {
        size_t len;
        const char *line = tape_str(t, node, &len);
        if (!split_line(line, len, m))
            return tape_err(t, node, "model.merges", err,
                            "the merge \"%.*s\" is not two tokens with one space between",
                            shown(len), line);
        return TN_OK;
    }
    if (!tape_is(t, node, TAPE_ARRAY) || t->nodes[node].len != 2 ||
        !tape_is(t, node + 1, TAPE_STRING) || !tape_is(t, node + 2, TAPE_STRING))
        return tape_err(t, node, "model.merges", err, "each merge must be a text or two texts");
    m->left = tape_str(t, node + 1, &m->left_len);
    m->right = tape_str(t, node + 2, &m->right_len);
    return TN_OK;
}

static int32_t absent(const struct tape *t, uint32_t node, const char *text, size_t len,
                      tn_err *err)
{
    return tape_err(t, node, "model.merges", err, "names \"%.*s\", which is not in the vocabulary",
                    shown(len), text);
}

/* The token that a merge makes. Trained vocabularies have them in the order of the merges, so the one after the last is
 * asked before the map. */
static uint32_t find_merged(const struct vocab *v, uint32_t last, const struct strbuf *joined)
{
    const char *text;
    size_t len;

    if (vocab_text(v, last + 1, &text, &len) && len == joined->len &&
        memcmp(text, joined->data, len) == 0)
        return last + 1;
    return vocab_find(v, strbuf_str(joined), joined->len);
}

/* *last is the token that the merge before made, and becomes this one's. */
static int32_t add_merge(struct bpe *b, const struct tape *t, uint32_t node, uint32_t rank,
                         const struct merge_text *m, struct strbuf *joined, uint32_t *last,
                         tn_err *err)
{
    /* The merged token does not repeat the prefix of its right part. */
    size_t skip = b->prefix_len < m->right_len ? b->prefix_len : m->right_len;
    uint32_t left = vocab_find(b->vocab, m->left, m->left_len);
    uint32_t right = vocab_find(b->vocab, m->right, m->right_len), id;

    if (left == VOCAB_NONE)
        return absent(t, node, m->left, m->left_len, err);
    if (right == VOCAB_NONE)
        return absent(t, node, m->right, m->right_len, err);
    strbuf_reset(joined);
    strbuf_append(joined, m->left, m->left_len);
    strbuf_append(joined, m->right + skip, m->right_len - skip);
    if (joined->failed)
        return err_nomem(err, "merges");
    id = find_merged(b->vocab, *last, joined);
    if (id == VOCAB_NONE)
        return absent(t, node, strbuf_str(joined), joined->len, err);
    *last = id;
    return bpe_add_merge(b, left, right, rank, id) ? TN_OK : err_nomem(err, "merges");
}

static int32_t load_merges(struct bpe *b, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t list = tape_get(t, node, "merges"), at = list + 1, rank = 0, made = 0;
    struct strbuf joined = STRBUF_INIT;
    int32_t rc = TN_OK;

    if (list == TAPE_NONE && tape_get(t, node, "merge_ranks") != TAPE_NONE)
        return bpe_rank_merges(b, t, tape_get(t, node, "merge_ranks"), err);
    if (!tape_is(t, list, TAPE_ARRAY))
        return tape_err(t, list == TAPE_NONE ? node : list, "model.merges", err, "must be a list");
    if (t->nodes[list].len > LIMIT_MERGES)
        return tape_err(t, list, "model.merges", err, "has %u entries, more than the limit of %llu",
                        t->nodes[list].len, (unsigned long long)LIMIT_MERGES);
    if (!bpe_reserve(b, t->nodes[list].len))
        return err_nomem(err, "merges");
    for (uint32_t i = 0; rc == TN_OK && i < t->nodes[list].len; i++, at = t->nodes[at].next) {
        struct merge_text m = {NULL, NULL, 0, 0};
        if (is_version_line(t, at))
            continue;
        rc = read_merge(t, at, &m, err);
        if (rc == TN_OK)
            rc = add_merge(b, t, at, rank++, &m, &joined, &made, err);
    }
    strbuf_release(&joined);
    return rc;
}

static int32_t load_affix(const struct tape *t, uint32_t node, const char *field, char **out,
                          size_t *len, tn_err *err)
{
    uint32_t v = tape_get(t, node, field);
    const char *text;

    if (v == TAPE_NONE)
        return TN_OK;
    if (!tape_is(t, v, TAPE_STRING))
        return tape_err(t, v, field, err, "must be a string");
    text = tape_str(t, v, len);
    if (*len > LIMIT_TOKEN_BYTES)
        return tape_err(t, v, field, err, "is too long");
    if (*len == 0)
        return TN_OK;
    *out = mem_alloc(*len + 1);
    if (!*out)
        return err_nomem(err, "a vocabulary");
    memcpy(*out, text, *len);
    (*out)[*len] = '\0';
    return TN_OK;
}

static int32_t load_unk(struct bpe *b, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t v = tape_get(t, node, "unk_token");
    const char *text;
    size_t len;

    b->unk = BPE_NONE;
    if (v == TAPE_NONE)
        return TN_OK;
    if (!tape_is(t, v, TAPE_STRING))
        return tape_err(t, v, "model.unk_token", err, "must be a string");
    text = tape_str(t, v, &len);
    b->unk_named = true;
    b->unk = vocab_find(b->vocab, text, len);
    return TN_OK;
}

static int32_t load_options(struct bpe *b, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t dropout = tape_get(t, node, "dropout");
    double p = 0;
    int32_t rc = TN_OK;

    if (dropout != TAPE_NONE && !(tape_real(t, dropout, &p) && p == 0)) {
        tape_err(t, dropout, "model.dropout", err, "makes encoding random");
        err_remedy(err, "set it to null");
        if (err)
            err->code = TN_E_UNSUPPORTED;
        return TN_E_UNSUPPORTED;
    }
    rc = tape_get_bool(t, node, "fuse_unk", false, &b->fuse_unk, err);
    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "byte_fallback", false, &b->byte_fallback, err);
    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "ignore_merges", false, &b->ignore_merges, err);
    if (rc == TN_OK)
        rc = load_affix(t, node, "continuing_subword_prefix", &b->prefix, &b->prefix_len, err);
    if (rc == TN_OK)
        rc = load_affix(t, node, "end_of_word_suffix", &b->suffix, &b->suffix_len, err);
    return rc;
}

/* "whole_words", which the importers write: the ids of words that do not go through merges. */
static int32_t load_whole(struct bpe *b, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t list = tape_get(t, node, "whole_words");

    if (list == TAPE_NONE)
        return TN_OK;
    if (!tape_is(t, list, TAPE_ARRAY))
        return tape_err(t, list, "model.whole_words", err, "must be a list");
    b->whole = mem_zarray(b->vocab->size / 64 + 1, sizeof *b->whole);
    if (!b->whole)
        return err_nomem(err, "a vocabulary");
    for (uint32_t i = 0, id; i < t->nodes[list].len; i++) {
        if (!tape_uint(t, list + 1 + i, &id) || id >= b->vocab->size)
            return tape_err(t, list, "model.whole_words", err, "names no id of the vocabulary");
        b->whole[id >> 6] |= UINT64_C(1) << (id & 63);
    }
    return TN_OK;
}

static void bpe_model_free(struct model *m)
{
    struct bpe_model *b = (struct bpe_model *)m;

    bpe_release(&b->bpe);
    vocab_release(&b->base.vocab);
    mem_free(b);
}

static int32_t bpe_model_load(const struct tape *t, uint32_t node, const struct model_hints *hints,
                              struct model **out, tn_err *err)
{
    struct bpe_model *m = mem_zalloc(sizeof *m);
    int32_t rc = TN_OK;

    if (!m)
        return err_nomem(err, "a vocabulary");
    m->base.type = &model_bpe;
    m->bpe.vocab = &m->base.vocab;
    rc = vocab_load_object(&m->base.vocab, t, node, hints->bytes, err);
    if (rc == TN_OK)
        rc = load_options(&m->bpe, t, node, err);
    if (rc == TN_OK)
        rc = load_unk(&m->bpe, t, node, err);
    if (rc == TN_OK)
        rc = load_whole(&m->bpe, t, node, err);
    if (rc == TN_OK)
        rc = load_merges(&m->bpe, t, node, err);
    if (rc == TN_OK)
        rc = bpe_finish(&m->bpe, err);
    if (rc != TN_OK) {
        bpe_model_free(&m->base);
        return rc;
    }
    *out = &m->base;
    return TN_OK;
}

static bool bpe_model_fits(const struct tape *t, uint32_t node)
{
    return tape_get(t, node, "merges") != TAPE_NONE;
}

static int32_t bpe_model_work_new(const struct model *m, struct model_work **out, tn_err *err)
{
    struct bpe_work *w = NULL;
    int32_t rc = bpe_work_new(&w, err);

    (void)m;
    if (rc == TN_OK)
        *out = (struct model_work *)w;
    return rc;
}

static void bpe_model_work_free(struct model_work *w)
{
    bpe_work_free((struct bpe_work *)w);
}

static int32_t bpe_model_encode(const struct model *m, struct model_work *w, const char *text,
                                size_t len, const struct sink *s, tn_err *err)
{
    return bpe_encode(&((const struct bpe_model *)m)->bpe, (struct bpe_work *)w, text, len, s, err);
}

const struct model_type model_bpe = {
    .name = "BPE",
    .takes_bytes = true,
    .fits = bpe_model_fits,
    .load = bpe_model_load,
    .free = bpe_model_free,
    .work_new = bpe_model_work_new,
    .work_free = bpe_model_work_free,
    .encode = bpe_model_encode,
};
