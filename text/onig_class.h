/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of code points: what the character classes of a split regex mean, for onig.c. */
#ifndef TEXT_ONIG_CLASS_H
#define TEXT_ONIG_CLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

/* One bit per code point. */
struct cpset {
    uint64_t bits[0x110000 / 64];
};

/* NULL without memory; empty. Free with mem_free. */
struct cpset *cpset_new(void);
void cpset_add_range(struct cpset *s, uint32_t first, uint32_t last);
void cpset_invert(struct cpset *s); /* surrogates, which no text has, are left as they fall */
void cpset_unite(struct cpset *s, const struct cpset *other);
void cpset_intersect(struct cpset *s, const struct cpset *other);

/* Adds the code points of a property ("L", "Lu", "Letter", "Han", "Alnum", ...); names are compared without case,
 * spaces, '-' and '_'. False if it is not known. */
bool cpset_add_property(struct cpset *s, const char *name, size_t n);

/* Adds those of a bracket expression ([:alpha:]); false if it is not known. */
bool cpset_add_posix(struct cpset *s, const char *name, size_t n);

/* Adds those of \w, \d, \s, \h (by their letter). */
void cpset_add_shorthand(struct cpset *s, char letter);

/*
 * Appends a PCRE2 class that matches exactly the set. Large sets that consist of general categories are written by
 * \p{..} and single ranges, since PCRE2 walks ranges one by one.
 */
void cpset_print(const struct cpset *s, bool negate, struct strbuf *out);

#endif
