/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Unigram model (Kudo 2018): of all ways to cut a piece into tokens the one with the best sum of scores, found by
 * Viterbi's algorithm in time n times the longest token. Characters that no token covers cost 10 more than the worst
 * token; neighbouring ones become one unknown token, or tokens of bytes. Immutable once loaded, for any
 * thread with its own work memory.
 */
#include <float.h>
#include <math.h>

#include "base/mem.h"
#include "model.h"
#include "textlimits.h"
#include "trie.h"
#include "unidata.h"

#define UNKNOWN_PENALTY 10.0
#define RESET_SUM 100000.0 /* kScoreResetThreshold */

struct unigram {
    struct model base;
    struct trie trie; /* token to id */
    double *scores;   /* by id */
    double unknown_score;
    uint32_t unk; /* VOCAB_NONE: there is none */
    bool byte_fallback;
    /* Of a SentencePiece file ("piece_types"): sums are rounded to float, control and byte pieces are not looked for in the
     * text, user-defined ones win always. */
    bool sentencepiece;
    uint32_t bytes[256]; /* of "<0xNN>", or VOCAB_NONE */
};

/* The best way to cut the text up to a place. */
struct best {
    double score;
    uint32_t begin; /* of its last token; NOWHERE: no way found yet */
    uint32_t id;
};

#define NOWHERE UINT32_MAX

struct unigram_work {
    struct best *best;
    size_t cap;
};

static void unigram_free(struct model *model)
{
    struct unigram *m = (struct unigram *)model;

    vocab_release(&m->base.vocab);
    trie_release(&m->trie);
    mem_free(m->scores);
    mem_free(m);
}

static int32_t add_token(struct unigram *m, const struct tape *t, uint32_t node, uint32_t id,
                         tn_err *err)
{
    const char *text;
    double score;
    size_t len;
    int32_t rc;

    if (!tape_is(t, node, TAPE_ARRAY) || t->nodes[node].len != 2 ||
        !tape_is(t, node + 1, TAPE_STRING) || !tape_real(t, node + 2, &score))
        return tape_err(t, node, "model.vocab", err, "each entry must be a text and a number");
    text = tape_str(t, node + 1, &len);
    rc = vocab_add(&m->base.vocab, id, text, len, err);
    if (rc != TN_OK)
        return rc;
    m->scores[id] = m->sentencepiece ? (float)score : score; /* as the model file has it */
    if (score < m->unknown_score)
        m->unknown_score = score;
    if (m->sentencepiece)
        return TN_OK; /* see load_types */
    return trie_add(&m->trie, text, len, id, NULL) ? TN_OK : err_nomem(err, "a vocabulary");
}

/* Types of sentencepiece_model.proto. */
enum { NORMAL = 1, USER_DEFINED = 4 };

/* What a user-defined piece scores: more than the log probabilities of any other cut of its bytes, and the more the
 * longer it is. SentencePiece's formula (unigram_model.cc), since ties of sums go by its rounding to float. */
static float user_defined_score(size_t len)
{
    return (float)(0.1 * ((double)len - 1));
}

/* The scores of user-defined pieces, and the trie, of normal pieces and those. */
static int32_t load_types(struct unigram *m, const struct tape *t, uint32_t list, tn_err *err)
{
    float min = FLT_MAX; /* SentencePiece's start */

    if (!tape_is(t, list, TAPE_ARRAY) || t->nodes[list].len != m->base.vocab.size)
        return tape_err(t, list, "model.piece_types", err,
                        "must be a list as long as the vocabulary");
    for (uint32_t id = 0, type; id < t->nodes[list].len; id++) {
        const char *text;
        size_t len;
        if (!tape_uint(t, list + 1 + id, &type) || (type != NORMAL && type != USER_DEFINED))
            continue;
        vocab_text(&m->base.vocab, id, &text, &len);
        if (type == USER_DEFINED)
            m->scores[id] = user_defined_score(len);
        else if (m->scores[id] < min)
            min = (float)m->scores[id];
        if (!trie_add(&m->trie, text, len, id, NULL))
            return err_nomem(err, "a vocabulary");
    }
    m->unknown_score = min - (float)UNKNOWN_PENALTY;
    return TN_OK;
}

