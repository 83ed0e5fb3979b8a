/* SPDX-License-Identifier: Apache-2.0 */
/* The byte alphabet of GPT-2 (bytelevel.h): printable Latin-1 stands for itself, the other 68 bytes for the
 * code points from U+0100 on, in order. Pure functions, any thread. */
#include "bytelevel.h"

#include "base/utf8.h"

static bool printable(uint32_t b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

/* Bytes 0x00-0x20, then 0x7f-0xa0, then 0xad. */
static uint32_t code_point(unsigned char b)
{
    if (printable(b))
        return b;
    if (b <= 0x20)
        return 0x100u + b;
    return b == 0xad ? 0x143u : 0x121u + (b - 0x7fu);
}

size_t bytelevel_char(unsigned char byte, char out[2])
{
    char bytes[4];
    size_t n = utf8_encode(code_point(byte), bytes);

    out[0] = bytes[0];
    out[1] = bytes[1];
    return n;
}

bool bytelevel_byte(uint32_t cp, unsigned char *byte)
{
    if (cp < 0x100 && printable(cp))
        *byte = (unsigned char)cp;
    else if (cp >= 0x100 && cp <= 0x120)
        *byte = (unsigned char)(cp - 0x100);
    else if (cp >= 0x121 && cp <= 0x142)
        *byte = (unsigned char)(cp - 0x121 + 0x7f);
    else if (cp == 0x143)
        *byte = 0xad;
    else
        return false;
    return true;
}

bool bytelevel_decode(const char *text, size_t n, char *out, size_t *out_len)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t k = 0;

    for (size_t i = 0; i < n;) {
        uint32_t cp = p[i];
        size_t used = 1;
        if (cp >= 0x80) {
            if (cp > 0xc5) /* beyond U+017F */
                return false;
            cp = (cp & 0x1f) << 6 | (p[i + 1] & 0x3fu);
            used = 2;
        }
        if (!bytelevel_byte(cp, (unsigned char *)&out[k]))
            return false;
        k++;
        i += used;
    }
    *out_len = k;
    return true;
}
