/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/select.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "exec/judge.h"
#include "exec/selecting.h"
#include "tenon/ops.h"

/* A candidate that can run the op at hand. */
struct able {
    const struct candidate *c;
    uint32_t rows[2];
};

#define MAX_ABLE 256
/* What a kernel that does not overlap with its neighbours makes them lose, by whole steps on an H200 that took cuBLASLt's products
 * of one row, a little faster alone, in the place of ones that overlap. */
#define GAP_NS 2500

/* -- Candidates -------------------------------------------------------------------------------------- */

/* What comm_launch_parts goes by. */
static bool begins_with_sum(const struct candidate *c)
{
    const struct pattern *p = c->pattern;

    return p && p->n_in > 0 && strcmp(p->steps[0].op, TN_OP_ALL_REDUCE) == 0 &&
           p->steps[0].in[0] == p->in[0];
}

static int32_t parse_pattern(struct selecting *z, struct candidate *c)
{
    tn_err why = TN_ERR_INIT;

    if (!c->v->equals)
        return TN_OK;
    c->pattern = arena_alloc(&z->s->arena, sizeof *c->pattern);
    if (!c->pattern)
        return err_nomem(z->err, "choosing kernels");
    if (pattern_parse(c->v->equals, c->pattern, &why) == TN_OK)
        return TN_OK;
    c->excluded = arena_strdup(&z->s->arena, why.msg);
    return c->excluded ? TN_OK : err_nomem(z->err, "choosing kernels");
}

static int32_t list_candidates(struct selecting *z)
{
    struct selection *s = z->s;
    size_t n = 0;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < z->o->n_sources; i++)
        n += z->o->sources[i].set->n_variants;
    s->candidates = arena_array(&s->arena, n, sizeof *s->candidates);
    if (!s->candidates)
        return err_nomem(z->err, "choosing kernels");
    for (uint32_t i = 0; i < z->o->n_sources && rc == TN_OK; i++) {
        const struct kernel_source *src = &z->o->sources[i];
        for (uint32_t k = 0; k < src->set->n_variants && rc == TN_OK; k++) {
            struct candidate *c = &s->candidates[s->n_candidates++];
            *c = (struct candidate){
                .source = src, .v = src->set->variants[k], .tuning = z->o->tuning};
            if ((z->o->device->flags & TN_DEVICE_STREAMS) && !(c->v->flags & TN_VARIANT_EARLY))
                c->gap_ns = GAP_NS;
            c->excluded = judge_device(z->o, src->set, c->v);
            rc = parse_pattern(z, c);
            if ((c->v->flags & TN_VARIANT_PARTS) && !c->excluded && !begins_with_sum(c))
                c->excluded = "adds up over ranks, but does not begin with all_reduce of its first "
                              "input";
        }
    }
    return rc;
}

static bool names_candidate(const char *variant, const struct candidate *c)
{
    size_t n = strlen(c->source->plugin);

    return strncmp(variant, c->source->plugin, n) == 0 && variant[n] == '/' &&
           strcmp(variant + n + 1, c->v->name) == 0;
}

const struct pin *select_pin(const struct selecting *z, const char *op)
{
    for (uint32_t i = 0; i < z->o->n_pins; i++)
        if (strcmp(z->o->pins[i].op, op) == 0)
            return &z->o->pins[i];
    return NULL;
}

/* -- Reasons ------------------------------------------------------------------------------------------- */

int32_t select_note(struct selecting *z, struct selected *sel, const struct candidate *c,
                    const char *reason)
{
    struct verdict *v = arena_alloc(&z->s->arena, sizeof *v), **tail = &sel->losers;

    if (!v || !(v->reason = arena_strdup(&z->s->arena, reason)))
        return err_nomem(z->err, "choosing kernels");
    v->candidate = c;
    while (*tail)
        tail = &(*tail)->next;
    *tail = v;
    return TN_OK;
}

/* -- One op --------------------------------------------------------------------------------------------- */

/* Row counts at which costs are compared: each power of two, and the ends of the candidates' ranges. */
static uint32_t row_buckets(const struct able *able, uint32_t n, uint32_t max_rows,
                            uint32_t ends[CHOICE_MAX_RANGES])
{
    uint32_t count = 0, end = 0;

    while (end < max_rows && count < CHOICE_MAX_RANGES) {
        uint32_t next = 1;
        while (next <= end)
            next *= 2;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t before = able[i].rows[0] - 1;
            if (before > end && before < next)
                next = before;
            if (able[i].rows[1] > end && able[i].rows[1] < next)
                next = able[i].rows[1];
        }
        if (count == CHOICE_MAX_RANGES - 1 || next > max_rows)
            next = max_rows;
        ends[count++] = end = next;
    }
    return count;
}

