/* SPDX-License-Identifier: Apache-2.0 */
/* The wire format (wire.h): protobuf.dev, "Encoding". Groups, long out of use, are refused. For any thread. */
#include "wire.h"

#include <math.h>
#include <string.h>

static bool varint(struct wire *w, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        unsigned char b = (unsigned char)*w->p++;
        if (shift == 63 && b > 1)
            return false;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80)
            return true;
    }
    return false;
}

static bool fixed(struct wire *w, unsigned bytes, uint64_t *out)
{
    *out = 0;
    if ((size_t)(w->end - w->p) < bytes)
        return false;
    for (unsigned i = 0; i < bytes; i++)
        *out |= (uint64_t)(unsigned char)*w->p++ << 8 * i;
    return true;
}

static bool body(struct wire *w, struct wire_field *f)
{
    uint64_t len;

    switch (f->type) {
    case WIRE_VARINT: return varint(w, &f->value);
    case WIRE_FIXED64: return fixed(w, 8, &f->value);
    case WIRE_FIXED32: return fixed(w, 4, &f->value);
    case WIRE_BYTES:
        if (!varint(w, &len) || len > (uint64_t)(w->end - w->p))
            return false;
        f->data = w->p;
        f->len = (size_t)len;
        w->p += len;
        return true;
    default: return false;
    }
}

bool wire_next(struct wire *w, struct wire_field *f)
{
    uint64_t key;

    if (w->broken || w->p == w->end)
        return false;
    if (varint(w, &key) && key >> 3 != 0 && key >> 3 <= 0x1fffffff) {
        *f = (struct wire_field){(uint32_t)(key >> 3), (uint8_t)(key & 7), 0, NULL, 0};
        if (body(w, f))
            return true;
    }
    w->broken = true;
    return false;
}

bool wire_float(const struct wire_field *f, float *out)
{
    uint32_t bits = (uint32_t)f->value;

    if (f->type != WIRE_FIXED32)
        return false;
    memcpy(out, &bits, sizeof bits);
    return isfinite(*out);
}
