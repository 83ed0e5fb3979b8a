/* SPDX-License-Identifier: Apache-2.0 */
/* The byte trie (trie.h): edges in open addressing at a load of at most 1/2. Immutable once built, then for any
 * number of threads. */
#include "trie.h"

#include "base/mem.h"

static bool new_node(struct trie *t, uint32_t *out)
{
    if (t->nodes >= UINT32_MAX - 1 ||
        !mem_grow(&t->values, &t->node_cap, t->nodes + 1, sizeof *t->values))
        return false;
    t->values[t->nodes] = TRIE_NONE;
    *out = (uint32_t)t->nodes++;
    return true;
}

bool trie_init(struct trie *t)
{
    uint32_t root;

    memset(t, 0, sizeof *t);
    t->edge_cap = 64;
    t->edges = mem_zarray(t->edge_cap, sizeof *t->edges);
    if (t->edges && new_node(t, &root))
        return true;
    trie_release(t);
    return false;
}

void trie_release(struct trie *t)
{
    mem_free(t->edges);
    mem_free(t->values);
    memset(t, 0, sizeof *t);
}

static void put_edge(struct trie_edge *edges, size_t cap, uint64_t key, uint32_t child)
{
    size_t i = trie_hash(key) & (cap - 1);

    while (edges[i].key != 0)
        i = (i + 1) & (cap - 1);
    edges[i] = (struct trie_edge){key, child};
}

static bool grow_edges(struct trie *t)
{
    size_t cap = t->edge_cap * 2;
    struct trie_edge *bigger = mem_zarray(cap, sizeof *bigger);

    if (!bigger)
        return false;
    for (size_t i = 0; i < t->edge_cap; i++)
        if (t->edges[i].key != 0)
            put_edge(bigger, cap, t->edges[i].key, t->edges[i].child);
    mem_free(t->edges);
    t->edges = bigger;
    t->edge_cap = cap;
    return true;
}

bool trie_add(struct trie *t, const char *key, size_t len, uint32_t value, uint32_t *node)
{
    uint32_t at = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)key[i];
        uint32_t child = trie_next(t, at, b);
        if (child == 0) {
            if (!new_node(t, &child))
                return false;
            if (at == 0) {
                t->first[b] = child;
            } else {
                if (2 * (t->edges_used + 1) > t->edge_cap && !grow_edges(t))
                    return false;
                put_edge(t->edges, t->edge_cap, ((uint64_t)at << 8 | b) + 1, child);
                t->edges_used++;
            }
        }
        at = child;
    }
    t->values[at] = value;
    if (node)
        *node = at;
    return true;
}
