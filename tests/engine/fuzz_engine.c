/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens and verifies bytes as an engine. The first byte of an input says what the rest is:
 *   'r'  the file as it is;
 *   's'  the file, to be sealed anew, so that damage gets past the digests;
 *   else the texts of plan, tensors and meta, each ended by a NUL, then the bytes of the weights.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/engine_bytes.h"
#include "engine/meta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_file(const void *file, size_t size)
{
    tn_err err = TN_ERR_INIT;
    struct engine_meta meta;
    struct engine *e = NULL;
    volatile unsigned char sink = 0;

    if (engine_open_bytes(file, size, "fuzz", &e, &err) != TN_OK)
        return;
    engine_verify(e, NULL, NULL, &err);
    engine_meta_read(e->meta, "fuzz", plan_hyper_int(e->plan, "vocab_size", 1), &meta, &err);
    for (uint32_t i = 0; i < e->plan->n_weights; i++) {
        const unsigned char *w = engine_weight(e, i);
        if (w)
            sink = (unsigned char)(sink + w[0] + w[e->tensors[i].bytes - 1]);
    }
    engine_close(e);
}

static void try_texts(const uint8_t *data, size_t size)
{
    static const uint32_t kinds[] = {ENGINE_PLAN, ENGINE_TENSORS, ENGINE_META, ENGINE_WEIGHTS};
    struct section_bytes s[4];
    unsigned char *file;
    size_t n;

    for (int i = 0; i < 4; i++) {
        const uint8_t *end = i < 3 && size ? memchr(data, 0, size) : NULL;
        size_t len = end ? (size_t)(end - data) : size;
        s[i] = (struct section_bytes){kinds[i], data, len, 0};
        data += len + (end != NULL);
        size -= len + (end != NULL);
    }
    file = engine_bytes(s, s[3].size ? 4 : 3, &n);
    if (file)
        try_file(file, n);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char *copy;

    if (size == 0)
        return 0;
    if (data[0] == 'r') {
        try_file(data + 1, size - 1);
    } else if (data[0] == 's') {
        copy = malloc(size);
        if (!copy)
            return 0;
        memcpy(copy, data + 1, size - 1);
        engine_reseal(copy, size - 1);
        try_file(copy, size - 1);
        free(copy);
    } else {
        try_texts(data + 1, size - 1);
    }
    return 0;
}
