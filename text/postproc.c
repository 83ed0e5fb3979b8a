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

/* Tokens before and after the text, as all templates together make them. The text itself is not moved until the end. */
struct segment {
    bool text;             /* the tokens of the text */
    bool joined;           /* belongs to the same sequence as the segment before */
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

static size_t count_sequences(const struct layout *l)
{
    size_t n = 0;

    for (size_t i = 0; i < l->count; i++)
        n += !l->items[i].joined;
    return n;
}

/* Copies sequence `which` behind what is there, as one of its own or as part of the one before. */
static bool put_sequence(struct layout *out, const struct layout *in, size_t which, bool joined)
{
    size_t at = 0;
    bool ok = true;

    for (size_t seen = 0; at < in->count; at++) {
        seen += !in->items[at].joined;
        if (seen == which + 1)
            break;
    }
    for (size_t i = at; ok && i < in->count && (i == at || in->items[i].joined); i++) {
        struct segment s = in->items[i];
        s.joined = i > at || joined;
        ok = put(out, s);
    }
    return ok;
}

/* Lays out one template. `which` is the sequence that its A is; all that comes of it is one sequence if `join`. */
static bool lay_out(const struct postproc_template *t, const struct layout *in, size_t which,
                    bool join, bool add_special, struct layout *out)
{
    bool ok = true, first = true;

    for (size_t i = 0; ok && i < t->count; i++) {
        const struct postproc_piece *p = &t->pieces[i];
        bool joined = join && !first;
        if (!p->sequence && !add_special)
            continue;
        ok = p->sequence ? put_sequence(out, in, which + p->which, joined)
                         : put(out, (struct segment){false, joined, p->first, p->count});
        first = false;
    }
    return ok;
}

static int32_t apply_step(const struct postproc_step *s, const struct layout *in,
                          struct layout *out, bool add_special, tn_err *err)
{
    size_t n = count_sequences(in);
    bool ok = true;

    out->count = 0;
    if (s->kind == POSTPROC_AROUND) {
        for (size_t i = 0; ok && i < n; i++)
            ok = lay_out(i == 0 ? &s->single : &s->pair, in, i, true, add_special, out);
    } else {
        const struct postproc_template *t = n == 1 ? &s->single : &s->pair;
        if (n == 0 || n > 2 || t->broken)
            return tn_err_set(err, TN_E_UNSUPPORTED,
                              "the post-processors of the tokenizer do not fit together");
        ok = lay_out(t, in, 0, false, add_special, out);
    }
    return ok ? TN_OK : err_nomem(err, "an encoding");
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
    if (!put(&now, (struct segment){true, false, 0, 0}))
        return err_nomem(err, "an encoding");
    for (size_t i = 0; rc == TN_OK && i < p->count; i++) {
        struct layout swap = now;
        if (p->steps[i].kind == POSTPROC_TRIM)
            continue;
        rc = apply_step(&p->steps[i], &now, &next, add_special, err);
        now = next;
        next = swap;
    }
    if (rc == TN_OK && !(now.count == 1 && now.items[0].text))
        rc = arrange(p, &now, e, err);
    mem_free(now.items);
    mem_free(next.items);
    return rc;
}
