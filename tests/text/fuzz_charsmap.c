/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as a precompiled character map, that then normalizes a text with every kind of cluster. What comes out is valid UTF-8. */
#include "base64.h"
#include "fuzz_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const char *type, const char *base64, size_t n)
{
    struct strbuf json = STRBUF_INIT;

    strbuf_printf(&json, "{\"normalizer\":{\"type\":\"%s\",\"precompiled_charsmap\":\"", type);
    strbuf_append(&json, base64, n);
    strbuf_puts(&json,
                "\"},\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"?\",\"vocab\":{\"?\":0}}}");
    fuzz_load(&json, false);
    strbuf_release(&json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text;

    uni_init();
    if (size > 1 << 20)
        return 0;
    text = mem_alloc(base64_size(size) + 1);
    if (!text)
        return 0;
    base64_encode((const char *)data, size, text);
    run("Precompiled", text, base64_size(size));
    run("SentencePiece", text, base64_size(size));
    mem_free(text);
    return 0;
}
