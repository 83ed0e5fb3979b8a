/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as a file of tiktoken's ranks. */
#include "fuzz_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct strbuf json = STRBUF_INIT;
    tn_err err;

    uni_init();
    if (import_tiktoken("fuzz.tiktoken", (const char *)data, size, NULL, &json, &err) == TN_OK)
        fuzz_load(&json, true);
    strbuf_release(&json);
    return 0;
}
