/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and asking tokenizers (tokenizer.h), and the pool of what encoding works with. Threads: see tenon_text.h. */
#include "tokenizer.h"

#include "base/file.h"
#include "base/mem.h"
#include "source.h"
#include "unidata.h"

#define POOL_MAX 64 /* scratches that are kept; each has a cache of words */

/* -- Scratch ------------------------------------------------------------------------------------------------------ */

static void scratch_free(const struct tn_tokenizer *t, struct scratch *s)
{
    if (!s)
        return;
    t->model->type->work_free(s->model);
    regex_scratch_free(s->regex);
    normalize_work_release(&s->normalize);
    pieces_release(&s->pieces);
    nstr_release(&s->spare);
    strbuf_release(&s->clean);
    locator_release(&s->places);
    mem_free(s->matches.items);
    mem_free(s->trusted);
    mem_free(s);
}

static int32_t scratch_new(const struct tn_tokenizer *t, struct scratch **out, tn_err *err)
{
    struct scratch *s = mem_zalloc(sizeof *s);
    int32_t rc = s ? TN_OK : err_nomem(err, "encoding");

    if (rc == TN_OK)
        rc = t->model->type->work_new(t->model, &s->model, err);
    if (rc == TN_OK)
        rc = regex_scratch_new(&s->regex, err);
    if (rc != TN_OK) {
        scratch_free(t, s);
        return rc;
    }
    s->normalize.regex = s->regex;
    *out = s;
    return TN_OK;
}

int32_t scratch_take(struct tn_tokenizer *t, struct scratch **out, tn_err *err)
{
    struct scratch *s;

    pthread_mutex_lock(&t->lock);
    s = t->pool;
    if (s) {
        t->pool = s->next;
        t->pooled--;
    }
    pthread_mutex_unlock(&t->lock);
    *out = s;
    return s ? TN_OK : scratch_new(t, out, err);
}

void scratch_give(struct tn_tokenizer *t, struct scratch *s)
{
    bool keep;

    pthread_mutex_lock(&t->lock);
    keep = t->pooled < POOL_MAX;
    if (keep) {
        s->next = t->pool;
        t->pool = s;
        t->pooled++;
    }
    pthread_mutex_unlock(&t->lock);
    if (!keep)
        scratch_free(t, s);
}

/* -- Opening ------------------------------------------------------------------------------------------------------ */

void tn_tokenizer_close(tn_tokenizer *t)
{
    if (!t)
        return;
    while (t->pool) {
        struct scratch *s = t->pool;
        t->pool = s->next;
        scratch_free(t, s);
    }
    model_free(t->model);
    added_release(&t->added);
    normalizer_free(t->normalizer);
    pretok_release(&t->pretok);
    postproc_release(&t->postproc);
    decoder_release(&t->decoder);
    settings_release(&t->settings);
    pthread_mutex_destroy(&t->lock);
    mem_free(t);
}

static int32_t load(struct tn_tokenizer *t, const struct tape *json, const char *dir, tn_err *err)
{
    int32_t rc = tokenizer_load(t, json, err);

    if (rc != TN_OK) {
        if (err && !err->file[0])
            err_file(err, json->file);
        return rc;
    }
    return dir ? settings_read(dir, &t->settings, err) : TN_OK;
}

int32_t tokenizer_open_text(char *json, size_t len, const char *file, const char *dir,
                            tn_tokenizer **out, tn_err *err)
{
    struct tn_tokenizer *t = mem_zalloc(sizeof *t);
    struct tape tape = {NULL, NULL, 0, 0, NULL};
    int32_t rc;

    if (!t || pthread_mutex_init(&t->lock, NULL) != 0) {
        mem_free(t);
        mem_free(json);
        return err_nomem(err, "a tokenizer");
    }
    uni_init();
    rc = tape_parse(json, len, file, &tape, err);
    if (rc == TN_OK)
        rc = load(t, &tape, dir, err);
    tape_release(&tape);
    if (rc != TN_OK) {
        tn_tokenizer_close(t);
        return rc;
    }
    *out = t;
    return TN_OK;
}

