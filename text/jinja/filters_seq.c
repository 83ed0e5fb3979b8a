/* SPDX-License-Identifier: Apache-2.0 */
/* Filters on sequences and dicts. */
#include <string.h>

#include "base/rng.h"
#include "jinja/eval.h"
#include "jinja/iter.h"
#include "jinja/number.h"
#include "jinja/pick.h"
#include "jinja/text.h"
#include "jinja/vm.h"

static bool do_length(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    size_t n;

    if (a->self.type == J_LOOP)
        return jloop_length(vm, a->self.u.loop, out);
    if (!jvalue_len(a->self, &n))
        return jvm_fail(vm, JINJA_TYPE, "object of type '%s' has no len()", jvalue_type(a->self));
    *out = jint((int64_t)n);
    return true;
}

static bool do_list(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jlist items;

    return jiter_list(vm, a->self, &items) && jlist_of(vm, J_LIST, items.items, items.count, out);
}

static bool do_first(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jiter *it = jiter_of(vm, a->self);
    enum jnext next = it ? jiter_next(vm, it, out) : JNEXT_FAIL;

    return next == JNEXT_ITEM ||
           (next == JNEXT_END && jundef_hint(vm, "No first item, sequence was empty.", out));
}

static bool do_last(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue reversed;
    enum jnext next;
    bool can;

    if (!jiter_reversed(vm, a->self, &reversed, &can))
        return false;
    if (!can)
        return jvm_fail(vm, JINJA_TYPE, "'%s' object is not reversible", jvalue_type(a->self));
    next = jiter_next(vm, reversed.u.iter, out);
    return next == JNEXT_ITEM ||
           (next == JNEXT_END && jundef_hint(vm, "No last item, sequence was empty.", out));
}

/* Any item; a render at a given time always takes the same. */
static bool do_random(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    const struct jinja_time *now = vm->options->now;
    struct rng rng = {vm->fuel_left ^ (now ? (uint64_t)now->unix_s : rng_entropy())};
    struct jlist items;

    if (a->self.type != J_STR && a->self.type != J_LIST && a->self.type != J_TUPLE &&
        a->self.type != J_RANGE)
        return jvm_fail(vm, JINJA_TYPE, "'%s' object is not a sequence", jvalue_type(a->self));
    if (!jiter_list(vm, a->self, &items))
        return false;
    if (items.count == 0)
        return jundef_hint(vm, "No random item, sequence was empty.", out);
    *out = items.items[rng_below(&rng, items.count)];
    return true;
}

static bool do_reverse(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue part[3] = {jnone(), jnone(), jint(-1)}, v;
    struct jlist items;
    bool can;

    if (a->self.type == J_STR)
        return jattr_slice(vm, a->self, part, out);
    if (!jiter_reversed(vm, a->self, out, &can))
        return false;
    if (can)
        return true;
    if (!jiter_can(a->self))
        return jvm_fail(vm, JINJA_RUNTIME, "argument must be iterable");
    if (!jiter_list(vm, a->self, &items) || !jlist_of(vm, J_LIST, items.items, items.count, &v))
        return false;
    return jattr_slice(vm, v, part, out);
}

/* The `reverse` of sorted(), which wants an integer. */
static bool reverse_flag(struct jvm *vm, const struct jargs *a, size_t i, bool *out)
{
    int64_t flag = 0;

    if (jarg_given(a, i) && !jis_int(a->v[i]))
        return jvm_fail(vm, JINJA_TYPE, "'%s' object cannot be interpreted as an integer",
                        jvalue_type(a->v[i]));
    if (!jarg_int(vm, a, i, &flag))
        return false;
    *out = flag != 0;
    return true;
}