static bool same_layout(const tn_variant *a, const tn_variant *b)
{
    if (!a->pack_layout || !b->pack_layout)
        return a->pack_layout == b->pack_layout;
    return strcmp(a->pack_layout, b->pack_layout) == 0;
}

/* A negative cost gets here only because its variant is pinned. */
static double cost_of(const struct candidate *c, const struct graph_op *op, uint32_t rows)
{
    double cost = judge_cost(c, op, rows);

    return cost < 0 ? 0 : cost;
}

/* The cheapest that shares the pack layout of `leader` and serves all of `first` to `last` rows; NULL if none does. */
static const struct candidate *cheapest(const struct graph_op *op, const struct able *able,
                                        uint32_t n, const struct candidate *leader, uint32_t first,
                                        uint32_t last)
{
    const struct candidate *best = NULL;
    double best_cost = DBL_MAX;

    for (uint32_t i = 0; i < n; i++) {
        double cost;
        if (!same_layout(able[i].c->v, leader->v) || able[i].rows[0] > first ||
            able[i].rows[1] < last)
            continue;
        cost = cost_of(able[i].c, op, last);
        if (cost < best_cost) {
            best_cost = cost;
            best = able[i].c;
        }
    }
    return best;
}

const struct candidate *choice_for(const struct choice *c, uint32_t rows)
{
    uint32_t i = 0;

    while (i + 1 < c->n && rows > c->ranges[i].max_rows)
        i++;
    return c->ranges[i].candidate;
}

uint32_t choice_rows(const struct choice *c)
{
    return c->ranges[c->n - 1].max_rows;
}

bool selected_runs(const struct selected *s, uint32_t rows)
{
    uint32_t n = 0;

    while (n < s->n_turns && rows <= s->turns[n])
        n++;
    return n % 2 == 1;
}

void selected_turn(struct selected *s, uint32_t rows)
{
    if (s->n_turns > 0 && s->turns[s->n_turns - 1] == rows)
        s->n_turns--; /* back to what it did before */
    else
        s->turns[s->n_turns++] = rows;
}

double select_cost(const struct choice *c, const struct graph_op *op, uint32_t max_rows,
                   uint32_t above, uint32_t served)
{
    uint32_t rows = 1;
    double sum = 0;

    for (; rows < max_rows && rows <= served; rows *= 2)
        if (rows > above)
            sum += cost_of(choice_for(c, rows), op, rows) / rows;
    if (served >= max_rows)
        sum += cost_of(choice_for(c, max_rows), op, max_rows) / max_rows;
    return sum;
}

/* The best choice among candidates that share the pack layout of `leader`; false if they leave a gap. A fused op may be
 * served for few rows only, but not for many rows only: the single row is what it is for. */
static bool choose_group(const struct graph_op *op, const struct able *able, uint32_t n,
                         const struct candidate *leader, uint32_t max_rows, struct choice *out)
{
    uint32_t ends[CHOICE_MAX_RANGES], count = row_buckets(able, n, max_rows, ends);

    *out = (struct choice){0};
    for (uint32_t b = 0; b < count; b++) {
        uint32_t first = b ? ends[b - 1] + 1 : 1;
        const struct candidate *best = cheapest(op, able, n, leader, first, ends[b]);
        if (!best && op->op.n_members > 0 && out->n > 0)
            break;
        if (!best)
            return false;
        if (out->n > 0 && out->ranges[out->n - 1].candidate == best)
            out->n--; /* the same variant goes on */
        out->ranges[out->n].max_rows = ends[b];
        out->ranges[out->n++].candidate = best;
    }
    if (count > 0)
        out->cost = select_cost(out, op, max_rows, 0, choice_rows(out));
    return count > 0;
}

static bool choose(const struct graph_op *op, const struct able *able, uint32_t n,
                   uint32_t max_rows, struct choice *out)
{
    bool found = false;

    for (uint32_t i = 0; i < n; i++) {
        struct choice c;
        bool seen = false;
        for (uint32_t k = 0; k < i; k++)
            seen = seen || same_layout(able[k].c->v, able[i].c->v);
        if (seen || !choose_group(op, able, n, able[i].c, max_rows, &c))
            continue;
        if (!found || choice_rows(&c) > choice_rows(out) ||
            (choice_rows(&c) == choice_rows(out) && c.cost < out->cost))
            *out = c;
        found = true;
    }
    return found;
}

