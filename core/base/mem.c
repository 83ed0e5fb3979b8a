/* SPDX-License-Identifier: Apache-2.0 */
/* The heap behind mem.h: malloc with checked sizes and a failure hook for tests. */
#define CORE_BASE_MEM_IMPLEMENTATION
#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t fail_countdown; /* 0: off; else allocations left until the failing one */
static atomic_bool fail_persistent;
static atomic_bool fail_struck;

void mem_fail_nth(uint64_t nth, bool persistent)
{
    atomic_store(&fail_struck, false);
    atomic_store(&fail_persistent, persistent);
    atomic_store(&fail_countdown, nth);
}

bool mem_injected(void)
{
    return atomic_load(&fail_struck);
}

static bool fails_now(void)
{
    uint64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    if (left == 0)
        return false;
    if (left > 1) {
        atomic_fetch_sub(&fail_countdown, 1);
        return false;
    }
    if (!atomic_load(&fail_persistent))
        atomic_store(&fail_countdown, 0);
    atomic_store(&fail_struck, true);
    return true;
}

void *mem_alloc(size_t bytes)
{
    return fails_now() ? NULL : malloc(bytes ? bytes : 1);
}

void *mem_zalloc(size_t bytes)
{
    return fails_now() ? NULL : calloc(1, bytes ? bytes : 1);
}

void *mem_array(size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return mem_alloc(bytes);
}

void *mem_zarray(size_t count, size_t size)
{
    if (count == 0 || size == 0)
        return mem_zalloc(1);
    return fails_now() ? NULL : calloc(count, size);
}

void *mem_aligned(size_t bytes, size_t align)
{
    size_t rounded;
    void *p;

    if (__builtin_add_overflow(bytes ? bytes : 1, align - 1, &rounded) || fails_now())
        return NULL;
    rounded &= ~(align - 1);
    p = aligned_alloc(align < sizeof(void *) ? sizeof(void *) : align, rounded);
    if (p)
        memset(p, 0, rounded);
    return p;
}

void *mem_resize(void *ptr, size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes) || fails_now())
        return NULL;
    return realloc(ptr, bytes ? bytes : 1);
}

char *mem_copy(const void *data, size_t n)
{
    char *copy = n < SIZE_MAX ? mem_alloc(n + 1) : NULL;

    if (copy) {
        memcpy(copy, data, n);
        copy[n] = '\0';
    }
    return copy;
}

char *mem_strndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = mem_alloc(len + 1);

    if (copy) {
        memcpy(copy, s, len);
        copy[len] = '\0';
    }
    return copy;
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, SIZE_MAX - 1);
}

void mem_free(void *ptr)
{
    free(ptr);
}

bool mem_grow(void *items_ptr, size_t *cap, size_t need, size_t size)
{
    void *items;
    size_t want;

    if (need <= *cap)
        return true;
    want = *cap + *cap / 2;
    if (want < need)
        want = need;
    if (want < 8)
        want = 8;
    memcpy(&items, items_ptr, sizeof items);
    items = mem_resize(items, want, size);
    if (!items)
        return false;
    memcpy(items_ptr, &items, sizeof items);
    *cap = want;
    return true;
}
