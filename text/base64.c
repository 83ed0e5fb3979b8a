/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 (base64.h). For any thread. */
#include "base64.h"

#include <stdint.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* The value of a character plus 1; 0: none. */
static const uint8_t value_of[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,
    ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64};

/* Four characters of which the last `pad` are '='. */
static bool decode_group(const char *text, size_t pad, char *out)
{
    uint32_t bits = 0;

    for (size_t i = 0; i < 4; i++) {
        uint32_t v = i < 4 - pad ? value_of[(unsigned char)text[i]] : 1;
        if (v == 0 || (i >= 4 - pad && text[i] != '='))
            return false;
        bits = bits << 6 | (v - 1);
    }
    if (bits & ((UINT32_C(1) << (8 * pad)) - 1))
        return false;
    for (size_t i = 0; i < 3 - pad; i++)
        out[i] = (char)(bits >> (16 - 8 * i) & 0xff);
    return true;
}

bool base64_decode(const char *text, size_t n, char *out, size_t *len)
{
    size_t used = 0;

    if (n % 4 != 0)
        return false;
    for (size_t i = 0; i < n; i += 4) {
        size_t pad = 0;
        if (i + 4 == n)
            pad = text[i + 2] == '=' ? 2 : text[i + 3] == '=';
        if (!decode_group(text + i, pad, out + used))
            return false;
        used += 3 - pad;
    }
    *len = used;
    return true;
}

void base64_encode(const char *data, size_t n, char *out)
{
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < n ? (unsigned char)data[i + k] : 0u);
        for (size_t k = 0; k < 4; k++)
            *out++ = i + k <= n ? alphabet[bits >> (18 - 6 * k) & 63] : '=';
    }
}
