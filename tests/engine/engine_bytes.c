/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine_bytes.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define COUNT_AT 24
#define TABLE_AT 48
#define ENTRY 40

void engine_lay_out(const struct section_bytes *s, uint32_t n, struct engine_header *h)
{
    *h = (struct engine_header){.file_size = ENGINE_HEADER_BYTES, .n_sections = n};
    for (uint32_t i = 0; i < n; i++) {
        struct engine_section *to = &h->sections[i];
        to->kind = s[i].kind;
        to->offset = align_up(h->file_size, ENGINE_ALIGN);
        to->size = s[i].hole + s[i].size;
        xxh128_of(s[i].data, s[i].size, to->digest);
        h->file_size = to->offset + to->size;
    }
}

unsigned char *engine_bytes(const struct section_bytes *s, uint32_t n, size_t *size)
{
    struct engine_header h;
    unsigned char *file;

    engine_lay_out(s, n, &h);
    file = aligned_alloc(ENGINE_ALIGN, (size_t)align_up(h.file_size, ENGINE_ALIGN));
    if (!file)
        return NULL;
    memset(file, 0, (size_t)align_up(h.file_size, ENGINE_ALIGN));
    engine_header_encode(&h, file);
    for (uint32_t i = 0; i < n; i++)
        if (s[i].size)
            memcpy(file + h.sections[i].offset, s[i].data, s[i].size);
    *size = (size_t)h.file_size;
    return file;
}

static uint64_t get(const unsigned char *p, int n)
{
    uint64_t v = 0;

    while (n-- > 0)
        v = v << 8 | p[n];
    return v;
}

void engine_reseal(unsigned char *file, size_t size)
{
    uint64_t n = size < ENGINE_HEADER_BYTES ? 0 : get(file + COUNT_AT, 4);
    size_t end;

    if (n < 1 || n > LIMIT_ENGINE_SECTIONS)
        return;
    for (uint64_t i = 0; i < n; i++) {
        unsigned char *p = file + TABLE_AT + ENTRY * i;
        uint64_t offset = get(p + 8, 8), bytes = get(p + 16, 8);
        if (offset <= size && bytes <= size - offset)
            xxh128_of(file + offset, (size_t)bytes, p + 24);
    }
    end = TABLE_AT + ENTRY * (size_t)n;
    xxh128_of(file, end, file + end);
}
