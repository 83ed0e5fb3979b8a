/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the text room share. */
#ifndef TESTS_TEXT_UTIL_H
#define TESTS_TEXT_UTIL_H

#include "base/mem.h"
#include "check_util.h"
#include "jsontape.h"
#include "nstr.h"
#include "sink.h"
#include "unidata.h"

/* Parses a JSON text; release with tape_release. */
static inline struct tape parse_json(const char *json)
{
    struct tape t;
    tn_err err;

    ck_assert_ok(tape_parse(mem_strdup(json), strlen(json), "test.json", &t, &err), &err);
    return t;
}

/* "0-1 1-3": the span of each character. */
static inline void print_spans(const struct nstr *s, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0, n; i < s->len; i += n) {
        uni_next(s->text + i, &n);
        used += (size_t)snprintf(out + used, size - used, "%s%u-%u", i ? " " : "",
                                 s->align[i].begin, s->align[i].end);
        ck_assert_uint_lt(used, size);
    }
}

/* "7:0-1 3:1-3": id and span of each token. */
static inline void print_tokens(const tn_encoding *e, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < e->count; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%u:%u-%u", i ? " " : "", e->ids[i],
                                 e->spans[i].begin, e->spans[i].end);
        ck_assert_uint_lt(used, size);
    }
}

#endif
