/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tn_encode: repairs the text, cuts added tokens out, normalizes the rest, cuts it into pieces, runs the model over
 * them, converts spans to what was asked for, and puts special tokens around. All memory is a scratch of the pool's.
 */
#include "base/mem.h"
#include "textlimits.h"
#include "tokenizer.h"
#include "unidata.h"

struct job {
    struct tn_tokenizer *t;
    struct scratch *s;
    struct tn_encoding *e;
    uint32_t flags;
    size_t trusted_count; /* of s->trusted */
    tn_err *err;
};

/* -- What the caller asks for -------------------------------------------------------------------------------------- */

static int32_t check_options(const tn_encode_options *o, size_t len, tn_err *err)
{
    const uint32_t known =
        TN_ENCODE_ADD_SPECIAL | TN_ENCODE_SPECIAL | TN_ENCODE_BYTE_OFFSETS | TN_ENCODE_NO_OFFSETS;
    size_t at = 0;

    if (len > LIMIT_TEXT_BYTES)
        return tn_err_set(err, TN_E_LIMIT, "the text has %zu bytes, more than 1 GiB", len);
    if (!o)
        return TN_OK;
    if (o->size < sizeof *o || (o->flags & ~known))
        return tn_err_set(err, TN_E_INVALID, "tn_encode_options has size %u and flags 0x%x",
                          (unsigned)o->size, (unsigned)o->flags);
    for (size_t i = 0; i < o->trusted_count; i++) {
        if (o->trusted[i].begin < at || o->trusted[i].end < o->trusted[i].begin ||
            o->trusted[i].end > len)
            return tn_err_set(err, TN_E_INVALID,
                              "trusted part %zu is not behind the one before and inside the text",
                              i);
        at = o->trusted[i].end;
    }
    return TN_OK;
}

/* Copies the trusted parts as parts of the repaired text. */
static int32_t take_trusted(struct job *j, const tn_encode_options *o)
{
    struct scratch *s = j->s;

    j->trusted_count = o ? o->trusted_count : 0;
    if (j->trusted_count == 0)
        return TN_OK;
    if (!mem_grow(&s->trusted, &s->trusted_cap, j->trusted_count, sizeof *s->trusted) ||
        !locator_index(&s->places))
        return err_nomem(j->err, "encoding");
    for (size_t i = 0; i < j->trusted_count; i++) {
        s->trusted[i].begin = locate_from_input(&s->places, (uint32_t)o->trusted[i].begin);
        s->trusted[i].end = locate_from_input(&s->places, (uint32_t)o->trusted[i].end);
    }
    return TN_OK;
}

/* -- Added tokens and normalization ---------------------------------------------------------------------------------- */

/* A text that is searched: a view, and what its bytes are in the repaired text. */
struct place {
    const struct job *j;
    const struct span *align; /* NULL: byte i is i + base */
    uint32_t base;
};

