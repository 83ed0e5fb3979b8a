/* SPDX-License-Identifier: Apache-2.0 */
/* The wire format of Protocol Buffers, as far as SentencePiece's model files need it: a message is a row of fields. */
#ifndef TEXT_WIRE_H
#define TEXT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wire {
    const char *begin, *p, *end;
    bool broken; /* a field did not fit into the message, or had no known type */
};

struct wire_field {
    uint32_t number;
    uint8_t type;     /* WIRE_... */
    uint64_t value;   /* VARINT, FIXED32, FIXED64 */
    const char *data; /* BYTES, which may be a message: inside the input */
    size_t len;
};

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

static inline struct wire wire_of(const char *data, size_t len)
{
    return (struct wire){data, data, data + len, false};
}

/* The next field; false at the end or if the message is broken. */
bool wire_next(struct wire *w, struct wire_field *f);

/* A float of a FIXED32 field; false if it is another type or not finite. */
bool wire_float(const struct wire_field *f, float *out);

#endif
