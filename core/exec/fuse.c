/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing fusions. Those that serve all rows come first, by what they save against the ops that they replace. Then those
 * that serve few rows only, first the ones that serve most of them, of these the ones that replace least: each is held
 * against what runs at its place in steps of so many rows by then, and takes its turn there. Who does not pay beyond the
 * rows that another one took from him is left out, and all is chosen again.
 */
#include <float.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "exec/match.h"
#include "exec/selecting.h"

#define ROUNDS 8 /* of choosing again: each leaves out all that did not pay, so two are common */
#define SAMPLES                                                                                    \
    33 /* numbers of rows at which costs are compared, at most: powers of two and the end */

struct fusion {
    struct match match;
    struct selected sel;
    const struct candidate *candidate;
    uint32_t rows;         /* that it serves; SELECT_ALL_ROWS: as many as a step can have */
    bool forced;           /* it is taken whatever it costs */
    double saves[SAMPLES]; /* nanoseconds per row, against what it replaces, by number of rows */
    double gain;           /* their sum against its members by themselves */
    bool barred;           /* known not to pay */
    /* In the round at hand. */
    bool taken;
    struct fusion *winner; /* NULL: it lost against no other */
    const char *reason;    /* why it is not taken; NULL: nothing worth telling */
};

struct fusions {
    struct fusion *list;
    size_t n, cap;
    struct fusion *
        *owner; /* per op of the graph: who does its work in the steps that are looked at */
};

static bool has_member(const struct fusion *x, size_t op)
{
    for (uint32_t i = 0; i < x->candidate->pattern->n_steps; i++)
        if (x->match.members[i] == op)
            return true;
    return false;
}

/* -- What a fusion saves ------------------------------------------------------------------------------ */

static double cost_of(const struct selecting *z, const struct selected *s, uint32_t above,
                      uint32_t served)
{
    return select_cost(&s->choice, s->op, judge_max_rows(z->o, s->op), above, served);
}

/* What runs in place of `x`, in steps of more than `above` and up to `served` rows. An owner that `x` takes a member from
 * leaves its other members to themselves. */
static double replaced_cost(const struct selecting *z, const struct selected *basic,
                            const struct fusions *f, const struct fusion *x, uint32_t above,
                            uint32_t served)
{
    double sum = 0;

    for (uint32_t k = 0; k < x->candidate->pattern->n_steps; k++) {
        size_t m = x->match.members[k];
        const struct fusion *y = f->owner[m];
        bool seen = false;
        if (!y) {
            sum += cost_of(z, &basic[m], above, served);
            continue;
        }
        for (uint32_t i = 0; i < k; i++)
            seen = seen || f->owner[x->match.members[i]] == y;
        if (seen)
            continue;
        sum += cost_of(z, &y->sel, above, served);
        for (uint32_t i = 0; i < y->candidate->pattern->n_steps; i++)
            if (!has_member(x, y->match.members[i]))
                sum -= cost_of(z, &basic[y->match.members[i]], above, served);
    }
    return sum;
}

/* Fills `saves` for who runs now; returns their sum. */
static double count_savings(const struct selecting *z, const struct selected *basic,
                            const struct fusions *f, struct fusion *x)
{
    uint32_t served = choice_rows(&x->sel.choice), at = 0;
    double sum = 0;

    for (uint64_t rows = 1;; rows *= 2, at++) {
        uint32_t end = rows < served ? (uint32_t)rows : served;
        x->saves[at] =
            replaced_cost(z, basic, f, x, end - 1, end) - cost_of(z, &x->sel, end - 1, end);
        sum += x->saves[at];
        if (rows >= served)
            return sum;
    }
}

/* Whether it saves something in the steps that are left to it. */
static bool pays(const struct fusion *x)
{
    uint32_t served = choice_rows(&x->sel.choice), at = 0;
    double sum = 0;

    if (x->forced || x->sel.n_turns < 2)
        return true;
    for (uint64_t rows = 1; rows < served; rows *= 2, at++)
        if (rows > x->sel.turns[1])
            sum += x->saves[at];
    return sum + x->saves[at] >= 0;
}

/* -- Finding ------------------------------------------------------------------------------------------ */

/* Notes at `sel` why the variants of a fusion were not taken: each for its own reason, or, if it has none, for `reason`. */
static int32_t note_fusion(struct selecting *z, struct selected *sel, const struct fusion *x,
                           const char *reason)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; i < z->s->n_candidates && rc == TN_OK; i++) {
        const struct candidate *c = &z->s->candidates[i];
        const struct verdict *own = x->sel.losers;
        if (!select_same_fusion(c, x->candidate))
            continue;
        while (own && own->candidate != c)
            own = own->next;
        if (own || reason)
            rc = select_note(z, sel, c, own ? own->reason : reason);
    }
    return rc;
}