static bool may_be_special(void *arg, uint32_t begin, uint32_t end)
{
    const struct place *p = arg;
    const struct job *j = p->j;
    size_t lo = 0, hi = j->trusted_count;

    if (j->flags & TN_ENCODE_SPECIAL)
        return true;
    begin = p->align ? p->align[begin].begin : begin + p->base;
    end = p->align ? p->align[end - 1].end : end + p->base;
    while (hi - lo > 0) { /* the first part that does not end before `end` */
        size_t mid = (lo + hi) / 2;
        if (j->s->trusted[mid].end < end)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < j->trusted_count && j->s->trusted[lo].begin <= begin;
}

/* Whether a search could find anything. */
static bool worth_searching(const struct job *j, const struct added_matcher *m)
{
    return m->patterns > 0 &&
           (!m->only_special || (j->flags & TN_ENCODE_SPECIAL) || j->trusted_count > 0);
}

/* Cuts one plain piece at the added tokens that are found in it. `text` and `align` are the piece's. */
static bool cut_tokens(struct job *j, const struct added_matcher *m, const char *text, size_t len,
                       size_t begin, const struct place *at)
{
    struct pieces *p = &j->s->pieces;
    struct added_matches *found = &j->s->matches;
    size_t done = 0;

    if (!added_search(&j->t->added, m, text, len, may_be_special, (void *)at, found))
        return false;
    for (size_t i = 0; i < found->count; i++) {
        const struct added_match *x = &found->items[i];
        struct piece y = {
            x->begin + at->base, x->end + at->base, 0, j->t->added.tokens[x->token].id, {0, 0}};
        pieces_put_part(p, begin + done, begin + x->begin);
        if (at->align) {
            y.begin = at->align[x->begin].begin;
            y.end = at->align[x->end - 1].end;
        }
        if (j->e->has_edges)
            y.edges = edges_of(text + x->begin, x->end - x->begin);
        pieces_put(p, y);
        done = x->end;
    }
    pieces_put_part(p, begin + done, begin + len);
    return true;
}

static int32_t cut_all(struct job *j, const struct added_matcher *m)
{
    struct pieces *p = &j->s->pieces;
    bool ok = true;

    if (!worth_searching(j, m))
        return TN_OK;
    for (size_t i = 0; ok && i < p->list.count; i++) {
        struct piece x = p->list.items[i];
        struct place at = {j, p->changed ? p->now.align + x.begin : NULL, x.begin};
        if (x.id == PIECE_PLAIN)
            ok = cut_tokens(j, m, p->text + x.begin, x.end - x.begin, x.begin, &at);
        else
            pieces_put(p, x);
    }
    pieces_swap_list(p);
    return ok && !p->failed ? TN_OK : err_nomem(j->err, "encoding");
}

/* Whether normalization leaves all plain pieces as they are. */
static bool all_normal(const struct job *j)
{
    const struct pieces *p = &j->s->pieces;

    for (size_t i = 0; j->t->normalizer && i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        if (x->id == PIECE_PLAIN &&
            !normalizer_keeps(j->t->normalizer, p->text + x->begin, x->end - x->begin))
            return false;
    }
    return true;
}

static int32_t normalize(struct job *j)
{
    struct scratch *s = j->s;
    struct pieces *p = &s->pieces;
    int32_t rc = TN_OK;

    if (all_normal(j))
        return TN_OK;
    for (size_t i = 0; rc == TN_OK && i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        size_t begin = p->next.len;
        uint32_t origin = x->origin;
        if (x->id != PIECE_PLAIN) {
            pieces_put(p, *x);
            continue;
        }
        rc = normalizer_apply(j->t->normalizer, &s->normalize, pieces_view(p, x, &s->spare),
                              x->origin, &p->next, j->err);
        if (rc == TN_OK && begin < p->next.len)
            origin = p->next.align[begin].begin;
        if (rc == TN_OK)
            pieces_put(p, (struct piece){
                              (uint32_t)begin, (uint32_t)p->next.len, origin, PIECE_PLAIN, {0, 0}});
    }
    if (rc != TN_OK)
        return rc;
    pieces_swap_text(p);
    return p->failed ? err_nomem(j->err, "encoding") : TN_OK;
}

/* -- The model -------------------------------------------------------------------------------------------------------- */

static int32_t put_added(struct job *j, const struct piece *x)
{
    struct tn_encoding *e = j->e;

    if (!sink_reserve(e, 1))
        return err_nomem(j->err, "an encoding");
    e->ids[e->count] = x->id;
    if (e->has_spans)
        e->spans[e->count] = (tn_token_span){x->begin, x->end};
    if (e->has_edges)
        e->edges[e->count] = x->edges;
    e->count++;
    return TN_OK;
}

static int32_t run_model(struct job *j)
{
    const struct pieces *p = &j->s->pieces;
    const struct model *m = j->t->model;
    struct sink sink = {j->e, NULL, 0, 0};
    int32_t rc = TN_OK;

    for (size_t i = 0; rc == TN_OK && i < p->list.count; i++) {
        const struct piece *x = &p->list.items[i];
        if (x->id != PIECE_PLAIN) {
            rc = put_added(j, x);
            continue;
        }
        sink.align = p->changed ? p->now.align + x->begin : NULL;
        sink.len = x->end - x->begin;
        sink.base = x->origin;
        rc = m->type->encode(m, j->s->model, p->text + x->begin, sink.len, &sink, j->err);
    }
    return rc;
}

/* -- Spans ------------------------------------------------------------------------------------------------------------ */

/* From bytes to characters. A span that begins at the very end stays as it is, as in the reference. */
static void count_characters(struct locator *l, struct tn_encoding *e)
{
    for (size_t i = 0; i < e->count; i++) {
        tn_token_span *at = &e->spans[i];
        uint32_t begin = at->begin, end = at->end;
        bool empty = begin == end;
        if (begin >= l->len)
            continue;
        while (((unsigned char)l->text[begin] & 0xc0) == 0x80) /* inside a character */
            begin--;
        at->begin = locate_chars(l, begin);
        at->end = empty ? at->begin : locate_chars(l, end);
    }
}

static void count_bytes(struct locator *l, struct tn_encoding *e)
{
    for (size_t i = 0; i < e->count; i++) {
        tn_token_span *at = &e->spans[i];
        at->begin = locate_input(l, locate_byte(l, at->begin));
        at->end = locate_input(l, locate_byte(l, at->end));
    }
}

static int32_t finish_spans(struct job *j)
{
    struct locator *l = &j->s->places;

    if (!j->e->has_spans)
        return TN_OK;
    if (!locator_index(l))
        return err_nomem(j->err, "an encoding");
    if (!l->ascii)
        count_characters(l, j->e);
    if (j->e->has_edges)
        postproc_trim(&j->t->postproc, j->e);
    if (!l->ascii && (j->flags & TN_ENCODE_BYTE_OFFSETS))
        count_bytes(l, j->e);
    return TN_OK;
}

static int32_t encode(struct job *j, const char *text, size_t len, const tn_encode_options *o)
{
    struct scratch *s = j->s;
    int32_t rc;

    if (!locator_begin(&s->places, text, len, &s->clean))
        return err_nomem(j->err, "encoding");
    rc = take_trusted(j, o);
    if (rc != TN_OK)
        return rc;
    pieces_begin(&s->pieces, s->places.text, s->places.len);
    rc = cut_all(j, &j->t->added.plain);
    if (rc == TN_OK)
        rc = normalize(j);
    if (rc == TN_OK)
        rc = cut_all(j, &j->t->added.normalized);
    if (rc == TN_OK)
        rc = pretok_apply(&j->t->pretok, &s->pieces, s->regex, j->err);
    if (rc == TN_OK)
        rc = run_model(j);
    if (rc == TN_OK)
        rc = finish_spans(j);
    if (rc == TN_OK)
        rc = postproc_apply(&j->t->postproc, j->e, (j->flags & TN_ENCODE_ADD_SPECIAL) != 0, j->err);
    return rc;
}

int32_t tn_encode(const tn_tokenizer *t, const char *text, size_t len,
                  const tn_encode_options *options, tn_encoding *e, tn_err *err)
{
    struct job j = {(struct tn_tokenizer *)t, NULL, e, options ? options->flags : 0, 0, err};
    int32_t rc = check_options(options, len, err);

    if (rc == TN_OK)
        rc = scratch_take(j.t, &j.s, err);
    if (rc != TN_OK)
        return rc;
    sink_begin(e, !(j.flags & TN_ENCODE_NO_OFFSETS),
               !(j.flags & TN_ENCODE_NO_OFFSETS) && t->postproc.trims);
    rc = encode(&j, text, len, options);
    if (rc != TN_OK)
        e->count = 0;
    scratch_give(j.t, j.s);
    return rc;
}
