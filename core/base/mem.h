/* SPDX-License-Identifier: Apache-2.0 */
/* Heap memory. Every allocation of the core goes through here, so that tests can make the Nth fail. */
#ifndef CORE_BASE_MEM_H
#define CORE_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All return NULL when memory is out, the size overflows, or a test injected a failure. */
void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_array(size_t count, size_t size);             /* uninitialised */
void *mem_zarray(size_t count, size_t size);            /* zeroed */
void *mem_aligned(size_t bytes, size_t align);          /* zeroed; align: a power of two */
void *mem_resize(void *ptr, size_t count, size_t size); /* realloc; on NULL the old block stands */
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n); /* ends at a NUL within the n */
char *mem_copy(const void *data, size_t n); /* all n bytes, NULs among them, and a NUL behind */
void mem_free(void *ptr);                   /* NULL is allowed */

/*
 * Makes room for at least `need` elements of `size` bytes in *items, which has room for *cap. Grows by
 * half at least, so that appending is linear in sum. Returns false, and changes nothing, without memory.
 */
bool mem_grow(void *items_ptr, size_t *cap, size_t need, size_t size);

/* Tests: the nth allocation from now (1 = the next) fails, and all later ones too if `persistent`;
 * 0 switches it off. mem_injected tells whether it has struck. */
void mem_fail_nth(uint64_t nth, bool persistent);
bool mem_injected(void);

/* No raw allocation in the core: these do not compile once this header is included. */
#ifndef CORE_BASE_MEM_IMPLEMENTATION
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GNUC__
#pragma GCC poison malloc calloc realloc strdup strndup strcpy strcat sprintf vsprintf gets
#endif
#endif

#endif