static int32_t no_variant(struct selecting *z, const struct graph_op *op, const struct pin *pin,
                          const struct verdict *losers)
{
    while (pin && losers && !names_candidate(pin->variant, losers->candidate))
        losers = losers->next;
    if (pin) {
        err_at(z->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "kernels.pins",
               "the pin of \"%s\" to %s cannot be obeyed in layer %" PRId32 ": %s", op->op.name,
               pin->variant, op->op.layer, losers ? losers->reason : "there is no such variant");
        err_remedy(z->err, "remove the pin, or see `tenon plugin explain`");
        return TN_E_CONFIG;
    }
    err_at(z->err, TN_E_UNSUPPORTED, NULL, TN_NO_OFFSET, op->op.name,
           "no loaded kernel set can run this op in layer %" PRId32 " (%s%s%s)", op->op.layer,
           losers ? losers->candidate->v->name : "none offers it", losers ? ": " : "",
           losers ? losers->reason : "");
    err_remedy(z->err, "load a kernel set that offers it; `tenon plugin list` shows what is there");
    return TN_E_UNSUPPORTED;
}

bool select_same_fusion(const struct candidate *a, const struct candidate *b)
{
    return a->pattern && b->pattern && strcmp(a->v->op, b->v->op) == 0 &&
           strcmp(a->v->equals, b->v->equals) == 0;
}

/* Collects who can run `op` among variants named so (of a fused op: those of the fusion `of`), with a reason for
 * each who cannot. */
static int32_t gather(struct selecting *z, struct selected *sel, const struct candidate *of,
                      struct able *able, uint32_t *n)
{
    const struct pin *pin = select_pin(z, sel->op->op.name);
    char reason[SELECT_REASON];
    int32_t rc = TN_OK;

    *n = 0;
    for (size_t i = 0; i < z->s->n_candidates && rc == TN_OK; i++) {
        const struct candidate *c = &z->s->candidates[i];
        uint32_t rows[2];
        if (strcmp(c->v->op, sel->op->op.name) != 0 ||
            (of ? !select_same_fusion(c, of) : c->pattern != NULL))
            continue;
        if (pin && !names_candidate(pin->variant, c)) {
            rc = select_note(z, sel, c, "another variant is pinned in the configuration");
        } else if (!judge_variant(&z->judge, sel->op, c, rows, reason, sizeof reason)) {
            rc = select_note(z, sel, c, reason);
        } else if (!pin && judge_cost(c, sel->op, rows[0]) < 0) {
            rc = select_note(z, sel, c, "is taken only if it is pinned");
        } else if (*n < MAX_ABLE) {
            able[*n].c = c;
            memcpy(able[*n].rows, rows, sizeof rows);
            (*n)++;
        } else {
            rc = select_note(z, sel, c, "comes after 256 others that can run this op");
        }
    }
    return rc;
}

/* Those who can run the op, but together not for every number of rows, miss it most narrowly: they come first. */
static int32_t note_gaps(struct selecting *z, struct selected *sel, const struct able *able,
                         uint32_t n)
{
    struct verdict *others = sel->losers, **tail = &sel->losers;
    char reason[SELECT_REASON];
    int32_t rc = TN_OK;

    sel->losers = NULL;
    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        snprintf(reason, sizeof reason,
                 "serves %" PRIu32 " to %" PRIu32
                 " rows, and no variant with the same packed weights serves the rest",
                 able[i].rows[0], able[i].rows[1]);
        rc = select_note(z, sel, able[i].c, reason);
    }
    while (*tail)
        tail = &(*tail)->next;
    *tail = others;
    return rc;
}

static bool was_chosen(const struct choice *choice, const struct candidate *c)
{
    for (uint32_t i = 0; i < choice->n; i++)
        if (choice->ranges[i].candidate == c)
            return true;
    return false;
}

static int32_t note_slower(struct selecting *z, struct selected *sel, const struct able *able,
                           uint32_t n)
{
    const struct candidate *winner = sel->choice.ranges[0].candidate;
    char reason[SELECT_REASON];
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        if (was_chosen(&sel->choice, able[i].c))
            continue;
        snprintf(reason, sizeof reason, "%s at %.0f ns for one row, against %.0f ns %s",
                 judge_measured(able[i].c, sel->op) ? "measured" : "estimated",
                 judge_cost(able[i].c, sel->op, 1), judge_cost(winner, sel->op, 1),
                 judge_measured(winner, sel->op) ? "measured" : "estimated");
        rc = select_note(z, sel, able[i].c, reason);
    }
    return rc;
}

