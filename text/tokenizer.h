/* SPDX-License-Identifier: Apache-2.0 */
/* An open tokenizer: what tokenizer.json and the files beside it say. Immutable but for its pool of scratch memory. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "added.h"
#include "decoder.h"
#include "locate.h"
#include "model.h"
#include "normalize.h"
#include "pieces.h"
#include "postproc.h"
#include "pretok.h"
#include "settings.h"
#include "tenon_text.h"

/* What one call of tn_encode works with. */
struct scratch {
    struct scratch *next; /* in the pool */
    struct model_work *model;
    struct regex_scratch *regex;
    struct normalize_work normalize;
    struct pieces pieces;
    struct added_matches matches;
    struct nstr spare, normal;
    struct strbuf clean; /* the input, made valid UTF-8 */
    struct locator places;
    tn_text_range *trusted; /* the caller's, as parts of the clean text */
    size_t trusted_cap;
};

struct tn_tokenizer {
    struct model *model;
    struct added added;
    struct normalizer *normalizer; /* NULL: none */
    struct pretok_list pretok;
    struct postproc postproc;
    struct decoder decoder;
    struct settings settings;
    uint32_t vocab_size;

    pthread_mutex_t lock; /* guards what follows */
    struct scratch *pool;
    size_t pooled;
};

/* Takes a scratch from the pool or makes one; gives it back. */
int32_t scratch_take(struct tn_tokenizer *t, struct scratch **out, tn_err *err);
void scratch_give(struct tn_tokenizer *t, struct scratch *s);

/* Opens the text of a tokenizer.json. Takes over `json` (from mem_alloc; len + 1 bytes) in any case; `file` is its name in
 * messages; `dir` has the files beside it, NULL: there are none. */
int32_t tokenizer_open_text(char *json, size_t len, const char *file, const char *dir,
                            tn_tokenizer **out, tn_err *err);

/* Reads a parsed tokenizer.json into an empty tokenizer. */
int32_t tokenizer_load(struct tn_tokenizer *t, const struct tape *json, tn_err *err);

/* The text of an id as decoding sees it; false for an unused id. *special: skipping special tokens skips it. */
bool tokenizer_text(const struct tn_tokenizer *t, uint32_t id, const char **text, size_t *len,
                    bool *special);

#endif
