/* SPDX-License-Identifier: Apache-2.0 */
/* Opens bytes as a tokenizer.json. What opens must encode and decode texts, and stream the same text that it decodes. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_stream(const tn_tokenizer *t, const uint32_t *ids, size_t n)
{
    tn_err err = TN_ERR_INIT;
    tn_detok *d = NULL;
    char *whole = NULL;
    const char *part = NULL;
    size_t len = 0, part_len = 0, at = 0;
    int32_t rc = tn_decode(t, ids, n, 0, &whole, &len, &err);

    if (rc == TN_OK)
        rc = tn_detok_new(t, 0, &d, &err);
    for (size_t i = 0; rc == TN_OK && i <= n; i++) {
        rc = i < n ? tn_detok_push(d, ids[i], &part, &part_len, &err)
                   : tn_detok_flush(d, &part, &part_len, &err);
        if (rc != TN_OK)
            break;
        if (!utf8_valid(part, part_len) || part_len > len - at ||
            memcmp(whole + at, part, part_len) != 0)
            abort();
        at += part_len;
    }
    if (rc == TN_OK && at != len)
        abort();
    tn_detok_free(d);
    tn_text_free(whole);
}

static void use(const tn_tokenizer *t)
{
    static const char text[] =
        "A b, na\xc3\xafve\n<s> \xe2\x96\x81 12 \xf0\x9f\x98\x80\xff aaaa </s>";
    tn_encode_options o = TN_ENCODE_OPTIONS(TN_ENCODE_ADD_SPECIAL | TN_ENCODE_SPECIAL);
    const uint32_t few[] = {0, 1, 2, 3, 2, 1, 0, 4, 5, 6, 7};
    tn_err err = TN_ERR_INIT;
    tn_encoding *e = NULL;

    check_stream(t, few, sizeof few / sizeof *few);
    if (tn_encoding_new(&e, &err) != TN_OK)
        return;
    if (tn_encode(t, text, sizeof text - 1, &o, e, &err) == TN_OK)
        check_stream(t, tn_encoding_ids(e), tn_encoding_count(e));
    tn_encoding_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_err err = TN_ERR_INIT;
    tn_tokenizer *t = NULL;
    char *json = mem_alloc(size + 1);

    if (!json)
        return 0;
    if (size)
        memcpy(json, data, size);
    json[size] = '\0';
    if (tokenizer_open_text(json, size, "fuzz", NULL, &t, &err) == TN_OK)
        use(t);
    else if (err.code == TN_OK || !err.msg[0])
        abort();
    tn_tokenizer_close(t);
    return 0;
}
