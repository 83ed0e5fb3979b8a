/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzz targets of importers do with an import: load the parts it describes, and encode. */
#ifndef TESTS_FUZZ_IMPORT_H
#define TESTS_FUZZ_IMPORT_H

#include <stdlib.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "import.h"
#include "model.h"
#include "normalize.h"
#include "unidata.h"

static inline void fuzz_encode(const struct model *m, const char *text, size_t len)
{
    struct model_work *w = NULL;
    tn_encoding *e = NULL;
    tn_err err;

    if (tn_encoding_new(&e, &err) != TN_OK)
        return;
    if (m->type->work_new(m, &w, &err) == TN_OK) {
        struct sink s = {e, NULL, len, 0};
        m->type->encode(m, w, text, len, &s, &err);
        m->type->work_free(w);
    }
    tn_encoding_free(e);
}

/* Text that an importer wrote must parse: it never writes what the loader takes for a damaged file. */
static inline void fuzz_load(struct strbuf *json, bool bytes)
{
    static const char sample[] = "a  ab \xe2\x96\x81\xef\xac\x83 <tool> e\xcc\x81\xf0\x9f\x98\x80";
    struct model_hints hints = {bytes};
    struct normalize_work w = {0};
    struct normalizer *n = NULL;
    struct nstr in = {0}, out = {0};
    struct model *m = NULL;
    size_t len = json->len;
    struct tape t;
    tn_err err;

    if (tape_parse(strbuf_detach(json), len, "fuzz", &t, &err) != TN_OK)
        abort();
    if (normalizer_load(&t, tape_get(&t, 0, "normalizer"), &n, &err) == TN_OK &&
        regex_scratch_new(&w.regex, &err) == TN_OK) {
        nstr_put_input(&in, sample, sizeof sample - 1, 0);
        if (normalizer_apply(n, &w, (struct nview){in.text, in.align, in.len}, 0, &out, &err) ==
                TN_OK &&
            !utf8_valid(out.text ? out.text : "", out.len))
            abort();
    }
    if (model_load(&t, tape_get(&t, 0, "model"), &hints, &m, &err) == TN_OK) {
        fuzz_encode(m, sample, sizeof sample - 1);
        if (out.len > 0)
            fuzz_encode(m, out.text, out.len);
    }
    model_free(m);
    regex_scratch_free(w.regex);
    normalize_work_release(&w);
    normalizer_free(n);
    nstr_release(&in);
    nstr_release(&out);
    tape_release(&t);
}

#endif