static bool do_sort(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue *keys, attribute = jarg_given(a, 2) ? a->v[2] : jnone();
    struct jlist items;
    bool reverse;

    if (!reverse_flag(vm, a, 0, &reverse) || !jiter_list(vm, a->self, &items) ||
        !jlist_new(vm, J_LIST, items.count, out))
        return false;
    keys = jvm_array(vm, items.count, sizeof *keys);
    if (!keys || !jgetter_keys(vm, attribute, !jarg_flag(a, 1, false), &items, keys))
        return false;
    if (items.count)
        memcpy(out->u.list->items, items.items, items.count * sizeof *items.items);
    return jvalue_sort(vm, keys, out->u.list->items, items.count, reverse);
}

static bool do_dictsort(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jgetter getter = {.fold = !jarg_flag(a, 0, false)};
    bool by_key = !jarg_given(a, 1) || (a->v[1].type == J_STR && jstr_is(a->v[1].u.s, "key"));
    struct jvalue view, *keys;
    struct jlist pairs;
    bool reverse;

    if (!by_key && !(a->v[1].type == J_STR && jstr_is(a->v[1].u.s, "value")))
        return jvm_fail(vm, JINJA_RUNTIME, "You can only sort by either \"key\" or \"value\"");
    if (a->self.type == J_UNDEFINED)
        return jundef_fail(vm, a->self);
    if (a->self.type != J_DICT)
        return jvm_fail(vm, JINJA_TYPE, "'%s' object has no attribute 'items'",
                        jvalue_type(a->self));
    if (!reverse_flag(vm, a, 2, &reverse) || !jview_new(vm, a->self.u.dict, JVIEW_ITEMS, &view) ||
        !jiter_list(vm, view, &pairs))
        return false;
    keys = jvm_array(vm, pairs.count, sizeof *keys);
    for (size_t i = 0; keys && i < pairs.count; i++) {
        if (!jgetter_get(vm, &getter, pairs.items[i].u.list->items[by_key ? 0 : 1], &keys[i]))
            return false;
    }
    return keys && jvalue_sort(vm, keys, pairs.items, pairs.count, reverse) &&
           jlist_of(vm, J_LIST, pairs.items, pairs.count, out);
}

static bool extreme(struct jvm *vm, const struct jargs *a, enum jorder better, struct jvalue *out)
{
    struct jgetter getter = {0};
    struct jiter *it = jiter_of(vm, a->self);
    struct jvalue v, key, best = jnone();
    enum jnext next;
    bool first = true, wins = true;

    if (!it || (jarg_given(a, 1) && !jgetter_init(vm, a->v[1], &getter)))
        return false;
    getter.fold = !jarg_flag(a, 0, false);
    while ((next = jiter_next(vm, it, &v)) == JNEXT_ITEM) {
        if (!jgetter_get(vm, &getter, v, &key) ||
            (!first && !jvalue_order(vm, better, key, best, &wins)))
            return false;
        if (wins) {
            *out = v;
            best = key;
        }
        first = false;
    }
    if (next == JNEXT_FAIL)
        return false;
    return !first || jundef_hint(vm, "No aggregated item, sequence was empty.", out);
}

static bool do_min(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return extreme(vm, a, JLT, out);
}

static bool do_max(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return extreme(vm, a, JGT, out);
}

static bool do_sum(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jgetter getter = {0};
    struct jiter *it = jiter_of(vm, a->self);
    struct jvalue v;
    enum jnext next;

    *out = jarg_given(a, 1) ? a->v[1] : jint(0);
    if (!it || (jarg_some(a, 0) && !jgetter_init(vm, a->v[0], &getter)))
        return false;
    if (out->type == J_STR)
        return jvm_fail(vm, JINJA_TYPE, "sum() can't sum strings [use ''.join(seq) instead]");
    while ((next = jiter_next(vm, it, &v)) == JNEXT_ITEM) {
        if (!jgetter_get(vm, &getter, v, &v) || !jnumber_binary(vm, JOP_ADD, *out, v, out))
            return false;
    }
    return next == JNEXT_END;
}

/* Whether `key` was seen before; else it is now. */
static bool seen(struct jvm *vm, struct jvalue set, struct jvalue key, bool *before)
{
    struct jvalue ignored;

    return jdict_get(vm, set.u.dict, key, &ignored, before) &&
           (*before || jdict_append(vm, set.u.dict, key, jnone()));
}

