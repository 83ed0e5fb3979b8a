/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stop strings in a stream: Aho and Corasick's automaton (1975). Its state is the longest end of the text that begins a
 * stop string, which is just what has to be held back. One thread at a time.
 */
#include "base/err.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "tenon_text.h"
#include "textlimits.h"
#include "trie.h"

struct tn_stop {
    struct trie trie;
    uint32_t *fail;   /* by node */
    uint32_t *depth;  /* by node: bytes from the root */
    uint32_t *match;  /* by node: the longest stop string that ends here, or TRIE_NONE */
    uint32_t *length; /* by stop string */
    uint32_t state;
    uint32_t found; /* TRIE_NONE: not yet */
    struct strbuf held, out;
};

void tn_stop_free(tn_stop *s)
{
    if (!s)
        return;
    trie_release(&s->trie);
    mem_free(s->fail);
    mem_free(s->depth);
    mem_free(s->match);
    mem_free(s->length);
    strbuf_release(&s->held);
    strbuf_release(&s->out);
    mem_free(s);
}

static int32_t check(const char *const *text, const size_t *len, size_t count, tn_err *err)
{
    if (count > LIMIT_STOP_STRINGS)
        return tn_err_set(err, TN_E_LIMIT, "%zu stop strings are more than %d", count,
                          LIMIT_STOP_STRINGS);
    for (size_t i = 0; i < count; i++) {
        if (len[i] == 0 || len[i] > LIMIT_STOP_STRING_BYTES)
            return tn_err_set(err, TN_E_LIMIT, "stop string %zu has %zu bytes; 1 to %d are allowed",
                              i, len[i], LIMIT_STOP_STRING_BYTES);
        if (!utf8_valid(text[i], len[i]))
            return tn_err_set(err, TN_E_INVALID, "stop string %zu is not valid UTF-8", i);
    }
    return TN_OK;
}

static uint32_t follow(const struct tn_stop *s, uint32_t node, char byte)
{
    for (;;) {
        uint32_t child = trie_next(&s->trie, node, (unsigned char)byte);
        if (child != 0 || node == 0)
            return child;
        node = s->fail[node];
    }
}

/* Links the nodes of all strings, level by level: a node's link is shorter, so it is known when it is needed. */
static void link_level(struct tn_stop *s, const char *const *text, const size_t *len, size_t count,
                       size_t level, uint32_t *at)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t node;
        if (level >= len[i])
            continue;
        node = trie_next(&s->trie, at[i], (unsigned char)text[i][level]);
        s->depth[node] = (uint32_t)level + 1;
        s->fail[node] = at[i] == 0 ? 0 : follow(s, s->fail[at[i]], text[i][level]);
        s->match[node] =
            s->trie.values[node] != TRIE_NONE ? s->trie.values[node] : s->match[s->fail[node]];
        at[i] = node;
    }
}

static bool build(struct tn_stop *s, const char *const *text, const size_t *len, size_t count)
{
    uint32_t at[LIMIT_STOP_STRINGS] = {0};

    if (!trie_init(&s->trie))
        return false;
    for (size_t i = count; i-- > 0;) /* of equal ones the first counts */
        if (!trie_add(&s->trie, text[i], len[i], (uint32_t)i, NULL))
            return false;
    s->fail = mem_zarray(s->trie.nodes, sizeof *s->fail);
    s->depth = mem_zarray(s->trie.nodes, sizeof *s->depth);
    s->match = mem_array(s->trie.nodes, sizeof *s->match);
    s->length = mem_array(count, sizeof *s->length);
    if (!s->fail || !s->depth || !s->match || !s->length)
        return false;
    s->match[0] = TRIE_NONE;
    for (size_t i = 0; i < count; i++)
        s->length[i] = (uint32_t)len[i];
    for (size_t level = 0; level < LIMIT_STOP_STRING_BYTES; level++)
        link_level(s, text, len, count, level, at);
    return true;
}

int32_t tn_stop_new(const char *const *text, const size_t *len, size_t count, tn_stop **out,
                    tn_err *err)
{
    struct tn_stop *s;
    int32_t rc = check(text, len, count, err);

    if (rc != TN_OK)
        return rc;
    s = mem_zalloc(sizeof *s);
    if (!s || !build(s, text, len, count)) {
        tn_stop_free(s);
        return err_nomem(err, "stop strings");
    }
    s->found = TRIE_NONE;
    *out = s;
    return TN_OK;
}

int32_t tn_stop_push(tn_stop *s, const char *text, size_t len, const char **safe, size_t *safe_len,
                     int32_t *found, tn_err *err)
{
    size_t keep;

    strbuf_reset(&s->out);
    if (s->found == TRIE_NONE) {
        size_t i = 0;
        while (i < len && s->match[s->state] == TRIE_NONE)
            s->state = follow(s, s->state, text[i++]);
        s->found = s->match[s->state];
        strbuf_append(&s->out, strbuf_str(&s->held), s->held.len);
        strbuf_append(&s->out, text, i);
        keep = s->found == TRIE_NONE ? s->depth[s->state] : s->length[s->found];
        strbuf_reset(&s->held);
        if (!s->out.failed && s->found == TRIE_NONE)
            strbuf_append(&s->held, s->out.data ? s->out.data + s->out.len - keep : "", keep);
        if (s->out.failed || s->held.failed)
            return err_nomem(err, "an output");
        s->out.len -= keep;
    }
    *safe = strbuf_str(&s->out);
    *safe_len = s->out.len;
    *found = s->found == TRIE_NONE ? -1 : (int32_t)s->found;
    return TN_OK;
}

int32_t tn_stop_flush(tn_stop *s, const char **safe, size_t *safe_len, tn_err *err)
{
    strbuf_reset(&s->out);
    if (s->found == TRIE_NONE)
        strbuf_append(&s->out, strbuf_str(&s->held), s->held.len);
    if (s->out.failed)
        return err_nomem(err, "an output");
    *safe = strbuf_str(&s->out);
    *safe_len = s->out.len;
    tn_stop_reset(s);
    return TN_OK;
}

void tn_stop_reset(tn_stop *s)
{
    strbuf_reset(&s->held);
    s->state = 0;
    s->found = TRIE_NONE;
}
