/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

/* Range of the second byte after lead byte `b`, and the sequence length; false if `b` leads nothing. */
static bool lead(uint8_t b, size_t *len, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (b >= 0xc2 && b <= 0xdf) {
        *len = 2;
    } else if (b >= 0xe0 && b <= 0xef) {
        *len = 3;
        if (b == 0xe0)
            *lo = 0xa0;
        if (b == 0xed)
            *hi = 0x9f;
    } else if (b >= 0xf0 && b <= 0xf4) {
        *len = 4;
        if (b == 0xf0)
            *lo = 0x90;
        if (b == 0xf4)
            *hi = 0x8f;
    } else {
        return false;
    }
    return true;
}

size_t utf8_subpart(const void *ptr, size_t n, bool *valid, bool *partial)
{
    const uint8_t *p = ptr;
    size_t len, i;
    uint8_t lo, hi;

    *valid = *partial = false;
    if (p[0] < 0x80) {
        *valid = true;
        return 1;
    }
    if (!lead(p[0], &len, &lo, &hi))
        return 1;
    for (i = 1; i < len; i++) {
        if (i == n) {
            *partial = true;
            return i;
        }
        if (p[i] < (i == 1 ? lo : 0x80) || p[i] > (i == 1 ? hi : 0xbf))
            return i;
    }
    *valid = true;
    return len;
}

size_t utf8_decode(const void *ptr, size_t n, uint32_t *cp)
{
    const uint8_t *p = ptr;
    bool valid, partial;
    size_t len;

    if (n == 0)
        return 0;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    len = utf8_subpart(p, n, &valid, &partial);
    if (!valid)
        return 0;
    *cp = len == 2 ? p[0] & 0x1fu : len == 3 ? p[0] & 0x0fu : p[0] & 0x07u;
    for (size_t i = 1; i < len; i++)
        *cp = *cp << 6 | (p[i] & 0x3fu);
    return len;
}

size_t utf8_encode(uint32_t cp, char *out)
{
    uint8_t *p = (uint8_t *)out;

    if (cp < 0x80) {
        p[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        p[0] = (uint8_t)(0xc0 | cp >> 6);
        p[1] = (uint8_t)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        p[0] = (uint8_t)(0xe0 | cp >> 12);
        p[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
        p[2] = (uint8_t)(0x80 | (cp & 0x3f));
        return 3;
    }
    p[0] = (uint8_t)(0xf0 | cp >> 18);
    p[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3f));
    p[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
    p[3] = (uint8_t)(0x80 | (cp & 0x3f));
    return 4;
}

bool utf8_valid(const void *ptr, size_t n)
{
    const uint8_t *p = ptr;

    while (n > 0) {
        uint32_t cp;
        size_t used = utf8_decode(p, n, &cp);
        if (used == 0)
            return false;
        p += used;
        n -= used;
    }
    return true;
}
