/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model is to the rest of the room: it turns one piece of normalized, pre-tokenized text into tokens.
 *
 * A model embeds `struct model` as its first member. Once loaded it is immutable, and any number of threads use it
 * at once, each with its own work memory, where caches of words belong, too. What a model gives for a piece must
 * depend on the piece alone, never on what the work memory has seen before.
 */
#ifndef TEXT_MODEL_H
#define TEXT_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "jsontape.h"
#include "sink.h"
#include "vocab.h"

struct model;
struct model_work; /* each model has its own idea of it */

/* What the loader knows of the steps around the model. */
struct model_hints {
    /* Pieces are raw bytes, which the vocabulary spells in GPT-2's alphabet (bytelevel.h): the step that would have made
     * characters of them is left out for speed. Only set for types that have `takes_bytes`. */
    bool bytes;
};

struct model_type {
    const char *name; /* "type" in tokenizer.json */
    bool takes_bytes;

    /* Whether a "model" without "type" is of this kind, by the members it has. */
    bool (*fits)(const struct tape *t, uint32_t node);

    /* Reads the "model" object. The tape goes away afterwards: copy what is kept. The error names file and field. */
    int32_t (*load)(const struct tape *t, uint32_t node, const struct model_hints *hints,
                    struct model **out, tn_err *err);
    void (*free)(struct model *m);

    /* Memory for one thread at a time; work_free takes NULL. */
    int32_t (*work_new)(const struct model *m, struct model_work **out, tn_err *err);
    void (*work_free)(struct model_work *w);

    /*
     * Splits a piece (valid UTF-8, or any bytes under hints.bytes; len > 0, at most LIMIT_WORK_BYTES) into tokens, in
     * order, by sink_reserve and sink_put with the bytes of the piece that each covers. Time n log n in len at worst.
     * What was put before a failure is thrown away by the caller.
     */
    int32_t (*encode)(const struct model *m, struct model_work *w, const char *text, size_t len,
                      const struct sink *s, tn_err *err);
};

/* The head of every model. */
struct model {
    const struct model_type *type;
    struct vocab vocab; /* indexed; released by type->free */
};

/* The models there are, each in the file of its name. */
extern const struct model_type model_bpe, model_unigram, model_wordpiece, model_wordlevel;

/* Reads the "model" value of a tokenizer.json. TN_E_UNSUPPORTED for a type that is not known. */
int32_t model_load(const struct tape *t, uint32_t node, const struct model_hints *hints,
                   struct model **out, tn_err *err);

/* The type that model_load would use; NULL if there is none. */
const struct model_type *model_type_of(const struct tape *t, uint32_t node);

static inline void model_free(struct model *m) /* NULL is allowed */
{
    if (m)
        m->type->free(m);
}

#endif