/* Tries one fusion at one place. A loss is noted at the op where the fusion would have begun. */
static int32_t try_fusion(struct selecting *z, const struct candidate *c, size_t at,
                          struct selected *basic, struct fusions *f)
{
    struct fusion x = {.candidate = c};
    char reason[SELECT_REASON];
    bool found = false;
    int32_t rc;

    if (!match_at(z->g, c->pattern, at, &x.match))
        return TN_OK;
    rc = match_fuse(z->g, c->pattern, c->v->op, &x.match, z->err);
    if (rc != TN_OK)
        return rc;
    x.sel.op = x.match.fused;
    rc = select_op(z, &x.sel, c, &found);
    if (rc != TN_OK)
        return rc;
    if (!found)
        return note_fusion(z, &basic[at], &x, NULL);
    /* Of ranks that add up together none may count on times of its own. */
    x.forced = select_pin(z, c->v->op) || (c->v->flags & TN_VARIANT_PARTS);
    x.rows = choice_rows(&x.sel.choice);
    x.rows = x.rows < judge_max_rows(z->o, x.sel.op) ? x.rows : SELECT_ALL_ROWS;
    x.gain = count_savings(z, basic, f, &x);
    if (x.rows == SELECT_ALL_ROWS && !x.forced && x.gain <= 0) {
        snprintf(reason, sizeof reason, "fusing is estimated to cost %.0f ns per row more",
                 -x.gain);
        return note_fusion(z, &basic[at], &x, reason);
    }
    if (!mem_grow(&f->list, &f->cap, f->n + 1, sizeof *f->list))
        return err_nomem(z->err, "fusing ops");
    f->list[f->n++] = x;
    return TN_OK;
}

/* As they are tried: see above. */
static int by_turn(const void *a, const void *b)
{
    const struct fusion *x = a, *y = b;
    uint32_t m = x->candidate->pattern->n_steps, n = y->candidate->pattern->n_steps;

    if (x->rows != y->rows)
        return x->rows > y->rows ? -1 : 1;
    if (x->forced != y->forced)
        return x->forced ? -1 : 1;
    if (x->rows != SELECT_ALL_ROWS && m != n)
        return m < n ? -1 : 1;
    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    return x->match.at < y->match.at ? -1 : x->match.at > y->match.at;
}

/* The first of the variants that share a fusion stands for them all. */
static bool leads_fusion(const struct selecting *z, const struct candidate *c)
{
    const struct candidate *first = z->s->candidates;

    if (!c->pattern || c->excluded)
        return false;
    while (first->excluded || !select_same_fusion(first, c))
        first++;
    return first == c;
}

static int32_t find_fusions(struct selecting *z, struct selected *basic, struct fusions *f)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; i < z->s->n_candidates && rc == TN_OK; i++) {
        const struct candidate *c = &z->s->candidates[i];
        if (!leads_fusion(z, c))
            continue;
        for (size_t k = 0; k < z->g->n_ops && rc == TN_OK; k++)
            if (strcmp(z->g->ops[k]->op.name, c->pattern->steps[0].op) == 0)
                rc = try_fusion(z, c, k, basic, f);
    }
    if (f->n > 1)
        qsort(f->list, f->n, sizeof *f->list, by_turn);
    return rc;
}

/* -- Taking ------------------------------------------------------------------------------------------- */

static int32_t lose(struct selecting *z, struct fusion *x, struct fusion *winner,
                    const char *reason)
{
    x->winner = winner;
    x->reason = arena_strdup(&z->s->arena, reason);
    return x->reason ? TN_OK : err_nomem(z->err, "choosing kernels");
}

/* In steps of up to `rows` rows, the members of `y` run by themselves from now on. */
static int32_t dissolve(struct selecting *z, struct selected *basic, struct fusions *f,
                        struct fusion *y, struct fusion *by)
{
    char reason[SELECT_REASON];

    for (uint32_t k = 0; k < y->candidate->pattern->n_steps; k++) {
        f->owner[y->match.members[k]] = NULL;
        selected_turn(&basic[y->match.members[k]], by->rows);
    }
    selected_turn(&y->sel, by->rows);
    if (y->sel.n_turns > 0)
        return TN_OK;
    y->taken = false;
    snprintf(reason, sizeof reason, "%s/%s costs less than it and the ops beside it",
             by->candidate->source->plugin, by->candidate->v->name);
    return lose(z, y, by, reason);
}

