/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan as one rank sees it: shapes cut to the rank's share, collectives that have nothing to do removed. Built once per
 * binding; kernels read its tn_op structs.
 */
#ifndef CORE_EXEC_GRAPH_H
#define CORE_EXEC_GRAPH_H

#include "base/arena.h"
#include "engine/plan.h"
#include "tenon/op.h"

struct topology {
    uint32_t tp_rank, tp_size;
    uint32_t pp_rank, pp_size;
};

#define TOPOLOGY_SINGLE                                                                            \
    {                                                                                              \
        0, 1, 0, 1                                                                                 \
    }

struct graph_op {
    tn_op op;
    uint32_t plan_index;        /* of the (first) op in the plan */
    const uint32_t *weight_ids; /* op.n_weights indexes into plan->weights */
};

struct graph {
    struct arena arena;
    const struct plan *plan;
    struct topology topo;
    uint32_t act_dtype;
    tn_value *values; /* indexed like plan->values; removed collectives alias theirs to the input */
    uint32_t *alias;  /* value id -> id of the value that holds its data */
    tn_weight *weights; /* indexed like plan->weights; local dims, data NULL */
    /* Likewise: of scales whose groups this rank's columns cut, how many entries one entry of the plan's becomes; else 1. */
    uint32_t *repeat;
    struct graph_op **ops;
    size_t n_ops, cap_ops;
    size_t first_op, end_op; /* of the plan: this rank's pipeline stage */
    /* Ids of the values that come from the stage before, and that the one behind gets. Neither has aliases. */
    uint32_t *imports, *exports, n_imports, n_exports;
};

/* Columns per scale that a rank with `cols` of a matrix computes with, if the matrix has `group` of them. Where ranks cut groups, each
 * has the scale of its part; all groups become as long as the pieces, then: the largest length that divides both. 0: pieces
 * would be so short that scales took more room than what they scale. */
uint64_t graph_piece(uint64_t group, uint64_t cols);

/*
 * Cuts the plan for one rank. Kv heads fewer than ranks are replicated; what is added up over ranks never is. TN_E_CONFIG
 * if something cannot be divided, TN_E_FORMAT if the plan's shard rules contradict each other.
 *
 * Pipeline stages are cut where layers begin, as equally as the number of layers allows. What stands outside the layers
 * goes with its neighbours: embeddings to the first stage, logits to the last. A value that a later stage reads is handed
 * on by every stage between.
 */
int32_t graph_new(const struct plan *p, const struct topology *topo, uint32_t act_dtype,
                  struct graph **out, tn_err *err);
void graph_free(struct graph *g); /* NULL is allowed */

/* Whether the stage behind gets the value. */
bool graph_exports(const struct graph *g, uint32_t value);

/* Whether op `b` reads a value that `a` writes. */
bool graph_feeds(const struct graph_op *a, const struct graph_op *b);

#endif
