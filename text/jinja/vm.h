/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of one render: its arena, its budgets, the error that ended it, the variables. One thread owns it.
 * Every function that can fail returns false once jvm_fail has filled the error; nothing is undone, since
 * the whole arena goes at the end of the render.
 */
#ifndef TEXT_JINJA_VM_H
#define TEXT_JINJA_VM_H

#include "base/arena.h"
#include "base/err.h"
#include "jinja/jinja.h"
#include "jinja/node.h"
#include "jinja/str.h"
#include "jinja/value.h"

/* Levels of evaluation, calls and nested data together. Python gives up at about the same depth; one level
 * costs some 400 bytes of C stack. */
#define JVM_DEPTH 1000

/* The local variables of one run of a function (see scope.h), linked to those of the function around it. */
struct jactivation {
    struct jactivation *outer;
    struct jactivation *free_next;
    const struct jfunc *func;
    bool captured; /* a macro, loop or generator may outlive the run: do not recycle */
    struct jvalue slots[];
};

struct jvm_map { /* a dict's index, which lives on the heap */
    struct jvm_map *next;
    struct map *map;
};

struct jvm {
    const struct jinja *t;
    tn_err *err;
    enum jinja_failure failure;
    const struct jnode *at; /* what is being evaluated: the place of an error */

    struct arena arena;
    struct jvm_map *maps;
    uint64_t memory_left, memory_cap;
    uint64_t fuel_left, fuel_cap;
    uint32_t depth;

    struct jactivation *act;
    struct jactivation **free_acts; /* by function number */
    struct jvalue *globals;         /* by name number: functions and the context */
    struct jvalue *exported;        /* by name number: what the root has set */

    const struct jinja_options *options;
    struct jbuild *root; /* the output */
    struct jinja_span *spans;
    size_t span_count, span_cap;
};

/* Fills the error with the place of vm->at. Returns false. */
TN_PRINTF(3, 4)
bool jvm_fail(struct jvm *vm, enum jinja_failure why, const char *fmt, ...);
bool jvm_nomem(struct jvm *vm);

/* Takes `n` steps from the budget. */
bool jvm_spend(struct jvm *vm, uint64_t n);
/* Steps for `bytes` of text that are read or written. */
bool jvm_spend_bytes(struct jvm *vm, uint64_t bytes);

/* One level deeper. Each successful enter needs a leave. */
bool jvm_enter(struct jvm *vm);
static inline void jvm_leave(struct jvm *vm)
{
    vm->depth--;
}

/* Zeroed memory that lives until the render ends; NULL after filling the error. */
void *jvm_alloc(struct jvm *vm, size_t bytes);
void *jvm_array(struct jvm *vm, size_t count, size_t size);
/* `items` with room for at least `need`, the old ones kept (in new memory if they move). */
bool jvm_grow(struct jvm *vm, void *items_ptr, size_t *cap, size_t need, size_t size);
/* A C string made with printf; NULL after filling the error. */
TN_PRINTF(2, 3)
const char *jvm_printf(struct jvm *vm, const char *fmt, ...);

/* A heap map that is released with the vm; NULL without memory (no error is filled). */
struct map *jvm_map_new(struct jvm *vm);
void jvm_release(struct jvm *vm);

#endif
