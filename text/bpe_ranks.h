/* SPDX-License-Identifier: Apache-2.0 */
/* Merges from ranks of tokens. */
#ifndef TEXT_BPE_RANKS_H
#define TEXT_BPE_RANKS_H

#include <stdint.h>

#include "base/err.h"
#include "bpe.h"
#include "jsontape.h"

/* Adds the merges that the "merge_ranks" value means: "ids", or a list of ranks by id with null for tokens that
 * take part in no merge. The vocabulary is indexed. */
int32_t bpe_rank_merges(struct bpe *b, const struct tape *t, uint32_t node, tn_err *err);

#endif
