/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Iteration. Lists and the like are walked by index; map, select and the filters of loops compute an item when
 * it is asked for, as Python's generators do, so that an item nobody asks for raises no error. An iterator is
 * consumed by use: a second loop over it finds nothing.
 */
#ifndef TEXT_JINJA_ITER_H
#define TEXT_JINJA_ITER_H

#include "jinja/value.h"

enum jnext { JNEXT_ITEM, JNEXT_END, JNEXT_FAIL };

struct jiter {
    enum jnext (*next)(struct jvm *vm, struct jiter *it, struct jvalue *out);
    const char *type; /* as Python calls it: "generator", "list_reverseiterator" */
    size_t at;
};

/* Allocates a `size` byte struct that begins with a struct jiter. */
void *jiter_alloc(struct jvm *vm, size_t size, const char *type,
                  enum jnext (*next)(struct jvm *, struct jiter *, struct jvalue *));
/* iter(v): TypeError if v cannot be iterated. An iterator gives itself. */
struct jiter *jiter_of(struct jvm *vm, struct jvalue v);
bool jiter_can(struct jvalue v);
/* The next item; spends a step. */
enum jnext jiter_next(struct jvm *vm, struct jiter *it, struct jvalue *out);
/* reversed(v); *can tells whether Python could. */
bool jiter_reversed(struct jvm *vm, struct jvalue v, struct jvalue *out, bool *can);
/* All remaining items in a new list. */
bool jiter_collect(struct jvm *vm, struct jiter *it, struct jlist *out);
/* list(v). A list or tuple is not copied: the result shares its items, which never change. */
bool jiter_list(struct jvm *vm, struct jvalue v, struct jlist *out);

/* A generator whose items are computed together, by `fill`, when the first is asked for. */
typedef bool (*jiter_fill)(struct jvm *vm, const struct jvalue *args, struct jlist *out);
bool jiter_later(struct jvm *vm, jiter_fill fill, const struct jvalue *args, size_t count,
                 struct jvalue *out);

#endif
