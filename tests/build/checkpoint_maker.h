/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors files and checkpoint directories for tests: headers as text, so that they can say anything. */
#ifndef TESTS_BUILD_CHECKPOINT_MAKER_H
#define TESTS_BUILD_CHECKPOINT_MAKER_H

#include <stddef.h>
#include <stdint.h>

/* The bytes of a file whose header is `header` and which has `data_bytes` bytes of data, 1, 2, 3 ... modulo 251.
 * From mem_alloc, exactly as large as said, so that ASan sees an overread. */
unsigned char *st_bytes(const char *header, size_t data_bytes, size_t *size);

/* Writes such a file. */
void st_file(const char *dir, const char *name, const char *header, size_t data_bytes);

/* Byte `i` of the data. */
static inline unsigned char st_byte(uint64_t i)
{
    return (unsigned char)(i % 251 + 1);
}

/* A text file. */
void text_file(const char *dir, const char *name, const char *text);

#endif
