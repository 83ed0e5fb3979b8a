/* SPDX-License-Identifier: Apache-2.0 */
/* ==, <, in, and sorting, as Python does them. */
#include <math.h>
#include <string.h>

#include "jinja/iter.h"
#include "jinja/value.h"
#include "jinja/vm.h"

/* Three-way, exact: a 64-bit integer and a double are both long doubles. 2 if one is not a number. */
static int number_order(struct jvalue a, struct jvalue b)
{
    long double x, y;

    if (jis_int(a) && jis_int(b))
        return (jint_of(a) > jint_of(b)) - (jint_of(a) < jint_of(b));
    x = a.type == J_FLOAT ? (long double)a.u.f : (long double)jint_of(a);
    y = b.type == J_FLOAT ? (long double)b.u.f : (long double)jint_of(b);
    if (x != x || y != y)
        return 2;
    return (x > y) - (x < y);
}

static bool lists_equal(struct jvm *vm, const struct jlist *a, const struct jlist *b, bool *out)
{
    *out = a->count == b->count;
    for (size_t i = 0; *out && i < a->count; i++) {
        if (!jvm_spend(vm, 1) || !jvalue_equal(vm, a->items[i], b->items[i], out))
            return false;
    }
    return true;
}

static bool dicts_equal(struct jvm *vm, struct jdict *a, struct jdict *b, bool *out)
{
    *out = a->count == b->count;
    for (size_t i = 0; *out && i < a->count; i++) {
        struct jvalue other;
        if (!jvm_spend(vm, 1) || !jdict_get(vm, b, a->pairs[i].key, &other, out))
            return false;
        if (*out && !jvalue_equal(vm, a->pairs[i].value, other, out))
            return false;
    }
    return true;
}

static bool ranges_equal(const struct jrange *a, const struct jrange *b)
{
    return a->count == b->count &&
           (a->count == 0 || (a->start == b->start && (a->count == 1 || a->step == b->step)));
}

/* Whether all items of `a` are in `b`: views of keys and items compare as sets. */
static bool view_within(struct jvm *vm, const struct jview *a, struct jvalue b, bool *out)
{
    *out = a->dict->count <= b.u.view->dict->count;
    for (size_t i = 0; *out && i < a->dict->count; i++) {
        struct jvalue item;
        if (!jvm_spend(vm, 1) || !jview_at(vm, a, i, &item) || !jvalue_in(vm, item, b, out))
            return false;
    }
    return true;
}

static bool views_equal(struct jvm *vm, struct jvalue a, struct jvalue b, bool *out)
{
    const struct jview *x = a.u.view, *y = b.u.view;

    *out = x == y;
    if (*out || x->kind == JVIEW_VALUES || y->kind == JVIEW_VALUES ||
        x->dict->count != y->dict->count)
        return true;
    return view_within(vm, x, b, out);
}

static bool equal_inside(struct jvm *vm, struct jvalue a, struct jvalue b, bool *out)
{
    switch (a.type) {
    case J_NONE:
    case J_UNDEFINED: *out = true; return true;
    case J_STR: *out = jstr_equal(a.u.s, b.u.s); return jvm_spend_bytes(vm, a.u.s->len);
    case J_LIST:
    case J_TUPLE: return lists_equal(vm, a.u.list, b.u.list, out);
    case J_DICT: return dicts_equal(vm, a.u.dict, b.u.dict, out);
    case J_RANGE: *out = ranges_equal(a.u.range, b.u.range); return true;
    case J_VIEW: return views_equal(vm, a, b, out);
    default: *out = jvalue_same(a, b); return true;
    }
}

bool jvalue_equal(struct jvm *vm, struct jvalue a, struct jvalue b, bool *out)
{
    bool ok;

    if (jis_number(a) && jis_number(b)) {
        *out = number_order(a, b) == 0;
        return true;
    }
    *out = false;
    if (a.type != b.type)
        return true;
    if (!jvm_enter(vm))
        return false;
    ok = jvm_spend(vm, 1) && equal_inside(vm, a, b, out);
    jvm_leave(vm);
    return ok;
}

static bool decide(enum jorder op, int c)
{
    switch (op) {
    case JLT: return c == -1;
    case JLE: return c == -1 || c == 0;
    case JGT: return c == 1;
    default: return c == 1 || c == 0;
    }
}

/* By the first pair of items that differ, else by length. */
static bool order_lists(struct jvm *vm, enum jorder op, const struct jlist *a,
                        const struct jlist *b, bool *out)
{
    size_t n = a->count < b->count ? a->count : b->count;

    for (size_t i = 0; i < n; i++) {
        bool same;
        if (!jvm_spend(vm, 1) || !jvalue_equal(vm, a->items[i], b->items[i], &same))
            return false;
        if (!same)
            return jvalue_order(vm, op, a->items[i], b->items[i], out);
    }
    *out = decide(op, (a->count > b->count) - (a->count < b->count));
    return true;
}

bool jvalue_order(struct jvm *vm, enum jorder op, struct jvalue a, struct jvalue b, bool *out)
{
    static const char *const signs[] = {"<", "<=", ">", ">="};
    bool ok;
    int c;

    if (a.type == J_UNDEFINED || b.type == J_UNDEFINED)
        return jundef_fail(vm, a.type == J_UNDEFINED ? a : b);
    if (jis_number(a) && jis_number(b)) {
        *out = decide(op, number_order(a, b));
        return true;
    }
    if (a.type == J_STR && b.type == J_STR) {
        c = jstr_order(a.u.s, b.u.s);
        *out = decide(op, (c > 0) - (c < 0));
        return jvm_spend_bytes(vm, a.u.s->len);
    }
    if (a.type != b.type || (a.type != J_LIST && a.type != J_TUPLE))
        return jvm_fail(vm, JINJA_TYPE, "'%s' not supported between instances of '%s' and '%s'",
                        signs[op], jvalue_type(a), jvalue_type(b));
    if (!jvm_enter(vm))
        return false;
    ok = jvm_spend(vm, 1) && order_lists(vm, op, a.u.list, b.u.list, out);
    jvm_leave(vm);
    return ok;
}

