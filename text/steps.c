/* SPDX-License-Identifier: Apache-2.0 */
/* Walks Sequences (steps.h) with an explicit stack. Pure function of the tape, any thread. */
#include "steps.h"

#include "textlimits.h"

/* An open Sequence: its next step, and how many are left. */
struct open_list {
    uint32_t at, left;
};

struct walk {
    const struct tape *t;
    const char *part, *list;
    struct open_list stack[LIMIT_STEPS];
    size_t depth, steps;
};

static int32_t open_sequence(struct walk *w, uint32_t node, tn_err *err)
{
    uint32_t items = tape_get(w->t, node, w->list);

    if (!tape_is(w->t, items, TAPE_ARRAY))
        return tape_err(w->t, items == TAPE_NONE ? node : items, w->list, err, "must be a list");
    if (w->depth == LIMIT_STEPS)
        return tape_err(w->t, node, w->part, err, "has Sequences nested too deeply");
    w->stack[w->depth++] = (struct open_list){items + 1, w->t->nodes[items].len};
    return TN_OK;
}

static int32_t visit(struct walk *w, uint32_t node, steps_take take, void *arg, tn_err *err)
{
    uint32_t type = tape_get(w->t, node, "type");

    if (!tape_is(w->t, node, TAPE_OBJECT) || !tape_is(w->t, type, TAPE_STRING))
        return tape_err(w->t, node, w->part, err, "must be an object with a \"type\"");
    if (++w->steps > LIMIT_STEPS)
        return tape_err(w->t, node, w->part, err, "has more than %d steps", LIMIT_STEPS);
    if (tape_eq(w->t, type, "Sequence"))
        return open_sequence(w, node, err);
    return take(arg, w->t, node, type, err);
}

int32_t steps_each(const struct tape *t, uint32_t node, const char *part, const char *list,
                   steps_take take, void *arg, tn_err *err)
{
    struct walk w = {.t = t, .part = part, .list = list, .depth = 0, .steps = 0};
    int32_t rc = TN_OK;

    if (node != TAPE_NONE)
        rc = visit(&w, node, take, arg, err);
    while (rc == TN_OK && w.depth > 0) {
        struct open_list *l = &w.stack[w.depth - 1];
        uint32_t at = l->at;
        if (l->left == 0) {
            w.depth--;
            continue;
        }
        l->left--;
        l->at = t->nodes[at].next;
        rc = visit(&w, at, take, arg, err);
    }
    return rc;
}

int32_t steps_unknown(const struct tape *t, uint32_t type, const char *part, tn_err *err)
{
    size_t len;
    const char *name = tape_str(t, type, &len);

    tape_err(t, type, part, err, "has a step of the type \"%.*s\", which is not known here",
             len < 40 ? (int)len : 40, name);
    if (err)
        err->code = TN_E_UNSUPPORTED;
    return TN_E_UNSUPPORTED;
}
