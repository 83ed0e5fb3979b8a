/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of normalizers there are, for the table in normalize.c. */
#ifndef TEXT_NORMALIZE_TYPES_H
#define TEXT_NORMALIZE_TYPES_H

#include "normalize.h"

/* normalize_unicode.c */
extern const struct normalize_type normalize_NFC, normalize_NFD, normalize_NFKC, normalize_NFKD;

/* normalize_chars.c: by single characters */
extern const struct normalize_type normalize_lowercase, normalize_strip_accents, normalize_nmt,
    normalize_byte_level, normalize_bert;

/* normalize_edit.c: ends and patterns */
extern const struct normalize_type normalize_strip, normalize_prepend, normalize_replace;

/* normalize_precompiled.c: SentencePiece's character maps */
extern const struct normalize_type normalize_precompiled;

/* normalize_sentencepiece.c: what its own model files ask for */
extern const struct normalize_type normalize_sentencepiece;

/* For types without members. */
int32_t normalize_load_nothing(struct normalize_step *s, const struct tape *t, uint32_t node,
                               tn_err *err);

/* mem_free of the state, for states that own nothing. */
void normalize_release_state(struct normalize_step *s);

#endif
