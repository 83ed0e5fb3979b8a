/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoders: make text of the tokens' texts, each step after the other.
 *
 * To the reference a step maps a list of texts to a list of texts. Here every step is a machine that takes the list in
 * parts and passes on what no later part can change, so that streams and whole texts take the same way. Parts are
 * whole characters; the end of each text of the list is told, too, since steps depend on it.
 */
#ifndef TEXT_DECODER_H
#define TEXT_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strbuf.h"
#include "jsontape.h"
#include "literal.h"
#include "regex.h"

enum decoder_kind {
    DECODER_BYTE_LEVEL, /* all texts become one: bytes of GPT-2's alphabet */
    DECODER_BYTE_FALLBACK,
    DECODER_METASPACE,
    DECODER_REPLACE, /* a literal or a regex by a text, in each text */
    DECODER_FUSE,
    DECODER_STRIP,
    DECODER_WORD_PIECE,
    DECODER_SUFFIX, /* BPEDecoder */
    DECODER_CTC,
    DECODER_JOIN,    /* no decoder in the file: spaces between all texts */
    DECODER_CLEAN_UP /* clean_up_tokenization_spaces, over the fused text */
};

struct decoder_step {
    enum decoder_kind kind;
    struct literal
        literal; /* REPLACE, WORD_PIECE: the prefix, SUFFIX: the suffix, CTC: the padding; may have no text */
    struct regex *regex; /* REPLACE; owned; NULL with a literal */
    char *content;       /* REPLACE: what comes in place, CTC: the word delimiter; owned */
    size_t content_len;
    uint32_t cp;          /* METASPACE, STRIP: the character */
    uint32_t start, stop; /* STRIP: how many at either end */
    bool drop_first;      /* METASPACE: the first text's are dropped */
    bool clean;           /* WORD_PIECE, CTC */
};

/* The steps of a tokenizer. Immutable once loaded, for any number of threads. */
struct decoder {
    struct decoder_step *steps;
    size_t count, cap;
};

/* Reads the "decoder" value; TAPE_NONE gives the JOIN step. On failure release it, too. */
int32_t decoder_load(const struct tape *t, uint32_t node, struct decoder *out, tn_err *err);
void decoder_release(struct decoder *d); /* zeroed is allowed */

/* One list of texts on its way; used by one thread at a time. */
struct decoding;

/* `d` must outlive it. */
int32_t decoding_new(const struct decoder *d, bool clean_up, struct decoding **out, tn_err *err);
void decoding_free(struct decoding *c); /* NULL is allowed */
void decoding_reset(struct decoding *c);

/* Takes the next text of the list and appends to `out` what is certain now. */
int32_t decoding_push(struct decoding *c, const char *text, size_t len, struct strbuf *out,
                      tn_err *err);
/* The list is at its end: appends the rest. Afterwards `c` is as new. */
int32_t decoding_finish(struct decoding *c, struct strbuf *out, tn_err *err);

#endif
