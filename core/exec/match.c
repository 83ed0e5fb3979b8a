/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subgraph matching by backtracking over the pattern's statements. Patterns have at most TN_OP_MAX_MEMBERS statements and are
 * anchored at their first, and candidates lie in one layer or two, so the search stays small.
 */
#include "exec/match.h"

#include <assert.h>

#include "base/mem.h"
#include "tenon/ops.h"

struct search {
    const struct graph *g;
    const struct pattern *p;
    const tn_value *bound[PATTERN_MAX_NAMES]; /* value that a name stands for; NULL: free */
    size_t members[TN_OP_MAX_MEMBERS];
    size_t first, end; /* where members may lie: [first, end) */
    uint64_t budget;   /* candidates that may still be tried */
};

static bool is_member(const struct search *s, uint32_t n, size_t op)
{
    for (uint32_t i = 0; i < n; i++)
        if (s->members[i] == op)
            return true;
    return false;
}

/* Binds the names of statement `k` to the values of graph op `i`; false if they contradict. */
static bool bind_step(struct search *s, uint32_t k, size_t i)
{
    const struct pattern_step *step = &s->p->steps[k];
    const struct graph_op *go = s->g->ops[i];

    if (strcmp(go->op.name, step->op) != 0 || go->op.n_in != step->n_in ||
        go->op.n_out != step->n_out || is_member(s, k, i))
        return false;
    for (uint32_t j = 0; j < step->n_in; j++) {
        const tn_value **b = &s->bound[step->in[j]];
        if (*b && *b != go->op.in[j])
            return false;
        *b = go->op.in[j];
    }
    for (uint32_t j = 0; j < step->n_out; j++)
        s->bound[step->out[j]] = go->op.out[j];
    s->members[k] = i;
    return true;
}

static bool is_output(const struct pattern *p, uint32_t name)
{
    for (uint32_t i = 0; i < p->n_out; i++)
        if (p->out[i] == name)
            return true;
    return false;
}

static bool reads(const struct graph_op *go, const tn_value *v)
{
    for (uint32_t j = 0; j < go->op.n_in; j++)
        if (go->op.in[j] == v)
            return true;
    return false;
}

/* The fused op stands where the last member stood. So nothing outside may read a member's value before that, and
 * what is not an output may be read by members only. */
static bool is_closed(const struct search *s)
{
    size_t last = 0;

    for (uint32_t k = 0; k < s->p->n_steps; k++)
        last = s->members[k] > last ? s->members[k] : last;
    for (uint32_t k = 0; k < s->p->n_steps; k++) {
        const struct pattern_step *step = &s->p->steps[k];
        for (uint32_t j = 0; j < step->n_out; j++) {
            const tn_value *v = s->bound[step->out[j]];
            bool output = is_output(s->p, step->out[j]);
            if (!output && graph_exports(s->g, v->id))
                return false;
            for (size_t i = s->members[k] + 1; i < s->g->n_ops; i++) {
                if (!reads(s->g->ops[i], v) || is_member(s, s->p->n_steps, i))
                    continue;
                /* A reader that is itself fused runs later still, so its own index is the bound. */
                if (!output || i < last)
                    return false;
            }
        }
    }
    return true;
}

/* Tries statements k.. in turn; the anchor is bound. Recursion is bounded by TN_OP_MAX_MEMBERS. */
static bool search(struct search *s, uint32_t k)
{
    const tn_value *saved[PATTERN_MAX_NAMES];

    if (k == s->p->n_steps)
        return is_closed(s);
    memcpy(saved, s->bound, sizeof saved);
    for (size_t i = s->first; i < s->end && s->budget > 0; i++) {
        s->budget--;
        if (bind_step(s, k, i) && search(s, k + 1))
            return true;
        memcpy(s->bound, saved, sizeof saved);
    }
    return false;
}

