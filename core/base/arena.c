/* SPDX-License-Identifier: Apache-2.0 */
/* Bump allocation in chunks that double up to 1 MiB; large objects get a chunk of their own. */
#include "base/arena.h"

#include <stdalign.h>
#include <string.h>

#include "base/mem.h"

#define FIRST_CHUNK 4096
#define LARGEST_CHUNK (1 << 20)

struct arena_chunk {
    struct arena_chunk *next;
    size_t size;
    alignas(max_align_t) unsigned char data[];
};

static struct arena_chunk *new_chunk(struct arena *a, size_t bytes)
{
    size_t size = a->chunks ? a->chunks->size * 2 : FIRST_CHUNK;
    struct arena_chunk *c;

    if (size > LARGEST_CHUNK)
        size = LARGEST_CHUNK;
    if (size < bytes)
        size = bytes;
    if (size > SIZE_MAX - sizeof *c)
        return NULL;
    c = mem_zalloc(sizeof *c + size);
    if (!c)
        return NULL;
    c->size = size;
    c->next = a->chunks;
    a->chunks = c;
    a->used = 0;
    a->bytes += size;
    return c;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t align = alignof(max_align_t);
    struct arena_chunk *c = a->chunks;
    void *p;

    if (bytes > SIZE_MAX - align)
        return NULL;
    bytes = (bytes + align - 1) & ~(align - 1);
    if (!c || c->size - a->used < bytes) {
        c = new_chunk(a, bytes);
        if (!c)
            return NULL;
    }
    p = c->data + a->used;
    a->used += bytes;
    return p;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t bytes;

    return __builtin_mul_overflow(count, size, &bytes) ? NULL : arena_alloc(a, bytes);
}

void *arena_copy(struct arena *a, const void *src, size_t bytes)
{
    void *p = arena_alloc(a, bytes);

    if (p && bytes)
        memcpy(p, src, bytes);
    return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *p = arena_alloc(a, len + 1);

    if (p)
        memcpy(p, s, len); /* the arena is zeroed: the terminator is there */
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, SIZE_MAX - 1);
}

void arena_release(struct arena *a)
{
    while (a->chunks) {
        struct arena_chunk *c = a->chunks;
        a->chunks = c->next;
        mem_free(c);
    }
    a->used = a->bytes = 0;
}
