/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences of token ids, for calibration and for the gate. */
#ifndef CORE_BUILD_TOKEN_SET_H
#define CORE_BUILD_TOKEN_SET_H

#include "base/err.h"

/* Sequence i is ids[begin[i]..begin[i + 1]). */
struct token_set {
    const int32_t *ids;
    const uint64_t *begin; /* n_seqs + 1 */
    uint64_t n_seqs;
    const char *path; /* the file they come from, for messages; may be NULL */
};

/* Tokens of the longest sequence. */
uint32_t token_set_longest(const struct token_set *t);

/* The set for a model: ids are checked against its vocabulary, and sequences longer than `most` tokens become several. `out`
 * shares ids and path with `t`; free out->begin with mem_free. `flag` names the set in messages. TN_E_RANGE for an id that
 * the model does not have. */
int32_t token_set_fit(const struct token_set *t, const char *flag, uint64_t vocab, uint64_t most,
                      struct token_set *out, tn_err *err);

#endif
