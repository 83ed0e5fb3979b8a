/* SPDX-License-Identifier: Apache-2.0 */
/* Encodings: the arrays that tokens go to (sink.h) and their public accessors. One thread at a time. */
#include "sink.h"

#include "base/err.h"
#include "base/mem.h"
#include "unidata.h"

void sink_begin(struct tn_encoding *e, bool spans, bool edges)
{
    e->count = 0;
    e->room = 0;
    e->has_spans = spans;
    e->has_edges = edges;
}

bool sink_grow(struct tn_encoding *e, size_t n)
{
    size_t need = e->count + n;

    if (!mem_grow(&e->ids, &e->id_cap, need, sizeof *e->ids) ||
        (e->has_spans && !mem_grow(&e->spans, &e->span_cap, need, sizeof *e->spans)) ||
        (e->has_edges && !mem_grow(&e->edges, &e->edge_cap, need, sizeof *e->edges)))
        return false;
    e->room = e->id_cap;
    if (e->has_spans && e->span_cap < e->room)
        e->room = e->span_cap;
    if (e->has_edges && e->edge_cap < e->room)
        e->room = e->edge_cap;
    return true;
}

static bool is_edge(uint32_t cp)
{
    return cp == 0x120 || uni_is_space(cp); /* U+0120: the space of GPT-2's alphabet */
}

struct edges edges_of(const char *text, size_t len)
{
    struct edges r = {0, 0};
    size_t n, pos = 0;

    for (; pos < len && is_edge(uni_next(text + pos, &n)); pos += n)
        r.lead++;
    for (pos = len; pos > 0; r.trail++) {
        pos = uni_before(text, pos);
        if (!is_edge(uni_next(text + pos, &n)))
            break;
    }
    return r;
}

int32_t tn_encoding_new(tn_encoding **out, tn_err *err)
{
    tn_encoding *e = mem_zalloc(sizeof *e);

    if (!e)
        return err_nomem(err, "an encoding");
    *out = e;
    return TN_OK;
}

void tn_encoding_free(tn_encoding *e)
{
    if (!e)
        return;
    mem_free(e->ids);
    mem_free(e->spans);
    mem_free(e->edges);
    mem_free(e);
}

size_t tn_encoding_count(const tn_encoding *e)
{
    return e->count;
}

const uint32_t *tn_encoding_ids(const tn_encoding *e)
{
    return e->ids;
}

const tn_token_span *tn_encoding_spans(const tn_encoding *e)
{
    return e->has_spans ? e->spans : NULL;
}
