/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte string, always NUL-terminated. Appending never fails visibly: when memory runs out the
 * buffer turns `failed`, keeps what it had, and ignores what follows; callers check once at the end. */
#ifndef CORE_BASE_STRBUF_H
#define CORE_BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tenon/abi.h"

struct strbuf {
    char *data; /* NULL until something is appended; use strbuf_str to read */
    size_t len, cap;
    bool failed;
};

#define STRBUF_INIT                                                                                \
    {                                                                                              \
        NULL, 0, 0, false                                                                          \
    }

void strbuf_release(struct strbuf *b);
void strbuf_reset(struct strbuf *b); /* empty, not failed; memory is kept */
bool strbuf_reserve(struct strbuf *b, size_t more);
void strbuf_append(struct strbuf *b, const void *data, size_t n);
void strbuf_puts(struct strbuf *b, const char *s);
void strbuf_putc(struct strbuf *b, char c);
TN_PRINTF(2, 3)
void strbuf_printf(struct strbuf *b, const char *fmt, ...);

/* Text from outside, made fit for a terminal or log: control bytes and invalid UTF-8 become \xNN. */
void strbuf_puts_escaped(struct strbuf *b, const char *s);
void strbuf_append_escaped(struct strbuf *b, const void *data, size_t n);

/* "13.2 GiB", "512 B". */
void strbuf_put_bytes(struct strbuf *b, uint64_t bytes);

/* The text; "" while empty. Valid until the next change. */
const char *strbuf_str(const struct strbuf *b);

/* Hands the memory over (free with mem_free) and leaves the buffer empty; NULL if it failed. */
char *strbuf_detach(struct strbuf *b);

#endif
