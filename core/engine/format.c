/* SPDX-License-Identifier: Apache-2.0 */
/* The fixed part of model.engine: encoding, and decoding that trusts nothing. */
#include "engine/format.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"

#define TABLE_AT 48u
#define ENTRY 40u

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static void put64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

const struct engine_section *engine_header_find(const struct engine_header *h, uint32_t kind)
{
    for (uint32_t i = 0; i < h->n_sections; i++)
        if (h->sections[i].kind == kind)
            return &h->sections[i];
    return NULL;
}

void engine_header_encode(const struct engine_header *h, uint8_t out[ENGINE_HEADER_BYTES])
{
    uint32_t end = TABLE_AT + ENTRY * h->n_sections;

    memset(out, 0, ENGINE_HEADER_BYTES);
    memcpy(out, ENGINE_MAGIC, 8);
    put32(out + 8, ENGINE_VERSION);
    put32(out + 12, ENGINE_BYTE_ORDER);
    put64(out + 16, h->file_size);
    put32(out + 24, h->n_sections);
    put32(out + 28, ENGINE_ALIGN);
    memcpy(out + 32, h->build_id, sizeof h->build_id);
    for (uint32_t i = 0; i < h->n_sections; i++) {
        uint8_t *p = out + TABLE_AT + ENTRY * i;
        put32(p, h->sections[i].kind);
        put64(p + 8, h->sections[i].offset);
        put64(p + 16, h->sections[i].size);
        memcpy(p + 24, h->sections[i].digest, XXH128_BYTES);
    }
    xxh128_of(out, end, out + end);
}

/* -- Decoding ------------------------------------------------------------------------------------- */

static int32_t refuse(tn_err *err, int32_t code, const char *file, uint64_t offset,
                      const char *field, uint64_t value, const char *why)
{
    return err_at(err, code, file, offset, field, "is 0x%" PRIx64 ": %s", value, why);
}

/* What is left of the magic when CR LF became LF, bit 7 was cleared, or the first byte was dropped. */
static bool mangled_magic(const uint8_t *d, uint64_t size)
{
    return size >= 16 && (memcmp(d, "TENON", 5) == 0 || memcmp(d + 1, "TENON", 5) == 0);
}

static int32_t check_prefix(const uint8_t *d, uint64_t size, const char *file, tn_err *err)
{
    if (mangled_magic(d, size) && memcmp(d, ENGINE_MAGIC, 8) != 0)
        return err_at(err, TN_E_FORMAT, file, 0, "magic",
                      "is damaged as text-mode transfers damage files; copy it again as binary");
    if (size < 16 || memcmp(d, ENGINE_MAGIC, 8) != 0)
        return err_at(err, TN_E_FORMAT, file, 0, "magic",
                      "the first of %" PRIu64 " bytes are not those of a Tenon engine", size);
    if (get32(d + 12) != ENGINE_BYTE_ORDER)
        return refuse(err, TN_E_FORMAT, file, 12, "byte order", get32(d + 12),
                      "written on a machine of the other byte order, or damaged");
    if (get32(d + 8) != ENGINE_VERSION) {
        err_at(err, TN_E_VERSION, file, 8, "version",
               "is %" PRIu32 "; this program reads version %u", get32(d + 8), ENGINE_VERSION);
        err_remedy(err, "build the engine again with this tenon, or use the tenon that built it");
        return TN_E_VERSION;
    }
    return TN_OK;
}

static int32_t check_counts(const uint8_t *d, uint64_t size, const char *file, tn_err *err)
{
    uint32_t n;

    if (size < ENGINE_HEADER_BYTES)
        return err_at(err, TN_E_FORMAT, file, size, "header",
                      "the file ends after %" PRIu64 " bytes; the header alone has %u", size,
                      ENGINE_HEADER_BYTES);
    n = get32(d + 24);
    if (n < 1 || n > LIMIT_ENGINE_SECTIONS)
        return refuse(err, TN_E_FORMAT, file, 24, "section count", n, "1 to 16 are allowed");
    if (get32(d + 28) != ENGINE_ALIGN)
        return refuse(err, TN_E_FORMAT, file, 28, "alignment", get32(d + 28), "must be 4096");
    return TN_OK;
}

