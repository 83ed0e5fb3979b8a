/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.engine on disk, version 1. All integers little-endian. Never change a number here; a new version
 * gets new ones.
 *
 *   offset  size  field
 *        0     8  magic "\x89TENON\r\n": the high bit and CR LF betray transfers that mangle binary files
 *        8     4  version (1)
 *       12     4  byte-order mark 0x01020304
 *       16     8  size of the whole file
 *       24     4  number of sections (n, 1 to 16)
 *       28     4  alignment of sections (4096)
 *       32    16  build id: random, the same in all files of one build
 *       48  40*n  section table: kind u32, flags u32 (0), offset u64, size u64, XXH3-128 digest [16]
 *  48+40*n    16  XXH3-128 digest of all bytes before it
 *
 * The rest of the first 4096 bytes is zero. Sections follow in ascending order without overlap, each at the
 * next multiple of the alignment after the one before; the gaps are zero; the file ends with the last.
 *
 * Sections: weights (raw tensors, each at a multiple of 4096 within the section; absent in an engine with dummy
 * weights), plan (plan_json.h), tensors and meta (JSON, below). Readers skip kinds they do not know.
 *
 *   tensors: [{"name": "...", "dtype": "bfloat16", "dims": [...], "offset": 0, "bytes": 4194304,
 *              "xxh128": "32 hex digits"}, ...]   offset counts from the start of the weights section.
 *            With dummy weights: {"name", "dtype", "dims", "dummy": seed}.
 *   meta:    {"tenon": "0.1.0", "passport": {...}, "limits": {...}, "dtype": ..., ...}, see meta.h
 */
#ifndef CORE_ENGINE_FORMAT_H
#define CORE_ENGINE_FORMAT_H

#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/limits.h"

#define ENGINE_MAGIC "\x89TENON\r\n"
#define ENGINE_VERSION 1u
#define ENGINE_BYTE_ORDER 0x01020304u
#define ENGINE_HEADER_BYTES 4096u

enum engine_section_kind {
    ENGINE_WEIGHTS = 1,
    ENGINE_PLAN = 2,
    ENGINE_TENSORS = 3,
    ENGINE_META = 4
};

struct engine_section {
    uint32_t kind;
    uint64_t offset, size;
    uint8_t digest[XXH128_BYTES];
};

struct engine_header {
    uint64_t file_size;
    uint32_t n_sections;
    uint8_t build_id[16];
    struct engine_section sections[LIMIT_ENGINE_SECTIONS];
};

/* The section of that kind, or NULL. */
const struct engine_section *engine_header_find(const struct engine_header *h, uint32_t kind);

/* Writes the ENGINE_HEADER_BYTES bytes of a header. */
void engine_header_encode(const struct engine_header *h, uint8_t out[ENGINE_HEADER_BYTES]);

/* Reads and checks a header; `size` is the size of the file, of which `data` holds the first
 * min(size, ENGINE_HEADER_BYTES) bytes; `file` is for messages. */
int32_t engine_header_decode(const uint8_t *data, uint64_t size, const char *file,
                             struct engine_header *out, tn_err *err);

#endif
