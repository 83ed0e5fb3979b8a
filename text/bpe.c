/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BPE models (bpe.h): from a piece of text to symbols, and words through the cache. The model is immutable once
 * finished; bpe_work belongs to one thread at a time.
 */
#include "bpe.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "bpe_merge.h"
#include "textlimits.h"
#include "unidata.h"

struct bpe_work {
    struct wordcache cache;
    struct bpe_queue queue;
    struct bpe_symbol *symbols;
    size_t count, cap;
    char *affixed; /* a character with prefix and suffix */
    size_t affixed_cap;
    struct word_token *tokens;
    size_t token_cap;
};

int32_t bpe_work_new(struct bpe_work **out, tn_err *err)
{
    *out = mem_zalloc(sizeof **out);
    return *out ? TN_OK : err_nomem(err, "encoding");
}

void bpe_work_free(struct bpe_work *w)
{
    if (!w)
        return;
    wordcache_release(&w->cache);
    bpe_queue_release(&w->queue);
    mem_free(w->symbols);
    mem_free(w->affixed);
    mem_free(w->tokens);
    mem_free(w);
}

void bpe_release(struct bpe *b)
{
    mem_free(b->pairs);
    mem_free(b->prefix);
    mem_free(b->suffix);
    mem_free(b->bigrams);
    mem_free(b->whole);
    memset(b, 0, sizeof *b);
}

static void put_pair(struct bpe_pair *pairs, size_t cap, struct bpe_pair p, size_t *count)
{
    size_t i = (p.key * UINT64_C(0x9e3779b97f4a7c15)) >> 24 & (cap - 1);

    while (pairs[i].key != BPE_EMPTY && pairs[i].key != p.key)
        i = (i + 1) & (cap - 1);
    *count += pairs[i].key == BPE_EMPTY;
    pairs[i] = p;
}

bool bpe_reserve(struct bpe *b, size_t n)
{
    size_t cap = 64, count = 0;
    struct bpe_pair *pairs;

    while (cap < 2 * n)
        cap *= 2;
    if (cap <= b->pair_cap)
        return true;
    pairs = mem_array(cap, sizeof *pairs);
    if (!pairs)
        return false;
    for (size_t i = 0; i < cap; i++)
        pairs[i].key = BPE_EMPTY;
    for (size_t i = 0; i < b->pair_cap; i++)
        if (b->pairs[i].key != BPE_EMPTY)
            put_pair(pairs, cap, b->pairs[i], &count);
    mem_free(b->pairs);
    b->pairs = pairs;
    b->pair_cap = cap;
    return true;
}

bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    struct bpe_pair p = {(uint64_t)left << 32 | right, rank, id};

    if (!bpe_reserve(b, b->pair_count + 1))
        return false;
    put_pair(b->pairs, b->pair_cap, p, &b->pair_count);
    return true;
}

static uint32_t bigram(uint32_t left, uint32_t right)
{
    return (left * UINT32_C(0x9e3779b1) ^ right * UINT32_C(0x85ebca6b)) >> 7 &
           (BPE_BIGRAM_BITS - 1);
}

static void note_bigrams(struct bpe *b, const char *text, size_t len)
{
    uint32_t left = 0;

    for (size_t i = 0, n; i < len; i += n) {
        uint32_t cp = uni_next(text + i, &n);
        if (i > 0) {
            uint32_t bit = bigram(left, cp);
            b->bigrams[bit >> 6] |= UINT64_C(1) << (bit & 63);
        }
        left = cp;
    }
}

/*
 * Some models take a whole document as one word. But where two characters meet that stand side by side in no token, no
 * merge can ever join what is left and right, and the text may be split there without changing the result, if the
 * right one is a symbol by itself: unknown ones may be fused with what precedes them.
 */
static bool collect_bigrams(struct bpe *b)
{
    if (b->vocab->bytes || b->prefix || b->suffix || b->ignore_merges || b->whole)
        return true;
    b->bigrams = mem_zarray(BPE_BIGRAM_BITS / 64, sizeof *b->bigrams);
    if (!b->bigrams)
        return false;
    for (size_t i = 0; i < b->pair_cap; i++) {
        const char *text;
        size_t len;
        if (b->pairs[i].key != BPE_EMPTY && vocab_text(b->vocab, b->pairs[i].id, &text, &len))
            note_bigrams(b, text, len);
    }
    return true;
}

