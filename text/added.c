/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Added tokens (added.h). Semantics after the reference: the leftmost-longest matches are fixed first; a match that is
 * then rejected (special but not allowed, or not a single word) is plain text as a whole, and the search goes
 * on behind it. The matcher is Aho and Corasick's (1975) on reversed texts.
 */
#include "added.h"

#include "base/mem.h"
#include "textlimits.h"
#include "unidata.h"

static void matcher_release(struct added_matcher *m)
{
    trie_release(&m->trie);
    mem_free(m->fail);
    mem_free(m->out);
    memset(m, 0, sizeof *m);
}

void added_release(struct added *a)
{
    for (size_t i = 0; i < a->count; i++) {
        mem_free(a->tokens[i].content);
        mem_free(a->tokens[i].pattern);
    }
    mem_free(a->tokens);
    map_release(&a->by_content);
    map_release(&a->by_id);
    matcher_release(&a->plain);
    matcher_release(&a->normalized);
    memset(a, 0, sizeof *a);
}

static char *copy_bytes(const char *text, size_t len)
{
    char *copy = mem_alloc(len + 1);

    if (copy) {
        memcpy(copy, text, len);
        copy[len] = '\0';
    }
    return copy;
}

/* The map of ids needs keys that stay where they are; each token's id is inside its content's block. */
static int32_t append(struct added *a, const struct added_token *token, tn_err *err)
{
    struct added_token *t;
    char *block;

    if (!mem_grow(&a->tokens, &a->cap, a->count + 1, sizeof *a->tokens))
        return err_nomem(err, "added tokens");
    block = mem_alloc(token->len + 1 + sizeof token->id);
    if (!block)
        return err_nomem(err, "added tokens");
    memcpy(block, token->content, token->len);
    block[token->len] = '\0';
    memcpy(block + token->len + 1, &token->id, sizeof token->id);
    t = &a->tokens[a->count];
    *t = *token;
    t->content = block;
    t->pattern = NULL;
    t->pattern_len = 0;
    a->count++;
    if (!map_set(&a->by_content, block, token->len, a->count - 1) ||
        !map_set(&a->by_id, block + token->len + 1, sizeof token->id, a->count - 1))
        return err_nomem(err, "added tokens");
    return TN_OK;
}

int32_t added_put(struct added *a, const struct added_token *token, tn_err *err)
{
    uint64_t i;

    a->any_special = a->any_special || token->special;
    if (map_get(&a->by_content, token->content, token->len, &i)) {
        struct added_token *t = &a->tokens[i];
        t->single_word = token->single_word;
        t->lstrip = token->lstrip;
        t->rstrip = token->rstrip;
        t->normalized = token->normalized;
        t->special = t->special || token->special; /* the set of special contents only grows */
        return TN_OK;
    }
    return append(a, token, err);
}

int32_t added_set_pattern(struct added *a, size_t i, const char *pattern, size_t len, tn_err *err)
{
    struct added_token *t = &a->tokens[i];

    if (len == t->len && memcmp(pattern, t->content, len) == 0)
        return TN_OK;
    t->pattern = copy_bytes(pattern, len);
    t->pattern_len = len;
    return t->pattern ? TN_OK : err_nomem(err, "added tokens");
}

const char *added_text(const struct added_token *t, size_t *len)
{
    *len = t->pattern ? t->pattern_len : t->len;
    return t->pattern ? t->pattern : t->content;
}

static bool add_reversed(struct trie *t, const char *text, size_t len, uint32_t value, bool *taken)
{
    char *reversed = mem_alloc(len + 1);
    uint32_t node, at = 0;
    bool ok = reversed != NULL;

    for (size_t i = 0; ok && i < len; i++)
        reversed[i] = text[len - 1 - i];
    for (size_t i = 0; ok && i < len; i++) {
        at = trie_next(t, at, (unsigned char)reversed[i]);
        if (at == 0)
            break;
    }
    *taken = ok && at != 0 && t->values[at] != TRIE_NONE;
    ok = ok && (*taken || trie_add(t, reversed, len, value, &node));
    mem_free(reversed);
    return ok;
}

