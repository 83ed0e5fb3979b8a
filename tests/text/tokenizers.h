/* SPDX-License-Identifier: Apache-2.0 */
/* Small tokenizers that tests write down as JSON, opened from memory. */
#ifndef TESTS_TEXT_TOKENIZERS_H
#define TESTS_TEXT_TOKENIZERS_H

#include "base/strbuf.h"
#include "bytelevel.h"
#include "text_util.h"
#include "tokenizer.h"

static inline int32_t try_open(const char *json, tn_tokenizer **out, tn_err *err)
{
    *out = NULL;
    return tokenizer_open_text(mem_strdup(json), strlen(json), "tokenizer.json", NULL, out, err);
}

static inline tn_tokenizer *open_json(const char *json)
{
    tn_tokenizer *t;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(try_open(json, &t, &err), &err);
    return t;
}

/*
 * Byte-level BPE: the 256 bytes have their values as ids, then come `more` merges given as JSON pairs (each makes the next
 * id, 256 and on; `tokens` names what they make). `parts` are further members of the file.
 */
static inline void put_byte_vocab(struct strbuf *b, const char *const *tokens)
{
    uint32_t id = 256;

    strbuf_puts(b, "{");
    for (unsigned i = 0; i < 256; i++) {
        char c[2];
        size_t n = bytelevel_char((unsigned char)i, c);
        strbuf_puts(b, i ? ",\"" : "\"");
        if (c[0] == '"' || c[0] == '\\')
            strbuf_putc(b, '\\');
        strbuf_append(b, c, n);
        strbuf_printf(b, "\":%u", i);
    }
    for (; *tokens; tokens++)
        strbuf_printf(b, ",\"%s\":%u", *tokens, (unsigned)id++);
    strbuf_puts(b, "}");
}

static inline tn_tokenizer *open_bytes(const char *const *tokens, const char *merges,
                                       const char *parts)
{
    struct strbuf b = STRBUF_INIT;
    tn_tokenizer *t;

    strbuf_puts(&b, "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":");
    put_byte_vocab(&b, tokens);
    strbuf_printf(&b, ",\"merges\":%s},\"decoder\":{\"type\":\"ByteLevel\"}%s}", merges, parts);
    t = open_json(strbuf_str(&b));
    strbuf_release(&b);
    return t;
}

/* "7:0-1 3:1-3" for a text under options. */
static inline void encode_options(const tn_tokenizer *t, const char *text, size_t len,
                                  const tn_encode_options *o, char *out, size_t size)
{
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(tn_encode(t, text, len, o, e, &err), &err);
    print_tokens(e, out, size);
    tn_encoding_free(e);
}

static inline void ck_encodes(const tn_tokenizer *t, const char *text, uint32_t flags,
                              const char *want)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(flags);
    char got[512];

    encode_options(t, text, strlen(text), &o, got, sizeof got);
    ck_assert_str_eq(got, want);
}

#define BYTE_LEVEL                                                                                 \
    ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":%s}"
#define NO_TOKENS ((const char *const[]){NULL})

#endif
