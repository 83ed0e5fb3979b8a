/* SPDX-License-Identifier: Apache-2.0 */
#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"

void strbuf_release(struct strbuf *b)
{
    mem_free(b->data);
    *b = (struct strbuf)STRBUF_INIT;
}

void strbuf_reset(struct strbuf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

bool strbuf_reserve(struct strbuf *b, size_t more)
{
    if (b->failed || more > SIZE_MAX - b->len - 1 ||
        !mem_grow(&b->data, &b->cap, b->len + more + 1, 1)) {
        b->failed = true;
        return false;
    }
    return true;
}

void strbuf_append(struct strbuf *b, const void *data, size_t n)
{
    if (!strbuf_reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void strbuf_puts(struct strbuf *b, const char *s)
{
    strbuf_append(b, s, strlen(s));
}

void strbuf_putc(struct strbuf *b, char c)
{
    strbuf_append(b, &c, 1);
}

void strbuf_printf(struct strbuf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !strbuf_reserve(b, (size_t)n))
        return;
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void strbuf_append_escaped(struct strbuf *b, const void *data, size_t n)
{
    const unsigned char *p = data;

    while (n > 0) {
        uint32_t cp;
        size_t used = utf8_decode(p, n, &cp);
        bool control = used == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 ||
                       cp == 0x2029 || (cp >= 0x202a && cp <= 0x202e) ||
                       (cp >= 0x2066 && cp <= 0x2069);
        if (used == 0)
            used = 1;
        if (!control) {
            strbuf_append(b, p, used);
        } else {
            for (size_t i = 0; i < used; i++)
                strbuf_printf(b, "\\x%02x", p[i]);
        }
        p += used;
        n -= used;
    }
}

void strbuf_puts_escaped(struct strbuf *b, const char *s)
{
    strbuf_append_escaped(b, s, strlen(s));
}

void strbuf_put_bytes(struct strbuf *b, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    unsigned u = 0;

    while (v >= 1024.0 && u + 1 < sizeof units / sizeof *units) {
        v /= 1024.0;
        u++;
    }
    if (u == 0)
        strbuf_printf(b, "%u B", (unsigned)bytes);
    else
        strbuf_printf(b, "%.1f %s", v, units[u]);
}

const char *strbuf_str(const struct strbuf *b)
{
    return b->data ? b->data : "";
}

char *strbuf_detach(struct strbuf *b)
{
    char *s;

    if (!b->data && !b->failed)
        strbuf_append(b, "", 0);
    s = b->failed ? NULL : b->data;
    if (!s)
        mem_free(b->data);
    *b = (struct strbuf)STRBUF_INIT;
    return s;
}
