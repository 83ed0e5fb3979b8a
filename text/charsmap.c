/* SPDX-License-Identifier: Apache-2.0 */
/* Character maps (charsmap.h). The trie comes from outside: each step of a search is checked against the array's bounds.
 * Immutable once loaded, for any thread. */
#include "charsmap.h"

#include "base/mem.h"
#include "base/utf8.h"

/* darts-clone's unit: bits 0-7 and 31 are the label, 8 tells that a value follows, 9 scales the offset in bits 10-30. */
static uint32_t unit_label(uint32_t u)
{
    return u & (UINT32_C(1) << 31 | 0xff);
}

static uint32_t unit_offset(uint32_t u)
{
    return (u >> 10) << ((u & (UINT32_C(1) << 9)) >> 6);
}

static uint32_t read_u32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;

    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void scan_ascii(struct charsmap *m)
{
    for (unsigned c = 1; c < 128; c++) {
        char text = (char)c;
        size_t len;
        m->ascii[c] = charsmap_find(m, &text, 1, &len) != NULL;
        m->touches_ascii = m->touches_ascii || m->ascii[c];
    }
}

int32_t charsmap_load(const char *data, size_t n, struct charsmap *out, tn_err *err)
{
    struct charsmap m = {NULL, 0, NULL, 0, false, {0}};
    size_t size = n >= 4 ? read_u32(data) : 0;

    m.unit_count = size / 4;
    if (m.unit_count == 0 || n - 4 < 4 * m.unit_count)
        return tn_err_set(err, TN_E_FORMAT,
                          "the character map has %zu bytes and states a trie of %zu", n, size);
    m.texts_len = n - 4 - 4 * m.unit_count;
    data += 4;
    if (!utf8_valid(data + 4 * m.unit_count, m.texts_len))
        return tn_err_set(err, TN_E_FORMAT, "the character map has texts that are not UTF-8");
    m.units = mem_array(m.unit_count, sizeof *m.units);
    m.texts = mem_alloc(m.texts_len + 1);
    if (!m.units || !m.texts) {
        charsmap_release(&m);
        return err_nomem(err, "a character map");
    }
    for (size_t i = 0; i < m.unit_count; i++)
        m.units[i] = read_u32(data + 4 * i);
    memcpy(m.texts, data + 4 * m.unit_count, m.texts_len);
    m.texts[m.texts_len] = '\0';
    scan_ascii(&m);
    *out = m;
    return TN_OK;
}

void charsmap_release(struct charsmap *m)
{
    mem_free(m->units);
    mem_free(m->texts);
    memset(m, 0, sizeof *m);
}

/* The text that begins at `at`; NULL if that is outside or inside a character. */
static const char *text_at(const struct charsmap *m, size_t at, size_t *len)
{
    if (at > m->texts_len || ((unsigned char)m->texts[at] & 0xc0) == 0x80)
        return NULL;
    *len = strlen(m->texts + at);
    return m->texts + at;
}

/* The text of the shortest or longest key at the head of `text`. */
static const char *search(const struct charsmap *m, const char *text, size_t len, bool longest,
                          size_t *out_len, size_t *key_len)
{
    const char *found = NULL;
    size_t at = unit_offset(m->units[0]);

    for (size_t i = 0; i < len && text[i] != '\0'; i++) {
        unsigned char c = (unsigned char)text[i];
        uint32_t u;
        at ^= c;
        if (at >= m->unit_count)
            break;
        u = m->units[at];
        if (unit_label(u) != c)
            break;
        at ^= unit_offset(u);
        /* A key that ends inside a character is nobody's. */
        if ((u >> 8 & 1) && (!longest || i + 1 == len || (text[i + 1] & 0xc0) != 0x80)) {
            size_t value_len;
            const char *value = at < m->unit_count
                                    ? text_at(m, m->units[at] & ~(UINT32_C(1) << 31), &value_len)
                                    : NULL;
            if (value) {
                found = value;
                *out_len = value_len;
                *key_len = i + 1;
            }
            if (!longest)
                break;
        }
    }
    return found;
}

const char *charsmap_find(const struct charsmap *m, const char *text, size_t len, size_t *out_len)
{
    size_t key_len;

    return search(m, text, len, false, out_len, &key_len);
}

const char *charsmap_longest(const struct charsmap *m, const char *text, size_t len,
                             size_t *out_len, size_t *key_len)
{
    return search(m, text, len, true, out_len, key_len);
}
