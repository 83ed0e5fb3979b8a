/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The values of a template and what Python says about them: truth, equality, order, length. Values are small
 * structs passed by copy; what they point to lives in the arena of the render (or, for literals, of the
 * compiled template) and never changes once it can be seen, except namespaces, iterators, loops, cyclers and
 * joiners. The prefix j marks everything that crosses files in this directory.
 */
#ifndef TEXT_JINJA_VALUE_H
#define TEXT_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jvm;
struct jstr;
struct jbuiltin;
struct jmacro;
struct jloop;
struct jiter;
struct map;

enum jtype {
    J_MISSING, /* no value at all: an unset slot, an argument that was not given. Never seen by a template. */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_DICT,
    J_VIEW,  /* dict.keys(), .values(), .items() */
    J_RANGE, /* range(...) */
    J_ITER,  /* generators and reversed(): consumed by use */
    J_FUNC,  /* a global function */
    J_METHOD,
    J_MACRO,
    J_NAMESPACE,
    J_LOOP,
    J_CYCLER,
    J_JOINER,
    J_SELF, /* the blocks of the template */
    J_BLOCK /* one of them, callable */
};

/* Flags of a value. */
#define JF_UNTRUSTED 1 /* it came from the context; strings say it per byte instead */
#define JF_MARKUP 2    /* a str that is a markupsafe.Markup */

struct jvalue {
    uint8_t type;
    uint8_t flags;
    union {
        bool b;
        int64_t i;
        double f;
        const struct jstr *s;
        struct jlist *list; /* J_LIST, J_TUPLE */
        struct jdict *dict; /* J_DICT, J_NAMESPACE */
        const struct jview *view;
        const struct jrange *range;
        const struct jundef *undef;
        struct jiter *iter;
        const struct jbuiltin *func;
        const struct jmethod *method;
        const struct jmacro *macro;
        struct jloop *loop;
        struct jcycler *cycler;
        const struct jnode *block;
    } u;
};

struct jlist {
    size_t count;
    struct jvalue *items;
    bool group; /* a tuple made by groupby: .grouper and .list are its two items */
};

struct jpair {
    struct jvalue key, value;
};

/* In order of insertion. Large dicts index their string keys when the first one is looked up. */
struct jdict {
    size_t count, cap;
    struct jpair *pairs;
    struct map *index;
};

enum jview_kind { JVIEW_KEYS, JVIEW_VALUES, JVIEW_ITEMS };

struct jview {
    const struct jdict *dict;
    enum jview_kind kind;
};

struct jrange {
    int64_t start, stop, step;
    size_t count;
};

struct jundef {
    const char *hint;    /* the message, if it is not made from obj and name */
    struct jvalue owner; /* J_MISSING: `name` is a variable */
    struct jvalue name;
    bool security; /* using it is a breach of the sandbox */
};

struct jmethod {
    struct jvalue self;
    const struct jbuiltin *func;
};

struct jcycler { /* J_CYCLER and, with items.items[0] as separator and at as "used", J_JOINER */
    struct jlist items;
    size_t at;
};

static inline struct jvalue jnone(void)
{
    return (struct jvalue){.type = J_NONE};
}

static inline struct jvalue jbool(bool b)
{
    return (struct jvalue){.type = J_BOOL, .u.b = b};
}

static inline struct jvalue jint(int64_t i)
{
    return (struct jvalue){.type = J_INT, .u.i = i};
}

static inline struct jvalue jfloat(double f)
{
    return (struct jvalue){.type = J_FLOAT, .u.f = f};
}

/* bool is a kind of int, as in Python. */
static inline bool jis_int(struct jvalue v)
{
    return v.type == J_INT || v.type == J_BOOL;
}

static inline bool jis_number(struct jvalue v)
{
    return jis_int(v) || v.type == J_FLOAT;
}

static inline int64_t jint_of(struct jvalue v)
{
    return v.type == J_BOOL ? v.u.b : v.u.i;
}

