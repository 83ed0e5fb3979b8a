/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-tokenizers: cut normalized text into the pieces that the model sees one by one, each after the other over the
 * pieces of the one before.
 */
#ifndef TEXT_PRETOK_H
#define TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "jsontape.h"
#include "literal.h"
#include "pieces.h"
#include "regex.h"
#include "scan.h"

enum pretok_kind {
    PRETOK_SPLIT,      /* by a regex, a literal, or a scanner that stands for a regex */
    PRETOK_BYTE_LEVEL, /* GPT-2's: optional prefix space and split, then bytes as characters */
    PRETOK_METASPACE,
    PRETOK_CHARS, /* splits by a test of single characters */
    PRETOK_WORDS, /* Whitespace: runs of \w, runs of what is neither \w nor \s */
    PRETOK_FIXED  /* so many characters each */
};

enum pretok_chars { CHARS_SPACE, CHARS_PUNCTUATION, CHARS_NUMERIC, CHARS_ONE };

/* What becomes of the delimiters that a split finds. */
enum pretok_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};

enum pretok_prepend { PREPEND_FIRST, PREPEND_NEVER, PREPEND_ALWAYS };

struct pretok {
    enum pretok_kind kind;
    enum pretok_behavior behavior;
    bool invert;
    struct regex *regex; /* SPLIT; owned; NULL if there is a scanner or a literal */
    const struct scanner *scanner;
    struct literal literal; /* SPLIT by a plain text, if it has one */
    bool prefix_space;      /* BYTE_LEVEL */
    bool
        keep_bytes; /* BYTE_LEVEL, last, and the vocabulary's keys are bytes: no characters are made */
    enum pretok_chars chars;
    uint32_t one;                /* CHARS_ONE: the delimiter; METASPACE: the replacement */
    enum pretok_prepend prepend; /* METASPACE */
    bool split;                  /* METASPACE; BYTE_LEVEL: use the regex */
    uint32_t length;             /* FIXED */
};

struct pretok_list {
    struct pretok *items;
    size_t count, cap;
};

void pretok_release(struct pretok_list *l); /* zeroed is allowed */

/* Reads the "pre_tokenizer" value; TAPE_NONE gives an empty list. On failure the list is as far as it got. */
int32_t pretok_load(const struct tape *t, uint32_t node, struct pretok_list *out, tn_err *err);

/* The last step makes bytes of text, so the model may work on bytes (see keep_bytes). */
bool pretok_ends_in_bytes(const struct pretok_list *l);
void pretok_keep_bytes(struct pretok_list *l);

/* Runs all steps over the pieces. */
int32_t pretok_apply(const struct pretok_list *l, struct pieces *p, struct regex_scratch *scratch,
                     tn_err *err);

#endif
