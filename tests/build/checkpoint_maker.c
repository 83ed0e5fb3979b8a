/* SPDX-License-Identifier: Apache-2.0 */
#include "build/checkpoint_maker.h"

#include "base/mem.h"
#include "check_util.h"

unsigned char *st_bytes(const char *header, size_t data_bytes, size_t *size)
{
    size_t n = strlen(header);
    unsigned char *p = mem_alloc(8 + n + data_bytes);

    ck_assert_ptr_nonnull(p);
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(p + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++)
        p[8 + n + i] = st_byte(i);
    *size = 8 + n + data_bytes;
    return p;
}

void st_file(const char *dir, const char *name, const char *header, size_t data_bytes)
{
    char path[512];
    size_t size;
    unsigned char *p = st_bytes(header, data_bytes, &size);

    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, p, size);
    mem_free(p);
}

void text_file(const char *dir, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, text, strlen(text));
}
