/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of choosing variants; shared by select.c, which chooses for one op, and fuse.c, which chooses fusions. */
#ifndef CORE_EXEC_SELECTING_H
#define CORE_EXEC_SELECTING_H

#include "exec/judge.h"
#include "exec/select.h"

#define SELECT_REASON 320
#define SELECT_ALL_ROWS UINT32_MAX

struct selecting {
    struct graph *g;
    const struct select_options *o;
    struct selection *s;
    struct judge judge;
    tn_err *err;
};

/* The pin of the op of that name; NULL: none. */
const struct pin *select_pin(const struct selecting *z, const char *op);

/* Notes at `sel` why a candidate was not taken. */
int32_t select_note(struct selecting *z, struct selected *sel, const struct candidate *c,
                    const char *reason);

/* Variants that state one composition under one name are alternatives for the same fused op, whichever sets they
 * are from: one may serve a few rows, another many. */
bool select_same_fusion(const struct candidate *a, const struct candidate *b);

/* Chooses for one op, which is basic, or the fused op of `of`. found = false without error: none can. */
int32_t select_op(struct selecting *z, struct selected *sel, const struct candidate *of,
                  bool *found);

/* Up to how many rows a choice serves. */
uint32_t choice_rows(const struct choice *c);

/* Nanoseconds per row, summed over the powers of two and the most rows, as far as they are more than `above` and at most
 * `served`: the same counts for every choice, so that choices made over different ranges compare. */
double select_cost(const struct choice *c, const struct graph_op *op, uint32_t max_rows,
                   uint32_t above, uint32_t served);

/* From now on `s` does the opposite in steps of up to `rows` rows: it runs where it did not. No turn was at fewer rows. */
void selected_turn(struct selected *s, uint32_t rows);

/* Chooses fusions of the ops for which `basic` was chosen, and makes the list of all that runs. */
int32_t select_fused(struct selecting *z, struct selected *basic);

#endif
