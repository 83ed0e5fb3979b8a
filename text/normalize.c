/* SPDX-License-Identifier: Apache-2.0 */
/* Chains of normalizers (normalize.h). Loading and freeing belong to one thread, applying to any, each with its work. */
#include "normalize.h"

#include "base/mem.h"
#include "normalize_types.h"
#include "steps.h"

static const struct normalize_type *const types[] = {
    &normalize_NFC,           &normalize_NFD,           &normalize_NFKC,
    &normalize_NFKD,          &normalize_lowercase,     &normalize_strip,
    &normalize_strip_accents, &normalize_replace,       &normalize_prepend,
    &normalize_precompiled,   &normalize_bert,          &normalize_nmt,
    &normalize_byte_level,    &normalize_sentencepiece, NULL};

int32_t normalize_load_nothing(struct normalize_step *s, const struct tape *t, uint32_t node,
                               tn_err *err)
{
    (void)t, (void)node, (void)err;
    s->state = NULL;
    return TN_OK;
}

void normalize_release_state(struct normalize_step *s)
{
    mem_free(s->state);
    s->state = NULL;
}

void normalize_work_release(struct normalize_work *w)
{
    nstr_release(&w->a);
    nstr_release(&w->b);
    nstr_release(&w->spare);
    w->regex = NULL;
}

static int32_t take_step(void *arg, const struct tape *t, uint32_t node, uint32_t type, tn_err *err)
{
    struct normalizer *n = arg;
    struct normalize_step *s = &n->steps[n->count];

    for (size_t i = 0; types[i]; i++) {
        if (tape_eq(t, type, types[i]->name)) {
            int32_t rc;
            *s = (struct normalize_step){types[i], NULL};
            rc = types[i]->load(s, t, node, err);
            n->count += rc == TN_OK;
            return rc;
        }
    }
    return steps_unknown(t, type, "normalizer", err);
}

int32_t normalizer_load(const struct tape *t, uint32_t node, struct normalizer **out, tn_err *err)
{
    struct normalizer *n;
    int32_t rc;

    if (node == TAPE_NONE) {
        *out = NULL;
        return TN_OK;
    }
    n = mem_zalloc(sizeof *n);
    if (!n)
        return err_nomem(err, "a normalizer");
    rc = steps_each(t, node, "normalizer", "normalizers", take_step, n, err);
    if (rc != TN_OK) {
        normalizer_free(n);
        return rc;
    }
    *out = n;
    return TN_OK;
}

void normalizer_free(struct normalizer *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->count; i++)
        if (n->steps[i].type->release)
            n->steps[i].type->release(&n->steps[i]);
    mem_free(n);
}

bool normalizer_keeps(const struct normalizer *n, const char *text, size_t len)
{
    for (size_t i = 0; n && i < n->count; i++)
        if (!n->steps[i].type->keeps || !n->steps[i].type->keeps(&n->steps[i], text, len))
            return false;
    return true;
}

int32_t normalizer_apply(const struct normalizer *n, struct normalize_work *w, struct nview in,
                         uint32_t shift, struct nstr *out, tn_err *err)
{
    struct nstr *to = out;
    int32_t rc = TN_OK;

    for (size_t i = 0; rc == TN_OK && n && i < n->count; i++) {
        const struct normalize_step *s = &n->steps[i];
        to = i + 1 == n->count ? out : i % 2 == 0 ? &w->a : &w->b;
        if (to != out)
            nstr_clear(to);
        rc = s->type->apply(s, w, in, shift, to, err);
        if (rc == TN_OK && to->failed)
            rc = tn_err_set(err, to->len > LIMIT_WORK_BYTES / 2 ? TN_E_LIMIT : TN_E_NOMEM,
                            "the text does not fit in memory while it is normalized");
        in = (struct nview){to->text, to->align, to->len};
    }
    if (rc == TN_OK && (!n || n->count == 0)) {
        nstr_put(out, in.text, in.align, in.len);
        rc = out->failed ? err_nomem(err, "normalizing") : TN_OK;
    }
    return rc;
}
