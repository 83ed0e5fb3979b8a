/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences of token ids and the bounds of a model. Plain data; any thread. */
#include "build/token_set.h"

#include <inttypes.h>

#include "base/mem.h"

uint32_t token_set_longest(const struct token_set *t)
{
    uint64_t most = 0;

    for (uint64_t i = 0; i < t->n_seqs; i++)
        most = t->begin[i + 1] - t->begin[i] > most ? t->begin[i + 1] - t->begin[i] : most;
    return (uint32_t)most;
}

static int32_t check_ids(const struct token_set *t, const char *flag, uint64_t vocab, tn_err *err)
{
    for (uint64_t i = 0; i < t->begin[t->n_seqs]; i++) {
        if (t->ids[i] >= 0 && (uint64_t)t->ids[i] < vocab)
            continue;
        err_at(err, TN_E_RANGE, t->path, TN_NO_OFFSET, flag,
               "token %" PRIu64 " is %" PRId32 "; the model has the ids 0 to %" PRIu64, i,
               t->ids[i], vocab - 1);
        err_remedy(err, "give ids of this model's tokenizer");
        return TN_E_RANGE;
    }
    return TN_OK;
}

int32_t token_set_fit(const struct token_set *t, const char *flag, uint64_t vocab, uint64_t most,
                      struct token_set *out, tn_err *err)
{
    uint64_t n = 0, *begin;
    int32_t rc = check_ids(t, flag, vocab, err);

    if (rc != TN_OK)
        return rc;
    for (uint64_t i = 0; i < t->n_seqs; i++)
        n += (t->begin[i + 1] - t->begin[i] + most - 1) / most;
    begin = mem_array((size_t)n + 1, sizeof *begin);
    if (!begin)
        return err_nomem(err, "token ids");
    n = 0;
    for (uint64_t i = 0; i < t->n_seqs; i++)
        for (uint64_t at = t->begin[i]; at < t->begin[i + 1]; at += most)
            begin[n++] = at;
    begin[n] = t->begin[t->n_seqs];
    *out = (struct token_set){t->ids, begin, n, t->path};
    return TN_OK;
}