static inline double jfloat_of(struct jvalue v)
{
    return v.type == J_FLOAT ? v.u.f : (double)jint_of(v);
}

/* Constructors that allocate return false after filling the error, as all functions here that take the vm
 * and return bool. */
bool jlist_new(struct jvm *vm, enum jtype type, size_t count, struct jvalue *out);
/* The list or tuple over `items`, which the arena already owns. */
bool jlist_of(struct jvm *vm, enum jtype type, struct jvalue *items, size_t count,
              struct jvalue *out);
bool jpair_new(struct jvm *vm, struct jvalue a, struct jvalue b, struct jvalue *out); /* a tuple */

/* A list that grows. */
struct jitems {
    struct jvalue *items;
    size_t count, cap;
};
bool jitems_push(struct jvm *vm, struct jitems *l, struct jvalue v);

bool jdict_new(struct jvm *vm, size_t room, struct jvalue *out);
/* Adds or replaces. An unhashable key is a TypeError. */
bool jdict_set(struct jvm *vm, struct jdict *d, struct jvalue key, struct jvalue value);
/* Appends a pair whose key is known to be new and hashable. */
bool jdict_append(struct jvm *vm, struct jdict *d, struct jvalue key, struct jvalue value);
/* *found tells; an unhashable key is a TypeError. */
bool jdict_get(struct jvm *vm, struct jdict *d, struct jvalue key, struct jvalue *out, bool *found);
/* By a string of `len` bytes; cannot fail. */
bool jdict_get_str(struct jvm *vm, struct jdict *d, const char *key, size_t len,
                   struct jvalue *out);

/* An Undefined for `owner` without item or attribute `name`; J_MISSING owner: a variable. */
bool jundef_new(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out);
/* With a message of its own. `hint` lives as long as the render. */
bool jundef_hint(struct jvm *vm, const char *hint, struct jvalue *out);
/* The Undefined that the sandbox gives for a forbidden attribute. */
bool jundef_unsafe(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out);
/* Raises what any operation on the undefined value raises; false. */
bool jundef_fail(struct jvm *vm, struct jvalue v);

bool jview_new(struct jvm *vm, const struct jdict *d, enum jview_kind kind, struct jvalue *out);
/* Item i of a view, in order. */
bool jview_at(struct jvm *vm, const struct jview *view, size_t i, struct jvalue *out);
static inline int64_t jrange_at(const struct jrange *r, size_t i)
{
    return r->start + (int64_t)i * r->step;
}

bool jvalue_truth(struct jvalue v);
/* The name of its Python type, for messages. */
const char *jvalue_type(struct jvalue v);
/* len(v): false without touching the error if the type has none. */
bool jvalue_len(struct jvalue v, size_t *out);
/* Whether v can be the key of a dict. */
bool jvalue_hashable(struct jvm *vm, struct jvalue v, bool *yes);
/* a == b. */
bool jvalue_equal(struct jvm *vm, struct jvalue a, struct jvalue b, bool *out);

enum jorder { JLT, JLE, JGT, JGE };
/* a < b and its kin; TypeError where Python has one. */
bool jvalue_order(struct jvm *vm, enum jorder op, struct jvalue a, struct jvalue b, bool *out);
/* item in box */
bool jvalue_in(struct jvm *vm, struct jvalue item, struct jvalue box, bool *out);
/* `is`: as good as identity can be for values that are copied. */
bool jvalue_same(struct jvalue a, struct jvalue b);

/* Stable sort of `n` values by their keys; `keys` may be `values`. Both arrays are permuted. */
bool jvalue_sort(struct jvm *vm, struct jvalue *keys, struct jvalue *values, size_t n,
                 bool reverse);
/* The pairs of a dict, copied, in the order of their keys. */
bool jdict_sorted(struct jvm *vm, const struct jdict *dict, struct jpair **out);

#endif