static int32_t take(struct selecting *z, struct selected *basic, struct fusions *f,
                    struct fusion *x)
{
    int32_t rc = TN_OK;

    for (uint32_t k = 0; k < x->candidate->pattern->n_steps && rc == TN_OK; k++) {
        size_t m = x->match.members[k];
        if (f->owner[m])
            rc = dissolve(z, basic, f, f->owner[m], x);
    }
    for (uint32_t k = 0; k < x->candidate->pattern->n_steps; k++) {
        f->owner[x->match.members[k]] = x;
        selected_turn(&basic[x->match.members[k]], x->rows);
    }
    selected_turn(&x->sel, x->rows);
    x->taken = true;
    return rc;
}

static bool packs(const struct selected *s)
{
    return s->op->op.n_weights > 0 && s->choice.ranges[0].candidate->v->pack_layout;
}

/* Whether weights that are packed for some steps would be wanted in another form for others, if `x`, which is for few
 * rows, took turns with what runs now. */
static bool keeps_weights_twice(const struct selected *basic, const struct fusions *f,
                                const struct fusion *x)
{
    bool twice = packs(&x->sel);

    for (uint32_t k = 0; k < x->candidate->pattern->n_steps; k++) {
        size_t m = x->match.members[k];
        const struct fusion *y = f->owner[m];
        if (!y) {
            twice = twice || packs(&basic[m]);
            continue;
        }
        twice = twice || packs(&y->sel);
        for (uint32_t i = 0; i < y->candidate->pattern->n_steps; i++)
            if (!has_member(x, y->match.members[i]))
                twice = twice || packs(&basic[y->match.members[i]]);
    }
    return twice;
}

/* The first owner of a member; NULL: all run by themselves. */
static struct fusion *owner_of(const struct fusions *f, const struct fusion *x)
{
    for (uint32_t k = 0; k < x->candidate->pattern->n_steps; k++)
        if (f->owner[x->match.members[k]])
            return f->owner[x->match.members[k]];
    return NULL;
}

static bool has_pinned_member(const struct selecting *z, const struct fusion *x)
{
    for (uint32_t k = 0; k < x->candidate->pattern->n_steps; k++)
        if (select_pin(z, z->g->ops[x->match.members[k]]->op.name))
            return true;
    return false;
}

/* One that serves all rows: who comes first has what it wants. */
static int32_t consider_whole(struct selecting *z, struct selected *basic, struct fusions *f,
                              struct fusion *x)
{
    struct fusion *y = owner_of(f, x);
    char reason[SELECT_REASON];

    if (!y)
        return take(z, basic, f, x);
    if (y->candidate == x->candidate)
        return TN_OK; /* the same fusion with its members in another order */
    snprintf(reason, sizeof reason, "saves %.0f ns per row, %s/%s saves %.0f ns", x->gain,
             y->candidate->source->plugin, y->candidate->v->name, y->gain);
    return lose(z, x, y, reason);
}

static int32_t consider_partial(struct selecting *z, struct selected *basic, struct fusions *f,
                                struct fusion *x)
{
    struct fusion *y = owner_of(f, x);
    char reason[SELECT_REASON];
    double saved = count_savings(z, basic, f, x);

    for (uint32_t k = 0; k < x->candidate->pattern->n_steps; k++) {
        struct fusion *other = f->owner[x->match.members[k]];
        if (other && other->candidate == x->candidate)
            return TN_OK;
        if (other && other->forced)
            return lose(z, x, other, "another fusion of the same ops goes before all");
    }
    if (keeps_weights_twice(basic, f, x)) {
        snprintf(reason, sizeof reason,
                 "serves up to %" PRIu32 " rows; with more, weights would have to be kept twice",
                 x->rows);
        return lose(z, x, y, reason);
    }
    if (saved > 0 || x->forced)
        return take(z, basic, f, x);
    snprintf(reason, sizeof reason,
             "for up to %" PRIu32
             " rows, fusing is estimated to cost %.0f ns per row more than what runs there else",
             x->rows, -saved);
    return lose(z, x, y, reason);
}

/* One round. */
static int32_t take_fusions(struct selecting *z, struct selected *basic, struct fusions *f)
{
    uint32_t rows = SELECT_ALL_ROWS, turns = 1; /* at which those who were taken last end */
    int32_t rc = TN_OK;

    for (size_t i = 0; i < f->n && rc == TN_OK; i++) {
        struct fusion *x = &f->list[i];
        if (x->barred || has_pinned_member(z, x))
            continue;
        if (x->rows == SELECT_ALL_ROWS)
            rc = consider_whole(z, basic, f, x);
        else if (x->rows == rows || turns < SELECT_MAX_TURNS)
            rc = consider_partial(z, basic, f, x);
        else
            rc = lose(z, x, NULL, "too many fusions take turns at other numbers of rows already");
        turns += x->taken && x->rows != rows;
        rows = x->taken ? x->rows : rows;
    }
    return rc;
}

