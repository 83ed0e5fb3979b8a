/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Added tokens: texts that are cut out of the input before the model sees it, special ones only where the caller
 * allows it. Those marked `normalized` are looked for in the normalized text, the others in the text as given.
 */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/map.h"
#include "trie.h"

struct added_token {
    char *content; /* owned; NUL behind */
    size_t len;
    char *pattern; /* what the normalizer makes of it, if that differs; owned */
    size_t pattern_len;
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

/* Finds the longest added token that begins at each place: an Aho-Corasick automaton over reversed patterns, so that a
 * scan from the end takes linear time whatever the patterns. */
struct added_matcher {
    struct trie trie;
    uint32_t *fail;    /* by node */
    uint32_t *out;     /* by node: the token whose pattern ends here, the longest; TRIE_NONE */
    size_t patterns;   /* 0: matches nothing, nothing is allocated */
    uint8_t last[256]; /* 1: some pattern ends with this byte */
    bool only_special; /* all patterns are special tokens' */
};

struct added {
    struct added_token *tokens;
    size_t count, cap;
    struct map by_content; /* to the index in tokens */
    struct map by_id;      /* 4 bytes of the id, to the index in tokens */
    struct added_matcher plain, normalized;
    bool any_special;
};

void added_release(struct added *a); /* zeroed is allowed */

/* Adds a copy of the token; the same content again replaces the earlier one, as in the reference. */
int32_t added_put(struct added *a, const struct added_token *token, tn_err *err);

/* Sets what the normalizer makes of token i. */
int32_t added_set_pattern(struct added *a, size_t i, const char *pattern, size_t len, tn_err *err);

/* Builds the matchers. TN_E_FORMAT for an empty pattern or one that two tokens share. */
int32_t added_build(struct added *a, tn_err *err);

/* The token of that content or id, or NULL. */
const struct added_token *added_find(const struct added *a, const char *content, size_t len);
const struct added_token *added_by_id(const struct added *a, uint32_t id);

/* What decoding sees of a token: the pattern if the normalizer changed it. */
const char *added_text(const struct added_token *t, size_t *len);

/* One token found: text bytes begin..end, with the spaces it strips. */
struct added_match {
    uint32_t begin, end;
    uint32_t token; /* index */
};

struct added_matches {
    struct added_match *items;
    size_t count, cap;
};

/* Whether a special token that stands at bytes begin..end of the text may be recognised. */
typedef bool (*added_allow)(void *arg, uint32_t begin, uint32_t end);

/*
 * Finds the tokens of a text (valid UTF-8), leftmost first, longest of those, not overlapping. Special ones are passed
 * over (as plain text) unless `allow` says yes. False without memory.
 */
bool added_search(const struct added *a, const struct added_matcher *m, const char *text,
                  size_t len, added_allow allow, void *arg, struct added_matches *out);

#endif
