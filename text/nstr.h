/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text under normalization: UTF-8, and for each byte the range of input bytes it stands for.
 *
 * The reference describes every change of text as a stream of (character, change), change being 0: takes the place of
 * the next old character; +1: is inserted; -n: takes the place of the next and swallows n more. Offsets in the
 * input follow from that alone, so the same stream gives the same offsets (struct rewrite).
 */
#ifndef TEXT_NSTR_H
#define TEXT_NSTR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Input bytes begin <= b < end. */
struct span {
    uint32_t begin, end;
};

struct nstr {
    char *text;
    struct span *align; /* one per byte */
    size_t len, cap, align_cap;
    bool failed; /* out of memory or beyond LIMIT_WORK_BYTES; appending then does nothing */
};

void nstr_release(struct nstr *s);
void nstr_clear(struct nstr *s);
bool nstr_reserve(struct nstr *s, size_t more);
/* Appends n bytes that stand for themselves: byte i of input text at `at`. Spans cover whole characters. */
void nstr_put_input(struct nstr *s, const char *text, size_t n, uint32_t at);
/* Appends bytes with their spans, or all with one span. */
void nstr_put(struct nstr *s, const char *text, const struct span *align, size_t n);
void nstr_put_as(struct nstr *s, const char *text, size_t n, struct span at);

/* Part of an nstr, or of any memory with the same two arrays. */
struct nview {
    const char *text;
    const struct span *align;
    size_t len;
};

/* Writes a changed `in` to `out`. */
struct rewrite {
    struct nview in;
    size_t off;         /* old bytes consumed */
    struct span origin; /* what a character inserted before everything stands for */
    struct nstr *out;
};

/* `shift`: where the input of this view begins. */
void rewrite_begin(struct rewrite *r, struct nview in, uint32_t shift, struct nstr *out);
/* Drops the next `chars` old characters without writing. */
void rewrite_skip(struct rewrite *r, size_t chars);
/* One step of the stream: `bytes` of a character and its change. */
void rewrite_put(struct rewrite *r, const char *bytes, size_t n, int64_t change);
void rewrite_put_cp(struct rewrite *r, uint32_t cp, int64_t change);
/* Puts n bytes, whole characters, each in the place of the next old one; fast if they are the old ones. */
void rewrite_copy(struct rewrite *r, const char *text, size_t n);

#endif
