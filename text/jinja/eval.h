/* SPDX-License-Identifier: Apache-2.0 */
/* Walking the tree: expressions to values, statements to text. The recursion is bounded twice, by the height of
 * the tree (JPARSE_HEIGHT) and by JVM_DEPTH. */
#ifndef TEXT_JINJA_EVAL_H
#define TEXT_JINJA_EVAL_H

#include "jinja/call.h"
#include "jinja/loop.h"
#include "jinja/vm.h"

bool jeval(struct jvm *vm, const struct jnode *n, struct jvalue *out);
enum jflow jexec(struct jvm *vm, const struct jnode *n, struct jbuild *out);
/* Arguments of a filter, test or call node; they follow kid 0. `spare` more keywords fit behind them. */
bool jeval_args(struct jvm *vm, const struct jnode *n, size_t spare, struct jcall *call);
/* Applies the filter node to `subject` (in a filter block its kid is NULL). */
bool jeval_filter(struct jvm *vm, const struct jnode *n, struct jvalue subject, struct jvalue *out);
/* Stores to a name, a namespace attribute or a tuple of them. */
bool jassign(struct jvm *vm, const struct jnode *target, struct jvalue v);

/* Variables. */
struct jvalue *jslot(struct jvm *vm, struct jref ref);
void jscope_enter(struct jvm *vm, const struct jscope *s);
void jscope_leave(struct jvm *vm, const struct jscope *s);
/* A new activation for a run of `f`; NULL after filling the error. */
struct jactivation *jactivation_new(struct jvm *vm, const struct jfunc *f,
                                    struct jactivation *outer);
void jactivation_done(struct jvm *vm, struct jactivation *a);
/* Something that outlives the run holds on to its variables. */
void jactivation_capture(struct jactivation *a);

/* macro.c */
struct jmacro {
    const struct jnode *node; /* JN_MACRO or JN_CALL_BLOCK */
    struct jactivation *outer;
    const struct jstr *name; /* NULL: caller */
    struct jref caller_ref;
};
bool jmacro_new(struct jvm *vm, const struct jnode *n, struct jvalue *out);
bool jmacro_call(struct jvm *vm, const struct jmacro *m, const struct jcall *call,
                 struct jvalue *out);
bool jmacro_attr(struct jvm *vm, const struct jmacro *m, const struct jstr *name,
                 struct jvalue *out, bool *known);
enum jflow jcall_block_exec(struct jvm *vm, const struct jnode *n, struct jbuild *out);
/* A block of the template, rendered to a string. */
bool jblock_call(struct jvm *vm, const struct jnode *block, struct jvalue *out);
enum jflow jblock_exec(struct jvm *vm, const struct jnode *block, struct jbuild *out);

/* attr.c */
/* owner.name and owner[key] with the rules of the sandbox; what is not there is Undefined. */
bool jattr_get(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out);
bool jattr_item(struct jvm *vm, struct jvalue owner, struct jvalue key, struct jvalue *out);
/* The |attr filter: the attribute only. */
bool jattr_only(struct jvm *vm, struct jvalue owner, struct jvalue name, struct jvalue *out);
/* owner[start:stop:step]; J_NONE for a missing part. */
bool jattr_slice(struct jvm *vm, struct jvalue owner, const struct jvalue part[3],
                 struct jvalue *out);
/* What slice(start, stop, step).indices(n) gives, and how many items those are. */
struct jslice {
    int64_t start, stop, step;
    size_t count;
};
bool jslice_indices(struct jvm *vm, const struct jvalue part[3], size_t n, struct jslice *out);

#endif
