/* SPDX-License-Identifier: Apache-2.0 */
/* What a misspelt name was probably meant to be: the nearest by optimal string alignment distance (Damerau
 * 1964 without overlapping edits), or the same name in another group. */
#include <stdio.h>
#include <string.h>

#include "conf/internal.h"

/* Edits from a to b; SIZE_MAX-like for names too long to be ours. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t rows[3][2 * CONF_MAX_NAME + 1];
    size_t n = strlen(a), m = strlen(b);

    if (n > sizeof rows[0] / sizeof rows[0][0] - 1 || m > sizeof rows[0] / sizeof rows[0][0] - 1)
        return UINT32_MAX;
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        const uint32_t *up = rows[(i - 1) % 3], *up2 = rows[(i + 1) % 3];
        uint32_t *row = rows[i % 3];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= m; j++) {
            uint32_t best = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < best)
                best = up[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[n % 3][m];
}

static const char *leaf(const char *path)
{
    const char *dot = strrchr(path, '.');

    return dot ? dot + 1 : path;
}

const char *conf_suggest(const char *path)
{
    const char *best = NULL;
    uint32_t least = UINT32_MAX;

    for (int i = 0; i < CONF_KEYS; i++) {
        const char *row = conf_row((enum conf_key)i)->path;
        uint32_t d = distance(path, row), near_leaf = distance(leaf(path), leaf(row));
        /* A right name in a wrong group is nearer than any misspelling. */
        if (near_leaf == 0)
            return row;
        if (near_leaf + 1 < d)
            d = near_leaf + 1;
        if (d < least) {
            least = d;
            best = row;
        }
    }
    return least <= 2 + strlen(leaf(path)) / 5 ? best : NULL;
}

void conf_suggest_word(const char *choices, const char *word, char *out, size_t size)
{
    uint32_t least = UINT32_MAX;

    out[0] = '\0';
    for (const char *p = choices; *p;) {
        char one[CONF_MAX_NAME];
        size_t n = strcspn(p, "|");
        uint32_t d;
        snprintf(one, sizeof one, "%.*s", (int)n, p);
        d = distance(word, one);
        if (d < least && d <= 1 + n / 3) {
            least = d;
            snprintf(out, size, "%s", one);
        }
        p += n;
        p += *p == '|';
    }
}
