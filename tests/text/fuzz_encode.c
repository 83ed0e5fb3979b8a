/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random merges and a random text: the encoder must give what the definition of byte pair encoding gives, and decoding
 * must give the text back. The first bytes choose merges over five letters, the rest is the text.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "naive_bpe.h"
#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LETTERS 5
#define MAX_TOKENS 40
#define MAX_TEXT 400

struct vocabulary {
    char texts[MAX_TOKENS][32];
    uint32_t count;
    struct naive_merge merges[MAX_TOKENS];
    size_t merge_count;
};

static uint32_t token_of(struct vocabulary *v, const char *text)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (strcmp(v->texts[i], text) == 0)
            return i;
    memcpy(v->texts[v->count], text, strlen(text) + 1);
    return v->count++;
}

static void choose_merges(struct vocabulary *v, const uint8_t *data, size_t n)
{
    for (uint32_t i = 0; i < LETTERS; i++)
        token_of(v, (const char[]){(char)('a' + i), '\0'});
    /* A join may be a token already, so that merges can outnumber new tokens. */
    for (size_t i = 0; i + 1 < n && v->count < MAX_TOKENS && v->merge_count < MAX_TOKENS; i += 2) {
        uint32_t left = data[i] % v->count, right = data[i + 1] % v->count;
        char joined[64] = "";
        if (strlen(v->texts[left]) + strlen(v->texts[right]) >= sizeof v->texts[0])
            continue;
        memcpy(joined, v->texts[left], strlen(v->texts[left]));
        memcpy(joined + strlen(joined), v->texts[right], strlen(v->texts[right]));
        v->merges[v->merge_count++] = (struct naive_merge){left, right, token_of(v, joined)};
    }
}

static tn_tokenizer *open_vocabulary(const struct vocabulary *v)
{
    struct strbuf b = STRBUF_INIT;
    tn_tokenizer *t = NULL;
    tn_err err = TN_ERR_INIT;
    size_t len;

    strbuf_puts(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (uint32_t i = 0; i < v->count; i++)
        strbuf_printf(&b, "%s\"%s\":%u", i ? "," : "", v->texts[i], (unsigned)i);
    strbuf_puts(&b, "},\"merges\":[");
    for (size_t i = 0; i < v->merge_count; i++)
        strbuf_printf(&b, "%s\"%s %s\"", i ? "," : "", v->texts[v->merges[i].left],
                      v->texts[v->merges[i].right]);
    strbuf_puts(&b, "]},\"decoder\":{\"type\":\"Fuse\"}}");
    len = b.len;
    if (tokenizer_open_text(strbuf_detach(&b), len, "fuzz", NULL, &t, &err) != TN_OK)
        abort();
    return t;
}

static void compare(const tn_tokenizer *t, const struct vocabulary *v, const uint8_t *data,
                    size_t n)
{
    uint32_t ids[MAX_TEXT];
    char text[MAX_TEXT], *back = NULL;
    tn_err err = TN_ERR_INIT;
    tn_encoding *e = NULL;
    size_t len = n < MAX_TEXT ? n : MAX_TEXT, count, back_len = 0;

    for (size_t i = 0; i < len; i++) {
        ids[i] = data[i] % LETTERS;
        text[i] = (char)('a' + ids[i]);
    }
    count = naive_bpe(v->merges, v->merge_count, ids, len);
    if (tn_encoding_new(&e, &err) != TN_OK)
        return;
    if (tn_encode(t, text, len, NULL, e, &err) != TN_OK || tn_encoding_count(e) != count ||
        (count && memcmp(tn_encoding_ids(e), ids, count * sizeof *ids) != 0))
        abort();
    for (size_t i = 0, at = 0; i < count; at = tn_encoding_spans(e)[i++].end)
        if (tn_encoding_spans(e)[i].begin != at ||
            tn_encoding_spans(e)[i].end != at + strlen(v->texts[ids[i]]))
            abort();
    if (tn_decode(t, ids, count, 0, &back, &back_len, &err) != TN_OK || back_len != len ||
        memcmp(back, text, len) != 0)
        abort();
    tn_text_free(back);
    tn_encoding_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = size > 0 ? data[0] % 64u * 2 : 0;
    struct vocabulary *v = mem_zalloc(sizeof *v);
    tn_tokenizer *t;

    if (!v)
        return 0;
    n = n + 1 < size ? n : size > 0 ? size - 1 : 0;
    choose_merges(v, data + (size > 0), n);
    t = open_vocabulary(v);
    if (size > n + 1)
        compare(t, v, data + 1 + n, size - n - 1);
    tn_tokenizer_close(t);
    mem_free(v);
    return 0;
}