static uint32_t follow(const struct added_matcher *m, uint32_t node, unsigned char byte)
{
    for (;;) {
        uint32_t child = trie_next(&m->trie, node, byte);
        if (child != 0 || node == 0)
            return child;
        node = m->fail[node];
    }
}

/* Edges sorted by parent are edges in order of creation: a parent's number is below its children's, but breadth-first
 * order is what failure links need; it comes from the depths. */
struct edge {
    uint32_t depth, node, parent;
    unsigned char byte;
};

static int by_depth(const void *x, const void *y)
{
    const struct edge *a = x, *b = y;

    if (a->depth != b->depth)
        return a->depth < b->depth ? -1 : 1;
    return a->node < b->node ? -1 : a->node > b->node;
}

/* Failure links and outputs, nodes in order of depth. */
static bool link_nodes(struct added_matcher *m)
{
    const struct trie *t = &m->trie;
    struct edge *edges = mem_zarray(t->nodes, sizeof *edges);
    bool ok;

    m->fail = mem_zarray(t->nodes, sizeof *m->fail);
    m->out = mem_array(t->nodes, sizeof *m->out);
    ok = edges && m->fail && m->out;
    if (ok) {
        for (unsigned b = 0; b < 256; b++)
            if (t->first[b] != 0)
                edges[t->first[b]] = (struct edge){1, t->first[b], 0, (unsigned char)b};
        for (size_t i = 0; i < t->edge_cap; i++)
            if (t->edges[i].key != 0)
                edges[t->edges[i].child] =
                    (struct edge){0, t->edges[i].child, (uint32_t)((t->edges[i].key - 1) >> 8),
                                  (unsigned char)((t->edges[i].key - 1) & 0xff)};
        /* Children are made after their parents, so one pass in order of numbers finds all depths. */
        for (size_t i = 1; i < t->nodes; i++)
            edges[i].depth = edges[i].parent == 0 ? 1 : edges[edges[i].parent].depth + 1;
        qsort(edges + 1, t->nodes - 1, sizeof *edges, by_depth);
        m->out[0] = TRIE_NONE;
        for (size_t i = 1; i < t->nodes; i++) {
            const struct edge *e = &edges[i];
            m->fail[e->node] = e->parent == 0 ? 0 : follow(m, m->fail[e->parent], e->byte);
            m->out[e->node] =
                t->values[e->node] != TRIE_NONE ? t->values[e->node] : m->out[m->fail[e->node]];
        }
    }
    mem_free(edges);
    return ok;
}

static int32_t matcher_build(struct added *a, struct added_matcher *m, bool normalized, tn_err *err)
{
    for (uint32_t i = 0; i < a->count; i++) {
        const struct added_token *t = &a->tokens[i];
        const char *text;
        size_t len;
        bool taken;
        if (t->normalized != normalized)
            continue;
        text = added_text(t, &len);
        if (len == 0)
            return tn_err_set(err, TN_E_FORMAT,
                              "the added token \"%.40s\" is normalized to nothing", t->content);
        if (m->patterns == 0 && !trie_init(&m->trie))
            return err_nomem(err, "added tokens");
        m->only_special = t->special && (m->only_special || m->patterns == 0);
        m->patterns++;
        if (!add_reversed(&m->trie, text, len, i, &taken))
            return err_nomem(err, "added tokens");
        if (taken)
            return tn_err_set(err, TN_E_FORMAT,
                              "the added token \"%.40s\" has the same text as another", t->content);
        m->last[(unsigned char)text[len - 1]] = 1;
    }
    if (m->patterns > 0 && !link_nodes(m))
        return err_nomem(err, "added tokens");
    return TN_OK;
}

