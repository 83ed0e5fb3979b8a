/* SPDX-License-Identifier: Apache-2.0 */
/* Post-processors: put a text's special tokens around it, and trim the white space of words off their spans. */
#ifndef TEXT_POSTPROC_H
#define TEXT_POSTPROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "jsontape.h"
#include "sink.h"

/* A piece of a template: a sequence that came in, or tokens to put in. */
struct postproc_piece {
    bool sequence;
    uint32_t which;        /* sequence: 0 (A) or 1 (B) */
    uint32_t first, count; /* tokens: part of postproc.ids */
};

struct postproc_template {
    struct postproc_piece *pieces;
    size_t count, cap;
    bool broken; /* it names tokens that the file does not define; an error once it is used */
};

enum postproc_kind {
    POSTPROC_TRIM,
    POSTPROC_TEMPLATE, /* `single` for one sequence, `pair` for two; each piece is a sequence to the next step */
    POSTPROC_AROUND /* `single` around the first sequence, `pair` around any other; each stays one */
};

struct postproc_step {
    enum postproc_kind kind;
    bool
        prefix_space; /* TRIM: one leading space of the first word was put there and counts as none */
    struct postproc_template single, pair;
};

struct postproc {
    struct postproc_step *steps;
    size_t count, cap;
    uint32_t *ids; /* of all templates */
    size_t id_count, id_cap;
    bool trims; /* some step trims: tokens need their edges */
};

/* Reads the "post_processor" value; TAPE_NONE gives one that does nothing. On failure release it, too. */
int32_t postproc_load(const struct tape *t, uint32_t node, struct postproc *out, tn_err *err);
void postproc_release(struct postproc *p); /* zeroed is allowed */

/* Trims spans, which count characters. Templates are passed over, so it may run before them. */
void postproc_trim(const struct postproc *p, struct tn_encoding *e);

/*
 * Puts the tokens of all templates around the tokens of `e`, in place; without `add_special` they put in nothing, but
 * what they leave out still goes.
 */
int32_t postproc_apply(const struct postproc *p, struct tn_encoding *e, bool add_special,
                       tn_err *err);

#endif
