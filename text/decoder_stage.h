/* SPDX-License-Identifier: Apache-2.0 */
/* Stages of a decoding: between decoder.c, which chains them, and decoder_stage*.c, which are them. */
#ifndef TEXT_DECODER_STAGE_H
#define TEXT_DECODER_STAGE_H

#include "decoder.h"

/* Where the last stage's text goes, and the first error of any stage. */
struct decode_sink {
    struct strbuf *out;
    int32_t rc;
    tn_err *err;
};

struct decode_stage;

struct decode_ops {
    void (*put)(struct decode_stage *s, const char *text, size_t len); /* whole characters */
    void (*end)(struct decode_stage *s);                               /* of a text of the list */
    void (*finish)(struct decode_stage *s); /* of the list; the next stage is told by the chain */
};

struct decode_stage {
    const struct decoder_step *step;
    const struct decode_ops *ops;
    struct decode_stage *next; /* NULL: the sink */
    struct decode_sink *sink;
    struct regex_scratch *regex;
    struct decoder_step own; /* of stages that no file names */

    struct strbuf held;   /* not certain yet */
    struct strbuf before; /* a second memory, of some */
    uint64_t index;       /* texts that ended */
    size_t state;         /* each stage's own */
    bool flag;            /* each stage's own */
};

/* Hands text on; the end of a text; an error, of which the first counts. */
void stage_emit(struct decode_stage *s, const char *text, size_t len);
void stage_emit_end(struct decode_stage *s);
void stage_fail(struct decode_stage *s, int32_t rc);

/* Empties a memory; that it had failed is not forgotten. */
void stage_clear(struct decode_stage *s, struct strbuf *b);

extern const struct decode_ops stage_byte_level, stage_byte_fallback, stage_metaspace,
    stage_replace, stage_replace_regex, stage_fuse, stage_strip, stage_word_piece, stage_suffix,
    stage_ctc, stage_join;

#endif