int32_t added_build(struct added *a, tn_err *err)
{
    int32_t rc = matcher_build(a, &a->plain, false, err);

    return rc != TN_OK ? rc : matcher_build(a, &a->normalized, true, err);
}

const struct added_token *added_find(const struct added *a, const char *content, size_t len)
{
    uint64_t i;

    return map_get(&a->by_content, content, len, &i) ? &a->tokens[i] : NULL;
}

const struct added_token *added_by_id(const struct added *a, uint32_t id)
{
    uint64_t i;

    return map_get(&a->by_id, (const char *)&id, sizeof id, &i) ? &a->tokens[i] : NULL;
}

/* From `pos` down to the place behind the nearest byte that ends a pattern; 0 if there is none. */
static size_t skip_down(const struct added_matcher *m, const char *text, size_t pos)
{
    while (pos > 0 && !m->last[(unsigned char)text[pos - 1]])
        pos--;
    return pos;
}

/* Candidates in descending order of where they begin: at each place the longest pattern that begins there. */
static bool find_all(const struct added *a, const struct added_matcher *m, const char *text,
                     size_t len, struct added_matches *out)
{
    uint32_t state = 0;

    for (size_t pos = len; pos > 0; pos--) {
        if (state == 0) {
            pos = skip_down(m, text, pos);
            if (pos == 0)
                break;
        }
        state = follow(m, state, (unsigned char)text[pos - 1]);
        if (state != 0 && m->out[state] != TRIE_NONE) {
            uint32_t token = m->out[state];
            size_t n;
            added_text(&a->tokens[token], &n);
            if (!mem_grow(&out->items, &out->cap, out->count + 1, sizeof *out->items))
                return false;
            out->items[out->count++] =
                (struct added_match){(uint32_t)(pos - 1), (uint32_t)(pos - 1 + n), token};
        }
    }
    return true;
}

static bool is_single_word(const char *text, size_t len, const struct added_match *m)
{
    size_t n;

    if (m->begin > 0 && uni_is_word(uni_next(text + uni_before(text, m->begin), &n)))
        return false;
    return m->end == len || !uni_is_word(uni_next(text + m->end, &n));
}

/* Takes in the spaces around that the token strips; not those that the token before took. */
static void strip(const struct added_token *t, const char *text, size_t len, uint32_t free_from,
                  struct added_match *m)
{
    size_t n;

    while (t->lstrip && m->begin > 0) {
        size_t before = uni_before(text, m->begin);
        if (!uni_is_space(uni_next(text + before, &n)))
            break;
        m->begin = (uint32_t)before;
    }
    if (t->lstrip && m->begin < free_from)
        m->begin = free_from;
    while (t->rstrip && m->end < len && uni_is_space(uni_next(text + m->end, &n)))
        m->end += (uint32_t)n;
}

bool added_search(const struct added *a, const struct added_matcher *m, const char *text,
                  size_t len, added_allow allow, void *arg, struct added_matches *out)
{
    size_t candidates, kept = 0;
    uint32_t scanned = 0, free_from = 0;

    out->count = 0;
    if (m->patterns == 0)
        return true;
    if (!find_all(a, m, text, len, out))
        return false;
    candidates = out->count;
    for (size_t i = 0; i < candidates / 2; i++) {
        struct added_match x = out->items[i];
        out->items[i] = out->items[candidates - 1 - i];
        out->items[candidates - 1 - i] = x;
    }
    for (size_t i = 0; i < candidates; i++) {
        struct added_match x = out->items[i];
        const struct added_token *t = &a->tokens[x.token];
        if (x.begin < scanned)
            continue;
        scanned = x.end;
        if (t->special && !allow(arg, x.begin, x.end))
            continue;
        if (t->single_word && !is_single_word(text, len, &x))
            continue;
        strip(t, text, len, free_from, &x);
        if (x.begin >= x.end)
            continue; /* a space that the token before took */
        free_from = x.end;
        out->items[kept++] = x;
    }
    out->count = kept;
    return true;
}
