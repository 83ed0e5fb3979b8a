/* SPDX-License-Identifier: Apache-2.0 */
/* An arena owns many small objects with one lifetime: a plan, a parsed configuration. */
#ifndef CORE_BASE_ARENA_H
#define CORE_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct arena {
    struct arena_chunk *chunks; /* newest first */
    size_t used;                /* bytes taken of the newest chunk */
    size_t bytes;               /* bytes held in all */
};

#define ARENA_INIT                                                                                 \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

/* Zeroed, aligned for any type. NULL without memory (or if count * size overflows). */
void *arena_alloc(struct arena *a, size_t bytes);
void *arena_array(struct arena *a, size_t count, size_t size);
void *arena_copy(struct arena *a, const void *src, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);

/* Frees everything and leaves the arena empty and usable. A zeroed arena is allowed. */
void arena_release(struct arena *a);

#endif
