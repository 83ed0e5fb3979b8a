/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strings with provenance. A string is a slice of a buffer of valid UTF-8; the buffer knows, in runs, which of
 * its bytes are trusted. So slicing, stripping and splitting copy nothing and lose nothing, and appending to a
 * string that ends where its buffer ends extends the buffer in place: a template that collects its output
 * piece by piece takes linear time and memory.
 */
#ifndef TEXT_JINJA_STR_H
#define TEXT_JINJA_STR_H

#include "jinja/value.h"

struct jrun {
    size_t end; /* from the end of the run before */
    bool trusted;
};

struct jbuf {
    char *data;
    size_t len, cap; /* cap 0: the bytes belong to somebody else and the buffer never grows */
    struct jrun *runs;
    size_t run_count, run_cap;
};

#define JSTR_UNKNOWN SIZE_MAX

struct jstr {
    struct jbuf *buf;
    size_t at, len; /* bytes */
    size_t chars;   /* code points, or JSTR_UNKNOWN until somebody asks; known in literals */
};

static inline const char *jstr_data(const struct jstr *s)
{
    return s->buf->data ? s->buf->data + s->at : ""; /* a buffer may have no bytes yet */
}

/* A string over bytes that outlive the render. */
bool jstr_wrap(struct jvm *vm, const char *data, size_t len, bool trusted, struct jvalue *out);
bool jstr_copy(struct jvm *vm, const char *data, size_t len, bool trusted, struct jvalue *out);
/* Trusted, from a C string that outlives the render. */
bool jstr_cstr(struct jvm *vm, const char *text, struct jvalue *out);
/* Bytes [at, at + len) of s, with its trust; markup as `like`. */
bool jstr_sub(struct jvm *vm, struct jvalue like, size_t at, size_t len, struct jvalue *out);
/* a + b without escaping: see the head of this file. */
bool jstr_concat(struct jvm *vm, const struct jstr *a, const struct jstr *b, struct jvalue *out);

/* Code points. */
size_t jstr_chars(const struct jstr *s);
static inline bool jstr_ascii(const struct jstr *s)
{
    return jstr_chars(s) == s->len;
}
/* Byte offset of code point i (i <= chars), and the other way round. */
size_t jstr_offset(const struct jstr *s, size_t i);
size_t jstr_index(const struct jstr *s, size_t offset);
/* Decodes the code point at byte `at`; returns its length. */
size_t jstr_decode(const struct jstr *s, size_t at, uint32_t *cp);
/* Start of the code point that ends before byte `at` > 0. */
size_t jstr_before(const struct jstr *s, size_t at);

bool jstr_is(const struct jstr *s, const char *text);
bool jstr_equal(const struct jstr *a, const struct jstr *b);
int jstr_order(const struct jstr *a, const struct jstr *b); /* by code points */
/* First (or last) place of `what` in bytes [from, to) of s; SIZE_MAX if it is nowhere. Spends steps for the
 * comparisons, so that a pattern made to be slow meets the budget. */
bool jstr_find(struct jvm *vm, const struct jstr *s, size_t from, size_t to,
               const struct jstr *what, size_t *at);
bool jstr_rfind(struct jvm *vm, const struct jstr *s, size_t from, size_t to,
                const struct jstr *what, size_t *at);
/* All bytes are trusted; the byte at offset `at` is. */
bool jstr_trusted(const struct jstr *s);
bool jstr_trusted_at(const struct jstr *s, size_t at);
/* For "%.*s" in messages: at most 200 bytes. */
int jstr_brief(const struct jstr *s);
/* NUL-terminated copy; NULL after filling the error. */
const char *jstr_z(struct jvm *vm, const struct jstr *s);

/* A string under construction. */
struct jbuild {
    struct jvm *vm;
    struct jbuf *buf;
    size_t limit; /* output cap; 0: the memory cap alone */
};

bool jbuild_init(struct jvm *vm, struct jbuild *b);
bool jbuild_bytes(struct jbuild *b, const char *data, size_t n, bool trusted);
bool jbuild_cstr(struct jbuild *b, const char *text, bool trusted);
bool jbuild_char(struct jbuild *b, uint32_t cp, bool trusted);
bool jbuild_pad(struct jbuild *b, uint32_t cp, size_t count, bool trusted);
bool jbuild_str(struct jbuild *b, const struct jstr *s);
bool jbuild_sub(struct jbuild *b, const struct jstr *s, size_t at, size_t len);
/* str(v) and repr(v), in repr.c. */
bool jbuild_value(struct jbuild *b, struct jvalue v);
bool jbuild_repr(struct jbuild *b, struct jvalue v);
bool jbuild_done(struct jbuild *b, struct jvalue *out);

#endif
