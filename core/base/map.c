/* SPDX-License-Identifier: Apache-2.0 */
/* Open addressing with linear probing at a load of at most 3/4; XXH3 with a random seed. */
#include "base/map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "base/rng.h"

static uint64_t hash_of(const struct map *m, const char *key, size_t len)
{
    return XXH3_64bits_withSeed(key, len, m->seed);
}

/* The slot of the key, or the empty slot where it belongs. The table is never full. */
static struct map_slot *find(const struct map *m, const char *key, size_t len, uint64_t h)
{
    size_t i = h & (m->cap - 1);
    uint32_t tag = (uint32_t)(h >> 32);

    for (;; i = (i + 1) & (m->cap - 1)) {
        struct map_slot *s = &m->slots[i];
        if (!s->key || (s->hash == tag && s->len == len && memcmp(s->key, key, len) == 0))
            return s;
    }
}

static bool rehash(struct map *m, size_t cap)
{
    struct map bigger = *m;

    if (!m->slots)
        bigger.seed = rng_entropy();
    bigger.cap = cap;
    bigger.slots = mem_zarray(cap, sizeof *bigger.slots);
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < m->cap; i++) {
        const struct map_slot *s = &m->slots[i];
        if (s->key)
            *find(&bigger, s->key, s->len, hash_of(&bigger, s->key, s->len)) = *s;
    }
    mem_free(m->slots);
    *m = bigger;
    return true;
}

bool map_reserve(struct map *m, size_t count)
{
    size_t cap = m->cap ? m->cap : 16;

    if (count > SIZE_MAX / 8)
        return false;
    while (cap / 4 * 3 < count)
        cap *= 2;
    return cap == m->cap || rehash(m, cap);
}

static enum map_put add(struct map *m, const char *key, size_t len, uint64_t value, bool replace)
{
    struct map_slot *s;
    uint64_t h;

    if (len > UINT32_MAX || !map_reserve(m, m->count + 1))
        return MAP_NOMEM;
    h = hash_of(m, key, len);
    s = find(m, key, len, h);
    if (s->key) {
        if (replace)
            s->value = value;
        return MAP_PRESENT;
    }
    *s = (struct map_slot){key, (uint32_t)len, (uint32_t)(h >> 32), value};
    m->count++;
    return MAP_ADDED;
}

enum map_put map_put(struct map *m, const char *key, size_t len, uint64_t value)
{
    return add(m, key, len, value, false);
}

bool map_set(struct map *m, const char *key, size_t len, uint64_t value)
{
    return add(m, key, len, value, true) != MAP_NOMEM;
}

bool map_get(const struct map *m, const char *key, size_t len, uint64_t *value)
{
    const struct map_slot *s;

    if (m->count == 0 || len > UINT32_MAX)
        return false;
    s = find(m, key, len, hash_of(m, key, len));
    if (!s->key)
        return false;
    *value = s->value;
    return true;
}

void map_prefetch(const struct map *m, const char *key, size_t len)
{
    if (m->cap > 0)
        __builtin_prefetch(&m->slots[hash_of(m, key, len) & (m->cap - 1)], 1);
}

void map_release(struct map *m)
{
    mem_free(m->slots);
    *m = (struct map)MAP_INIT;
}
