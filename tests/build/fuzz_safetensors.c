/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parses bytes as a safetensors file. The first byte of an input says how: 'f' the rest is the file; else it is the
 * header's text, to which the length and as many bytes of data as it asks for (up to a limit) are added.
 * What is accepted must tile the file, and every tensor must be found by its name.
 */
#include <stdlib.h>
#include <string.h>

#include "build/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct st_header *h, uint64_t file_size)
{
    uint64_t end = h->n_tensors ? h->tensors[0].offset : file_size;

    for (size_t i = 0; i < h->n_tensors; i++) {
        const struct st_tensor *t = &h->tensors[i];
        if (t->offset != end || t->n_dims > SAFETENSORS_MAX_DIMS ||
            safetensors_find(h, t->name) != t)
            abort();
        end += t->bytes;
    }
    if (end != file_size)
        abort();
}

static void parse(const uint8_t *data, size_t size, uint64_t file_size)
{
    tn_err err = TN_ERR_INIT;
    struct st_header h;

    if (safetensors_parse(data, size, file_size, "fuzz", &h, &err) != TN_OK)
        return;
    check(&h, file_size);
    st_header_release(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size == 0)
        return 0;
    if (data[0] == 'f') {
        parse(data + 1, size - 1, size - 1);
        return 0;
    }
    copy = malloc(size + 7);
    if (!copy)
        return 0;
    for (int i = 0; i < 8; i++)
        copy[i] = (uint8_t)((uint64_t)(size - 1) >> (8 * i));
    memcpy(copy + 8, data + 1, size - 1);
    for (uint64_t bytes = 0; bytes <= 64; bytes++)
        parse(copy, size + 7, size + 7 + bytes);
    free(copy);
    return 0;
}
