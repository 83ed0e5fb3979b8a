/* SPDX-License-Identifier: Apache-2.0 */
/* The `loop` of a for statement. */
#ifndef TEXT_JINJA_LOOP_H
#define TEXT_JINJA_LOOP_H

#include "jinja/call.h"
#include "jinja/iter.h"
#include "jinja/node.h"

struct jactivation;
struct jbuild;

/* How a statement ended. */
enum jflow { JFLOW_NEXT, JFLOW_BREAK, JFLOW_CONTINUE, JFLOW_FAIL };

struct jloop {
    const struct jnode *node;
    struct jactivation *outer; /* recursive loops: the variables around the loop; else NULL */
    struct jvalue source;      /* what is iterated: asked for its length first */
    struct jiter *it;
    int64_t index0; /* -1 before the first item */
    int64_t depth0;
    size_t length;
    bool length_known;
    bool peeked; /* `after` holds what the iterator gave ahead of time, */
    bool ended;  /* or the iterator has ended */
    struct jvalue after, current, before;
    struct jvalue changed; /* the tuple of the last loop.changed(...) */
};

/* The next item of the loop. */
enum jnext jloop_next(struct jvm *vm, struct jloop *loop, struct jvalue *out);
/* loop.name; *known is false if a LoopContext has no such attribute. */
bool jloop_attr(struct jvm *vm, const struct jvalue *self, const struct jstr *name,
                struct jvalue *out, bool *known);
/* How many items the loop has in all. */
bool jloop_length(struct jvm *vm, struct jloop *loop, struct jvalue *out);
/* Runs a for statement whose activation is current. */
enum jflow jloop_exec(struct jvm *vm, const struct jnode *n, struct jbuild *out);
/* loop(iterable) of a recursive loop. */
bool jloop_call(struct jvm *vm, struct jloop *loop, const struct jcall *call, struct jvalue *out);

#endif
