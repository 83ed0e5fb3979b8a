/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of list, tuple, dict, range and float that change nothing; the sandbox has hidden the others. */
#include <math.h>

#include "jinja/call.h"
#include "jinja/iter.h"
#include "jinja/vm.h"

static bool box_count(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jlist items;
    bool same;

    if (!jiter_list(vm, a->self, &items))
        return false;
    *out = jint(0);
    for (size_t i = 0; i < items.count; i++) {
        if (!jvm_spend(vm, 1) || !jvalue_equal(vm, items.items[i], a->v[0], &same))
            return false;
        out->u.i += same;
    }
    return true;
}

static bool box_index(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    struct jlist items;
    int64_t from = 0, to = INT64_MAX, n;
    bool same;

    if (!jiter_list(vm, a->self, &items) || !jarg_int(vm, a, 1, &from) || !jarg_int(vm, a, 2, &to))
        return false;
    n = (int64_t)items.count;
    from = from < 0 ? (from + n < 0 ? 0 : from + n) : from;
    to = to < 0 ? to + n : to > n ? n : to;
    for (int64_t i = from; i < to; i++) {
        if (!jvm_spend(vm, 1) || !jvalue_equal(vm, items.items[i], a->v[0], &same))
            return false;
        if (same) {
            *out = jint(i);
            return true;
        }
    }
    return jvm_fail(vm, JINJA_VALUE, "value is not in the %s", jvalue_type(a->self));
}

static bool list_copy(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jlist_of(vm, J_LIST, a->self.u.list->items, a->self.u.list->count, out);
}

static bool dict_get(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    bool found;

    if (!jdict_get(vm, a->self.u.dict, a->v[0], out, &found))
        return false;
    if (!found)
        *out = jarg_given(a, 1) ? a->v[1] : jnone();
    return true;
}

static bool dict_items(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jview_new(vm, a->self.u.dict, JVIEW_ITEMS, out);
}

static bool dict_keys(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jview_new(vm, a->self.u.dict, JVIEW_KEYS, out);
}

static bool dict_values(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jview_new(vm, a->self.u.dict, JVIEW_VALUES, out);
}

/* Dicts never change, so the dict is as good as its copy; only `is sameas` could tell. */
static bool dict_copy(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    (void)vm;
    *out = a->self;
    return true;
}

static bool dict_fromkeys(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    return jmethods_dict_func[0].fn(vm, a, out);
}

static bool float_is_integer(struct jvm *vm, const struct jargs *a, struct jvalue *out)
{
    (void)vm;
    *out = jbool(isfinite(a->self.u.f) && a->self.u.f == floor(a->self.u.f));
    return true;
}

const struct jbuiltin jmethods_list[] = {{"count", ".value", box_count},
                                         {"index", ".value .start? .stop?", box_index},
                                         {"copy", "", list_copy},
                                         {NULL, NULL, NULL}};
const struct jbuiltin jmethods_tuple[] = {{"count", ".value", box_count},
                                          {"index", ".value .start? .stop?", box_index},
                                          {NULL, NULL, NULL}};
const struct jbuiltin jmethods_range[] = {
    {"count", ".value", box_count}, {"index", ".value", box_index}, {NULL, NULL, NULL}};
const struct jbuiltin jmethods_dict[] = {{"get", ".key .default?", dict_get},
                                         {"items", "", dict_items},
                                         {"keys", "", dict_keys},
                                         {"values", "", dict_values},
                                         {"copy", "", dict_copy},
                                         {"fromkeys", ".keys .value?", dict_fromkeys},
                                         {NULL, NULL, NULL}};
const struct jbuiltin jmethods_float[] = {{"is_integer", "", float_is_integer}, {NULL, NULL, NULL}};
