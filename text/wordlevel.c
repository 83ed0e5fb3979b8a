/* SPDX-License-Identifier: Apache-2.0 */
/* The WordLevel model: each piece is a token of the vocabulary or the unknown one. Immutable once loaded, any thread. */
#include "base/mem.h"
#include "model.h"

struct wordlevel {
    struct model base;
    uint32_t unk;   /* VOCAB_NONE: not in the vocabulary */
    char *unk_text; /* owned */
    size_t unk_len;
};

static void wordlevel_free(struct model *model)
{
    struct wordlevel *m = (struct wordlevel *)model;

    vocab_release(&m->base.vocab);
    mem_free(m->unk_text);
    mem_free(m);
}

static int32_t wordlevel_load(const struct tape *t, uint32_t node, const struct model_hints *hints,
                              struct model **out, tn_err *err)
{
    struct wordlevel *m = mem_zalloc(sizeof *m);
    const char *unk;
    int32_t rc;

    (void)hints;
    if (!m)
        return err_nomem(err, "a vocabulary");
    m->base.type = &model_wordlevel;
    rc = tape_need_str(t, node, "unk_token", &unk, &m->unk_len, err);
    if (rc == TN_OK)
        rc = vocab_load_object(&m->base.vocab, t, node, false, err);
    if (rc == TN_OK && !(m->unk_text = mem_copy(unk, m->unk_len)))
        rc = err_nomem(err, "a vocabulary");
    if (rc != TN_OK) {
        wordlevel_free(&m->base);
        return rc;
    }
    m->unk = vocab_key(&m->base.vocab, unk, m->unk_len);
    *out = &m->base;
    return TN_OK;
}

static bool wordlevel_fits(const struct tape *t, uint32_t node)
{
    return tape_is(t, tape_get(t, node, "vocab"), TAPE_OBJECT) &&
           tape_get(t, node, "unk_token") != TAPE_NONE;
}

static int32_t no_work_new(const struct model *m, struct model_work **out, tn_err *err)
{
    (void)m, (void)err;
    *out = NULL;
    return TN_OK;
}

static void no_work_free(struct model_work *w)
{
    (void)w;
}

static int32_t wordlevel_encode(const struct model *model, struct model_work *w, const char *text,
                                size_t len, const struct sink *s, tn_err *err)
{
    const struct wordlevel *m = (const struct wordlevel *)model;
    uint32_t id = vocab_key(&m->base.vocab, text, len);

    (void)w;
    if (!sink_reserve(s->out, 1))
        return err_nomem(err, "encoding");
    if (id != VOCAB_NONE)
        sink_put(s, id, 0, len, text, len);
    else if (m->unk != VOCAB_NONE)
        sink_put(s, m->unk, 0, len, m->unk_text, m->unk_len);
    else
        return tn_err_set(err, TN_E_FORMAT,
                          "the unknown token is not in the vocabulary, and the text needs it");
    return TN_OK;
}

const struct model_type model_wordlevel = {
    .name = "WordLevel",
    .fits = wordlevel_fits,
    .load = wordlevel_load,
    .free = wordlevel_free,
    .work_new = no_work_new,
    .work_free = no_work_free,
    .encode = wordlevel_encode,
};
