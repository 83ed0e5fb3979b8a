/* SPDX-License-Identifier: Apache-2.0 */
/* Data for calibration and evaluation: files of text or of token ids become sequences of ids. */
#ifndef APPS_TOKENS_H
#define APPS_TOKENS_H

#include "api/tools.h"

struct tokens {
    struct tool_tokens set; /* points into the rest */
    int32_t *ids;
    uint64_t *begin;
    size_t n_ids, cap_ids, n_seqs, cap_begin;
};

struct tokens_options {
    const char *path;
    const char *tokenizer; /* directory; for text */
    uint32_t max_len;      /* tokens of a sequence */
    uint32_t max_seqs;     /* chosen at random from those there are; 0: all, in order */
    uint64_t seed;
};

/*
 * NAME.jsonl: one object per line, whose "text" is a sequence, cut at max_len. NAME.u16, NAME.i32: little-endian ids, cut into
 * sequences of max_len. Anything else: plain text, tokenized and cut likewise. Release in any case of success.
 */
int32_t tokens_read(const struct tokens_options *o, struct tokens *out, tn_err *err);
void tokens_release(struct tokens *t);

#endif