int32_t bpe_finish(struct bpe *b, tn_err *err)
{
    unsigned limit = b->vocab->bytes ? 256 : 128;

    for (unsigned i = 0; i < 256; i++) {
        char c = (char)i;
        b->single[i] = i < limit ? vocab_key(b->vocab, &c, 1) : BPE_NONE;
        b->fallback[i] = b->byte_fallback ? vocab_byte(b->vocab, (unsigned char)i) : BPE_NONE;
    }
    return collect_bigrams(b) ? TN_OK : err_nomem(err, "a vocabulary");
}

/* Room for the symbols of n bytes and what an affix may add. */
static bool symbols_fit(struct bpe_work *w, const struct bpe *b, size_t n)
{
    return mem_grow(&w->symbols, &w->cap, n + b->prefix_len + b->suffix_len, sizeof *w->symbols);
}

static void add_symbol(struct bpe_work *w, uint32_t id, size_t len)
{
    w->symbols[w->count++] =
        (struct bpe_symbol){id, (uint32_t)len, BPE_NONE, BPE_NONE, BPE_NONE, BPE_NONE};
}

/* An unknown character waits here, so that its neighbours can be fused with it. */
struct pending {
    uint32_t len;
    bool any;
};

static void flush(const struct bpe *b, struct bpe_work *w, struct pending *unk)
{
    if (unk->any)
        add_symbol(w, b->unk, unk->len);
    unk->any = false;
}

/* `text` with affixes is no symbol. */
static int32_t unknown(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                       size_t byte_len, struct pending *unk, tn_err *err)
{
    bool all = b->byte_fallback;

    for (size_t i = 0; all && i < len; i++)
        all = b->fallback[(unsigned char)text[i]] != BPE_NONE;
    if (all) { /* before what is pending: odd, but so the reference does it */
        for (size_t i = 0; i < len; i++)
            add_symbol(w, b->fallback[(unsigned char)text[i]], 1);
        return TN_OK;
    }
    if (!b->unk_named)
        return TN_OK;
    if (b->unk == BPE_NONE)
        return tn_err_set(err, TN_E_FORMAT,
                          "the text has a character outside the vocabulary, and the unknown token "
                          "of the tokenizer is not in its vocabulary");
    if (!b->fuse_unk)
        flush(b, w, unk);
    unk->len = (unk->any ? unk->len : 0) + (uint32_t)byte_len;
    unk->any = true;
    return TN_OK;
}

/* One character as the vocabulary would have it, with the affixes of its place. */
static const char *affixed(const struct bpe *b, struct bpe_work *w, const char *text, size_t n,
                           bool first, bool last, size_t *len)
{
    size_t before = !first && b->prefix ? b->prefix_len : 0;
    size_t after = last && b->suffix ? b->suffix_len : 0;

    *len = before + n + after;
    if (before + after == 0)
        return text;
    if (!mem_grow(&w->affixed, &w->affixed_cap, *len, 1))
        return NULL;
    if (before > 0)
        memcpy(w->affixed, b->prefix, before);
    memcpy(w->affixed + before, text, n);
    if (after > 0)
        memcpy(w->affixed + before + n, b->suffix, after);
    return w->affixed;
}

static int32_t text_symbols(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                            tn_err *err)
{
    struct pending unk = {0, false};
    bool plain = !b->prefix && !b->suffix;
    int32_t rc;

    for (size_t i = 0, n; i < len; i += n) {
        const char *s;
        size_t s_len;
        uint32_t id;
        uni_next(text + i, &n);
        s = affixed(b, w, text + i, n, i == 0, i + n == len, &s_len);
        if (!s)
            return err_nomem(err, "encoding");
        id = n == 1 && plain ? b->single[(unsigned char)text[i]] : vocab_key(b->vocab, s, s_len);
        if (id != BPE_NONE) {
            flush(b, w, &unk);
            add_symbol(w, id, n);
            continue;
        }
        rc = unknown(b, w, s, s_len, n, &unk, err);
        if (rc != TN_OK)
            return rc;
    }
    flush(b, w, &unk);
    return TN_OK;
}

static int32_t byte_symbols(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                            tn_err *err)
{
    struct pending unk = {0, false};
    int32_t rc;

    for (size_t i = 0; i < len; i++) {
        uint32_t id = b->single[(unsigned char)text[i]];
        if (id != BPE_NONE) {
            flush(b, w, &unk);
            add_symbol(w, id, 1);
            continue;
        }
        rc = unknown(b, w, text + i, 1, 1, &unk, err);
        if (rc != TN_OK)
            return rc;
    }
    flush(b, w, &unk);
    return TN_OK;
}