int32_t select_op(struct selecting *z, struct selected *sel, const struct candidate *of,
                  bool *found)
{
    struct able able[MAX_ABLE];
    uint32_t n;
    int32_t rc = gather(z, sel, of, able, &n);

    *found = false;
    if (rc != TN_OK)
        return rc;
    *found = choose(sel->op, able, n, judge_max_rows(z->o, sel->op), &sel->choice);
    return *found ? note_slower(z, sel, able, n) : note_gaps(z, sel, able, n);
}

/* -- All ops ------------------------------------------------------------------------------------------------ */

static int32_t select_basic(struct selecting *z, struct selected *basic)
{
    for (size_t i = 0; i < z->g->n_ops; i++) {
        bool found;
        int32_t rc;
        basic[i].op = z->g->ops[i];
        rc = select_op(z, &basic[i], NULL, &found);
        if (rc != TN_OK)
            return rc;
        if (!found)
            return no_variant(z, basic[i].op, select_pin(z, basic[i].op->op.name), basic[i].losers);
        selected_turn(&basic[i], SELECT_ALL_ROWS);
    }
    return TN_OK;
}

/* One round with one cache layout. */
static int32_t select_round(struct selecting *z, const tn_kv_layout *layout)
{
    struct selected *basic = arena_array(&z->s->arena, z->g->n_ops, sizeof *basic);
    int32_t rc;

    if (!basic)
        return err_nomem(z->err, "choosing kernels");
    z->judge = (struct judge){z->g, z->o, layout ? layout->name : ""};
    z->s->kv_layout = layout;
    rc = select_basic(z, basic);
    return rc == TN_OK ? select_fused(z, basic) : rc;
}

static bool layout_fits(const struct selecting *z, const tn_kv_layout *l)
{
    struct plan_kv kv[1];
    tn_kv_layer layer = {.h = TN_HDR(tn_kv_layer), .block_tokens = 16, .dtype = z->o->kv_dtype};

    if (plan_kv_layers(z->g->plan, kv, 1) == 0)
        return false;
    layer.n_kv_heads = kv[0].n_kv_heads;
    layer.head_dim = kv[0].head_dim;
    return l->block_bytes(&layer) > 0;
}

/* Tries the layouts in order of the sets' preference; the first with which every op finds a variant wins. */
static int32_t select_with_layouts(struct selecting *z)
{
    struct plan_kv kv[1];
    int32_t rc = TN_E_UNSUPPORTED;
    bool any = false;

    if (plan_kv_layers(z->g->plan, kv, 1) == 0)
        return select_round(z, NULL);
    for (uint32_t i = 0; i < z->o->n_sources && rc != TN_OK; i++) {
        const tn_kernel_set *set = z->o->sources[i].set;
        for (uint32_t k = 0; k < set->n_kv_layouts && rc != TN_OK; k++) {
            if (strcmp(set->device, z->o->device_kind) != 0 || !layout_fits(z, set->kv_layouts[k]))
                continue;
            any = true;
            rc = select_round(z, set->kv_layouts[k]);
            if (rc != TN_OK && rc != TN_E_UNSUPPORTED)
                return rc;
        }
    }
    if (!any)
        tn_err_set(z->err, TN_E_UNSUPPORTED,
                   "no loaded kernel set offers a cache layout for %s in %s", z->o->device_kind,
                   tn_dtype_name(z->o->kv_dtype));
    return rc;
}

static int32_t check_pins(const struct selecting *z)
{
    for (uint32_t i = 0; i < z->o->n_pins; i++) {
        bool found = false;
        for (size_t k = 0; k < z->s->n_candidates; k++)
            found = found || (strcmp(z->s->candidates[k].v->op, z->o->pins[i].op) == 0 &&
                              names_candidate(z->o->pins[i].variant, &z->s->candidates[k]));
        if (!found) {
            err_at(z->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "kernels.pins",
                   "no loaded kernel set has the variant \"%s\" of the op \"%s\"",
                   z->o->pins[i].variant, z->o->pins[i].op);
            err_remedy(z->err,
                       "variants are written PLUGIN/VARIANT; `tenon plugin list` shows them");
            return TN_E_CONFIG;
        }
    }
    return TN_OK;
}

int32_t select_variants(struct graph *g, const struct select_options *o, struct selection *out,
                        tn_err *err)
{
    struct selecting z = {.g = g, .o = o, .s = out, .err = err};
    int32_t rc;

    *out = (struct selection){0};
    rc = list_candidates(&z);
    if (rc == TN_OK)
        rc = check_pins(&z);
    if (rc == TN_OK)
        rc = select_with_layouts(&z);
    if (rc != TN_OK)
        selection_release(out);
    return rc;
}

void selection_release(struct selection *s)
{
    arena_release(&s->arena);
    *s = (struct selection){0};
}