static bool fill_unique(struct jvm *vm, const struct jvalue *args, struct jlist *out)
{
    struct jgetter getter = {0};
    struct jiter *it = jiter_of(vm, args[0]);
    struct jitems items = {0};
    struct jvalue v, key, set;
    enum jnext next;
    bool before;

    if (!it || !jgetter_init(vm, args[2], &getter) || !jdict_new(vm, 0, &set))
        return false;
    getter.fold = !jvalue_truth(args[1]);
    while ((next = jiter_next(vm, it, &v)) == JNEXT_ITEM) {
        if (!jgetter_get(vm, &getter, v, &key) || !seen(vm, set, key, &before) ||
            (!before && !jitems_push(vm, &items, v)))
            return false;
    }
    *out = (struct jlist){items.count, items.items, false};
    return next == JNEXT_END;
}

static bool do_unique(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue args[3] = {a->self, jbool(jarg_flag(a, 0, false)),
                             jarg_given(a, 1) ? a->v[1] : jnone()};

    return jiter_later(vm, fill_unique, args, 3, out);
}

static bool fill_batch(struct jvm *vm, const struct jvalue *args, struct jlist *out)
{
    struct jiter *it = jiter_of(vm, args[0]);
    struct jitems batches = {0}, one = {0};
    struct jvalue v, batch, size = args[1];
    enum jnext next = JNEXT_FAIL;
    bool full;

    while (it && (next = jiter_next(vm, it, &v)) == JNEXT_ITEM) {
        if (!jvalue_equal(vm, jint((int64_t)one.count), size, &full))
            return false;
        if (full) {
            if (!jlist_of(vm, J_LIST, one.items, one.count, &batch) ||
                !jitems_push(vm, &batches, batch))
                return false;
            one = (struct jitems){0};
        }
        if (!jitems_push(vm, &one, v))
            return false;
    }
    if (next != JNEXT_END)
        return false;
    if (one.count && args[2].type != J_NONE) {
        if (!jvalue_order(vm, JLT, jint((int64_t)one.count), size, &full))
            return false;
        if (full && !jis_int(size))
            return jvm_fail(vm, JINJA_TYPE, "the size of a batch must be an integer");
        while (full && (int64_t)one.count < jint_of(size)) {
            if (!jvm_spend(vm, 1) || !jitems_push(vm, &one, args[2]))
                return false;
        }
    }
    if (one.count &&
        (!jlist_of(vm, J_LIST, one.items, one.count, &batch) || !jitems_push(vm, &batches, batch)))
        return false;
    *out = (struct jlist){batches.count, batches.items, false};
    return true;
}

static bool do_batch(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue args[3] = {a->self, a->v[0], jarg_given(a, 1) ? a->v[1] : jnone()};

    return jiter_later(vm, fill_batch, args, 3, out);
}

static bool fill_slice(struct jvm *vm, const struct jvalue *args, struct jlist *out)
{
    struct jlist seq;
    struct jitems slices = {0};
    int64_t n, per, extra, count, at = 0;

    if (!jiter_list(vm, args[0], &seq))
        return false;
    if (args[1].type == J_UNDEFINED)
        return jundef_fail(vm, args[1]);
    if (!jis_int(args[1]))
        return jvm_fail(vm, JINJA_TYPE, "'%s' object cannot be interpreted as an integer",
                        jvalue_type(args[1]));
    count = jint_of(args[1]);
    if (count == 0)
        return jvm_fail(vm, JINJA_ARITHMETIC, "integer division or modulo by zero");
    n = (int64_t)seq.count;
    per = count > 0 ? n / count : 0;
    extra = count > 0 ? n % count : 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t len = per + (i < extra);
        bool fill = args[2].type != J_NONE && i >= extra;
        struct jvalue slice;
        if (!jvm_spend(vm, 1) || !jlist_new(vm, J_LIST, (size_t)len + fill, &slice) ||
            !jitems_push(vm, &slices, slice))
            return false;
        if (len)
            memcpy(slice.u.list->items, seq.items + at, (size_t)len * sizeof *seq.items);
        if (fill)
            slice.u.list->items[len] = args[2];
        at += len;
    }
    *out = (struct jlist){slices.count, slices.items, false};
    return true;
}

