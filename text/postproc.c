/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Post-processors at work (postproc.h). To the reference each piece of a template's result is an encoding of its
 * own until the end, so that a second template in a row sees several; two of them it takes for a pair of texts.
 * Pure functions on an encoding of one thread.
 */
#include "postproc.h"

#include "base/mem.h"

static void trim(const struct postproc_step *s, struct tn_encoding *e)
{
    for (size_t i = 0; i < e->count; i++) {
        tn_token_span *at = &e->spans[i];
        uint32_t lead = e->edges[i].lead, trail = e->edges[i].trail;
        if (lead == 1 && s->prefix_space && (i == 0 || at->begin == 0))
            lead = 0; /* it was put there */
        if (lead > 0)
            at->begin = lead < at->end && at->begin < at->end - lead ? at->begin + lead : at->end;
        if (trail > 0 && at->end >= trail)
            at->end = at->end - trail > at->begin ? at->end - trail : at->begin;
    }
}

void postproc_trim(const struct postproc *p, struct tn_encoding *e)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->steps[i].kind == POSTPROC_TRIM)
            trim(&p->steps[i], e);
}

/* Tokens before and after the text of one sequence, as all templates together make them. The text itself is not moved
 * until the end. */
struct segment {
    bool text;             /* the tokens of the text */
    uint32_t first, count; /* else ids of a template */
};

#define MAX_SEGMENTS 4096

struct layout {
    struct segment *items;
    size_t count, cap;
};

static bool put(struct layout *l, struct segment s)
{
    if (l->count == MAX_SEGMENTS || !mem_grow(&l->items, &l->cap, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] = s;
    return true;
}

static int32_t apply_template(const struct postproc_step *s, const struct layout *in,
                              struct layout *out, bool add_special, tn_err *err)
{
    const struct postproc_template *t = in->count == 1 ? &s->single : &s->pair;

    out->count = 0;
    if (in->count > 2 || t->broken)
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "the post-processors of the tokenizer do not fit together");
    for (size_t i = 0; i < t->count; i++) {
        const struct postproc_piece *p = &t->pieces[i];
        if (!p->sequence && !add_special)
            continue;
        if (!put(out,
                 p->sequence ? in->items[p->which] : (struct segment){false, p->first, p->count}))
            return err_nomem(err, "an encoding");
    }
    return TN_OK;
}

static void put_ids(const struct postproc *p, const struct segment *s, struct tn_encoding *e,
                    size_t at)
{
    for (uint32_t i = 0; i < s->count; i++) {
        e->ids[at + i] = p->ids[s->first + i];
        if (e->has_spans)
            e->spans[at + i] = (tn_token_span){0, 0};
    }
}

/* Copies n tokens inside the arrays. */
static void move_text(struct tn_encoding *e, size_t to, size_t from, size_t n)
{
    memmove(e->ids + to, e->ids + from, n * sizeof *e->ids);
    if (e->has_spans)
        memmove(e->spans + to, e->spans + from, n * sizeof *e->spans);
}

/* Writes the tokens in the order of the layout. The text goes to the far end first, since a layout may repeat it. */
static int32_t arrange(const struct postproc *p, const struct layout *l, struct tn_encoding *e,
                       tn_err *err)
{
    size_t n = e->count, total = 0, at = 0;

    for (size_t i = 0; i < l->count; i++)
        total += l->items[i].text ? n : l->items[i].count;
    if (!sink_reserve(e, total))
        return err_nomem(err, "an encoding");
    move_text(e, total, 0, n);
    for (size_t i = 0; i < l->count; i++) {
        const struct segment *s = &l->items[i];
        if (s->text)
            move_text(e, at, total, n);
        else
            put_ids(p, s, e, at);
        at += s->text ? n : s->count;
    }
    e->count = total;
    return TN_OK;
}

int32_t postproc_apply(const struct postproc *p, struct tn_encoding *e, bool add_special,
                       tn_err *err)
{
    struct layout now = {NULL, 0, 0}, next = {NULL, 0, 0};
    int32_t rc = TN_OK;

    if (p->count == 0)
        return TN_OK;
    if (!put(&now, (struct segment){true, 0, 0}))
        return err_nomem(err, "an encoding");
    for (size_t i = 0; rc == TN_OK && i < p->count; i++) {
        struct layout swap = now;
        if (p->steps[i].kind != POSTPROC_TEMPLATE)
            continue;
        rc = apply_template(&p->steps[i], &now, &next, add_special, err);
        now = next;
        next = swap;
    }
    if (rc == TN_OK && !(now.count == 1 && now.items[0].text))
        rc = arrange(p, &now, e, err);
    mem_free(now.items);
    mem_free(next.items);
    return rc;
}
