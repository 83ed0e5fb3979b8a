/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encodes and decodes for differential.py, through the public header only. Reads records from stdin: a letter, a 32-bit count
 * (little-endian, as all numbers) and what it counts; writes an answer for each.
 *
 *   E bytes    tokens with and without the post-processor's: count, then id begin end each; count, then id begin end each
 *   D ids      the text with all tokens, then without the special ones: length and bytes
 *
 * The streaming detokenizer runs beside each D; that it gives another text, half a character, or text later than
 * the same ids did before is told on stderr, and the exit status is 3.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tenon_text.h"

static _Noreturn void give_up(const char *what, const tn_err *err)
{
    fprintf(stderr, "text_driver: %s: %s: %s: %s\n", what, err->file, err->field, err->msg);
    exit(2);
}

static void put(const void *data, size_t n)
{
    if (fwrite(data, 1, n, stdout) != n)
        exit(2);
}

static void put_count(size_t n)
{
    uint32_t v = (uint32_t)n;

    put(&v, sizeof v);
}

static void encode(const tn_tokenizer *t, tn_encoding *e, const char *text, size_t len,
                   uint32_t flags)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(flags | TN_ENCODE_SPECIAL);
    tn_err err;
    size_t n;

    if (tn_encode(t, text, len, &o, e, &err) != TN_OK)
        give_up("encode", &err);
    n = tn_encoding_count(e);
    put_count(n);
    for (size_t i = 0; i < n; i++) {
        put(&tn_encoding_ids(e)[i], 4);
        put(&tn_encoding_spans(e)[i], 8);
    }
}

static void take(char *all, size_t *used, size_t size, const char *text, size_t n)
{
    if (!utf8_valid(text, n)) {
        fputs("text_driver: the stream gave half a character\n", stderr);
        exit(3);
    }
    if (n > size - *used) {
        fputs("text_driver: the stream gave more text than decode does\n", stderr);
        exit(3);
    }
    memcpy(all + *used, text, n);
    *used += n;
}

static void decode(const tn_tokenizer *t, const uint32_t *ids, size_t count, uint32_t flags)
{
    tn_detok *d = NULL;
    char *text, *all;
    const char *part;
    size_t len, used = 0, n;
    tn_err err;

    if (tn_decode(t, ids, count, flags, &text, &len, &err) != TN_OK)
        give_up("decode", &err);
    put_count(len);
    put(text, len);
    all = malloc(len + 1);
    if (!all || tn_detok_new(t, flags, &d, &err) != TN_OK)
        give_up("detok", &err);
    for (size_t i = 0; i < count; i++) {
        if (tn_detok_push(d, ids[i], &part, &n, &err) != TN_OK)
            give_up("push", &err);
        take(all, &used, len, part, n);
    }
    if (tn_detok_flush(d, &part, &n, &err) != TN_OK)
        give_up("flush", &err);
    take(all, &used, len, part, n);
    if (used != len || memcmp(all, text, len) != 0) {
        fprintf(stderr,
                "text_driver: the stream gave another text than decode: \"%.*s\", \"%.*s\"\n",
                (int)used, all, (int)len, text);
        exit(3);
    }
    tn_detok_free(d);
    tn_text_free(text);
    free(all);
}

int main(int argc, char **argv)
{
    tn_tokenizer *t = NULL;
    tn_encoding *e = NULL;
    char *data = NULL;
    uint32_t count;
    tn_err err;
    int kind;

    if (argc != 2) {
        fputs("usage: text_driver TOKENIZER\n", stderr);
        return 2;
    }
    if (tn_tokenizer_open(argv[1], &t, &err) != TN_OK || tn_encoding_new(&e, &err) != TN_OK)
        give_up(argv[1], &err);
    while ((kind = getchar()) != EOF) {
        size_t bytes;
        if (fread(&count, 4, 1, stdin) != 1)
            return 2;
        bytes = kind == 'D' ? (size_t)count * 4 : count;
        data = realloc(data, bytes + 1);
        if (!data || fread(data, 1, bytes, stdin) != bytes)
            return 2;
        if (kind == 'E') {
            encode(t, e, data, count, TN_ENCODE_ADD_SPECIAL);
            encode(t, e, data, count, 0);
        } else {
            decode(t, (const uint32_t *)(const void *)data, count, 0);
            decode(t, (const uint32_t *)(const void *)data, count, TN_DECODE_SKIP_SPECIAL);
        }
    }
    free(data);
    tn_encoding_free(e);
    tn_tokenizer_close(t);
    return 0;
}
