/* SPDX-License-Identifier: Apache-2.0 */
/* Where models put tokens: the arrays of an encoding. Spans are bytes of the input. */
#ifndef TEXT_SINK_H
#define TEXT_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nstr.h"
#include "tenon_text.h"

/* White space at both ends of a token's text, counted in characters, for post-processors that trim offsets. */
struct edges {
    uint32_t lead, trail;
};

struct tn_encoding {
    uint32_t *ids;
    tn_token_span *spans;
    struct edges *edges; /* only while a post-processor needs them */
    size_t count;
    size_t room; /* tokens that fit in all arrays in use */
    size_t id_cap, span_cap, edge_cap;
    bool has_spans, has_edges;
};

/* A piece of text on its way through the model, and the encoding that its tokens join. */
struct sink {
    struct tn_encoding *out;
    const struct span *align; /* of the piece, by byte; NULL: byte i is input byte base + i */
    size_t len;               /* bytes of the piece */
    uint32_t base;
};

/* Empties an encoding and says which arrays are in use. */
void sink_begin(struct tn_encoding *e, bool spans, bool edges);

/* Room for n more tokens. False without memory. */
bool sink_grow(struct tn_encoding *e, size_t n);
static inline bool sink_reserve(struct tn_encoding *e, size_t n)
{
    return e->count + n <= e->room || sink_grow(e, n);
}

/* Counts white space (and GPT-2's space character) at both ends of a token's text. */
struct edges edges_of(const char *text, size_t len);

/* Adds a token for bytes begin..end of the piece; room is reserved. `value` is its text, needed if out->has_edges. */
static inline void sink_put(const struct sink *s, uint32_t id, size_t begin, size_t end,
                            const char *value, size_t value_len)
{
    struct tn_encoding *e = s->out;
    tn_token_span *at;

    e->ids[e->count] = id;
    if (e->has_spans) {
        at = &e->spans[e->count];
        if (!s->align || begin >= end || end > s->len) {
            at->begin = s->base + (uint32_t)begin;
            at->end = s->base + (uint32_t)end;
        } else {
            at->begin = s->align[begin].begin;
            at->end = s->align[end - 1].end;
        }
        if (e->has_edges)
            e->edges[e->count] = edges_of(value, value_len);
    }
    e->count++;
}

#endif