static bool do_slice(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jvalue args[3] = {a->self, a->v[0], jarg_given(a, 1) ? a->v[1] : jnone()};

    return jiter_later(vm, fill_slice, args, 3, out);
}

static bool fill_items(struct jvm *vm, const struct jvalue *args, struct jlist *out)
{
    struct jvalue view;

    *out = (struct jlist){0};
    if (args[0].type == J_UNDEFINED)
        return true;
    if (args[0].type != J_DICT)
        return jvm_fail(vm, JINJA_TYPE, "Can only get item pairs from a mapping.");
    return jview_new(vm, args[0].u.dict, JVIEW_ITEMS, &view) && jiter_list(vm, view, out);
}

static bool do_items(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jiter_later(vm, fill_items, &a->self, 1, out);
}

/* A group as a tuple that also has the names grouper and list. */
static bool push_group(struct jvm *vm, struct jvalue grouper, struct jvalue *items, size_t count,
                       struct jitems *groups)
{
    struct jvalue list, group;

    if (!jlist_of(vm, J_LIST, items, count, &list) || !jpair_new(vm, grouper, list, &group))
        return false;
    group.u.list->group = true;
    return jitems_push(vm, groups, group);
}

static bool do_groupby(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jgetter getter = {0}, plain;
    struct jlist from;
    struct jvalue *keys, *items, grouper;
    struct jitems groups = {0};
    bool same, fold = !jarg_flag(a, 2, false);

    if (!jgetter_init(vm, a->v[0], &getter) || !jiter_list(vm, a->self, &from))
        return false;
    getter.fold = fold;
    if (jarg_some(a, 1))
        getter.otherwise = a->v[1];
    plain = getter;
    plain.fold = false;
    keys = jvm_array(vm, from.count, sizeof *keys);
    items = jvm_array(vm, from.count, sizeof *items);
    for (size_t i = 0; keys && items && i < from.count; i++) {
        items[i] = from.items[i];
        if (!jgetter_get(vm, &getter, items[i], &keys[i]))
            return false;
    }
    if (!keys || !items || !jvalue_sort(vm, keys, items, from.count, false))
        return false;
    for (size_t i = 0, end; i < from.count; i = end) {
        for (end = i + 1, same = true; end < from.count; end++) {
            if (!jvalue_equal(vm, keys[i], keys[end], &same))
                return false;
            if (!same)
                break;
        }
        grouper = keys[i];
        if ((fold && !jgetter_get(vm, &plain, items[i], &grouper)) ||
            !push_group(vm, grouper, items + i, end - i, &groups))
            return false;
    }
    return jlist_of(vm, J_LIST, groups.items, groups.count, out);
}

const struct jbuiltin jfilters_seq[] = {
    {"length", "", do_length},
    {"count", "", do_length},
    {"list", "", do_list},
    {"first", "", do_first},
    {"last", "", do_last},
    {"random", "", do_random},
    {"reverse", "", do_reverse},
    {"sort", "reverse? case_sensitive? attribute?", do_sort},
    {"dictsort", "case_sensitive? by? reverse?", do_dictsort},
    {"min", "case_sensitive? attribute?", do_min},
    {"max", "case_sensitive? attribute?", do_max},
    {"sum", "attribute? start?", do_sum},
    {"unique", "case_sensitive? attribute?", do_unique},
    {"batch", "linecount fill_with?", do_batch},
    {"slice", "slices fill_with?", do_slice},
    {"items", "", do_items},
    {"groupby", "attribute default? case_sensitive?", do_groupby},
    {NULL, NULL, NULL}};
