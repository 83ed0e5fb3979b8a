/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A text cut into pieces, on its way from normalization to the model. Some pieces are added tokens already.
 *
 * As long as no step changed the text, it is the input itself and needs no alignment; the first change copies it. A
 * step reads the pieces and writes new ones (and new text, if it changes it), then the two sides are swapped.
 */
#ifndef TEXT_PIECES_H
#define TEXT_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nstr.h"
#include "sink.h"

#define PIECE_PLAIN UINT32_MAX

struct piece {
    uint32_t begin, end; /* plain: bytes of the current text; token: bytes of the input */
    uint32_t origin;    /* plain: input byte where the piece begins, by the reference's reckoning */
    uint32_t id;        /* PIECE_PLAIN, or an added token */
    struct edges edges; /* token: white space at the ends of the text that it replaces */
};

struct piece_list {
    struct piece *items;
    size_t count, cap;
};

struct pieces {
    const char *text; /* the current text: the input, or now.text */
    size_t len;
    bool changed; /* it is now.text */
    struct nstr now, next;
    struct piece_list list, next_list;
    bool failed; /* out of memory */
};

/* One piece: the whole input. */
void pieces_begin(struct pieces *p, const char *text, size_t len);
void pieces_release(struct pieces *p); /* zeroed is allowed */

/* Adds to the next list; plain pieces without text are left out. */
void pieces_put(struct pieces *p, struct piece x);
/* A part of a plain piece of the unchanged or current text, by its bytes in that text. */
void pieces_put_part(struct pieces *p, size_t begin, size_t end);

/* Where the input of byte `at` < len of the current text begins. */
static inline uint32_t pieces_origin(const struct pieces *p, size_t at)
{
    return p->changed ? p->now.align[at].begin : (uint32_t)at;
}

/* The next list becomes the list. */
void pieces_swap_list(struct pieces *p);
/* The next text becomes the text, with the next list. */
void pieces_swap_text(struct pieces *p);

/* The text and alignment of a plain piece, copied if it was unchanged input so far. `spare` holds the copy. */
struct nview pieces_view(struct pieces *p, const struct piece *x, struct nstr *spare);

#endif
