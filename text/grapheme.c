/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grapheme clusters (grapheme.h) by utf8proc, which knows Unicode 15. What came since and extends or is prepended is
 * listed here, so that clusters are those of Unicode 17, as in the reference. Rule 9c (consonant conjuncts) is left out: what
 * it joins is longer than the clusters that anybody here asks for. For any thread.
 */
#include "grapheme.h"

#include <utf8proc.h>

#include "unidata.h"
#include "unitable.h"

/* Extending characters of Unicode 15.1 to 17. */
static const struct unitable_range extending[] = {
    {0x897, 0x897},     {0x1acf, 0x1add},   {0x1ae0, 0x1aeb},   {0x10d69, 0x10d6d},
    {0x10efa, 0x10efc}, {0x113b8, 0x113c0}, {0x113c2, 0x113c2}, {0x113c5, 0x113c5},
    {0x113c7, 0x113ca}, {0x113cc, 0x113d0}, {0x113d2, 0x113d2}, {0x113e1, 0x113e2},
    {0x11b60, 0x11b67}, {0x11f5a, 0x11f5a}, {0x1611e, 0x1612f}, {0x1e5ee, 0x1e5ef},
    {0x1e6e3, 0x1e6e3}, {0x1e6e6, 0x1e6e6}, {0x1e6ee, 0x1e6ef}, {0x1e6f5, 0x1e6f5}};

/* Stands for a character that utf8proc does not know: one of the same class that it does. */
static utf8proc_int32_t known(uint32_t cp)
{
    if (cp == 0x113d1)
        return 0x111c2; /* prepended */
    if (cp == 0x11a3a)
        return 'a'; /* prepended no longer */
    if (cp == 0x897 || cp >= 0x1acf)
        for (size_t i = 0; i < sizeof extending / sizeof *extending; i++)
            if (cp >= extending[i].first && cp <= extending[i].last)
                return 0x300;
    return (utf8proc_int32_t)cp;
}

size_t grapheme_end(const char *text, size_t len, size_t pos)
{
    utf8proc_int32_t state = 0, cp, next;
    size_t n;

    cp = known(uni_next(text + pos, &n));
    pos += n;
    while (pos < len) {
        next = known(uni_next(text + pos, &n));
        if (utf8proc_grapheme_break_stateful(cp, next, &state))
            break;
        cp = next;
        pos += n;
    }
    return pos;
}
