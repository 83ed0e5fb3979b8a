/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of ids through chains of decoders. The first byte chooses which, the others are ids; what is streamed must be whole
 * characters and in sum what decoding at once gives. A stop matcher behind it must lose nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define META "\xe2\x96\x81"
#define REPLACE(from, to)                                                                          \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"},\"content\":\"" to "\"}"
#define SEQUENCE(...) "{\"type\":\"Sequence\",\"decoders\":[" __VA_ARGS__ "]}"

static const char *const decoders[] = {
    "null",
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"Metaspace\",\"replacement\":\"" META "\",\"prepend_scheme\":\"always\"}",
    "{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}",
    "{\"type\":\"BPEDecoder\",\"suffix\":\"aa\"}",
    "{\"type\":\"CTC\",\"pad_token\":\"a\",\"word_delimiter_token\":\" \",\"cleanup\":true}",
    SEQUENCE(REPLACE(META, " ") ",{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
                                "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"),
    SEQUENCE("{\"type\":\"Fuse\"}," REPLACE("aab", "X") ",{\"type\":\"Strip\",\"content\":\"a\","
                                                        "\"start\":2,\"stop\":3}"),
    SEQUENCE("{\"type\":\"ByteFallback\"},{\"type\":\"ByteLevel\"},{\"type\":\"WordPiece\","
             "\"prefix\":\"\",\"cleanup\":false},{\"type\":\"Replace\",\"pattern\":{\"Regex\":"
             "\"a+|\xc3\xa9\"},\"content\":\"\xe2\x82\xac\"}")};
#define DECODERS (sizeof decoders / sizeof *decoders)

static const char *const texts[] = {
    "a",        "b",        "aa",       "ab",       META,       META "a",       " ",      ".",
    "##",       "##b",      "<0xE2>",   "<0x82>",   "<0xAC>",   "<0x41>",       "<0xFF>", "<0x4",
    "\xc3\xa2", "\xc4\xa4", "\xc2\xac", "\xc4\xa0", "\xc3\xa9", "\xe2\x82\xac", "'m",     "n't",
    "'",        "?"};
#define TEXTS (sizeof texts / sizeof *texts)

static tn_tokenizer *tokenizers[DECODERS]; /* opened once */

static tn_tokenizer *tokenizer_of(size_t which)
{
    struct strbuf b = STRBUF_INIT;
    tn_err err = TN_ERR_INIT;
    size_t len;

    if (tokenizers[which])
        return tokenizers[which];
    strbuf_puts(&b, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (unsigned i = 0; i < TEXTS; i++)
        strbuf_printf(&b, "%s\"%s\":%u", i ? "," : "", texts[i], i);
    strbuf_printf(&b, "}},\"decoder\":%s,\"added_tokens\":[{\"content\":\"##\",\"special\":true}]}",
                  decoders[which]);
    len = b.len;
    if (tokenizer_open_text(strbuf_detach(&b), len, "fuzz", NULL, &tokenizers[which], &err) !=
        TN_OK)
        abort();
    return tokenizers[which];
}

static void stop_loses_nothing(tn_stop *s, const char *text, size_t len, struct strbuf *out)
{
    const char *safe = NULL;
    size_t n = 0;
    int32_t found = -1;
    tn_err err = TN_ERR_INIT;

    if (tn_stop_push(s, text, len, &safe, &n, &found, &err) != TN_OK || found >= 0)
        abort();
    strbuf_append(out, safe, n);
}

static void stream(const tn_tokenizer *t, const uint8_t *ids, size_t n, uint32_t flags,
                   struct strbuf *out, struct strbuf *behind)
{
    static const char *const stops[] = {"\x01never", "aa\x01"};
    static const size_t lens[] = {6, 3};
    tn_err err = TN_ERR_INIT;
    const char *part = NULL;
    size_t len = 0;
    tn_detok *d = NULL;
    tn_stop *s = NULL;

    if (tn_detok_new(t, flags, &d, &err) != TN_OK || tn_stop_new(stops, lens, 2, &s, &err) != TN_OK)
        abort();
    for (size_t i = 0; i <= n; i++) {
        if ((i < n ? tn_detok_push(d, ids[i] % (TEXTS + 1), &part, &len, &err)
                   : tn_detok_flush(d, &part, &len, &err)) != TN_OK ||
            !utf8_valid(part, len))
            abort();
        strbuf_append(out, part, len);
        stop_loses_nothing(s, part, len, behind);
    }
    if (tn_stop_flush(s, &part, &len, &err) != TN_OK)
        abort();
    strbuf_append(behind, part, len);
    tn_stop_free(s);
    tn_detok_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t flags = size > 0 ? data[0] & 3u : 0, ids[512];
    const tn_tokenizer *t = tokenizer_of(size > 0 ? data[0] / 4 % DECODERS : 0);
    struct strbuf out = STRBUF_INIT, behind = STRBUF_INIT;
    tn_err err = TN_ERR_INIT;
    char *whole = NULL;
    size_t n = size > 0 ? size - 1 : 0, len = 0;

    n = n < 512 ? n : 512;
    for (size_t i = 0; i < n; i++)
        ids[i] = data[1 + i] % (TEXTS + 1);
    stream(t, data + (size > 0), n, flags, &out, &behind);
    if (tn_decode(t, ids, n, flags, &whole, &len, &err) != TN_OK || len != out.len ||
        memcmp(whole, strbuf_str(&out), len) != 0 || behind.len != len ||
        memcmp(whole, strbuf_str(&behind), len) != 0)
        abort();
    tn_text_free(whole);
    strbuf_release(&out);
    strbuf_release(&behind);
    return 0;
}
