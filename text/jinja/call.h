/* SPDX-License-Identifier: Apache-2.0 */
/* Calling things: arguments, and how functions of ours declare theirs. */
#ifndef TEXT_JINJA_CALL_H
#define TEXT_JINJA_CALL_H

#include "jinja/value.h"

struct jkeyword {
    const struct jstr *name;
    struct jvalue value;
};

struct jcall {
    struct jvalue *args;
    size_t count;
    struct jkeyword *keywords;
    size_t keyword_count;
};

#define JARGS 6

struct jargs {
    struct jvalue self;     /* what a method is bound to, what a filter or test is applied to */
    struct jvalue v[JARGS]; /* by parameter; J_MISSING if it was not given */
    const struct jcall *call;
};

typedef bool (*jbuiltin_fn)(struct jvm *vm, const struct jargs *a, struct jvalue *out);

/*
 * A function, method, filter or test. `params` are names between single spaces: "sep? maxsplit?". A question
 * mark makes one optional, a dot in front positional only (".old .new .count?"). "*" alone: any arguments,
 * unbound, in `call`.
 */
struct jbuiltin {
    const char *name;
    const char *params;
    jbuiltin_fn fn;
};

/* Tables end with an entry whose name is NULL. */
const struct jbuiltin *jbuiltin_find(const struct jbuiltin *table, const char *name, size_t len);

/* Binds the arguments and calls. */
bool jbuiltin_call(struct jvm *vm, const struct jbuiltin *f, struct jvalue self,
                   const struct jcall *call, struct jvalue *out);
/* callee(...) for any value. */
bool jcall_value(struct jvm *vm, struct jvalue callee, const struct jcall *call,
                 struct jvalue *out);
/* The environment's filters and tests. NULL if there is none of the name. */
const struct jbuiltin *jfilter_find(const char *name, size_t len);
const struct jbuiltin *jtest_find(const char *name, size_t len);

/* Typed arguments. `i` counts from 0; the name of the function comes from the caller for the message. The
 * value must be given, or the default stands in `*out`. */
bool jarg_int(struct jvm *vm, const struct jargs *a, size_t i, int64_t *out);
bool jarg_str(struct jvm *vm, const struct jargs *a, size_t i, const struct jstr **out);
/* Truth of an argument; `otherwise` if it was not given. */
static inline bool jarg_flag(const struct jargs *a, size_t i, bool otherwise)
{
    return a->v[i].type == J_MISSING ? otherwise : jvalue_truth(a->v[i]);
}
static inline bool jarg_given(const struct jargs *a, size_t i)
{
    return a->v[i].type != J_MISSING;
}
/* Given and not None. */
static inline bool jarg_some(const struct jargs *a, size_t i)
{
    return a->v[i].type != J_MISSING && a->v[i].type != J_NONE;
}

/* str(v) as a string; soft_str keeps a Markup one. */
bool jvalue_str(struct jvm *vm, struct jvalue v, struct jvalue *out);
bool jvalue_soft_str(struct jvm *vm, struct jvalue v, struct jvalue *out);

/* Tables, each in the file of its name. */
extern const struct jbuiltin jfilters_text[], jfilters_seq[], jfilters_pick[], jfilters_num[],
    jfilters_html[];
extern const struct jbuiltin jtests[];
extern const struct jbuiltin jmethods_str[], jmethods_case[], jmethods_search[];
extern const struct jbuiltin jmethods_list[], jmethods_tuple[], jmethods_dict[], jmethods_range[],
    jmethods_loop[], jmethods_cycler[], jmethods_float[], jmethods_dict_func[];
extern const struct jbuiltin jglobals[];

#endif
