/* SPDX-License-Identifier: Apache-2.0 */
/* Remembers how short words were split into tokens: text repeats itself. Belongs to one scratch, so to one thread. */
#ifndef TEXT_WORDCACHE_H
#define TEXT_WORDCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WORDCACHE_KEY_BYTES 24 /* longer words are split anew each time */

/* A token of a split word. */
struct word_token {
    uint32_t id;
    uint32_t len; /* bytes of the word that it covers */
};

struct word_key {
    uint64_t w[WORDCACHE_KEY_BYTES / 8];
};

struct wordcache_slot {
    struct word_key key;
    uint16_t len;   /* 0: empty */
    uint16_t count; /* of tokens */
    uint32_t first; /* the token's id if count is 1, else where they begin in `tokens` */
};

struct wordcache {
    struct wordcache_slot *slots;
    struct word_token *tokens;
    size_t used, token_count, token_cap;
};

void wordcache_release(struct wordcache *c); /* zeroed is allowed */

/* Loads n bytes, 1 to 24, into a key that words of the same length share only if equal. */
static inline struct word_key wordcache_key(const char *p, size_t n)
{
    struct word_key k = {{0, 0, 0}};

    if (n > 16) {
        memcpy(&k.w[0], p, 16);
        memcpy(&k.w[2], p + n - 8, 8);
    } else if (n >= 8) {
        memcpy(&k.w[0], p, 8);
        memcpy(&k.w[1], p + n - 8, 8);
    } else if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        k.w[0] = (uint64_t)a << 32 | b;
    } else {
        k.w[0] = (uint64_t)(unsigned char)p[0] << 16 | (uint64_t)(unsigned char)p[n / 2] << 8 |
                 (unsigned char)p[n - 1];
    }
    return k;
}

/* The slot of the word, or the empty slot (len 0) where it goes; NULL if there is no cache for want of memory. */
struct wordcache_slot *wordcache_find(struct wordcache *c, const struct word_key *key, size_t len);

/* Fills an empty slot that wordcache_find gave. Does nothing if the tokens do not fit. */
void wordcache_fill(struct wordcache *c, struct wordcache_slot *slot, const struct word_key *key,
                    size_t len, const struct word_token *tokens, size_t count);

#endif
