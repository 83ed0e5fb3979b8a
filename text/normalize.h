/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Normalizers: change the text before it is cut into pieces, each step after the other, keeping track of which
 * input bytes each byte stands for (nstr.h).
 *
 * A chain is immutable once loaded, for any number of threads, each with its own work memory. To add a step, write a
 * `struct normalize_type` in a normalize_*.c and name it in the table of normalize.c.
 */
#ifndef TEXT_NORMALIZE_H
#define TEXT_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "jsontape.h"
#include "nstr.h"
#include "regex.h"
#include "textlimits.h"

struct normalize_step;

/* Memory of one thread; all zero but `regex` at first. */
struct normalize_work {
    struct regex_scratch *regex; /* borrowed; for steps that match */
    struct nstr a, b;            /* between steps; a step does not touch them */
    struct nstr spare;           /* a step may use it, and leaves it in any state */
};
void normalize_work_release(struct normalize_work *w);

/* A kind of step. */
struct normalize_type {
    const char *name; /* "type" in tokenizer.json */

    /* Reads the step's members into s->state (owned; NULL if it has none). The tape goes away afterwards. */
    int32_t (*load)(struct normalize_step *s, const struct tape *t, uint32_t node, tn_err *err);
    void (*release)(struct normalize_step *s); /* frees s->state; may be NULL if there is nothing */

    /*
     * Appends the changed text to `out` (usually through a struct rewrite with rewrite_begin(&r, in, shift, out)).
     * `in` is valid UTF-8 and may be empty; so must the result be. `shift`: the input byte where the view begins by
     * the reference's reckoning. Out of memory is told by out->failed; other errors are returned.
     */
    int32_t (*apply)(const struct normalize_step *s, struct normalize_work *w, struct nview in,
                     uint32_t shift, struct nstr *out, tn_err *err);

    /* True if the step certainly leaves this text (valid UTF-8, not empty) as it is, found faster than by applying it;
     * false if it may change. NULL: never known. */
    bool (*keeps)(const struct normalize_step *s, const char *text, size_t len);
};

struct normalize_step {
    const struct normalize_type *type;
    void *state;
};

struct normalizer {
    struct normalize_step steps[LIMIT_STEPS];
    size_t count;
};

/* Reads the "normalizer" value; TAPE_NONE gives NULL: the text stays as it is. */
int32_t normalizer_load(const struct tape *t, uint32_t node, struct normalizer **out, tn_err *err);
void normalizer_free(struct normalizer *n); /* NULL is allowed */

/* Whether all steps certainly leave the text as it is. NULL does. */
bool normalizer_keeps(const struct normalizer *n, const char *text, size_t len);

/* Appends the text after all steps to `out`, which is none of the work memory's. TN_E_LIMIT beyond LIMIT_WORK_BYTES. */
int32_t normalizer_apply(const struct normalizer *n, struct normalize_work *w, struct nview in,
                         uint32_t shift, struct nstr *out, tn_err *err);

#endif
