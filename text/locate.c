/* SPDX-License-Identifier: Apache-2.0 */
/* Places in a text (locate.h). Each answer walks at most a block from a mark, and forward steps are as long as what they
 * pass, so that all spans of a text together take linear time. One thread at a time. */
#include "locate.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "unidata.h"

void locator_release(struct locator *l)
{
    mem_free(l->marks);
    memset(l, 0, sizeof *l);
}

/* The length of the well-formed part at the front; *ascii tells whether it is ASCII. */
static size_t valid_length(const char *text, size_t len, bool *ascii)
{
    size_t i = 0;

    *ascii = true;
    while (i < len) {
        uint64_t word;
        uint32_t cp;
        size_t n;
        while (len - i >= sizeof word) {
            memcpy(&word, text + i, sizeof word);
            if (word & UINT64_C(0x8080808080808080))
                break;
            i += sizeof word;
        }
        if (i == len)
            break;
        n = utf8_decode(text + i, len - i, &cp);
        if (n == 0)
            break;
        *ascii = *ascii && n == 1;
        i += n;
    }
    return i;
}

static bool repair(const char *text, size_t len, size_t valid, struct strbuf *clean)
{
    strbuf_reset(clean);
    for (size_t at = 0; at < len;) {
        bool ok, partial, ascii;
        strbuf_append(clean, text + at, valid);
        at += valid;
        if (at == len)
            break;
        at += utf8_subpart(text + at, len - at, &ok, &partial);
        strbuf_append(clean, "\xef\xbf\xbd", 3);
        valid = valid_length(text + at, len - at, &ascii);
    }
    return !clean->failed;
}

bool locator_begin(struct locator *l, const char *input, size_t len, struct strbuf *clean)
{
    size_t valid = valid_length(input, len, &l->ascii);

    l->text = l->input = input;
    l->len = l->input_len = len;
    l->mark_count = 0;
    l->at = (struct locate_mark){0, 0, 0};
    if (valid == len)
        return true;
    l->ascii = false;
    if (!repair(input, len, valid, clean))
        return false;
    l->text = strbuf_str(clean);
    l->len = clean->len;
    return true;
}

/* From one character to the next. */
static void step(const struct locator *l, struct locate_mark *m)
{
    size_t n;
    bool valid, partial;

    uni_next(l->text + m->byte, &n);
    m->byte += (uint32_t)n;
    m->chars++;
    if (l->text == l->input)
        m->input = m->byte;
    else
        m->input +=
            (uint32_t)utf8_subpart(l->input + m->input, l->input_len - m->input, &valid, &partial);
}

bool locator_index(struct locator *l)
{
    struct locate_mark m = {0, 0, 0};

    if (l->ascii || l->mark_count > 0)
        return true;
    if (!mem_grow(&l->marks, &l->mark_cap, l->len / LOCATE_BLOCK + 1, sizeof *l->marks))
        return false;
    for (;;) {
        struct locate_mark next = m;
        if (m.byte < l->len)
            step(l, &next);
        while (l->mark_count * LOCATE_BLOCK < next.byte || (m.byte == l->len && l->mark_count == 0))
            l->marks[l->mark_count++] = m;
        if (m.byte == l->len)
            break;
        m = next;
    }
    return true;
}

/* A short way back, as from a token that ends inside a character to the next, which begins inside it. */
static void step_back(struct locator *l, uint32_t byte)
{
    while (l->at.byte > byte && l->at.byte - byte <= 8 && l->text == l->input) {
        l->at.byte = (uint32_t)uni_before(l->text, l->at.byte);
        l->at.input = l->at.byte;
        l->at.chars--;
    }
}

uint32_t locate_chars(struct locator *l, uint32_t byte)
{
    if (l->ascii)
        return byte;
    step_back(l, byte);
    if (byte < l->at.byte || byte - l->at.byte > LOCATE_BLOCK) {
        size_t block = byte / LOCATE_BLOCK;
        l->at = l->marks[block < l->mark_count ? block : l->mark_count - 1];
    }
    while (l->at.byte < byte && l->at.byte < l->len)
        step(l, &l->at);
    return l->at.chars;
}

/* The last mark for which `measure` is at most `value`. */
static struct locate_mark mark_before(const struct locator *l, bool by_input, uint32_t value)
{
    size_t lo = 0, hi = l->mark_count;

    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        uint32_t here = by_input ? l->marks[mid].input : l->marks[mid].chars;
        if (here <= value)
            lo = mid;
        else
            hi = mid;
    }
    return l->marks[lo];
}

uint32_t locate_byte(struct locator *l, uint32_t chars)
{
    if (l->ascii)
        return chars < l->len ? chars : (uint32_t)l->len;
    if (chars < l->at.chars || chars - l->at.chars > LOCATE_BLOCK / 4)
        l->at = mark_before(l, false, chars);
    while (l->at.chars < chars && l->at.byte < l->len)
        step(l, &l->at);
    return l->at.byte;
}

uint32_t locate_input(struct locator *l, uint32_t byte)
{
    if (l->text == l->input)
        return byte;
    locate_chars(l, byte);
    return l->at.input;
}

uint32_t locate_from_input(struct locator *l, uint32_t input)
{
    if (l->text == l->input)
        return input;
    if (input < l->at.input || input - l->at.input > LOCATE_BLOCK / 4)
        l->at = mark_before(l, true, input);
    while (l->at.input < input && l->at.byte < l->len)
        step(l, &l->at);
    return l->at.byte;
}
