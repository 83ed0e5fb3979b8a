/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merges of vocabularies that have ranks of tokens instead ("merge_ranks", which the importers write): any two neighbours
 * that together are a token become it, the token of lowest rank first. So do tiktoken and SentencePiece. One thread.
 */
#include "bpe_ranks.h"

#include "textlimits.h"

struct ranks {
    const struct tape *t;
    uint32_t list; /* TAPE_NONE: the id is the rank */
};

/* The rank of a token; false if it takes part in no merge. */
static bool rank_of(const struct ranks *r, uint32_t id, uint32_t *rank)
{
    *rank = id;
    return r->list == TAPE_NONE || tape_uint(r->t, r->list + 1 + id, rank);
}

static const char *key_of(const struct vocab *v, uint32_t id, size_t *len)
{
    const char *text = NULL;

    *len = 0;
    if (!v->bytes)
        vocab_text(v, id, &text, len);
    else if (v->raws[id].len != VOCAB_NONE) {
        text = v->raw + v->raws[id].off;
        *len = v->raws[id].len;
    }
    return text;
}

/* All ways to make a token of two. */
static bool add_token(struct bpe *b, const struct ranks *r, uint32_t id, uint32_t rank)
{
    size_t len;
    const char *text = key_of(b->vocab, id, &len);

    for (size_t cut = 1; cut < len; cut++) {
        uint32_t left, right, ignored;
        if (!b->vocab->bytes && ((unsigned char)text[cut] & 0xc0) == 0x80)
            continue;
        left = vocab_key(b->vocab, text, cut);
        if (left == VOCAB_NONE || !rank_of(r, left, &ignored))
            continue;
        right = vocab_key(b->vocab, text + cut, len - cut);
        if (right != VOCAB_NONE && rank_of(r, right, &ignored) &&
            !bpe_add_merge(b, left, right, rank, id))
            return false;
    }
    return true;
}

int32_t bpe_rank_merges(struct bpe *b, const struct tape *t, uint32_t node, tn_err *err)
{
    struct ranks r = {t, TAPE_NONE};
    uint64_t work = 0;

    if (tape_is(t, node, TAPE_ARRAY) && t->nodes[node].len == b->vocab->size)
        r.list = node;
    else if (!tape_eq(t, node, "ids"))
        return tape_err(t, node, "model.merge_ranks", err,
                        "must be \"ids\", or a list with a rank for each id");
    for (uint32_t id = 0; id < b->vocab->size; id++) {
        uint32_t rank;
        size_t len;
        if (!rank_of(&r, id, &rank) || !key_of(b->vocab, id, &len))
            continue;
        /* Each way to cut a token is looked up, which takes time by the square of its length. */
        work += (uint64_t)len * len;
        if (work > LIMIT_RANK_WORK)
            return tape_err(t, node, "model.merge_ranks", err,
                            "the tokens are too long to find out how they merge");
        if (!add_token(b, &r, id, rank))
            return err_nomem(err, "merges");
    }
    return TN_OK;
}
