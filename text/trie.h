/* SPDX-License-Identifier: Apache-2.0 */
/* A trie over bytes whose edges lie in one hash table: vocabularies, added tokens, stop strings. */
#ifndef TEXT_TRIE_H
#define TEXT_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRIE_NONE UINT32_MAX

struct trie_edge {
    uint64_t key; /* node << 8 | byte, plus 1 so that 0 means empty */
    uint32_t child;
};

struct trie {
    struct trie_edge *edges;
    size_t edge_cap; /* a power of two, or 0 */
    size_t edges_used;
    uint32_t *values; /* by node; TRIE_NONE: no key ends here */
    size_t nodes, node_cap;
    uint32_t first[256]; /* the root's children, which every search asks for; 0: none */
};

/* An empty trie has one node, the root, 0. */
bool trie_init(struct trie *t);
void trie_release(struct trie *t); /* zeroed is allowed */

/* Adds a key; its node becomes *node. A value that is there is replaced. False without memory. */
bool trie_add(struct trie *t, const char *key, size_t len, uint32_t value, uint32_t *node);

static inline uint64_t trie_hash(uint64_t key)
{
    return (key * UINT64_C(0x9e3779b97f4a7c15)) >> 20;
}

/* The child of `node` by `byte`, or 0. */
static inline uint32_t trie_next(const struct trie *t, uint32_t node, unsigned char byte)
{
    uint64_t key;

    if (node == 0)
        return t->first[byte];
    key = ((uint64_t)node << 8 | byte) + 1;
    for (size_t i = trie_hash(key) & (t->edge_cap - 1);; i = (i + 1) & (t->edge_cap - 1)) {
        if (t->edges[i].key == key)
            return t->edges[i].child;
        if (t->edges[i].key == 0)
            return 0;
    }
}

#endif