bool match_at(const struct graph *g, const struct pattern *pattern, size_t anchor,
              struct match *out)
{
    struct search s = {.g = g, .p = pattern, .first = anchor, .end = anchor, .budget = 10000};
    int32_t layer = g->ops[anchor]->op.layer;

    while (s.first > 0 && g->ops[s.first - 1]->op.layer == layer)
        s.first--;
    while (s.end < g->n_ops && g->ops[s.end]->op.layer == layer)
        s.end++;
    /* What ends a layer may be fused with the norm that the next one begins with, and with what follows it. */
    for (size_t next = s.end;
         s.end < g->n_ops && g->ops[s.end]->op.layer == g->ops[next]->op.layer;)
        s.end++;
    if (!bind_step(&s, 0, anchor) || !search(&s, 1))
        return false;
    *out = (struct match){0};
    memcpy(out->members, s.members, sizeof s.members);
    for (uint32_t k = 0; k < pattern->n_steps; k++)
        out->at = s.members[k] > out->at ? s.members[k] : out->at;
    return true;
}

/* -- Making the fused op ---------------------------------------------------------------------------- */

/* The value that a name of the pattern stands for in this match. */
static const tn_value *value_of(const struct graph *g, const struct pattern *p,
                                const struct match *m, uint8_t name)
{
    for (uint32_t k = 0; k < p->n_steps; k++) {
        const tn_op *op = &g->ops[m->members[k]]->op;
        for (uint32_t j = 0; j < op->n_in; j++)
            if (p->steps[k].in[j] == name)
                return op->in[j];
        for (uint32_t j = 0; j < op->n_out; j++)
            if (p->steps[k].out[j] == name)
                return op->out[j];
    }
    assert(0 && "the parser lets no name pass that stands in no statement");
    return NULL;
}

static const tn_value *const *values_of(struct graph *g, const struct pattern *p,
                                        const struct match *m, const uint8_t *names, uint32_t n)
{
    const tn_value **list = arena_array(&g->arena, n, sizeof *list);

    for (uint32_t i = 0; list && i < n; i++)
        list[i] = value_of(g, p, m, names[i]);
    return list;
}

int32_t match_fuse(struct graph *g, const struct pattern *p, const char *name, struct match *m,
                   tn_err *err)
{
    struct graph_op *f = arena_alloc(&g->arena, sizeof *f);
    const tn_op **members = arena_array(&g->arena, p->n_steps, sizeof *members);
    const tn_weight **weights;
    uint32_t *ids, n = 0;

    if (!f || !members)
        return err_nomem(err, "fusing ops");
    for (uint32_t k = 0; k < p->n_steps; k++)
        n += g->ops[m->members[k]]->op.n_weights;
    weights = arena_array(&g->arena, n, sizeof *weights);
    ids = arena_array(&g->arena, n, sizeof *ids);
    if (!weights || !ids)
        return err_nomem(err, "fusing ops");
    n = 0;
    for (uint32_t k = 0; k < p->n_steps; k++) {
        const struct graph_op *go = g->ops[m->members[k]];
        members[k] = &go->op;
        for (uint32_t j = 0; j < go->op.n_weights; j++, n++) {
            weights[n] = go->op.weights[j];
            ids[n] = go->weight_ids[j];
        }
    }
    *f = (struct graph_op){.op = {.h = TN_HDR(tn_op),
                                  .name = name,
                                  .layer = members[0]->layer,
                                  .n_in = p->n_in,
                                  .n_out = p->n_out,
                                  .n_weights = n,
                                  .n_members = p->n_steps,
                                  .in = values_of(g, p, m, p->in, p->n_in),
                                  .out = values_of(g, p, m, p->out, p->n_out),
                                  .weights = weights,
                                  .members = members},
                           .plan_index = g->ops[m->members[0]]->plan_index,
                           .weight_ids = ids};
    if (!f->op.in || !f->op.out)
        return err_nomem(err, "fusing ops");
    m->fused = f;
    return TN_OK;
}
