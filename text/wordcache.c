/* SPDX-License-Identifier: Apache-2.0 */
/* The word cache (wordcache.h): open addressing, emptied as a whole when it is three quarters full. A seed keeps texts
 * from choosing collisions. */
#include "wordcache.h"

#include "base/mem.h"

#define SLOTS 32768u
#define MAX_USED (SLOTS / 4 * 3)
#define MAX_TOKENS (4u * SLOTS)

void wordcache_release(struct wordcache *c)
{
    mem_free(c->slots);
    mem_free(c->tokens);
    memset(c, 0, sizeof *c);
}

/* Two rounds of multiply and fold, as in wyhash. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide r = (wide)a * b;

    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

static size_t hash(const struct word_key *k, size_t len, uint64_t seed)
{
    uint64_t h = mix(k->w[0] ^ UINT64_C(0xa0761d6478bd642f), k->w[1] ^ seed);

    return (size_t)mix(h ^ k->w[2], (uint64_t)len ^ UINT64_C(0xe7037ed1a0b428db));
}

struct wordcache_slot *wordcache_find(struct wordcache *c, const struct word_key *key, size_t len)
{
    uint64_t seed;
    size_t i;

    if (!c->slots) {
        c->slots = mem_zarray(SLOTS, sizeof *c->slots);
        if (!c->slots)
            return NULL;
    }
    /* Where the table lies is as random as the system makes it, and nobody outside sees it. */
    seed = (uint64_t)(uintptr_t)c->slots * UINT64_C(0x9e3779b97f4a7c15);
    for (i = hash(key, len, seed) & (SLOTS - 1);; i = (i + 1) & (SLOTS - 1)) {
        struct wordcache_slot *s = &c->slots[i];
        if (s->len == 0 || (s->len == len && s->key.w[0] == key->w[0] && s->key.w[1] == key->w[1] &&
                            s->key.w[2] == key->w[2]))
            return s;
    }
}

void wordcache_fill(struct wordcache *c, struct wordcache_slot *slot, const struct word_key *key,
                    size_t len, const struct word_token *tokens, size_t count)
{
    /* One token that leaves part of the word uncovered has no place in a slot; it is rare. */
    if (count == 0 || count > WORDCACHE_KEY_BYTES || (count == 1 && tokens[0].len != len))
        return;
    if (c->used == MAX_USED || c->token_count + count > MAX_TOKENS) {
        memset(c->slots, 0, SLOTS * sizeof *c->slots);
        c->used = c->token_count = 0;
        slot = wordcache_find(c, key, len);
    }
    if (count > 1) {
        if (!mem_grow(&c->tokens, &c->token_cap, c->token_count + count, sizeof *c->tokens))
            return;
        memcpy(c->tokens + c->token_count, tokens, count * sizeof *tokens);
        slot->first = (uint32_t)c->token_count;
        c->token_count += count;
    } else {
        slot->first = tokens[0].id;
    }
    slot->key = *key;
    slot->len = (uint16_t)len;
    slot->count = (uint16_t)count;
    c->used++;
}