int32_t tn_tokenizer_open(const char *path, tn_tokenizer **out, tn_err *err)
{
    struct source from = {NULL, NULL};
    char *text = NULL;
    size_t len = 0;
    int32_t rc = source_find(path, &from, err);

    if (rc == TN_OK)
        rc = source_read(&from, &text, &len, err);
    if (rc == TN_OK)
        rc = tokenizer_open_text(text, len, from.file, from.dir, out, err);
    source_release(&from);
    return rc;
}

/* -- Asking ------------------------------------------------------------------------------------------------------- */

uint32_t tn_tokenizer_vocab_size(const tn_tokenizer *t)
{
    return t->vocab_size;
}

int32_t tn_tokenizer_token_to_id(const tn_tokenizer *t, const char *text, size_t len, uint32_t *id)
{
    const struct added_token *a = added_find(&t->added, text, len);
    uint32_t found = a ? a->id : vocab_find(&t->model->vocab, text, len);

    if (found == VOCAB_NONE)
        return TN_E_NOTFOUND;
    *id = found;
    return TN_OK;
}

int32_t tn_tokenizer_id_to_token(const tn_tokenizer *t, uint32_t id, const char **text, size_t *len)
{
    const struct added_token *a = added_by_id(&t->added, id);

    if (a) {
        *text = a->content;
        *len = a->len;
        return TN_OK;
    }
    return vocab_text(&t->model->vocab, id, text, len) ? TN_OK : TN_E_NOTFOUND;
}

int tn_tokenizer_is_special(const tn_tokenizer *t, uint32_t id)
{
    const struct added_token *a = added_by_id(&t->added, id);

    return a && a->special;
}

bool tokenizer_text(const struct tn_tokenizer *t, uint32_t id, const char **text, size_t *len,
                    bool *special)
{
    const struct added_token *a = added_by_id(&t->added, id), *same;

    *special = false;
    if (!a)
        return vocab_text(&t->model->vocab, id, text, len);
    *text = added_text(a, len);
    /* The reference asks whether the text that it decodes is a special token's. */
    same = a->pattern ? added_find(&t->added, *text, *len) : a;
    *special = same && same->special;
    return true;
}

const char *tn_tokenizer_role_text(const tn_tokenizer *t, const char *role)
{
    const struct named_text *r = named_find(&t->settings.roles, role);

    return r ? r->text : NULL;
}

int32_t tn_tokenizer_role_id(const tn_tokenizer *t, const char *role, uint32_t *id)
{
    const struct named_text *r = named_find(&t->settings.roles, role);

    return r ? tn_tokenizer_token_to_id(t, r->text, r->len, id) : TN_E_NOTFOUND;
}

int tn_tokenizer_setting(const tn_tokenizer *t, const char *name)
{
    for (size_t i = 0; i < t->settings.flag_count; i++)
        if (strcmp(t->settings.flags[i].name, name) == 0)
            return t->settings.flags[i].on;
    return -1;
}

uint32_t tn_tokenizer_decode_flags(const tn_tokenizer *t)
{
    return t->model->type != &model_bpe &&
                   tn_tokenizer_setting(t, "clean_up_tokenization_spaces") == 1
               ? TN_DECODE_CLEAN_UP
               : 0;
}

size_t tn_tokenizer_template_count(const tn_tokenizer *t)
{
    return t->settings.templates.count;
}

const char *tn_tokenizer_template(const tn_tokenizer *t, const char *name, size_t *len)
{
    const struct named_text *x = named_find(&t->settings.templates, name ? name : "default");

    if (!x)
        return NULL;
    if (len)
        *len = x->len;
    return x->text;
}

const char *tn_tokenizer_template_name(const tn_tokenizer *t, size_t i)
{
    return i < t->settings.templates.count ? t->settings.templates.items[i].name : NULL;
}
