/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed texts (literal.h). Immutable once made, then for any number of threads. */
#include "literal.h"

#include "base/mem.h"

bool literal_init(struct literal *l, const char *text, size_t n)
{
    size_t k = 0;

    *l = (struct literal){mem_alloc(n), n, mem_array(n + 1, sizeof *l->fail)};
    if (!l->text || !l->fail) {
        literal_release(l);
        return false;
    }
    memcpy(l->text, text, n);
    l->fail[0] = l->fail[1] = 0;
    for (size_t i = 1; i < n; i++) {
        k = literal_step(l, k, text[i]);
        l->fail[i + 1] = (uint32_t)k;
    }
    return true;
}

void literal_release(struct literal *l)
{
    mem_free(l->text);
    mem_free(l->fail);
    *l = (struct literal){NULL, 0, NULL};
}

size_t literal_find(const struct literal *l, const char *text, size_t len, size_t from)
{
    size_t state = 0;

    for (size_t i = from; i < len; i++) {
        if (state == 0) {
            const char *p = memchr(text + i, l->text[0], len - i);
            if (!p)
                return SIZE_MAX;
            i = (size_t)(p - text);
        }
        state = literal_step(l, state, text[i]);
        if (state == l->len)
            return i + 1 - l->len;
    }
    return SIZE_MAX;
}
