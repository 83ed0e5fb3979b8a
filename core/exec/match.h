/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the places of a graph that a fusion pattern describes. */
#ifndef CORE_EXEC_MATCH_H
#define CORE_EXEC_MATCH_H

#include "exec/graph.h"
#include "exec/pattern.h"

/* One place: members in the order of the pattern's statements, and the fused op made of them. */
struct match {
    size_t at;                         /* index in graph->ops where the fused op will stand */
    size_t members[TN_OP_MAX_MEMBERS]; /* indexes in graph->ops */
    struct graph_op *fused;            /* from the graph's arena */
};

/*
 * All matches of `pattern` in `g` whose first statement is at graph->ops index `anchor`; writes at most one (the first in
 * order of members). Returns false if there is none. A match needs: the ops wired as stated, in the first one's layer or the next, no intermediate value used
 * elsewhere, and no op between them that must run before one member and after another. So matches that share no member do
 * not disturb each other: of each, the fused op may stand where the last member stood.
 */
bool match_at(const struct graph *g, const struct pattern *pattern, size_t first,
              struct match *out);

/* Makes the fused op of a match, named `name`. */
int32_t match_fuse(struct graph *g, const struct pattern *pattern, const char *name,
                   struct match *m, tn_err *err);

#endif
