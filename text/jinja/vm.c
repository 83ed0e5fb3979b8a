/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets, memory and errors of a render. */
#include "jinja/vm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"

bool jvm_fail(struct jvm *vm, enum jinja_failure why, const char *fmt, ...)
{
    char msg[sizeof vm->err->msg];
    va_list ap;

    if (vm->failure)
        return false;
    vm->failure = why;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    jerror_fill(vm->err, vm->t, vm->at ? vm->at->pos : 0, why, msg);
    return false;
}

bool jvm_nomem(struct jvm *vm)
{
    return jvm_fail(vm, JINJA_NOMEM, "out of memory while rendering");
}

bool jvm_spend(struct jvm *vm, uint64_t n)
{
    if (n > vm->fuel_left) {
        vm->fuel_left = 0;
        return jvm_fail(vm, JINJA_LIMIT, "the template takes more than %llu steps",
                        (unsigned long long)vm->fuel_cap);
    }
    vm->fuel_left -= n;
    return true;
}

bool jvm_spend_bytes(struct jvm *vm, uint64_t bytes)
{
    return bytes < 32 || jvm_spend(vm, bytes / 32);
}

bool jvm_enter(struct jvm *vm)
{
    if (vm->depth >= JVM_DEPTH)
        return jvm_fail(vm, JINJA_LIMIT, "maximum recursion depth of %d exceeded", JVM_DEPTH);
    vm->depth++;
    return true;
}

void *jvm_alloc(struct jvm *vm, size_t bytes)
{
    void *p;

    if (bytes > vm->memory_left) {
        jvm_fail(vm, JINJA_LIMIT, "the template needs more than %llu bytes of memory",
                 (unsigned long long)vm->memory_cap);
        return NULL;
    }
    p = arena_alloc(&vm->arena, bytes);
    if (!p) {
        jvm_nomem(vm);
        return NULL;
    }
    vm->memory_left -= bytes;
    return p;
}

void *jvm_array(struct jvm *vm, size_t count, size_t size)
{
    if (size && count > SIZE_MAX / size)
        return jvm_alloc(vm, SIZE_MAX); /* fails with the right message */
    return jvm_alloc(vm, count * size);
}

bool jvm_grow(struct jvm *vm, void *items_ptr, size_t *cap, size_t need, size_t size)
{
    size_t want = *cap > SIZE_MAX / 2 ? SIZE_MAX : *cap * 2;
    void *items, *old;

    if (need <= *cap)
        return true;
    if (want < need)
        want = need;
    if (want < 8)
        want = 8;
    items = jvm_array(vm, want, size);
    if (!items)
        return false;
    memcpy(&old, items_ptr, sizeof old);
    if (*cap)
        memcpy(items, old, *cap * size);
    memcpy(items_ptr, &items, sizeof items);
    *cap = want;
    return true;
}

const char *jvm_printf(struct jvm *vm, const char *fmt, ...)
{
    va_list ap;
    int n;
    char *s;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    s = n < 0 ? NULL : jvm_alloc(vm, (size_t)n + 1);
    if (!s)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}

struct map *jvm_map_new(struct jvm *vm)
{
    struct {
        struct jvm_map link;
        struct map map;
    } * m;

    if (vm->memory_left < sizeof *m)
        return NULL;
    m = arena_alloc(&vm->arena, sizeof *m);
    if (!m)
        return NULL;
    vm->memory_left -= sizeof *m;
    m->link.map = &m->map;
    m->link.next = vm->maps;
    vm->maps = &m->link;
    return &m->map;
}

void jvm_release(struct jvm *vm)
{
    for (struct jvm_map *m = vm->maps; m; m = m->next)
        map_release(m->map);
    vm->maps = NULL;
    arena_release(&vm->arena);
}