static int32_t check_digest(const uint8_t *d, uint32_t n, const char *file, tn_err *err)
{
    uint32_t end = TABLE_AT + ENTRY * n;
    uint8_t digest[XXH128_BYTES];

    xxh128_of(d, end, digest);
    if (memcmp(digest, d + end, sizeof digest) != 0) {
        err_at(err, TN_E_DIGEST, file, end, "header digest",
               "does not match: the header is damaged");
        err_remedy(err, "copy the engine again, or build it again");
        return TN_E_DIGEST;
    }
    for (uint32_t i = end + XXH128_BYTES; i < ENGINE_HEADER_BYTES; i++)
        if (d[i] != 0)
            return refuse(err, TN_E_FORMAT, file, i, "header padding", d[i], "must be 0");
    return TN_OK;
}

/* Sections ascend, do not overlap, leave no holes but alignment, and end inside the file. */
static int32_t decode_section(const uint8_t *p, uint64_t at, const char *file, uint64_t *expect,
                              struct engine_section *s, tn_err *err)
{
    uint64_t end;

    s->kind = get32(p);
    s->offset = get64(p + 8);
    s->size = get64(p + 16);
    memcpy(s->digest, p + 24, XXH128_BYTES);
    if (get32(p + 4) != 0)
        return refuse(err, TN_E_VERSION, file, at + 4, "section flags", get32(p + 4), "must be 0");
    if (s->offset != *expect)
        return refuse(err, TN_E_FORMAT, file, at + 8, "section offset", s->offset,
                      "sections must follow each other at multiples of 4096");
    if (!checked_add(s->offset, s->size, &end) || !checked_align(end, ENGINE_ALIGN, expect))
        return refuse(err, TN_E_FORMAT, file, at + 16, "section size", s->size, "overflows");
    return TN_OK;
}

int32_t engine_header_decode(const uint8_t *d, uint64_t size, const char *file,
                             struct engine_header *out, tn_err *err)
{
    struct engine_header h = {0};
    uint64_t expect = ENGINE_HEADER_BYTES, end = 0;
    int32_t rc;

    if ((rc = check_prefix(d, size, file, err)) != TN_OK ||
        (rc = check_counts(d, size, file, err)) != TN_OK ||
        (rc = check_digest(d, get32(d + 24), file, err)) != TN_OK)
        return rc;
    h.file_size = get64(d + 16);
    h.n_sections = get32(d + 24);
    memcpy(h.build_id, d + 32, sizeof h.build_id);
    for (uint32_t i = 0; i < h.n_sections; i++) {
        uint64_t at = TABLE_AT + (uint64_t)ENTRY * i;
        rc = decode_section(d + at, at, file, &expect, &h.sections[i], err);
        if (rc != TN_OK)
            return rc;
        for (uint32_t j = 0; j < i; j++)
            if (h.sections[j].kind == h.sections[i].kind)
                return refuse(err, TN_E_FORMAT, file, at, "section kind", h.sections[i].kind,
                              "stands twice");
        end = h.sections[i].offset + h.sections[i].size;
    }
    if (h.file_size != end)
        return refuse(err, TN_E_FORMAT, file, 16, "file size", h.file_size,
                      "does not match the section table");
    if (size != h.file_size) {
        err_at(err, TN_E_FORMAT, file, size < h.file_size ? size : h.file_size, "file size",
               "the file has %" PRIu64 " bytes, its header says %" PRIu64 ": it is %s", size,
               h.file_size, size < h.file_size ? "truncated" : "followed by foreign bytes");
        err_remedy(err, "copy the engine again");
        return TN_E_FORMAT;
    }
    *out = h;
    return TN_OK;
}
