/* SPDX-License-Identifier: Apache-2.0 */
/* Iterators over the built-in containers. */
#include "jinja/iter.h"

#include <string.h>

#include "jinja/vm.h"

void *jiter_alloc(struct jvm *vm, size_t size, const char *type,
                  enum jnext (*next)(struct jvm *, struct jiter *, struct jvalue *))
{
    struct jiter *it = jvm_alloc(vm, size);

    if (it) {
        it->next = next;
        it->type = type;
    }
    return it;
}

enum jnext jiter_next(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    enum jnext next;

    if (!jvm_spend(vm, 1) || !jvm_enter(vm))
        return JNEXT_FAIL;
    next = it->next(vm, it, out);
    jvm_leave(vm);
    return next;
}

/* Over a value that is walked by index; at counts down in a reversed one. */
struct walk {
    struct jiter it;
    struct jvalue v;
    size_t end;
};

static enum jnext next_str(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    struct walk *w = (struct walk *)it;
    uint32_t cp;
    size_t n;

    if (it->at >= w->v.u.s->len)
        return JNEXT_END;
    n = jstr_decode(w->v.u.s, it->at, &cp);
    if (!jstr_sub(vm, w->v, it->at, n, out))
        return JNEXT_FAIL;
    out->flags = 0;
    it->at += n;
    return JNEXT_ITEM;
}

static bool item_at(struct jvm *vm, struct jvalue v, size_t i, struct jvalue *out)
{
    switch (v.type) {
    case J_DICT: *out = v.u.dict->pairs[i].key; return true;
    case J_VIEW: return jview_at(vm, v.u.view, i, out);
    case J_RANGE: *out = jint(jrange_at(v.u.range, i)); return true;
    default: *out = v.u.list->items[i]; return true;
    }
}

static enum jnext next_item(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    struct walk *w = (struct walk *)it;

    if (it->at >= w->end)
        return JNEXT_END;
    return item_at(vm, w->v, it->at++, out) ? JNEXT_ITEM : JNEXT_FAIL;
}

static enum jnext next_reversed(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    struct walk *w = (struct walk *)it;

    if (w->end == 0)
        return JNEXT_END;
    w->end--;
    return item_at(vm, w->v, w->end, out) ? JNEXT_ITEM : JNEXT_FAIL;
}

static enum jnext next_none(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    (void)vm;
    (void)it;
    (void)out;
    return JNEXT_END;
}

bool jiter_can(struct jvalue v)
{
    switch (v.type) {
    case J_UNDEFINED:
    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_VIEW:
    case J_RANGE:
    case J_ITER:
    case J_LOOP: return true;
    default: return false;
    }
}

struct jiter *jiter_of(struct jvm *vm, struct jvalue v)
{
    struct walk *w;

    if (v.type == J_ITER)
        return v.u.iter;
    if (v.type == J_LOOP) {
        jvm_fail(vm, JINJA_UNSUPPORTED, "iterating over `loop` itself is not supported");
        return NULL;
    }
    if (!jiter_can(v)) {
        jvm_fail(vm, JINJA_TYPE, "'%s' object is not iterable", jvalue_type(v));
        return NULL;
    }
    w = jiter_alloc(vm, sizeof *w, "iterator",
                    v.type == J_UNDEFINED ? next_none
                    : v.type == J_STR     ? next_str
                                          : next_item);
    if (!w)
        return NULL;
    w->v = v;
    jvalue_len(v, &w->end);
    return &w->it;
}

bool jiter_reversed(struct jvm *vm, struct jvalue v, struct jvalue *out, bool *can)
{
    struct walk *w;
    struct jlist chars;

    *can = v.type == J_LIST || v.type == J_TUPLE || v.type == J_STR || v.type == J_RANGE ||
           v.type == J_DICT || v.type == J_VIEW || v.type == J_UNDEFINED;
    if (!*can)
        return true;
    if (v.type == J_STR) {
        if (!jiter_list(vm, v, &chars) || !jlist_of(vm, J_LIST, chars.items, chars.count, &v))
            return false;
    }
    w = jiter_alloc(vm, sizeof *w, v.type == J_LIST ? "list_reverseiterator" : "reversed",
                    next_reversed);
    if (!w)
        return false;
    w->v = v;
    jvalue_len(v, &w->end);
    *out = (struct jvalue){.type = J_ITER, .u.iter = &w->it};
    return true;
}

bool jiter_collect(struct jvm *vm, struct jiter *it, struct jlist *out)
{
    struct jitems items = {0};
    struct jvalue v;
    enum jnext next;

    while ((next = jiter_next(vm, it, &v)) == JNEXT_ITEM) {
        if (!jitems_push(vm, &items, v))
            return false;
    }
    *out = (struct jlist){items.count, items.items, false};
    return next == JNEXT_END;
}

bool jiter_list(struct jvm *vm, struct jvalue v, struct jlist *out)
{
    struct jiter *it;

    if (v.type == J_LIST || v.type == J_TUPLE) {
        *out = *v.u.list;
        return true;
    }
    it = jiter_of(vm, v);
    return it && jiter_collect(vm, it, out);
}

struct later {
    struct jiter it;
    jiter_fill fill; /* NULL once it ran */
    struct jlist items;
    struct jvalue args[];
};

static enum jnext next_later(struct jvm *vm, struct jiter *it, struct jvalue *out)
{
    struct later *l = (struct later *)it;

    if (l->fill) {
        if (!l->fill(vm, l->args, &l->items))
            return JNEXT_FAIL;
        l->fill = NULL;
    }
    if (it->at >= l->items.count)
        return JNEXT_END;
    *out = l->items.items[it->at++];
    return JNEXT_ITEM;
}

bool jiter_later(struct jvm *vm, jiter_fill fill, const struct jvalue *args, size_t count,
                 struct jvalue *out)
{
    struct later *l = jiter_alloc(vm, sizeof *l + count * sizeof *args, "generator", next_later);

    if (!l)
        return false;
    l->fill = fill;
    if (count)
        memcpy(l->args, args, count * sizeof *args);
    *out = (struct jvalue){.type = J_ITER, .u.iter = &l->it};
    return true;
}