static int32_t load_vocab(struct unigram *m, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t list = tape_get(t, node, "vocab"), types = tape_get(t, node, "piece_types");
    uint32_t count, at;
    int32_t rc = TN_OK;

    if (!tape_is(t, list, TAPE_ARRAY))
        return tape_err(t, list == TAPE_NONE ? node : list, "model.vocab", err, "must be a list");
    count = t->nodes[list].len;
    if (count > LIMIT_VOCAB)
        return tape_err(t, list, "model.vocab", err, "has %u entries, more than the limit of %u",
                        count, (unsigned)LIMIT_VOCAB);
    m->scores = mem_array((size_t)count + 1, sizeof *m->scores);
    if (!m->scores || !trie_init(&m->trie))
        return err_nomem(err, "a vocabulary");
    m->unknown_score = HUGE_VAL;
    m->sentencepiece = types != TAPE_NONE;
    at = list + 1;
    for (uint32_t id = 0; rc == TN_OK && id < count; id++, at = t->nodes[at].next)
        rc = add_token(m, t, at, id, err);
    m->unknown_score -= UNKNOWN_PENALTY;
    if (rc == TN_OK)
        rc = vocab_index(&m->base.vocab, false, !m->sentencepiece, err);
    return rc == TN_OK && m->sentencepiece ? load_types(m, t, types, err) : rc;
}

static int32_t load_options(struct unigram *m, const struct tape *t, uint32_t node, tn_err *err)
{
    uint32_t unk = tape_get(t, node, "unk_id");

    m->unk = VOCAB_NONE;
    if (unk != TAPE_NONE && (!tape_uint(t, unk, &m->unk) || m->unk >= m->base.vocab.size))
        return tape_err(t, unk, "model.unk_id", err, "is no id of the vocabulary");
    for (unsigned b = 0; b < 256; b++)
        m->bytes[b] = vocab_byte(&m->base.vocab, (unsigned char)b);
    return tape_get_bool(t, node, "byte_fallback", false, &m->byte_fallback, err);
}

static int32_t unigram_load(const struct tape *t, uint32_t node, const struct model_hints *hints,
                            struct model **out, tn_err *err)
{
    struct unigram *m = mem_zalloc(sizeof *m);
    int32_t rc;

    (void)hints;
    if (!m)
        return err_nomem(err, "a vocabulary");
    m->base.type = &model_unigram;
    rc = load_vocab(m, t, node, err);
    if (rc == TN_OK)
        rc = load_options(m, t, node, err);
    if (rc == TN_OK)
        *out = &m->base;
    else
        unigram_free(&m->base);
    return rc;
}

static bool unigram_fits(const struct tape *t, uint32_t node)
{
    return tape_is(t, tape_get(t, node, "vocab"), TAPE_ARRAY);
}

static int32_t unigram_work_new(const struct model *m, struct model_work **out, tn_err *err)
{
    struct unigram_work *w = mem_zalloc(sizeof *w);

    (void)m;
    if (!w)
        return err_nomem(err, "encoding");
    *out = (struct model_work *)w;
    return TN_OK;
}

static void unigram_work_free(struct model_work *work)
{
    struct unigram_work *w = (struct unigram_work *)work;

    if (w)
        mem_free(w->best);
    mem_free(w);
}

static bool improve(const struct unigram *m, struct best *at, double score, size_t begin,
                    uint32_t id)
{
    if (m->sentencepiece)
        score = (float)score;
    if (at->begin != NOWHERE && !(score > at->score))
        return false;
    *at = (struct best){score, (uint32_t)begin, id};
    return true;
}

/* Sums of long texts lose their fraction in float: past RESET_SUM SentencePiece counts on from 0. All places that a path
 * reaches and that are not left behind, from `pos` to `frontier`, are moved by the same amount. */
static void reset_sums(struct best *best, size_t pos, size_t frontier)
{
    float offset = (float)best[pos].score;

    for (size_t i = pos; i <= frontier; i++)
        if (best[i].begin != NOWHERE)
            best[i].score = (float)best[i].score - offset;
}

/* Tries all tokens that begin at `pos`, whose character has `n` bytes; returns where the longest ends, or `pos`.
 * `single`: one of them is the character. */
