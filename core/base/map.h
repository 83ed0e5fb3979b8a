/* SPDX-License-Identifier: Apache-2.0 */
/* A hash map from byte strings to uint64_t: vocabularies, name indexes. Keys are not copied. */
#ifndef CORE_BASE_MAP_H
#define CORE_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_slot {
    const char *key; /* NULL: empty */
    uint32_t len;
    uint32_t hash; /* upper half of the hash, to skip most compares */
    uint64_t value;
};

struct map {
    struct map_slot *slots;
    size_t cap; /* a power of two, or 0 */
    size_t count;
    uint64_t seed; /* random per map: crafted names cannot collide on purpose */
};

#define MAP_INIT                                                                                   \
    {                                                                                              \
        NULL, 0, 0, 0                                                                              \
    }

/* Room for `count` keys without growing again. False without memory. */
bool map_reserve(struct map *m, size_t count);

enum map_put { MAP_ADDED, MAP_PRESENT, MAP_NOMEM };

/* Adds the key unless it is there (its value then stays). `key` must live as long as the map. */
enum map_put map_put(struct map *m, const char *key, size_t len, uint64_t value);

/* Adds the key or replaces its value. False without memory. */
bool map_set(struct map *m, const char *key, size_t len, uint64_t value);

bool map_get(const struct map *m, const char *key, size_t len, uint64_t *value);

/* Fetches the place of a key that will be asked for or added soon into the cache: large maps miss on every access. */
void map_prefetch(const struct map *m, const char *key, size_t len);

void map_release(struct map *m); /* a zeroed map is allowed */

#endif
