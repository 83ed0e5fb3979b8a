/* SPDX-License-Identifier: Apache-2.0 */
/* Puts the bytes of an engine file together from sections, good or bad, with digests that match: so that what a test
 * or a fuzzer damages is met by the check it aims at, not by the digest. */
#ifndef TESTS_ENGINE_ENGINE_BYTES_H
#define TESTS_ENGINE_ENGINE_BYTES_H

#include "engine/format.h"

struct section_bytes {
    uint32_t kind; /* ::engine_section_kind */
    const void *data;
    size_t size;
    uint64_t
        hole; /* bytes of zeros in front of data that engine_bytes does not make; for sparse files */
};

/* Lays out a header for the sections (in order of the file). */
void engine_lay_out(const struct section_bytes *s, uint32_t n, struct engine_header *h);

/* The whole file, 4096-aligned, from aligned_alloc (free it); NULL without memory. */
unsigned char *engine_bytes(const struct section_bytes *s, uint32_t n, size_t *size);

/* Recomputes all digests of a file whose header may say anything. */
void engine_reseal(unsigned char *file, size_t size);

#endif