static void begin_round(const struct selecting *z, struct selected *basic, struct fusions *f)
{
    for (size_t i = 0; i < z->g->n_ops; i++) {
        f->owner[i] = NULL;
        basic[i].n_turns = 0;
        selected_turn(&basic[i], SELECT_ALL_ROWS);
    }
    for (size_t i = 0; i < f->n; i++) {
        struct fusion *x = &f->list[i];
        x->taken = false;
        x->sel.n_turns = 0;
        x->winner = NULL;
        x->reason = x->barred ? x->reason : NULL;
    }
}

/* Bars those who do not pay; false if all do. */
static int32_t bar(struct selecting *z, struct fusions *f, bool *any)
{
    char reason[SELECT_REASON];
    int32_t rc = TN_OK;

    *any = false;
    for (size_t i = 0; i < f->n && rc == TN_OK; i++) {
        struct fusion *x = &f->list[i];
        if (!x->taken || pays(x))
            continue;
        x->barred = *any = true;
        snprintf(reason, sizeof reason,
                 "saves nothing beyond %" PRIu32 " rows, up to which another fusion serves",
                 x->sel.turns[1]);
        rc = lose(z, x, NULL, reason);
    }
    return rc;
}

/* -- All ---------------------------------------------------------------------------------------------- */

/* Moves the verdicts on fused variants from the op where the fusion begins to the fused op. */
static void inherit_losers(struct selected *basic, struct selected *sel)
{
    struct verdict **from = &basic->losers, **tail = &sel->losers;

    while (*tail)
        tail = &(*tail)->next;
    while (*from) {
        struct verdict *v = *from;
        if (!v->candidate->pattern) {
            from = &v->next;
            continue;
        }
        *from = v->next;
        v->next = NULL;
        *tail = v;
        tail = &v->next;
    }
}

/* Tells each loser's reason once: where the winner is told of, or the op with which it would have begun. */
static int32_t note_losers(struct selecting *z, struct selected *basic, struct fusions *f)
{
    int32_t rc = TN_OK;

    for (size_t i = 0; i < f->n; i++)
        if (f->list[i].taken)
            inherit_losers(&basic[f->list[i].match.members[0]], &f->list[i].sel);
    for (size_t i = 0; i < f->n && rc == TN_OK; i++) {
        const struct fusion *x = &f->list[i];
        struct fusion *w = x->winner;
        while (w && !w->taken)
            w = w->winner; /* who was replaced himself, later */
        if (!x->taken && x->reason)
            rc = note_fusion(z, w ? &w->sel : &basic[x->match.members[0]], x, x->reason);
    }
    return rc;
}

/* A fused op runs in place of its last member. */
static int32_t list_all(struct selecting *z, const struct selected *basic, const struct fusions *f)
{
    struct selection *s = z->s;

    s->ops = arena_array(&s->arena, z->g->n_ops + f->n, sizeof *s->ops);
    s->n_ops = 0;
    if (!s->ops)
        return err_nomem(z->err, "choosing kernels");
    for (size_t i = 0; i < z->g->n_ops; i++) {
        if (basic[i].n_turns > 0)
            s->ops[s->n_ops++] = basic[i];
        for (size_t k = 0; k < f->n; k++)
            if (f->list[k].taken && f->list[k].match.at == i)
                s->ops[s->n_ops++] = f->list[k].sel;
    }
    return TN_OK;
}

int32_t select_fused(struct selecting *z, struct selected *basic)
{
    struct fusions f = {.owner = mem_zarray(z->g->n_ops, sizeof *f.owner)};
    bool again = z->o->fusion;
    int32_t rc = f.owner ? TN_OK : err_nomem(z->err, "fusing ops");

    if (rc == TN_OK && z->o->fusion)
        rc = find_fusions(z, basic, &f);
    for (uint32_t i = 0; i < ROUNDS && rc == TN_OK && again; i++) {
        begin_round(z, basic, &f);
        rc = take_fusions(z, basic, &f);
        if (rc == TN_OK && i + 1 < ROUNDS)
            rc = bar(z, &f, &again);
    }
    if (rc == TN_OK)
        rc = note_losers(z, basic, &f);
    if (rc == TN_OK)
        rc = list_all(z, basic, &f);
    mem_free(f.list);
    mem_free(f.owner);
    return rc;
}
