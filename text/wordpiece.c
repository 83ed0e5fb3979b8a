/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The WordPiece model: a word is cut into the longest token that it begins with, then the longest that the rest begins
 * with, written with a prefix ("##"), and so on. If that fails, or the word is too long, it is one unknown token. Immutable
 * once loaded, for any thread.
 */
#include "base/mem.h"
#include "model.h"
#include "trie.h"

struct wordpiece {
    struct model base;
    struct trie trie;
    uint32_t
        inner; /* node behind the prefix, where later parts of a word begin; TRIE_NONE: no token has it */
    uint32_t unk;   /* VOCAB_NONE: not in the vocabulary */
    char *unk_text; /* owned */
    size_t unk_len;
    uint32_t max_chars;
};

static void wordpiece_free(struct model *model)
{
    struct wordpiece *m = (struct wordpiece *)model;

    vocab_release(&m->base.vocab);
    trie_release(&m->trie);
    mem_free(m->unk_text);
    mem_free(m);
}

static int32_t fill_trie(struct wordpiece *m, const char *prefix, size_t prefix_len, tn_err *err)
{
    const struct vocab *v = &m->base.vocab;
    const char *text;
    size_t len;

    if (!trie_init(&m->trie))
        return err_nomem(err, "a vocabulary");
    for (uint32_t id = 0; id < v->size; id++)
        if (vocab_text(v, id, &text, &len) && !trie_add(&m->trie, text, len, id, NULL))
            return err_nomem(err, "a vocabulary");
    m->inner = 0;
    for (size_t i = 0; i < prefix_len && m->inner != TRIE_NONE; i++) {
        uint32_t next = trie_next(&m->trie, m->inner, (unsigned char)prefix[i]);
        m->inner = next == 0 ? TRIE_NONE : next;
    }
    return TN_OK;
}

static int32_t load_max_chars(struct wordpiece *m, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t max = tape_get(t, node, "max_input_chars_per_word");
    double real;

    m->max_chars = 100;
    if (max == TAPE_NONE || tape_uint(t, max, &m->max_chars))
        return TN_OK;
    if (!tape_real(t, max, &real) || real < UINT32_MAX)
        return tape_err(t, max, "model.max_input_chars_per_word", err, "must be a whole number");
    m->max_chars = UINT32_MAX; /* no text is longer */
    return TN_OK;
}

static int32_t load_parts(struct wordpiece *m, const struct tape *t, uint32_t node, tn_err *err)
{
    const char *prefix, *unk;
    size_t prefix_len;
    int32_t rc;

    if ((rc = tape_need_str(t, node, "unk_token", &unk, &m->unk_len, err)) != TN_OK ||
        (rc = tape_need_str(t, node, "continuing_subword_prefix", &prefix, &prefix_len, err)) !=
            TN_OK ||
        (rc = load_max_chars(m, t, node, err)) != TN_OK ||
        (rc = vocab_load_object(&m->base.vocab, t, node, false, err)) != TN_OK)
        return rc;
    m->unk_text = mem_copy(unk, m->unk_len);
    if (!m->unk_text)
        return err_nomem(err, "a vocabulary");
    m->unk = vocab_key(&m->base.vocab, unk, m->unk_len);
    return fill_trie(m, prefix, prefix_len, err);
}

static int32_t wordpiece_load(const struct tape *t, uint32_t node, const struct model_hints *hints,
                              struct model **out, tn_err *err)
{
    struct wordpiece *m = mem_zalloc(sizeof *m);
    int32_t rc;

    (void)hints;
    if (!m)
        return err_nomem(err, "a vocabulary");
    m->base.type = &model_wordpiece;
    rc = load_parts(m, t, node, err);
    if (rc == TN_OK)
        *out = &m->base;
    else
        wordpiece_free(&m->base);
    return rc;
}

static bool wordpiece_fits(const struct tape *t, uint32_t node)
{
    return tape_get(t, node, "continuing_subword_prefix") != TAPE_NONE &&
           tape_get(t, node, "max_input_chars_per_word") != TAPE_NONE;
}

static int32_t no_work_new(const struct model *m, struct model_work **out, tn_err *err)
{
    (void)m, (void)err;
    *out = NULL;
    return TN_OK;
}

static void no_work_free(struct model_work *w)
{
    (void)w;
}

/* The longest token at `pos`; its end and id. False if there is none. */
static bool longest(const struct wordpiece *m, const char *text, size_t len, size_t pos,
                    size_t *end, uint32_t *id)
{
    uint32_t node = pos == 0 ? 0 : m->inner;

    *end = pos;
    if (node == TRIE_NONE)
        return false;
    for (size_t i = pos; i < len;) {
        node = trie_next(&m->trie, node, (unsigned char)text[i++]);
        if (node == 0)
            break;
        if (m->trie.values[node] != TRIE_NONE) {
            *end = i;
            *id = m->trie.values[node];
        }
    }
    return *end > pos;
}

static int32_t put_unknown(const struct wordpiece *m, const struct sink *s, size_t len, tn_err *err)
{
    if (m->unk == VOCAB_NONE)
        return tn_err_set(err, TN_E_FORMAT,
                          "the unknown token is not in the vocabulary, and the text needs it");
    sink_put(s, m->unk, 0, len, m->unk_text, m->unk_len);
    return TN_OK;
}

static int32_t wordpiece_encode(const struct model *model, struct model_work *w, const char *text,
                                size_t len, const struct sink *s, tn_err *err)
{
    const struct wordpiece *m = (const struct wordpiece *)model;
    size_t first = s->out->count, chars = 0, end, value_len = 0;
    const char *value = NULL;
    uint32_t id = 0;

    (void)w;
    for (size_t i = 0; i < len; i++)
        chars += ((unsigned char)text[i] & 0xc0) != 0x80;
    if (!sink_reserve(s->out, chars > m->max_chars ? 1 : chars))
        return err_nomem(err, "encoding");
    if (chars > m->max_chars)
        return put_unknown(m, s, len, err);
    for (size_t pos = 0; pos < len; pos = end) {
        if (!longest(m, text, len, pos, &end, &id)) {
            s->out->count = first;
            return put_unknown(m, s, len, err);
        }
        vocab_text(&m->base.vocab, id, &value, &value_len);
        sink_put(s, id, pos, end, value, value_len);
    }
    return TN_OK;
}

const struct model_type model_wordpiece = {
    .name = "WordPiece",
    .fits = wordpiece_fits,
    .load = wordpiece_load,
    .free = wordpiece_free,
    .work_new = no_work_new,
    .work_free = no_work_free,
    .encode = wordpiece_encode,
};