/* The token that a word is as it stands, whatever merges would make of it. */
static uint32_t whole_token(const struct bpe *b, const char *text, size_t len)
{
    uint32_t id = b->ignore_merges || b->whole ? vocab_key(b->vocab, text, len) : BPE_NONE;

    return id != BPE_NONE && b->whole && !(b->whole[id >> 6] >> (id & 63) & 1) ? BPE_NONE : id;
}

/* Splits one word; the tokens are left in w->tokens. */
static int32_t split_word(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                          size_t *count, tn_err *err)
{
    uint32_t whole = whole_token(b, text, len);
    size_t n;
    int32_t rc;

    if (!symbols_fit(w, b, len) || len > UINT32_MAX)
        return err_nomem(err, "encoding");
    w->count = 0;
    if (whole != BPE_NONE) {
        add_symbol(w, whole, len);
        n = 1;
    } else {
        rc = b->vocab->bytes ? byte_symbols(b, w, text, len, err)
                             : text_symbols(b, w, text, len, err);
        if (rc != TN_OK)
            return rc;
        n = bpe_merge(b, &w->queue, w->symbols, w->count);
    }
    if (n == SIZE_MAX || !mem_grow(&w->tokens, &w->token_cap, n, sizeof *w->tokens))
        return err_nomem(err, "encoding");
    for (size_t i = 0; i < n; i++)
        w->tokens[i] = (struct word_token){w->symbols[i].id, w->symbols[i].len};
    *count = n;
    return TN_OK;
}

static void put_token(const struct bpe *b, const struct sink *s, uint32_t id, size_t begin,
                      size_t end)
{
    const char *value = "";
    size_t len = 0;

    if (s->out->has_edges)
        vocab_text(b->vocab, id, &value, &len);
    sink_put(s, id, begin, end, value, len);
}

/* Offsets are the running sum of what tokens cover; characters that vanish do not count. */
static int32_t put_tokens(const struct bpe *b, const struct sink *s, size_t *at,
                          const struct word_token *tokens, size_t n, tn_err *err)
{
    if (!sink_reserve(s->out, n))
        return err_nomem(err, "an encoding");
    for (size_t i = 0; i < n; i++) {
        put_token(b, s, tokens[i].id, *at, *at + tokens[i].len);
        *at += tokens[i].len;
    }
    return TN_OK;
}

static int32_t encode_word(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                           size_t *at, const struct sink *s, tn_err *err)
{
    struct wordcache_slot *slot = NULL;
    struct word_key key;
    size_t n = 0;
    int32_t rc;

    if (len <= WORDCACHE_KEY_BYTES) {
        key = wordcache_key(text, len);
        slot = wordcache_find(&w->cache, &key, len);
        if (slot && slot->len != 0) {
            struct word_token one = {slot->first, (uint32_t)len};
            return put_tokens(b, s, at, slot->count == 1 ? &one : w->cache.tokens + slot->first,
                              slot->count, err);
        }
    }
    rc = split_word(b, w, text, len, &n, err);
    if (rc != TN_OK)
        return rc;
    if (slot)
        wordcache_fill(&w->cache, slot, &key, len, w->tokens, n);
    return put_tokens(b, s, at, w->tokens, n, err);
}

static bool known(const struct bpe *b, uint32_t cp, const char *text, size_t n)
{
    return (n == 1 ? b->single[cp] : vocab_key(b->vocab, text, n)) != BPE_NONE;
}

/* The end of the part that begins at `from`: the next place where nothing can join (collect_bigrams). Next to a character
 * outside the vocabulary there is no such place: where it vanishes its neighbours meet. */
static size_t part_end(const struct bpe *b, const char *text, size_t len, size_t from)
{
    size_t n, before, pos = from;
    uint32_t left = uni_next(text + pos, &before);

    for (pos += before; pos < len; pos += n) {
        uint32_t right = uni_next(text + pos, &n), bit = bigram(left, right);
        if ((b->bigrams[bit >> 6] >> (bit & 63) & 1) == 0 && known(b, right, text + pos, n) &&
            known(b, left, text + pos - before, before))
            return pos;
        left = right;
        before = n;
    }
    return len;
}

int32_t bpe_encode(const struct bpe *b, struct bpe_work *w, const char *text, size_t len,
                   const struct sink *s, tn_err *err)
{
    size_t covered = 0;
    int32_t rc = TN_OK;

    if (len == 0)
        return TN_OK;
    if (!b->bigrams || len <= WORDCACHE_KEY_BYTES)
        return encode_word(b, w, text, len, &covered, s, err);
    for (size_t at = 0, end; rc == TN_OK && at < len; at = end) {
        end = part_end(b, text, len, at);
        rc = encode_word(b, w, text + at, end - at, &covered, s, err);
    }
    return rc;
}