static bool in_range(struct jvalue item, const struct jrange *r)
{
    int64_t i;

    if (item.type == J_FLOAT) {
        if (!(fabs(item.u.f) < 9e18) || item.u.f != floor(item.u.f))
            return false;
        i = (int64_t)item.u.f;
    } else if (jis_int(item)) {
        i = jint_of(item);
    } else {
        return false;
    }
    if (r->count == 0 || (r->step > 0 ? i < r->start : i > r->start))
        return false;
    /* As unsigned numbers the distance cannot overflow. */
    return r->step > 0 ? ((uint64_t)i - (uint64_t)r->start) % (uint64_t)r->step == 0 &&
                             i <= jrange_at(r, r->count - 1)
                       : ((uint64_t)r->start - (uint64_t)i) % (0 - (uint64_t)r->step) == 0 &&
                             i >= jrange_at(r, r->count - 1);
}

static bool in_iterable(struct jvm *vm, struct jvalue item, struct jvalue box, bool *out)
{
    struct jiter *it = jiter_of(vm, box);
    struct jvalue v;
    enum jnext next;

    *out = false;
    while (it && (next = jiter_next(vm, it, &v)) != JNEXT_END) {
        if (next == JNEXT_FAIL || !jvalue_equal(vm, v, item, out))
            return false;
        if (*out)
            return true;
    }
    return it != NULL;
}

bool jvalue_in(struct jvm *vm, struct jvalue item, struct jvalue box, bool *out)
{
    struct jvalue ignored;
    size_t at;

    switch (box.type) {
    case J_STR:
        if (item.type != J_STR)
            return jvm_fail(vm, JINJA_TYPE, "'in <string>' requires string as left operand, not %s",
                            jvalue_type(item));
        if (!jstr_find(vm, box.u.s, 0, box.u.s->len, item.u.s, &at))
            return false;
        *out = at != SIZE_MAX;
        return true;
    case J_DICT: return jdict_get(vm, box.u.dict, item, &ignored, out);
    case J_RANGE: *out = in_range(item, box.u.range); return true;
    case J_VIEW:
        if (box.u.view->kind == JVIEW_KEYS)
            return jdict_get(vm, (struct jdict *)(uintptr_t)box.u.view->dict, item, &ignored, out);
        return in_iterable(vm, item, box, out);
    default:
        if (!jiter_can(box))
            return jvm_fail(vm, JINJA_TYPE, "argument of type '%s' is not iterable",
                            jvalue_type(box));
        return in_iterable(vm, item, box, out);
    }
}

/* Merges the sorted runs [lo, mid) and [mid, hi) of `from` into `to`; both hold indexes into `keys`. */
static bool merge(struct jvm *vm, const struct jvalue *keys, const size_t *from, size_t *to,
                  const size_t bounds[3], bool reverse)
{
    size_t i = bounds[0], j = bounds[1], n = bounds[0];

    while (n < bounds[2]) {
        bool right = i == bounds[1];
        if (!right && j < bounds[2] &&
            !jvalue_order(vm, JLT, keys[from[reverse ? i : j]], keys[from[reverse ? j : i]],
                          &right))
            return false;
        to[n++] = right ? from[j++] : from[i++];
    }
    return jvm_spend(vm, bounds[2] - bounds[0]);
}

static bool permute(struct jvm *vm, struct jvalue *v, const size_t *order, size_t n)
{
    struct jvalue *copy = jvm_array(vm, n, sizeof *copy);

    if (!copy)
        return false;
    memcpy(copy, v, n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = copy[order[i]];
    return true;
}

bool jvalue_sort(struct jvm *vm, struct jvalue *keys, struct jvalue *values, size_t n, bool reverse)
{
    size_t *a = jvm_array(vm, n, sizeof *a), *b = jvm_array(vm, n, sizeof *b), *swap;

    if (!a || !b)
        return false;
    for (size_t i = 0; i < n; i++)
        a[i] = i;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n;
            size_t hi = lo + 2 * width < n ? lo + 2 * width : n;
            if (!merge(vm, keys, a, b, (size_t[]){lo, mid, hi}, reverse))
                return false;
        }
        swap = a;
        a = b;
        b = swap;
    }
    if (n == 0)
        return true;
    return permute(vm, values, a, n) && (keys == values || permute(vm, keys, a, n));
}

bool jdict_sorted(struct jvm *vm, const struct jdict *dict, struct jpair **out)
{
    size_t n = dict->count;
    struct jvalue *keys = jvm_array(vm, n, sizeof *keys), *at = jvm_array(vm, n, sizeof *at);
    struct jpair *pairs = jvm_array(vm, n, sizeof *pairs);

    if (!keys || !at || !pairs)
        return false;
    for (size_t i = 0; i < n; i++) {
        keys[i] = dict->pairs[i].key;
        at[i] = jint((int64_t)i);
    }
    if (!jvalue_sort(vm, keys, at, n, false))
        return false;
    for (size_t i = 0; i < n; i++)
        pairs[i] = dict->pairs[at[i].u.i];
    *out = pairs;
    return true;
}