static size_t try_tokens(const struct unigram *m, struct best *best, const char *text, size_t len,
                         size_t pos, size_t n, bool *single)
{
    size_t longest = pos;
    uint32_t node = 0, id;

    *single = false;
    for (size_t end = pos; end < len;) {
        node = trie_next(&m->trie, node, (unsigned char)text[end++]);
        if (node == 0)
            break;
        id = m->trie.values[node];
        if (id == TRIE_NONE)
            continue;
        improve(m, &best[end], m->scores[id] + best[pos].score, pos, id);
        *single = *single || end - pos == n;
        longest = end;
    }
    return longest;
}

/* Fills best[1..len] for all places that a path reaches. False if a character needs an unknown token and there is
 * none. */
static bool find_best(const struct unigram *m, struct best *best, const char *text, size_t len)
{
    size_t frontier = 0;

    for (size_t i = 0; i <= len; i++)
        best[i].begin = NOWHERE;
    best[0].score = 0;
    for (size_t pos = 0, n, end; pos < len; pos += n) {
        bool single;
        uni_next(text + pos, &n);
        if (m->sentencepiece && fabs(best[pos].score) > RESET_SUM)
            reset_sums(best, pos, frontier);
        end = try_tokens(m, best, text, len, pos, n, &single);
        if (!single && end < pos + n)
            end = pos + n;
        frontier = end > frontier ? end : frontier;
        if (single)
            continue;
        if (improve(m, &best[pos + n], m->unknown_score + best[pos].score, pos, m->unk) &&
            m->unk == VOCAB_NONE)
            return false;
    }
    return true;
}

/* Turns the chain of beginnings, which leads from the end to the start, around; returns where the first token ends. */
static size_t turn_around(struct best *best, size_t len)
{
    size_t after = 0, at = len;

    while (at > 0) {
        size_t before = best[at].begin;
        best[at].begin = (uint32_t)after;
        after = at;
        at = before;
    }
    return after;
}

static void put_unknown(const struct unigram *m, const struct sink *s, const char *text,
                        size_t begin, size_t end)
{
    uint32_t id =
        m->sentencepiece ? VOCAB_NONE : vocab_key(&m->base.vocab, text + begin, end - begin);
    bool bytes = id == VOCAB_NONE && m->byte_fallback;

    for (size_t i = begin; bytes && i < end; i++)
        bytes = m->bytes[(unsigned char)text[i]] != VOCAB_NONE;
    if (!bytes) {
        sink_put(s, id == VOCAB_NONE ? m->unk : id, begin, end, text + begin, end - begin);
        return;
    }
    for (size_t i = begin; i < end; i++)
        sink_put(s, m->bytes[(unsigned char)text[i]], begin, end, "<0x00>", 6);
}

static int32_t unigram_encode(const struct model *model, struct model_work *work, const char *text,
                              size_t len, const struct sink *s, tn_err *err)
{
    const struct unigram *m = (const struct unigram *)model;
    struct unigram_work *w = (struct unigram_work *)work;
    struct best *best;

    if (!mem_grow(&w->best, &w->cap, len + 1, sizeof *w->best) || !sink_reserve(s->out, len))
        return err_nomem(err, "encoding");
    best = w->best;
    if (!find_best(m, best, text, len))
        return tn_err_set(err, TN_E_FORMAT,
                          "the vocabulary has no unknown token, and the text needs one");
    for (size_t begin = 0, end = turn_around(best, len); begin < len;) {
        uint32_t id = best[end].id;
        size_t next = best[end].begin;
        for (; id == m->unk && end < len && best[next].id == id; next = best[end].begin)
            end = next;
        if (id == m->unk)
            put_unknown(m, s, text, begin, end);
        else
            sink_put(s, id, begin, end, text + begin, end - begin);
        begin = end;
        end = next;
    }
    return TN_OK;
}

const struct model_type model_unigram = {
    .name = "Unigram",
    .fits = unigram_fits,
    .load = unigram_load,
    .free = unigram_free,
    .work_new = unigram_work_new,
    .work_free = unigram_work_free,
    .encode = unigram_encode,
};
